//! The seed's file, `{workflow_id}_latest.json`, beside the records.
//!
//! It is for people and for the seed's Python. What Python writes there is imported.

use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    append::{ATTEMPTS, Appended, Known},
    folder::{Folder, failed, warn},
    format::{self, Entry, Foreign, Kind, Unreadable},
    names, writers,
};
use crate::checkpoint::{Checkpoint, CheckpointKey, Put, StoreError};

/// The metadata of an imported checkpoint that tells which file it was.
const IMPORTED: &str = "imported_checksum";

/// What tells whether somebody has written a file since.
pub(super) type Stamp = (SystemTime, u64);

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

    /// Reads what Python has written; none where there is nothing of the kind.
    ///
    /// A file that cannot be read is left alone, with a warning: Python writes in place, so it may
    /// be half of one.
    pub(super) fn read_seed(&self, key: &CheckpointKey) -> Result<Option<Foreign>, StoreError> {
        let Some(path) = self.seed_path(key) else { return Ok(None) };
        let bytes = match self.disk.read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(key, &path, error)),
        };
        match format::decode_foreign(&bytes, key) {
            Ok(foreign) => Ok(foreign),
            Err(Unreadable::Corrupt(what)) => {
                warn(&StoreError::corrupt(what, path.display().to_string()).in_chain(key));
                Ok(None)
            }
            Err(Unreadable::TooNew(_)) => Ok(None),
        }
    }

    /// Makes what Python has written the next checkpoint, where it is newer than the head.
    ///
    /// No lease keeps Python out, so none keeps its checkpoint out.
    pub(super) fn import_seed(
        &self,
        key: &CheckpointKey,
        known: &mut Known,
    ) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS {
            match self.import_seed_behind_head(key, known) {
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
    ) -> Result<(), StoreError> {
        let Some(foreign) = self.read_seed(key)? else { return Ok(()) };
        let head = self.read_chain(key)?.head;
        if head.as_ref().is_some_and(|head| head.timestamp >= foreign.timestamp) {
            return Ok(());
        }
        // Its writer's clock may be ahead of ours: what has been imported is told by its content.
        let is_it = |found: &Checkpoint| found.metadata.get(IMPORTED) == Some(&foreign.checksum);
        if self.history(key, u64::MAX, usize::MAX)?.iter().any(is_it) {
            return Ok(());
        }
        known.forget();
        let parent = head.map(|head| head.sequence);
        let file = names::seed_file(&key.workflow_id).unwrap_or_default();
        let put = Put::new(key.clone(), parent, foreign.state)
            .phase(foreign.phase)
            .timestamp(foreign.timestamp)
            .metadata("imported_from", file.clone())
            .metadata(IMPORTED, foreign.checksum);
        let appended = self.append(key, known, |mut chain, _| {
            if chain.head != parent {
                return Err(StoreError::conflict(parent, chain.head).in_chain(key));
            }
            chain.last += 1;
            chain.head = Some(chain.last);
            let checkpoint = put.clone().into_checkpoint(chain.last);
            Ok((Entry::Checkpoint(put.write_id, Box::new(checkpoint)), chain))
        })?;
        let sequence = appended.record.sequence;
        tracing::warn!(
            target: crate::telemetry::LOG_TARGET,
            "Imported {file}, which another program has written, as checkpoint {sequence}"
        );
        Ok(())
    }

    /// Replaces the seed's file by the head, for people and for Python; what fails is only logged,
    /// since the checkpoint itself is safe.
    ///
    /// Returns what the file is then known by; none where it has to be looked at again.
    pub(super) fn write_seed(
        &self,
        key: &CheckpointKey,
        appended: &Appended,
        seen: Option<Stamp>,
    ) -> Option<Stamp> {
        let path = self.seed_path(key)?;
        if appended.record.kind() != Kind::Checkpoint || !self.is_head(key, appended) {
            return seen;
        }
        // Another of us may have shown an older head; what Python has written is imported first.
        if self.seed_stamp(key) != seen && !self.seed_is_ours(key, &path) {
            return seen;
        }
        let temporary = self.root.join(writers::temporary_name());
        let written = self
            .disk
            .create(&temporary)
            .and_then(|mut file| self.disk.write(&mut file, &appended.bytes))
            .and_then(|()| self.disk.replace(&temporary, &path));
        if let Err(error) = written {
            drop(self.disk.remove(&temporary));
            warn(&failed(key, &path, error));
            return None;
        }
        self.seed_stamp(key)
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

    /// Returns whether the seed's file may be replaced: there is none, or one of us has written it.
    fn seed_is_ours(&self, key: &CheckpointKey, path: &Path) -> bool {
        match self.disk.read(path) {
            Ok(bytes) => matches!(format::decode_foreign(&bytes, key), Ok(None)),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Removes the seed's file of a workflow that is deleted.
    pub(super) fn remove_seed(&self, key: &CheckpointKey) -> Result<(), StoreError> {
        let Some(path) = self.seed_path(key) else { return Ok(()) };
        match self.disk.remove(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(key, &path, error)),
            _ => Ok(()),
        }
    }
}
