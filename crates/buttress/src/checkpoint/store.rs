use std::{fmt, num::NonZeroU32, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use super::{
    Checkpoint, CheckpointKey, Lease, Page, Put, PutWrites, Query, StoreError, WorkflowId,
};

/// Where checkpoints are kept: a chain of them for each [`CheckpointKey`].
///
/// A store keeps every promise below or says in [`capabilities`](Self::capabilities) that it does
/// not; `buttress_stores::conformance` tests one. Implement it with plain `async fn`.
///
/// A future that is dropped leaves the old state or the new one, whole, and the store usable.
/// Every error says by [`is_retryable`](StoreError::is_retryable) whether a repeat may help.
pub trait CheckpointStore: Send + Sync + 'static {
    /// Appends a checkpoint and returns its sequence, which is larger than every one of the chain
    /// before, also of a chain that was deleted.
    ///
    /// When it answers `Ok`, the checkpoint is as durable as
    /// [`Capabilities::durable`] says. A repeat with the same write id and content
    /// answers the same and stores nothing.
    ///
    /// # Errors
    ///
    /// [`Conflict`] where the head is not `parent`, also where the write id was used for something
    /// else before; [`Fenced`] where the token is not the newest of the chain, also once it is released
    /// or has run out and somebody else has taken the lease; [`Held`] where no token is given and
    /// somebody holds the lease; [`TooLarge`], [`Unavailable`].
    ///
    /// [`Conflict`]: super::StoreErrorKind::Conflict
    /// [`Fenced`]: super::StoreErrorKind::Fenced
    /// [`Held`]: super::StoreErrorKind::Held
    /// [`TooLarge`]: super::StoreErrorKind::TooLarge
    /// [`Unavailable`]: super::StoreErrorKind::Unavailable
    fn put(&self, put: Put) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Returns the newest checkpoint of a chain with the writes that belong to it.
    ///
    /// # Errors
    ///
    /// `Corrupt` where there are checkpoints and none can be read: never an empty answer.
    fn latest(
        &self,
        key: &CheckpointKey,
    ) -> impl Future<Output = Result<Option<Checkpoint>, StoreError>> + Send;

    /// Returns one checkpoint; none where there never was one or it has been pruned.
    ///
    /// # Errors
    ///
    /// `Corrupt` where it cannot be read.
    fn get(
        &self,
        key: &CheckpointKey,
        sequence: u64,
    ) -> impl Future<Output = Result<Option<Checkpoint>, StoreError>> + Send;

    /// Returns checkpoints of a chain, the newest first; what cannot be read is left out with a
    /// warning.
    ///
    /// # Errors
    ///
    /// `Unavailable`.
    fn history(
        &self,
        key: &CheckpointKey,
        page: Page,
    ) -> impl Future<Output = Result<Vec<Checkpoint>, StoreError>> + Send;

    /// Returns the heads of chains in an order of the store's that does not change.
    ///
    /// A chain that is there all the while is in exactly one page, whatever comes and goes.
    ///
    /// # Errors
    ///
    /// `Unavailable`.
    fn list(
        &self,
        query: Query,
    ) -> impl Future<Output = Result<Vec<Checkpoint>, StoreError>> + Send;

    /// Stores what tasks of the step after the head have to say, all or none.
    ///
    /// The writes stay with their checkpoint: the next put takes the step over, in one transaction.
    ///
    /// # Errors
    ///
    /// `NotFound` where there is no such checkpoint; `Conflict` where it is not the head any more;
    /// `Fenced` and `Held` as [`put`](Self::put); `TooLarge`, `Unavailable`.
    fn put_writes(&self, writes: PutWrites) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Takes the lease of a chain, whether it has checkpoints or not.
    ///
    /// The token is larger than every one that the chain ever had, also before it was deleted.
    /// Whoever holds it may take it anew, which fences its own writes of before.
    ///
    /// # Errors
    ///
    /// `Held` where somebody else holds it; `Unavailable`.
    fn acquire(
        &self,
        key: &CheckpointKey,
        owner: &str,
        time: Duration,
    ) -> impl Future<Output = Result<Lease, StoreError>> + Send;

    /// Makes a lease last `time` from now: the heartbeat of a long step.
    ///
    /// One that has run out and that nobody took is renewed too.
    ///
    /// # Errors
    ///
    /// `Fenced` where somebody has taken it over or it was released; `Unavailable`.
    fn renew(
        &self,
        lease: &Lease,
        time: Duration,
    ) -> impl Future<Output = Result<Lease, StoreError>> + Send;

    /// Gives a lease back; its token writes no more.
    ///
    /// # Errors
    ///
    /// `Fenced` where somebody has taken it over; `Unavailable`.
    fn release(&self, lease: &Lease) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Deletes every chain of a workflow; one that is not there is deleted too.
    ///
    /// Sequences and tokens of a chain that comes after go on where they were.
    ///
    /// # Errors
    ///
    /// `Fenced` where `lease` is not the newest of its chain; `Held` where somebody else holds the
    /// lease of one of the chains; `Unavailable`.
    fn delete(
        &self,
        workflow_id: &WorkflowId,
        lease: Option<&Lease>,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Deletes all but the newest `keep` checkpoints of a chain and returns how many went.
    ///
    /// # Errors
    ///
    /// `Unavailable`.
    fn prune(
        &self,
        key: &CheckpointKey,
        keep: NonZeroU32,
    ) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// Says what the store can do.
    fn capabilities(&self) -> Capabilities;

    /// Says where a checkpoint is, for people and spans; without passwords.
    fn place(&self, key: &CheckpointKey, sequence: u64) -> Place {
        _ = (key, sequence);
        Place::Unknown
    }
}

/// Where a checkpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Place {
    /// A file.
    File(PathBuf),
    /// An address.
    Uri(String),
    /// A store in this process, told from others by its address in memory.
    Memory(usize),
    /// The store does not say.
    Unknown,
}

/// What a store can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// Whether an acknowledged checkpoint survives.
    pub durable: Durable,
    /// Whether several processes may use it at once.
    pub shared: bool,
    /// How many checkpoints of a chain are kept; none where all are.
    pub kept: Option<NonZeroU32>,
    /// The largest state in bytes.
    pub max_state: u64,
}

/// Whether an acknowledged checkpoint survives the end of the process and of the power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durable {
    /// It does not survive the process.
    No,
    /// Settings of a server decide.
    Configured,
    /// It survives both.
    Always,
}

/// Any [`CheckpointStore`] behind one type, for who mixes stores; clones share it.
///
/// Its methods box one future for each call, which is little beside what a store does.
#[derive(Clone)]
pub struct BoxStore(Arc<dyn ErasedStore>);

// ===== impl Capabilities =====

impl Capabilities {
    /// The largest state that stores take unless asked otherwise: 64 MiB.
    pub const MAX_STATE: u64 = 64 << 20;

    /// Creates what a store can do: keeps all, one process, states up to
    /// [`MAX_STATE`](Self::MAX_STATE).
    #[must_use]
    pub const fn new(durable: Durable) -> Self {
        Self { durable, shared: false, kept: None, max_state: Self::MAX_STATE }
    }

    /// Sets whether several processes may use it at once.
    #[must_use]
    pub const fn shared(mut self, shared: bool) -> Self {
        self.shared = shared;
        self
    }

    /// Sets how many checkpoints of a chain are kept.
    #[must_use]
    pub const fn kept(mut self, kept: Option<NonZeroU32>) -> Self {
        self.kept = kept;
        self
    }

    /// Sets the largest state in bytes.
    #[must_use]
    pub const fn max_state(mut self, bytes: u64) -> Self {
        self.max_state = bytes;
        self
    }

    /// Checks the size of a state, or of a write's value.
    ///
    /// # Errors
    ///
    /// `TooLarge`.
    pub fn admit(&self, key: &CheckpointKey, state: &[u8]) -> Result<(), StoreError> {
        let size = u64::try_from(state.len()).unwrap_or(u64::MAX);
        if size <= self.max_state {
            return Ok(());
        }
        Err(StoreError::too_large(size, self.max_state).in_chain(key))
    }
}

// ===== impl BoxStore =====

impl BoxStore {
    /// Takes a store.
    pub fn new(store: impl CheckpointStore) -> Self {
        Self(Arc::new(store))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Uri(uri) => f.write_str(uri),
            Self::Memory(_) => f.write_str("memory"),
            Self::Unknown => f.write_str("the store"),
        }
    }
}

impl fmt::Debug for BoxStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BoxStore").field(&self.0.capabilities()).finish()
    }
}

impl<T: CheckpointStore> CheckpointStore for Arc<T> {
    async fn put(&self, put: Put) -> Result<u64, StoreError> {
        T::put(self, put).await
    }

    async fn latest(&self, key: &CheckpointKey) -> Result<Option<Checkpoint>, StoreError> {
        T::latest(self, key).await
    }

    async fn get(
        &self,
        key: &CheckpointKey,
        sequence: u64,
    ) -> Result<Option<Checkpoint>, StoreError> {
        T::get(self, key, sequence).await
    }

    async fn history(
        &self,
        key: &CheckpointKey,
        page: Page,
    ) -> Result<Vec<Checkpoint>, StoreError> {
        T::history(self, key, page).await
    }

    async fn list(&self, query: Query) -> Result<Vec<Checkpoint>, StoreError> {
        T::list(self, query).await
    }

    async fn put_writes(&self, writes: PutWrites) -> Result<(), StoreError> {
        T::put_writes(self, writes).await
    }

    async fn acquire(
        &self,
        key: &CheckpointKey,
        owner: &str,
        time: Duration,
    ) -> Result<Lease, StoreError> {
        T::acquire(self, key, owner, time).await
    }

    async fn renew(&self, lease: &Lease, time: Duration) -> Result<Lease, StoreError> {
        T::renew(self, lease, time).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        T::release(self, lease).await
    }

    async fn delete(&self, id: &WorkflowId, lease: Option<&Lease>) -> Result<(), StoreError> {
        T::delete(self, id, lease).await
    }

    async fn prune(&self, key: &CheckpointKey, keep: NonZeroU32) -> Result<u64, StoreError> {
        T::prune(self, key, keep).await
    }

    fn capabilities(&self) -> Capabilities {
        T::capabilities(self)
    }

    fn place(&self, key: &CheckpointKey, sequence: u64) -> Place {
        T::place(self, key, sequence)
    }
}

impl CheckpointStore for BoxStore {
    async fn put(&self, put: Put) -> Result<u64, StoreError> {
        self.0.put(put).await
    }

    async fn latest(&self, key: &CheckpointKey) -> Result<Option<Checkpoint>, StoreError> {
        self.0.latest(key).await
    }

    async fn get(
        &self,
        key: &CheckpointKey,
        sequence: u64,
    ) -> Result<Option<Checkpoint>, StoreError> {
        self.0.get(key, sequence).await
    }

    async fn history(
        &self,
        key: &CheckpointKey,
        page: Page,
    ) -> Result<Vec<Checkpoint>, StoreError> {
        self.0.history(key, page).await
    }

    async fn list(&self, query: Query) -> Result<Vec<Checkpoint>, StoreError> {
        self.0.list(query).await
    }

    async fn put_writes(&self, writes: PutWrites) -> Result<(), StoreError> {
        self.0.put_writes(writes).await
    }

    async fn acquire(
        &self,
        key: &CheckpointKey,
        owner: &str,
        time: Duration,
    ) -> Result<Lease, StoreError> {
        self.0.acquire(key, owner, time).await
    }

    async fn renew(&self, lease: &Lease, time: Duration) -> Result<Lease, StoreError> {
        self.0.renew(lease, time).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        self.0.release(lease).await
    }

    async fn delete(&self, id: &WorkflowId, lease: Option<&Lease>) -> Result<(), StoreError> {
        self.0.delete(id, lease).await
    }

    async fn prune(&self, key: &CheckpointKey, keep: NonZeroU32) -> Result<u64, StoreError> {
        self.0.prune(key, keep).await
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn place(&self, key: &CheckpointKey, sequence: u64) -> Place {
        self.0.place(key, sequence)
    }
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// [`CheckpointStore`] with boxed futures, which a trait object needs.
trait ErasedStore: Send + Sync {
    fn put(&self, put: Put) -> Boxed<'_, u64>;
    fn latest<'a>(&'a self, key: &'a CheckpointKey) -> Boxed<'a, Option<Checkpoint>>;
    fn get<'a>(&'a self, key: &'a CheckpointKey, at: u64) -> Boxed<'a, Option<Checkpoint>>;
    fn history<'a>(&'a self, key: &'a CheckpointKey, page: Page) -> Boxed<'a, Vec<Checkpoint>>;
    fn list(&self, query: Query) -> Boxed<'_, Vec<Checkpoint>>;
    fn put_writes(&self, writes: PutWrites) -> Boxed<'_, ()>;
    fn acquire<'a>(
        &'a self,
        key: &'a CheckpointKey,
        owner: &'a str,
        time: Duration,
    ) -> Boxed<'a, Lease>;
    fn renew<'a>(&'a self, lease: &'a Lease, time: Duration) -> Boxed<'a, Lease>;
    fn release<'a>(&'a self, lease: &'a Lease) -> Boxed<'a, ()>;
    fn delete<'a>(&'a self, id: &'a WorkflowId, lease: Option<&'a Lease>) -> Boxed<'a, ()>;
    fn prune<'a>(&'a self, key: &'a CheckpointKey, keep: NonZeroU32) -> Boxed<'a, u64>;
    fn capabilities(&self) -> Capabilities;
    fn place(&self, key: &CheckpointKey, sequence: u64) -> Place;
}

impl<T: CheckpointStore> ErasedStore for T {
    fn put(&self, put: Put) -> Boxed<'_, u64> {
        Box::pin(CheckpointStore::put(self, put))
    }

    fn latest<'a>(&'a self, key: &'a CheckpointKey) -> Boxed<'a, Option<Checkpoint>> {
        Box::pin(CheckpointStore::latest(self, key))
    }

    fn get<'a>(&'a self, key: &'a CheckpointKey, at: u64) -> Boxed<'a, Option<Checkpoint>> {
        Box::pin(CheckpointStore::get(self, key, at))
    }

    fn history<'a>(&'a self, key: &'a CheckpointKey, page: Page) -> Boxed<'a, Vec<Checkpoint>> {
        Box::pin(CheckpointStore::history(self, key, page))
    }

    fn list(&self, query: Query) -> Boxed<'_, Vec<Checkpoint>> {
        Box::pin(CheckpointStore::list(self, query))
    }

    fn put_writes(&self, writes: PutWrites) -> Boxed<'_, ()> {
        Box::pin(CheckpointStore::put_writes(self, writes))
    }

    fn acquire<'a>(
        &'a self,
        key: &'a CheckpointKey,
        owner: &'a str,
        time: Duration,
    ) -> Boxed<'a, Lease> {
        Box::pin(CheckpointStore::acquire(self, key, owner, time))
    }

    fn renew<'a>(&'a self, lease: &'a Lease, time: Duration) -> Boxed<'a, Lease> {
        Box::pin(CheckpointStore::renew(self, lease, time))
    }

    fn release<'a>(&'a self, lease: &'a Lease) -> Boxed<'a, ()> {
        Box::pin(CheckpointStore::release(self, lease))
    }

    fn delete<'a>(&'a self, id: &'a WorkflowId, lease: Option<&'a Lease>) -> Boxed<'a, ()> {
        Box::pin(CheckpointStore::delete(self, id, lease))
    }

    fn prune<'a>(&'a self, key: &'a CheckpointKey, keep: NonZeroU32) -> Boxed<'a, u64> {
        Box::pin(CheckpointStore::prune(self, key, keep))
    }

    fn capabilities(&self) -> Capabilities {
        CheckpointStore::capabilities(self)
    }

    fn place(&self, key: &CheckpointKey, sequence: u64) -> Place {
        CheckpointStore::place(self, key, sequence)
    }
}
