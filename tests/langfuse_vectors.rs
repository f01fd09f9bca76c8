//! Proves the test server against requests that the real Langfuse answered.
//!
//! `cases/langfuse/NN-name.in.json` is a request in OTLP/JSON, `NN-name.out.json` what the code of
//! the real server makes of it. Another folder of such files runs with `BUTTRESS_CASES`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "the count of vectors is part of the proof")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use buttress_tests::langfuse_server::js::{Js, Object};
use buttress_tests::langfuse_server::mapping::{self, Sender};
use buttress_tests::langfuse_server::otlp;

/// The folder with the vectors: `BUTTRESS_CASES` or a folder `langfuse` in it, else our own.
fn folder() -> PathBuf {
    let root = std::env::var_os("BUTTRESS_CASES")
        .map_or_else(|| buttress_tests::package().join("cases"), PathBuf::from);
    let nested = root.join("langfuse");
    if nested.is_dir() { nested } else { root }
}

fn requests(folder: &Path) -> Vec<PathBuf> {
    let entries =
        std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut requests: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_str().is_some_and(|path| path.ends_with(".in.json")))
        .collect();
    requests.sort();
    requests
}

fn read(path: &Path) -> Js {
    let text =
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Js::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().trim_end_matches(".in.json").to_owned()
}

/// Lists the places where two values differ. The order of keys does not count.
fn compare(path: &str, expected: &Js, actual: &Js, differences: &mut Vec<String>) {
    match (expected, actual) {
        (Js::Obj(expected), Js::Obj(actual)) => {
            for (key, value) in expected.iter() {
                compare(&format!("{path}.{key}"), value, actual.get(key), differences);
            }
            for (key, value) in actual.iter().filter(|(key, _)| !expected.has(key)) {
                compare(&format!("{path}.{key}"), &Js::Undefined, value, differences);
            }
        }
        (Js::Arr(expected), Js::Arr(actual)) => {
            for index in 0..expected.len().max(actual.len()) {
                let at = |items: &[Js]| items.get(index).cloned().unwrap_or_default();
                compare(&format!("{path}[{index}]"), &at(expected), &at(actual), differences);
            }
        }
        _ if expected == actual => {}
        _ => differences.push(format!(
            "{path}: the real server has {}, ours {}",
            short(expected),
            short(actual)
        )),
    }
}

fn short(value: &Js) -> String {
    let text = value.to_string();
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}

/// Asserts that no vector differs, and says how many ran.
fn report(what: &str, ran: usize, failures: &[(String, Vec<String>)]) {
    println!("{what}: {ran} vectors ran, {} differ", failures.len());
    let mut message = String::new();
    for (name, differences) in failures {
        writeln!(message, "{name}").unwrap();
        for difference in differences {
            writeln!(message, "    {difference}").unwrap();
        }
    }
    assert!(failures.is_empty(), "{} of {ran} vectors differ\n{message}", failures.len());
    assert!(ran > 0, "no vectors in {}", folder().display());
}

fn check_all(what: &str, check: impl Fn(&Js, &Js, &mut Vec<String>)) {
    let mut failures = Vec::new();
    let requests = requests(&folder());
    for path in &requests {
        let name = name(path);
        let answer = read(&path.with_file_name(format!("{name}.out.json")));
        let mut differences = Vec::new();
        check(read(path).get("resourceSpans"), &answer, &mut differences);
        if !differences.is_empty() {
            failures.push((name, differences));
        }
    }
    report(what, requests.len(), &failures);
}

#[test]
fn requests_are_accepted_and_refused_as_by_the_real_server() {
    check_all("acceptance", |resource_spans, answer, differences| {
        let expected = *answer.get("endpointAccepts") == Js::Bool(true);
        let actual = otlp::check(resource_spans);
        if expected != actual.is_ok() {
            let expected = answer.get("endpointAccepts");
            differences.push(format!("the real server: {expected}, ours: {actual:?}"));
        }
    });
}

#[test]
fn spans_become_the_rows_of_the_real_server() {
    check_all("rows", |resource_spans, answer, differences| {
        let expected = answer.get("directEvents");
        let actual = mapping::events(resource_spans, &Sender::new("p1", "pk-lf-1"));
        match (expected.as_array(), actual) {
            (Some(_), Ok(actual)) => {
                let actual = Js::Arr(actual.into_iter().map(Js::Obj).collect());
                compare("directEvents", expected, &actual, differences);
            }
            (Some(rows), Err(error)) if !rows.is_empty() => {
                differences.push(format!("the real server made rows, ours failed: {error}"));
            }
            // The real server's worker gave up on such a batch.
            (None, Ok(actual)) if !actual.is_empty() && otlp::check(resource_spans).is_ok() => {
                let expected = short(expected);
                differences.push(format!("the real server has {expected}, ours made rows"));
            }
            (Some(_) | None, _) => {}
        }
    });
}

/// A comparison that finds nothing would prove nothing.
#[test]
fn a_difference_is_found_wherever_it_is() {
    let mut expected = Object::new();
    expected.define("list", Js::Arr(vec![Js::Num(1.0), Js::Null]));
    expected.define("text", "a".into());
    let differences = |actual: &str| {
        let mut found = Vec::new();
        compare("row", &Js::Obj(expected.clone()), &Js::parse(actual).unwrap(), &mut found);
        found.len()
    };
    assert_eq!(differences(r#"{"text":"a","list":[1,null]}"#), 0);
    assert_eq!(differences(r#"{"text":"b","list":[1,null]}"#), 1);
    assert_eq!(differences(r#"{"text":"a","list":[1]}"#), 1);
    assert_eq!(differences(r#"{"text":"a","list":[1,null],"more":1}"#), 1);
    assert_eq!(differences(r#"{"list":["1",null]}"#), 2);
}
