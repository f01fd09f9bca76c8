//! What is seen of a run: live progress, the trace tree, and the trace in Langfuse.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use buttress_langfuse::{Langfuse, TerminalTree};
use serde_json::Value;
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{problem::Problem, progress::Progress};

/// How long the end of the program waits for Langfuse.
const PATIENCE: Duration = Duration::from_secs(10);

/// Watches the run.
pub(crate) struct Observer {
    langfuse: Langfuse,
    tree: TerminalTree,
    progress: Progress,
}

/// What was seen of a run that is over.
pub(crate) struct Seen {
    tree: TerminalTree,
    links: Vec<String>,
}

impl Observer {
    /// Starts to watch: to Langfuse where its keys are set, and to the terminal in any case.
    pub(crate) fn start() -> Result<Self, Problem> {
        let tree = TerminalTree::new()
            .colour(io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none());
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

    /// Delivers what is left and returns what was seen.
    pub(crate) fn finish(self) -> Seen {
        if let Err(error) = self.langfuse.shutdown(PATIENCE) {
            eprintln!("the trace is not complete in Langfuse: {error}");
        }
        let ids = self.tree.to_json();
        let ids = ids.as_array().into_iter().flatten();
        let ids = ids.filter_map(|root| root["traceId"].as_str());
        let links = ids.filter_map(|id| self.langfuse.trace_url(id)).collect();
        Seen { links, tree: self.tree }
    }
}

impl Seen {
    /// Returns the trace as a tree for people, with its address where it was sent.
    pub(crate) fn to_text(&self) -> String {
        let mut text = self.tree.render();
        for link in &self.links {
            text.push_str("In Langfuse: ");
            text.push_str(link);
            text.push('\n');
        }
        text
    }

    pub(crate) fn to_json(&self) -> Value {
        self.tree.to_json()
    }
}
