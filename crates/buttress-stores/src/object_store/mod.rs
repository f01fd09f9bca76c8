//! Checkpoints in S3, Google Cloud Storage, Azure, or whatever the `object_store` crate speaks to.
//!
//! All it needs of a backend is that an object is created only if it is absent, that a listing
//! shows what was created before, and that an object is whole or not there. A chain is a log of
//! numbered objects: checkpoints, writes of tasks, leases and deletions each take the next number,
//! so of any number of writers one wins each place, and a writer whose lease has gone is refused.
//!
//! ```
//! use std::sync::Arc;
//!
//! use buttress::checkpoint::{CheckpointStore, Put, WorkflowId};
//! use buttress_stores::ObjectStore;
//! use object_store::local::LocalFileSystem;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! // For S3: `AmazonS3Builder::from_env().with_bucket_name("agents").build()?`
//! let backend = LocalFileSystem::new_with_prefix(folder.path())?.with_fsync(true);
//! let store = ObjectStore::builder(Arc::new(backend)).prefix("checkpoints").open().await?;
//! let id = WorkflowId::new("trades/2026-11-25")?;
//! let first = store.put(Put::new(id.clone(), None, *b"{}")).await?;
//! assert_eq!(store.latest(&id.into()).await?.map(|head| head.sequence), Some(first));
//! # Ok(())
//! # }
//! ```
//!
//! # Backends
//!
//! The cloud comes by a feature of the `object_store` crate (`aws`, `gcp`, `azure`, `fs`), which is
//! named beside this crate, and so does TLS. Opening looks whether the backend honours
//! create-if-absent, since some that speak S3 do not; with S3 itself leave
//! `S3ConditionalPut::ETagMatch`, the default. Where it is said to survive, what is acknowledged
//! survives as the backend promises; `LocalFileSystem` needs `with_fsync(true)`, and
//! `object_store::memory::InMemory` is for tests.
//!
//! Object versioning and lifecycle rules must not remove objects of a chain that is in use.
//!
//! # Leases
//!
//! A store of objects has no clock to ask, so leases are measured by the clocks of their holders.
//! One that goes ahead takes a lease over early; the token then refuses the former holder, so
//! nothing is written twice.
//!
//! # Costs
//!
//! A put is one object created and one listing, and behind the answer another listing and a
//! deletion; the first put of a process, and one behind somebody else's, read the end of the chain
//! before. A read lists the chain and reads its newest objects. Objects are listed by the thousand,
//! so chains that keep all their checkpoints are slow. Each renewal of a lease is an object, which
//! replaces the one before.
//!
//! # Errors
//!
//! Where it is not known whether an object was created, it is read back. Where that fails too the
//! answer is `Unavailable`, and the caller may repeat the same put, with the same write id, whether
//! it was stored or not. A put whose future is dropped may still be stored, and a deletion goes on
//! in the background. The chains of a workflow are deleted one by one: a process that is killed
//! meanwhile leaves the rest, for whoever deletes once more.

mod append;
mod builder;
mod error;
mod list;
mod log;
mod names;

use std::{
    collections::HashMap,
    fmt,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use ::object_store::path::Path;
use buttress::checkpoint::{
    Capabilities, ChainState, Checkpoint, CheckpointKey, CheckpointStore, Clock, Lease, Page,
    Place, Put, PutWrites, Query, StoreError, WorkflowId, WriteId,
};
use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard};

use self::append::{Decided, Known};
pub use self::builder::ObjectStoreBuilder;
use crate::record::{Body, Entry, Kind, Record};

/// How long somebody who wants to write waits for who cleans up: an answer may never come.
const GRACE: Duration = Duration::from_millis(500);
/// How many chains are remembered before those that nobody uses are forgotten.
const REMEMBERED: usize = 1024;

/// Keeps checkpoints in any store of objects; clones share what they know of chains.
///
/// See the [module docs](self) for what it needs and promises.
#[derive(Clone)]
#[must_use]
pub struct ObjectStore(Arc<Inner>, Arc<Mutex<Chains>>);

type Chains = HashMap<CheckpointKey, Slot>;

/// What this process knows of a chain, for its only writer.
#[derive(Clone, Default)]
struct Slot {
    known: Arc<AsyncMutex<Known>>,
    /// Tells who cleans up that somebody waits to write.
    wanted: Arc<Notify>,
}

struct Inner {
    store: Arc<dyn ::object_store::ObjectStore>,
    /// What all names begin with; empty for all of the bucket.
    base: String,
    capabilities: Capabilities,
    call_timeout: Duration,
    clock: Clock,
}

// ===== impl ObjectStore =====

impl ObjectStore {
    /// Sets up a store on a backend.
    pub fn builder(backend: Arc<dyn ::object_store::ObjectStore>) -> ObjectStoreBuilder {
        ObjectStoreBuilder::new(backend)
    }

    fn new(inner: Inner) -> Self {
        Self(Arc::new(inner), Arc::default())
    }

    /// Returns what this process knows of a chain, for its only writer.
    fn slot(&self, key: &CheckpointKey) -> Slot {
        let mut chains = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        if chains.len() >= REMEMBERED && !chains.contains_key(key) {
            chains.retain(|_, slot| Arc::strong_count(&slot.known) > 1);
        }
        chains.entry(key.clone()).or_default().clone()
    }

    /// Appends to a chain as its only writer in this process and returns the chain with it; cleans
    /// up behind the answer, which the next writer of the chain waits for, though not for long.
    async fn append(
        &self,
        key: &CheckpointKey,
        body: &Body,
        decide: impl Fn(&ChainState, SystemTime) -> Result<Decided, StoreError>,
    ) -> Result<ChainState, StoreError> {
        let slot = self.slot(key);
        let mut known = slot.lock().await;
        let appended = self.0.append(key, &mut known, body, decide).await;
        let state = appended.inspect_err(|_| known.forget())?;
        let (inner, key, newest) = (Arc::clone(&self.0), key.clone(), state.last);
        tokio::spawn(async move {
            let chain = names::chain(&inner.base, &key);
            let cleaning = async {
                match (known.kind(newest), inner.capabilities.kept) {
                    (Some(Kind::Checkpoint), Some(keep)) => {
                        inner.prune(&chain, &mut known, keep.get()).await.map(drop)
                    }
                    (Some(Kind::Deleted), _) => {
                        inner.prune(&chain, &mut known, u32::MAX).await.map(drop)
                    }
                    (Some(Kind::Lease), _) => inner.prune_lease(&chain, &mut known, newest).await,
                    _ => Ok(()),
                }
            };
            // What fails or is given up is tried again behind the next one.
            tokio::select! {
                done = cleaning => drop(done),
                () = slot.is_wanted() => {}
                () = tokio::time::sleep(inner.call_timeout) => {}
            }
        });
        Ok(state)
    }

    /// Appends a lease, or that nobody holds it any more.
    async fn lease(
        &self,
        key: &CheckpointKey,
        is_held: bool,
        rule: impl Fn(&ChainState, SystemTime) -> Result<Lease, StoreError>,
    ) -> Result<Lease, StoreError> {
        let id = WriteId::random();
        let decide = |state: &ChainState, now: SystemTime| {
            let lease = rule(state, now)?;
            let mut next = state.clone();
            next.last = next.next(key)?;
            next.token = lease.token;
            next.holder = is_held.then(|| (lease.owner.clone(), lease.until));
            Ok(Decided { id, entry: Entry::Lease, state: next })
        };
        let state = self.append(key, &Body::empty(), decide).await?;
        let (owner, until) = state.holder.unwrap_or((String::new(), SystemTime::UNIX_EPOCH));
        Ok(Lease::new(key.clone(), owner, state.token, until))
    }

    /// Waits for an answer as long as a call may take.
    async fn within<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let done = tokio::time::timeout(self.0.call_timeout, call).await;
        done.unwrap_or_else(|_| Err(error::unavailable("no answer in time")))
    }

    async fn put_once(&self, put: &Put, body: &Body) -> Result<u64, StoreError> {
        let decide = |state: &ChainState, now: SystemTime| {
            let mut next = state.clone();
            next.last = state.admit_put(put, now)?;
            next.head = Some(next.last);
            let record = Record::of_put(put, next.last, next);
            Ok(Decided { id: put.write_id, entry: record.entry, state: record.chain })
        };
        match self.append(&put.key, body, decide).await {
            Ok(state) => Ok(state.last),
            Err(error) if error.is_conflict() => match self.0.find_repeat(put).await? {
                Some(sequence) => Ok(sequence),
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    async fn put_writes_once(&self, writes: &PutWrites) -> Result<(), StoreError> {
        let body = Body::of_writes(&writes.writes).await?;
        let id = WriteId::random();
        let decide = |state: &ChainState, now: SystemTime| {
            state.admit_writes(writes, || true, now)?;
            let mut next = state.clone();
            next.last = next.next(&writes.key)?;
            let entry = Entry::Writes(writes.sequence, writes.writes.clone());
            Ok(Decided { id, entry, state: next })
        };
        match self.append(&writes.key, &body, decide).await {
            Err(error) if error.is_conflict() => {
                let chain = self.chain(&writes.key);
                match self.0.checkpoint(&chain, writes.sequence).await? {
                    Some(_) => Err(error),
                    None => Err(StoreError::not_found()),
                }
            }
            done => done.map(drop),
        }
    }

    async fn delete_once(&self, id: &WorkflowId, lease: Option<&Lease>) -> Result<(), StoreError> {
        let now = self.0.clock.now();
        let mut chains = self.0.chains_of(id).await?;
        for (key, reading) in &chains {
            reading.tip.state.delete(key, lease, now)?;
        }
        chains.retain(|(_, reading)| {
            let state = &reading.tip.state;
            state.head.is_some() || state.holder.is_some()
        });
        for (key, _) in chains {
            let write_id = WriteId::random();
            let decide = |state: &ChainState, now: SystemTime| {
                state.delete(&key, lease, now)?;
                let mut next = state.clone();
                next.last = next.next(&key)?;
                (next.head, next.holder) = (None, None);
                Ok(Decided { id: write_id, entry: Entry::Deleted, state: next })
            };
            self.append(&key, &Body::empty(), decide).await?;
        }
        Ok(())
    }

    fn chain(&self, key: &CheckpointKey) -> Path {
        names::chain(&self.0.base, key)
    }
}

// ===== impl Slot =====

impl Slot {
    /// Waits to be the only writer.
    async fn lock(&self) -> OwnedMutexGuard<Known> {
        loop {
            // Again and again, as who cleans up may only just have begun.
            self.wanted.notify_waiters();
            let locked = Arc::clone(&self.known).lock_owned();
            if let Ok(known) = tokio::time::timeout(GRACE, locked).await {
                return known;
            }
        }
    }

    /// Waits until somebody has waited for a while.
    async fn is_wanted(&self) {
        self.wanted.notified().await;
        tokio::time::sleep(GRACE).await;
    }
}

impl Inner {
    /// Returns the folder of everything.
    fn root(&self) -> Path {
        Path::parse(&self.base).unwrap_or_default()
    }
}

impl fmt::Debug for ObjectStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStore")
            .field("store", &format_args!("{}", self.0.store))
            .field("prefix", &self.0.base)
            .field("capabilities", &self.0.capabilities)
            .finish_non_exhaustive()
    }
}

impl CheckpointStore for ObjectStore {
    async fn put(&self, put: Put) -> Result<u64, StoreError> {
        self.0.capabilities.admit(&put.key, &put.state)?;
        let body = Body::of_state(&put.state).await?;
        let done = self.within(self.put_once(&put, &body)).await;
        done.map_err(|error| error.in_chain(&put.key))
    }

    async fn latest(&self, key: &CheckpointKey) -> Result<Option<Checkpoint>, StoreError> {
        let done = self.within(self.0.reading(&self.chain(key), true)).await;
        done.map(|reading| reading.head).map_err(|error| error.in_chain(key))
    }

    async fn get(
        &self,
        key: &CheckpointKey,
        sequence: u64,
    ) -> Result<Option<Checkpoint>, StoreError> {
        let done = self.within(self.0.checkpoint(&self.chain(key), sequence)).await;
        done.map_err(|error| error.in_chain(key).at_sequence(sequence))
    }

    async fn history(
        &self,
        key: &CheckpointKey,
        page: Page,
    ) -> Result<Vec<Checkpoint>, StoreError> {
        let chain = self.chain(key);
        let done = self.within(self.0.history(&chain, page.before, page.limit)).await;
        done.map_err(|error| error.in_chain(key))
    }

    async fn list(&self, query: Query) -> Result<Vec<Checkpoint>, StoreError> {
        if query.limit == 0 {
            return Ok(Vec::new());
        }
        self.within(self.0.heads(&query)).await
    }

    async fn put_writes(&self, writes: PutWrites) -> Result<(), StoreError> {
        for write in &writes.writes {
            self.0.capabilities.admit(&writes.key, &write.value)?;
        }
        let done = self.within(self.put_writes_once(&writes)).await;
        done.map_err(|error| error.in_chain(&writes.key).at_sequence(writes.sequence))
    }

    async fn acquire(
        &self,
        key: &CheckpointKey,
        owner: &str,
        time: Duration,
    ) -> Result<Lease, StoreError> {
        let rule = |state: &ChainState, now: SystemTime| state.acquire(key, owner, time, now);
        let done = self.within(self.lease(key, true, rule)).await;
        done.map_err(|error| error.in_chain(key))
    }

    async fn renew(&self, lease: &Lease, time: Duration) -> Result<Lease, StoreError> {
        let rule = |state: &ChainState, now: SystemTime| state.renew(lease, time, now);
        let done = self.within(self.lease(&lease.key, true, rule)).await;
        done.map_err(|error| error.in_chain(&lease.key))
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let rule = |state: &ChainState, _: SystemTime| state.release(lease).map(|()| lease.clone());
        let done = self.within(self.lease(&lease.key, false, rule)).await;
        done.map(drop).map_err(|error| error.in_chain(&lease.key))
    }

    async fn delete(&self, id: &WorkflowId, lease: Option<&Lease>) -> Result<(), StoreError> {
        let (store, own, lease) = (self.clone(), id.clone(), lease.cloned());
        // In a task of its own: dropped half-way it would leave some of the chains.
        let deleting =
            tokio::spawn(
                async move { store.within(store.delete_once(&own, lease.as_ref())).await },
            );
        let done = deleting.await.unwrap_or_else(|error| Err(StoreError::unavailable(error)));
        done.map_err(|error| {
            // Held and fenced name their chain already.
            if error.workflow_id().is_some() {
                return error;
            }
            error.in_chain(&CheckpointKey::new(id.clone()))
        })
    }

    async fn prune(&self, key: &CheckpointKey, keep: NonZeroU32) -> Result<u64, StoreError> {
        let pruned = async {
            let mut known = self.slot(key).lock().await;
            self.0.prune(&self.chain(key), &mut known, keep.get()).await
        };
        self.within(pruned).await.map_err(|error| error.in_chain(key))
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities
    }

    fn place(&self, key: &CheckpointKey, sequence: u64) -> Place {
        let path = names::record(&self.chain(key), sequence);
        Place::Uri(format!("{}/{path}", self.0.store))
    }
}
