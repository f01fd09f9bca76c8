//! What the layers did, counted from observations.
//!
//! A pure function: [`Statistics::of`] takes observations, wherever they come from, and answers
//! every figure; [`LangfuseClient`](crate::LangfuseClient) reads some.
//!
//! # Words
//!
//! - **call**: what stands outermost of buttress in its trace, be it an agent, a swarm, a graph or
//!   a single layer; of an agent: what stands outermost of that agent.
//! - **availability**: calls answered, degraded ones too, by all calls.
//! - **retry success**: of series with more than one attempt, those that ended in success. A
//!   success at the first attempt is no success of the retry.
//! - **attempts needed**: attempts of the series that a retry rescued, on average.
//! - **fallback rate**: chains that a fallback answered, by all chains that have one.
//! - **time in a state**: from the first to the last sign of a circuit in what was read. Circuits
//!   of one name in several processes are taken for one.
//!
//! A figure that would be divided by zero is none. An observation that came twice counts once. Of
//! a trace that was kept by chance each observation counts as many as its [`SAMPLE_RATE`] says.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use buttress_langfuse::{Observation, Statistics};
//!
//! let mut series = Observation::new("trace", "span", "retry_execution", SystemTime::now());
//! series.metadata.insert("outcome".to_owned(), "success".into());
//! series.metadata.insert("attempts_needed".to_owned(), 2.into());
//! let retry = Statistics::of(vec![series]).total.retry;
//! assert_eq!((retry.success_rate(), retry.average_attempts_needed()), (Some(1.0), Some(2.0)));
//! assert_eq!(Statistics::of(Vec::new()).total.retry.success_rate(), None);
//! ```

mod circuits;
mod figures;
mod relations;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::SystemTime};

use buttress::telemetry::{key, outcome, span};

pub use self::{
    circuits::CircuitFigures,
    figures::{
        CallFigures, DegradationFigures, FailureFigures, FallbackFigures, Figures, RetryFigures,
        TimeoutFigures,
    },
};
use self::{circuits::Sign, relations::Relations};
use crate::{Level, Observation};

/// The key under which a trace says the share of traces like it that was kept.
pub const SAMPLE_RATE: &str = "sample_rate";

/// What the layers did, in all and by agent.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Statistics {
    /// How many observations of buttress were counted, each once.
    pub observations: usize,
    /// When the first of them began.
    pub first: Option<SystemTime>,
    /// When the last of them began.
    pub last: Option<SystemTime>,
    /// Whether some stand for others that were not kept.
    pub is_sampled: bool,
    /// The figures of all.
    pub total: Figures,
    /// The figures of each agent; under the empty name those of no agent.
    pub by_agent: BTreeMap<String, Figures>,
}

// ===== impl Statistics =====

impl Statistics {
    /// Counts observations, in any order; those of others are passed over.
    #[must_use]
    pub fn of(observations: Vec<Observation>) -> Self {
        let observations = Observation::distinct(observations);
        let relations = Relations::of(&observations);
        let weights = weights(&observations);
        let mut statistics = Self::default();
        let mut signs = Vec::new();
        for (one, place) in observations.iter().zip(relations.places()) {
            if !is_ours(one) {
                continue;
            }
            let weight = weights.get(one.trace_id.as_str()).copied().unwrap_or(1.0);
            statistics.note(one, weight);
            let agent = place.agent.unwrap_or_default();
            statistics.total.count(one, weight, is_call(one) && place.is_outermost);
            let figures = statistics.by_agent.entry(agent.to_owned()).or_default();
            figures.count(one, weight, is_call(one) && place.is_outermost_of_agent);
            signs.extend(Sign::of(one, weight).into_iter().map(|sign| (agent, sign)));
        }
        statistics.count_circuits(signs);
        statistics
    }

    /// Returns whether nothing was counted.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.observations == 0
    }

    fn note(&mut self, one: &Observation, weight: f64) {
        self.observations += 1;
        self.first = Some(self.first.map_or(one.start, |first| first.min(one.start)));
        self.last = self.last.max(Some(one.start));
        self.is_sampled |= weight > 1.0;
    }

    fn count_circuits(&mut self, mut signs: Vec<(&str, Sign)>) {
        signs.sort_by_key(|(_, sign)| sign.order());
        for (agent, sign) in signs {
            let of_agent = self.by_agent.entry(agent.to_owned()).or_default();
            for figures in [&mut self.total, of_agent] {
                figures.circuits.entry(sign.circuit.clone()).or_default().count(&sign);
            }
        }
    }
}

/// Returns how many traces each of those that were kept by chance stands for.
fn weights(observations: &[Observation]) -> BTreeMap<&str, f64> {
    let rates = observations.iter().filter_map(|one| {
        let rate = one.number(SAMPLE_RATE).filter(|rate| *rate > 0.0 && *rate <= 1.0)?;
        Some((one.trace_id.as_str(), 1.0 / rate))
    });
    rates.collect()
}

/// Tells whether an observation was made by buttress.
fn is_ours(one: &Observation) -> bool {
    const NAMES: [&str; 14] = [
        span::AGENT,
        span::CIRCUIT_BREAKER,
        span::CIRCUIT_OPENED,
        span::CIRCUIT_HALF_OPENED,
        span::CIRCUIT_CLOSED,
        span::RETRY,
        span::RETRY_ATTEMPT,
        span::TIMEOUT,
        span::STREAM,
        span::FALLBACK,
        span::FALLBACK_ATTEMPT,
        span::SWARM_AGENT,
        span::SAVE_CHECKPOINT,
        span::LOAD_CHECKPOINT,
    ];
    let recorded = one.metadata.get(key::OUTCOME).and_then(|value| value.as_str());
    let is_outcome = recorded.is_some_and(|word| {
        [
            outcome::SUCCESS,
            outcome::FAILURE,
            outcome::REJECTED,
            outcome::CANCELLED,
            outcome::PANICKED,
        ]
        .contains(&word)
    });
    is_outcome || NAMES.contains(&one.name.as_str()) || one.name == span::RESUME_FROM_CHECKPOINT
}

/// Tells whether an observation can be a call: what somebody waits for, and no store.
fn is_call(one: &Observation) -> bool {
    let is_store = [span::SAVE_CHECKPOINT, span::LOAD_CHECKPOINT, span::RESUME_FROM_CHECKPOINT]
        .contains(&one.name.as_str());
    one.kind != "EVENT" && !is_store
}

/// Tells whether a layer says of itself that it failed, and does not just pass a failure on.
fn is_own_failure(one: &Observation, kind: &str) -> bool {
    one.level == Level::Error && one.text(key::FAILURE_KIND).as_deref() == Some(kind)
}
