//! The table of cases by stores in `CONFORMANCE.md`, which each store's test compares with what it
//! has seen.
//!
//! `BUTTRESS_BLESS=1 cargo nextest run -p buttress-stores --all-features -j 1 promise` writes it
//! anew.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{fs, path::Path};

use buttress_stores::conformance::{CASES, Outcome, Report, Verdict};

/// The columns behind those of the case.
const STORES: [&str; 6] = ["memory", "file", "SQLite", "Postgres", "Redis", "object store"];
const CASE_COLUMNS: usize = 3;

/// Compares the column of a store with what its test has seen.
pub(crate) fn compare(store: &str, report: &Report) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("CONFORMANCE.md");
    let column = CASE_COLUMNS + STORES.iter().position(|name| *name == store).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let (before, table) = text.split_once("| # |").unwrap();
    let mut rows: Vec<Vec<String>> = table.lines().skip(2).map(cells).collect();
    rows.resize(CASES.len(), vec![String::new(); CASE_COLUMNS + STORES.len()]);
    let seen: Vec<_> = report.outcomes().iter().map(word).collect();
    let said: Vec<_> = rows.iter().map(|row| row[column].clone()).collect();
    if std::env::var_os("BUTTRESS_BLESS").is_none() {
        let is_different = |(_, (seen, said)): &(_, (&String, &String))| seen != said;
        let pairs = CASES.iter().zip(seen.iter().zip(&said));
        let different: Vec<_> = pairs.filter(is_different).collect();
        assert!(different.is_empty(), "{store}: seen and documented differ: {different:#?}");
        return;
    }
    let mut table = format!("| # | for | case | {} |\n|", STORES.join(" | "));
    table.push_str(&"---|".repeat(CASE_COLUMNS + STORES.len()));
    for ((row, case), word) in rows.iter_mut().zip(CASES).zip(seen) {
        row[0] = case.number.to_string();
        row[1] = case.class.as_str().to_owned();
        row[2] = case.title.to_owned();
        row[column] = word;
        table.push_str(&format!("\n| {} |", row.join(" | ")));
    }
    fs::write(path, format!("{before}{table}\n")).unwrap();
}

fn cells(row: &str) -> Vec<String> {
    let row = row.trim().trim_start_matches('|').trim_end_matches('|');
    row.split('|').map(|cell| cell.trim().to_owned()).collect()
}

fn word(outcome: &Outcome) -> String {
    match &outcome.verdict {
        Verdict::Passed => "passed".to_owned(),
        Verdict::Skipped(_) => "skipped".to_owned(),
        Verdict::Elsewhere("stores have no such operation") => "-".to_owned(),
        Verdict::Elsewhere("the tests of each store") => "own".to_owned(),
        Verdict::Elsewhere(by) => by.rsplit(' ').next().unwrap().to_owned(),
        Verdict::Failed(_) => "FAILED".to_owned(),
        other => panic!("{other:?}"),
    }
}
