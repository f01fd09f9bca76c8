//! Checkpoints in Redis or Valkey, for workflows that run on many machines.
//!
//! Every write is one script on the server, which does nothing unless the chain is as the writer
//! has seen it, so of any number of processes one wins each sequence. The server's clock measures
//! leases.
//!
//! ```no_run
//! use buttress::checkpoint::{CheckpointKey, CheckpointStore, Put, WorkflowId};
//! use buttress_stores::RedisStore;
//!
//! # async fn example() -> Result<(), buttress::checkpoint::StoreError> {
//! let store = RedisStore::connect("redis://agent:secret@localhost/").await?;
//! let key = CheckpointKey::new(WorkflowId::new("trades/2026-11-25")?);
//! let head = store.latest(&key).await?.map(|checkpoint| checkpoint.sequence);
//! store.put(Put::new(key, head, &b"{}"[..]).phase("research")).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What survives
//!
//! That is for the server's settings to say, so [`Durable::Configured`] is what the store claims:
//!
//! | settings | what is acknowledged survives |
//! |---|---|
//! | `appendonly yes`, `appendfsync always` | the server's death and a power cut |
//! | `appendonly yes`, `appendfsync everysec` | all but the last second or two |
//! | snapshots only (`save`) | all since the last snapshot is lost |
//! | `maxmemory` with a policy other than `noeviction` | nothing for certain: keys are deleted |
//!
//! Connecting warns of the last two. Replicas follow behind: a failover can lose acknowledged
//! checkpoints, and tokens of leases with them, which are then given out again. `WAIT` makes that
//! rarer and does not end it, since a replica without the write can still be chosen. Where that
//! must not be, use Postgres with synchronous replication.
//!
//! # Servers
//!
//! Redis 4 and newer, or Valkey, with Lua. The keys of a workflow are in one slot (`{..}`) and each
//! script uses those of one workflow, so a proxy before a cluster will do; the store itself speaks
//! to one server. A user needs `@read`, `@write`, `@scripting`, `@connection` and `TIME` on the
//! keys of the prefix.
//!
//! All calls share one connection. One that was lost is replaced; where it is lost in the middle of
//! a write, the store writes once more: the write id makes that harmless. Where that fails too the
//! answer is `Unavailable`, and the caller may repeat the same put, with the same write id, whether
//! it was stored or not.
//!
//! The index of all chains is a key of its own. A chain is in it before its first checkpoint is
//! written, and stays for good, so a crash between the two loses none: an entry without a
//! checkpoint is passed over. A deleted chain leaves its entry and its state, which keeps sequences
//! and tokens growing.
//!
//! # TLS
//!
//! Feature `redis-rustls` adds rustls with the certificates of the system, for addresses that begin
//! with `rediss://`; without it those are refused. A client of one's own, with its certificates,
//! goes to [`RedisStore::with_client`].
//!
//! [`Durable::Configured`]: buttress::checkpoint::Durable::Configured

mod builder;
mod connection;
mod error;
mod keys;
mod reads;
mod scripts;
mod state;
#[cfg(feature = "redis-rustls")]
mod tls;
mod writes;

use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use buttress::checkpoint::{
    Capabilities, Checkpoint, CheckpointKey, CheckpointStore, Clock, Lease, Page, Place, Put,
    PutWrites, Query, StoreError, WorkflowId,
};
use redis::Client;

pub use self::builder::RedisBuilder;
use self::{
    connection::Link,
    error::{Failure, unavailable},
    keys::Keys,
    scripts::Scripts,
};
use crate::record::Body;

/// Keeps checkpoints in Redis; clones share the connection.
///
/// See the [module docs](self) for what it needs and promises.
#[derive(Clone)]
#[must_use]
pub struct RedisStore(Arc<Inner>);

struct Inner {
    link: Link,
    scripts: Scripts,
    prefix: String,
    /// Where the server is, without user and password.
    place: String,
    capabilities: Capabilities,
    /// The server's own where none.
    clock: Option<Clock>,
    call_timeout: Duration,
}

// ===== impl RedisStore =====

impl RedisStore {
    /// Connects to a server, such as `redis://user:password@host:6379/0`.
    ///
    /// # Errors
    ///
    /// As [`RedisBuilder::connect`].
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::builder(url).connect().await
    }

    /// Sets up a store at an address.
    pub fn builder(url: impl Into<String>) -> RedisBuilder {
        RedisBuilder::at(url.into())
    }

    /// Sets up a store with a client of one's own, with its certificates.
    pub fn with_client(client: Client) -> RedisBuilder {
        RedisBuilder::of(client)
    }

    fn keys(&self, key: &CheckpointKey) -> Keys {
        Keys::new(&self.0.prefix, key)
    }

    /// Makes an attempt, and others where the connection was lost under it.
    async fn attempt<T, F>(&self, attempt: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let attempts = async {
            for _ in 0..2 {
                match attempt().await {
                    Err(Failure { lost: true, .. }) => {}
                    other => return other,
                }
            }
            attempt().await
        };
        let done = tokio::time::timeout(self.0.call_timeout, attempts).await;
        done.unwrap_or_else(|_| Err(unavailable("no answer in time"))).map_err(|failure| {
            match failure.error.place() {
                Some(_) => failure.error,
                None => failure.error.at_place(&self.0.place),
            }
        })
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore")
            .field("place", &self.0.place)
            .field("prefix", &self.0.prefix)
            .field("capabilities", &self.0.capabilities)
            .finish_non_exhaustive()
    }
}

impl CheckpointStore for RedisStore {
    async fn put(&self, put: Put) -> Result<u64, StoreError> {
        self.0.capabilities.admit(&put.key, &put.state)?;
        let body = Body::of_state(&put.state).await?;
        let done = self.attempt(|| self.put_once(&put, &body)).await;
        done.map_err(|error| error.in_chain(&put.key))
    }

    async fn latest(&self, key: &CheckpointKey) -> Result<Option<Checkpoint>, StoreError> {
        let done = self.attempt(|| self.newest(key)).await;
        done.map_err(|error| error.in_chain(key))
    }

    async fn get(
        &self,
        key: &CheckpointKey,
        sequence: u64,
    ) -> Result<Option<Checkpoint>, StoreError> {
        let done = self.attempt(|| self.get_once(key, sequence)).await;
        done.map_err(|error| error.in_chain(key).at_sequence(sequence))
    }

    async fn history(
        &self,
        key: &CheckpointKey,
        page: Page,
    ) -> Result<Vec<Checkpoint>, StoreError> {
        let done = self.attempt(|| self.history_once(key, page)).await;
        done.map_err(|error| error.in_chain(key))
    }

    async fn list(&self, query: Query) -> Result<Vec<Checkpoint>, StoreError> {
        self.attempt(|| self.list_once(&query)).await
    }

    async fn put_writes(&self, writes: PutWrites) -> Result<(), StoreError> {
        for write in &writes.writes {
            self.0.capabilities.admit(&writes.key, &write.value)?;
        }
        let encoded = writes::encode(&writes).await?;
        let done = self.attempt(|| self.put_writes_once(&writes, &encoded)).await;
        done.map_err(|error| error.in_chain(&writes.key).at_sequence(writes.sequence))
    }

    async fn acquire(
        &self,
        key: &CheckpointKey,
        owner: &str,
        time: Duration,
    ) -> Result<Lease, StoreError> {
        let rule = |seen: &state::Seen| seen.state.acquire(key, owner, time, seen.now);
        let done = self.attempt(|| self.lease_once(key, true, rule)).await;
        done.map_err(|error| error.in_chain(key))
    }

    async fn renew(&self, lease: &Lease, time: Duration) -> Result<Lease, StoreError> {
        let rule = |seen: &state::Seen| seen.state.renew(lease, time, seen.now);
        let done = self.attempt(|| self.lease_once(&lease.key, true, rule)).await;
        done.map_err(|error| error.in_chain(&lease.key))
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let rule = |seen: &state::Seen| seen.state.release(lease).map(|()| lease.clone());
        let done = self.attempt(|| self.lease_once(&lease.key, false, rule)).await;
        done.map(drop).map_err(|error| error.in_chain(&lease.key))
    }

    async fn delete(&self, id: &WorkflowId, lease: Option<&Lease>) -> Result<(), StoreError> {
        let done = self.attempt(|| self.delete_once(id, lease)).await;
        done.map_err(|error| {
            // Held and fenced name their chain already.
            if error.workflow_id().is_some() {
                return error;
            }
            error.in_chain(&CheckpointKey::new(id.clone()))
        })
    }

    async fn prune(&self, key: &CheckpointKey, keep: NonZeroU32) -> Result<u64, StoreError> {
        let done = self.attempt(|| self.prune_once(key, keep)).await;
        done.map_err(|error| error.in_chain(key))
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities
    }

    fn place(&self, key: &CheckpointKey, sequence: u64) -> Place {
        let data = self.keys(key).data;
        Place::Uri(format!("{}#{data}:c{}", self.0.place, keys::sequence(sequence)))
    }
}
