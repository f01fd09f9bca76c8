//! What a run saves and reads: its record between supersteps, answers within one.

use std::sync::Arc;

use buttress::{
    CheckpointKey, CheckpointStore, StoreError, WorkflowId,
    checkpoint::{Payload, TaskWrite, WriteKind},
};
use serde_json::Value;
use tokio::time::Instant;

use super::{Answer, Begin, GRAPH, Run, Saved, Saving, Unsaved};
use crate::{
    Command, CompiledGraph, Event, GraphError, GraphErrorKind, Interrupt, State, Status,
    events::Listener,
    graph::Durability,
    record::{NodeFailure, Record, Task},
};

impl<'a, S: State> Run<'a, S> {
    pub(super) async fn begin(
        graph: &'a CompiledGraph<S>,
        id: &'a WorkflowId,
        begin: Begin<S>,
        listener: Listener<S>,
    ) -> Result<Self, GraphError> {
        let Some(store) = &graph.settings().store else {
            let Begin::Anew(state) = begin else { return Err(GraphErrorKind::NoStore.into()) };
            let record = Self::first(graph, state)?;
            return Ok(Self {
                graph,
                id,
                record,
                listener,
                saved: None,
                saving: None,
                unsaved: None,
            });
        };
        let checkpointer = graph.checkpointer()?;
        let key = CheckpointKey::new(id.clone());
        let mut workflow = checkpointer.workflow(id);
        let is_there = store.latest(&key).await?.is_some();
        if !is_there && !matches!(begin, Begin::Anew(_)) {
            return Err(GraphErrorKind::NotFound.into());
        }
        // What its routers say, before anything is held.
        let begin = match begin {
            Begin::Anew(state) => Ok(Self::first(graph, state)?),
            begin => Err(begin),
        };
        workflow.acquire(&graph.lease_owner(), graph.settings().lease).await?;
        let head = async {
            // Another run may have begun since, and ended.
            let is_there = is_there || store.latest(&key).await?.is_some();
            if is_there { workflow.load().await.map(Some) } else { Ok(None) }
        };
        let head = match head.await {
            Ok(head) => head,
            Err(error) => {
                drop(workflow.release().await);
                return Err(error.into());
            }
        };
        let renewed = Instant::now();
        let mut saved = Saved { workflow, head: 0, writes: Vec::new(), renewed };
        match (begin, head) {
            (Ok(_), Some(head)) if head.state.status == Status::Running => {
                drop(saved.workflow.release().await);
                Err(GraphErrorKind::Unfinished.into())
            }
            (Ok(mut record), head) => {
                record.run = head.map_or(1, |head| head.state.run + 1);
                let mut run = Self {
                    graph,
                    id,
                    record,
                    listener,
                    saved: Some(saved),
                    saving: None,
                    unsaved: None,
                };
                let begun = run.save().await;
                if let (Err(_), Some(saved)) = (&begun, &mut run.saved) {
                    drop(saved.workflow.release().await);
                }
                begun.map(|()| run)
            }
            (Err(_), None) => {
                drop(saved.workflow.release().await);
                Err(GraphErrorKind::NotFound.into())
            }
            (Err(begin), Some(head)) => {
                saved.head = head.sequence;
                saved.writes = head.writes;
                let mut run = Self {
                    graph,
                    id,
                    record: head.state,
                    listener,
                    saved: Some(saved),
                    saving: None,
                    unsaved: None,
                };
                let admitted = run.admit(begin).await;
                if let (Err(_), Some(saved)) = (&admitted, &mut run.saved) {
                    drop(saved.workflow.release().await);
                }
                admitted.map(|()| run)
            }
        }
    }

    fn first(graph: &CompiledGraph<S>, state: S) -> Result<Record<S>, GraphError> {
        let mut nodes = Vec::new();
        graph.entry().lead(crate::START, &state, Ok(()), &mut nodes)?;
        let mut record = Record::first(1, Arc::new(state));
        record.set_next(super::tasks_behind(graph, nodes, Vec::new()));
        Ok(record)
    }

    /// Decides whether a workflow may go on, and writes what that takes.
    async fn admit(&mut self, begin: Begin<S>) -> Result<(), GraphError> {
        if self.record.status == Status::Finished {
            return match begin {
                Begin::Answer(id, _) => Err(GraphErrorKind::NoInterrupt { id }.into()),
                _ => Ok(()),
            };
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
        // Where all that is left is to be answered by people, nothing runs that could crash.
        let mut is_waiting = true;
        for task in &self.record.next {
            is_waiting &= self.answered(task)?.is_some();
        }
        if is_waiting {
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
        let is_answer = |write: &TaskWrite| {
            write.kind == WriteKind::Resume && write.task == task && write.index == index
        };
        let writes = self.saved.as_ref().map_or(&[][..], |saved| &saved.writes);
        if !writes.iter().any(asks) || writes.iter().any(is_answer) {
            return Err(unknown().into());
        }
        let answer = Payload::json(answer)?;
        self.write(TaskWrite::new(task, WriteKind::Resume, index, answer)).await
    }

    /// Saves the record behind the last one.
    pub(super) async fn save(&mut self) -> Result<(), GraphError> {
        self.settle().await?;
        let is_inner = self.record.step > 0 && self.record.status == Status::Running;
        if is_inner && self.graph.settings().durability == Durability::Exit {
            self.unsaved = Some(Unsaved { record: Some(self.record.clone()), writes: Vec::new() });
            if let Some(saved) = &mut self.saved {
                saved.writes.clear();
            }
            return Ok(());
        }
        // The end holds all that was put off.
        self.unsaved = None;
        let Some(mut saved) = self.saved.take() else { return Ok(()) };
        let record = self.record.clone();
        let listener = self.listener.clone();
        let mut saving: Saving<S> = Box::pin(async move {
            let done = saved.save(&record, &listener).await;
            (saved, done)
        });
        // A run is saved before its first node, and its end before it is answered.
        if is_inner && self.graph.settings().durability == Durability::Async {
            self.saving = Some(saving);
            return Ok(());
        }
        let done = saving.as_mut().await;
        self.has_saved(done)
    }

    /// Waits for the save that is on its way.
    pub(super) async fn settle(&mut self) -> Result<(), GraphError> {
        let Some(saving) = &mut self.saving else { return Ok(()) };
        let done = saving.await;
        self.has_saved(done)
    }

    pub(super) fn has_saved(
        &mut self,
        (saved, done): (Saved<S>, Result<(), GraphError>),
    ) -> Result<(), GraphError> {
        self.saving = None;
        self.saved = Some(saved);
        done
    }

    /// Returns what is saved of a node's answer before the superstep is over.
    pub(super) fn write_of(
        &self,
        task: &Task<S>,
        command: &Command<S>,
    ) -> Result<TaskWrite, GraphError> {
        let task = self.record.id(task).to_string();
        Ok(match &command.interrupt {
            Some(question) => {
                let asked = self.values(&task, WriteKind::Interrupt)?.len();
                let index = u32::try_from(asked).unwrap_or(u32::MAX);
                TaskWrite::new(task, WriteKind::Interrupt, index, Payload::json(question)?)
            }
            None => TaskWrite::new(task, WriteKind::Result, 0, Payload::json(command)?),
        })
    }

    pub(super) async fn write(&mut self, write: TaskWrite) -> Result<(), GraphError> {
        let Some(saved) = &mut self.saved else { return Ok(()) };
        let done = saved.workflow.save_writes(vec![write.clone()]).await?;
        saved.head = done.sequence.unwrap_or(saved.head);
        if let Some(error) = done.skipped {
            self.listener.tell(|| Event::SaveSkipped { error: error.into() });
        }
        write.add_to(&mut saved.writes);
        Ok(())
    }

    /// Writes what a task has come to: at once, or when the run ends.
    pub(super) async fn write_of_task(&mut self, write: TaskWrite) -> Result<(), GraphError> {
        if self.graph.settings().durability != Durability::Exit {
            return self.write(write).await;
        }
        let Some(saved) = &mut self.saved else { return Ok(()) };
        let unsaved = self.unsaved.get_or_insert_with(Unsaved::new);
        unsaved.writes.push(write.clone());
        write.add_to(&mut saved.writes);
        Ok(())
    }

    /// Saves what was put off until the run ends.
    pub(super) async fn save_at_exit(&mut self) -> Result<(), GraphError> {
        let Some(Unsaved { record, writes }) = self.unsaved.take() else { return Ok(()) };
        if let (Some(record), Some(saved)) = (record, &mut self.saved) {
            saved.save(&record, &self.listener).await?;
        }
        for write in writes {
            self.write(write).await?;
        }
        Ok(())
    }

    /// Returns what a task has answered before; none where it has to run.
    pub(super) fn answered(&self, task: &Task<S>) -> Result<Option<Answer<S>>, GraphError> {
        let Some(saved) = &self.saved else { return Ok(None) };
        let id = self.record.id(task).to_string();
        let own = |kind| {
            let id = &id;
            move |write: &&TaskWrite| write.task == *id && write.kind == kind
        };
        if let Some(write) = saved.writes.iter().find(own(WriteKind::Result)) {
            let command = serde_json::from_slice(&write.value).map_err(GraphError::state)?;
            return Ok(Some(Answer { result: Ok(command), handled: None, span: None }));
        }
        let asked: Vec<_> = saved.writes.iter().filter(own(WriteKind::Interrupt)).collect();
        let answered = saved.writes.iter().filter(own(WriteKind::Resume)).count();
        if asked.len() > answered {
            let question: Value =
                serde_json::from_slice(&asked[asked.len() - 1].value).map_err(GraphError::state)?;
            let command = Command::interrupt(question);
            return Ok(Some(Answer { result: Ok(command), handled: None, span: None }));
        }
        Ok(None)
    }

    /// Returns what a task has written of one kind, in its order.
    pub(super) fn values(&self, task: &str, kind: WriteKind) -> Result<Vec<Value>, GraphError> {
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

    pub(super) fn open_interrupts(
        &self,
        tasks: &[Task<S>],
        answers: &[Answer<S>],
    ) -> Result<Vec<Interrupt>, GraphError> {
        let mut open = Vec::new();
        for (task, answer) in tasks.iter().zip(answers) {
            let Ok(Command { interrupt: Some(value), .. }) = &answer.result else { continue };
            let id = self.record.id(task).to_string();
            let asked = self.values(&id, WriteKind::Interrupt)?.len();
            let id = format!("{id}#{}", asked.saturating_sub(1));
            open.push(Interrupt { id, node: task.node.to_string(), value: value.clone() });
        }
        Ok(open)
    }
}

// ===== impl Unsaved =====

impl<S: State> Unsaved<S> {
    const fn new() -> Self {
        Self { record: None, writes: Vec::new() }
    }
}

// ===== impl Saved =====

impl<S: State> Saved<S> {
    async fn save(&mut self, record: &Record<S>, listener: &Listener<S>) -> Result<(), GraphError> {
        let done = self.workflow.save(&record.phase(), record).await?;
        match (done.sequence, done.skipped) {
            (Some(sequence), _) => {
                self.head = sequence;
                self.writes.clear();
                let step = record.step;
                listener.tell(|| Event::CheckpointSaved { sequence, step });
            }
            // A run that is not there before its first node would be lost.
            (None, Some(error)) if record.step == 0 => return Err(error.into()),
            (None, Some(error)) => listener.tell(|| Event::SaveSkipped { error: error.into() }),
            (None, None) => {}
        }
        Ok(())
    }

    /// Keeps the lease.
    pub(super) async fn renew(
        &mut self,
        graph: &CompiledGraph<S>,
        listener: &Listener<S>,
    ) -> Result<(), GraphError> {
        let settings = graph.settings();
        // Also where it fails: what is away is asked again after a while.
        self.renewed = Instant::now();
        let Err(error) = self.workflow.renew(settings.lease).await else { return Ok(()) };
        match error.downcast_ref::<StoreError>() {
            Some(away) if settings.when_unavailable.endures(away) => {
                listener.tell(|| Event::SaveSkipped { error });
                Ok(())
            }
            _ => Err(error.into()),
        }
    }
}
