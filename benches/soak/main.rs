//! A server under steady load for minutes: what buttress adds to its latency, what grows, what is
//! lost.
//!
//! ```sh
//! cargo run --release -p buttress-benches --bin soak -- --minutes 2 --rps 500
//! cargo run --release -p buttress-benches --bin soak -- --minutes 2 --rps 500 --json
//! cargo run --release -p buttress-benches --bin soak -- --quick
//! ```
//!
//! This process serves one agent on two routes, bare and behind the whole stack with delivery to
//! Langfuse on. The load and Langfuse are processes of their own (`load.rs`, `receiver.rs`), so
//! that memory, descriptors and tasks are the server's.
#![expect(clippy::print_stderr, reason = "a program for the terminal")]

mod agent;
mod args;
mod checks;
mod helper;
mod load;
mod pace;
mod receiver;
mod report;
mod run;
mod server;
mod watch;

use std::process::ExitCode;

use buttress_benches::out;

use self::args::{Command, Format};

const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let command = match Command::parse(std::env::args().skip(1)) {
        Ok(command) => command,
        Err(sentence) => {
            eprint!("error: {sentence}\n\n{}", args::HELP);
            return ExitCode::from(2);
        }
    };
    let result = match command {
        Command::Help => Ok(out::end(args::HELP, ExitCode::SUCCESS)),
        Command::Load(plan) => {
            load::run(&plan).map(|loaded| out::end(&(loaded + "\n"), ExitCode::SUCCESS))
        }
        Command::Receive { delay } => receiver::run(delay).map(|()| ExitCode::SUCCESS),
        Command::Soak(plan, format) => run::run(&plan).map(|outcome| {
            let text = match format {
                Format::Json => format!("{}\n", report::json(&plan, &outcome)),
                Format::Table => report::table(&plan, &outcome),
            };
            let code = match (outcome.interrupted, outcome.holds()) {
                (true, _) => ExitCode::from(INTERRUPTED),
                (false, true) => ExitCode::SUCCESS,
                (false, false) => ExitCode::FAILURE,
            };
            out::end(&text, code)
        }),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}
