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

    /// Returns the trace as a tree for people.
    pub(crate) fn to_text(&self) -> String {
        self.tree.render()
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
