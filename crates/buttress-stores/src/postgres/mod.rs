//! Checkpoints in Postgres, for workflows that run on many machines.
//!
//! Every write is one transaction under a lock of its chain, so of any number of processes one wins
//! each sequence. The server's clock measures leases. What is acknowledged is as durable as the
//! server keeps a commit: with `fsync` and `full_page_writes` on, as they are unless somebody
//! changed them, it survives a crash and a power cut; the store turns `synchronous_commit` on for
//! its transactions where a role has it off. A failover to a replica that does not replicate
//! synchronously can lose what was acknowledged, and tokens with it.
//!
//! ```no_run
//! use buttress::checkpoint::{CheckpointKey, CheckpointStore, Put, WorkflowId};
//! use buttress_stores::PostgresStore;
//!
//! # async fn example() -> Result<(), buttress::checkpoint::StoreError> {
//! let store = PostgresStore::connect("postgres://agent:secret@localhost/agents").await?;
//! let key = CheckpointKey::new(WorkflowId::new("trades/2026-11-25")?);
//! let head = store.latest(&key).await?.map(|checkpoint| checkpoint.sequence);
//! store.put(Put::new(key, head, &b"{}"[..]).phase("research")).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Servers and poolers
//!
//! Postgres 12 and newer, in UTF8. No statement is ever prepared by name and nothing outlives a
//! transaction, so pgbouncer may pool by transaction, with `max_prepared_statements = 0` too.
//!
//! A connection that a server, a pooler or a firewall ended while it was idle is replaced before it
//! is used. Where a connection is lost in the middle of a write, the store writes once more: the
//! write id makes that harmless. Where that fails too the answer is `Unavailable`, and the caller
//! may repeat the same put, with the same write id, whether it was stored or not.
//!
//! # TLS
//!
//! With feature `postgres-rustls` an address that ends in `?sslmode=require` is connected to by
//! rustls, which always verifies the server's certificate, by the roots of the system or those of
//! `PostgresBuilder::tls`. Without `require` nothing is encrypted; without the feature such an
//! address is refused. For another TLS build a pool with its connector, such as that of
//! `postgres-openssl`, and give it to [`PostgresStore::with_pool`].
//!
//! # Tables
//!
//! Connecting creates the tables `buttress_chains`, `buttress_checkpoints`, `buttress_writes` and
//! `buttress_version`, or brings them to the newest version, in one transaction. A role that may
//! not create tables can use those that another has created. Tables of a newer version are
//! `TooNew` and left alone. A deleted chain leaves one row, which keeps its sequences and tokens
//! growing.

mod builder;
mod connection;
mod error;
mod lock;
mod reads;
mod record;
mod schema;
mod statements;
#[cfg(feature = "postgres-rustls")]
mod tls;
mod writes;

use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use buttress::checkpoint::{
    Capabilities, Checkpoint, CheckpointKey, CheckpointStore, Clock, Lease, Page, Place, Put,
    PutWrites, Query, StoreError, WorkflowId,
};
/// The pool that [`PostgresStore::with_pool`] takes is of this version.
pub use deadpool_postgres;
use deadpool_postgres::Pool;

pub use self::builder::PostgresBuilder;
use self::{
    error::{Failure, Lost, unavailable},
    statements::Statements,
};

/// Keeps checkpoints in Postgres; clones share the connections.
///
/// See the [module docs](self) for what it needs and promises.
#[derive(Clone)]
#[must_use]
pub struct PostgresStore(Arc<Inner>);

struct Inner {
    pool: Pool,
    statements: Statements,
    /// What every transaction sets for itself.
    settings: String,
    /// What the names of locks begin with.
    scope: String,
    /// Where the server is, without user and password.
    place: Option<String>,
    capabilities: Capabilities,
    /// The server's own where none.
    clock: Option<Clock>,
    call_timeout: Duration,
}

/// Whether an attempt may be made again when the answer to its commit was lost.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// It comes to the same.
    Harmless,
    /// It might undo what somebody else has done in between.
    Unsafe,
}

// ===== impl PostgresStore =====

impl PostgresStore {
    /// Connects to a server, such as `postgres://user:password@host:5432/database`, and creates
    /// the tables where they are missing.
    ///
    /// # Errors
    ///
    /// `Setup` where the address, the password, the database or the rights are wrong; `TooNew`;
    /// `Unavailable`.
    pub async fn connect(url: &str) -> Result<Self, StoreError> {
        Self::builder(url).connect().await
    }

    /// Sets up a store at an address.
    pub fn builder(url: impl Into<String>) -> PostgresBuilder {
        PostgresBuilder::at(url.into())
    }

    /// Sets up a store on a pool of one's own, with its TLS, size and timeouts.
    pub fn with_pool(pool: Pool) -> PostgresBuilder {
        PostgresBuilder::on(pool)
    }

    /// Makes an attempt, and others where the connection was lost under it.
    async fn attempt<T, F>(&self, repeat: Repeat, attempt: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let attempts = async {
            for _ in 0..2 {
                match attempt().await {
                    Err(Failure { lost: Lost::Before, .. }) => {}
                    Err(Failure { lost: Lost::Within, .. }) if repeat == Repeat::Harmless => {}
                    other => return other,
                }
            }
            attempt().await
        };
        let done = tokio::time::timeout(self.0.call_timeout, attempts).await;
        done.unwrap_or_else(|_| Err(unavailable("no answer in time")))
            .map_err(|failure| failure.at(self.0.place.as_deref()))
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("place", &self.0.place)
            .field("tables", &self.0.scope)
            .field("capabilities", &self.0.capabilities)
            .finish_non_exhaustive()
    }
}

impl CheckpointStore for PostgresStore {
    async fn put(&self, put: Put) -> Result<u64, StoreError> {
        self.0.capabilities.admit(&put.key, &put.state)?;
        let state = record::digest(&put.state).await;
        let done = self.attempt(Repeat::Harmless, || self.put_once(&put, &state)).await;
        done.map_err(|error| error.in_chain(&put.key))
    }

    async fn latest(&self, key: &CheckpointKey) -> Result<Option<Checkpoint>, StoreError> {
        let done = self.attempt(Repeat::Harmless, || self.latest_once(key)).await;
        done.map_err(|error| error.in_chain(key))
    }

    async fn get(
        &self,
        key: &CheckpointKey,
        sequence: u64,
    ) -> Result<Option<Checkpoint>, StoreError> {
        let done = self.attempt(Repeat::Harmless, || self.get_once(key, sequence)).await;
        done.map_err(|error| error.in_chain(key).at_sequence(sequence))
    }

    async fn history(
        &self,
        key: &CheckpointKey,
        page: Page,
    ) -> Result<Vec<Checkpoint>, StoreError> {
        let done = self.attempt(Repeat::Harmless, || self.history_once(key, page)).await;
        done.map_err(|error| error.in_chain(key))
    }

    async fn list(&self, query: Query) -> Result<Vec<Checkpoint>, StoreError> {
        self.attempt(Repeat::Harmless, || self.list_once(&query)).await
    }

    async fn put_writes(&self, writes: PutWrites) -> Result<(), StoreError> {
        for write in &writes.writes {
            self.0.capabilities.admit(&writes.key, &write.value)?;
        }
        let distinct = record::sum_up(&writes).await;
        let attempt = || self.put_writes_once(&writes, &distinct);
        let done = self.attempt(Repeat::Harmless, attempt).await;
        done.map_err(|error| error.in_chain(&writes.key).at_sequence(writes.sequence))
    }

    async fn acquire(
        &self,
        key: &CheckpointKey,
        owner: &str,
        time: Duration,
    ) -> Result<Lease, StoreError> {
        let done = self.attempt(Repeat::Harmless, || self.acquire_once(key, owner, time)).await;
        done.map_err(|error| error.in_chain(key))
    }

    async fn renew(&self, lease: &Lease, time: Duration) -> Result<Lease, StoreError> {
        let done = self.attempt(Repeat::Harmless, || self.renew_once(lease, time)).await;
        done.map_err(|error| error.in_chain(&lease.key))
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let done = self.attempt(Repeat::Harmless, || self.release_once(lease)).await;
        done.map_err(|error| error.in_chain(&lease.key))
    }

    async fn delete(&self, id: &WorkflowId, lease: Option<&Lease>) -> Result<(), StoreError> {
        let done = self.attempt(Repeat::Unsafe, || self.delete_once(id, lease)).await;
        done.map_err(|error| {
            // Held and fenced name their chain already.
            if error.workflow_id().is_some() {
                return error;
            }
            error.in_chain(&CheckpointKey::new(id.clone()))
        })
    }

    async fn prune(&self, key: &CheckpointKey, keep: NonZeroU32) -> Result<u64, StoreError> {
        let done = self.attempt(Repeat::Unsafe, || self.prune_once(key, keep)).await;
        done.map_err(|error| error.in_chain(key))
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities
    }

    fn place(&self, key: &CheckpointKey, sequence: u64) -> Place {
        let Some(server) = &self.0.place else { return Place::Unknown };
        Place::Uri(format!("{server}#{}:{key}:{sequence}", self.0.scope))
    }
}
