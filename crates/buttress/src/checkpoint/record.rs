use std::{
    collections::BTreeMap,
    fmt,
    ops::Deref,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Serialize;
use serde_json::Value;

use super::{CheckpointKey, Namespace, StoreError, WorkflowId};

/// The state of a workflow after, or before, one of its phases.
///
/// Stores hold the state as bytes; a [`Checkpointer`](super::Checkpointer) reads and writes it as
/// any serde type.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Checkpoint<S = Payload> {
    /// The chain it is in.
    pub key: CheckpointKey,
    /// Its place in the chain: grows with every put, with gaps.
    pub sequence: u64,
    /// The checkpoint it follows.
    pub parent: Option<u64>,
    /// The phase it was saved at.
    pub phase: String,
    /// When it was saved, by its writer's clock, in milliseconds; never used to order.
    pub timestamp: SystemTime,
    /// The version of the state's schema.
    pub schema_version: u32,
    /// The state.
    pub state: S,
    /// What the user keeps beside it.
    pub metadata: Metadata,
    /// Results of tasks of the step after it, which no checkpoint holds yet; by task, kind, index.
    pub writes: Vec<TaskWrite>,
}

/// What a user keeps beside a state: names and JSON values.
pub type Metadata = BTreeMap<String, Value>;

/// Bytes that a store keeps and never shows.
///
/// Clones share them.
#[derive(Clone, Default)]
pub struct Payload {
    bytes: Arc<Vec<u8>>,
    /// Whether they are known to be JSON, which a store need not find out then.
    is_json: bool,
}

/// The identity of one put: a repeat after a lost answer carries the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WriteId(u128);

/// A checkpoint on its way into a store.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[must_use = "a put does nothing until a store gets it"]
pub struct Put {
    /// The chain.
    pub key: CheckpointKey,
    /// The head that the writer knows; none where there is to be none.
    pub parent: Option<u64>,
    /// What makes a repeat of it harmless.
    pub write_id: WriteId,
    /// The token of the writer's lease, where it holds one.
    pub token: Option<u64>,
    /// The phase.
    pub phase: String,
    /// The writer's clock; stores keep milliseconds.
    pub timestamp: SystemTime,
    /// The version of the state's schema.
    pub schema_version: u32,
    /// The state.
    pub state: Payload,
    /// What the user keeps beside it.
    pub metadata: Metadata,
}

/// What one task of a step has to say before the step's checkpoint is there.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TaskWrite {
    /// The task.
    pub task: String,
    /// What it says.
    pub kind: WriteKind,
    /// The place among what the task says of this kind.
    pub index: u32,
    /// The value.
    pub value: Payload,
}

/// What a [`TaskWrite`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum WriteKind {
    /// A result: of several with one task and index the first stands, so a repeat is harmless.
    Result,
    /// How an attempt failed; the last stands.
    Error,
    /// A question to a person; the last stands.
    Interrupt,
    /// A person's answer; the last stands.
    Resume,
    /// Where the task wants to go next; the last stands.
    Route,
}

/// Writes of tasks on their way into a store.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[must_use = "writes do nothing until a store gets them"]
pub struct PutWrites {
    /// The chain.
    pub key: CheckpointKey,
    /// The checkpoint whose next step the tasks belong to, which is the head.
    pub sequence: u64,
    /// The token of the writer's lease, where it holds one.
    pub token: Option<u64>,
    /// The writes, stored all or none.
    pub writes: Vec<TaskWrite>,
}

/// The right to be the only writer of a chain for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// The chain.
    pub key: CheckpointKey,
    /// Who holds it.
    pub owner: String,
    /// Larger than every token of the chain before; goes with each put.
    pub token: u64,
    /// When it ends unless renewed.
    pub until: SystemTime,
}

/// Which part of a chain to read, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page {
    /// Reads checkpoints below this sequence only.
    pub before: Option<u64>,
    /// Reads at most so many.
    pub limit: usize,
}

/// Which chains to list.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Query {
    /// Chains of this workflow only.
    pub workflow_id: Option<WorkflowId>,
    /// Chains of this part only.
    pub namespace: Option<Namespace>,
    /// Chains whose head holds each of these values.
    pub metadata: Metadata,
    /// Goes on behind this chain, in the store's order.
    pub after: Option<CheckpointKey>,
    /// Lists at most so many.
    pub limit: usize,
}

// ===== impl Checkpoint =====

impl<S> Checkpoint<S> {
    /// Creates the checkpoint that a store keeps of a put: what writers of stores need.
    #[must_use]
    pub fn new(key: CheckpointKey, sequence: u64, state: S) -> Self {
        Self {
            key,
            sequence,
            parent: None,
            phase: String::new(),
            timestamp: SystemTime::UNIX_EPOCH,
            schema_version: 0,
            state,
            metadata: Metadata::new(),
            writes: Vec::new(),
        }
    }

    /// Exchanges the state.
    #[must_use]
    pub fn with_state<T>(self, state: T) -> Checkpoint<T> {
        self.split(state).0
    }

    /// Exchanges the state and returns the one before.
    pub(crate) fn split<T>(self, state: T) -> (Checkpoint<T>, S) {
        let checkpoint = Checkpoint {
            key: self.key,
            sequence: self.sequence,
            parent: self.parent,
            phase: self.phase,
            timestamp: self.timestamp,
            schema_version: self.schema_version,
            state,
            metadata: self.metadata,
            writes: self.writes,
        };
        (checkpoint, self.state)
    }
}

// ===== impl Payload =====

impl Payload {
    /// Takes bytes without copying them.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes: Arc::new(bytes), is_json: false }
    }

    /// Writes a value as JSON.
    ///
    /// # Errors
    ///
    /// `Encode` where its serializer fails, or where a key is neither text nor a number.
    pub fn json<T: Serialize>(value: &T) -> Result<Self, StoreError> {
        match serde_json::to_vec(value) {
            Ok(bytes) => Ok(Self::known_json(bytes)),
            Err(error) => Err(StoreError::encode(error.to_string())),
        }
    }

    pub(super) fn known_json(bytes: Vec<u8>) -> Self {
        Self { bytes: Arc::new(bytes), is_json: true }
    }

    /// Returns whether the bytes are known to be JSON, and nothing but JSON.
    #[must_use]
    pub const fn is_json(&self) -> bool {
        self.is_json
    }

    /// Returns the bytes; copies them only where they are shared.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        Arc::unwrap_or_clone(self.bytes)
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Payload {}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl<const N: usize> From<[u8; N]> for Payload {
    fn from(bytes: [u8; N]) -> Self {
        Self::new(bytes.to_vec())
    }
}

impl From<&[u8]> for Payload {
    fn from(bytes: &[u8]) -> Self {
        Self::new(bytes.to_vec())
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

// ===== impl WriteId =====

impl WriteId {
    /// Draws a new one.
    #[must_use]
    pub fn random() -> Self {
        Self(fastrand::u128(..))
    }

    /// Takes up one that was drawn before, from its text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok().map(Self))?
    }
}

impl fmt::Display for WriteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

// ===== impl Put =====

impl Put {
    /// Creates a put after `parent`: at phase "", now, schema 0, without lease and metadata.
    pub fn new(
        key: impl Into<CheckpointKey>,
        parent: Option<u64>,
        state: impl Into<Payload>,
    ) -> Self {
        Self {
            key: key.into(),
            parent,
            write_id: WriteId::random(),
            token: None,
            phase: String::new(),
            timestamp: to_millis(SystemTime::now()),
            schema_version: 0,
            state: state.into(),
            metadata: Metadata::new(),
        }
    }

    /// Sets the phase.
    pub fn phase(mut self, phase: impl Into<String>) -> Self {
        self.phase = phase.into();
        self
    }

    /// Writes under a lease; under one of another chain it is `Fenced`.
    pub fn under(mut self, lease: &Lease) -> Self {
        self.token = Some(lease.token_for(&self.key));
        self
    }

    /// Sets the identity that a repeat carries too.
    pub const fn write_id(mut self, id: WriteId) -> Self {
        self.write_id = id;
        self
    }

    /// Sets the writer's clock; what is finer than milliseconds is cut off.
    pub fn timestamp(mut self, timestamp: SystemTime) -> Self {
        self.timestamp = to_millis(timestamp);
        self
    }

    /// Sets the version of the state's schema.
    pub const fn schema_version(mut self, version: u32) -> Self {
        self.schema_version = version;
        self
    }

    /// Keeps a value beside the state.
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// Returns the checkpoint that the put becomes at a place of its chain.
    #[must_use]
    pub fn into_checkpoint(self, sequence: u64) -> Checkpoint {
        Checkpoint {
            key: self.key,
            sequence,
            parent: self.parent,
            phase: self.phase,
            timestamp: self.timestamp,
            schema_version: self.schema_version,
            state: self.state,
            metadata: self.metadata,
            writes: Vec::new(),
        }
    }

    /// Returns whether a checkpoint is what this put has stored before: the test of a repeat.
    #[must_use]
    pub fn is_repeat_of(&self, stored: &Checkpoint) -> bool {
        self.parent == stored.parent
            && self.phase == stored.phase
            && self.schema_version == stored.schema_version
            && self.state == stored.state
            && self.metadata == stored.metadata
    }
}

// ===== impl TaskWrite =====

impl TaskWrite {
    /// Creates a write.
    #[must_use]
    pub fn new(
        task: impl Into<String>,
        kind: WriteKind,
        index: u32,
        value: impl Into<Payload>,
    ) -> Self {
        Self { task: task.into(), kind, index, value: value.into() }
    }

    /// Adds a write to those of a checkpoint, which are sorted by task, kind and index.
    ///
    /// Of results with one task and index the first stands, of the other kinds the last.
    pub fn add_to(self, writes: &mut Vec<Self>) {
        let place = |write: &Self| (write.task.clone(), write.kind, write.index);
        match writes.binary_search_by_key(&place(&self), place) {
            Ok(at) if self.kind == WriteKind::Result => _ = at,
            Ok(at) => writes[at] = self,
            Err(at) => writes.insert(at, self),
        }
    }
}

impl WriteKind {
    /// Returns the kind in snake case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::Error => "error",
            Self::Interrupt => "interrupt",
            Self::Resume => "resume",
            Self::Route => "route",
        }
    }

    /// Returns the kind that [`as_str`](Self::as_str) names so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let all = [Self::Result, Self::Error, Self::Interrupt, Self::Resume, Self::Route];
        all.into_iter().find(|kind| kind.as_str() == text)
    }
}

// ===== impl PutWrites =====

impl PutWrites {
    /// Creates writes for the step after a checkpoint.
    pub fn new(key: impl Into<CheckpointKey>, sequence: u64, writes: Vec<TaskWrite>) -> Self {
        Self { key: key.into(), sequence, token: None, writes }
    }

    /// Writes under a lease; under one of another chain they are `Fenced`.
    pub fn under(mut self, lease: &Lease) -> Self {
        self.token = Some(lease.token_for(&self.key));
        self
    }
}

// ===== impl Lease =====

impl Lease {
    /// Returns the token for writes to a chain: of another one it is 0, which no chain has given.
    fn token_for(&self, key: &CheckpointKey) -> u64 {
        if self.key == *key { self.token } else { 0 }
    }

    /// Creates a lease: what writers of stores need.
    #[must_use]
    pub const fn new(key: CheckpointKey, owner: String, token: u64, until: SystemTime) -> Self {
        Self { key, owner, token, until }
    }
}

// ===== impl Page =====

impl Page {
    /// Reads the newest `limit` checkpoints.
    #[must_use]
    pub const fn newest(limit: usize) -> Self {
        Self { before: None, limit }
    }

    /// Reads only what is below a sequence.
    #[must_use]
    pub const fn before(mut self, sequence: u64) -> Self {
        self.before = Some(sequence);
        self
    }
}

// ===== impl Query =====

impl Query {
    /// Lists the first `limit` chains.
    #[must_use]
    pub const fn first(limit: usize) -> Self {
        Self { workflow_id: None, namespace: None, metadata: Metadata::new(), after: None, limit }
    }

    /// Lists chains of one workflow only.
    #[must_use]
    pub fn workflow(mut self, id: WorkflowId) -> Self {
        self.workflow_id = Some(id);
        self
    }

    /// Lists chains of one part only.
    #[must_use]
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.namespace = Some(namespace);
        self
    }

    /// Lists only chains whose head holds this value too.
    #[must_use]
    pub fn metadata(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.metadata.insert(name.into(), value.into());
        self
    }

    /// Goes on behind a chain.
    #[must_use]
    pub fn after(mut self, key: CheckpointKey) -> Self {
        self.after = Some(key);
        self
    }

    /// Returns whether a head is asked for, whatever its place.
    #[must_use]
    pub fn matches<S>(&self, head: &Checkpoint<S>) -> bool {
        self.workflow_id.as_ref().is_none_or(|id| *id == head.key.workflow_id)
            && self.namespace.as_ref().is_none_or(|name| *name == head.key.namespace)
            && self.metadata.iter().all(|(name, value)| head.metadata.get(name) == Some(value))
    }
}

/// Cuts off what is finer than milliseconds, which is what every store keeps.
pub(super) fn to_millis(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    SystemTime::UNIX_EPOCH + Duration::from_millis(millis)
}
