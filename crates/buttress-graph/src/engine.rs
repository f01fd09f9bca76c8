//! One run: superstep by superstep, saved between them and within.

use std::{panic::AssertUnwindSafe, sync::Arc};

use buttress::{
    CheckpointKey, CheckpointStore, Checkpointer, Error, Failure, WorkflowId,
    checkpoint::{Payload, PutWrites, TaskWrite, Workflow, WriteKind},
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use serde_json::Value;
use tower::{Service as _, ServiceExt as _};
use tracing::Instrument as _;

use crate::{
    Command, CompiledGraph, END, GraphError, GraphErrorKind, Interrupt, NodeRequest, Route, State,
    Status,
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
    saved: Option<Saved<S>>,
}

/// What is saved of a run.
struct Saved<S: State> {
    checkpointer: Checkpointer<Record<S>>,
    workflow: Workflow<Record<S>>,
    /// The newest checkpoint.
    head: u64,
    /// What tasks of the superstep behind it have written.
    writes: Vec<TaskWrite>,
}

/// What a node came to.
struct Answer<S: State> {
    result: Result<Command<S>, Error>,
    /// How it had failed before its handler dealt with it.
    handled: Option<Failure>,
}

impl<S: State> Run<'_, S> {
    pub(crate) async fn go(
        graph: &CompiledGraph<S>,
        id: &WorkflowId,
        begin: Begin<S>,
    ) -> Result<S, GraphError> {
        let span = spans::graph(graph.span_name(), id.as_str());
        let inside = span.span();
        let done = async {
            if graph.is_drained() {
                return Err(GraphErrorKind::Drained.into());
            }
            let mut run = Run::begin(graph, id, begin).await?;
            let done = run.drive().await;
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
        let answers = self.run_tasks().await?;
        let interrupts = self.open_interrupts(&answers)?;
        if !interrupts.is_empty() {
            return Err(GraphErrorKind::Interrupted { interrupts }.into());
        }
        self.finish_step(answers).await
    }

    /// Runs the tasks of a superstep that have no answer yet, and saves each answer.
    async fn run_tasks(&mut self) -> Result<Vec<Answer<S>>, GraphError> {
        let tasks = self.record.next.clone();
        let mut answers: Vec<Option<Answer<S>>> = Vec::with_capacity(tasks.len());
        for task in &tasks {
            answers.push(self.answered(task)?);
        }
        let mut waiting = (0..tasks.len()).filter(|place| answers[*place].is_none());
        let mut waiting = waiting.by_ref().collect::<Vec<_>>().into_iter();
        let mut running = FuturesUnordered::new();
        let lease = self.graph.settings().lease;
        loop {
            while running.len() < self.graph.settings().max_parallelism {
                let Some(place) = waiting.next() else { break };
                let call = self.call(&tasks[place])?;
                running.push(async move { (place, call.await) });
            }
            let (place, answer) = tokio::select! {
                next = running.next() => match next {
                    Some(answer) => answer,
                    None => break,
                },
                () = tokio::time::sleep(lease / 3), if self.saved.is_some() => {
                    if let Some(saved) = &mut self.saved {
                        saved.workflow.renew(lease).await?;
                    }
                    continue;
                }
            };
            if let Ok(command) = &answer.result {
                self.save_answer(&tasks[place].id, command).await?;
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
        let request =
            NodeRequest::new(state, self.id.clone(), Arc::clone(&name), step, &task.id, resume);
        let (mut service, on_error) = (node.service.clone(), node.on_error.clone());
        let span = spans::node(&node.span_name, &name, self.id.as_str(), step);
        let inside = span.span();
        let call = async move {
            let spare = on_error.as_ref().map(|_| request.clone());
            let result = match service.ready().await {
                Ok(ready) => ready.call(request).await,
                Err(error) => Err(error),
            };
            let answer = match (result, on_error, spare) {
                (Err(error), Some(handler), Some(request)) => {
                    let failure = error.failure().clone();
                    Answer {
                        result: handler(request, failure.clone()).await,
                        handled: Some(failure),
                    }
                }
                (result, ..) => Answer { result, handled: None },
            };
            match &answer.result {
                Ok(_) => span.succeeded(),
                Err(error) => span.failed(&name, error),
            }
            answer
        };
        Ok(call.instrument(inside))
    }

    fn node(&self, name: &str) -> Result<&Compiled<S>, GraphError> {
        let place = self.graph.place(name);
        place.map(|place| &self.graph.nodes()[place]).ok_or_else(|| {
            GraphError::routing(name, "the graph that saved this has a node that this one has not")
        })
    }

    // ===== What comes after a superstep =====

    async fn finish_step(&mut self, answers: Vec<Answer<S>>) -> Result<(), GraphError> {
        let tasks = self.record.next.clone();
        let updates = tasks.iter().zip(&answers).filter_map(|(task, answer)| {
            let update = answer.result.as_ref().ok()?.update.clone()?;
            Some((Arc::from(&*task.node), update))
        });
        let state = crate::state::merge(&self.record.state, &updates.collect::<Vec<_>>())?;
        let mut record = self.record.clone();
        record.state = state;
        record.step += 1;
        let mut nodes = Vec::new();
        let mut sent = Vec::new();
        for (task, answer) in tasks.into_iter().zip(answers) {
            record.has_run(&task.node);
            if let Some(failure) = &answer.handled {
                record.has_failed(self.failure(&task.node, failure, failure));
            }
            match answer.result {
                Ok(command) => {
                    record.retries.remove(&task.node);
                    let goes_by_edges = command.goto.is_empty() && command.send.is_empty();
                    nodes.extend(command.goto);
                    sent.extend(command.send);
                    if goes_by_edges {
                        nodes.extend(self.node(&task.node)?.ways(&record.state, Ok(()))?);
                    }
                }
                Err(error) => match self.after_failure(&mut record, &task, &error)? {
                    Some(ways) => nodes.extend(ways),
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
        record.set_next(nodes.into_iter().map(|name| (name, None)).chain(sent));
        self.record = record;
        self.save().await
    }

    /// Returns where a node that failed leads; none where its failure is the workflow's.
    fn after_failure(
        &self,
        record: &mut Record<S>,
        task: &Task<S>,
        error: &Error,
    ) -> Result<Option<Vec<String>>, GraphError> {
        let node = self.node(&task.node)?;
        if node.branches.is_empty() {
            return Ok(None);
        }
        let mut ways = Vec::new();
        for branch in &node.branches {
            for (label, to) in branch.choose(&node.name, &record.state, Err(error.failure()))? {
                let retries = record.retries.entry(task.node.clone()).or_default();
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
        record.has_failed(self.failure(&task.node, error.failure(), error));
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

impl<S: State> Compiled<S> {
    /// Returns where the node leads.
    fn ways(&self, state: &S, result: Result<(), &Failure>) -> Result<Vec<String>, GraphError> {
        let mut ways = self.edges.clone();
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

// ===== Saving =====

impl<'a, S: State> Run<'a, S> {
    async fn begin(
        graph: &'a CompiledGraph<S>,
        id: &'a WorkflowId,
        begin: Begin<S>,
    ) -> Result<Self, GraphError> {
        let Some(store) = &graph.settings().store else {
            let Begin::Anew(state) = begin else { return Err(GraphErrorKind::NoStore.into()) };
            let record = Self::first(graph, 1, state)?;
            return Ok(Self { graph, id, record, saved: None });
        };
        let checkpointer = graph.checkpointer()?;
        let key = CheckpointKey::new(id.clone());
        let mut workflow = checkpointer.workflow(id);
        let random = || format!("{}-{:016x}", graph.name(), fastrand::u64(..));
        let owner = graph.settings().owner.as_deref().map_or_else(random, str::to_owned);
        let is_there = store.latest(&key).await?.is_some();
        if !is_there && !matches!(begin, Begin::Anew(_)) {
            return Err(GraphErrorKind::NotFound.into());
        }
        workflow.acquire(&owner, graph.settings().lease).await?;
        let head = if is_there { Some(workflow.load().await?) } else { None };
        let mut saved = Saved { checkpointer, workflow, head: 0, writes: Vec::new() };
        match (begin, head) {
            (Begin::Anew(_), Some(head)) if head.state.status == Status::Running => {
                drop(saved.workflow.release().await);
                Err(GraphErrorKind::Unfinished.into())
            }
            (Begin::Anew(state), head) => {
                let record = Self::first(graph, head.map_or(1, |head| head.state.run + 1), state)?;
                let mut run = Self { graph, id, record, saved: Some(saved) };
                run.save().await?;
                Ok(run)
            }
            (_, None) => Err(GraphErrorKind::NotFound.into()),
            (begin, Some(head)) => {
                saved.head = head.sequence;
                saved.writes = head.writes;
                let mut run = Self { graph, id, record: head.state, saved: Some(saved) };
                let admitted = run.admit(begin).await;
                if let (Err(_), Some(saved)) = (&admitted, &mut run.saved) {
                    drop(saved.workflow.release().await);
                }
                admitted.map(|()| run)
            }
        }
    }

    fn first(graph: &CompiledGraph<S>, run: u64, state: S) -> Result<Record<S>, GraphError> {
        let (edges, branches) = graph.entry();
        let mut nodes = edges.to_vec();
        for branch in branches {
            let chosen = branch.choose(crate::START, &state, Ok(()))?;
            nodes.extend(chosen.into_iter().map(|(_, to)| to));
        }
        nodes.retain(|name| name != END);
        nodes.sort_by_key(|name| graph.place(name));
        nodes.dedup();
        Ok(Record::first(run, state, nodes))
    }

    /// Decides whether a workflow may go on, and writes what that takes.
    async fn admit(&mut self, begin: Begin<S>) -> Result<(), GraphError> {
        if self.record.status == Status::Finished {
            return Ok(());
        }
        if let Some(saved) = &self.saved {
            tracing::Span::current().record("resumed_from", i64::try_from(saved.head).ok());
        }
        if let Some((task, failure)) = self.failed()? {
            if !matches!(begin, Begin::RetryFailed) {
                let error = GraphErrorKind::NodeFailed { node: failure.node };
                return Err(GraphError::from(error).with_source(failure.error));
            }
            let none = Payload::json(&Value::Null)?;
            self.write(TaskWrite::new(task, WriteKind::Error, 0, none)).await?;
        }
        if let Begin::Answer(interrupt, answer) = begin {
            return self.take_answer(&interrupt, &answer).await;
        }
        let asks = |write: &TaskWrite| write.kind == WriteKind::Interrupt;
        if self.saved.as_ref().is_some_and(|saved| saved.writes.iter().any(asks)) {
            return Ok(());
        }
        let recoveries = self.values(GRAPH, WriteKind::Route)?;
        let recoveries = recoveries.first().and_then(Value::as_u64).unwrap_or_default();
        let recoveries = u32::try_from(recoveries).unwrap_or(u32::MAX);
        if recoveries >= self.graph.settings().max_recoveries {
            return Err(GraphErrorKind::Dead { recoveries }.into());
        }
        let count = Payload::json(&(recoveries + 1))?;
        self.write(TaskWrite::new(GRAPH, WriteKind::Route, 0, count)).await
    }

    async fn take_answer(&mut self, interrupt: &str, answer: &Value) -> Result<(), GraphError> {
        let unknown = || GraphErrorKind::NoInterrupt { id: interrupt.to_owned() };
        let (task, index) = interrupt.rsplit_once('#').ok_or_else(unknown)?;
        let index: u32 = index.parse().map_err(|_| unknown())?;
        let asks = |write: &TaskWrite| {
            write.kind == WriteKind::Interrupt && write.task == task && write.index == index
        };
        if !self.saved.as_ref().is_some_and(|saved| saved.writes.iter().any(asks)) {
            return Err(unknown().into());
        }
        let answer = Payload::json(answer)?;
        self.write(TaskWrite::new(task, WriteKind::Resume, index, answer)).await
    }

    /// Saves the record behind the last one.
    async fn save(&mut self) -> Result<(), GraphError> {
        let Some(saved) = &mut self.saved else { return Ok(()) };
        let done = saved.workflow.save(&self.record.phase(), &self.record).await?;
        saved.head = done.sequence.ok_or(GraphErrorKind::Store)?;
        saved.writes.clear();
        Ok(())
    }

    /// Saves what a node has answered before the superstep is over.
    async fn save_answer(&mut self, task: &str, command: &Command<S>) -> Result<(), GraphError> {
        if self.saved.is_none() {
            return Ok(());
        }
        let write = match &command.interrupt {
            Some(question) => {
                let asked = self.values(task, WriteKind::Interrupt)?.len();
                let index = u32::try_from(asked).unwrap_or(u32::MAX);
                TaskWrite::new(task, WriteKind::Interrupt, index, Payload::json(question)?)
            }
            None => TaskWrite::new(task, WriteKind::Result, 0, Payload::json(command)?),
        };
        self.write(write).await
    }

    async fn write(&mut self, write: TaskWrite) -> Result<(), GraphError> {
        let Some(saved) = &mut self.saved else { return Ok(()) };
        let key = CheckpointKey::new(self.id.clone());
        let mut writes = PutWrites::new(key, saved.head, vec![write.clone()]);
        if let Some(lease) = saved.workflow.lease() {
            writes = writes.under(lease);
        }
        saved.checkpointer.store().put_writes(writes).await?;
        write.add_to(&mut saved.writes);
        Ok(())
    }

    /// Returns what a task has answered before; none where it has to run.
    fn answered(&self, task: &Task<S>) -> Result<Option<Answer<S>>, GraphError> {
        let Some(saved) = &self.saved else { return Ok(None) };
        let own = |kind| move |write: &&TaskWrite| write.task == task.id && write.kind == kind;
        if let Some(write) = saved.writes.iter().find(own(WriteKind::Result)) {
            let command = serde_json::from_slice(&write.value).map_err(GraphError::state)?;
            return Ok(Some(Answer { result: Ok(command), handled: None }));
        }
        let asked: Vec<_> = saved.writes.iter().filter(own(WriteKind::Interrupt)).collect();
        let answered = saved.writes.iter().filter(own(WriteKind::Resume)).count();
        if asked.len() > answered {
            let question: Value =
                serde_json::from_slice(&asked[asked.len() - 1].value).map_err(GraphError::state)?;
            let command = Command::interrupt(question);
            return Ok(Some(Answer { result: Ok(command), handled: None }));
        }
        Ok(None)
    }

    /// Returns what a task has written of one kind, in its order.
    fn values(&self, task: &str, kind: WriteKind) -> Result<Vec<Value>, GraphError> {
        let Some(saved) = &self.saved else { return Ok(Vec::new()) };
        let own = saved.writes.iter().filter(|write| write.task == task && write.kind == kind);
        let read = own.map(|write| serde_json::from_slice(&write.value).map_err(GraphError::state));
        read.collect()
    }

    /// Returns which task has failed for good, and how.
    fn failed(&self) -> Result<Option<(String, NodeFailure)>, GraphError> {
        let Some(saved) = &self.saved else { return Ok(None) };
        for write in saved.writes.iter().filter(|write| write.kind == WriteKind::Error) {
            let failure: Option<NodeFailure> =
                serde_json::from_slice(&write.value).map_err(GraphError::state)?;
            if let Some(failure) = failure {
                return Ok(Some((write.task.clone(), failure)));
            }
        }
        Ok(None)
    }

    fn open_interrupts(&self, answers: &[Answer<S>]) -> Result<Vec<Interrupt>, GraphError> {
        let mut open = Vec::new();
        for (task, answer) in self.record.next.iter().zip(answers) {
            let Ok(Command { interrupt: Some(value), .. }) = &answer.result else { continue };
            let asked = self.values(&task.id, WriteKind::Interrupt)?.len();
            let id = format!("{}#{}", task.id, asked.saturating_sub(1));
            open.push(Interrupt { id, node: task.node.clone(), value: value.clone() });
        }
        Ok(open)
    }
}
