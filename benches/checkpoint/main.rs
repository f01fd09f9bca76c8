//! What a durable put costs, for each store, beside the bare calls of the system it stands on.
//!
//! ```sh
//! cargo bench -p buttress-benches --bench checkpoint
//! cargo bench -p buttress-benches --bench checkpoint -- --json
//! cargo bench -p buttress-benches --bench checkpoint -- --quick
//! ```
//!
//! Latencies are taken round-robin, a put of each store in turn, so that noise falls on all; puts
//! per second are taken from each store alone. Files are in the temporary folder: `TMPDIR` chooses
//! the disk.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod bare;
mod cases;
mod measure;

use std::process::ExitCode;

use self::measure::Effort;

const HELP: &str = "\
Usage: checkpoint [--json] [--quick]

  --json    one JSON object per row
  --quick   few puts: what runs, not how fast";

fn main() -> ExitCode {
    let (mut json, mut effort) = (false, Effort::Full);
    for argument in std::env::args().skip(1) {
        match &*argument {
            "--json" => json = true,
            "--quick" => effort = Effort::Quick,
            // What `cargo bench` adds.
            "--bench" => {}
            "--help" | "-h" => {
                println!("{HELP}");
                return ExitCode::SUCCESS;
            }
            _ => {
                eprintln!("{HELP}");
                return ExitCode::from(2);
            }
        }
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let rows = runtime.block_on(measure::rows(effort));
    if json {
        rows.iter().for_each(|row| println!("{}", row.to_json()));
    } else {
        print!("{}", measure::table(&rows));
    }
    ExitCode::SUCCESS
}
