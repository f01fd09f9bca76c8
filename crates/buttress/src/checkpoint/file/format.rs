//! What a record's file holds.
//!
//! One JSON object: `workflow_id`, `timestamp`, `phase` and `state` first, as the seed writes them
//! (`CheckpointManager.save_checkpoint`), then our keys, and at the end a checksum of every byte
//! before it. A state that is JSON stands as it is, any other as `{"$base64": ".."}`.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use jiff::{Timestamp, civil, tz::TimeZone};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use twox_hash::XxHash3_128;

use super::super::{
    ChainState, Checkpoint, CheckpointKey, Metadata, Namespace, Payload, TaskWrite, WorkflowId,
    WriteId, WriteKind,
};

/// The version of the format; a file of a newer one is left untouched.
pub(super) const FORMAT: u32 = 1;
/// What stands before the checksum, and after it.
const CHECKSUM: &[u8] = b",\"checksum\":\"";
const CHECKSUM_DIGITS: usize = 32;
const END: &[u8] = b"\"}\n";
const CHECKSUM_LEN: usize = CHECKSUM.len() + CHECKSUM_DIGITS + END.len();

/// One place of a chain.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) sequence: u64,
    /// What tells it from another record at this place; known once it is written.
    pub(super) id: u64,
    /// The records before it.
    pub(super) trail: Trail,
    /// The chain with this record in it.
    pub(super) chain: ChainState,
    pub(super) entry: Entry,
}

/// The ids of the records before one, the nearest first; 0 for one that could not be read.
///
/// By it a writer that is late knows whether later records follow its own or another one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Trail(Vec<u64>);

/// What happened at a place of a chain.
#[derive(Debug, Clone)]
pub(super) enum Entry {
    Checkpoint(WriteId, Box<Checkpoint>),
    /// Writes of tasks of the step after a checkpoint.
    Writes(u64, Vec<TaskWrite>),
    /// A lease was taken, prolonged or given back.
    Lease,
    Deleted,
}

/// What happened at a place of a chain, without what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    Checkpoint,
    Writes,
    Lease,
    Deleted,
}

/// Why a file is not a record.
#[derive(Debug)]
pub(super) enum Unreadable {
    Corrupt(String),
    TooNew(u32),
    /// It is another workflow's.
    Another,
}

#[derive(Serialize, Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    workflow_id: Cow<'a, str>,
    /// Naive and local, since the seed's resume cannot subtract another.
    timestamp: String,
    #[serde(borrow)]
    phase: Cow<'a, str>,
    #[serde(borrow)]
    state: Cow<'a, RawValue>,
    timestamp_utc: Timestamp,
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    format: u32,
    kind: Kind,
    sequence: u64,
    parent: Option<u64>,
    schema_version: u32,
    write_id: Option<String>,
    metadata: Metadata,
    #[serde(borrow, default, skip_serializing_if = "Vec::is_empty")]
    writes: Vec<Write<'a>>,
    /// The checkpoint that the writes belong to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    writes_of: Option<u64>,
    /// What the chain is with this record in it.
    chain: Chain,
    #[serde(borrow)]
    trail: Cow<'a, str>,
}

#[derive(Serialize, Deserialize)]
struct Write<'a> {
    #[serde(borrow)]
    task: Cow<'a, str>,
    kind: Cow<'a, str>,
    index: u32,
    #[serde(borrow)]
    value: Cow<'a, RawValue>,
}

#[derive(Serialize, Deserialize)]
struct Chain {
    head: Option<u64>,
    deleted: u64,
    token: u64,
    holder: Option<String>,
    until: Option<Timestamp>,
}

/// The keys of a file that says by itself whose it is and what wrote it.
#[derive(Deserialize)]
struct Format {
    format: u32,
}

/// What the seed writes.
#[derive(Deserialize)]
struct SeedFile<'a> {
    #[serde(borrow)]
    workflow_id: Cow<'a, str>,
    timestamp: String,
    #[serde(borrow)]
    phase: Cow<'a, str>,
    #[serde(borrow)]
    state: &'a RawValue,
    sequence: Option<u64>,
}

/// A file of the seed's that the seed has written.
#[derive(Debug)]
pub(super) struct Foreign {
    pub(super) phase: String,
    pub(super) timestamp: SystemTime,
    pub(super) state: Payload,
    /// What tells it from another file.
    pub(super) checksum: serde_json::Value,
}

// ===== impl Record =====

impl Record {
    pub(super) const fn kind(&self) -> Kind {
        match self.entry {
            Entry::Checkpoint(..) => Kind::Checkpoint,
            Entry::Writes(..) => Kind::Writes,
            Entry::Lease => Kind::Lease,
            Entry::Deleted => Kind::Deleted,
        }
    }

    /// Writes the record, which has its id then; `now` is the time of what has none of its own.
    pub(super) fn encode(&mut self, key: &CheckpointKey, now: SystemTime) -> Vec<u8> {
        let mut file = self.to_file(key, now);
        if let Entry::Checkpoint(write_id, checkpoint) = &self.entry {
            file.phase = Cow::Borrowed(&checkpoint.phase);
            file.parent = checkpoint.parent;
            file.schema_version = checkpoint.schema_version;
            file.write_id = Some(write_id.to_string());
            file.metadata.clone_from(&checkpoint.metadata);
        }
        if let Entry::Writes(of, writes) = &self.entry {
            file.writes_of = Some(*of);
            file.writes = writes.iter().map(Write::new).collect();
        }
        let around = serde_json::to_vec(&file).expect("every key of a record is a string");
        let mut bytes = match &self.entry {
            Entry::Checkpoint(_, checkpoint) => with_state(&around, &to_json(&checkpoint.state)),
            Entry::Writes(..) | Entry::Lease | Entry::Deleted => around,
        };
        // The closing brace makes room for the checksum.
        bytes.pop();
        let checksum = XxHash3_128::oneshot(&bytes);
        self.id = id(checksum);
        bytes.extend_from_slice(CHECKSUM);
        bytes.extend_from_slice(format!("{checksum:032x}").as_bytes());
        bytes.extend_from_slice(END);
        bytes
    }

    fn to_file(&self, key: &CheckpointKey, now: SystemTime) -> File<'_> {
        let at = match &self.entry {
            Entry::Checkpoint(_, checkpoint) => checkpoint.timestamp,
            Entry::Writes(..) | Entry::Lease | Entry::Deleted => now,
        };
        let (holder, until) = self.chain.holder.clone().unzip();
        File {
            workflow_id: Cow::Owned(key.workflow_id.to_string()),
            timestamp: to_local(at),
            phase: Cow::Borrowed(""),
            state: Cow::Owned(RawValue::NULL.to_owned()),
            timestamp_utc: to_utc(at),
            namespace: Cow::Owned(key.namespace.to_string()),
            format: FORMAT,
            kind: self.kind(),
            sequence: self.sequence,
            parent: None,
            schema_version: 0,
            write_id: None,
            metadata: Metadata::new(),
            writes: Vec::new(),
            writes_of: None,
            chain: Chain {
                head: self.chain.head,
                deleted: self.chain.deleted,
                token: self.chain.token,
                holder,
                until: until.map(to_utc),
            },
            trail: Cow::Owned(self.trail.to_text()),
        }
    }

    /// Reads a record that is to be at this place of its chain, and says which chain that is.
    pub(super) fn decode(bytes: &[u8], sequence: u64) -> Result<(CheckpointKey, Self), Unreadable> {
        let (body, checksum) = checked(bytes)?;
        if let Ok(Format { format }) = serde_json::from_slice(&body)
            && format > FORMAT
        {
            return Err(Unreadable::TooNew(format));
        }
        let file: File<'_> = serde_json::from_slice(&body)
            .map_err(|error| Unreadable::corrupt(format!("not a record: {}", fault(&error))))?;
        if file.sequence != sequence {
            return Err(Unreadable::corrupt("the record of another place"));
        }
        let (key, record) = file
            .into_record()
            .ok_or_else(|| Unreadable::corrupt("a key of the record is missing"))?;
        Ok((key, Self { id: id(checksum), ..record }))
    }
}

impl File<'_> {
    fn into_record(self) -> Option<(CheckpointKey, Record)> {
        let id = WorkflowId::new(&*self.workflow_id).ok()?;
        let key = CheckpointKey::new(id).in_namespace(Namespace::new(&*self.namespace).ok()?);
        let sequence = self.sequence;
        let chain = ChainState {
            last: sequence,
            head: self.chain.head,
            deleted: self.chain.deleted,
            token: self.chain.token,
            holder: self.chain.holder.zip(self.chain.until.map(of_utc)),
        };
        let entry = match self.kind {
            Kind::Checkpoint => {
                let write_id = WriteId::parse(&self.write_id?)?;
                let mut checkpoint = Checkpoint::new(key.clone(), sequence, of_json(&self.state)?);
                checkpoint.parent = self.parent;
                checkpoint.phase = self.phase.into_owned();
                checkpoint.timestamp = of_utc(self.timestamp_utc);
                checkpoint.schema_version = self.schema_version;
                checkpoint.metadata = self.metadata;
                Entry::Checkpoint(write_id, Box::new(checkpoint))
            }
            Kind::Writes => {
                let writes: Option<Vec<_>> = self.writes.into_iter().map(Write::read).collect();
                Entry::Writes(self.writes_of?, writes?)
            }
            Kind::Lease => Entry::Lease,
            Kind::Deleted => Entry::Deleted,
        };
        let trail = Trail::parse(&self.trail)?;
        Some((key, Record { sequence, id: 0, trail, chain, entry }))
    }
}

impl<'a> Write<'a> {
    fn new(write: &'a TaskWrite) -> Self {
        Self {
            task: Cow::Borrowed(&write.task),
            kind: Cow::Borrowed(write.kind.as_str()),
            index: write.index,
            value: to_value(&write.value),
        }
    }

    fn read(self) -> Option<TaskWrite> {
        let kind = WriteKind::parse(&self.kind)?;
        Some(TaskWrite::new(self.task, kind, self.index, of_json(&self.value)?))
    }
}

// ===== impl Trail =====

impl Trail {
    /// How many records one names.
    pub(super) const LENGTH: usize = 16;

    /// Returns the trail of the record behind one with this id.
    pub(super) fn with(&self, id: u64) -> Self {
        let before = self.0.iter().copied();
        Self(std::iter::once(id).chain(before).take(Self::LENGTH).collect())
    }

    /// Returns the id of the record that is `distance` places before.
    pub(super) fn before(&self, distance: u64) -> Option<u64> {
        self.0.get(usize::try_from(distance.checked_sub(1)?).ok()?).copied()
    }

    fn to_text(&self) -> String {
        self.0.iter().map(|id| format!("{id:016x}")).collect()
    }

    fn parse(text: &str) -> Option<Self> {
        let ids = text.as_bytes().chunks(16);
        let ids = ids.map(|id| u64::from_str_radix(std::str::from_utf8(id).ok()?, 16).ok());
        ids.collect::<Option<_>>().map(Self)
    }
}

fn id(checksum: u128) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "half of a checksum is one too")]
    let id = checksum as u64;
    id
}

impl Unreadable {
    fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt(what.into())
    }
}

/// Checks the checksum and returns what it is of, as the JSON object it was, and itself.
fn checked(bytes: &[u8]) -> Result<(Vec<u8>, u128), Unreadable> {
    let cut = || Unreadable::corrupt("the file is cut short, or is no record");
    let rest = bytes.strip_suffix(END).ok_or_else(cut)?;
    let (rest, digits) = rest.split_last_chunk::<CHECKSUM_DIGITS>().ok_or_else(cut)?;
    let body = rest.strip_suffix(CHECKSUM).ok_or_else(cut)?;
    let checksum = XxHash3_128::oneshot(body);
    if format!("{checksum:032x}").as_bytes() != digits {
        return Err(Unreadable::corrupt("the checksum is wrong"));
    }
    let mut object = Vec::with_capacity(body.len() + 1);
    object.extend_from_slice(body);
    object.push(b'}');
    Ok((object, checksum))
}

/// Reads a file that the seed has written; none where it is one of ours.
pub(super) fn decode_foreign(
    bytes: &[u8],
    key: &CheckpointKey,
) -> Result<Option<Foreign>, Unreadable> {
    let file: SeedFile<'_> = serde_json::from_slice(bytes)
        .map_err(|error| Unreadable::corrupt(format!("not a checkpoint: {}", fault(&error))))?;
    if file.sequence.is_some() {
        return Ok(None);
    }
    if file.workflow_id != key.workflow_id.as_str() {
        return Err(Unreadable::Another);
    }
    let timestamp =
        of_local(&file.timestamp).ok_or_else(|| Unreadable::corrupt("its timestamp is no time"))?;
    let state = Payload::from(file.state.get().as_bytes());
    let checksum = format!("{:032x}", XxHash3_128::oneshot(bytes)).into();
    Ok(Some(Foreign { phase: file.phase.into_owned(), timestamp, state, checksum }))
}

/// Says what is wrong with JSON, and where; what serde says may show a value.
fn fault(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Eof => "it ends too soon",
        serde_json::error::Category::Data => "a key or value is not what it should be",
        serde_json::error::Category::Syntax | serde_json::error::Category::Io => "it is no JSON",
    };
    format!("{what} at line {}, column {}", error.line(), error.column())
}

/// Puts a state into a record that was written without it: a large one is copied once and never
/// read.
fn with_state(around: &[u8], state: &[u8]) -> Vec<u8> {
    const EMPTY: &[u8] = b",\"state\":null,";
    // Quotes inside of texts are escaped, so the first is the key.
    let place = around.windows(EMPTY.len()).position(|window| window == EMPTY);
    let place = place.expect("a record has a state") + EMPTY.len() - b"null,".len();
    let mut bytes = Vec::with_capacity(around.len() + state.len() + CHECKSUM_LEN);
    bytes.extend_from_slice(&around[..place]);
    bytes.extend_from_slice(state);
    bytes.extend_from_slice(&around[place + b"null".len()..]);
    bytes
}

/// Shows bytes as JSON: as they are where they are JSON, else in base64.
fn to_json(payload: &Payload) -> Cow<'_, [u8]> {
    if payload.is_json() && !may_be_base64(payload) {
        return Cow::Borrowed(payload);
    }
    match serde_json::from_slice::<&RawValue>(payload) {
        // What stands around a value is not part of it, and our own form needs to be told apart.
        Ok(value) if value.get().len() == payload.len() && base64(value).is_none() => {
            Cow::Borrowed(payload)
        }
        _ => {
            let wrapped = Base64 { text: BASE64.encode(payload) };
            Cow::Owned(serde_json::to_vec(&wrapped).expect("text can be written"))
        }
    }
}

/// Shows the bytes of a write as [`to_json`] does.
fn to_value(payload: &Payload) -> Cow<'_, RawValue> {
    let json = to_json(payload).into_owned();
    let text = String::from_utf8(json).expect("JSON is UTF-8");
    Cow::Owned(RawValue::from_string(text).expect("it is JSON"))
}

/// Returns the bytes that [`to_json`] has shown so; none where the base64 is none.
fn of_json(value: &RawValue) -> Option<Payload> {
    match base64(value) {
        Some(Base64 { text }) => Some(Payload::new(BASE64.decode(text).ok()?)),
        None => Some(Payload::known_json(value.get().as_bytes().to_vec())),
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Base64 {
    #[serde(rename = "$base64")]
    text: String,
}

fn base64(value: &RawValue) -> Option<Base64> {
    let text = value.get();
    may_be_base64(text.as_bytes()).then(|| serde_json::from_str(text).ok())?
}

/// Returns whether JSON begins as our own form does: no other is read for it, whole as it is.
fn may_be_base64(json: &[u8]) -> bool {
    let Some(inside) = json.strip_prefix(b"{") else { return false };
    let inside = inside.trim_ascii_start();
    inside.starts_with(b"\"$") || inside.starts_with(b"\"\\")
}

fn to_utc(time: SystemTime) -> Timestamp {
    let millis = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    i64::try_from(millis)
        .ok()
        .and_then(|millis| Timestamp::from_millisecond(millis).ok())
        .unwrap_or(Timestamp::MAX)
}

/// Shows a time as Python's `datetime.now().isoformat()` does.
fn to_local(time: SystemTime) -> String {
    TimeZone::system().to_datetime(to_utc(time)).strftime("%Y-%m-%dT%H:%M:%S%.6f").to_string()
}

fn of_local(text: &str) -> Option<SystemTime> {
    // An aware time is not the seed's, but says all the more.
    let timestamp = text.parse::<Timestamp>().ok().or_else(|| {
        let local: civil::DateTime = text.parse().ok()?;
        TimeZone::system().to_timestamp(local).ok()
    })?;
    Some(of_utc(timestamp))
}

fn of_utc(time: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(time.as_millisecond()).unwrap_or_default())
}
