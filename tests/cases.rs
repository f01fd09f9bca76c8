//! Runs every case of `breaker-cases.json` and `retry-cases.json` through the layers' public API.
//!
//! The files are read from `tests/cases/`, or from the folder that `BUTTRESS_CASES` names. A field
//! or operation that is not understood fails the test; nothing is skipped.

use std::path::PathBuf;

use buttress_tests::{breaker_cases, retry_cases};
use serde_json::Value;

fn read(name: &str) -> Value {
    let folder = std::env::var_os("BUTTRESS_CASES")
        .map_or_else(|| buttress_tests::package().join("cases"), PathBuf::from);
    let file = folder.join(name);
    let text = std::fs::read_to_string(&file)
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()));
    serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{} is not JSON: {error}", file.display()))
}

#[expect(clippy::print_stdout, reason = "the number of cases is part of the result")]
fn report(name: &str, ran: usize, cases: &Value) {
    println!("{name}: {ran} cases ran");
    assert!(ran > 0, "{name} has no cases");
    assert_eq!(Some(ran), cases["cases"].as_array().map(Vec::len), "{name}: some case did not run");
}

#[tokio::test(start_paused = true)]
async fn every_breaker_case_holds() {
    let cases = read("breaker-cases.json");
    report("breaker-cases.json", breaker_cases::run(&cases).await, &cases);
}

#[tokio::test(start_paused = true)]
async fn every_retry_case_holds() {
    let cases = read("retry-cases.json");
    report("retry-cases.json", retry_cases::run(&cases).await, &cases);
}
