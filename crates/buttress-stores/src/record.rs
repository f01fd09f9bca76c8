//! Records as bytes, for stores that have no columns.
//!
//! A record is a length, a header in JSON that people can read too, the bytes of the state or of
//! the values of writes, and a checksum of it all. It names its chain and its place, so that none
//! is taken for another.

#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use buttress::checkpoint::{
    ChainState, Checkpoint, CheckpointKey, Metadata, Namespace, Payload, Put, StoreError,
    TaskWrite, WorkflowId, WriteId, WriteKind,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use twox_hash::xxhash3_128::Hasher;

/// The version of the format; a record of a newer one is left untouched.
pub(crate) const FORMAT: u32 = 1;
/// What a record begins with; the letter of its kind follows.
const MAGIC: [u8; 3] = *b"BTR";
/// The first bytes, which tell the kind.
#[cfg(feature = "object-store")]
pub(crate) const KIND_BYTES: u64 = 4;
const CHECKSUM: usize = 16;
/// How deep metadata may be nested: serde_json reads 127 levels, and writes any.
const DEEPEST: usize = 100;
/// Sizes from here on are summed up and copied on a thread where that holds nobody up.
const LARGE: usize = 256 << 10;

/// One record.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) key: CheckpointKey,
    /// Its place: its own sequence in a log, or that of the checkpoint it belongs to.
    pub(crate) sequence: u64,
    /// Tells it from what another writer wants to have in the same place.
    pub(crate) id: WriteId,
    /// The chain with this record in it, where the store keeps that in records.
    pub(crate) chain: ChainState,
    /// What was in the places before, the newest first, where the store keeps that.
    pub(crate) before: Vec<WriteId>,
    /// The newest place of a deletion; what is below it is gone.
    pub(crate) floor: u64,
    pub(crate) entry: Entry,
}

/// What a record is of.
#[derive(Debug, Clone)]
pub(crate) enum Entry {
    Checkpoint(Box<Checkpoint>),
    /// Writes of tasks of the step after a checkpoint.
    Writes(u64, Vec<TaskWrite>),
    /// A lease was taken, prolonged or given back.
    Lease,
    Deleted,
}

/// What a record is of, without what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Checkpoint,
    Writes,
    Lease,
    Deleted,
}

/// Why bytes are not a record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    Corrupt(String),
    TooNew(u32),
}

/// The bytes of a record with their sum, which no retry has to take again.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    bytes: Payload,
    sum: u128,
}

#[derive(Serialize, Deserialize)]
struct Header<'a> {
    format: u32,
    kind: Kind,
    workflow_id: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    namespace: Cow<'a, str>,
    sequence: u64,
    id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checkpoint: Option<Described<'a>>,
    /// The checkpoint that the writes belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    of: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    writes: Vec<Write<'a>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    chain: Option<Chain>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    before: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    floor: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Described<'a> {
    parent: Option<u64>,
    phase: Cow<'a, str>,
    /// Milliseconds since 1970.
    timestamp: u64,
    schema_version: u32,
    metadata: Cow<'a, Metadata>,
}

#[derive(Serialize, Deserialize)]
struct Write<'a> {
    task: Cow<'a, str>,
    kind: Cow<'a, str>,
    index: u32,
    length: u64,
}

/// A [`ChainState`] as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Chain {
    last: u64,
    head: Option<u64>,
    token: u64,
    /// Who holds the token, and until which millisecond since 1970.
    holder: Option<(String, u64)>,
}

// ===== impl Record =====

impl Record {
    /// Creates the record of a put that gets a sequence; its state goes in the [`Body`].
    pub(crate) fn of_put(put: &Put, sequence: u64, chain: ChainState) -> Self {
        let mut described = put.clone();
        described.state = Payload::default();
        let entry = Entry::Checkpoint(Box::new(described.into_checkpoint(sequence)));
        let key = put.key.clone();
        Self { key, sequence, id: put.write_id, chain, before: Vec::new(), floor: 0, entry }
    }

    pub(crate) const fn kind(&self) -> Kind {
        match self.entry {
            Entry::Checkpoint(_) => Kind::Checkpoint,
            Entry::Writes(..) => Kind::Writes,
            Entry::Lease => Kind::Lease,
            Entry::Deleted => Kind::Deleted,
        }
    }

    /// Writes the record, with the state or the values in the body.
    ///
    /// What could not be read again is refused.
    pub(crate) async fn encode(&self, body: &Body) -> Result<Vec<u8>, StoreError> {
        if let Entry::Checkpoint(checkpoint) = &self.entry
            && checkpoint.metadata.values().any(|value| is_deeper(value, DEEPEST))
        {
            let reason = format!("metadata is nested more than {DEEPEST} levels deep");
            return Err(StoreError::encode(reason));
        }
        let header = serde_json::to_vec(&Header::new(self))
            .map_err(|error| StoreError::encode(error.to_string()))?;
        let (kind, body) = (self.kind().letter(), body.clone());
        off_the_runtime(body.bytes.len(), move || frame(kind, &header, &body)).await
    }

    /// Reads a record.
    pub(crate) async fn decode(bytes: Vec<u8>) -> Result<Result<Self, Unreadable>, StoreError> {
        off_the_runtime(bytes.len(), move || Self::decode_now(&bytes)).await
    }

    fn decode_now(bytes: &[u8]) -> Result<Self, Unreadable> {
        let (header, body) = checked(bytes)?;
        // One of a newer format may have other keys.
        if let Ok(Version { format }) = serde_json::from_slice(header)
            && format > FORMAT
        {
            return Err(Unreadable::TooNew(format));
        }
        let header: Header<'_> =
            serde_json::from_slice(header).map_err(|error| corrupt(error.to_string()))?;
        header.into_record(body).ok_or_else(|| corrupt("a key of the record is missing"))
    }
}

/// The key that every format has.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

impl<'a> Header<'a> {
    fn new(record: &'a Record) -> Self {
        let mut header = Self {
            format: FORMAT,
            kind: record.kind(),
            workflow_id: record.key.workflow_id.as_str().into(),
            namespace: record.key.namespace.as_str().into(),
            sequence: record.sequence,
            id: record.id.to_string(),
            checkpoint: None,
            of: None,
            writes: Vec::new(),
            chain: Some(&record.chain)
                .filter(|chain| **chain != ChainState::default())
                .map(Chain::from),
            before: record.before.iter().map(ToString::to_string).collect(),
            floor: Some(record.floor).filter(|floor| *floor > 0),
        };
        match &record.entry {
            Entry::Checkpoint(checkpoint) => {
                header.checkpoint = Some(Described {
                    parent: checkpoint.parent,
                    phase: checkpoint.phase.as_str().into(),
                    timestamp: millis(checkpoint.timestamp),
                    schema_version: checkpoint.schema_version,
                    metadata: Cow::Borrowed(&checkpoint.metadata),
                });
            }
            Entry::Writes(of, writes) => {
                header.of = Some(*of);
                header.writes = writes.iter().map(Write::new).collect();
            }
            Entry::Lease | Entry::Deleted => {}
        }
        header
    }

    fn into_record(self, body: &[u8]) -> Option<Record> {
        let id = WorkflowId::new(&*self.workflow_id).ok()?;
        let key = CheckpointKey::new(id).in_namespace(Namespace::new(&*self.namespace).ok()?);
        let sequence = self.sequence;
        let entry = match self.kind {
            Kind::Checkpoint => {
                let described = self.checkpoint?;
                let mut checkpoint = Checkpoint::new(key.clone(), sequence, Payload::from(body));
                checkpoint.parent = described.parent;
                checkpoint.phase = described.phase.into_owned();
                checkpoint.timestamp = time(described.timestamp);
                checkpoint.schema_version = described.schema_version;
                checkpoint.metadata = described.metadata.into_owned();
                Entry::Checkpoint(Box::new(checkpoint))
            }
            Kind::Writes => Entry::Writes(self.of?, read_writes(self.writes, body)?),
            Kind::Lease => Entry::Lease,
            Kind::Deleted => Entry::Deleted,
        };
        let chain = self.chain.map(ChainState::from).unwrap_or_default();
        let before: Option<Vec<_>> = self.before.iter().map(|id| WriteId::parse(id)).collect();
        let (id, before, floor) =
            (WriteId::parse(&self.id)?, before?, self.floor.unwrap_or_default());
        Some(Record { key, sequence, id, chain, before, floor, entry })
    }
}

impl<'a> Write<'a> {
    fn new(write: &'a TaskWrite) -> Self {
        Self {
            task: write.task.as_str().into(),
            kind: write.kind.as_str().into(),
            index: write.index,
            length: u64::try_from(write.value.len()).unwrap_or(u64::MAX),
        }
    }
}

fn read_writes(writes: Vec<Write<'_>>, mut body: &[u8]) -> Option<Vec<TaskWrite>> {
    let mut read = Vec::new();
    for write in writes {
        let (value, rest) = body.split_at_checked(usize::try_from(write.length).ok()?)?;
        let kind = WriteKind::parse(&write.kind)?;
        read.push(TaskWrite::new(write.task, kind, write.index, value));
        body = rest;
    }
    body.is_empty().then_some(read)
}

// ===== impl Kind =====

impl Kind {
    const fn letter(self) -> u8 {
        match self {
            Self::Checkpoint => b'c',
            Self::Writes => b'w',
            Self::Lease => b'l',
            Self::Deleted => b'd',
        }
    }

    /// Reads the kind from the first bytes of a record, which no checksum vouches for.
    #[cfg(feature = "object-store")]
    pub(crate) fn of_start(bytes: &[u8]) -> Option<Self> {
        let letter = *bytes.strip_prefix(&MAGIC)?.first()?;
        let kinds = [Self::Checkpoint, Self::Writes, Self::Lease, Self::Deleted];
        kinds.into_iter().find(|kind| kind.letter() == letter)
    }
}

// ===== impl Body =====

impl Body {
    /// Sums up a state.
    pub(crate) async fn of_state(state: &Payload) -> Result<Self, StoreError> {
        let bytes = state.clone();
        off_the_runtime(bytes.len(), move || Self { sum: Hasher::oneshot(&bytes), bytes }).await
    }

    /// Sums up the values of writes.
    pub(crate) async fn of_writes(writes: &[TaskWrite]) -> Result<Self, StoreError> {
        let values: Vec<_> = writes.iter().map(|write| write.value.clone()).collect();
        let size = values.iter().map(|value| value.len()).sum();
        off_the_runtime(size, move || {
            let values: Vec<&[u8]> = values.iter().map(|value| &value[..]).collect();
            let bytes = Payload::new(values.concat());
            Self { sum: Hasher::oneshot(&bytes), bytes }
        })
        .await
    }

    /// Returns the body of a record that holds nothing.
    #[cfg(feature = "object-store")]
    pub(crate) fn empty() -> Self {
        Self { bytes: Payload::default(), sum: Hasher::oneshot(b"") }
    }
}

// ===== impl Chain =====

impl From<&ChainState> for Chain {
    fn from(state: &ChainState) -> Self {
        let holder = state.holder.as_ref().map(|(owner, until)| (owner.clone(), millis(*until)));
        Self { last: state.last, head: state.head, token: state.token, holder }
    }
}

impl From<Chain> for ChainState {
    fn from(chain: Chain) -> Self {
        let mut state = Self::default();
        state.last = chain.last;
        state.head = chain.head;
        state.token = chain.token;
        state.holder = chain.holder.map(|(owner, until)| (owner, time(until)));
        state
    }
}

/// Puts a record together: magic, kind, length of the header, header, body, checksum.
fn frame(kind: u8, header: &[u8], body: &Body) -> Vec<u8> {
    let length = u32::try_from(header.len()).unwrap_or(u32::MAX).to_le_bytes();
    let start = [&MAGIC[..], &[kind], &length].concat();
    let sum = sum(&start, header, body.sum);
    [&start[..], header, &body.bytes, &sum].concat()
}

/// Checks a record and returns its header and its body.
fn checked(bytes: &[u8]) -> Result<(&[u8], &[u8]), Unreadable> {
    let cut = || corrupt("it is cut short, or is no record");
    let (rest, sum_found) = bytes.split_last_chunk::<CHECKSUM>().ok_or_else(cut)?;
    let (start, rest) = rest.split_at_checked(8).ok_or_else(cut)?;
    let rest_of_start = start.strip_prefix(&MAGIC).and_then(<[u8]>::split_first);
    let length = rest_of_start.and_then(|(_, length)| length.try_into().ok());
    let length = u32::from_le_bytes(length.ok_or_else(cut)?);
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    let (header, body) = rest.split_at_checked(length).ok_or_else(cut)?;
    if sum(start, header, Hasher::oneshot(body)) != *sum_found {
        return Err(corrupt("the checksum is wrong"));
    }
    Ok((header, body))
}

fn sum(start: &[u8], header: &[u8], body: u128) -> [u8; CHECKSUM] {
    let mut hasher = Hasher::new();
    hasher.write(start);
    hasher.write(header);
    hasher.write(&body.to_le_bytes());
    hasher.finish_128().to_le_bytes()
}

fn corrupt(what: impl Into<String>) -> Unreadable {
    Unreadable::Corrupt(what.into())
}

/// Returns whether a value has more levels of arrays and objects.
fn is_deeper(value: &Value, levels: usize) -> bool {
    let Some(below) = levels.checked_sub(1) else { return true };
    match value {
        Value::Array(values) => values.iter().any(|value| is_deeper(value, below)),
        Value::Object(values) => values.values().any(|value| is_deeper(value, below)),
        _ => false,
    }
}

/// Runs work that grows with a size: a large one on tokio's threads for it.
async fn off_the_runtime<T: Send + 'static>(
    size: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    if size < LARGE {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(StoreError::unavailable)
}

/// Returns milliseconds since 1970.
pub(crate) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the time of milliseconds since 1970.
pub(crate) fn time(millis: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH)
}
