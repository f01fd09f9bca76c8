//! How many instructions a call takes, counted by callgrind and compared with those on record.
//!
//! ```sh
//! bash benches/instructions.sh            # installs what it needs, then counts and compares
//! cargo bench -p buttress-benches --bench instructions
//! cargo bench -p buttress-benches --bench instructions -- --update
//! ```
//!
//! The counts on record are in `benches/instructions.json`. One that is more than 5 % away from
//! them, in either direction, fails; `--update` writes them anew.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the terminal")]

mod cases;
mod record;

use std::{
    env,
    process::{Command, ExitCode, Stdio},
};

use self::record::Record;

/// Set where this program runs as gungraun's, below itself.
const COUNTING: &str = "BUTTRESS_BENCHES_COUNTING";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if env::var_os(COUNTING).is_some() || arguments.first().is_some_and(|a| a == "--gungraun-run") {
        cases::run();
        return ExitCode::SUCCESS;
    }
    // `cargo test` runs every target once, without `--bench`; counting is no test.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let is_unknown = |argument: &&String| *argument != "--bench" && *argument != "--update";
    if let Some(unknown) = arguments.iter().find(is_unknown) {
        eprintln!("{unknown} is not known; the one argument there is: --update");
        return ExitCode::from(2);
    }
    let update = arguments.iter().any(|argument| argument == "--update");
    match count().and_then(|counted| compare(&counted, update)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the cases; returns how many instructions one call of each takes.
fn count() -> Result<Record, String> {
    let program = env::current_exe().map_err(|error| format!("cannot find myself: {error}"))?;
    let output = Command::new(program)
        .args(["--bench", "--output-format=json"])
        .env(COUNTING, "1")
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run myself: {error}"))?;
    if !output.status.success() {
        return Err(format!("counting failed ({}); see benches/README.md", output.status));
    }
    Record::of_gungraun(&String::from_utf8_lossy(&output.stdout))
}

/// Shows what was counted beside what is on record.
fn compare(counted: &Record, update: bool) -> Result<(), String> {
    let known = if update { Record::default() } else { Record::read()? };
    println!(
        "{:<36} {:>12} {:>12} {:>8}",
        "instructions of one call", "on record", "now", "change"
    );
    for row in counted.beside(&known) {
        println!("{row}");
    }
    if update {
        return counted.write();
    }
    let away = counted.away_from(&known);
    if away.is_empty() {
        return Ok(());
    }
    Err(format!(
        "more than {} % away from benches/instructions.json: {}\n\
         where this is meant, run it with `-- --update` and say why in CHANGELOG.md",
        record::TOLERANCE,
        away.join(", ")
    ))
}
