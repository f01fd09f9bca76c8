//! The figures of all, or of one agent.

use std::collections::BTreeMap;

use buttress::telemetry::{key, outcome, span};

use super::{CircuitFigures, is_own_failure};
use crate::Observation;

/// Every figure; counts are whole numbers unless traces were kept by chance.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Figures {
    /// What callers got.
    pub calls: CallFigures,
    /// Series of attempts.
    pub retry: RetryFigures,
    /// Chains of agents.
    pub fallback: FallbackFigures,
    /// Time limits.
    pub timeout: TimeoutFigures,
    /// Circuits by their names.
    pub circuits: BTreeMap<String, CircuitFigures>,
    /// Swarms.
    pub degradation: DegradationFigures,
    /// Failures by kind, such as `rate_limited`; `unknown` where none was recorded.
    pub failures: BTreeMap<String, FailureFigures>,
}

/// What callers got.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct CallFigures {
    /// All calls.
    pub all: f64,
    /// Those that were answered.
    pub answered: f64,
    /// Those that failed.
    pub failed: f64,
    /// Those that an open circuit rejected.
    pub rejected: f64,
    /// Those that panicked.
    pub panicked: f64,
    /// Those that their caller gave up.
    pub cancelled: f64,
    /// Those whose end was never recorded.
    pub unfinished: f64,
}

/// Series of attempts.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct RetryFigures {
    /// All series.
    pub series: f64,
    /// Those that succeeded at once.
    pub first_try: f64,
    /// Those with more than one attempt.
    pub retried: f64,
    /// Those of these that ended in success.
    pub rescued: f64,
    /// Those that ended in a failure, after however many attempts.
    pub failed: f64,
    /// All attempts.
    pub attempts: f64,
    /// The attempts of the series that were rescued.
    pub attempts_of_rescued: f64,
    /// Why series stopped, such as `budget`.
    pub stops: BTreeMap<String, f64>,
}

/// Chains of agents; one that has no fallback is none.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct FallbackFigures {
    /// All chains.
    pub chains: f64,
    /// Those whose primary failed.
    pub primary_failed: f64,
    /// Those that a fallback answered.
    pub rescued: f64,
    /// Those that nobody answered.
    pub exhausted: f64,
    /// Who answered how often: 0 is the primary, 1 the first fallback.
    pub levels: BTreeMap<u64, f64>,
}

/// Time limits.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct TimeoutFigures {
    /// Calls under a limit.
    pub calls: f64,
    /// Those that ran out of time.
    pub timed_out: f64,
}

/// Swarms.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct DegradationFigures {
    /// All calls of swarms.
    pub runs: f64,
    /// Those at level 0.
    pub full: f64,
    /// Those at level 1.
    pub degraded: f64,
    /// Those at level 2.
    pub minimal: f64,
    /// Those in which too many required agents failed.
    pub critical: f64,
    /// The success rates of those that have one, added up.
    pub success_rates: f64,
    /// How many have one.
    pub rated: f64,
    /// Which agents failed how often.
    pub failed_agents: BTreeMap<String, f64>,
}

/// Failures of one kind.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct FailureFigures {
    /// Those that callers saw.
    pub calls: f64,
    /// Those of attempts, which a retry or a fallback may have made good.
    pub attempts: f64,
}

/// Divides; none by zero.
fn rate(part: f64, whole: f64) -> Option<f64> {
    (whole > 0.0).then(|| part / whole)
}

// ===== impl Figures =====

impl Figures {
    pub(super) fn count(&mut self, one: &Observation, weight: f64, is_call: bool) {
        if is_call {
            self.calls.count(one, weight);
            if let Some(kind) = failure_of(one) {
                self.failures.entry(kind).or_default().calls += weight;
            }
        }
        match one.name.as_str() {
            span::RETRY => self.retry.count(one, weight),
            span::FALLBACK => self.fallback.count(one, weight),
            span::TIMEOUT => self.timeout.count(one, weight),
            span::RETRY_ATTEMPT => {
                if let Some(kind) = failure_of(one) {
                    self.failures.entry(kind).or_default().attempts += weight;
                }
            }
            _ if is_swarm(one) => self.degradation.count(one, weight),
            _ => {}
        }
    }
}

/// Returns the kind of failure that an observation ended with, where it did.
fn failure_of(one: &Observation) -> Option<String> {
    match one.text(key::OUTCOME).as_deref() {
        Some(outcome::SUCCESS | outcome::CANCELLED) | None => None,
        Some(_) => {
            let kind = one.text(key::FAILURE_KIND).or_else(|| one.text(key::ERROR_TYPE));
            Some(kind.unwrap_or_else(|| "unknown".to_owned()))
        }
    }
}

fn is_swarm(one: &Observation) -> bool {
    one.name.ends_with("_with_degradation") || one.name == span::SWARM
}

// ===== impl CallFigures =====

impl CallFigures {
    /// Returns the share of calls that were answered.
    #[must_use]
    pub fn availability(&self) -> Option<f64> {
        rate(self.answered, self.all)
    }

    fn count(&mut self, one: &Observation, weight: f64) {
        self.all += weight;
        *match one.text(key::OUTCOME).as_deref() {
            Some(outcome::SUCCESS) => &mut self.answered,
            Some(outcome::REJECTED) => &mut self.rejected,
            Some(outcome::CANCELLED) => &mut self.cancelled,
            Some(outcome::PANICKED) => &mut self.panicked,
            Some(_) => &mut self.failed,
            None => &mut self.unfinished,
        } += weight;
    }
}

// ===== impl RetryFigures =====

impl RetryFigures {
    /// Returns the share of the retried series that ended in success.
    #[must_use]
    pub fn success_rate(&self) -> Option<f64> {
        rate(self.rescued, self.retried)
    }

    /// Returns how many attempts a rescued series took on average.
    #[must_use]
    pub fn average_attempts_needed(&self) -> Option<f64> {
        rate(self.attempts_of_rescued, self.rescued)
    }

    fn count(&mut self, one: &Observation, weight: f64) {
        self.series += weight;
        let attempts = one.number("attempts_needed").unwrap_or(0.0);
        self.attempts += attempts * weight;
        let ended = one.text(key::OUTCOME);
        let is_success = ended.as_deref() == Some(outcome::SUCCESS);
        if attempts > 1.0 {
            self.retried += weight;
            if is_success {
                self.rescued += weight;
                self.attempts_of_rescued += attempts * weight;
            }
        } else if is_success {
            self.first_try += weight;
        }
        if failure_of(one).is_some() {
            self.failed += weight;
        }
        if let Some(stop) = one.text("stop") {
            *self.stops.entry(stop).or_default() += weight;
        }
    }
}

// ===== impl FallbackFigures =====

impl FallbackFigures {
    /// Returns the share of chains that a fallback answered.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        rate(self.rescued, self.chains)
    }

    fn count(&mut self, one: &Observation, weight: f64) {
        // An agent without fallbacks stands in a chain of one.
        if one.count("total_agents") == Some(1) {
            return;
        }
        self.chains += weight;
        if one.boolean("primary_failed") == Some(true) {
            self.primary_failed += weight;
        }
        if failure_of(one).is_some() {
            self.exhausted += weight;
        } else if let Some(level) = one.count("fallback_level") {
            *self.levels.entry(level).or_default() += weight;
            if level > 0 {
                self.rescued += weight;
            }
        }
    }
}

// ===== impl TimeoutFigures =====

impl TimeoutFigures {
    /// Returns the share of calls that ran out of time.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        rate(self.timed_out, self.calls)
    }

    fn count(&mut self, one: &Observation, weight: f64) {
        self.calls += weight;
        // A limit further in that ran out is passed on without a level.
        if is_own_failure(one, "timeout") {
            self.timed_out += weight;
        }
    }
}

// ===== impl DegradationFigures =====

impl DegradationFigures {
    /// Returns the share of runs that were not full, critical ones included.
    #[must_use]
    pub fn rate(&self) -> Option<f64> {
        rate(self.degraded + self.minimal + self.critical, self.runs)
    }

    /// Returns the average success rate of the runs that have one.
    #[must_use]
    pub fn average_success_rate(&self) -> Option<f64> {
        rate(self.success_rates, self.rated)
    }

    fn count(&mut self, one: &Observation, weight: f64) {
        self.runs += weight;
        match one.count("degradation_level") {
            Some(0) => self.full += weight,
            Some(1) => self.degraded += weight,
            Some(_) => self.minimal += weight,
            None if failure_of(one).is_some() => self.critical += weight,
            None => {}
        }
        if let Some(success_rate) = one.number("success_rate") {
            self.success_rates += success_rate * weight;
            self.rated += weight;
        }
        for agent in one.list("failed_agents").unwrap_or_default() {
            let agent = agent.as_str().map_or_else(|| agent.to_string(), str::to_owned);
            *self.failed_agents.entry(agent).or_default() += weight;
        }
    }
}
