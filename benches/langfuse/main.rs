//! What a call costs whose spans go to Langfuse, beside the stock exporter and the SDK for Python.
//!
//! ```sh
//! cargo bench -p buttress-benches --bench langfuse
//! cargo bench -p buttress-benches --bench langfuse -- --json
//! cargo bench -p buttress-benches --bench langfuse -- --short
//! cargo bench -p buttress-benches --bench langfuse -- --no-python
//! ```
//!
//! Cases are taken round-robin, so that noise falls on all. Every case sends to the same server, a
//! process of its own that takes all and is not in any figure. The SDK runs in
//! `benches/python/measure.py`, a process of its own too; pip installs it into a virtual environment
//! under cargo's target folder. The spool is in the temporary folder: `TMPDIR` chooses the disk.
#![expect(clippy::print_stderr, reason = "a program for the terminal")]

mod cases;
mod latencies;
mod listener;
mod report;
mod sdk;

use std::process::ExitCode;

use buttress_benches::{
    measure::measure,
    out,
    python::Install,
    sink::{self, Sink},
};
use tempfile::TempDir;

use self::{listener::Listeners, report::Report, sdk::Sdk};

const HELP: &str = "\
Usage: langfuse [--json] [--short] [--no-python]

  --json        one JSON document
  --short       few calls and rounds: what runs, not how fast; installs nothing
  --no-python   without the SDK for Python
";

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Effort {
    rounds: usize,
    /// Of the calls of a round.
    share: f64,
    /// Calls of which each is timed: those that are answered at once, those that wait.
    timed: [usize; 2],
}

const FULL: Effort = Effort { rounds: 31, share: 1.0, timed: [20_000, 2_000] };
const SHORT: Effort = Effort { rounds: 2, share: 0.1, timed: [400, 200] };

fn main() -> ExitCode {
    let (mut json, mut short, mut with_python) = (false, false, true);
    for argument in std::env::args().skip(1) {
        match &*argument {
            "--json" => json = true,
            "--short" | "--quick" => short = true,
            "--no-python" => with_python = false,
            // What `cargo bench` adds.
            "--bench" => {}
            sink::ARGUMENT => return sink::run(),
            "--help" | "-h" => return out::end(HELP, ExitCode::SUCCESS),
            _ => {
                eprint!("{HELP}");
                return ExitCode::from(2);
            }
        }
    }
    match run(short, with_python) {
        Ok(report) => {
            let text = if json { format!("{:#}\n", report.to_json()) } else { report.table() };
            out::end(&text, ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(short: bool, with_python: bool) -> Result<Report, String> {
    let effort = if short { SHORT } else { FULL };
    let install = if short { Install::Never } else { Install::WhereMissing };
    // Timers of layers are made in the context of a runtime.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(|error| format!("no runtime: {error}"))?;
    let spools = TempDir::new().map_err(|error| format!("no temporary folder: {error}"))?;
    let sink = Sink::start().map_err(|error| format!("no server: {error}"))?;
    let listeners = Listeners::start(&sink.base_url, spools.path())?;
    let sdk = match with_python {
        true => Sdk::start(install, &sink.base_url),
        false => Err("--no-python".to_owned()),
    };
    let (rows, journalled) = {
        let _entered = runtime.enter();
        let rows =
            measure(cases::cases(&listeners, sdk.as_ref().ok()), effort.rounds, effort.share);
        (rows, cases::journalled())
    };
    let latencies = latencies::measure(&runtime, &listeners, effort.timed);
    let delivery = listeners.delivery();
    let versions = sdk.map(|sdk| sdk.versions().clone());
    Ok(Report { rows, journalled, latencies, delivery, versions })
}
