//! Which observations to read.

use std::time::SystemTime;

use buttress::telemetry::key;

use super::{Subject, lenient, pages::Listing};
use crate::Level;

/// What of the metadata may be longer than the 200 characters that Langfuse answers unasked.
const LONG: [&str; 16] = [
    key::AGENT_ID,
    key::ERROR,
    key::METADATA,
    key::CHECKPOINT_FILE,
    key::CHECKPOINT_URI,
    key::CHECKPOINT_PHASE,
    "circuit_key",
    "fallback_history",
    "failed_agents",
    "final_error",
    "phase",
    "reason",
    "retry_history",
    "route",
    "state_transition",
    "workflow_id",
];

/// Which observations to read, and how much of each.
///
/// # Defaults
///
/// Of all times, all of them; [`Contents::Metadata`]; pages of 1,000 observations, of 100 where the
/// server is a Langfuse 3.
#[derive(Debug, Clone, Default)]
#[must_use = "a query does nothing until a client gets it"]
pub struct ObservationQuery {
    filters: Vec<(&'static str, String)>,
    expanded: Vec<String>,
    contents: Contents,
    page_size: Option<usize>,
}

/// How much of each observation is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Contents {
    /// Names, times, levels and metadata.
    #[default]
    Metadata,
    /// Also input and output, model, usage and cost.
    Everything,
}

// ===== impl ObservationQuery =====

impl ObservationQuery {
    /// Asks for all observations.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what began then or later.
    pub fn from(self, time: SystemTime) -> Self {
        self.with("fromStartTime", lenient::iso(time))
    }

    /// Takes what began before.
    pub fn to(self, time: SystemTime) -> Self {
        self.with("toStartTime", lenient::iso(time))
    }

    /// Takes those of one name.
    pub fn name(self, name: impl Into<String>) -> Self {
        self.with("name", name.into())
    }

    /// Takes those of one type, such as `AGENT`.
    pub fn kind(self, kind: impl Into<String>) -> Self {
        self.with("type", kind.into().to_uppercase())
    }

    /// Takes those of one level.
    pub fn level(self, level: Level) -> Self {
        self.with("level", level.as_str().to_owned())
    }

    /// Takes those of one trace.
    pub fn trace_id(self, id: impl Into<String>) -> Self {
        self.with("traceId", id.into())
    }

    /// Takes the children of one observation.
    pub fn parent_id(self, id: impl Into<String>) -> Self {
        self.with("parentObservationId", id.into())
    }

    /// Takes those of one user.
    pub fn user_id(self, id: impl Into<String>) -> Self {
        self.with("userId", id.into())
    }

    /// Takes those of one environment.
    pub fn environment(self, environment: impl Into<String>) -> Self {
        self.with("environment", environment.into())
    }

    /// Takes those of one version.
    pub fn version(self, version: impl Into<String>) -> Self {
        self.with("version", version.into())
    }

    /// Reads the metadata of a key in full: what is longer than 200 characters is cut otherwise.
    ///
    /// The keys of buttress are read in full unasked.
    pub fn expand(mut self, key: impl Into<String>) -> Self {
        self.expanded.push(key.into());
        self
    }

    /// Sets how much of each observation is read.
    pub const fn contents(mut self, contents: Contents) -> Self {
        self.contents = contents;
        self
    }

    /// Sets how many come at once; a server has limits of its own.
    ///
    /// # Panics
    ///
    /// If the number is zero.
    #[track_caller]
    pub const fn page_size(mut self, rows: usize) -> Self {
        assert!(rows > 0, "page_size must be at least 1");
        self.page_size = Some(rows);
        self
    }

    fn with(mut self, name: &'static str, value: String) -> Self {
        self.filters.retain(|(known, _)| *known != name);
        self.filters.push((name, value));
        self
    }

    pub(super) fn listing(self) -> Listing {
        let fields = match self.contents {
            Contents::Metadata => "core,basic,time,metadata",
            Contents::Everything => "core,basic,time,io,metadata,model,usage,trace_context",
        };
        let keys = LONG.into_iter().map(str::to_owned).chain(self.expanded);
        let mut new_query = self.filters.clone();
        new_query.push(("fields", fields.to_owned()));
        new_query.push(("expandMetadata", keys.collect::<Vec<_>>().join(",")));
        Listing {
            subject: Subject::Observations,
            new_path: "/api/public/v2/observations",
            new_query,
            new_limit: self.page_size.unwrap_or(1_000).min(1_000),
            old_path: "/api/public/observations",
            old_query: self.filters,
            old_limit: self.page_size.unwrap_or(100).min(100),
        }
    }
}
