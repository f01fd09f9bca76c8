//! A chain as a log of objects: appending to it, and pruning it.

use std::{collections::BTreeMap, time::SystemTime};

use ::object_store::{Error, ObjectStoreExt as _, PutMode, PutOptions, path::Path};
use buttress::checkpoint::{ChainState, CheckpointKey, Put, StoreError, WriteId};
use futures_util::TryStreamExt as _;

use super::{
    Inner,
    error::{failed, is_corrupt, is_setup, unavailable},
    log::{NAMED, Tip},
    names,
};
use crate::record::{Body, Entry, KIND_BYTES, Kind, Record};

/// How often a writer tries the next sequence while others take it.
const ATTEMPTS: usize = 256;

/// What this process knows of a chain; only its writer has it.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The end of the chain as it was left: right unless the next sequence is taken.
    tip: Option<Tip>,
    kinds: BTreeMap<u64, Kind>,
}

/// What a writer wants to append, and the chain with it.
pub(super) struct Decided {
    pub(super) id: WriteId,
    pub(super) entry: Entry,
    pub(super) state: ChainState,
}

/// What became of a record on its way.
#[derive(PartialEq, Eq)]
enum Published {
    Yes,
    /// It is in its place, and others have appended behind it.
    Outrun,
    /// Somebody else was faster.
    Taken,
}

impl Inner {
    /// Appends what `decide` makes of the chain, and returns the chain with it.
    ///
    /// `decide` is asked again where somebody else was faster, and what it refuses it refuses by
    /// the chain as it is stored.
    pub(super) async fn append(
        &self,
        key: &CheckpointKey,
        known: &mut Known,
        body: &Body,
        decide: impl Fn(&ChainState, SystemTime) -> Result<Decided, StoreError>,
    ) -> Result<ChainState, StoreError> {
        let chain = names::chain(&self.base, key);
        for _ in 0..ATTEMPTS {
            let (tip, is_fresh) = match known.tip.take() {
                Some(tip) => (tip, false),
                None => (self.reading(&chain, false).await?.tip, true),
            };
            let now = self.clock.now();
            let (tip, decided) = match decide(&tip.state, now) {
                Ok(decided) => (tip, decided),
                Err(_) if !is_fresh => continue,
                Err(error) if error.is_conflict() && tip.state.head.is_some() => {
                    // A head that cannot be read is none: or nobody could ever write behind it.
                    let Ok(read) = self.reading(&chain, true).await else { return Err(error) };
                    let decided = decide(&read.tip.state, now)?;
                    (read.tip, decided)
                }
                Err(error) => return Err(error),
            };
            let (record, tip) = next(key, tip, decided);
            let bytes = record.encode(body).await?;
            match self.publish(&chain, &record, bytes).await? {
                Published::Taken => continue,
                Published::Yes => known.tip = Some(tip),
                Published::Outrun => {}
            }
            known.kinds.insert(record.sequence, record.kind());
            return Ok(record.chain);
        }
        Err(unavailable("others write to the chain all the time"))
    }

    /// Creates a record in its place, unless that is taken.
    async fn publish(
        &self,
        chain: &Path,
        record: &Record,
        bytes: Vec<u8>,
    ) -> Result<Published, StoreError> {
        let path = names::record(chain, record.sequence);
        let options = PutOptions::from(PutMode::Create);
        match self.store.put_opts(&path, bytes.into(), options).await {
            Ok(_) => {}
            Err(error) if is_setup(&error) => return Err(failed(&error).at_place(path.as_ref())),
            Err(error) => {
                // What the client has sent twice, or was not answered, may be there all the same.
                let found = self.record(chain, record.sequence).await;
                let is_own = matches!(&found, Ok(Some(found)) if found.id == record.id);
                let is_taken =
                    matches!(error, Error::AlreadyExists { .. } | Error::Precondition { .. });
                match found {
                    Ok(Some(_)) if is_own => {}
                    _ if is_taken => return Ok(Published::Taken),
                    _ => return Err(failed(&error).at_place(path.as_ref())),
                }
            }
        }
        self.look_behind(chain, record).await
    }

    /// Finds out whether a record is where it belongs: the place was free for good, and not because
    /// what had been there was pruned.
    async fn look_behind(&self, chain: &Path, record: &Record) -> Result<Published, StoreError> {
        let path = names::record(chain, record.sequence);
        let listed = self.store.list_with_offset(Some(chain), &path);
        let listed: Vec<_> = listed.try_collect().await.map_err(|error| failed(&error))?;
        let behind = listed.iter().filter_map(|object| names::sequence(&object.location));
        let mut behind: Vec<_> = behind.filter(|behind| *behind > record.sequence).collect();
        behind.sort_unstable();
        if behind.is_empty() {
            return Ok(Published::Yes);
        }
        for later in behind {
            match self.record(chain, later).await {
                Ok(Some(later)) if is_built_on(&later, record) => return Ok(Published::Outrun),
                Ok(Some(_)) => return self.withdraw_unless_head(chain, record).await,
                Ok(None) => {}
                Err(error) if is_corrupt(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Err(unavailable("what others have written behind cannot be read"))
    }

    /// Removes a record that nobody knows of, since its place is long gone.
    ///
    /// Those behind it may be too far away to name it: but a head is never pruned, so one that is
    /// in the head's place is the head.
    async fn withdraw_unless_head(
        &self,
        chain: &Path,
        record: &Record,
    ) -> Result<Published, StoreError> {
        if self.reading(chain, false).await?.tip.state.head == Some(record.sequence) {
            return Ok(Published::Outrun);
        }
        let path = names::record(chain, record.sequence);
        self.store.delete(&path).await.map_err(|error| failed(&error).at_place(path.as_ref()))?;
        Ok(Published::Taken)
    }

    /// Returns the sequence of a checkpoint that is what a refused put has stored before.
    pub(super) async fn find_repeat(&self, put: &Put) -> Result<Option<u64>, StoreError> {
        let chain = names::chain(&self.base, &put.key);
        let behind = put.parent.unwrap_or_default();
        for sequence in self.sequences(&chain).await?.into_iter().rev() {
            if sequence <= behind {
                break;
            }
            match self.record(&chain, sequence).await {
                Ok(Some(record)) if is_stored(&record, put) => {
                    // One that lies in a place that was pruned has not been acknowledged.
                    if !matches!(self.look_behind(&chain, &record).await?, Published::Taken) {
                        return Ok(Some(sequence));
                    }
                }
                Ok(_) => {}
                Err(error) if is_corrupt(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Removes what is older than the newest `keep` checkpoints, and leases that later ones
    /// replace; returns how many checkpoints went.
    pub(super) async fn prune(
        &self,
        chain: &Path,
        known: &mut Known,
        keep: u32,
    ) -> Result<u64, StoreError> {
        let sequences = self.sequences(chain).await?;
        known.kinds.retain(|sequence, _| sequences.binary_search(sequence).is_ok());
        let newest = sequences.last().copied().unwrap_or_default();
        let (mut kept, mut pruned, mut is_over) = (0, 0, false);
        for &sequence in sequences.iter().rev() {
            let kind = self.kind(chain, known, sequence).await?;
            is_over |= kept >= keep;
            let goes = match kind {
                _ if is_over => true,
                Some(Kind::Checkpoint) => {
                    kept += 1;
                    false
                }
                Some(Kind::Lease) => sequence != newest,
                Some(Kind::Deleted) => {
                    // Once the chain was deleted nothing before that is needed.
                    is_over = true;
                    sequence != newest
                }
                // What cannot be read stays for people, until all around it goes.
                Some(Kind::Writes) | None => false,
            };
            if goes {
                self.remove(chain, known, sequence).await?;
                pruned += u64::from(kind == Some(Kind::Checkpoint));
            }
        }
        Ok(pruned)
    }

    /// Removes the lease before the newest record, where this process has written both.
    pub(super) async fn prune_lease(
        &self,
        chain: &Path,
        known: &mut Known,
        newest: u64,
    ) -> Result<(), StoreError> {
        let before = newest.saturating_sub(1);
        if known.kinds.get(&before) == Some(&Kind::Lease) {
            self.remove(chain, known, before).await?;
        }
        Ok(())
    }

    async fn remove(
        &self,
        chain: &Path,
        known: &mut Known,
        sequence: u64,
    ) -> Result<(), StoreError> {
        known.kinds.remove(&sequence);
        match self.store.delete(&names::record(chain, sequence)).await {
            // Somebody else prunes too.
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Returns the kind of a record; none where it has gone or cannot be told.
    async fn kind(
        &self,
        chain: &Path,
        known: &mut Known,
        sequence: u64,
    ) -> Result<Option<Kind>, StoreError> {
        if let Some(kind) = known.kinds.get(&sequence) {
            return Ok(Some(*kind));
        }
        let path = names::record(chain, sequence);
        let kind = match self.store.get_range(&path, 0..KIND_BYTES).await {
            Ok(start) => Kind::of_start(&start),
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(failed(&error)),
        };
        known.kinds.extend(kind.map(|kind| (sequence, kind)));
        Ok(kind)
    }
}

/// Returns the record that follows on the end of a chain, and the end with it.
fn next(key: &CheckpointKey, tip: Tip, decided: Decided) -> (Record, Tip) {
    let Decided { id, entry, state } = decided;
    let sequence = state.last;
    let floor = if matches!(entry, Entry::Deleted) { sequence } else { tip.floor };
    let mut ids = vec![id];
    ids.extend(&tip.ids);
    ids.truncate(NAMED);
    let record = Record {
        key: key.clone(),
        sequence,
        id,
        chain: state.clone(),
        before: tip.ids,
        floor,
        entry,
    };
    (record, Tip { state, ids, floor })
}

/// Returns whether who wrote `later` knew of a record: it names those before it.
fn is_built_on(later: &Record, record: &Record) -> bool {
    let between = usize::try_from(later.sequence - record.sequence - 1).unwrap_or(usize::MAX);
    later.before.get(between) == Some(&record.id)
}

impl Known {
    /// Returns what a record of this process is of.
    pub(super) fn kind(&self, sequence: u64) -> Option<Kind> {
        self.kinds.get(&sequence).copied()
    }

    /// Forgets the chain, after an error that may have left something.
    pub(super) fn forget(&mut self) {
        self.tip = None;
    }
}

/// Returns whether a record is what a put has stored.
fn is_stored(record: &Record, put: &Put) -> bool {
    match &record.entry {
        Entry::Checkpoint(found) => record.id == put.write_id && put.is_repeat_of(found),
        _ => false,
    }
}
