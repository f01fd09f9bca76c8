//! The settings of a retry and its one decision: go on or stop.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Backoff, OverCap, RetryBudget, RetryReport, Stop, budget::Share};
use crate::{BudgetLimit, CallBudget, Failure, FailureKind, telemetry::Labels};

pub(super) type Listener = Arc<dyn Fn(&RetryReport<'_>) + Send + Sync>;

pub(super) struct Policy<C, B, Q, P> {
    pub(super) rules: Rules,
    pub(super) classify: C,
    pub(super) backoff: B,
    pub(super) call_budget: Q,
    pub(super) replay: P,
}

/// The settings that are of one type.
pub(super) struct Rules {
    pub(super) max_attempts: usize,
    pub(super) max_retry_after: Duration,
    pub(super) over_cap: OverCap,
    pub(super) retry_after_within: Option<Duration>,
    pub(super) retry_after_jitter: Option<f64>,
    pub(super) deadline: Option<Duration>,
    pub(super) budget: Option<RetryBudget>,
    pub(super) idempotent: bool,
    pub(super) outermost: bool,
    pub(super) retry_when: Option<fn(&Failure) -> bool>,
    pub(super) on_finish: Option<Listener>,
    /// Used after a failure only. Clones draw from it too: what failed together must not come back
    /// together.
    pub(super) random: Arc<Mutex<fastrand::Rng>>,
    pub(super) labels: Labels,
}

/// Where a series stands when an attempt has failed.
pub(super) struct Standing<'a> {
    /// Attempts made so far.
    pub(super) attempts: usize,
    pub(super) max_attempts: usize,
    /// Whether a copy of the request is there.
    pub(super) repeatable: bool,
    pub(super) previous_delay: Option<Duration>,
    /// When no attempt may start any more.
    pub(super) deadline: Option<Instant>,
    pub(super) call_budget: Option<&'a CallBudget>,
    pub(super) share: Option<&'a mut Share>,
}

// ===== impl Policy =====

impl<C, B: Backoff, Q, P> Policy<C, B, Q, P> {
    /// Decides after a failure: the delay before the next attempt, or why there is none.
    ///
    /// What costs something is asked last: a failure that is not retried takes no tokens.
    pub(super) fn decide(
        &self,
        failure: &Failure,
        standing: Standing<'_>,
    ) -> Result<Duration, Stop> {
        if !self.rules.may_repeat(failure) {
            return Err(Stop::NotRetryable);
        }
        if standing.attempts >= standing.max_attempts {
            return Err(Stop::Attempts);
        }
        if !standing.repeatable {
            return Err(Stop::NotRetryable);
        }
        let delay = self.delay(failure, standing.attempts - 1, standing.previous_delay)?;
        if ends_past(delay, standing.deadline) {
            return Err(Stop::Deadline);
        }
        if let Some(budget) = standing.call_budget {
            if ends_past(delay, budget.deadline_at()) {
                budget.stop(BudgetLimit::Deadline);
                return Err(Stop::Deadline);
            }
            budget.check().map_err(Stop::of)?;
        }
        if standing.share.is_some_and(|share| !share.take(failure.kind())) {
            return Err(Stop::Budget);
        }
        standing.call_budget.map_or(Ok(()), CallBudget::take_attempt).map_err(Stop::of)?;
        Ok(delay)
    }

    fn delay(
        &self,
        failure: &Failure,
        retry: usize,
        previous: Option<Duration>,
    ) -> Result<Duration, Stop> {
        let backoff = self.backoff.delay(retry, previous, self.rules.random());
        let mut asked = match failure.retry_after() {
            None | Some(Duration::ZERO) => return Ok(backoff),
            Some(asked) => asked,
        };
        if asked > self.rules.max_retry_after {
            match self.rules.over_cap {
                OverCap::Stop => return Err(Stop::RetryAfterOverCap),
                OverCap::Backoff => return Ok(backoff),
                // Nothing is added: the limit is the longest wait.
                OverCap::Clamp if self.rules.retry_after_within.is_none() => {
                    return Ok(self.rules.max_retry_after);
                }
                OverCap::Clamp => asked = self.rules.max_retry_after,
            }
        }
        if let Some(more) = self.rules.retry_after_within {
            return Ok(asked.clamp(backoff, backoff.saturating_add(more)));
        }
        let default = if self.backoff.is_random() { 0.1 } else { 0.0 };
        let share = self.rules.retry_after_jitter.unwrap_or(default) * self.rules.random();
        let added = Duration::try_from_secs_f64(asked.as_secs_f64() * share);
        Ok(asked.saturating_add(added.unwrap_or(Duration::MAX)))
    }
}

impl<C: Clone, B: Clone, Q: Clone, P: Clone> Clone for Policy<C, B, Q, P> {
    fn clone(&self) -> Self {
        Self {
            rules: self.rules.clone(),
            classify: self.classify.clone(),
            backoff: self.backoff.clone(),
            call_budget: self.call_budget.clone(),
            replay: self.replay.clone(),
        }
    }
}

// ===== impl Rules =====

impl Rules {
    fn may_repeat(&self, failure: &Failure) -> bool {
        failure.is_retryable()
            && !matches!(failure.kind(), FailureKind::CircuitOpen | FailureKind::Cancelled)
            && (self.idempotent || failure.unprocessed())
            && self.retry_when.is_none_or(|when| when(failure))
    }

    fn random(&self) -> f64 {
        self.random.lock().unwrap_or_else(PoisonError::into_inner).f64()
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            max_retry_after: Duration::from_secs(60),
            over_cap: OverCap::default(),
            retry_after_within: None,
            retry_after_jitter: None,
            deadline: None,
            budget: None,
            idempotent: true,
            outermost: false,
            retry_when: None,
            on_finish: None,
            random: Arc::new(Mutex::new(fastrand::Rng::new())),
            labels: Labels::default(),
        }
    }
}

impl Clone for Rules {
    fn clone(&self) -> Self {
        Self {
            max_attempts: self.max_attempts,
            max_retry_after: self.max_retry_after,
            over_cap: self.over_cap,
            retry_after_within: self.retry_after_within,
            retry_after_jitter: self.retry_after_jitter,
            deadline: self.deadline,
            budget: self.budget.clone(),
            idempotent: self.idempotent,
            outermost: self.outermost,
            retry_when: self.retry_when,
            on_finish: self.on_finish.clone(),
            random: Arc::clone(&self.random),
            labels: self.labels.clone(),
        }
    }
}

impl Stop {
    /// Returns what a limit of the call's own budget means for the series.
    const fn of(limit: BudgetLimit) -> Self {
        match limit {
            BudgetLimit::Deadline => Self::Deadline,
            BudgetLimit::Attempts => Self::Attempts,
            BudgetLimit::Tokens | BudgetLimit::Cost => Self::Budget,
        }
    }
}

fn ends_past(delay: Duration, deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| {
        Instant::now().checked_add(delay).is_none_or(|start| start > deadline)
    })
}
