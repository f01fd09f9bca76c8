//! How cost grows with the work: keys of a keyed breaker, layers, fallbacks, spans of a trace.
//!
//! ```sh
//! cargo run --release -p buttress-benches --bin scale
//! cargo run --release -p buttress-benches --bin scale -- --json
//! cargo run --release -p buttress-benches --bin scale -- --quick
//! ```
#![expect(clippy::print_stderr, reason = "a program for the terminal")]

mod fallbacks;
mod keys;
mod layers;
mod measure;
mod spans;

use std::process::ExitCode;

use buttress_benches::out;

use self::measure::{Effort, Table};

const HELP: &str = "\
Usage: scale [--json] [--quick]

  --json    one JSON object per row
  --quick   small numbers only: what runs, not how it grows
";

fn main() -> ExitCode {
    let (mut json, mut effort) = (false, Effort::Full);
    for argument in std::env::args().skip(1) {
        match &*argument {
            "--json" => json = true,
            "--quick" => effort = Effort::Quick,
            "--help" | "-h" => {
                return out::end(HELP, ExitCode::SUCCESS);
            }
            _ => {
                eprint!("{HELP}");
                return ExitCode::from(2);
            }
        }
    }
    let axes: [fn(Effort) -> Table; 4] =
        [keys::table, layers::table, fallbacks::table, spans::table];
    for axis in axes {
        let table = axis(effort);
        let text = if json {
            table.rows().map(|row| format!("{row}\n")).collect()
        } else {
            format!("{table}\n")
        };
        match out::say(&text) {
            Ok(true) => (),
            Ok(false) => break,
            Err(error) => return out::failed(&error),
        }
    }
    ExitCode::SUCCESS
}
