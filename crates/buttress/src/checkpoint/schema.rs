use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Checkpoint, StoreError};
use crate::BoxError;

/// Where a memo's response stands in what is kept of it.
const RESPONSE: &str = "response";

/// How a state is read: with a version, and steps from older versions.
#[derive(Clone)]
pub(super) struct Schema {
    version: u32,
    steps: BTreeMap<u32, Step>,
}

type Step = Arc<dyn Fn(Value) -> Result<Value, BoxError> + Send + Sync>;

// ===== impl Schema =====

impl Schema {
    pub(super) const fn new() -> Self {
        Self { version: 1, steps: BTreeMap::new() }
    }

    pub(super) const fn version(&self) -> u32 {
        self.version
    }

    pub(super) const fn set_version(&mut self, version: u32) {
        self.version = version;
    }

    pub(super) fn add_step(
        &mut self,
        from: u32,
        step: impl Fn(Value) -> Result<Value, BoxError> + Send + Sync + 'static,
    ) {
        self.steps.insert(from, Arc::new(step));
    }

    /// Reads a stored state; `place` is where it stays when it does not fit.
    ///
    /// A checkpoint of version 0 was not written by a [`Checkpointer`](super::Checkpointer), but by
    /// the seed's Python or through the store: it is read as one of the first version.
    pub(super) fn read<S: DeserializeOwned>(
        &self,
        stored: Checkpoint,
        place: impl Fn() -> String,
    ) -> Result<Checkpoint<S>, StoreError> {
        let (stored, state) = stored.split(());
        let at = |error: StoreError| error.in_chain(&stored.key).at_sequence(stored.sequence);
        let corrupt = |what: String| at(StoreError::corrupt(what, place()));
        self.admit(&stored)?;
        let found = stored.schema_version.max(1);
        let state = if found == self.version {
            let mut json = serde_json::Deserializer::from_slice(&state);
            let state = serde_path_to_error::deserialize(&mut json).map_err(|error| misfit(&error));
            state.and_then(|state| match json.end() {
                Ok(()) => Ok(state),
                Err(_) => Err("something stands behind the state".to_owned()),
            })
        } else {
            let value = serde_json::from_slice(&state)
                .map_err(|_| corrupt("the state is not JSON".to_owned()))?;
            let value = self.upcast(value, found, &corrupt, &at)?;
            serde_path_to_error::deserialize(value).map_err(|error| misfit(&error))
        };
        let state = state.map_err(corrupt)?;
        Ok(stored.with_state(state))
    }

    /// Checks that a checkpoint is not of a newer schema than this program knows.
    pub(super) fn admit<S>(&self, stored: &Checkpoint<S>) -> Result<(), StoreError> {
        if stored.schema_version <= self.version {
            return Ok(());
        }
        let error = StoreError::too_new(stored.schema_version, self.version);
        Err(error.in_chain(&stored.key).at_sequence(stored.sequence))
    }

    /// The same for memos, whose responses stand in what is kept: steps are given the response.
    pub(super) fn of_memos(&self) -> Self {
        let steps = self.steps.iter().map(|(from, step)| {
            let step = Arc::clone(step);
            let of_memo: Step = Arc::new(move |mut kept: Value| {
                if let Some(response) = kept.get_mut(RESPONSE) {
                    *response = step(response.take())?;
                }
                Ok(kept)
            });
            (*from, of_memo)
        });
        Self { version: self.version, steps: steps.collect() }
    }

    /// Checks that a state can be read again: JSON has fewer numbers than Rust, is read only so
    /// deep, and serde's attributes may write what they do not read.
    pub(super) fn check<S: DeserializeOwned>(state: &[u8]) -> Result<(), StoreError> {
        let mut json = serde_json::Deserializer::from_slice(state);
        match serde_path_to_error::deserialize::<_, S>(&mut json) {
            Ok(_) => Ok(()),
            Err(error) => {
                let what = misfit(&error);
                Err(StoreError::encode(format!("it could not be read again: {what}")))
            }
        }
    }

    fn upcast(
        &self,
        mut value: Value,
        found: u32,
        corrupt: &impl Fn(String) -> StoreError,
        at: &impl Fn(StoreError) -> StoreError,
    ) -> Result<Value, StoreError> {
        for version in found..self.version {
            let Some(step) = self.steps.get(&version) else {
                return Err(at(StoreError::no_migration(version, self.version)));
            };
            value = step(value).map_err(|error| {
                corrupt(format!("the step from schema version {version} failed")).with_source(error)
            })?;
        }
        Ok(value)
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema")
            .field("version", &self.version)
            .field("steps_from", &self.steps.keys())
            .finish()
    }
}

/// Says where a state does not fit; what serde says may show a value.
fn misfit(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    let text = error.inner().to_string();
    let path = error.path();
    if text.starts_with("missing field") {
        let missing = text.split(" at line").next().unwrap_or_default();
        format!("the state does not fit at `{path}`: {missing}")
    } else {
        format!("the state does not fit at `{path}`")
    }
}
