//! Which chains there are.

use std::{io, path::Path};

use super::{
    folder::{Folder, is_corrupt, lost, warn},
    names,
};
use crate::checkpoint::{
    Checkpoint, CheckpointKey, Namespace, Query, StoreError, StoreErrorKind, WorkflowId,
};

impl Folder {
    /// Returns heads of chains, in the order of their folders.
    pub(super) fn heads(&self, query: &Query) -> Result<Vec<Checkpoint>, StoreError> {
        let after = query.after.as_ref().map(|key| names::chain_folder(&self.root, key));
        let mut heads = Vec::new();
        let shards = match &query.workflow_id {
            Some(id) => vec![names::shard(id)],
            None => self.names(&self.root, is_shard)?,
        };
        for shard in shards.into_iter().map(|shard| self.root.join(shard)) {
            let workflows = match &query.workflow_id {
                Some(id) => vec![names::workflow_folder(&self.root, id)],
                None => self.folders(&shard, "w-")?.collect(),
            };
            for workflow in workflows {
                for folder in self.folders(&workflow, "n-")? {
                    if heads.len() == query.limit {
                        return Ok(heads);
                    }
                    if after.as_ref().is_none_or(|after| folder > *after) {
                        heads.extend(self.head_in(&folder)?.filter(|head| query.matches(head)));
                    }
                }
            }
        }
        Ok(heads)
    }

    /// Returns the head of the chain in a folder; none where it has none that can be read.
    fn head_in(&self, folder: &Path) -> Result<Option<Checkpoint>, StoreError> {
        let Some(key) = self.key_of(folder)? else { return Ok(None) };
        match self.read_chain(&key) {
            Ok(reading) => Ok(reading.head),
            // One chain must not hide all others.
            Err(error) if is_corrupt(&error) || is_too_new(&error) => {
                warn(&error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the chains of a workflow.
    pub(super) fn chains_of(&self, id: &WorkflowId) -> Result<Vec<CheckpointKey>, StoreError> {
        let mut keys = Vec::new();
        for folder in self.folders(&names::workflow_folder(&self.root, id), "n-")? {
            let named = || {
                let namespace = Namespace::from_path_segment(folder.file_name()?.to_str()?)?;
                Some(CheckpointKey::new(id.clone()).in_namespace(namespace))
            };
            if let Some(key) = self.key_of(&folder)?.or_else(named) {
                keys.push(key);
            } else if !self.sequences_in(&folder).map_err(|error| lost(&folder, error))?.is_empty()
            {
                let kept = folder.display().to_string();
                return Err(StoreError::corrupt("none of its records can be read", kept)
                    .in_chain(&CheckpointKey::new(id.clone())));
            }
        }
        Ok(keys)
    }

    /// Returns the workflows that have a seed's file.
    pub(super) fn seed_chains(&self) -> Result<Vec<CheckpointKey>, StoreError> {
        if !self.seed_file {
            return Ok(Vec::new());
        }
        let names = self.names(&self.root, |name| names::seed_workflow(name).is_some())?;
        let ids = names.iter().filter_map(|name| names::seed_workflow(name));
        Ok(ids.map(CheckpointKey::new).collect())
    }

    fn folders(
        &self,
        folder: &Path,
        prefix: &str,
    ) -> Result<impl Iterator<Item = std::path::PathBuf> + use<>, StoreError> {
        let names = self.names(folder, |name| name.starts_with(prefix))?;
        let folder = folder.to_owned();
        Ok(names.into_iter().map(move |name| folder.join(name)))
    }

    /// Returns the names in a folder that are wanted, in order; none where it is not there.
    pub(super) fn names(
        &self,
        folder: &Path,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>, StoreError> {
        let names = match self.disk.list(folder) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound && folder != self.root => {
                Vec::new()
            }
            Err(error) => return Err(lost(folder, error)),
        };
        let names = names.into_iter().filter_map(|name| name.into_string().ok());
        let mut names: Vec<_> = names.filter(|name| is_wanted(name)).collect();
        names.sort_unstable();
        Ok(names)
    }
}

fn is_shard(name: &str) -> bool {
    name.len() == 2 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

const fn is_too_new(error: &StoreError) -> bool {
    matches!(error.kind(), StoreErrorKind::TooNew { .. })
}
