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
                "\n{group}\n  {:<52} {:>12} {:>12} {:>8} {:>9} {:>8}",
                "case", "ns min", "ns median", "allocs", "bytes", "x bare"
            );
        }
        let vs_bare = row.vs_bare.map(|ratio| format!("{ratio:.1}")).unwrap_or_default();
        _ = writeln!(
            text,
            "  {:<52} {:>12.1} {:>12.1} {:>8.2} {:>9.0} {:>8}",
            row.case, row.ns_min, row.ns_median, row.allocs, row.bytes, vs_bare
        );
    }
    text
}
