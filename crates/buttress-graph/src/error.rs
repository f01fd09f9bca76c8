use std::{error::Error as StdError, fmt};

use buttress::{BoxError, Error, Failure, FailureKind, StoreError, StoreErrorKind};
use serde_json::Value;

/// Why a graph is not valid, or a run of it has ended.
#[derive(Debug)]
pub struct GraphError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: GraphErrorKind,
    source: Option<BoxError>,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum GraphErrorKind {
    /// The graph cannot be compiled.
    Invalid {
        /// What is wrong, with the names of node and edge.
        reason: String,
    },
    /// A node has failed for good; its error is the source, and is kept in the workflow's record.
    NodeFailed {
        /// The node.
        node: String,
    },
    /// A router has panicked, or answered a label or node that is none.
    Routing {
        /// The node behind which it stands.
        node: String,
        /// What it did.
        reason: String,
    },
    /// Two nodes that ran side by side have given one field different values.
    FieldConflict {
        /// The field, as JSON has it.
        field: String,
        /// The nodes.
        nodes: [String; 2],
    },
    /// The run has made as many supersteps as it may.
    RecursionLimit {
        /// How many.
        limit: u64,
        /// The last nodes, each once, the newest last; a hundred at most.
        last: Vec<String>,
    },
    /// Nodes wait for the answers of people; the workflow goes on with them.
    Interrupted {
        /// The questions.
        interrupts: Vec<Interrupt>,
    },
    /// No question is open under this id.
    NoInterrupt {
        /// The id.
        id: String,
    },
    /// There is a run of this workflow that has not ended: resume it.
    Unfinished,
    /// The workflow, or the checkpoint of it, is not in the store.
    NotFound,
    /// The workflow was resumed this often without getting on, and is left alone.
    Dead {
        /// How often.
        recoveries: u32,
    },
    /// The graph was told to stop at a step's end.
    Drained,
    /// The state, or an update of it, cannot be written as JSON, or read.
    State,
    /// The graph has no store.
    NoStore,
    /// The store has failed; its error is the source.
    Store,
}

/// A question that a node has for a person.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Interrupt {
    /// What the answer is given under.
    pub id: String,
    /// The node that asks.
    pub node: String,
    /// The question.
    pub value: Value,
}

// ===== impl GraphError =====

impl GraphError {
    /// Returns what is wrong.
    #[must_use]
    pub const fn kind(&self) -> &GraphErrorKind {
        &self.0.kind
    }

    /// Returns the questions of nodes that wait for people; none where it is another error.
    #[must_use]
    pub fn interrupts(&self) -> &[Interrupt] {
        match self.kind() {
            GraphErrorKind::Interrupted { interrupts } => interrupts,
            _ => &[],
        }
    }

    /// Returns the error of the node or the store.
    #[must_use]
    pub fn cause(&self) -> Option<&Error> {
        self.0.source.as_ref()?.downcast_ref()
    }

    /// Returns whether the same call may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self.kind() {
            GraphErrorKind::Store => self.cause().is_some_and(|e| e.failure().is_retryable()),
            GraphErrorKind::Drained => true,
            _ => false,
        }
    }

    /// Returns what the error is to a node whose graph has ended with it.
    pub(crate) fn failure(&self) -> Failure {
        match (self.kind(), self.cause()) {
            (GraphErrorKind::Drained, _) => Failure::new(FailureKind::Cancelled),
            (_, Some(cause)) => cause.failure().clone(),
            _ => Failure::new(FailureKind::Permanent),
        }
    }

    /// Returns whether a node has ended since a graph in it was drained.
    pub(crate) fn is_drained(error: &Error) -> bool {
        let inner = error.downcast_ref::<Self>();
        inner.is_some_and(|inner| *inner.kind() == GraphErrorKind::Drained)
    }

    pub(crate) fn invalid(reason: impl Into<String>) -> Self {
        GraphErrorKind::Invalid { reason: reason.into() }.into()
    }

    pub(crate) fn routing(node: &str, reason: impl Into<String>) -> Self {
        GraphErrorKind::Routing { node: node.to_owned(), reason: reason.into() }.into()
    }

    pub(crate) fn state(error: serde_json::Error) -> Self {
        Self::from(GraphErrorKind::State).with_source(error)
    }

    pub(crate) fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }
}

impl From<GraphErrorKind> for GraphError {
    fn from(kind: GraphErrorKind) -> Self {
        Self(Box::new(Inner { kind, source: None }))
    }
}

impl From<Error> for GraphError {
    fn from(error: Error) -> Self {
        let kind = match error.downcast_ref().map(StoreError::kind) {
            _ if error.is_checkpoint_not_found() => GraphErrorKind::NotFound,
            Some(StoreErrorKind::Encode { .. }) => GraphErrorKind::State,
            _ => GraphErrorKind::Store,
        };
        Self::from(kind).with_source(error)
    }
}

impl From<StoreError> for GraphError {
    fn from(error: StoreError) -> Self {
        Error::from(error).into()
    }
}

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind().fmt(f)
    }
}

impl StdError for GraphError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl fmt::Display for GraphErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { reason } => write!(f, "the graph is not valid: {reason}"),
            Self::NodeFailed { node } => write!(f, "node {node:?} failed"),
            Self::Routing { node, reason } => write!(f, "behind node {node:?}: {reason}"),
            Self::FieldConflict { field, nodes: [one, other] } => write!(
                f,
                "nodes {one:?} and {other:?} wrote field {field:?} at once, and no reducer joins them"
            ),
            Self::RecursionLimit { limit, last } => {
                write!(f, "no end after {limit} steps; the last nodes: {}", last.join(", "))
            }
            Self::Interrupted { interrupts } => {
                write!(f, "{} nodes wait for an answer", interrupts.len())
            }
            Self::NoInterrupt { id } => write!(f, "no question is open under {id:?}"),
            Self::Unfinished => f.write_str("a run of this workflow has not ended"),
            Self::NotFound => f.write_str("no such workflow or checkpoint"),
            Self::Dead { recoveries } => {
                write!(f, "resumed {recoveries} times without getting on")
            }
            Self::Drained => f.write_str("the graph was drained"),
            Self::State => f.write_str("the state is not what JSON can hold"),
            Self::NoStore => f.write_str("the graph has no store"),
            Self::Store => f.write_str("the store failed"),
        }
    }
}
