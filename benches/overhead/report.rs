//! The table for people.

use std::fmt::Write as _;

use buttress_benches::measure::Row;

pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut group = "";
    for row in rows {
        if row.group != group {
            group = row.group;
            _ = writeln!(
                text,
                "\n{group}\n  {:<52} {:>12} {:>12} {:>8} {:>9} {:>8}{}",
                "case",
                "ns min",
                "ns median",
                "allocs",
                "bytes",
                "x bare",
                if row.spans.is_some() { "  spans   ns/span       cpu ns" } else { "" }
            );
        }
        let vs_bare = row.vs_bare.map(|ratio| format!("{ratio:.1}")).unwrap_or_default();
        let or_none = |figure: Option<f64>| figure.map_or("-".to_owned(), |ns| format!("{ns:.1}"));
        let spans = row.spans.map(|spans| {
            format!(" {spans:>6} {:>9} {:>12}", or_none(row.per_span()), or_none(row.cpu_ns))
        });
        let spans = spans.unwrap_or_default();
        _ = writeln!(
            text,
            "  {:<52} {:>12.1} {:>12.1} {:>8.2} {:>9.0} {:>8}{spans}",
            row.case, row.ns_min, row.ns_median, row.allocs, row.bytes, vs_bare
        );
    }
    text
}
