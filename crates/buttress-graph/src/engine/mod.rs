//! One run: superstep by superstep, saved between them and within.

mod saving;

use std::{
    collections::VecDeque,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
};

use buttress::{
    Error, Failure, WorkflowId,
    checkpoint::{Payload, TaskWrite, Workflow, WriteKind},
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use serde_json::Value;
use tokio::time::Instant;
use tower::{Service as _, ServiceExt as _};
use tracing::Instrument as _;

use crate::{
    Command, CompiledGraph, END, Event, GraphError, GraphErrorKind, NodeRequest, Route, State,
    Status,
    events::Listener,
    graph::{Branch, Compiled},
    record::{NodeFailure, Record, Task},
    spans,
};

/// How often in a row a router may run a node again.
const RETRIES: u32 = 2;
/// The task under which a graph writes what is its own.
const GRAPH: &str = "graph";

/// How a run begins.
pub(crate) enum Begin<S> {
    Anew(S),
    Resume,
    RetryFailed,
    Answer(String, Value),
}

/// One run of a workflow.
pub(crate) struct Run<'a, S: State> {
    graph: &'a CompiledGraph<S>,
    id: &'a WorkflowId,
    record: Record<S>,
    listener: Listener<S>,
    /// None without a store, and while a save is on its way.
    saved: Option<Saved<S>>,
    /// The save that is on its way beside the nodes that run.
    saving: Option<Saving<S>>,
}

/// A save on its way, which has what is saved. Boxed, since a future of an async function has no
/// name.
type Saving<S> = Pin<Box<dyn Future<Output = (Saved<S>, Result<(), GraphError>)> + Send>>;

/// What is saved of a run.
struct Saved<S: State> {
    workflow: Workflow<Record<S>>,
    /// The newest checkpoint.
    head: u64,
    /// What tasks of the superstep behind it have written.
    writes: Vec<TaskWrite>,
    /// When the lease was taken or renewed last.
    renewed: Instant,
}

/// What a node came to.
struct Answer<S: State> {
    result: Result<Command<S>, Error>,
    /// How it had failed before its handler dealt with it.
    handled: Option<Failure>,
    /// Its span, until it is known where it leads; none where it had answered before.
    span: Option<spans::Ending>,
}

impl<'a, S: State> Run<'a, S> {
    pub(crate) async fn go(
        graph: &CompiledGraph<S>,
        id: &WorkflowId,
        begin: Begin<S>,
        listener: Listener<S>,
    ) -> Result<S, GraphError> {
        let mut span = spans::graph(graph.span_name(), id.as_str());
        let inside = span.span();
        let done = async {
            if graph.is_drained() {
                return Err(GraphErrorKind::Drained.into());
            }
            let mut run = Run::begin(graph, id, begin, listener).await?;
            let done = run.drive().await;
            let last = run.settle().await;
            let done = done.and(last);
            span.record_step("steps", run.record.step);
            if let Some(saved) = &mut run.saved {
                // It runs out by itself where it cannot be given back.
                drop(saved.workflow.release().await);
            }
            done.map(|()| run.record.state)
        };
        let done = done.instrument(inside).await;
        match &done {
            Ok(_) => span.succeeded(),
            Err(error) => span.stopped(error),
        }
        done
    }

    async fn drive(&mut self) -> Result<(), GraphError> {
        while self.record.status == Status::Running {
            let limit = self.graph.settings().recursion_limit;
            if self.record.step >= limit {
                let last = self.record.last.iter().cloned().collect();
                return Err(GraphErrorKind::RecursionLimit { limit, last }.into());
            }
            if self.graph.is_drained() {
                return Err(GraphErrorKind::Drained.into());
            }
            self.superstep().await?;
        }
        Ok(())
    }

    async fn superstep(&mut self) -> Result<(), GraphError> {
        // Where this does not come to its end, neither does the run, and nobody asks for them again.
        let tasks = std::mem::take(&mut self.record.next);
        let answers = self.run_tasks(&tasks).await?;
        let interrupts = self.open_interrupts(&tasks, &answers)?;
        if !interrupts.is_empty() {
            self.listener.tell(|| Event::Interrupted(interrupts.clone()));
            return Err(GraphErrorKind::Interrupted { interrupts }.into());
        }
        self.finish_step(tasks, answers).await
    }

    /// Runs the tasks of a superstep that have no answer yet, and saves each answer.
    async fn run_tasks(&mut self, tasks: &[Task<S>]) -> Result<Vec<Answer<S>>, GraphError> {
        let mut answers: Vec<Option<Answer<S>>> = Vec::with_capacity(tasks.len());
        for task in tasks {
            answers.push(self.answered(task)?);
        }
        let mut waiting = 0..tasks.len();
        let mut running = FuturesUnordered::new();
        // What has answered while the store was waited for.
        let mut answered = VecDeque::new();
        let lease = self.graph.settings().lease;
        loop {
            while running.len() < self.graph.settings().max_parallelism {
                let unanswered = waiting.find(|place| answers[*place].is_none());
                let Some(place) = unanswered else { break };
                let call = self.call(&tasks[place])?;
                running.push(async move { (place, call.await) });
            }
            let heartbeat = async {
                match (&mut self.saving, &self.saved) {
                    (Some(saving), _) => Some(saving.await),
                    (None, Some(saved)) => {
                        tokio::time::sleep_until(saved.renewed + lease / 3).await;
                        None
                    }
                    (None, None) => std::future::pending().await,
                }
            };
            let next = async {
                match answered.pop_front() {
                    Some(answer) => Some(answer),
                    None => running.next().await,
                }
            };
            let (place, answer) = tokio::select! {
                next = next => match next {
                    Some(answer) => answer,
                    None => break,
                },
                saved = heartbeat => {
                    if let Some(done) = saved {
                        self.has_saved(done)?;
                    } else if let Some(saved) = &mut self.saved {
                        let renewed = saved.renew(self.graph, &self.listener);
                        beside(&mut running, &mut answered, renewed).await?;
                    }
                    continue;
                }
            };
            beside(&mut running, &mut answered, self.settle()).await?;
            let (node, step) = (|| tasks[place].node.clone(), self.record.step + 1);
            match &answer.result {
                Ok(command) => {
                    let saved = self.save_answer(&tasks[place].id, command);
                    beside(&mut running, &mut answered, saved).await?;
                    self.listener.tell(|| Event::NodeFinished { node: node(), step });
                }
                Err(error) => {
                    let error = || error.to_string();
                    self.listener.tell(|| Event::NodeFailed { node: node(), error: error() });
                }
            }
            answers[place] = Some(answer);
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// Calls the node of a task.
    fn call(
        &self,
        task: &Task<S>,
    ) -> Result<impl Future<Output = Answer<S>> + Send + use<S>, GraphError> {
        let node = self.node(&task.node)?;
        let state = task.input.clone().unwrap_or_else(|| self.record.state.clone());
        let step = self.record.step + 1;
        let resume = self.values(&task.id, WriteKind::Resume)?;
        let name = Arc::clone(&node.name);
        self.listener.tell(|| Event::NodeStarted { node: name.to_string(), step });
        let request =
            NodeRequest::new(state, self.id.clone(), Arc::clone(&name), step, &task.id, resume)
                .listener(self.listener.clone());
        let (mut service, on_error) = (node.service.clone(), node.on_error.clone());
        let edges = node.branches.is_empty().then(|| Arc::clone(&node.edges));
        let mut span = spans::node(&node.span_name, &name, self.id.as_str(), step);
        let inside = span.span();
        let call = async move {
            let spare = on_error.as_ref().map(|_| request.clone());
            let result = match service.ready().await {
                Ok(ready) => ready.call(request).await,
                Err(error) => Err(error),
            };
            let (result, handled) = match (result, on_error, spare) {
                (Err(error), Some(handler), Some(request)) => {
                    let failure = error.failure().clone();
                    (handler(request, failure.clone()).await, Some(failure))
                }
                (result, ..) => (result, None),
            };
            match &result {
                Ok(_) => span.succeeded(),
                Err(error) => span.failed(&name, error),
            }
            // Where no router is asked it is known already, and the span need not wait.
            let Some(edges) = edges else { return Answer { result, handled, span: Some(span) } };
            if let Ok(Command { goto, send, .. }) = &result {
                match (&goto[..], &send[..]) {
                    ([], []) => span.leads(edges.iter().map(String::as_str)),
                    _ => {
                        span.leads(goto.iter().chain(send.iter().map(|(to, _)| to)).map(|to| &**to))
                    }
                }
            }
            Answer { result, handled, span: None }
        };
        Ok(call.instrument(inside))
    }

    fn node(&self, name: &str) -> Result<&'a Compiled<S>, GraphError> {
        let place = self.graph.place(name);
        place.map(|place| &self.graph.nodes()[place]).ok_or_else(|| {
            GraphError::routing(name, "the graph that saved this has a node that this one has not")
        })
    }

    // ===== What comes after a superstep =====

    async fn finish_step(
        &mut self,
        tasks: Vec<Task<S>>,
        mut answers: Vec<Answer<S>>,
    ) -> Result<(), GraphError> {
        let updates = tasks.iter().zip(&mut answers).filter_map(|(task, answer)| {
            let update = answer.result.as_mut().ok()?.update.take()?;
            Some((&*task.node, update))
        });
        crate::state::merge(&mut self.record.state, updates.collect())?;
        let mut nodes = Vec::new();
        let mut sent = Vec::new();
        for (task, answer) in tasks.into_iter().zip(answers) {
            self.record.has_run(&task.node);
            if let Some(failure) = &answer.handled {
                let failure = self.failure(&task.node, failure, failure);
                self.record.has_failed(failure);
            }
            match answer.result {
                Ok(command) => {
                    self.record.retries.remove(&task.node);
                    let goes_by_edges = command.goto.is_empty() && command.send.is_empty();
                    let mut ways = command.goto;
                    if goes_by_edges {
                        ways = self.node(&task.node)?.ways(&self.record.state, Ok(()))?;
                    }
                    let sends = command.send.iter().map(|(to, _)| to);
                    self.took(&task.node, answer.span.as_ref(), ways.iter().chain(sends));
                    nodes.extend(ways);
                    sent.extend(command.send);
                }
                Err(error) => match self.after_failure(&task, &error)? {
                    Some(ways) => {
                        self.took(&task.node, answer.span.as_ref(), ways.iter());
                        nodes.extend(ways);
                    }
                    None => return Err(self.fail(&task, error).await),
                },
            }
        }
        for name in nodes.iter().chain(sent.iter().map(|(name, _)| name)) {
            if name != END && self.graph.place(name).is_none() {
                let reason = format!("a command goes to {name:?}, which is no node");
                return Err(GraphError::routing(name, reason));
            }
        }
        nodes.retain(|name| name != END);
        nodes.sort_by_key(|name| self.graph.place(name));
        nodes.dedup();
        sent.retain(|(name, _)| name != END);
        let sent = sent.into_iter().map(|(name, state)| (name, Some(state)));
        self.record.step += 1;
        self.record.set_next(nodes.into_iter().map(|name| (name, None)).chain(sent));
        self.save().await
    }

    /// Tells where a node leads.
    fn took<'b>(
        &self,
        node: &str,
        span: Option<&spans::Ending>,
        to: impl Iterator<Item = &'b String> + Clone,
    ) {
        if let Some(span) = span {
            span.leads(to.clone().map(String::as_str));
        }
        self.listener
            .tell(|| Event::RouteTaken { node: node.to_owned(), to: to.cloned().collect() });
    }

    /// Returns where a node that failed leads; none where its failure is the workflow's.
    fn after_failure(
        &mut self,
        task: &Task<S>,
        error: &Error,
    ) -> Result<Option<Vec<String>>, GraphError> {
        let node = self.node(&task.node)?;
        if node.branches.is_empty() {
            return Ok(None);
        }
        let mut ways = Vec::new();
        for branch in &node.branches {
            for (label, to) in
                branch.choose(&node.name, &self.record.state, Err(error.failure()))?
            {
                let retries = self.record.retries.entry(task.node.clone()).or_default();
                if label == Route::RETRY {
                    *retries += 1;
                    if *retries > RETRIES {
                        return Ok(None);
                    }
                }
                if label == Route::FAIL || to == END {
                    return Ok(None);
                }
                ways.push(to);
            }
        }
        let failure = self.failure(&task.node, error.failure(), error);
        self.record.has_failed(failure);
        Ok((!ways.is_empty()).then_some(ways))
    }

    fn failure(&self, node: &str, failure: &Failure, error: &dyn std::fmt::Display) -> NodeFailure {
        NodeFailure {
            node: node.to_owned(),
            step: self.record.step + 1,
            kind: failure.kind().as_str().to_owned(),
            error: error.to_string(),
        }
    }

    /// Keeps the failure of the workflow beside the answers of the other nodes.
    async fn fail(&mut self, task: &Task<S>, error: Error) -> GraphError {
        let failure = self.failure(&task.node, error.failure(), &error);
        let write = match Payload::json(&failure) {
            Ok(payload) => TaskWrite::new(&task.id, WriteKind::Error, 0, payload),
            Err(error) => return error.into(),
        };
        if let Err(error) = self.write(write).await {
            return error;
        }
        GraphError::from(GraphErrorKind::NodeFailed { node: task.node.clone() }).with_source(error)
    }
}

/// Waits for the store while the nodes that run go on; what they answer is kept.
async fn beside<T, F: Future>(
    running: &mut FuturesUnordered<F>,
    answered: &mut VecDeque<F::Output>,
    store: impl Future<Output = T>,
) -> T {
    let mut store = pin!(store);
    loop {
        tokio::select! {
            biased;
            done = &mut store => return done,
            Some(answer) = running.next() => answered.push_back(answer),
        }
    }
}

impl<S: State> Compiled<S> {
    /// Returns where the node leads.
    fn ways(&self, state: &S, result: Result<(), &Failure>) -> Result<Vec<String>, GraphError> {
        let mut ways = self.edges.to_vec();
        for branch in &self.branches {
            let chosen = branch.choose(&self.name, state, result)?;
            ways.extend(chosen.into_iter().map(|(_, to)| to));
        }
        Ok(ways)
    }
}

impl<S: State> Branch<S> {
    /// Asks the router, and returns the labels and nodes that it has chosen.
    fn choose(
        &self,
        node: &str,
        state: &S,
        result: Result<(), &Failure>,
    ) -> Result<Vec<(String, String)>, GraphError> {
        let ask = AssertUnwindSafe(|| (self.router)(state, result));
        let route = std::panic::catch_unwind(ask)
            .map_err(|_| GraphError::routing(node, "the router panicked"))?;
        let chosen = route.0.iter().map(|label| {
            let found = self.routes.iter().find(|(known, _)| known == label);
            found.cloned().ok_or_else(|| {
                let known: Vec<_> = self.routes.iter().map(|(label, _)| &**label).collect();
                let known = known.join(", ");
                GraphError::routing(node, format!("no route {label:?}; there are: {known}"))
            })
        });
        chosen.collect()
    }
}
