//! The table for people.

use std::fmt::Write as _;

use crate::measure::Row;

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
                if row.spans.is_some() { "  spans   ns/span" } else { "" }
            );
        }
        let vs_bare = row.vs_bare.map(|ratio| format!("{ratio:.1}")).unwrap_or_default();
        let spans = match (row.spans, row.per_span()) {
            (Some(spans), Some(per_span)) => format!(" {spans:>6} {per_span:>9.1}"),
            _ => String::new(),
        };
        _ = writeln!(
            text,
            "  {:<52} {:>12.1} {:>12.1} {:>8.2} {:>9.0} {:>8}{spans}",
            row.case, row.ns_min, row.ns_median, row.allocs, row.bytes, vs_bare
        );
    }
    text
}
