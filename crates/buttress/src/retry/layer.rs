use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use tower::{Layer, ServiceExt};

use super::{
    Backoff, ExponentialBackoff, Jitter, Retry, RetryBudget, RetryReport,
    policy::{Policy, Rules},
};
use crate::{AnyError, ByClone, Classify, Failure, NoCallBudget, sharded::Sharded};

/// Tries failed calls again.
///
/// # Defaults
///
/// - `max_attempts`: 3, the first one included (the seed's)
/// - `backoff`: [`ExponentialBackoff`]: 1 s, 2 s, .. up to 60 s, times 0.5 to 1.5
/// - `max_retry_after`: 60 s; a longer `Retry-After` ends the series ([`OverCap::Stop`])
/// - `deadline`, `budget`, `call_budget`: none
/// - `idempotent`: true
/// - `classify`: [`AnyError`]
/// - `replay`: [`ByClone`]
///
/// # Cost
///
/// The inner service is cloned before each further attempt, and once for each thread that calls,
/// up to 16; a call that succeeds at once clones none. The request is cloned once per call, before
/// the first attempt (not where `max_attempts` is 1), and once more before each further attempt
/// but the last.
///
/// # Cancellation
///
/// Dropping the future drops the attempt or the delay that is running. Its place in a
/// [`RetryBudget`] by share comes back; tokens that its retries took stay spent.
///
/// # Tracing
///
/// `retry_execution` around the series and `retry_attempt` for each attempt; see the
/// [contract](crate::telemetry).
///
/// # Errors
///
/// None of its own: the last attempt's error, or the error of the inner service's readiness
/// between two attempts.
///
/// See the [module docs](super) for an example.
#[must_use = "layers do nothing until applied to a service"]
pub struct RetryLayer<C = AnyError, B = ExponentialBackoff, Q = NoCallBudget, P = ByClone> {
    policy: Policy<C, B, Q, P>,
}

/// What to do with a `Retry-After` that is longer than allowed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OverCap {
    /// End the series, so that a fallback can take over at once (openai-python does).
    #[default]
    Stop,
    /// Take the computed delay instead (anthropic-sdk-python and Envoy do).
    Backoff,
    /// Wait as long as is allowed (smithy's legacy mode does).
    Clamp,
}

// ===== impl RetryLayer =====

impl RetryLayer {
    /// Creates the layer for a number of attempts, the first one included.
    ///
    /// # Panics
    ///
    /// If the number is zero.
    #[track_caller]
    pub fn new(max_attempts: usize) -> Self {
        let policy = Policy {
            rules: Rules::default(),
            classify: AnyError,
            backoff: ExponentialBackoff::default(),
            call_budget: NoCallBudget,
            replay: ByClone,
        };
        Self { policy }.max_attempts(max_attempts)
    }
}

impl Default for RetryLayer {
    fn default() -> Self {
        Self::new(3)
    }
}

impl<C, Q, P> RetryLayer<C, ExponentialBackoff, Q, P> {
    /// Sets how the delays of the exponential backoff are spread.
    ///
    /// # Panics
    ///
    /// If a share of [`Jitter::Proportional`] is out of its range.
    #[track_caller]
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        self.policy.backoff = self.policy.backoff.jitter(jitter);
        self
    }
}

impl<C, B, Q, P> RetryLayer<C, B, Q, P> {
    /// Sets how many attempts are made at most, the first one included.
    ///
    /// # Panics
    ///
    /// If the number is zero.
    #[track_caller]
    pub fn max_attempts(mut self, attempts: usize) -> Self {
        assert!(attempts > 0, "the number of attempts must be at least 1");
        self.policy.rules.max_attempts = attempts;
        self
    }

    /// Sets the delays: an [`ExponentialBackoff`], or a list of durations.
    pub fn backoff<D: Backoff>(self, backoff: D) -> RetryLayer<C, D, Q, P> {
        let Policy { rules, classify, call_budget, replay, .. } = self.policy;
        RetryLayer { policy: Policy { rules, classify, backoff, call_budget, replay } }
    }

    /// Makes other delays of those that are set, such as one type for layers that differ in theirs.
    pub fn map_backoff<D: Backoff>(self, make: impl FnOnce(B) -> D) -> RetryLayer<C, D, Q, P> {
        let Policy { rules, classify, backoff, call_budget, replay } = self.policy;
        RetryLayer {
            policy: Policy { rules, classify, backoff: make(backoff), call_budget, replay },
        }
    }

    /// Sets what counts as a failure.
    pub fn classify<D>(self, classify: D) -> RetryLayer<D, B, Q, P> {
        let Policy { rules, backoff, call_budget, replay, .. } = self.policy;
        RetryLayer { policy: Policy { rules, classify, backoff, call_budget, replay } }
    }

    /// Sets where requests carry their [`CallBudget`](crate::CallBudget).
    ///
    /// Each attempt takes one of its attempts, but for a first one that a layer further out has
    /// paid for. The first is always made, since this layer has no error of its own to refuse it
    /// with.
    pub fn call_budget<D>(self, find: D) -> RetryLayer<C, B, D, P> {
        let Policy { rules, classify, backoff, replay, .. } = self.policy;
        RetryLayer { policy: Policy { rules, classify, backoff, call_budget: find, replay } }
    }

    /// Sets how a request is copied for the next attempt, for requests that are not `Clone`.
    ///
    /// Where the function returns nothing, the request cannot be repeated and the series ends.
    pub fn replay_with<D>(self, replay: D) -> RetryLayer<C, B, Q, D> {
        let Policy { rules, classify, backoff, call_budget, .. } = self.policy;
        RetryLayer { policy: Policy { rules, classify, backoff, call_budget, replay } }
    }

    /// Sets the longest `Retry-After` that is waited for.
    pub const fn max_retry_after(mut self, longest: Duration) -> Self {
        self.policy.rules.max_retry_after = longest;
        self
    }

    /// Sets what happens with a longer `Retry-After`.
    pub const fn over_cap(mut self, over_cap: OverCap) -> Self {
        self.policy.rules.over_cap = over_cap;
        self
    }

    /// Clamps a `Retry-After` into the computed delay and that much more (smithy and botocore do
    /// with 5 s).
    pub const fn retry_after_within(mut self, more: Duration) -> Self {
        self.policy.rules.retry_after_within = Some(more);
        self
    }

    /// Sets the share of a `Retry-After` that may be added at random; nothing is ever taken off.
    ///
    /// Without it, 0.1 where the backoff is random and 0 where it is not.
    ///
    /// # Panics
    ///
    /// If the share is negative or not finite.
    #[track_caller]
    pub fn retry_after_jitter(mut self, share: f64) -> Self {
        assert!(
            share >= 0.0 && share.is_finite(),
            "the share added to a Retry-After must be 0 or more, not {share}"
        );
        self.policy.rules.retry_after_jitter = Some(share);
        self
    }

    /// Sets when, after the call began, no further attempt may start.
    ///
    /// A delay that would end later is not slept, and who waits longer for the service to become
    /// ready gets the last failure. A running attempt is not cut; a
    /// [`TimeoutLayer`](crate::TimeoutLayer) does that.
    ///
    /// # Panics
    ///
    /// If the time is zero.
    #[track_caller]
    pub fn deadline(mut self, within: Duration) -> Self {
        assert!(!within.is_zero(), "a deadline must be longer than zero");
        self.policy.rules.deadline = Some(within);
        self
    }

    /// Sets the budget that all calls share.
    pub fn budget(mut self, budget: RetryBudget) -> Self {
        self.policy.rules.budget = Some(budget);
        self
    }

    /// Sets whether a call may be repeated that possibly reached the service.
    ///
    /// Where it may not, only failures that are [unprocessed](Failure::unprocessed) are retried.
    pub const fn idempotent(mut self, idempotent: bool) -> Self {
        self.policy.rules.idempotent = idempotent;
        self
    }

    /// Makes retry layers inside this one attempt once, so that attempts do not multiply.
    ///
    /// It holds for what runs in the same task.
    pub const fn outermost(mut self) -> Self {
        self.policy.rules.outermost = true;
        self
    }

    /// Sets which of the retryable failures are retried.
    pub const fn retry_when(mut self, when: fn(&Failure) -> bool) -> Self {
        self.policy.rules.retry_when = Some(when);
        self
    }

    /// Sets what hears of each finished series; it runs before the answer is returned.
    pub fn on_finish(
        mut self,
        listener: impl Fn(&RetryReport<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.policy.rules.on_finish = Some(Arc::new(listener));
        self
    }

    /// Sets the seed of the randomness, which the layer's services share, so that delays repeat.
    pub fn seed(mut self, seed: u64) -> Self {
        self.policy.rules.random = Arc::new(Mutex::new(fastrand::Rng::with_seed(seed)));
        self
    }

    /// Sets the agent that spans name.
    pub fn agent_id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.policy.rules.labels.agent_id = Some(id.into());
        self
    }

    /// Sets a JSON object that every span of this layer carries.
    pub fn metadata(mut self, json: impl Into<Arc<str>>) -> Self {
        self.policy.rules.labels.metadata = Some(json.into());
        self
    }

    /// Runs an async function with retries: the layer for who has no service.
    ///
    /// # Errors
    ///
    /// The last attempt's error.
    pub async fn execute<F, Fut, T, E>(&self, function: F) -> Result<T, E>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: fmt::Display + 'static,
        C: Classify<T, E> + Clone,
        B: Backoff + Clone,
    {
        let policy = Policy {
            rules: self.policy.rules.clone(),
            classify: self.policy.classify.clone(),
            backoff: self.policy.backoff.clone(),
            call_budget: NoCallBudget,
            replay: ByClone,
        };
        let function = &function;
        RetryLayer { policy }.layer(tower::service_fn(move |()| function())).oneshot(()).await
    }

    /// Returns the number of attempts, for the agent's span.
    #[cfg(feature = "agent")]
    pub(crate) const fn attempts(&self) -> usize {
        self.policy.rules.max_attempts
    }

    /// Returns whether [`retry_when`](Self::retry_when) was set.
    #[cfg(feature = "agent")]
    pub(crate) const fn has_retry_when(&self) -> bool {
        self.policy.rules.retry_when.is_some()
    }
}

impl<C: Clone, B: Clone, Q: Clone, P: Clone> Clone for RetryLayer<C, B, Q, P> {
    fn clone(&self) -> Self {
        Self { policy: self.policy.clone() }
    }
}

impl<C, B: fmt::Debug, Q, P> fmt::Debug for RetryLayer<C, B, Q, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryLayer")
            .field("max_attempts", &self.policy.rules.max_attempts)
            .field("backoff", &self.policy.backoff)
            .finish_non_exhaustive()
    }
}

impl<S, C: Clone, B: Clone, Q: Clone, P: Clone> Layer<S> for RetryLayer<C, B, Q, P> {
    type Service = Retry<S, C, B, Q, P>;

    fn layer(&self, inner: S) -> Self::Service {
        Retry { inner, plan: Sharded::new(Arc::new(self.policy.clone())) }
    }
}
