use std::time::Duration;

use serde::{Serialize, de::DeserializeOwned};

use super::{
    Checkpoint, CheckpointKey, CheckpointStore, Checkpointer, Lease, Put, PutWrites, Resumed,
    Saved, StoreError, TaskWrite, WorkflowId, spans,
};
use crate::Error;

/// One workflow as its only writer sees it; made by [`Checkpointer::workflow`].
///
/// It remembers the head it has read or written. Another writer in between makes the next
/// [`save`](Self::save) a `Conflict`, so that of two that resume one workflow one goes on. With a
/// lease the other one knows before it begins.
#[derive(Debug)]
#[must_use]
pub struct Workflow<S> {
    checkpointer: Checkpointer<S>,
    key: CheckpointKey,
    /// None before the head was looked at.
    head: Option<Option<u64>>,
    lease: Option<Lease>,
    /// A put of which it is not known whether it was stored.
    uncertain: Option<Put>,
}

// ===== impl Workflow =====

impl<S: Serialize + DeserializeOwned> Workflow<S> {
    pub(super) fn new(checkpointer: Checkpointer<S>, id: &WorkflowId) -> Self {
        let key = checkpointer.key(id);
        Self { checkpointer, key, head: None, lease: None, uncertain: None }
    }

    /// Returns the workflow's id.
    #[must_use]
    pub const fn id(&self) -> &WorkflowId {
        &self.key.workflow_id
    }

    /// Returns the lease, where one was taken.
    #[must_use]
    pub const fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }

    /// Saves a state behind the head that this writer knows; the first time, behind whatever is
    /// there.
    ///
    /// # Errors
    ///
    /// `Checkpoint`, whose source is the [`StoreError`]: `Conflict` where somebody else has
    /// written, `Fenced` where the lease has gone to somebody else.
    ///
    /// # Cancellation
    ///
    /// Leaves the old checkpoint or the new one; the next save finds out which.
    pub async fn save(&mut self, phase: &str, state: &S) -> Result<Saved, Error> {
        let put = self.checkpointer.put(&self.key, phase, state);
        let mut span = spans::save(&self.checkpointer, &self.key, phase);
        let saved = match put {
            Ok(put) => span.run(self.put(put)).await,
            Err(error) => Err(error),
        };
        self.checkpointer.saved(span, &self.key, phase, saved)
    }

    /// Saves what tasks of the step behind the head have written; the result's sequence is that
    /// head.
    ///
    /// # Errors
    ///
    /// As [`save`](Self::save); `NotFound` where nothing was saved before.
    ///
    /// # Cancellation
    ///
    /// All of the writes are stored, or none.
    pub async fn save_writes(&mut self, writes: Vec<TaskWrite>) -> Result<Saved, Error> {
        let saved = self.put_writes(writes).await;
        self.checkpointer.went_on(saved).map_err(Error::from)
    }

    /// Loads the newest checkpoint, behind which the next save goes.
    ///
    /// # Errors
    ///
    /// As [`Checkpointer::load`]; a workflow that has none begins with its first save.
    pub async fn load(&mut self) -> Result<Checkpoint<S>, Error> {
        let loaded = self.checkpointer.load(&self.key.workflow_id).await;
        self.has_read(loaded.as_ref().map(|checkpoint| checkpoint.sequence));
        loaded
    }

    /// Loads the newest checkpoint, behind which the next save goes, and says how old it is.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub async fn resume(&mut self) -> Result<Resumed<S>, Error> {
        let resumed = self.checkpointer.resume(&self.key.workflow_id).await;
        self.has_read(resumed.as_ref().map(|resumed| resumed.checkpoint.sequence));
        resumed
    }

    /// Takes the lease: from now on nobody else writes, as long as it is renewed.
    ///
    /// # Errors
    ///
    /// `Checkpoint`, whose source is the [`StoreError`]: `Held` where somebody else has it.
    pub async fn acquire(&mut self, owner: &str, time: Duration) -> Result<&Lease, Error> {
        let store = self.checkpointer.store();
        let lease = self.checkpointer.when_back(|| store.acquire(&self.key, owner, time)).await?;
        if let Some(uncertain) = &self.uncertain {
            // It is fenced now: it is there, or never will be.
            let head = self.checkpointer.when_back(|| store.latest(&self.key)).await?;
            if let Some(own) = head.filter(|head| uncertain.is_repeat_of(head)) {
                self.head = Some(Some(own.sequence));
            }
            self.uncertain = None;
        }
        Ok(self.lease.insert(lease))
    }

    /// Makes the lease last `time` from now: the heartbeat of a long phase.
    ///
    /// # Errors
    ///
    /// `Checkpoint`, whose source is the [`StoreError`]: `Fenced` where somebody has taken it over,
    /// `NotFound` where none was taken.
    pub async fn renew(&mut self, time: Duration) -> Result<&Lease, Error> {
        let Some(lease) = &self.lease else {
            return Err(StoreError::not_found().in_chain(&self.key).into());
        };
        let store = self.checkpointer.store();
        let lease = self.checkpointer.when_back(|| store.renew(lease, time)).await?;
        Ok(self.lease.insert(lease))
    }

    /// Gives the lease back, where one was taken.
    ///
    /// # Errors
    ///
    /// As [`renew`](Self::renew).
    pub async fn release(&mut self) -> Result<(), Error> {
        if let Some(lease) = &self.lease {
            let store = self.checkpointer.store();
            self.checkpointer.when_back(|| store.release(lease)).await?;
            self.lease = None;
        }
        Ok(())
    }

    fn has_read(&mut self, head: Result<u64, &Error>) {
        match head {
            Ok(sequence) => self.head = Some(Some(sequence)),
            Err(error) if error.is_checkpoint_not_found() => self.head = Some(None),
            Err(_) => {}
        }
        // What was read says whether it was stored, unless it may be still on its way.
        if self.uncertain.as_ref().is_some_and(|put| Some(put.parent) != self.head) {
            self.uncertain = None;
        }
    }

    async fn put_writes(&mut self, writes: Vec<TaskWrite>) -> Result<u64, StoreError> {
        let head = self.certain_head().await?;
        let sequence = head.ok_or_else(|| StoreError::not_found().in_chain(&self.key))?;
        let mut writes = PutWrites::new(self.key.clone(), sequence, writes);
        writes.token = self.lease.as_ref().map(|lease| lease.token);
        let store = self.checkpointer.store();
        self.checkpointer.when_back(|| store.put_writes(writes.clone())).await?;
        Ok(sequence)
    }

    /// Finds out what is stored, where that is not known.
    async fn certain_head(&mut self) -> Result<Option<u64>, StoreError> {
        if let Some(uncertain) = self.uncertain.clone() {
            self.put_certainly(uncertain).await?;
        }
        if let Some(head) = self.head {
            return Ok(head);
        }
        let head = self.checkpointer.head(&self.key).await?;
        self.head = Some(head);
        Ok(head)
    }

    async fn put(&mut self, mut put: Put) -> Result<u64, StoreError> {
        put.parent = self.certain_head().await?;
        put.token = self.lease.as_ref().map(|lease| lease.token);
        self.put_certainly(put).await
    }

    /// Puts and keeps the put in mind until it is known what became of it.
    async fn put_certainly(&mut self, put: Put) -> Result<u64, StoreError> {
        self.uncertain = Some(put.clone());
        let store = self.checkpointer.store();
        let sequence = self.checkpointer.when_back(|| store.put(put.clone())).await;
        match &sequence {
            Ok(sequence) => self.head = Some(Some(*sequence)),
            Err(error) if error.is_unavailable() => return sequence,
            Err(_) => {}
        }
        self.uncertain = None;
        sequence
    }
}
