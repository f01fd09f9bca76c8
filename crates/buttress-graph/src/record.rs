//! What a checkpoint of a graph holds.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::State;

/// How a workflow stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// It has nodes to run.
    Running,
    /// It has come to its end.
    Finished,
}

/// The state of a run between two supersteps.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) struct Record<S: State> {
    pub(crate) state: S,
    pub(crate) status: Status,
    /// Which run of the workflow it is, from 1.
    pub(crate) run: u64,
    /// How many supersteps are done.
    pub(crate) step: u64,
    /// What runs in the next one, in its order.
    pub(crate) next: Vec<Task<S>>,
    /// How often in a row each node was run again.
    pub(crate) retries: BTreeMap<String, u32>,
    /// The last nodes, the newest last.
    pub(crate) last: VecDeque<String>,
    /// The failures that routers or handlers have dealt with, the newest last.
    pub(crate) failures: VecDeque<NodeFailure>,
}

/// One call of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) struct Task<S: State> {
    /// The run, the step, the node, and its place among calls of the same node.
    pub(crate) id: String,
    pub(crate) node: String,
    /// The state of its own that it was sent with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) input: Option<S>,
}

/// How a node has failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeFailure {
    pub(crate) node: String,
    pub(crate) step: u64,
    pub(crate) kind: String,
    pub(crate) error: String,
}

/// How many of the last nodes and failures are kept.
const KEPT: usize = 10;

// ===== impl Record =====

impl<S: State> Record<S> {
    /// Creates the record of a run that has not begun.
    pub(crate) fn first(run: u64, state: S, nodes: impl IntoIterator<Item = String>) -> Self {
        let mut record = Self {
            state,
            status: Status::Running,
            run,
            step: 0,
            next: Vec::new(),
            retries: BTreeMap::new(),
            last: VecDeque::new(),
            failures: VecDeque::new(),
        };
        record.set_next(nodes.into_iter().map(|node| (node, None)));
        record
    }

    /// Sets what runs next.
    pub(crate) fn set_next(&mut self, nodes: impl IntoIterator<Item = (String, Option<S>)>) {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        let (run, step) = (self.run, self.step + 1);
        self.next = nodes
            .into_iter()
            .map(|(node, input)| {
                let count = counts.entry(node.clone()).or_default();
                *count += 1;
                Task { id: format!("{run}:{step}:{node}:{count}"), node, input }
            })
            .collect();
        if self.next.is_empty() {
            self.status = Status::Finished;
        }
    }

    pub(crate) fn has_run(&mut self, node: &str) {
        keep(&mut self.last, node.to_owned());
    }

    pub(crate) fn has_failed(&mut self, failure: NodeFailure) {
        keep(&mut self.failures, failure);
    }

    /// Returns the name of the phase that a checkpoint is saved at: what runs next.
    pub(crate) fn phase(&self) -> String {
        let names: Vec<_> = self.next.iter().map(|task| &*task.node).take(KEPT).collect();
        if names.is_empty() { crate::END.to_owned() } else { names.join(",") }
    }
}

fn keep<T>(kept: &mut VecDeque<T>, new: T) {
    if kept.len() == KEPT {
        kept.pop_front();
    }
    kept.push_back(new);
}
