//! Checkpoints in one SQLite file.
//!
//! ```
//! use buttress::{CheckpointStore, WorkflowId, checkpoint::Put};
//! use buttress_stores::sqlite::SqliteStore;
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("checkpoints.db");
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let store = SqliteStore::open(path).keep(20).await?;
//! let id = WorkflowId::new("trades/2026-11-25")?;
//! let first = store.put(Put::new(id.clone(), None, &b"state"[..])).await?;
//! assert_eq!(store.latest(&id.into()).await?.map(|head| head.sequence), Some(first));
//! # Ok::<(), buttress::StoreError>(())
//! # }).unwrap();
//! ```
//!
//! A put that is acknowledged is in the write-ahead log and synced (`synchronous=FULL`): it
//! outlives the process and the power. All writes of a store go through one thread, which commits
//! what waits in one transaction; several processes may use one file, each with a store of its
//! own, and a program that reads it, such as a command line, holds up nobody.
//!
//! The file has to be on a local disk: SQLite's log needs memory that processes share.
//!
//! # Damage
//!
//! Each row has a checksum. A head that cannot be read makes `latest` answer the newest checkpoint
//! that can, with a warning under the target `buttress::log`; where none can, the answer is
//! `Corrupt`. What SQLite itself cannot promise: damage to the log (`-wal`) of a process that was
//! killed looks to it as the log's end, so that checkpoints behind the damage are gone, as whole
//! ones.
//!
//! # Size
//!
//! The log is copied into the file after every 1,000 pages and then begins anew; above 64 MiB it
//! is cut. Space that pruning sets free is used again and not given back.

mod error;
mod file;
mod open;
mod read;
mod readers;
mod row;
mod schema;
mod write;
mod writer;

use std::{fmt, num::NonZeroU32, path::Path, sync::Arc, time::Duration};

use buttress::{
    Checkpoint, CheckpointKey, CheckpointStore, StoreError, WorkflowId,
    checkpoint::{Capabilities, Clock, Lease, Page, Place, Put, PutWrites, Query},
    telemetry::LOG_TARGET,
};
use rusqlite::Connection;

pub use self::open::{OpenSqlite, Synchronous};
use self::{error::Problem, file::DatabaseFile, read::Found, readers::Readers, writer::Writer};

/// Keeps checkpoints in one SQLite file, for one machine; clones share it.
///
/// See the [module docs](self) for an example, and [`OpenSqlite`] for the defaults.
///
/// # Cancellation
///
/// A call that is dropped before its transaction begins does nothing; one that is dropped later
/// is done whole.
#[derive(Clone)]
#[must_use]
pub struct SqliteStore(Arc<Shared>);

struct Shared {
    file: Arc<DatabaseFile>,
    writer: Writer,
    readers: Readers,
    capabilities: Capabilities,
    clock: Clock,
}

// ===== impl SqliteStore =====

impl SqliteStore {
    /// Opens a file, which is made where there is none.
    pub fn open(path: impl AsRef<Path>) -> OpenSqlite {
        OpenSqlite::new(path.as_ref())
    }

    /// Returns where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.file.path()
    }

    /// Does something in a transaction that is committed before the answer.
    async fn write<T: Send + 'static>(
        &self,
        key: &CheckpointKey,
        work: impl FnOnce(&Connection) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, StoreError> {
        let answer = self.0.writer.write(work).await;
        answer.map_err(|problem| problem.into_error(key, self.path()))
    }

    /// Does something that sees one moment of the file.
    async fn read<T: Send + 'static>(
        &self,
        key: Option<&CheckpointKey>,
        work: impl FnOnce(&Connection) -> Result<Found<T>, Problem> + Send + 'static,
    ) -> Result<T, StoreError> {
        let answer = self.0.readers.read(work).await.map_err(|problem| match key {
            Some(key) => problem.into_error(key, self.path()),
            None => problem.into_error_at(self.path()),
        })?;
        for warning in answer.warnings {
            let error = warning.problem.into_error(&warning.key, self.path());
            tracing::warn!(
                target: LOG_TARGET,
                workflow_id = warning.key.workflow_id.as_str(),
                namespace = warning.key.namespace.as_str(),
                sequence = warning.sequence.and_then(|sequence| i64::try_from(sequence).ok()),
                error = %error,
                "A checkpoint cannot be read and is left out",
            );
        }
        Ok(answer.value)
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore")
            .field("path", &self.path())
            .field("capabilities", &self.0.capabilities)
            .finish_non_exhaustive()
    }
}

impl CheckpointStore for SqliteStore {
    async fn put(&self, put: Put) -> Result<u64, StoreError> {
        self.0.capabilities.admit(&put.key, &put.state)?;
        let (key, clock, keep) = (put.key.clone(), self.0.clock.clone(), self.0.capabilities.kept);
        self.write(&key, move |tx| write::put(tx, put, keep, clock.now())).await
    }

    async fn latest(&self, key: &CheckpointKey) -> Result<Option<Checkpoint>, StoreError> {
        let own = key.clone();
        self.read(Some(key), move |tx| read::latest(tx, &own)).await
    }

    async fn get(
        &self,
        key: &CheckpointKey,
        sequence: u64,
    ) -> Result<Option<Checkpoint>, StoreError> {
        let own = key.clone();
        let answer = self.read(Some(key), move |tx| read::get(tx, &own, sequence)).await;
        answer.map_err(|error| error.at_sequence(sequence))
    }

    async fn history(
        &self,
        key: &CheckpointKey,
        page: Page,
    ) -> Result<Vec<Checkpoint>, StoreError> {
        let own = key.clone();
        self.read(Some(key), move |tx| read::history(tx, &own, page)).await
    }

    async fn list(&self, query: Query) -> Result<Vec<Checkpoint>, StoreError> {
        self.read(None, move |tx| read::list(tx, &query)).await
    }

    async fn put_writes(&self, writes: PutWrites) -> Result<(), StoreError> {
        for write in &writes.writes {
            self.0.capabilities.admit(&writes.key, &write.value)?;
        }
        let (key, sequence, clock) = (writes.key.clone(), writes.sequence, self.0.clock.clone());
        let answer = self.write(&key, move |tx| write::put_writes(tx, &writes, clock.now())).await;
        answer.map_err(|error| error.at_sequence(sequence))
    }

    async fn acquire(
        &self,
        key: &CheckpointKey,
        owner: &str,
        time: Duration,
    ) -> Result<Lease, StoreError> {
        let (own, owner, clock) = (key.clone(), owner.to_owned(), self.0.clock.clone());
        self.write(key, move |tx| write::acquire(tx, &own, &owner, time, clock.now())).await
    }

    async fn renew(&self, lease: &Lease, time: Duration) -> Result<Lease, StoreError> {
        let (own, clock) = (lease.clone(), self.0.clock.clone());
        self.write(&lease.key, move |tx| write::renew(tx, &own, time, clock.now())).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let own = lease.clone();
        self.write(&lease.key, move |tx| write::release(tx, &own)).await
    }

    async fn delete(&self, id: &WorkflowId, lease: Option<&Lease>) -> Result<(), StoreError> {
        let (own, lease, clock) = (id.clone(), lease.cloned(), self.0.clock.clone());
        let key = id.clone().into();
        self.write(&key, move |tx| write::delete(tx, &own, lease.as_ref(), clock.now())).await
    }

    async fn prune(&self, key: &CheckpointKey, keep: NonZeroU32) -> Result<u64, StoreError> {
        let own = key.clone();
        self.write(key, move |tx| write::prune(tx, &own, keep)).await
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities
    }

    fn place(&self, _: &CheckpointKey, _: u64) -> Place {
        Place::File(self.path().to_owned())
    }
}
