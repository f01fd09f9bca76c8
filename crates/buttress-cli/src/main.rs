//! The `buttress` command: what the layers did, one trace, what waits for Langfuse on disk, and the
//! checkpoints of workflows.
//!
//! | feature | checkpoints in | further crates | default |
//! |---|---|---|---|
//! | `file` | files | | yes |
//! | `sqlite` | SQLite | buttress-stores with its `sqlite` | yes |
//! | `postgres` | Postgres | buttress-stores with its `postgres-rustls` | |
//! | `redis` | Redis | buttress-stores with its `redis-rustls` | |
//! | `full` | all of them | | |

mod args;
mod checkpoints;
mod color;
mod generate;
mod log;
mod period;
mod problem;
mod spool;
mod stats;
mod table;
mod terminal;
mod text;
mod trace;

use std::process::ExitCode;

use clap::Parser as _;

use crate::{
    args::{Cli, Command},
    color::Color,
    problem::Problem,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let color = Color::of(cli.color);
    match run(cli.command, color) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            terminal::tell(&problem.to_string());
            ExitCode::from(problem.exit_code())
        }
    }
}

fn run(command: Command, color: Color) -> Result<(), Problem> {
    log::show_warnings();
    // One thread is enough: what takes time is waited for.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = match command {
        Command::Stats(args) => runtime.block_on(stats::run(&args, color)),
        Command::Trace(args) => runtime.block_on(trace::run(&args, color)),
        Command::Spool(args) => spool::run(&args, color),
        Command::Checkpoints(args) => runtime.block_on(checkpoints::run(args, color)),
        Command::Completions { shell } => generate::completions(shell),
        Command::Man { dir } => generate::man(dir.as_deref()),
    };
    // A name may still be looked up, on a thread that nothing can stop.
    runtime.shutdown_background();
    result
}
