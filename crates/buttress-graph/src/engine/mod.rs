//! One run: superstep by superstep, saved between them and within.

mod running;
mod saving;

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, atomic::AtomicU32},
};

use buttress::{
    Error, ErrorKind, Failure, WorkflowId,
    catch_panic::Panic,
    checkpoint::{Payload, TaskWrite, Workflow, WriteKind},
};
use serde_json::Value;
use tokio::time::Instant;
use tracing::Instrument as _;

use self::running::{Calling, Calls};
use crate::{
    Command, CompiledGraph, Event, GraphError, GraphErrorKind, Route, State, Status,
    events::Listener,
    graph::{Branch, Compiled, Ways},
    node::Call,
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
    /// What is saved when the run ends; only where that is when it is.
    unsaved: Option<Unsaved<S>>,
}

/// A save on its way, which has what is saved. Boxed, since a future of an async function has no
/// name.
type Saving<S> = Pin<Box<dyn Future<Output = (Saved<S>, Result<(), GraphError>)> + Send>>;

/// What a run has come to since it was saved last.
struct Unsaved<S: State> {
    /// The newest record; none where that is saved, and only writes behind it are not.
    record: Option<Record<S>>,
    /// What tasks have written behind it.
    writes: Vec<TaskWrite>,
}

/// Where the nodes of a superstep lead.
struct Led<S> {
    nodes: Vec<usize>,
    sent: Vec<(usize, Arc<S>)>,
    /// How often in a row each of them was run again before.
    retries: BTreeMap<String, u32>,
}

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

// ===== impl Answer =====

impl<S: State> Answer<S> {
    /// Returns whether there is none yet, since a graph in the node was drained.
    fn is_drained(&self) -> bool {
        self.result.as_ref().is_err_and(GraphError::is_drained)
    }
}

// ===== impl Run =====

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
            let last = run.save_at_exit().await;
            let done = done.and(last);
            span.record_step("steps", run.record.step);
            if let Some(saved) = &mut run.saved {
                // It runs out by itself where it cannot be given back.
                drop(saved.workflow.release().await);
            }
            done.map(|()| Arc::unwrap_or_clone(run.record.state))
        };
        let done = done.instrument(inside).await;
        match &done {
            Ok(_) => span.succeeded(),
            Err(error) => span.stopped(error),
        }
        done
    }

    async fn drive(&mut self) -> Result<(), GraphError> {
        let mut calls = Calls::new();
        while self.record.status == Status::Running {
            let limit = self.graph.settings().recursion_limit;
            if self.record.step >= limit {
                let last = self.record.last.iter().map(|node| node.to_string()).collect();
                return Err(GraphErrorKind::RecursionLimit { limit, last }.into());
            }
            if self.graph.is_drained() {
                return Err(GraphErrorKind::Drained.into());
            }
            self.superstep(&mut calls).await?;
            // Nodes that answer at once leave no other moment to be dropped, or read from, in.
            tokio::task::consume_budget().await;
        }
        Ok(())
    }

    async fn superstep(&mut self, calls: &mut Calls<'a, S>) -> Result<(), GraphError> {
        // Where this does not come to its end, neither does the run, and nobody asks for them again.
        let tasks = std::mem::take(&mut self.record.next);
        let mut answers = Vec::with_capacity(tasks.len());
        for task in &tasks {
            answers.push(self.answered(task)?);
        }
        calls.begin(answers);
        self.run_tasks(&tasks, calls).await?;
        let answers: Vec<_> = calls.end().collect();
        let interrupts = self.open_interrupts(&tasks, &answers)?;
        if !interrupts.is_empty() {
            self.keep_failure(&tasks, answers).await?;
            self.listener.tell(|| Event::Interrupted(interrupts.clone()));
            return Err(GraphErrorKind::Interrupted { interrupts }.into());
        }
        if answers.iter().any(Answer::is_drained) {
            return Err(GraphErrorKind::Drained.into());
        }
        self.finish_step(tasks, answers).await
    }

    /// Runs the tasks of a superstep that have no answer yet, and saves each answer.
    async fn run_tasks(
        &mut self,
        tasks: &[Task<S>],
        calls: &mut Calls<'a, S>,
    ) -> Result<(), GraphError> {
        let mut waiting = 0..tasks.len();
        loop {
            while calls.len() < self.graph.settings().max_parallelism {
                let unanswered = waiting.find(|place| calls.answer(*place).is_none());
                let Some(place) = unanswered else { break };
                calls.start(self.call(place, &tasks[place])?).await;
            }
            let Some(place) = self.next_answer(calls).await? else { return Ok(()) };
            let task = &tasks[place];
            if self.has_store() {
                calls.beside(self.settle()).await?;
                if let Some(Answer { result: Ok(command), .. }) = calls.answer(place) {
                    let write = self.write_of(task, command)?;
                    calls.beside(self.write_of_task(write)).await?;
                }
            }
            if let Some(answer) = calls.answer(place).filter(|answer| !answer.is_drained()) {
                let (node, step) = (|| task.node.to_string(), self.record.step + 1);
                self.listener.tell(|| match &answer.result {
                    Ok(_) => Event::NodeFinished { node: node(), step },
                    Err(error) => Event::NodeFailed { node: node(), error: error.to_string() },
                });
            }
        }
    }

    /// Returns whether anything is saved of the run.
    const fn has_store(&self) -> bool {
        self.saved.is_some() || self.saving.is_some()
    }

    /// Waits for an answer and returns its place; meanwhile a save is finished, or the lease renewed.
    async fn next_answer(&mut self, calls: &mut Calls<'_, S>) -> Result<Option<usize>, GraphError> {
        if !self.has_store() {
            return Ok(calls.next().await);
        }
        loop {
            let heartbeat = async {
                match (&mut self.saving, &self.saved) {
                    (Some(saving), _) => Some(saving.await),
                    (None, Some(saved)) => {
                        let lease = self.graph.settings().lease;
                        tokio::time::sleep_until(saved.renewed + lease / 3).await;
                        None
                    }
                    (None, None) => std::future::pending().await,
                }
            };
            let saved = tokio::select! {
                next = calls.next() => return Ok(next),
                saved = heartbeat => saved,
            };
            if let Some(done) = saved {
                self.has_saved(done)?;
            } else if let Some(saved) = &mut self.saved {
                let renewed = saved.renew(self.graph, &self.listener);
                calls.beside(renewed).await?;
            }
        }
    }

    /// Calls the node of a task, which has a place in its superstep.
    fn call(&self, place: usize, task: &Task<S>) -> Result<Calling<'a, S>, GraphError> {
        let node = self.node(task)?;
        let id = self.record.id(task);
        let resume = match &self.saved {
            Some(_) => self.values(&id.to_string(), WriteKind::Resume)?,
            None => Vec::new(),
        };
        let step = id.step;
        self.listener.tell(|| Event::NodeStarted { node: node.name.to_string(), step });
        let span = spans::node(&node.span_name, &node.name, self.id.as_str(), step);
        let call = Arc::new(Call {
            state: Arc::clone(task.input.as_ref().unwrap_or(&self.record.state)),
            workflow_id: self.id.clone(),
            task: id,
            resume,
            listener: self.listener.clone(),
            attempts: AtomicU32::new(0),
        });
        Ok(Calling::new(self.graph, node, place, call, span))
    }

    fn node(&self, task: &Task<S>) -> Result<&'a Compiled<S>, GraphError> {
        let place = task.place.or_else(|| self.graph.place(&task.node));
        place.and_then(|place| self.graph.nodes().get(place)).ok_or_else(|| {
            let reason = "the graph that saved this has a node that this one has not";
            GraphError::routing(&task.node, reason)
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
        let state = &mut self.record.state;
        Panic::catch(|| crate::state::merge(state, updates)).unwrap_or_else(|_| {
            let nodes: Vec<_> = tasks.iter().map(|task| &*task.node).collect();
            Err(GraphError::routing(&nodes.join(", "), "what applies the updates panicked"))
        })?;
        let mut led = Led::default();
        // Whoever runs and is not run again, is not so in a row.
        if !self.record.retries.is_empty() {
            let had = tasks.iter().filter_map(|task| self.record.retries.remove_entry(&*task.node));
            led.retries.extend(had);
        }
        let mut unknown = None;
        for (task, answer) in tasks.into_iter().zip(answers) {
            self.record.has_run(Arc::clone(&task.node));
            if let Some(failure) = &answer.handled {
                let failure = self.failure(&task.node, failure, failure);
                self.record.has_failed(failure);
            }
            let span = answer.span.as_ref();
            match answer.result {
                Ok(command) => {
                    if command.goes_by_edges() {
                        let first = led.nodes.len();
                        if let Some(why) = self.go_on(&task, &mut led)? {
                            let error = Error::new(ErrorKind::Service).with_source(why);
                            return Err(self.fail(&task, error).await);
                        }
                        self.took(&task.node, span, self.names(&led.nodes[first..]));
                        continue;
                    }
                    self.took(&task.node, span, command.targets());
                    let mut place = |name: String| {
                        let place = self.graph.place(&name);
                        place.or_else(|| {
                            unknown.get_or_insert(name);
                            None
                        })
                    };
                    led.nodes.extend(command.goto.into_iter().filter_map(&mut place));
                    let sends = command.send.into_iter();
                    let sends =
                        sends.filter_map(|(name, state)| Some((place(name)?, Arc::new(state))));
                    led.sent.extend(sends);
                }
                Err(error) => {
                    let Some(ways) = self.after_failure(&task, &error, &mut led)? else {
                        return Err(self.fail(&task, error).await);
                    };
                    self.took(&task.node, span, self.names(&ways));
                }
            }
        }
        if let Some(name) = unknown {
            let reason = format!("a command goes to {name:?}, which is no node");
            return Err(GraphError::routing(&name, reason));
        }
        self.record.step += 1;
        self.record.set_next(tasks_behind(self.graph, led.nodes, led.sent));
        if self.has_store() { self.save().await } else { Ok(()) }
    }

    fn names(&self, places: &[usize]) -> impl Iterator<Item = &'a str> + Clone {
        let graph = self.graph;
        places.iter().map(move |place| graph.name_at(*place))
    }

    /// Tells where a node leads.
    fn took<'b>(
        &self,
        node: &str,
        span: Option<&spans::Ending>,
        to: impl Iterator<Item = &'b str> + Clone,
    ) {
        if let Some(span) = span {
            span.leads(to.clone());
        }
        self.listener.tell(|| Event::RouteTaken {
            node: node.to_owned(),
            to: to.map(str::to_owned).collect(),
        });
    }

    /// Adds where a node that answered leads; returns why its router ends the workflow, if it does.
    fn go_on(
        &mut self,
        task: &Task<S>,
        led: &mut Led<S>,
    ) -> Result<Option<&'static str>, GraphError> {
        let node = self.node(task)?;
        led.nodes.extend_from_slice(&node.ways.edges);
        for branch in &node.ways.branches {
            for (label, to) in branch.choose(&node.name, &self.record.state, Ok(()))? {
                match &**label {
                    Route::FAIL => return Ok(Some("its router says that it has failed")),
                    Route::RETRY if !self.may_retry(task, led) => {
                        return Ok(Some("its router sends it back too often"));
                    }
                    _ => led.nodes.push(*to),
                }
            }
        }
        Ok(None)
    }

    /// Adds where a node that failed leads, and returns that; none where its failure is the
    /// workflow's.
    fn after_failure(
        &mut self,
        task: &Task<S>,
        error: &Error,
        led: &mut Led<S>,
    ) -> Result<Option<Vec<usize>>, GraphError> {
        let node = self.node(task)?;
        let mut ways = Vec::new();
        for branch in &node.ways.branches {
            let chosen = branch.choose(&node.name, &self.record.state, Err(error.failure()))?;
            for (label, to) in chosen {
                if label == Route::RETRY
                    && !(error.failure().is_retryable() && self.may_retry(task, led))
                {
                    return Ok(None);
                }
                if label == Route::FAIL || *to == self.graph.nodes().len() {
                    return Ok(None);
                }
                ways.push(*to);
            }
        }
        if ways.is_empty() {
            return Ok(None);
        }
        let failure = self.failure(&task.node, error.failure(), error);
        self.record.has_failed(failure);
        for place in &ways {
            // A call that was sent is made again with what it was sent with.
            match &task.input {
                Some(input) if self.graph.name_at(*place) == &*task.node => {
                    led.sent.push((*place, Arc::clone(input)));
                }
                _ => led.nodes.push(*place),
            }
        }
        Ok(Some(ways))
    }

    /// Counts that a node is run again, of its calls side by side once; returns whether it may be.
    fn may_retry(&mut self, task: &Task<S>, led: &Led<S>) -> bool {
        let before = led.retries.get(&*task.node).copied().unwrap_or_default();
        self.record.retries.insert(task.node.to_string(), before + 1);
        before < RETRIES
    }

    /// Keeps the failure of a node beside questions, where it ends the workflow.
    async fn keep_failure(
        &mut self,
        tasks: &[Task<S>],
        answers: Vec<Answer<S>>,
    ) -> Result<(), GraphError> {
        let retries = self.record.retries.clone();
        let mut led = Led { retries, ..Led::default() };
        for (task, answer) in tasks.iter().zip(answers) {
            if let Err(error) = answer.result
                && !GraphError::is_drained(&error)
                && self.after_failure(task, &error, &mut led)?.is_none()
            {
                return Err(self.fail(task, error).await);
            }
        }
        Ok(())
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
            Ok(payload) => {
                TaskWrite::new(self.record.id(task).to_string(), WriteKind::Error, 0, payload)
            }
            Err(error) => return error.into(),
        };
        if let Err(error) = self.write_of_task(write).await {
            return error;
        }
        GraphError::from(GraphErrorKind::NodeFailed { node: task.node.to_string() })
            .with_source(error)
    }
}

impl<S> Default for Led<S> {
    fn default() -> Self {
        Self { nodes: Vec::new(), sent: Vec::new(), retries: BTreeMap::new() }
    }
}

/// Returns what runs next, in its order: nodes that are led to, each once, and what is sent.
fn tasks_behind<S: State>(
    graph: &CompiledGraph<S>,
    mut nodes: Vec<usize>,
    sent: Vec<(usize, Arc<S>)>,
) -> Vec<Task<S>> {
    nodes.sort_unstable();
    nodes.dedup();
    // The calls of each node that is sent to; one that is led to as well has a call already.
    let mut counts = BTreeMap::new();
    let sent = sent.into_iter().map(|(place, state)| {
        let count = counts.entry(place).or_insert(usize::from(nodes.contains(&place)));
        *count += 1;
        (place, *count, Some(state))
    });
    let led = nodes.iter().map(|place| (*place, 1, None));
    let all = led.chain(sent).filter_map(|(place, count, input)| {
        // The end is no node.
        let node = Arc::clone(&graph.nodes().get(place)?.name);
        Some(Task { node, place: Some(place), count, input })
    });
    all.collect()
}

impl<S: State> Ways<S> {
    /// Adds where these ways lead.
    fn lead(
        &self,
        node: &str,
        state: &S,
        result: Result<(), &Failure>,
        nodes: &mut Vec<usize>,
    ) -> Result<(), GraphError> {
        nodes.extend_from_slice(&self.edges);
        for branch in &self.branches {
            let chosen = branch.choose(node, state, result)?;
            nodes.extend(chosen.into_iter().map(|(_, to)| *to));
        }
        Ok(())
    }
}

impl<S: State> Branch<S> {
    /// Asks the router, and returns the labels and places that it has chosen.
    fn choose(
        &self,
        node: &str,
        state: &S,
        result: Result<(), &Failure>,
    ) -> Result<Vec<&(String, usize)>, GraphError> {
        let route = Panic::catch(|| (self.router)(state, result))
            .map_err(|_| GraphError::routing(node, "the router panicked"))?;
        let chosen = route.0.iter().map(|label| {
            let found = self.routes.iter().find(|(known, _)| known == label);
            found.ok_or_else(|| {
                let known: Vec<_> = self.routes.iter().map(|(label, _)| &**label).collect();
                let known = known.join(", ");
                GraphError::routing(node, format!("no route {label:?}; there are: {known}"))
            })
        });
        chosen.collect()
    }
}
