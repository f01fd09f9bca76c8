//! Rows: how chains, records and writes are written, read and checked.

use std::time::{Duration, SystemTime};

use buttress::{
    Checkpoint, CheckpointKey,
    checkpoint::{ChainState, Metadata, Payload, TaskWrite, WriteId, WriteKind},
};
use rusqlite::{
    Connection, OptionalExtension as _, Row, ToSql, params,
    types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef},
};
use twox_hash::xxhash3_128::Hasher;

use super::error::Problem;

/// What a row is checked by: the hash of its other columns.
type Checksum = [u8; 16];

// ===== chains =====

/// What is known of a chain.
#[derive(Default)]
pub(super) struct Chain {
    /// What its rules need.
    pub(super) state: ChainState,
    /// The oldest checkpoint that is kept: none is missing between it and the head.
    pub(super) first: Option<u64>,
}

/// Reads what is known of a chain; none where nobody has ever written it.
pub(super) fn chain(tx: &Connection, key: &CheckpointKey) -> Result<Option<Chain>, Problem> {
    let sql = "SELECT last, first, head, token, owner, until, checksum FROM chains
        WHERE workflow = ?1 AND namespace = ?2";
    let mut statement = tx.prepare_cached(sql)?;
    let found = statement.query_row(of(key), |row| {
        let mut chain = Chain { first: optional(row, 1)?, ..Chain::default() };
        chain.state.last = number(row, 0)?;
        chain.state.head = optional(row, 2)?;
        chain.state.token = number(row, 3)?;
        let holder = (row.get::<_, Option<String>>(4)?, row.get::<_, Option<i64>>(5)?);
        if let (Some(owner), Some(until)) = holder {
            chain.state.holder = Some((owner, time(until)));
        }
        Ok((chain, row.get::<_, Checksum>(6)?))
    });
    match found.optional()? {
        Some((chain, checksum)) if checksum != chain_checksum(key, &chain) => {
            Err(Problem::corrupt("the row of the chain does not have its checksum"))
        }
        found => Ok(found.map(|(chain, _)| chain)),
    }
}

/// Writes what is known of a chain.
pub(super) fn save_chain(
    tx: &Connection,
    key: &CheckpointKey,
    chain: &Chain,
) -> Result<(), Problem> {
    let sql = "INSERT INTO chains VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
        ON CONFLICT DO UPDATE SET last = ?3, first = ?4, head = ?5, token = ?6, owner = ?7,
            until = ?8, checksum = ?9";
    let state = &chain.state;
    let (owner, until) = match &state.holder {
        Some((owner, until)) => (Some(owner), Some(millis(*until))),
        None => (None, None),
    };
    tx.prepare_cached(sql)?.execute(params![
        key.workflow_id.as_str(),
        key.namespace.as_str(),
        Number(state.last),
        chain.first.map(Number),
        state.head.map(Number),
        Number(state.token),
        owner,
        until,
        chain_checksum(key, chain),
    ])?;
    Ok(())
}

fn chain_checksum(key: &CheckpointKey, chain: &Chain) -> Checksum {
    let state = &chain.state;
    let mut sum = Sum::of(key);
    sum.number(Some(state.last)).number(chain.first).number(state.head);
    sum.number(Some(state.token));
    match &state.holder {
        Some((owner, until)) => sum.bytes(owner.as_bytes()).millis(*until),
        None => sum.number(None),
    };
    sum.finish()
}

// ===== records =====

/// The columns that [`record`] reads.
pub(super) const RECORD: &str = "sequence, parent, write_id, phase, timestamp, schema_version,
    checksum, metadata, state";

/// Reads a checkpoint without its writes.
pub(super) fn record(key: &CheckpointKey, row: &Row<'_>) -> Result<Checkpoint, Problem> {
    let bytes = row.get_ref(8)?.as_blob().map_err(rusqlite::Error::from)?.to_vec();
    let mut found = Checkpoint::new(key.clone(), number(row, 0)?, Payload::new(bytes));
    found.parent = optional(row, 1)?;
    let write_id: String = row.get(2)?;
    found.phase = row.get(3)?;
    found.timestamp = time(row.get(4)?);
    found.schema_version = row.get(5)?;
    let checksum: Checksum = row.get(6)?;
    let metadata = row.get_ref(7)?.as_str().map_err(rusqlite::Error::from)?;
    if checksum != record_checksum(&found, &write_id, metadata) {
        let sequence = found.sequence;
        return Err(Problem::corrupt(format!("checkpoint {sequence} does not have its checksum")));
    }
    found.metadata = parse(metadata)?;
    Ok(found)
}

/// Reads the metadata of a checkpoint.
pub(super) fn parse(metadata: &str) -> Result<Metadata, Problem> {
    serde_json::from_str(metadata)
        .map_err(|error| Problem::corrupt(format!("the metadata cannot be read: {error}")))
}

/// Writes a checkpoint.
pub(super) fn save_record(
    tx: &Connection,
    checkpoint: &Checkpoint,
    write_id: WriteId,
) -> Result<(), Problem> {
    let sql = "INSERT INTO records VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)";
    let write_id = write_id.to_string();
    let metadata = serde_json::to_string(&checkpoint.metadata).map_err(|error| {
        buttress::StoreError::encode(error.to_string()).in_chain(&checkpoint.key)
    })?;
    tx.prepare_cached(sql)?.execute(params![
        checkpoint.key.workflow_id.as_str(),
        checkpoint.key.namespace.as_str(),
        Number(checkpoint.sequence),
        checkpoint.parent.map(Number),
        write_id,
        checkpoint.phase,
        millis(checkpoint.timestamp),
        checkpoint.schema_version,
        record_checksum(checkpoint, &write_id, &metadata),
        metadata,
        &checkpoint.state[..],
    ])?;
    Ok(())
}

fn record_checksum(checkpoint: &Checkpoint, write_id: &str, metadata: &str) -> Checksum {
    let mut sum = Sum::of(&checkpoint.key);
    sum.number(Some(checkpoint.sequence))
        .number(checkpoint.parent)
        .bytes(write_id.as_bytes())
        .bytes(checkpoint.phase.as_bytes())
        .millis(checkpoint.timestamp)
        .number(Some(checkpoint.schema_version.into()))
        .bytes(metadata.as_bytes())
        .bytes(&checkpoint.state);
    sum.finish()
}

// ===== writes =====

/// Reads the writes that belong to a checkpoint, in their order.
pub(super) fn writes(
    tx: &Connection,
    key: &CheckpointKey,
    sequence: u64,
) -> Result<Vec<TaskWrite>, Problem> {
    let sql = "SELECT task, kind, idx, checksum, value FROM writes
        WHERE workflow = ?1 AND namespace = ?2 AND sequence = ?3";
    let mut statement = tx.prepare_cached(sql)?;
    let mut rows = statement.query(params![
        key.workflow_id.as_str(),
        key.namespace.as_str(),
        Number(sequence)
    ])?;
    let mut writes = Vec::new();
    while let Some(row) = rows.next()? {
        let kind = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
        let kind = WriteKind::parse(kind)
            .ok_or_else(|| Problem::corrupt(format!("a write is of the kind {kind:?}")))?;
        let value = row.get_ref(4)?.as_blob().map_err(rusqlite::Error::from)?;
        let write = TaskWrite::new(row.get::<_, String>(0)?, kind, row.get(2)?, value);
        if row.get::<_, Checksum>(3)? != write_checksum(key, sequence, &write) {
            let task = &write.task;
            return Err(Problem::corrupt(format!("a write of {task:?} lacks its checksum")));
        }
        write.add_to(&mut writes);
    }
    Ok(writes)
}

/// Writes what a task says: the first result stands, and the last of the other kinds.
pub(super) fn save_write(
    tx: &Connection,
    key: &CheckpointKey,
    sequence: u64,
    write: &TaskWrite,
) -> Result<(), Problem> {
    let sql = match write.kind {
        WriteKind::Result => {
            "INSERT INTO writes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING"
        }
        _ => {
            "INSERT INTO writes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
            ON CONFLICT DO UPDATE SET checksum = ?7, value = ?8"
        }
    };
    tx.prepare_cached(sql)?.execute(params![
        key.workflow_id.as_str(),
        key.namespace.as_str(),
        Number(sequence),
        write.task,
        write.kind.as_str(),
        write.index,
        write_checksum(key, sequence, write),
        &write.value[..],
    ])?;
    Ok(())
}

fn write_checksum(key: &CheckpointKey, sequence: u64, write: &TaskWrite) -> Checksum {
    let mut sum = Sum::of(key);
    sum.number(Some(sequence))
        .bytes(write.task.as_bytes())
        .bytes(write.kind.as_str().as_bytes())
        .number(Some(write.index.into()))
        .bytes(&write.value);
    sum.finish()
}

// ===== columns =====

/// The columns a chain is found by.
pub(super) fn of(key: &CheckpointKey) -> [&str; 2] {
    [key.workflow_id.as_str(), key.namespace.as_str()]
}

/// A sequence or token, which SQLite keeps as a signed number.
pub(super) struct Number(pub(super) u64);

// ===== impl Number =====

impl ToSql for Number {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let number = i64::try_from(self.0);
        number.map(ToSqlOutput::from).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))
    }
}

impl FromSql for Number {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let number = value.as_i64()?;
        u64::try_from(number).map(Self).map_err(|_| FromSqlError::OutOfRange(number))
    }
}

/// Reads a sequence or token.
pub(super) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get(column).map(|Number(number)| number)
}

/// Reads a sequence that may be none.
fn optional(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<Number>>(column)?.map(|Number(number)| number))
}

fn millis(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn time(millis: i64) -> SystemTime {
    let since = Duration::from_millis(u64::try_from(millis).unwrap_or_default());
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A hash of columns, each with its length, so that none runs into the next.
struct Sum(Hasher);

// ===== impl Sum =====

impl Sum {
    /// Begins with the chain, so that a row is not taken for one of another chain.
    fn of(key: &CheckpointKey) -> Self {
        let mut sum = Self(Hasher::new());
        sum.bytes(key.workflow_id.as_str().as_bytes()).bytes(key.namespace.as_str().as_bytes());
        sum
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.write(&(bytes.len() as u64).to_le_bytes());
        self.0.write(bytes);
        self
    }

    fn number(&mut self, number: Option<u64>) -> &mut Self {
        match number {
            Some(number) => self.bytes(&number.to_le_bytes()),
            None => self.bytes(b"none"),
        }
    }

    fn millis(&mut self, time: SystemTime) -> &mut Self {
        self.bytes(&millis(time).to_le_bytes())
    }

    fn finish(&self) -> Checksum {
        self.0.finish_128().to_le_bytes()
    }
}
