//! Which chains there are.

use ::object_store::{Error, path::Path};
use buttress::checkpoint::{
    Checkpoint, CheckpointKey, Query, StoreError, StoreErrorKind, WorkflowId,
};
use futures_util::{StreamExt as _, stream};

use super::{
    Inner,
    error::failed,
    log::{Reading, warn},
    names,
};

/// How many folders are looked into side by side.
const SIDE_BY_SIDE: usize = 8;

impl Inner {
    /// Returns heads of chains, in the order of their folders.
    pub(super) async fn heads(&self, query: &Query) -> Result<Vec<Checkpoint>, StoreError> {
        let after = query.after.as_ref().map(|key| names::chain(&self.base, key));
        let mut heads = Vec::new();
        for shard in self.shards(query).await? {
            let is_passed =
                |after: &Path| !after.prefix_matches(&shard) && after.parts().gt(shard.parts());
            if after.as_ref().is_some_and(is_passed) {
                continue;
            }
            let workflows = match &query.workflow_id {
                Some(id) => vec![names::workflow(&self.base, id)],
                None => self.folders(&shard, "w-").await?,
            };
            let is_behind =
                |chain: &Path| after.as_ref().is_none_or(|after| chain.parts().gt(after.parts()));
            let chains: Vec<_> = workflows.into_iter().map(|folder| self.chains(folder)).collect();
            let mut chains = stream::iter(chains).buffered(SIDE_BY_SIDE);
            while let Some(chains) = chains.next().await {
                let chains = chains?.into_iter().filter(&is_behind);
                let found: Vec<_> = chains.map(|chain| self.head(chain)).collect();
                let mut found = stream::iter(found).buffered(SIDE_BY_SIDE);
                while let Some(head) = found.next().await {
                    heads.extend(head?.filter(|head| query.matches(head)));
                    if heads.len() >= query.limit {
                        heads.truncate(query.limit);
                        return Ok(heads);
                    }
                }
            }
        }
        Ok(heads)
    }

    /// Returns the shards that have what is asked for, in order.
    async fn shards(&self, query: &Query) -> Result<Vec<Path>, StoreError> {
        match &query.workflow_id {
            Some(id) => Ok(vec![names::path(&self.base, &names::shard_of(id))]),
            None => {
                let mut shards = self.folders(&self.root(), "").await?;
                shards.retain(|shard| shard.filename().is_some_and(|name| name.len() == 2));
                Ok(shards)
            }
        }
    }

    async fn chains(&self, workflow: Path) -> Result<Vec<Path>, StoreError> {
        self.folders(&workflow, "n-").await
    }

    /// Returns the key and the end of each chain of a workflow.
    pub(super) async fn chains_of(
        &self,
        id: &WorkflowId,
    ) -> Result<Vec<(CheckpointKey, Reading)>, StoreError> {
        let mut chains = Vec::new();
        for chain in self.chains(names::workflow(&self.base, id)).await? {
            let mut reading = self.reading(&chain, false).await?;
            if let Some(key) = reading.key.take() {
                chains.push((key, reading));
            }
        }
        Ok(chains)
    }

    /// Returns the head of a chain; none where it has none that can be read.
    async fn head(&self, chain: Path) -> Result<Option<Checkpoint>, StoreError> {
        match self.reading(&chain, true).await {
            Ok(reading) => Ok(reading.head),
            Err(error) if is_unreadable(&error) => {
                warn(&error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the folders in a folder whose names begin so, in order; none where it is not there.
    async fn folders(&self, folder: &Path, prefix: &str) -> Result<Vec<Path>, StoreError> {
        let mut folders = match self.store.list_with_delimiter(Some(folder)).await {
            Ok(listed) => listed.common_prefixes,
            Err(Error::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(failed(&error).at_place(folder.as_ref())),
        };
        folders.retain(|folder| folder.filename().is_some_and(|name| name.starts_with(prefix)));
        folders.sort_unstable();
        Ok(folders)
    }
}

/// Returns whether it is what is stored that is wrong.
const fn is_unreadable(error: &StoreError) -> bool {
    matches!(error.kind(), StoreErrorKind::Corrupt { .. } | StoreErrorKind::TooNew { .. })
}
