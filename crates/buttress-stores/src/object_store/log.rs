//! A chain as a log of objects: reading it.
//!
//! Checkpoints, writes of tasks, leases and deletions each take the next sequence. Each record
//! carries what the chain is with it, so that older ones can be pruned and the newest tells all.

use ::object_store::{Error, ObjectStoreExt as _, path::Path};
use buttress::{
    checkpoint::{ChainState, Checkpoint, CheckpointKey, StoreError, TaskWrite, WriteId},
    telemetry::LOG_TARGET,
};
use futures_util::TryStreamExt as _;

use super::{
    Inner,
    error::{failed, is_corrupt, unavailable},
    names,
};
use crate::record::{Entry, FORMAT, Record, Unreadable};

/// How often a reader lists a chain anew whose records are pruned below it.
const LISTINGS: usize = 16;
/// How many records before it a record names.
pub(super) const NAMED: usize = 16;

/// The end of a chain.
#[derive(Debug, Clone, Default)]
pub(super) struct Tip {
    pub(super) state: ChainState,
    /// What is in the newest places, the newest first.
    pub(super) ids: Vec<WriteId>,
    /// The newest place of a deletion; what is below it is gone.
    pub(super) floor: u64,
}

/// A chain as it was read.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) key: Option<CheckpointKey>,
    pub(super) tip: Tip,
    /// The newest checkpoint that can be read.
    pub(super) head: Option<Checkpoint>,
}

/// Writes of tasks with the place they were found in and the checkpoint they belong to.
type Writes = Vec<(u64, u64, Vec<TaskWrite>)>;

impl Inner {
    /// Returns the sequences of a chain, in order.
    pub(super) async fn sequences(&self, chain: &Path) -> Result<Vec<u64>, StoreError> {
        let listed: Vec<_> = match self.store.list(Some(chain)).try_collect().await {
            Ok(listed) => listed,
            Err(Error::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(failed(&error).at_place(chain.as_ref())),
        };
        let mut sequences: Vec<_> = listed
            .iter()
            .filter(|object| is_in(chain, &object.location))
            .filter_map(|object| names::sequence(&object.location))
            .collect();
        sequences.sort_unstable();
        Ok(sequences)
    }

    /// Reads one record; none where it is not there.
    pub(super) async fn record(
        &self,
        chain: &Path,
        sequence: u64,
    ) -> Result<Option<Record>, StoreError> {
        let path = names::record(chain, sequence);
        let bytes = match self.store.get(&path).await {
            Ok(object) => object.bytes().await,
            Err(error) => Err(error),
        };
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(failed(&error).at_place(path.as_ref())),
        };
        let corrupt = |what: &str| StoreError::corrupt(what, path.as_ref()).at_sequence(sequence);
        match Record::decode(bytes.into()).await? {
            Ok(found) if found.sequence != sequence => Err(corrupt("it is of another place")),
            Ok(found) if names::chain(&self.base, &found.key) != *chain => {
                Err(corrupt(&format!("it is of {}", found.key)))
            }
            Ok(found) => Ok(Some(found)),
            Err(Unreadable::Corrupt(what)) => Err(corrupt(&what)),
            Err(Unreadable::TooNew(found)) => Err(StoreError::too_new(found, FORMAT)
                .at_sequence(sequence)
                .at_place(path.as_ref())),
        }
    }

    /// Reads the end of a chain, and its head too where that is asked for.
    pub(super) async fn reading(
        &self,
        chain: &Path,
        with_head: bool,
    ) -> Result<Reading, StoreError> {
        for _ in 0..LISTINGS {
            let sequences = self.sequences(chain).await?;
            if let Some(reading) = self.read_down(chain, &sequences, with_head).await? {
                return Ok(reading);
            }
        }
        let why = "its records are pruned faster than they can be read";
        Err(unavailable(why).at_place(chain.as_ref()))
    }

    /// Reads from the newest record down; none where a record went meanwhile.
    async fn read_down(
        &self,
        chain: &Path,
        sequences: &[u64],
        with_head: bool,
    ) -> Result<Option<Reading>, StoreError> {
        let newest = sequences.last().copied().unwrap_or_default();
        let mut reading: Option<Reading> = None;
        let mut writes = Writes::new();
        let mut damaged = None;
        for &sequence in sequences.iter().rev() {
            let record = match self.record(chain, sequence).await {
                Ok(Some(record)) => record,
                Ok(None) => return Ok(None),
                Err(error) if is_corrupt(&error) => {
                    warn(&error);
                    damaged.get_or_insert(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let known = reading.get_or_insert_with(|| Reading {
                key: Some(record.key.clone()),
                tip: Tip::at(&record, newest, damaged.is_some()),
                head: None,
            });
            if !with_head || known.tip.state.head.is_none() || sequence <= known.tip.floor {
                break;
            }
            match record.entry {
                Entry::Checkpoint(mut found) => {
                    add_writes(&mut found, &mut writes);
                    known.tip.state.head = Some(found.sequence);
                    known.head = Some(*found);
                    break;
                }
                Entry::Writes(of, news) => writes.push((sequence, of, news)),
                Entry::Lease | Entry::Deleted => {}
            }
        }
        match (reading, damaged) {
            (None, Some(error)) => Err(error),
            (None, None) => Ok(Some(Reading::default())),
            (Some(reading), damaged)
                if with_head && reading.head.is_none() && reading.tip.state.head.is_some() =>
            {
                let place = chain.as_ref();
                let missing = || StoreError::corrupt("the record of its head is missing", place);
                Err(damaged.unwrap_or_else(missing))
            }
            (Some(reading), _) => Ok(Some(reading)),
        }
    }

    /// Returns one checkpoint with the writes behind it.
    pub(super) async fn checkpoint(
        &self,
        chain: &Path,
        sequence: u64,
    ) -> Result<Option<Checkpoint>, StoreError> {
        let sequences = self.sequences(chain).await?;
        if sequences.binary_search(&sequence).is_err()
            || sequence <= self.reading(chain, false).await?.tip.floor
        {
            return Ok(None);
        }
        let Some(Record { entry: Entry::Checkpoint(mut found), .. }) =
            self.record(chain, sequence).await?
        else {
            return Ok(None);
        };
        let mut writes = self.writes_from(chain, &sequences, sequence + 1).await?;
        add_writes(&mut found, &mut writes);
        Ok(Some(*found))
    }

    /// Returns the writes in front of the next checkpoint.
    async fn writes_from(
        &self,
        chain: &Path,
        sequences: &[u64],
        from: u64,
    ) -> Result<Writes, StoreError> {
        let mut writes = Writes::new();
        for &sequence in sequences.iter().filter(|sequence| **sequence >= from) {
            match self.record(chain, sequence).await {
                Ok(Some(Record { entry: Entry::Writes(of, news), .. })) => {
                    writes.push((sequence, of, news));
                }
                Ok(Some(Record { entry: Entry::Checkpoint(_), .. })) => break,
                Ok(_) => {}
                Err(error) if is_corrupt(&error) => warn(&error),
                Err(error) => return Err(error),
            }
        }
        Ok(writes)
    }

    /// Returns the checkpoints below a sequence, newest first.
    pub(super) async fn history(
        &self,
        chain: &Path,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Checkpoint>, StoreError> {
        let sequences = self.sequences(chain).await?;
        let (mut writes, mut floor) = (Writes::new(), 0);
        if let Some(before) = before {
            floor = match self.reading(chain, false).await {
                Ok(reading) => reading.tip.floor,
                Err(error) if is_corrupt(&error) => 0,
                Err(error) => return Err(error),
            };
            writes = self.writes_from(chain, &sequences, before).await?;
        }
        let mut found = Vec::new();
        for &sequence in sequences.iter().rev() {
            if found.len() == limit || sequence <= floor {
                break;
            }
            if before.is_some_and(|before| sequence >= before) {
                continue;
            }
            match self.record(chain, sequence).await {
                Ok(Some(record)) => {
                    floor = floor.max(record.floor);
                    match record.entry {
                        Entry::Writes(of, news) => writes.push((sequence, of, news)),
                        Entry::Checkpoint(mut checkpoint) => {
                            add_writes(&mut checkpoint, &mut writes);
                            found.push(*checkpoint);
                        }
                        Entry::Lease | Entry::Deleted => {}
                    }
                }
                Ok(None) => {}
                Err(error) if is_corrupt(&error) => warn(&error),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }
}

// ===== impl Tip =====

impl Tip {
    /// Returns the end of a chain whose newest readable record this is.
    fn at(record: &Record, newest: u64, is_damaged: bool) -> Self {
        let mut tip = Self {
            state: record.chain.clone(),
            ids: Vec::with_capacity(NAMED),
            floor: record.floor,
        };
        let unread = newest - record.sequence;
        // What cannot be read has a place, and no name that anybody looks for.
        let nameless = WriteId::parse(&"0".repeat(32));
        tip.ids.extend((0..unread).take(NAMED).filter_map(|_| nameless));
        tip.ids.push(record.id);
        tip.ids.extend(&record.before);
        tip.ids.truncate(NAMED);
        tip.state.last = newest;
        if is_damaged {
            // Each of them may have been a lease: nobody's token counts any more.
            tip.state.token += unread;
            tip.state.holder = None;
        }
        tip
    }
}

/// Returns whether an object is in a folder itself.
fn is_in(folder: &Path, object: &Path) -> bool {
    object
        .prefix_match(folder)
        .is_some_and(|mut rest| rest.next().is_some() && rest.next().is_none())
}

/// Adds the writes that belong to a checkpoint, in the order of their places.
fn add_writes(checkpoint: &mut Checkpoint, writes: &mut Writes) {
    writes.sort_by_key(|(sequence, ..)| *sequence);
    for (_, of, writes) in writes.drain(..) {
        if of == checkpoint.sequence {
            writes.into_iter().for_each(|write| write.add_to(&mut checkpoint.writes));
        }
    }
}

pub(super) fn warn(error: &StoreError) {
    tracing::warn!(target: LOG_TARGET, "Checkpoint passed over: {error}");
}
