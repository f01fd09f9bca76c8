//! What reads checkpoints; each of them comes with its writes from one script, so none is half.

use buttress::{
    checkpoint::{Checkpoint, CheckpointKey, Page, Query, StoreError},
    telemetry::LOG_TARGET,
};
use futures_util::{StreamExt as _, stream};

use super::{RedisStore, connection::Call, error::Failure, keys, state};
use crate::record::{Entry, Record, Unreadable};

/// How many checkpoints of a chain one script reads: states may be large.
const BATCH: usize = 8;
/// How many names of the index are read at once, and how many of their chains side by side.
const NAMES: usize = 64;
const SIDE_BY_SIDE: usize = 8;

/// A checkpoint as the server has it: its sequence, its record, and those of its writes.
type Stored = (String, Option<Vec<u8>>, Vec<Option<Vec<u8>>>);

/// A place of a chain, and the checkpoint in it where that can be read.
struct Found {
    sequence: u64,
    checkpoint: Result<Checkpoint, StoreError>,
}

// ===== impl RedisStore =====

impl RedisStore {
    /// Reads the newest checkpoint that can be read.
    pub(super) async fn newest(&self, key: &CheckpointKey) -> Result<Option<Checkpoint>, Failure> {
        let (text, found) = self.read(key, keys::any(), 1).await?;
        let Some(mut found) = found.into_iter().next() else {
            return self.nothing(key, &text).map_err(Failure::from);
        };
        let mut first = None;
        loop {
            let error = match found.checkpoint {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(error) => error,
            };
            tracing::warn!(target: LOG_TARGET, %error, "a checkpoint cannot be read, an older one is looked for");
            let error = first.get_or_insert(error);
            let (_, older) = self.read(key, keys::below(found.sequence), 1).await?;
            match older.into_iter().next() {
                Some(older) => found = older,
                None => return Err(std::mem::replace(error, StoreError::not_found()).into()),
            }
        }
    }

    /// Says whether a chain without checkpoints should have one.
    fn nothing(&self, key: &CheckpointKey, text: &[u8]) -> Result<Option<Checkpoint>, StoreError> {
        let keys = self.keys(key);
        match state::read(key, text, &keys.chains)?.head {
            None => Ok(None),
            Some(head) => {
                Err(StoreError::corrupt("its record is missing", keys.data).at_sequence(head))
            }
        }
    }

    pub(super) async fn get_once(
        &self,
        key: &CheckpointKey,
        sequence: u64,
    ) -> Result<Option<Checkpoint>, Failure> {
        let (_, found) = self.read(key, keys::exactly(sequence), 1).await?;
        Ok(found.into_iter().next().map(|found| found.checkpoint).transpose()?)
    }

    pub(super) async fn history_once(
        &self,
        key: &CheckpointKey,
        page: Page,
    ) -> Result<Vec<Checkpoint>, Failure> {
        let mut range = page.before.map_or_else(keys::any, keys::below);
        let mut history = Vec::new();
        while history.len() < page.limit {
            let wanted = BATCH.min(page.limit - history.len());
            let (_, found) = self.read(key, range, wanted).await?;
            let is_last = found.len() < wanted;
            range = keys::below(found.last().map_or(0, |found| found.sequence));
            for Found { checkpoint, .. } in found {
                match checkpoint {
                    Ok(checkpoint) => history.push(checkpoint),
                    Err(error) => {
                        tracing::warn!(target: LOG_TARGET, %error, "a checkpoint cannot be read")
                    }
                }
            }
            if is_last {
                break;
            }
        }
        Ok(history)
    }

    pub(super) async fn list_once(&self, query: &Query) -> Result<Vec<Checkpoint>, Failure> {
        let mut heads = Vec::new();
        let mut after = query.after.clone();
        while heads.len() < query.limit {
            let chains = self.chains_behind(after.as_ref(), query).await?;
            let Some(last) = chains.last() else { break };
            after = Some(last.clone());
            let wanted: Vec<_> = chains
                .into_iter()
                .filter(|key| query.namespace.as_ref().is_none_or(|name| *name == key.namespace))
                .map(|key| self.head(key))
                .collect();
            let mut found = stream::iter(wanted).buffered(SIDE_BY_SIDE);
            while let Some(head) = found.next().await {
                heads.extend(head?.filter(|head| query.matches(head)));
                if heads.len() == query.limit {
                    break;
                }
            }
        }
        Ok(heads)
    }

    /// Reads the head of a chain that is listed; none where it cannot be read.
    async fn head(&self, key: CheckpointKey) -> Result<Option<Checkpoint>, Failure> {
        match self.newest(&key).await {
            Err(Failure { error, .. }) if is_unreadable(&error) => {
                tracing::warn!(target: LOG_TARGET, %error, "a chain is left out of a list");
                Ok(None)
            }
            other => other,
        }
    }

    /// Reads the next names of the index.
    async fn chains_behind(
        &self,
        after: Option<&CheckpointKey>,
        query: &Query,
    ) -> Result<Vec<CheckpointKey>, Failure> {
        let [from, to] = keys::behind(after, query.workflow_id.as_ref());
        let mut command = redis::cmd("ZRANGEBYLEX");
        command.arg(keys::index(&self.0.prefix)).arg(from).arg(to).arg("LIMIT").arg(0).arg(NAMES);
        let names: Vec<Vec<u8>> = self.0.link.run(&command).await?;
        Ok(names.iter().filter_map(|name| keys::unlisted(name)).collect())
    }

    /// Reads the state of a chain and the newest checkpoints in a range of names.
    async fn read(
        &self,
        key: &CheckpointKey,
        [to, from]: [String; 2],
        limit: usize,
    ) -> Result<(Vec<u8>, Vec<Found>), Failure> {
        let keys = self.keys(key);
        let call = Call::new(&self.0.scripts.read, &[&keys.chains, &keys.index, &keys.data])
            .arg(key.namespace.as_str())
            .arg(to)
            .arg(from)
            .arg(limit);
        let (text, stored): (Option<Vec<u8>>, Vec<Stored>) = self.0.link.call(&call).await?;
        let mut found = Vec::with_capacity(stored.len());
        for (sequence, record, writes) in stored {
            let place = format!("{}:c{sequence}", keys.data);
            let sequence = sequence.parse().unwrap_or_default();
            let checkpoint = decode(key, sequence, &place, record, writes).await?;
            found.push(Found { sequence, checkpoint });
        }
        Ok((text.unwrap_or_default(), found))
    }
}

/// Reads a checkpoint with its writes.
async fn decode(
    key: &CheckpointKey,
    sequence: u64,
    place: &str,
    record: Option<Vec<u8>>,
    writes: Vec<Option<Vec<u8>>>,
) -> Result<Result<Checkpoint, StoreError>, Failure> {
    let Entry::Checkpoint(mut checkpoint) = (match entry(key, sequence, place, record).await? {
        Ok(entry) => entry,
        Err(error) => return Ok(Err(error)),
    }) else {
        return Ok(Err(corrupt(key, sequence, place, "it is no checkpoint")));
    };
    for write in writes {
        match entry(key, sequence, place, write).await? {
            Ok(Entry::Writes(of, writes)) if of == sequence => {
                writes.into_iter().for_each(|write| write.add_to(&mut checkpoint.writes));
            }
            Ok(_) => return Ok(Err(corrupt(key, sequence, place, "a write is not its own"))),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(*checkpoint))
}

/// Reads one record, which must be of this chain and place.
async fn entry(
    key: &CheckpointKey,
    sequence: u64,
    place: &str,
    record: Option<Vec<u8>>,
) -> Result<Result<Entry, StoreError>, Failure> {
    let Some(record) = record else {
        return Ok(Err(corrupt(key, sequence, place, "its record is missing")));
    };
    Ok(match Record::decode(record).await? {
        Ok(record) if record.key == *key && record.sequence == sequence => Ok(record.entry),
        Ok(record) => {
            let what = format!("it is checkpoint {} of {}", record.sequence, record.key);
            Err(corrupt(key, sequence, place, &what))
        }
        Err(Unreadable::Corrupt(what)) => Err(corrupt(key, sequence, place, &what)),
        Err(Unreadable::TooNew(found)) => {
            let error = StoreError::too_new(found, crate::record::FORMAT);
            Err(error.in_chain(key).at_sequence(sequence).at_place(place))
        }
    })
}

fn corrupt(key: &CheckpointKey, sequence: u64, place: &str, what: &str) -> StoreError {
    StoreError::corrupt(what, place).in_chain(key).at_sequence(sequence)
}

/// Returns whether it is what is stored that is wrong.
const fn is_unreadable(error: &StoreError) -> bool {
    use buttress::checkpoint::StoreErrorKind::{Corrupt, TooNew};
    matches!(error.kind(), Corrupt { .. } | TooNew { .. })
}
