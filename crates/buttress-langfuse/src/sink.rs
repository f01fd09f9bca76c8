//! Where mapped spans go, and what the whole process says about them.

use std::{error::Error, fmt, time::Duration};

use bytes::Bytes;

use crate::{encode::Encoded, privacy::Privacy, spool::Class, text::shown};

/// The name that OpenTelemetry gives to a service without one.
pub(crate) const UNKNOWN_SERVICE: &str = "unknown_service";

/// Takes encoded spans: delivery to Langfuse, the terminal, or both.
pub(crate) trait Sink: Send + Sync + fmt::Debug {
    /// Takes one span; never blocks on the network.
    ///
    /// `starts` are of the open spans above it, where the sink [`journals`](Self::journals).
    fn accept(&self, starts: &[Encoded], span: Encoded, class: Class);

    /// Takes a score, as JSON; a sink that has no use for it does nothing.
    fn score(&self, _score: Bytes, _class: Class) {}

    /// Returns whether spans are written that a process which is killed leaves to the next.
    fn journals(&self) -> bool {
        false
    }

    /// Waits until everything accepted so far is delivered.
    ///
    /// # Errors
    ///
    /// Fails when something is still here when the time is over, or cannot be delivered.
    fn flush(&self, timeout: Duration) -> Result<(), FlushError>;

    /// Delivers what is left and stops; a second call answers as the first did.
    ///
    /// What is not delivered in time is given up, counted, and told in one line.
    ///
    /// # Errors
    ///
    /// Fails as [`flush`](Self::flush) does.
    fn shutdown(&self, timeout: Duration) -> Result<(), FlushError>;

    /// Waits until what was taken over is delivered; what is kept nowhere is.
    ///
    /// # Errors
    ///
    /// Fails when something is still here when the time is over, or a person has to change
    /// something.
    fn recover(&self, _timeout: Duration) -> Result<(), FlushError> {
        Ok(())
    }

    /// Returns the counts since the start.
    fn stats(&self) -> Stats;
}

/// Counts of spans since the start; all zero where tracing is switched off and no tree collects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Spans that ended and were taken.
    pub accepted: u64,
    /// Spans that Langfuse acknowledged.
    pub delivered: u64,
    /// Spans that were given up: there was no room for them, or delivery ended first.
    ///
    /// Those of a request that was under way at the end count too, though it may arrive.
    pub dropped: u64,
    /// Of them, those of traces in which something had gone wrong.
    pub dropped_eventful: u64,
    /// Spans that Langfuse refuses for good, each found alone in its batch; with a spool they are
    /// kept in its folder `refused`, with the server's words.
    pub refused: u64,
    /// Spans that wait for delivery.
    pub pending: u64,
    /// Of them, those that wait on disk only.
    pub spooled: u64,
    /// Spans of processes that ended before which Langfuse has acknowledged; they count nowhere
    /// else.
    pub recovered: u64,
    /// Spans and scores of processes that ended before which were taken over and still wait.
    pub to_recover: u64,
    /// Places of the spool that are damaged, and were passed over.
    pub damaged: u64,
    /// Scores that were taken.
    pub scores_accepted: u64,
    /// Scores that Langfuse acknowledged.
    pub scores_delivered: u64,
    /// Scores that were given up; those that the spool had no room for count as spans.
    pub scores_dropped: u64,
    /// Scores that Langfuse refuses for good.
    pub scores_refused: u64,
    /// Scores of processes that ended before which Langfuse has acknowledged.
    pub scores_recovered: u64,
    /// Scores that wait for delivery.
    pub scores_pending: u64,
}

/// Says why not everything was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FlushError {
    /// The time was over first; delivery goes on unless this was the shutdown.
    TimedOut {
        /// Spans and scores that were still waiting.
        pending: usize,
    },
    /// Langfuse cannot be reached or refuses, or the thread of the delivery has panicked.
    ///
    /// What waits is kept, unless this was the shutdown or the thread is gone.
    Undelivered {
        /// Spans and scores that were still waiting.
        pending: usize,
        /// What the last try ended with.
        reason: String,
    },
    /// Langfuse refuses this program's requests until a person changes something: keys, address,
    /// plan or version. Only [`Langfuse::recover`](crate::Langfuse::recover) ends with it.
    Misconfigured {
        /// Spans and scores that are still waiting.
        pending: usize,
        /// What the last try ended with.
        reason: String,
    },
    /// Delivery has been shut down.
    Closed,
}

impl fmt::Display for FlushError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut { pending } => {
                write!(f, "time is over with {pending} spans waiting for delivery")
            }
            Self::Undelivered { pending, reason } | Self::Misconfigured { pending, reason } => {
                write!(f, "{pending} spans are not delivered: {reason}")
            }
            Self::Closed => f.write_str("delivery has been shut down"),
        }
    }
}

impl Error for FlushError {}

/// Takes spans and keeps none.
#[derive(Debug)]
pub(crate) struct Nowhere;

impl Sink for Nowhere {
    fn accept(&self, _: &[Encoded], _: Encoded, _: Class) {}

    fn flush(&self, _: Duration) -> Result<(), FlushError> {
        Ok(())
    }

    fn shutdown(&self, _: Duration) -> Result<(), FlushError> {
        Ok(())
    }

    fn stats(&self) -> Stats {
        Stats::default()
    }
}

/// What the configuration says about every trace.
#[derive(Debug, Clone)]
pub(crate) struct TraceDefaults {
    /// Langfuse's environment, such as `production`.
    pub(crate) environment: Option<String>,
    /// The release of the program.
    pub(crate) release: Option<String>,
    /// The version of the traced logic.
    pub(crate) version: Option<String>,
    /// The share of traces that is kept, 0 to 1.
    pub(crate) sample_rate: f64,
    /// What may leave the process.
    pub(crate) privacy: Privacy,
    /// Whether spans that say only that all went well are left out.
    pub(crate) is_compact: bool,
    /// Targets whose spans are sent beside our own.
    pub(crate) targets: Vec<String>,
    /// The name of the service in the resource.
    pub(crate) service_name: String,
    /// Whether an app root also claims to be the root of the trace on v3 servers.
    pub(crate) as_root: bool,
}

impl Default for TraceDefaults {
    fn default() -> Self {
        Self {
            environment: None,
            release: None,
            version: None,
            sample_rate: 1.0,
            privacy: Privacy::default(),
            is_compact: false,
            targets: Vec::new(),
            service_name: UNKNOWN_SERVICE.to_owned(),
            as_root: false,
        }
    }
}

/// Where a person looks a trace up.
#[derive(Clone)]
pub(crate) struct ProjectLink {
    /// The address of Langfuse, with or without a slash at its end.
    pub(crate) base_url: String,
    /// The project's id, where it is known.
    pub(crate) project_id: Option<String>,
}

impl fmt::Debug for ProjectLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProjectLink")
            .field("base_url", &shown(&self.base_url))
            .finish_non_exhaustive()
    }
}
