//! What a checkpoint of a graph holds.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::{self, Display, Write as _},
    sync::Arc,
};

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
    /// Shared with the calls that are under way.
    pub(crate) state: Arc<S>,
    pub(crate) status: Status,
    /// Which run of the workflow it is, from 1.
    pub(crate) run: u64,
    /// How many supersteps are done.
    pub(crate) step: u64,
    /// What runs in the next one, in its order.
    pub(crate) next: Vec<Task<S>>,
    /// How often in a row each node was run again.
    pub(crate) retries: BTreeMap<String, u32>,
    /// The last nodes, each once, the newest last.
    pub(crate) last: VecDeque<Arc<str>>,
    /// The failures that routers or handlers have dealt with, the newest last.
    pub(crate) failures: VecDeque<NodeFailure>,
}

/// One call of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) struct Task<S: State> {
    pub(crate) node: Arc<str>,
    /// The place of the node in the graph; none where it was read from a store.
    #[serde(skip)]
    pub(crate) place: Option<usize>,
    /// Which of the calls of this node in the superstep it is, from 1.
    pub(crate) count: usize,
    /// The state of its own that it was sent with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) input: Option<Arc<S>>,
}

/// What tells a task from all others of its workflow.
#[derive(Debug, Clone)]
pub(crate) struct TaskId {
    run: u64,
    pub(crate) step: u64,
    pub(crate) node: Arc<str>,
    count: usize,
}

/// How a node has failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeFailure {
    pub(crate) node: String,
    pub(crate) step: u64,
    pub(crate) kind: String,
    pub(crate) error: String,
}

/// How many of the last failures are kept, and how many nodes a phase names.
const KEPT: usize = 10;
/// How many of the last nodes are kept: a cycle is named whole unless it is longer.
const LAST: usize = 100;

// ===== impl Record =====

impl<S: State> Record<S> {
    /// Creates the record of a run that has not begun, and has nothing to run yet.
    pub(crate) const fn first(run: u64, state: Arc<S>) -> Self {
        Self {
            state,
            status: Status::Running,
            run,
            step: 0,
            next: Vec::new(),
            retries: BTreeMap::new(),
            last: VecDeque::new(),
            failures: VecDeque::new(),
        }
    }

    /// Sets what runs next.
    pub(crate) fn set_next(&mut self, next: Vec<Task<S>>) {
        self.next = next;
        if self.next.is_empty() {
            self.status = Status::Finished;
        }
    }

    /// Returns the id of a task of the next superstep.
    pub(crate) fn id(&self, task: &Task<S>) -> TaskId {
        TaskId {
            run: self.run,
            step: self.step + 1,
            node: Arc::clone(&task.node),
            count: task.count,
        }
    }

    pub(crate) fn has_run(&mut self, node: Arc<str>) {
        // Mostly it is among the last.
        if let Some(place) = self.last.iter().rposition(|own| *own == node) {
            self.last.remove(place);
        }
        keep(&mut self.last, node, LAST);
    }

    pub(crate) fn has_failed(&mut self, failure: NodeFailure) {
        keep(&mut self.failures, failure, KEPT);
    }

    /// Returns the name of the phase that a checkpoint is saved at: what runs next.
    pub(crate) fn phase(&self) -> String {
        let names: Vec<_> = self.next.iter().map(|task| &*task.node).take(KEPT).collect();
        if names.is_empty() { crate::END.to_owned() } else { names.join(",") }
    }
}

fn keep<T>(kept: &mut VecDeque<T>, new: T, most: usize) {
    if kept.len() >= most {
        kept.pop_front();
    }
    kept.push_back(new);
}

// ===== impl TaskId =====

impl TaskId {
    /// Returns the idempotency key of its call with so many answers.
    pub(crate) fn key(&self, workflow_id: &str, answers: usize) -> String {
        // Room for the numbers, in nearly all cases.
        let mut key = String::with_capacity(workflow_id.len() + self.node.len() + 16);
        // `{self}` would be as right, and takes twice as long: each call has a key.
        let Self { run, step, node, count } = self;
        _ = write!(key, "{workflow_id}/{run}:{step}:{node}:{count}");
        if answers > 0 {
            _ = write!(key, "#{answers}");
        }
        key
    }
}

impl Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { run, step, node, count } = self;
        write!(f, "{run}:{step}:{node}:{count}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_workflow_the_task_and_its_answers() {
        let id = TaskId { run: 2, step: 13, node: "square".into(), count: 100 };
        assert_eq!(id.to_string(), "2:13:square:100");
        assert_eq!(id.key("trade/7", 0), "trade/7/2:13:square:100");
        assert_eq!(id.key("trade/7", 1), "trade/7/2:13:square:100#1");
    }
}
