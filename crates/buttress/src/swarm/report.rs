//! What a swarm reports.

use std::{fmt, sync::Arc};

use crate::{Error, Failure};

/// What the agents of a swarm found, and which of them failed.
///
/// An agent that was not waited for, since a [`quorum`](super::SwarmBuilder::quorum) was there, is
/// neither a finding nor a failure: it does not count in the rate and the level.
pub struct SwarmReport<T> {
    findings: Vec<Finding<T>>,
    failures: Vec<SwarmFailure>,
    not_needed: Vec<Arc<str>>,
}

/// What one agent of a swarm found.
pub struct Finding<T> {
    agent: Arc<str>,
    required: bool,
    value: T,
}

/// How one agent of a swarm failed.
#[derive(Debug)]
pub struct SwarmFailure {
    agent: Arc<str>,
    required: bool,
    error: Error,
}

/// How much of a swarm's report is missing; a greater level is a worse one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum DegradationLevel {
    /// At least 80 % of the agents answered.
    Full = 0,
    /// At least 50 % of the agents answered.
    Degraded = 1,
    /// Less than 50 % of the agents answered.
    Minimal = 2,
}

// ===== impl SwarmReport =====

impl<T> SwarmReport<T> {
    pub(super) const fn new(
        findings: Vec<Finding<T>>,
        failures: Vec<SwarmFailure>,
        not_needed: Vec<Arc<str>>,
    ) -> Self {
        Self { findings, failures, not_needed }
    }

    /// Returns the findings, in the order in which the agents were added.
    #[must_use]
    pub fn findings(&self) -> &[Finding<T>] {
        &self.findings
    }

    /// Returns the findings and drops the rest of the report.
    #[must_use]
    pub fn into_findings(self) -> Vec<Finding<T>> {
        self.findings
    }

    /// Returns the findings and the failures, each in the order in which the agents were added.
    #[must_use]
    pub fn into_parts(self) -> (Vec<Finding<T>>, Vec<SwarmFailure>) {
        (self.findings, self.failures)
    }

    /// Returns what one agent found.
    #[must_use]
    pub fn finding(&self, agent: &str) -> Option<&T> {
        self.findings.iter().find(|finding| finding.agent() == agent).map(Finding::value)
    }

    /// Returns the failures of required and optional agents, in the order in which those were
    /// added.
    #[must_use]
    pub fn failures(&self) -> &[SwarmFailure] {
        &self.failures
    }

    /// Returns the names of the agents that were not waited for, since a quorum was there.
    pub fn not_needed(&self) -> impl Iterator<Item = &str> {
        self.not_needed.iter().map(|agent| &**agent)
    }

    /// Returns the share of the agents with a result that succeeded.
    #[must_use]
    pub fn success_rate(&self) -> f64 {
        share(self.findings.len(), self.with_result())
    }

    /// Returns how much is missing.
    #[must_use]
    pub fn level(&self) -> DegradationLevel {
        DegradationLevel::of(self.findings.len(), self.with_result())
    }

    fn with_result(&self) -> usize {
        self.findings.len() + self.failures.len()
    }
}

impl<T> fmt::Debug for SwarmReport<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwarmReport")
            .field("level", &self.level())
            .field("findings", &self.findings)
            .field("failures", &self.failures)
            .field("not_needed", &self.not_needed)
            .finish()
    }
}

// ===== impl Finding =====

impl<T> Finding<T> {
    pub(super) const fn new(agent: Arc<str>, required: bool, value: T) -> Self {
        Self { agent, required, value }
    }

    /// Returns the name of the agent.
    #[must_use]
    pub fn agent(&self) -> &str {
        &self.agent
    }

    /// Returns whether the agent is a required one.
    #[must_use]
    pub const fn is_required(&self) -> bool {
        self.required
    }

    /// Returns what the agent answered.
    #[must_use]
    pub const fn value(&self) -> &T {
        &self.value
    }

    /// Returns what the agent answered and drops the rest.
    #[must_use]
    pub fn into_value(self) -> T {
        self.value
    }
}

impl<T> fmt::Debug for Finding<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The value is the agent's answer, which is never shown.
        f.debug_struct("Finding")
            .field("agent", &self.agent)
            .field("required", &self.required)
            .finish_non_exhaustive()
    }
}

// ===== impl SwarmFailure =====

impl SwarmFailure {
    pub(super) const fn new(agent: Arc<str>, required: bool, error: Error) -> Self {
        Self { agent, required, error }
    }

    /// Returns the name of the agent.
    #[must_use]
    pub fn agent(&self) -> &str {
        &self.agent
    }

    /// Returns whether the agent is a required one.
    #[must_use]
    pub const fn is_required(&self) -> bool {
        self.required
    }

    /// Returns the agent's error.
    #[must_use]
    pub const fn error(&self) -> &Error {
        &self.error
    }

    /// Returns what the failure was classified as.
    #[must_use]
    pub const fn failure(&self) -> &Failure {
        self.error.failure()
    }
}

impl fmt::Display for SwarmFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.agent, self.error.kind())
    }
}

// ===== impl DegradationLevel =====

impl DegradationLevel {
    /// Compares in whole numbers: 0.8 has no exact double, so 4 of 5 would be left to rounding.
    pub(super) const fn of(succeeded: usize, all: usize) -> Self {
        if 2 * succeeded < all {
            Self::Minimal
        } else if 5 * succeeded < 4 * all {
            Self::Degraded
        } else {
            Self::Full
        }
    }

    /// Returns the level as the number that is scored.
    #[must_use]
    pub const fn as_i64(self) -> i64 {
        match self {
            Self::Full => 0,
            Self::Degraded => 1,
            Self::Minimal => 2,
        }
    }

    /// Returns the level in snake case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Degraded => "degraded",
            Self::Minimal => "minimal",
        }
    }
}

impl fmt::Display for DegradationLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Returns what share of all some are; of none it is 0.
pub(super) fn share(some: usize, all: usize) -> f64 {
    // Nobody has 2^53 agents, so both numbers are exact.
    if all == 0 { 0.0 } else { some as f64 / all as f64 }
}
