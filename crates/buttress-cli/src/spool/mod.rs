//! `buttress spool`, and what other commands read from a spool.

mod document;
mod replay;
mod status;

use std::{
    env,
    path::{Path, PathBuf},
    time::Duration,
};

use buttress_langfuse::{
    Observation,
    backlog::{Backlog, Destination, Waiting},
};
use clap::{Args, Subcommand};

use crate::{color::Color, problem::Problem, terminal};

const VARIABLE: &str = "BUTTRESS_SPOOL_DIR";

/// What `spool` is asked.
#[derive(Debug, Args)]
pub(crate) struct SpoolArgs {
    /// The folder of the spool [default: BUTTRESS_SPOOL_DIR, then that of the library].
    #[arg(long, global = true, value_name = "DIR")]
    spool: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tells what waits for which Langfuse, of which process, and what was refused.
    ///
    /// Only looks, also while processes write there; no keys and no server are needed.
    Status(StatusArgs),
    /// Delivers what processes have left that have ended, to the Langfuse of the settings.
    ///
    /// What living processes have in the spool they deliver themselves.
    Replay(ReplayArgs),
}

#[derive(Debug, Args)]
struct StatusArgs {
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ReplayArgs {
    /// How long it may take; what is not delivered by then stays in the spool.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "60s")]
    timeout: Duration,

    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time.is_zero() => Err("must be longer than zero".to_owned()),
        Ok(time) => Ok(time),
        Err(_) => Err("must be a time, such as 60s or \"5m 30s\"".to_owned()),
    }
}

pub(crate) fn run(args: &SpoolArgs, color: Color) -> Result<(), Problem> {
    let folder = folder(args.spool.as_deref())?;
    match &args.command {
        Command::Status(args) => status::run(&folder, args.json, color),
        Command::Replay(args) => replay::run(&folder, args, color),
    }
}

/// Reads the spans that wait in a spool, the oldest first.
pub(crate) fn observations(folder: &Path) -> Result<Vec<Observation>, Problem> {
    let backlog = Backlog::read(folder)?;
    let damaged: u64 = backlog.destinations.iter().map(Destination::damaged).sum();
    if damaged > 0 {
        terminal::tell(&format!(
            "warning: of {} in the spool nothing can be read",
            counted(damaged, "damaged place", "damaged places"),
        ));
    }
    Ok(backlog.observations()?)
}

/// Returns the folder that is meant.
fn folder(given: Option<&Path>) -> Result<PathBuf, Problem> {
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let named = env::var(VARIABLE).ok().map(|value| value.trim().to_owned());
    let named = named.filter(|value| !value.is_empty()).map(PathBuf::from);
    named.or_else(Backlog::default_folder).ok_or_else(|| {
        Problem::Settings(format!(
            "there is no folder for a spool; --spool or {VARIABLE} must name one"
        ))
    })
}

/// Names a Langfuse and a key.
fn named(destination: &Destination) -> String {
    let base_url = destination.base_url.as_deref().unwrap_or("an unknown Langfuse");
    match &destination.public_key {
        Some(key) => format!("{base_url} ({key})"),
        None => base_url.to_owned(),
    }
}

/// Writes how much waits.
fn amount(waiting: Waiting) -> String {
    let parts = [
        (waiting.spans, "span", "spans"),
        (waiting.scores, "score", "scores"),
        (waiting.starts, "open span", "open spans"),
    ];
    let parts = parts.into_iter().filter(|(count, ..)| *count > 0);
    let parts: Vec<String> = parts.map(|(count, one, many)| counted(count, one, many)).collect();
    if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") }
}

/// Writes a number of things.
fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_told_in_words() {
        let mut waiting = Waiting::default();
        assert_eq!(amount(waiting), "nothing");
        waiting.scores = 1;
        assert_eq!(amount(waiting), "1 score");
        (waiting.spans, waiting.starts) = (2, 2);
        assert_eq!(amount(waiting), "2 spans, 1 score, 2 open spans");
    }
}
