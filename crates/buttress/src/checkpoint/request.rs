use serde::Serialize;

use super::WorkflowId;

/// A request that says which workflow it belongs to.
pub trait HasWorkflow {
    /// Returns the workflow.
    fn workflow_id(&self) -> &WorkflowId;

    /// Returns what is the same for every repeat of this request and for no other request of its
    /// workflow and phase; the agent may hand it on to what has effects.
    fn idempotency_key(&self) -> Option<&str> {
        None
    }
}

/// A request that carries the state of its workflow.
pub trait HasState: HasWorkflow {
    /// The state.
    type State: Serialize;

    /// Returns the state.
    fn state(&self) -> &Self::State;
}

/// Any request with the workflow it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InWorkflow<R> {
    /// The workflow.
    pub workflow_id: WorkflowId,
    /// What is the same for every repeat of the request.
    pub idempotency_key: Option<String>,
    /// The request.
    pub request: R,
}

// ===== impl InWorkflow =====

impl<R> InWorkflow<R> {
    /// Creates a request of a workflow.
    pub const fn new(workflow_id: WorkflowId, request: R) -> Self {
        Self { workflow_id, idempotency_key: None, request }
    }

    /// Sets what is the same for every repeat of the request.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }
}

impl<R> HasWorkflow for InWorkflow<R> {
    fn workflow_id(&self) -> &WorkflowId {
        &self.workflow_id
    }

    fn idempotency_key(&self) -> Option<&str> {
        self.idempotency_key.as_deref()
    }
}

impl<R: Serialize> HasState for InWorkflow<R> {
    type State = R;

    fn state(&self) -> &R {
        &self.request
    }
}
