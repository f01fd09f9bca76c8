//! Checkpoints as rows.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use buttress::checkpoint::{
    Checkpoint, CheckpointKey, Metadata, Namespace, Payload, Put, PutWrites, StoreError, TaskWrite,
    WorkflowId, WriteKind,
};
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use twox_hash::xxhash3_128::Hasher;

use super::error::{Failure, unavailable};

/// The columns that [`read`] reads, of a checkpoint `c`, its chain `s` and its writes `w`.
pub(super) const COLUMNS: &str = "s.workflow_id, s.namespace, s.head, c.sequence, c.write_id,
    c.header, c.state, c.checksum, w.tasks, w.kinds, w.places, w.vals, w.sums";

/// The writes that belong to a checkpoint `c`, in one row.
pub(super) const WRITES: &str = "LEFT JOIN LATERAL (
    SELECT array_agg(task) AS tasks, array_agg(kind) AS kinds, array_agg(place) AS places,
        array_agg(value) AS vals, array_agg(checksum) AS sums
    FROM {p}writes WHERE chain = c.chain AND sequence = c.sequence) w ON true";

/// What a checkpoint says of itself, as JSON that people can read in the table too.
#[derive(Serialize, Deserialize)]
struct Header<'a> {
    parent: Option<u64>,
    phase: Cow<'a, str>,
    /// Milliseconds since 1970.
    timestamp: u64,
    schema_version: u32,
    metadata: Cow<'a, Metadata>,
}

/// A put as the columns of its row.
pub(super) struct Encoded {
    pub(super) write_id: String,
    pub(super) header: String,
    pub(super) checksum: Vec<u8>,
}

/// A row that is a checkpoint, or what is left of one.
pub(super) struct Found {
    pub(super) key: CheckpointKey,
    /// The head's where the row of the checkpoint itself is missing.
    pub(super) sequence: u64,
    pub(super) checkpoint: Result<Checkpoint, StoreError>,
}

/// The sum of a state, or of the value of a write.
pub(super) type Digest = [u8; 16];

/// Sizes from here on are summed up and copied on a thread where that holds nobody up.
const LARGE: usize = 256 << 10;

/// Sums up a state, which needs no lock.
pub(super) async fn digest(state: &Payload) -> Digest {
    if state.len() < LARGE {
        return digest_of(state);
    }
    let shared = state.clone();
    let summed = tokio::task::spawn_blocking(move || digest_of(&shared)).await;
    summed.unwrap_or_else(|_| digest_of(state))
}

fn digest_of(state: &[u8]) -> Digest {
    Hasher::oneshot(state).to_be_bytes()
}

/// Encodes a put that gets a sequence.
pub(super) fn encode(put: &Put, state: &Digest, sequence: u64) -> Result<Encoded, StoreError> {
    let header = Header {
        parent: put.parent,
        phase: Cow::Borrowed(&put.phase),
        timestamp: millis(put.timestamp),
        schema_version: put.schema_version,
        metadata: Cow::Borrowed(&put.metadata),
    };
    let write_id = put.write_id.to_string();
    let header =
        serde_json::to_string(&header).map_err(|error| StoreError::encode(error.to_string()))?;
    let parts = [write_id.as_bytes(), header.as_bytes(), state];
    let checksum = checksum(&put.key, sequence, &parts);
    Ok(Encoded { write_id, header, checksum })
}

/// Reads a row of [`COLUMNS`].
pub(super) async fn read(row: Row) -> Result<Found, Failure> {
    if row.raw_size_bytes() < LARGE {
        return read_now(&row);
    }
    let read = tokio::task::spawn_blocking(move || read_now(&row)).await;
    read.unwrap_or_else(|_| Err(unavailable("the runtime is shutting down")))
}

fn read_now(row: &Row) -> Result<Found, Failure> {
    let (workflow, namespace): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
    let key = key(workflow, namespace)?;
    let (head, own): (Option<i64>, Option<i64>) = (row.try_get(2)?, row.try_get(3)?);
    let sequence = unsigned(own.or(head).unwrap_or_default());
    let decoded = match own {
        Some(_) => decode(row, &key, sequence),
        None => Err("its row is missing".to_owned()),
    };
    let checkpoint = decoded.map_err(|what| {
        StoreError::corrupt(what, "the table of checkpoints").in_chain(&key).at_sequence(sequence)
    });
    Ok(Found { key, sequence, checkpoint })
}

fn decode(row: &Row, key: &CheckpointKey, sequence: u64) -> Result<Checkpoint, String> {
    let column = |error: tokio_postgres::Error| error.to_string();
    let (write_id, header): (&str, &str) =
        (row.try_get(4).map_err(column)?, row.try_get(5).map_err(column)?);
    let (state, sum): (&[u8], &[u8]) =
        (row.try_get(6).map_err(column)?, row.try_get(7).map_err(column)?);
    let parts = [write_id.as_bytes(), header.as_bytes(), &digest_of(state)];
    if checksum(key, sequence, &parts) != sum {
        return Err("the checksum does not fit the checkpoint".into());
    }
    let header: Header<'_> = serde_json::from_str(header).map_err(|error| error.to_string())?;
    let mut checkpoint = Checkpoint::new(key.clone(), sequence, Payload::from(state));
    checkpoint.parent = header.parent;
    checkpoint.phase = header.phase.into_owned();
    checkpoint.timestamp = time(header.timestamp);
    checkpoint.schema_version = header.schema_version;
    checkpoint.metadata = header.metadata.into_owned();
    checkpoint.writes = decode_writes(row, key, sequence)?;
    Ok(checkpoint)
}

fn decode_writes(row: &Row, key: &CheckpointKey, sequence: u64) -> Result<Vec<TaskWrite>, String> {
    type Writes<'a> = (Vec<&'a [u8]>, Vec<&'a str>, Vec<i64>, Vec<&'a [u8]>, Vec<&'a [u8]>);
    let columns = || -> Result<Option<Writes<'_>>, tokio_postgres::Error> {
        let Some(tasks) = row.try_get(8)? else { return Ok(None) };
        Ok(Some((tasks, row.try_get(9)?, row.try_get(10)?, row.try_get(11)?, row.try_get(12)?)))
    };
    let Some((tasks, kinds, places, values, sums)) =
        columns().map_err(|error| error.to_string())?
    else {
        return Ok(Vec::new());
    };
    let mut writes = Vec::with_capacity(tasks.len());
    for ((((task, kind), place), value), sum) in
        tasks.into_iter().zip(kinds).zip(places).zip(values).zip(sums)
    {
        let write = decode_write(task, kind, place, value)
            .filter(|write| write_checksum(key, sequence, write, &digest_of(&write.value)) == sum)
            .ok_or("the checksum does not fit a write of a task")?;
        writes.push(write);
    }
    writes.sort_by(|a, b| (&a.task, a.kind, a.index).cmp(&(&b.task, b.kind, b.index)));
    Ok(writes)
}

fn decode_write(task: &[u8], kind: &str, place: i64, value: &[u8]) -> Option<TaskWrite> {
    let task = str::from_utf8(task).ok()?;
    let index = u32::try_from(place).ok()?;
    Some(TaskWrite::new(task, WriteKind::parse(kind)?, index, value))
}

/// Sums up a write of a task.
fn write_checksum(
    key: &CheckpointKey,
    sequence: u64,
    write: &TaskWrite,
    value: &Digest,
) -> Vec<u8> {
    let index = write.index.to_le_bytes();
    let parts = [write.task.as_bytes(), write.kind.as_str().as_bytes(), &index, value];
    checksum(key, sequence, &parts)
}

/// Sums up writes of tasks; of those that one call says twice one stands, as the rules have it.
pub(super) async fn sum_up(writes: &PutWrites) -> Vec<(TaskWrite, Vec<u8>)> {
    let mut distinct = Vec::with_capacity(writes.writes.len());
    for write in &writes.writes {
        write.clone().add_to(&mut distinct);
    }
    let mut summed = Vec::with_capacity(distinct.len());
    for write in distinct {
        let value = digest(&write.value).await;
        let sum = write_checksum(&writes.key, writes.sequence, &write, &value);
        summed.push((write, sum));
    }
    summed
}

/// Sums up parts of a record and its place, so that no record is taken for another.
fn checksum(key: &CheckpointKey, sequence: u64, parts: &[&[u8]]) -> Vec<u8> {
    let mut hasher = Hasher::new();
    let sequence = sequence.to_le_bytes();
    let place = [key.workflow_id.as_str().as_bytes(), key.namespace.as_str().as_bytes(), &sequence];
    for part in place.iter().chain(parts) {
        // The length first: where one part ends and the next begins counts too.
        hasher.write(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hasher.write(part);
    }
    hasher.finish_128().to_be_bytes().to_vec()
}

/// Reads the key of a chain.
pub(super) fn key(workflow: &str, namespace: &str) -> Result<CheckpointKey, StoreError> {
    Ok(CheckpointKey::new(WorkflowId::new(workflow)?).in_namespace(Namespace::new(namespace)?))
}

/// Returns milliseconds since 1970.
pub(super) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the time of milliseconds since 1970.
pub(super) fn time(millis: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(UNIX_EPOCH)
}

/// Returns a number as a column holds it; what is larger is no sequence of any chain.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Returns a number from a column.
pub(super) fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or_default()
}
