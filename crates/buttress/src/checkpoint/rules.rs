//! The rules of a chain, which every store applies under its own lock or transaction.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::{CheckpointKey, Lease, Put, PutWrites, StoreError};

/// What a store has to know of a chain to say whether it may be written.
///
/// Writers of stores read it, ask one of the methods, and write what that answers, all in one
/// transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ChainState {
    /// The last sequence that was given out; it only grows, also when the chain is deleted.
    pub last: u64,
    /// The newest checkpoint; none where there is none or it was deleted.
    pub head: Option<u64>,
    /// The sequence of the last deletion; every checkpoint below it is gone.
    pub deleted: u64,
    /// The newest token; 0 where there never was a lease.
    pub token: u64,
    /// Who holds that token and until when; none where it was released.
    pub holder: Option<(String, SystemTime)>,
}

// ===== impl ChainState =====

impl ChainState {
    /// The largest sequence: what every store can keep as a signed number.
    pub const LAST: u64 = i64::MAX.cast_unsigned();

    /// Returns the sequence behind the last one.
    ///
    /// # Errors
    ///
    /// `Corrupt` where that was the largest, which no chain reaches that is whole.
    pub fn next(&self, key: &CheckpointKey) -> Result<u64, StoreError> {
        if self.last < Self::LAST {
            return Ok(self.last + 1);
        }
        let what = format!("there is no sequence behind {}", self.last);
        Err(StoreError::corrupt(what, "the store").in_chain(key))
    }

    /// Checks a put and returns the sequence it gets.
    ///
    /// # Errors
    ///
    /// `Encode` where the metadata could not be read again; `Fenced`, `Held`, and `Conflict`; of a
    /// conflict the store has to look whether a checkpoint with the put's write id is there, and
    /// answer its sequence where the put [is a repeat of it](Put::is_repeat_of).
    pub fn admit_put(&self, put: &Put, now: SystemTime) -> Result<u64, StoreError> {
        if put.metadata.values().any(|value| is_deeper(value, DEEPEST)) {
            let reason = format!("metadata is nested more than {DEEPEST} levels deep");
            return Err(StoreError::encode(reason).in_chain(&put.key));
        }
        self.admit(&put.key, put.token, now)?;
        if put.parent != self.head {
            return Err(StoreError::conflict(put.parent, self.head).in_chain(&put.key));
        }
        self.next(&put.key)
    }

    /// Checks writes of tasks; `exists` says whether their checkpoint is stored.
    ///
    /// # Errors
    ///
    /// `NotFound`, `Conflict`, `Fenced`, `Held`.
    pub fn admit_writes(
        &self,
        writes: &PutWrites,
        exists: impl FnOnce() -> bool,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        self.admit(&writes.key, writes.token, now)?;
        if self.head == Some(writes.sequence) {
            return Ok(());
        }
        let error = if exists() {
            StoreError::conflict(Some(writes.sequence), self.head)
        } else {
            StoreError::not_found()
        };
        Err(error.in_chain(&writes.key).at_sequence(writes.sequence))
    }

    /// Takes the lease for an owner.
    ///
    /// # Errors
    ///
    /// `Held` where somebody else holds it.
    pub fn acquire(
        &self,
        key: &CheckpointKey,
        owner: &str,
        time: Duration,
        now: SystemTime,
    ) -> Result<Lease, StoreError> {
        match &self.holder {
            Some((holder, until)) if holder != owner && now < *until => {
                Err(StoreError::held(holder, *until).in_chain(key))
            }
            _ => {
                let until = after(now, time);
                Ok(Lease::new(key.clone(), owner.to_owned(), self.token + 1, until))
            }
        }
    }

    /// Prolongs a lease.
    ///
    /// # Errors
    ///
    /// `Fenced` where it is not the newest of the chain, or was released.
    pub fn renew(
        &self,
        lease: &Lease,
        time: Duration,
        now: SystemTime,
    ) -> Result<Lease, StoreError> {
        self.admit_token(&lease.key, lease.token)?;
        Ok(Lease { until: after(now, time), ..lease.clone() })
    }

    /// Checks that a lease may be given back, which it may more than once.
    ///
    /// # Errors
    ///
    /// `Fenced` where it is not the newest of the chain.
    pub fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        if lease.token == self.token {
            return Ok(());
        }
        Err(StoreError::fenced(lease.token, self.token).in_chain(&lease.key))
    }

    /// Checks that a chain may be deleted; `lease` may be one of another chain of the workflow.
    ///
    /// # Errors
    ///
    /// `Fenced`, `Held`.
    pub fn delete(
        &self,
        key: &CheckpointKey,
        lease: Option<&Lease>,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        let token = lease.filter(|lease| lease.key == *key).map(|lease| lease.token);
        self.admit(key, token, now)
    }

    /// Checks a writer's token against the lease.
    fn admit(
        &self,
        key: &CheckpointKey,
        token: Option<u64>,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        match (token, &self.holder) {
            (Some(token), _) => self.admit_token(key, token),
            (None, Some((owner, until))) if now < *until => {
                Err(StoreError::held(owner, *until).in_chain(key))
            }
            (None, _) => Ok(()),
        }
    }

    fn admit_token(&self, key: &CheckpointKey, token: u64) -> Result<(), StoreError> {
        if token == self.token && self.holder.is_some() {
            return Ok(());
        }
        Err(StoreError::fenced(token, self.token).in_chain(key))
    }
}

/// How deep metadata may be nested: serde_json writes any depth, and reads 127 levels, of which
/// stores take a few around it.
const DEEPEST: usize = 100;

fn is_deeper(value: &Value, levels: usize) -> bool {
    let Some(below) = levels.checked_sub(1) else { return true };
    match value {
        Value::Array(values) => values.iter().any(|value| is_deeper(value, below)),
        Value::Object(values) => values.values().any(|value| is_deeper(value, below)),
        _ => false,
    }
}

/// Returns the end of a lease; one that is longer than the clock goes on for 100 years.
fn after(now: SystemTime, time: Duration) -> SystemTime {
    const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    super::record::to_millis(now + time.min(LONGEST))
}
