//! What is seen of a run: live progress, the trace tree, and the trace in Langfuse.

use std::{io, time::Duration};

use buttress_langfuse::{FlushError, Langfuse, TerminalTree};
use serde_json::Value;
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{problem::Problem, progress::Progress, style::Style};

/// Watches the run.
pub(crate) struct Observer {
    langfuse: Langfuse,
    tree: TerminalTree,
    progress: Progress,
}

impl Observer {
    /// Starts to watch: to Langfuse where its keys are set, and to the terminal in any case.
    pub(crate) fn start() -> Result<Self, Problem> {
        let tree = TerminalTree::new().colour(Style::of(&io::stdout()).is_coloured());
        let langfuse = Langfuse::from_env()
            .map_err(|error| Problem::WrongUse(error.to_string()))?
            .service_name("research-swarm")
            .terminal(tree.clone())
            .start()
            .map_err(|error| Problem::WrongUse(error.to_string()))?;
        let progress = Progress::on_stderr();
        tracing_subscriber::registry().with(langfuse.layer()).with(progress.clone()).init();
        Ok(Self { langfuse, tree, progress })
    }

    pub(crate) const fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Returns the trace as a tree for people, without the saves that went well.
    pub(crate) fn to_text(&self) -> String {
        let trees: Vec<_> = self.tree.trees().iter().map(|tree| without_saves(tree)).collect();
        trees.join("\n")
    }

    pub(crate) fn to_json(&self) -> Value {
        self.tree.to_json()
    }

    /// Delivers what is left, on a thread of its own: it waits for Langfuse.
    pub(crate) async fn deliver(&self, patience: Duration) -> Result<(), FlushError> {
        let langfuse = self.langfuse.clone();
        let delivery = tokio::task::spawn_blocking(move || langfuse.shutdown(patience));
        delivery.await.expect("delivery returns what goes wrong")
    }

    /// Returns the addresses of the traces, as far as Langfuse has anything of them.
    pub(crate) fn links(&self) -> Vec<String> {
        if self.langfuse.stats().delivered == 0 {
            return Vec::new();
        }
        let roots = self.tree.to_json();
        let ids = roots.as_array().into_iter().flatten();
        let ids = ids.filter_map(|root| root["traceId"].as_str());
        ids.filter_map(|id| self.langfuse.trace_url(id)).collect()
    }
}

/// Leaves out the saves below the root that went well: where all is well they are no news.
fn without_saves(tree: &str) -> String {
    let is_save = |line: &&str| {
        line.trim_start_matches(['\u{251c}', '\u{2514}', '\u{2500}', ' '])
            .strip_prefix("save_checkpoint [span] ")
            .is_some_and(|rest| !rest.contains(' '))
    };
    let mut lines: Vec<_> =
        tree.lines().filter(|line| !is_save(line)).map(|line| format!("{line}\n")).collect();
    // Of the root's children that are left, the last one is drawn as the last one.
    if let Some(last) = lines.iter().rposition(|line| line.starts_with(['\u{251c}', '\u{2514}'])) {
        for line in &mut lines[last..] {
            *line = line.replacen('\u{251c}', "\u{2514}", 1);
            if let Some(below) = line.strip_prefix('\u{2502}') {
                *line = format!(" {below}");
            }
        }
    }
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saves_that_went_well_are_left_out() {
        let tree = "run [chain] 2.0s\n\
            \u{251c}\u{2500} save_checkpoint [span] 1.3ms\n\
            \u{251c}\u{2500} agent_trend [agent] 49.6ms\n\
            \u{2502}  \u{2514}\u{2500} llm_call [generation] 48.9ms\n\
            \u{2514}\u{2500} save_checkpoint [span] 1.3ms\n";
        let expected = "run [chain] 2.0s\n\
            \u{2514}\u{2500} agent_trend [agent] 49.6ms\n\
            \u{20}  \u{2514}\u{2500} llm_call [generation] 48.9ms\n";
        assert_eq!(without_saves(tree), expected);
        // With nothing to leave out it stays as it is.
        assert_eq!(without_saves(expected), expected);
    }

    #[test]
    fn a_save_that_failed_stays() {
        let tree = "run [chain] 2.0s\n\
            \u{2514}\u{2500} save_checkpoint [span] 1.3ms WARNING failure_kind=transient: away\n";
        assert_eq!(without_saves(tree), tree);
    }
}
