//! What a call costs: buttress and others side by side, in one run.
//!
//! ```sh
//! cargo run --release -p buttress-benches --bin overhead
//! cargo run --release -p buttress-benches --bin overhead -- --json
//! cargo run --release -p buttress-benches --bin overhead -- --quick happy/
//! ```
#![expect(clippy::print_stderr, reason = "a program for the terminal")]

mod bare;
mod functions;
mod ours;
mod prompts;
mod report;
mod resilience;
mod threads;
mod towers;
mod traced;

use std::{cell::OnceCell, process::ExitCode, rc::Rc};

use buttress_benches::{
    measure::{self, Case},
    out, sink,
};

const HELP: &str = "\
Usage: overhead [--json] [--quick] [FILTER]

  --json    one JSON object per row
  --quick   fewer calls and rounds: what runs, not how fast
  FILTER    only cases whose group/name holds this text, and the bare case of their groups
";

fn main() -> ExitCode {
    let (mut json, mut quick, mut filter) = (false, false, None);
    for argument in std::env::args().skip(1) {
        match &*argument {
            "--json" => json = true,
            "--quick" => quick = true,
            sink::ARGUMENT => return sink::run(),
            "--help" | "-h" => {
                return out::end(HELP, ExitCode::SUCCESS);
            }
            unknown if unknown.starts_with('-') || filter.is_some() => {
                eprint!("{HELP}");
                return ExitCode::from(2);
            }
            _ => filter = Some(argument),
        }
    }
    // Timers of others are made in the context of a runtime.
    let runtime = runtime();
    let _entered = runtime.enter();
    let chosen = |cases| chosen(cases, filter.as_deref());
    let measured = |cases: Vec<Case>| {
        if quick { measure::measure(cases, 3, 0.01) } else { measure::measure(cases, 15, 1.0) }
    };
    let mut rows = measured(chosen(cases()));
    // Made and measured last: a subscriber raises the highest level of the whole process, above
    // which every callsite is a single comparison, and delivery has a thread of its own.
    let traced = traced::Traced::start();
    rows.extend(measured(chosen(traced.cases())));
    if rows.is_empty() {
        eprintln!("no case is named so");
        return ExitCode::from(2);
    }
    if rows.iter().any(|row| row.group == traced::GROUP) {
        eprintln!("{}", traced.delivered());
    }
    let text = if json {
        rows.iter().map(|row| row.to_json().to_string() + "\n").collect()
    } else {
        report::table(&rows)
    };
    out::end(&text, ExitCode::SUCCESS)
}

/// Takes the cases that a filter names, and what they are compared with.
fn chosen(cases: Vec<Case>, filter: Option<&str>) -> Vec<Case> {
    let named = cases.iter().filter(|case| case.matches(filter));
    let groups: Vec<&str> = named.map(|case| case.group).collect();
    let is_chosen =
        |case: &Case| case.matches(filter) || case.is_bare() && groups.contains(&case.group);
    cases.into_iter().filter(is_chosen).collect()
}

fn cases() -> Vec<Case> {
    let groups = [
        vec![
            bare::happy(),
            ours::happy(),
            towers::happy(),
            resilience::happy(),
            functions::happy(),
        ],
        vec![bare::open(), ours::open(), resilience::open(), functions::open()],
        vec![
            bare::retry_once(),
            ours::retry_once(),
            towers::retry_once(),
            resilience::retry_once(),
            functions::retry_once(),
        ],
        vec![bare::fallback_once(), ours::fallback_once(), resilience::fallback_once()],
        vec![
            bare::timeout_pending(),
            ours::timeout_pending(),
            towers::timeout_pending(),
            resilience::timeout_pending(),
        ],
        vec![
            bare::contention(),
            ours::contention(),
            resilience::contention(),
            functions::contention(),
        ],
        vec![bare::window(), ours::window(), resilience::window(), functions::window()],
        vec![
            bare::prompt_8k(),
            ours::prompt_8k(),
            towers::prompt_8k(),
            resilience::prompt_8k(),
            functions::prompt_8k(),
        ],
    ];
    groups.into_iter().flatten().flatten().collect()
}

/// Returns the runtime that every case shares.
fn runtime() -> Rc<tokio::runtime::Runtime> {
    thread_local! {
        static RUNTIME: OnceCell<Rc<tokio::runtime::Runtime>> = const { OnceCell::new() };
    }
    RUNTIME.with(|cell| {
        Rc::clone(cell.get_or_init(|| {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            Rc::new(builder.enable_time().build().expect("a runtime needs no more than a thread"))
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_a_bare_case_and_a_filter_keeps_it() {
        let _entered = runtime().enter();
        let all = cases();
        let groups: Vec<&str> = all.iter().map(|case| case.group).collect();
        for group in groups {
            assert_eq!(all.iter().filter(|case| case.group == group && case.is_bare()).count(), 1);
        }
        let chosen = chosen(all, Some("open/buttress/circuit_breaker_forced"));
        assert_eq!(chosen.len(), 2);
        assert!(chosen[0].is_bare() && chosen.iter().all(|case| case.group == "open"));
    }
}
