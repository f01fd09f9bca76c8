//! The folder of records: what every call needs, and reading a chain.
//!
//! A chain is a log. Checkpoints, writes of tasks, leases and deletions each take the next
//! sequence, a file that must not be there yet, so that creating it is compare-and-set and fencing
//! at once, between processes too. Each record carries what the chain is with it, so that older
//! ones can be pruned and one read tells all.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use super::{
    disk::Disk,
    format::{Entry, Record, Trail, Unreadable},
    names,
    seed::SeenFiles,
    writers,
};
use crate::checkpoint::{
    Capabilities, ChainState, Checkpoint, CheckpointKey, Clock, Put, StoreError, TaskWrite,
};

/// How often a reader lists a folder anew whose files are pruned below it.
const LISTINGS: usize = 16;

/// What every call of a store needs.
pub(super) struct Folder {
    pub(super) root: PathBuf,
    /// The same without links and detours, once it is there: one folder has one of these.
    pub(super) real: OnceLock<PathBuf>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) clock: Clock,
    pub(super) capabilities: Capabilities,
    /// Whether the seed's file is kept beside the records.
    pub(super) seed_file: bool,
    pub(super) seen: SeenFiles,
}

/// A chain as it was read.
#[derive(Default)]
pub(super) struct Reading {
    pub(super) state: ChainState,
    /// The newest checkpoint that can be read.
    pub(super) head: Option<Checkpoint>,
    /// The records before the next.
    pub(super) trail: Trail,
}

impl Folder {
    /// Makes the folder ready.
    pub(super) fn open(&self) -> Result<(), StoreError> {
        match self.disk.create_folder(&self.root) {
            Ok(()) => self.sync_root()?,
            // Whoever created it may have ended before its name was synced; where the folder above
            // is not ours to open, that is not ours to do.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => drop(self.sync_root()),
            // One that is there can be read where none can be created.
            Err(error) => {
                self.disk.look_at(&self.root).map_err(|_| lost(&self.root, error))?;
            }
        }
        self.disk.list(&self.root).map_err(|error| lost(&self.root, error))?;
        if let Ok(real) = std::fs::canonicalize(&self.root) {
            drop(self.real.set(real));
        }
        self.sweep(&self.root);
        self.try_to_publish()
    }

    /// Returns where the folder is, which two ways of naming it have in common.
    pub(super) fn real(&self) -> &Path {
        self.real.get().unwrap_or(&self.root)
    }

    /// Syncs the name of the folder.
    fn sync_root(&self) -> Result<(), StoreError> {
        let above = self.root.parent().filter(|above| !above.as_os_str().is_empty());
        let above = above.unwrap_or(Path::new("."));
        self.disk.sync_folder(above).map_err(|error| lost(above, error))
    }

    /// Finds out at once whether the file system can publish a file under a name that is free.
    fn try_to_publish(&self) -> Result<(), StoreError> {
        let (from, to) =
            (self.root.join(writers::temporary_name()), self.root.join(writers::temporary_name()));
        // Whether it can be written is for the first put to say: one may only want to read.
        if self.disk.create(&from).is_err() {
            return Ok(());
        }
        let published = self.disk.publish(&from, &to);
        drop(self.disk.remove(&from));
        drop(self.disk.remove(&to));
        match published {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                Err(lost(&self.root, error))
            }
            _ => Ok(()),
        }
    }

    // ===== Reading =====

    /// Returns one checkpoint.
    pub(super) fn get(
        &self,
        key: &CheckpointKey,
        sequence: u64,
    ) -> Result<Option<Checkpoint>, StoreError> {
        let sequences = self.sequences(key)?;
        if sequences.binary_search(&sequence).is_err() {
            return Ok(None);
        }
        // What was deleted is gone before its files are.
        let Some(newest) = sequences.last().filter(|newest| **newest != sequence) else {
            return self.with_writes(key, &sequences, sequence);
        };
        match self.read(key, *newest) {
            Ok(Some(record)) if record.chain.deleted > sequence => Ok(None),
            Ok(_) => self.with_writes(key, &sequences, sequence),
            Err(error) if is_corrupt(&error) => self.with_writes(key, &sequences, sequence),
            Err(error) => Err(error),
        }
    }

    /// Returns the checkpoints below a sequence, newest first.
    pub(super) fn history(
        &self,
        key: &CheckpointKey,
        below: u64,
        limit: usize,
    ) -> Result<Vec<Checkpoint>, StoreError> {
        let sequences = self.sequences(key)?;
        let mut writes = Vec::new();
        let mut found = Vec::new();
        // What was deleted is gone before its files are.
        let mut deleted = 0;
        for &sequence in sequences.iter().rev() {
            if found.len() == limit || sequence < deleted {
                break;
            }
            let record = self.read(key, sequence);
            if let Ok(Some(record)) = &record {
                deleted = deleted.max(record.chain.deleted);
            }
            match record {
                Ok(Some(Record { entry: Entry::Writes(of, news), .. })) => writes.push((of, news)),
                Ok(Some(Record { entry: Entry::Checkpoint(_, mut checkpoint), .. })) => {
                    add_writes(&mut checkpoint, &mut writes);
                    if sequence < below {
                        found.push(*checkpoint);
                    }
                }
                Ok(_) => {}
                Err(error) if is_corrupt(&error) => warn(&error),
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Returns a checkpoint with the writes behind it.
    fn with_writes(
        &self,
        key: &CheckpointKey,
        sequences: &[u64],
        sequence: u64,
    ) -> Result<Option<Checkpoint>, StoreError> {
        let Some(Record { entry: Entry::Checkpoint(_, mut found), .. }) =
            self.read(key, sequence)?
        else {
            return Ok(None);
        };
        let behind = sequences.iter().filter(|behind| **behind > sequence);
        for &behind in behind {
            match self.read(key, behind) {
                Ok(Some(Record { entry: Entry::Writes(of, writes), .. })) if of == sequence => {
                    writes.into_iter().for_each(|write| write.add_to(&mut found.writes));
                }
                Ok(Some(Record { entry: Entry::Checkpoint(..), .. })) => break,
                Ok(_) => {}
                Err(error) if is_corrupt(&error) => warn(&error),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(*found))
    }

    /// Reads what a chain is: the newest record that can be read tells it.
    pub(super) fn read_chain(&self, key: &CheckpointKey) -> Result<Reading, StoreError> {
        let mut headless = None;
        for _ in 0..LISTINGS {
            let sequences = self.sequences(key)?;
            let Some(reading) = self.read_down(key, &sequences)? else { continue };
            match (reading.state.head, &reading.head) {
                // A listing may miss what comes and goes meanwhile, but not again and again.
                (Some(head), None) => headless = Some(head),
                _ => return Ok(reading),
            }
        }
        match headless {
            Some(head) => Err(self.gone(key, head)),
            None => Err(self.away(key, "its records are pruned faster than they can be read")),
        }
    }

    /// Reads what a chain is that is to be deleted, also where none of its records can be read.
    pub(super) fn read_any_chain(&self, key: &CheckpointKey) -> Result<Reading, StoreError> {
        match self.read_chain(key) {
            Err(error) if is_corrupt(&error) => {
                warn(&error);
                let last = self.sequences(key)?.last().copied().unwrap_or_default();
                // Each token took a sequence, so none was larger.
                let state = ChainState { last, token: last, ..ChainState::default() };
                Ok(Reading { state, ..Reading::default() })
            }
            read => read,
        }
    }

    /// Reads from the newest record down to the head; none where a record went meanwhile.
    ///
    /// Where the state names a head and none is found, there is no checkpoint at all.
    fn read_down(
        &self,
        key: &CheckpointKey,
        sequences: &[u64],
    ) -> Result<Option<Reading>, StoreError> {
        let mut state: Option<ChainState> = None;
        let mut trail = Trail::default();
        let mut head = None;
        let mut writes = Vec::new();
        let mut damaged = None;
        // One that cannot be read may have been a lease: nobody's token counts then.
        let mut lost_tokens = 0;
        for &sequence in sequences.iter().rev() {
            let record = match self.read(key, sequence) {
                Ok(Some(record)) => record,
                Ok(None) => return Ok(None),
                Err(error) if is_corrupt(&error) => {
                    warn(&error);
                    lost_tokens += u64::from(state.is_none());
                    damaged = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if state.is_none() {
                // Those behind it, which cannot be read, are named as nothing.
                let unread = std::iter::repeat_n(0, usize::try_from(lost_tokens).unwrap_or(0));
                let own = record.trail.with(record.id);
                trail = unread.fold(own, |trail, nothing| trail.with(nothing));
            }
            let chain = state.get_or_insert(record.chain);
            match record.entry {
                _ if chain.head.is_none() || sequence < chain.deleted => break,
                Entry::Checkpoint(_, mut found) => {
                    add_writes(&mut found, &mut writes);
                    head = Some(*found);
                    break;
                }
                Entry::Writes(of, news) => writes.push((of, news)),
                Entry::Lease | Entry::Deleted => {}
            }
        }
        let Some(mut state) = state else {
            return damaged.map_or_else(|| Ok(Some(Reading::default())), Err);
        };
        if let (Some(_), None, Some(error)) = (state.head, &head, damaged) {
            return Err(error);
        }
        if let Some(head) = &head {
            state.head = Some(head.sequence);
        }
        state.last = sequences.last().copied().unwrap_or_default();
        if lost_tokens > 0 {
            state.token += lost_tokens;
            state.holder = None;
        }
        Ok(Some(Reading { state, head, trail }))
    }

    /// Returns the sequence of a checkpoint that is what a refused put has stored before, after it
    /// has reached the disk; none where there is none.
    pub(super) fn find_repeat(&self, put: &Put) -> Result<Option<u64>, StoreError> {
        let behind = put.parent.unwrap_or_default();
        let folder = names::chain_folder(&self.root, &put.key);
        let sequences = self.sequences(&put.key)?;
        for &sequence in sequences.iter().filter(|found| **found > behind) {
            match self.read(&put.key, sequence) {
                Ok(Some(Record { id, entry: Entry::Checkpoint(write_id, found), .. }))
                    if write_id == put.write_id
                        && put.is_repeat_of(&found)
                        && self.is_in_chain(&put.key, &sequences, sequence, id)? =>
                {
                    // Its writer may have ended between publishing and syncing.
                    self.disk.sync_folder(&folder).map_err(|error| lost(&folder, error))?;
                    self.sync_above(&put.key, &folder)?;
                    return Ok(Some(sequence));
                }
                Ok(_) => {}
                Err(error) if is_corrupt(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Returns whether a record is the newest of its chain, or one that later ones follow.
    ///
    /// One that is neither was put into a place that had been pruned.
    pub(super) fn is_in_chain(
        &self,
        key: &CheckpointKey,
        sequences: &[u64],
        sequence: u64,
        id: u64,
    ) -> Result<bool, StoreError> {
        let farthest = sequence.saturating_add(Trail::LENGTH as u64);
        let later = sequences.iter().filter(|later| **later > sequence && **later <= farthest);
        for &later in later {
            match self.read(key, later) {
                Ok(Some(record)) => return Ok(record.trail.before(later - sequence) == Some(id)),
                Ok(None) => {}
                Err(error) if is_corrupt(&error) => {}
                Err(error) => return Err(error),
            }
        }
        if sequences.last().is_none_or(|last| *last <= sequence) {
            return Ok(true);
        }
        // Leases that were prolonged since are pruned, however many there were.
        Ok(self.read_chain(key)?.state.head == Some(sequence))
    }

    /// Reads one record; none where it is not there.
    pub(super) fn read(
        &self,
        key: &CheckpointKey,
        sequence: u64,
    ) -> Result<Option<Record>, StoreError> {
        let path = names::chain_folder(&self.root, key).join(names::record(sequence));
        let corrupt = |what: &str| {
            StoreError::corrupt(what, path.display().to_string())
                .in_chain(key)
                .at_sequence(sequence)
        };
        let bytes = match self.disk.read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(key, &path, error)),
        };
        match Record::decode(&bytes, sequence) {
            Ok((found, record)) if found == *key => Ok(Some(record)),
            Ok((found, _)) => Err(corrupt(&format!("it is of {found}"))),
            Err(Unreadable::Corrupt(what)) => Err(corrupt(&what)),
            Err(Unreadable::Another) => Err(corrupt("it is another workflow's")),
            Err(Unreadable::TooNew(found)) => {
                Err(StoreError::too_new(found, super::format::FORMAT)
                    .in_chain(key)
                    .at_sequence(sequence)
                    .at_place(path.display().to_string()))
            }
        }
    }

    /// Says that a checkpoint is not there which the chain says is its head.
    fn gone(&self, key: &CheckpointKey, sequence: u64) -> StoreError {
        let place = names::chain_folder(&self.root, key).join(names::record(sequence));
        StoreError::corrupt("the newest checkpoint is gone", place.display().to_string())
            .in_chain(key)
            .at_sequence(sequence)
    }

    /// Says that a chain is out of reach for now.
    pub(super) fn away(&self, key: &CheckpointKey, why: &'static str) -> StoreError {
        let place = names::chain_folder(&self.root, key);
        StoreError::unavailable(why).in_chain(key).at_place(place.display().to_string())
    }

    /// Returns the key of the chain in a folder; none where it has no record that can be read, and
    /// a name so long that it is cut.
    pub(super) fn key_of(&self, folder: &Path) -> Result<Option<CheckpointKey>, StoreError> {
        for sequence in self.sequences_in(folder).map_err(|error| lost(folder, error))? {
            let path = folder.join(names::record(sequence));
            if let Ok(bytes) = self.disk.read(&path)
                && let Ok((key, _)) = Record::decode(&bytes, sequence)
                && names::chain_folder(&self.root, &key) == folder
            {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// Returns the sequences of a chain in order; none where it has no folder.
    pub(super) fn sequences(&self, key: &CheckpointKey) -> Result<Vec<u64>, StoreError> {
        let folder = names::chain_folder(&self.root, key);
        match self.sequences_in(&folder) {
            Ok(sequences) => Ok(sequences),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Without the root the checkpoints are out of reach, which is not to have none.
                self.disk.look_at(&self.root).map_err(|error| failed(key, &self.root, error))?;
                Ok(Vec::new())
            }
            Err(error) => Err(failed(key, &folder, error)),
        }
    }

    pub(super) fn sequences_in(&self, folder: &Path) -> io::Result<Vec<u64>> {
        let names = self.disk.list(folder)?;
        let mut sequences: Vec<_> =
            names.iter().filter_map(|name| names::sequence(name.to_str()?)).collect();
        sequences.sort_unstable();
        Ok(sequences)
    }
}

/// Adds the writes that belong to a checkpoint, which were read newest first.
fn add_writes(checkpoint: &mut Checkpoint, writes: &mut Vec<(u64, Vec<TaskWrite>)>) {
    for (of, writes) in writes.drain(..).rev() {
        if of == checkpoint.sequence {
            writes.into_iter().for_each(|write| write.add_to(&mut checkpoint.writes));
        }
    }
}

pub(super) const fn is_corrupt(error: &StoreError) -> bool {
    matches!(error.kind(), crate::checkpoint::StoreErrorKind::Corrupt { .. })
}

pub(super) fn warn(error: &StoreError) {
    tracing::warn!(target: crate::telemetry::LOG_TARGET, "Checkpoint passed over: {error}");
}

/// Says what a failed call of the file system means for a chain.
pub(super) fn failed(key: &CheckpointKey, path: &Path, error: io::Error) -> StoreError {
    lost(path, error).in_chain(key)
}

/// Says what a failed call of the file system means.
pub(super) fn lost(path: &Path, error: io::Error) -> StoreError {
    let place = path.display().to_string();
    match error.kind() {
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::InvalidFilename
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::Unsupported => StoreError::setup(error.to_string()),
        _ => StoreError::unavailable(error),
    }
    .at_place(place)
}
