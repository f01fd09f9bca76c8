//! What a call costs: buttress and others side by side, in one run.
//!
//! ```sh
//! cargo run --release -p buttress-benches --bin overhead
//! cargo run --release -p buttress-benches --bin overhead -- --json
//! cargo run --release -p buttress-benches --bin overhead -- --quick happy/
//! ```
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod functions;
mod measure;
mod ours;
mod report;
mod resilience;
mod sink;
mod threads;
mod towers;
mod traced;

use std::{cell::OnceCell, process::ExitCode, rc::Rc};

use self::measure::Case;

const HELP: &str = "\
Usage: overhead [--json] [--quick] [FILTER]

  --json    one JSON object per row
  --quick   fewer calls and rounds: what runs, not how fast
  FILTER    only cases whose group/name holds this text";

fn main() -> ExitCode {
    let (mut json, mut quick, mut filter) = (false, false, None);
    for argument in std::env::args().skip(1) {
        match &*argument {
            "--json" => json = true,
            "--quick" => quick = true,
            sink::ARGUMENT => return sink::run(),
            "--help" | "-h" => {
                println!("{HELP}");
                return ExitCode::SUCCESS;
            }
            unknown if unknown.starts_with('-') || filter.is_some() => {
                eprintln!("{HELP}");
                return ExitCode::from(2);
            }
            _ => filter = Some(argument),
        }
    }
    // Timers of others are made in the context of a runtime.
    let runtime = runtime();
    let _entered = runtime.enter();
    let chosen = |cases: Vec<Case>| -> Vec<Case> {
        cases.into_iter().filter(|case| case.matches(filter.as_deref())).collect()
    };
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
    if json {
        rows.iter().for_each(|row| println!("{}", row.to_json()));
    } else {
        print!("{}", report::table(&rows));
    }
    ExitCode::SUCCESS
}

fn cases() -> Vec<Case> {
    let groups = [
        (ours::happy(), towers::happy(), resilience::happy(), functions::happy()),
        (ours::open(), Vec::new(), resilience::open(), functions::open()),
        (
            ours::retry_once(),
            towers::retry_once(),
            resilience::retry_once(),
            functions::retry_once(),
        ),
        (ours::fallback_once(), Vec::new(), resilience::fallback_once(), Vec::new()),
        (
            ours::timeout_pending(),
            towers::timeout_pending(),
            resilience::timeout_pending(),
            Vec::new(),
        ),
        (ours::contention(), Vec::new(), resilience::contention(), functions::contention()),
        (ours::window(), Vec::new(), resilience::window(), Vec::new()),
        (ours::prompt_8k(), towers::prompt_8k(), resilience::prompt_8k(), Vec::new()),
    ];
    let groups = groups.into_iter();
    groups.flat_map(|(a, b, c, d)| a.into_iter().chain(b).chain(c).chain(d)).collect()
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
