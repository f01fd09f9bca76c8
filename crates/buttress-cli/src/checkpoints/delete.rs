//! `delete`.

use std::io::{self, BufRead, IsTerminal as _, Write as _};

use buttress::{
    BoxStore, CheckpointStore as _, WorkflowId,
    checkpoint::{CheckpointKey, Query},
};
use serde_json::json;

use super::{DeleteArgs, store::Store};
use crate::{
    problem::Problem,
    terminal,
    text::{self, escaped},
};

pub(super) async fn run(store: &Store, args: &DeleteArgs) -> Result<(), Problem> {
    if !args.yes && !io::stdin().is_terminal() {
        let why = "stdin is no terminal, where nobody can be asked: --yes deletes without asking";
        return Err(Problem::Usage(why.to_owned()));
    }
    let open = store.open().await?;
    let id = &args.workflow;
    let chains = chains(&open, id).await?;
    if chains == 0 {
        return Err(Problem::Nothing(format!("no checkpoints of {id} in {store}")));
    }
    let is_wanted = args.yes || ask(&format!("Delete all checkpoints of {id} in {store}?"))?;
    if is_wanted {
        open.delete(id, None).await?;
    }
    if args.json {
        let document = json!({
            "workflow_id": id.as_str(), "store": store.to_string(), "deleted": is_wanted,
            "chains": chains,
        });
        return terminal::print(&text::json(&document));
    }
    let what = if is_wanted { "deleted" } else { "nothing deleted" };
    terminal::print(&format!("{what}: {}\n", escaped(id.as_str())))
}

/// Counts the chains of a workflow: its own and those of its parts.
async fn chains(store: &BoxStore, id: &WorkflowId) -> Result<usize, Problem> {
    let first = Query::first(32).workflow(id.clone());
    let mut chains = 0;
    let mut after: Option<CheckpointKey> = None;
    loop {
        let query = match after.take() {
            Some(key) => first.clone().after(key),
            None => first.clone(),
        };
        let page = store.list(query).await?;
        chains += page.len();
        match page.last() {
            Some(last) if page.len() == 32 => after = Some(last.key.clone()),
            _ => return Ok(chains),
        }
    }
}

fn ask(question: &str) -> Result<bool, Problem> {
    write!(io::stderr(), "{} [y/N] ", escaped(question))?;
    agrees(&mut io::stdin().lock())
}

/// Reads an answer; all but a clear yes is no.
fn agrees(answers: &mut impl BufRead) -> Result<bool, Problem> {
    let mut answer = String::new();
    answers.read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clear_yes_is_one() {
        for (answer, expected) in [
            ("y\n", true),
            ("Yes\r\n", true),
            ("\n", false),
            ("", false),
            ("yep\n", false),
            ("n\n", false),
        ] {
            assert_eq!(agrees(&mut answer.as_bytes()).unwrap(), expected, "{answer:?}");
        }
    }
}
