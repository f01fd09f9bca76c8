//! `buttress checkpoints`.

mod delete;
mod document;
mod read;
mod store;

use buttress::{WorkflowId, checkpoint::Namespace};
use clap::{Args, Subcommand};

use crate::{args::workflow, color::Color, problem::Problem};

use self::store::Store;

/// What `checkpoints` is asked.
#[derive(Debug, Args)]
pub(crate) struct CheckpointsArgs {
    /// Where checkpoints are: file:FOLDER, sqlite:FILE, postgres://.. or redis://.. .
    ///
    /// A server is postgres://USER:PASSWORD@HOST/DATABASE or redis://USER:PASSWORD@HOST; a
    /// password in BUTTRESS_STORE is not seen by others.
    #[arg(long, global = true, value_name = "STORE")]
    store: Option<String>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lists the newest checkpoint of each workflow.
    List(ListArgs),
    /// Shows one checkpoint with its state.
    Show(ShowArgs),
    /// Lists the checkpoints of a workflow, the newest first.
    History(HistoryArgs),
    /// Deletes all checkpoints of a workflow.
    ///
    /// Asks before; one that somebody works on is not deleted.
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// List one workflow only, with all its parts.
    #[arg(long, value_name = "ID", value_parser = workflow)]
    workflow: Option<WorkflowId>,

    /// List at most so many.
    #[arg(long, value_name = "N", value_parser = crate::args::limit, default_value = "1000")]
    limit: usize,

    /// Print one JSON document; ids in tables may be cut.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// The workflow.
    #[arg(value_name = "WORKFLOW", value_parser = workflow)]
    workflow: WorkflowId,

    /// A part of the workflow that has checkpoints of its own, as `list` names it.
    #[arg(long, value_name = "PART", value_parser = namespace, default_value = "", hide_default_value = true)]
    namespace: Namespace,

    /// The number of the checkpoint [default: the newest].
    #[arg(long, value_name = "N")]
    sequence: Option<u64>,

    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct HistoryArgs {
    /// The workflow.
    #[arg(value_name = "WORKFLOW", value_parser = workflow)]
    workflow: WorkflowId,

    /// A part of the workflow that has checkpoints of its own, as `list` names it.
    #[arg(long, value_name = "PART", value_parser = namespace, default_value = "", hide_default_value = true)]
    namespace: Namespace,

    /// List at most so many.
    #[arg(long, value_name = "N", value_parser = crate::args::limit, default_value = "1000")]
    limit: usize,

    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct DeleteArgs {
    /// The workflow.
    #[arg(value_name = "WORKFLOW", value_parser = workflow)]
    workflow: WorkflowId,

    /// Delete without asking.
    #[arg(long)]
    yes: bool,

    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

fn namespace(name: &str) -> Result<Namespace, String> {
    Namespace::new(name).map_err(|error| error.to_string())
}

pub(crate) async fn run(args: CheckpointsArgs, color: Color) -> Result<(), Problem> {
    let store = Store::chosen(args.store.as_deref())?;
    match args.command {
        Command::List(args) => read::list(&store, &args).await,
        Command::Show(args) => read::show(&store, &args, color).await,
        Command::History(args) => read::history(&store, &args).await,
        Command::Delete(args) => delete::run(&store, &args).await,
    }
}
