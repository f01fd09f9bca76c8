//! The seed's file, `{workflow_id}_latest.json`, beside the records.
//!
//! It is for people and for the seed's Python. What Python writes there is imported. Nothing can
//! keep Python from writing in the very moment in which we replace the file: then the later one
//! stays, as between two of Python's own.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use super::{
    append::{ATTEMPTS, Appended, Known},
    disk::Stamp,
    folder::{Folder, failed, warn},
    format::{self, Entry, Foreign, Kind, Unreadable},
    names, writers,
};
use crate::checkpoint::{Checkpoint, CheckpointKey, Put, StoreError};

/// The metadata of an imported checkpoint that tells which file it was.
const IMPORTED: &str = "imported_checksum";

/// After how long an unreadable file is taken for one that nobody is writing: Python writes in
/// place, so that it may be half of one.
const SETTLED: Duration = Duration::from_secs(60);

/// What the seed's file is.
#[derive(Debug)]
enum SeedFile {
    /// One of us has written it, or there is none.
    Ours,
    Foreign(Foreign),
    /// Somebody wrote it, and we cannot take it.
    Unreadable,
    /// Somebody wrote it of another workflow, whose name a file system that folds case does not
    /// tell from this one's.
    Another,
}

/// The seed's file as it was when this process last looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// Nothing was left in it to take.
    Taken(Option<Stamp>),
    Unreadable(Option<Stamp>),
}

/// The seed's files that this process has looked into.
#[derive(Debug, Default)]
pub(super) struct SeenFiles(Mutex<HashMap<CheckpointKey, Seen>>);

/// How many are known before all are forgotten and looked into again.
const SEEN: usize = 1 << 16;

impl Folder {
    /// Returns the seed's file of a chain: of the workflow's own where the id is a file name.
    pub(super) fn seed_path(&self, key: &CheckpointKey) -> Option<PathBuf> {
        if !self.seed_file || !key.namespace.is_root() {
            return None;
        }
        names::seed_file(&key.workflow_id).map(|name| self.root.join(name))
    }

    /// Returns what tells whether somebody has written the file; none where there is none.
    pub(super) fn seed_stamp(&self, key: &CheckpointKey) -> Option<Stamp> {
        self.disk.look_at(&self.seed_path(key)?).ok()
    }

    /// Returns whether Python has written something that was not looked into yet.
    pub(super) fn has_news(&self, key: &CheckpointKey) -> Result<bool, StoreError> {
        let stamp = self.seed_stamp(key);
        if self.seen.get(key).is(stamp) {
            return Ok(false);
        }
        match self.read_seed(key)? {
            SeedFile::Foreign(_) => return Ok(true),
            SeedFile::Ours => self.has_seen(key, stamp, true),
            SeedFile::Unreadable | SeedFile::Another => self.has_seen(key, stamp, false),
        }
        Ok(false)
    }

    /// Notes what the seed's file was known by before it was looked into.
    pub(super) fn has_seen(&self, key: &CheckpointKey, stamp: Option<Stamp>, is_readable: bool) {
        let seen = if is_readable { Seen::Taken(stamp) } else { Seen::Unreadable(stamp) };
        self.seen.set(key, seen);
    }

    /// Reads what Python has written; what cannot be taken is told in a warning.
    fn read_seed(&self, key: &CheckpointKey) -> Result<SeedFile, StoreError> {
        let Some(path) = self.seed_path(key) else { return Ok(SeedFile::Ours) };
        let bytes = match self.disk.read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(SeedFile::Ours),
            Err(error) => return Err(failed(key, &path, error)),
        };
        let refused = match format::decode_foreign(&bytes, key) {
            Ok(None) | Err(Unreadable::TooNew(_)) => return Ok(SeedFile::Ours),
            Ok(Some(foreign)) => match self.capabilities.admit(key, &foreign.state) {
                Ok(()) => return Ok(SeedFile::Foreign(foreign)),
                Err(error) => error.at_place(path.display().to_string()),
            },
            Err(Unreadable::Another) => return Ok(SeedFile::Another),
            Err(Unreadable::Corrupt(what)) => {
                StoreError::corrupt(what, path.display().to_string()).in_chain(key)
            }
        };
        warn(&refused);
        Ok(SeedFile::Unreadable)
    }

    /// Makes what Python has written the next checkpoint, where it is newer than the head; returns
    /// whether it could be read.
    ///
    /// It is newer by its own time or by that of its file (`stamp`): its own is naive, so that
    /// another zone or the end of summer time makes it seem old, and our clock may be ahead. Behind
    /// an import it is newer always, where it is not what was imported.
    ///
    /// No lease keeps Python out, so none keeps its checkpoint out.
    pub(super) fn import_seed(
        &self,
        key: &CheckpointKey,
        known: &mut Known,
        stamp: Option<Stamp>,
    ) -> Result<bool, StoreError> {
        for _ in 0..ATTEMPTS {
            match self.import_seed_behind_head(key, known, stamp) {
                // Somebody was faster, perhaps with the same file.
                Err(error) if error.is_conflict() => {}
                done => return done,
            }
        }
        Err(self.away(key, "others write to it all the time"))
    }

    fn import_seed_behind_head(
        &self,
        key: &CheckpointKey,
        known: &mut Known,
        stamp: Option<Stamp>,
    ) -> Result<bool, StoreError> {
        let foreign = match self.read_seed(key)? {
            SeedFile::Foreign(foreign) => foreign,
            SeedFile::Ours => return Ok(true),
            SeedFile::Unreadable | SeedFile::Another => return Ok(false),
        };
        let head = self.read_chain(key)?.head;
        let is_older = |head: &Checkpoint| {
            // What was in the file before is the head: whatever the clocks say, it is newer.
            let is_behind = head.metadata.contains_key(IMPORTED);
            let record = names::chain_folder(&self.root, key).join(names::record(head.sequence));
            // Both by the clock of the file system, so that no writer's has to be right.
            let is_written_before = match (stamp, self.disk.look_at(&record)) {
                (Some(seed), Ok(record)) => seed.changed < record.changed,
                _ => true,
            };
            !is_behind && is_written_before && head.timestamp >= foreign.timestamp
        };
        if head.as_ref().is_some_and(is_older) {
            return Ok(true);
        }
        // Its writer's clock may be ahead of ours: what has been imported is told by its content.
        let is_it = |found: &Checkpoint| found.metadata.get(IMPORTED) == Some(&foreign.checksum);
        if self.history(key, u64::MAX, usize::MAX)?.iter().any(is_it) {
            return Ok(true);
        }
        known.forget();
        let parent = head.as_ref().map(|head| head.sequence);
        let file = names::seed_file(&key.workflow_id).unwrap_or_default();
        let put = Put::new(key.clone(), parent, foreign.state)
            .phase(foreign.phase)
            .timestamp(foreign.timestamp)
            // Python goes on with what it finds, which is a state of that schema.
            .schema_version(head.map_or(0, |head| head.schema_version))
            .metadata("imported_from", file.clone())
            .metadata(IMPORTED, foreign.checksum);
        let appended = self.append(key, known, Self::read_chain, |mut chain, _| {
            if chain.head != parent {
                return Err(StoreError::conflict(parent, chain.head).in_chain(key));
            }
            chain.last = chain.next(key)?;
            chain.head = Some(chain.last);
            let checkpoint = put.clone().into_checkpoint(chain.last);
            Ok((Entry::Checkpoint(put.write_id, Box::new(checkpoint)), chain))
        })?;
        let sequence = appended.record.sequence;
        tracing::warn!(
            target: crate::telemetry::LOG_TARGET,
            "Imported {file:?}, which another program has written, as checkpoint {sequence}"
        );
        Ok(true)
    }

    /// Replaces the seed's file by the head, for people and for Python; what fails is only logged,
    /// since the checkpoint itself is safe.
    pub(super) fn write_seed(&self, key: &CheckpointKey, appended: &Appended) {
        let Some(path) = self.seed_path(key) else { return };
        if appended.record.kind() != Kind::Checkpoint || !self.is_head(key, appended) {
            return;
        }
        let stamp = self.seed_stamp(key);
        let is_taken = self.seen.get(key) == Seen::Taken(stamp);
        if !is_taken && !self.may_replace(key, &path, stamp, appended) {
            return;
        }
        let temporary = self.root.join(writers::temporary_name());
        let written = self
            .disk
            .create(&temporary)
            .and_then(|mut file| self.disk.write(&mut file, &appended.bytes))
            // Before it has its name: from then on Python may write to it.
            .and_then(|()| self.disk.look_at(&temporary))
            .and_then(|stamp| self.disk.replace(&temporary, &path).map(|()| stamp));
        let seen = match written {
            Ok(stamp) => Seen::Taken(Some(stamp)),
            Err(error) => {
                drop(self.disk.remove(&temporary));
                warn(&failed(key, &path, error));
                // It has to be looked at again.
                Seen::default()
            }
        };
        self.seen.set(key, seen);
    }

    /// Returns whether nothing is lost with the seed's file; one that nobody can read is kept
    /// under another name.
    fn may_replace(
        &self,
        key: &CheckpointKey,
        path: &Path,
        stamp: Option<Stamp>,
        appended: &Appended,
    ) -> bool {
        match self.read_seed(key) {
            // Another of us may have shown an older head.
            Ok(SeedFile::Ours) => true,
            // It is imported first.
            Ok(SeedFile::Foreign(_) | SeedFile::Another) => false,
            Ok(SeedFile::Unreadable) => {
                let age =
                    stamp.and_then(|stamp| SystemTime::now().duration_since(stamp.changed).ok());
                age.is_some_and(|age| age > SETTLED) && self.keep_aside(key, path, appended)
            }
            Err(error) => {
                warn(&error);
                false
            }
        }
    }

    fn keep_aside(&self, key: &CheckpointKey, path: &Path, appended: &Appended) -> bool {
        let Some(name) = names::seed_file(&key.workflow_id) else { return false };
        let aside = self.root.join(names::unreadable(&name, appended.record.sequence));
        match self.disk.replace(path, &aside) {
            Ok(()) => {
                tracing::warn!(
                    target: crate::telemetry::LOG_TARGET,
                    "{path:?}, which cannot be read, is kept as {aside:?}"
                );
                true
            }
            Err(error) => {
                warn(&failed(key, path, error));
                false
            }
        }
    }

    /// Returns whether a checkpoint is still the head: a newer one is for its own writer to show.
    fn is_head(&self, key: &CheckpointKey, appended: &Appended) -> bool {
        let sequence = appended.record.sequence;
        match self.sequences(key) {
            Ok(sequences) if sequences.last() == Some(&sequence) => true,
            // Behind it may be a lease, or writes of tasks.
            _ => self.read_chain(key).is_ok_and(|chain| chain.state.head == Some(sequence)),
        }
    }

    /// Removes the seed's file of a workflow that is deleted, and what was kept of it.
    pub(super) fn remove_seed(&self, key: &CheckpointKey) -> Result<(), StoreError> {
        let (Some(path), Some(file)) = (self.seed_path(key), names::seed_file(&key.workflow_id))
        else {
            return Ok(());
        };
        let kept = self.names(&self.root, |name| names::is_unreadable(name, &file))?;
        for path in kept.into_iter().map(|name| self.root.join(name)).chain([path]) {
            match self.disk.remove(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed(key, &path, error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

// ===== impl Seen =====

impl Seen {
    /// Returns whether the file is as it was then.
    fn is(self, stamp: Option<Stamp>) -> bool {
        let (Self::Taken(seen) | Self::Unreadable(seen)) = self;
        seen == stamp
    }
}

impl Default for Seen {
    fn default() -> Self {
        Self::Taken(None)
    }
}

// ===== impl SeenFiles =====

impl SeenFiles {
    fn get(&self, key: &CheckpointKey) -> Seen {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(key).copied().unwrap_or_default()
    }

    fn set(&self, key: &CheckpointKey, file: Seen) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= SEEN && !seen.contains_key(key) {
            seen.clear();
        }
        match file {
            Seen::Taken(None) => seen.remove(key),
            _ => seen.insert(key.clone(), file),
        };
    }
}
