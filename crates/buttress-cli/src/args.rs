//! The command line.

use std::path::PathBuf;

use buttress::WorkflowId;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{checkpoints::CheckpointsArgs, period::Since, spool::SpoolArgs};

/// What follows the options in `--help` and in the manual.
const MORE: &str = "\
Environment:
  LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY
                     The keys of a project in Langfuse
  LANGFUSE_BASE_URL  Where Langfuse is [default: https://cloud.langfuse.com];
                     LANGFUSE_HOST is its older name
  LANGFUSE_TIMEOUT   How many seconds one request may take, from 30
  BUTTRESS_SPOOL_DIR Where what is not delivered waits, unless --spool says so
  BUTTRESS_STORE     Where checkpoints are, unless --store says so; a password
                     is not seen by others there
  NO_COLOR, TERM     No colours where NO_COLOR is set or TERM is dumb

Exit codes:
  0  done
  1  failed: Langfuse or the store is away or refuses, not all was delivered, or
     something unexpected
  2  wrong use: a flag or an argument
  3  nothing there: no data in the period, no such trace or workflow, nothing
     that waits
  4  wrong settings: keys, an address, a store or a spool that cannot be used";

/// Looks at what buttress did: statistics, a trace, what waits on disk, checkpoints.
#[derive(Debug, Parser)]
#[command(
    name = "buttress",
    version,
    after_help = MORE,
    after_long_help = MORE,
    max_term_width = 80,
    propagate_version = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// When to colour.
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub(crate) color: When,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Counts what the layers did: retries, fallbacks, breakers, timeouts, failures.
    ///
    /// Reads the observations of a period from Langfuse, or with --spool from disk. Retry success
    /// is of series with more than one attempt, availability of all calls; a figure without data
    /// says so.
    Stats(StatsArgs),
    /// Draws a trace as a tree.
    Trace(TraceArgs),
    /// Tells what waits on disk for Langfuse, and delivers what was left there.
    Spool(SpoolArgs),
    /// Lists, shows and deletes checkpoints of workflows, in any store.
    Checkpoints(CheckpointsArgs),
    /// Writes completions for a shell to stdout.
    ///
    /// For bash: buttress completions bash > ~/.local/share/bash-completion/completions/buttress
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Writes the manual to stdout, as roff; or a page for each command into a folder.
    ///
    /// To read it: buttress man | man -l -
    Man {
        /// Write a page for each command into this folder instead.
        #[arg(long, value_name = "FOLDER")]
        dir: Option<PathBuf>,
    },
}

/// What `stats` is asked.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// From when on: a time ago, such as 24h or "7d 12h", or a point in time, such as
    /// 2026-11-25 or 2026-11-25T10:00:00Z [default: 24h; with --spool from the first].
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Since>,

    /// Until when [default: now].
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Since>,

    /// Also group the figures.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) by: Option<By>,

    /// Read one environment only, such as production.
    #[arg(long, value_name = "NAME")]
    pub(crate) environment: Option<String>,

    /// Read what waits in this folder of a spool instead of what Langfuse has; no keys and no
    /// server are needed.
    #[arg(long, value_name = "DIR")]
    pub(crate) spool: Option<PathBuf>,

    /// Read at most so many observations, the newest.
    #[arg(long, value_name = "N", value_parser = limit, default_value = "1000000")]
    pub(crate) limit: usize,

    /// Print one JSON document instead of tables; its keys are documented and stay.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `trace` is asked.
#[derive(Debug, Args)]
pub(crate) struct TraceArgs {
    /// The id of the trace, or "last" for the one that something began in last.
    #[arg(value_parser = trace_id)]
    pub(crate) id: String,

    /// Look in this folder of a spool, where what is not delivered waits, instead of in Langfuse.
    #[arg(long, value_name = "DIR")]
    pub(crate) spool: Option<PathBuf>,

    /// Look for the last trace in one environment only.
    #[arg(long, value_name = "NAME")]
    pub(crate) environment: Option<String>,

    /// Print one JSON document with all observations, instead of a tree.
    #[arg(long)]
    pub(crate) json: bool,
}

/// By what figures are grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// By agent; what is of none stands under "-".
    Agent,
}

/// When to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum When {
    /// On a terminal that has colours, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Reads how much is wanted at most: of nothing it could not be said whether it is there.
pub(crate) fn limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".to_owned()),
        Ok(limit) => Ok(limit),
        Err(_) => Err("must be a whole number, at least 1".to_owned()),
    }
}

/// Reads the id of a trace; an empty one would be that of all.
fn trace_id(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// Reads the id of a workflow.
pub(crate) fn workflow(id: &str) -> Result<WorkflowId, String> {
    WorkflowId::new(id).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_names_every_exit_code() {
        let help = Cli::command().render_long_help().to_string();
        for code in ["\n  0  ", "\n  1  ", "\n  2  ", "\n  3  ", "\n  4  "] {
            assert!(help.contains(code), "{code}");
        }
        assert!(help.lines().all(|line| line.chars().count() <= 80), "{help}");
    }
}
