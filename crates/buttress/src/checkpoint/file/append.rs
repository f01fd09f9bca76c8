//! Appending to a chain, one of its writers at a time, and pruning it.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    folder::{Folder, Reading, failed},
    format::{Entry, Kind, Record, Trail},
    names, writers,
};
use crate::checkpoint::{ChainState, CheckpointKey, StoreError};

/// How often a writer tries the next sequence while others take it.
pub(super) const ATTEMPTS: usize = 256;

/// What is known of a chain between two calls; only its writer has it.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The chain as this process left it: right unless the next sequence is taken.
    state: Option<(ChainState, Trail)>,
    kinds: BTreeMap<u64, Kind>,
    /// Whether the names of the folders above have reached the disk.
    synced: bool,
    /// Whether what dead writers had left in the folder was removed.
    swept: bool,
}

/// What became of a record on its way.
enum Published {
    /// It is in its chain; these are all, and later ones may be among them.
    Yes(Vec<u64>),
    /// Somebody else was faster.
    Taken,
}

/// How a chain is read before it is appended to.
pub(super) type Read = fn(&Folder, &CheckpointKey) -> Result<Reading, StoreError>;

/// A record that is in its place.
pub(super) struct Appended {
    pub(super) record: Record,
    pub(super) bytes: Vec<u8>,
    /// Every sequence of the chain.
    pub(super) sequences: Vec<u64>,
}

impl Folder {
    /// Appends what `decide` makes of the chain: the entry, and the chain with it.
    ///
    /// `read` says what the chain is. `decide` is asked again where somebody else was faster, and
    /// what it refuses it refuses by the chain on disk.
    pub(super) fn append(
        &self,
        key: &CheckpointKey,
        known: &mut Known,
        read: Read,
        mut decide: impl FnMut(ChainState, SystemTime) -> Result<(Entry, ChainState), StoreError>,
    ) -> Result<Appended, StoreError> {
        for _ in 0..ATTEMPTS {
            let ((state, trail), is_fresh) = match known.state.take() {
                Some(state) => (state, false),
                None => {
                    let reading = read(self, key)?;
                    ((reading.state, reading.trail), true)
                }
            };
            let now = self.clock.now();
            let (entry, chain) = match decide(state, now) {
                Ok(decided) => decided,
                Err(_) if !is_fresh => continue,
                Err(error) => return Err(error),
            };
            let mut record = Record { sequence: chain.last, id: 0, trail, chain, entry };
            let bytes = record.encode(key, now);
            if let Published::Yes(sequences) = self.publish(key, known, &record, &bytes)? {
                known.kinds.retain(|sequence, _| sequences.binary_search(sequence).is_ok());
                known.kinds.insert(record.sequence, record.kind());
                // Others may have gone on behind it: the next is tried at the wrong place then.
                known.state = Some((record.chain.clone(), record.trail.with(record.id)));
                return Ok(Appended { record, bytes, sequences });
            }
        }
        Err(self.away(key, "others write to it all the time"))
    }

    /// Puts a record into its place, durably, unless the place is taken.
    fn publish(
        &self,
        key: &CheckpointKey,
        known: &mut Known,
        record: &Record,
        bytes: &[u8],
    ) -> Result<Published, StoreError> {
        let sequence = record.sequence;
        let folder = names::chain_folder(&self.root, key);
        let place = folder.join(names::record(sequence));
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| failed(key, &path, error)
        };
        let temporary = self.write_temporary(key, &folder, bytes)?;
        match self.disk.publish(&temporary, &place) {
            Ok(()) => {}
            Err(error) => {
                drop(self.disk.remove(&temporary));
                return match error.kind() {
                    io::ErrorKind::AlreadyExists => Ok(Published::Taken),
                    _ => Err(failed(key, &place, error)),
                };
            }
        }
        let sequences = self.sequences_in(&folder).map_err(at(&folder))?;
        if !self.is_in_chain(key, &sequences, sequence, record.id)? {
            // The name was free because what had it was pruned: the place is long gone.
            match self.disk.remove(&place) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(key, &place, error));
                }
                _ => return Ok(Published::Taken),
            }
        }
        let withdraw = |error| {
            // A folder that was not synced is not synced by trying again: the next put makes a new
            // file. Where this fails too, whether it stays is for whoever reads next.
            drop(self.disk.remove(&place));
            error
        };
        self.disk.sync_folder(&folder).map_err(at(&folder)).map_err(&withdraw)?;
        if !known.synced {
            self.sync_above(key, &folder).map_err(withdraw)?;
            known.synced = true;
        }
        Ok(Published::Yes(sequences))
    }

    /// Syncs the names of the folders that a chain's own is in.
    pub(super) fn sync_above(&self, key: &CheckpointKey, folder: &Path) -> Result<(), StoreError> {
        for above in folder.ancestors().skip(1).take(3) {
            self.disk.sync_folder(above).map_err(|error| failed(key, above, error))?;
        }
        Ok(())
    }

    /// Writes bytes to the disk under a name that nobody reads.
    fn write_temporary(
        &self,
        key: &CheckpointKey,
        folder: &Path,
        bytes: &[u8],
    ) -> Result<PathBuf, StoreError> {
        let path = folder.join(writers::temporary_name());
        let mut created = self.disk.create(&path);
        if created.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            self.create_folders(key, folder)?;
            created = self.disk.create(&path);
        }
        let mut file = created.map_err(|error| failed(key, &path, error))?;
        let written = self.disk.write(&mut file, bytes).and_then(|()| self.disk.sync(&file));
        drop(file);
        match written {
            Ok(()) => Ok(path),
            Err(error) => {
                drop(self.disk.remove(&path));
                Err(failed(key, &path, error))
            }
        }
    }

    /// Creates the folders of a chain, but not the root: where that is gone, all is.
    fn create_folders(&self, key: &CheckpointKey, folder: &Path) -> Result<(), StoreError> {
        let above: Vec<_> = folder.ancestors().take(3).collect();
        for folder in above.into_iter().rev() {
            match self.disk.create_folder(folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(key, folder, error)),
            }
        }
        Ok(())
    }

    /// Removes what is older than the newest `keep` checkpoints, leases that later ones replace,
    /// and what dead writers left; returns how many checkpoints went.
    ///
    /// Nothing of it is needed: what fails is tried again at the next put.
    pub(super) fn prune(
        &self,
        key: &CheckpointKey,
        known: &mut Known,
        sequences: &[u64],
        keep: u32,
    ) -> u64 {
        let folder = names::chain_folder(&self.root, key);
        if !std::mem::replace(&mut known.swept, true) {
            self.sweep(&folder);
        }
        let newest = sequences.last().copied().unwrap_or_default();
        let mut kept = 0;
        let mut pruned = 0;
        let mut gone = Vec::new();
        // Once the chain was deleted nothing before that is needed.
        let mut is_over = false;
        for &sequence in sequences.iter().rev() {
            let kind = match known.kinds.get(&sequence) {
                Some(kind) => Some(*kind),
                None => self.read(key, sequence).ok().flatten().map(|record| record.kind()),
            };
            // What cannot be read stays for people, until all around it goes.
            known.kinds.extend(kind.map(|kind| (sequence, kind)));
            is_over |= kept >= keep;
            let goes = match kind {
                _ if is_over => true,
                Some(Kind::Checkpoint) => {
                    kept += 1;
                    false
                }
                Some(Kind::Lease) => sequence != newest,
                Some(Kind::Deleted) => {
                    is_over = true;
                    sequence != newest
                }
                Some(Kind::Writes) | None => false,
            };
            if goes {
                gone.push((sequence, kind));
            }
        }
        // The oldest first: a reader between two of them finds no older one behind a gap.
        for (sequence, kind) in gone.into_iter().rev() {
            if self.disk.remove(&folder.join(names::record(sequence))).is_ok() {
                known.kinds.remove(&sequence);
                pruned += u64::from(kind == Some(Kind::Checkpoint));
            }
        }
        pruned
    }

    /// Removes temporary files whose writers are dead.
    pub(super) fn sweep(&self, folder: &Path) {
        for name in self.disk.list(folder).unwrap_or_default() {
            let Some(name) = name.to_str() else { continue };
            if !name.starts_with(names::TEMPORARY) {
                continue;
            }
            let path = folder.join(name);
            let age = self
                .disk
                .look_at(&path)
                .ok()
                .and_then(|stamp| SystemTime::now().duration_since(stamp.changed).ok());
            if writers::is_dead(name, age) {
                drop(self.disk.remove(&path));
            }
        }
    }
}

impl Known {
    /// Forgets the chain, after an error that may have left something.
    pub(super) fn forget(&mut self) {
        self.state = None;
    }
}
