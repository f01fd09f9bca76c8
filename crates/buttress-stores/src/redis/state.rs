//! The state of a chain as a server keeps it.

use std::time::SystemTime;

use buttress::checkpoint::{ChainState, CheckpointKey, StoreError};
use twox_hash::XxHash3_128;

use super::{RedisStore, connection::Call, error::Failure, keys};
use crate::record::{self, Chain};

/// What was seen of a chain before it is written.
pub(super) struct Seen {
    /// What stands there, which a script compares; empty where nothing does.
    pub(super) text: Vec<u8>,
    pub(super) state: ChainState,
    /// By the clock that leases are measured by.
    pub(super) now: SystemTime,
    /// Whether the checkpoint that was asked about is there.
    pub(super) exists: bool,
    /// The sequence of the checkpoint with the write id that was asked about.
    pub(super) written: Option<u64>,
}

/// Time in seconds and microseconds, the state, whether a checkpoint is there, a sequence.
type Answer = (u64, u64, Option<Vec<u8>>, bool, Option<String>);

impl RedisStore {
    /// Looks at a chain, a checkpoint of it, and a write id.
    pub(super) async fn see(
        &self,
        key: &CheckpointKey,
        sequence: u64,
        write_id: &str,
    ) -> Result<Seen, Failure> {
        let keys = self.keys(key);
        let call = Call::new(&self.0.scripts.state, &[&keys.chains, &keys.data])
            .arg(key.namespace.as_str())
            .arg(keys::sequence(sequence))
            .arg(write_id);
        let (seconds, micros, text, exists, written): Answer = self.0.link.call(&call).await?;
        let text = text.unwrap_or_default();
        let state = read(key, &text, &keys.chains)?;
        let written = written.and_then(|written| written.parse().ok());
        Ok(Seen { state, text, now: self.now(seconds, micros), exists, written })
    }

    /// Returns the time by the clock that leases are measured by.
    pub(super) fn now(&self, seconds: u64, micros: u64) -> SystemTime {
        match &self.0.clock {
            Some(clock) => clock.now(),
            None => record::time(seconds.saturating_mul(1000).saturating_add(micros / 1000)),
        }
    }
}

/// Reads a state; nothing is that of a chain that nobody has written yet.
pub(super) fn read(
    key: &CheckpointKey,
    text: &[u8],
    place: &str,
) -> Result<ChainState, StoreError> {
    if text.is_empty() {
        return Ok(ChainState::default());
    }
    let corrupt = |what: &str| StoreError::corrupt(what, place).in_chain(key);
    let (sum, json) = text.split_at_checked(32).ok_or_else(|| corrupt("the state is cut short"))?;
    if sum != checksum(key, json).as_bytes() {
        return Err(corrupt("the checksum does not fit the state"));
    }
    let chain: Chain = serde_json::from_slice(json).map_err(|error| corrupt(&error.to_string()))?;
    Ok(chain.into())
}

/// Writes a state, with a checksum before it.
pub(super) fn write(key: &CheckpointKey, state: &ChainState) -> Result<Vec<u8>, StoreError> {
    let json = serde_json::to_vec(&Chain::from(state))
        .map_err(|error| StoreError::encode(error.to_string()))?;
    Ok([checksum(key, &json).as_bytes(), &json].concat())
}

/// Sums up a state and whose it is, so that none is taken for another's.
fn checksum(key: &CheckpointKey, json: &[u8]) -> String {
    let whose = format!("{}\0{}\0", key.workflow_id, key.namespace);
    format!("{:032x}", XxHash3_128::oneshot(&[whose.as_bytes(), json].concat()))
}

#[cfg(test)]
mod tests {
    use buttress::checkpoint::{StoreErrorKind, WorkflowId};

    use super::*;

    #[test]
    fn a_state_comes_back_and_a_damaged_one_does_not() {
        let key = CheckpointKey::new(WorkflowId::new("w").unwrap());
        let mut state = ChainState::default();
        (state.last, state.head, state.token) = (u64::MAX, Some(u64::MAX - 1), 1 << 60);
        state.holder = Some(("me \"\0".to_owned(), record::time(1_795_608_000_123)));
        let text = write(&key, &state).unwrap();
        assert_eq!(read(&key, &text, "here").unwrap(), state);
        assert_eq!(read(&key, b"", "here").unwrap(), ChainState::default());
        for at in 0..text.len() {
            let mut damaged = text.clone();
            damaged[at] ^= 1;
            let error = read(&key, &damaged, "here").unwrap_err();
            assert!(matches!(error.kind(), StoreErrorKind::Corrupt { .. }));
        }
        let other = CheckpointKey::new(WorkflowId::new("x").unwrap());
        assert!(read(&other, &text, "here").is_err());
    }
}
