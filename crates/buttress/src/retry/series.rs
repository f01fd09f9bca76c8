//! A series of attempts: what it may still do, and what it tells.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep};
use tracing::{Span, field::Empty};

use super::{
    Backoff, RetryReport, Stop,
    budget::Share,
    history::History,
    outermost::Inside,
    policy::{Policy, Rules, Standing},
};
use crate::{
    BudgetLimit, CallBudget, Classify, Failure, FailureKind, Outcome,
    rare::Rare,
    telemetry::{
        self, Scope, Spans, Telemetry, describe, level, outcome, outcome_of, record_failure,
        record_status, score,
    },
};

/// What a series keeps beside its attempt.
pub(super) struct Series {
    pub(super) max_attempts: usize,
    /// The last moment at which an attempt may start, by the rules.
    pub(super) deadline: Option<Instant>,
    pub(super) call_budget: Option<CallBudget>,
    pub(super) share: Option<Share>,
    pub(super) story: Rare<Story>,
}

/// What there is to tell of a series: made where somebody listens, or at its first failure.
pub(super) struct Story {
    attempts: usize,
    history: Option<History>,
    telemetry: Telemetry,
    attempt: Telemetry,
}

// ===== impl Series =====

impl Series {
    /// Runs a poll or call of the inner service in the spans of the series and its attempt.
    pub(super) fn run<T>(&self, rules: &Rules, inner: impl FnOnce() -> T) -> T {
        let _inside = rules.outermost.then(Inside::enter);
        let scope = Scope::enter(&self.story);
        let result = inner();
        scope.leave();
        result
    }

    /// Returns whether a success ends the series without anybody to tell.
    #[inline(always)]
    pub(super) fn is_plain(&self, rules: &Rules) -> bool {
        self.story.is_none() && self.share.is_none() && rules.on_finish.is_none()
    }

    pub(super) fn attempts(&self) -> usize {
        self.story.get().map_or(1, |story| story.attempts)
    }

    /// Returns what there is to tell; made here where nobody listened so far.
    fn story(&mut self) -> &mut Story {
        self.story.get_or_insert_with(|| Story::new(Telemetry::default()))
    }

    /// Begins another attempt; returns whether there may be one more after it.
    pub(super) fn begin_another(&mut self, rules: &Rules) -> bool {
        let story = self.story();
        story.attempts += 1;
        story.open_attempt(rules);
        self.attempts() < self.max_attempts
    }

    /// Returns the last moment at which an attempt may start.
    fn last_start(&self) -> Option<Instant> {
        let call = self.call_budget.as_ref().and_then(CallBudget::deadline_at);
        self.deadline.into_iter().chain(call).min()
    }

    /// Says whether the next attempt comes too late, as soon as that is known.
    pub(super) fn waits_too_long(
        &self,
        is_ready: bool,
        mut limit: Pin<&mut Option<Sleep>>,
        cx: &mut Context<'_>,
    ) -> Poll<bool> {
        let Some(last_start) = self.last_start() else {
            return if is_ready { Poll::Ready(false) } else { Poll::Pending };
        };
        if is_ready {
            return Poll::Ready(Instant::now() > last_start);
        }
        if limit.is_none() {
            limit.set(Some(tokio::time::sleep_until(last_start)));
        }
        let limit = limit.as_pin_mut().expect("the timer was made above");
        limit.poll(cx).map(|()| true)
    }

    /// Notes a failed attempt and decides whether another follows.
    #[cold]
    pub(super) fn failed<C, B, Q, P, Res, E>(
        &mut self,
        policy: &Policy<C, B, Q, P>,
        failure: &Failure,
        result: &Result<Res, E>,
        repeatable: bool,
    ) -> Result<Duration, Stop>
    where
        B: Backoff,
        E: fmt::Display + 'static,
    {
        match result {
            Ok(_) => self.story().note(failure, failure),
            Err(error) => self.story().note(failure, &describe(error)),
        }
        let history = self.story.get().and_then(|story| story.history.as_ref());
        let standing = Standing {
            attempts: self.attempts(),
            max_attempts: self.max_attempts,
            repeatable,
            previous_delay: history.and_then(|history| history.last_delay),
            deadline: self.deadline,
            call_budget: self.call_budget.as_ref(),
            share: self.share.as_mut(),
        };
        let decision = policy.decide(failure, standing);
        if let Ok(delay) = decision {
            let is_reported = policy.rules.on_finish.is_some();
            self.story().wait(failure, delay, is_reported);
        }
        decision
    }

    /// Ends the series with a success, or with a result that is neither success nor failure.
    pub(super) fn pass_on(&mut self, rules: &Rules, success: bool) {
        if success && let Some(share) = &self.share {
            share.succeed(self.attempts() > 1);
        }
        let stop = if success { Stop::Success } else { Stop::NotRetryable };
        if let Some(story) = self.story.get_mut() {
            story.pass_on(stop);
        }
        self.finish(rules, stop);
    }

    /// Ends the series with its last failure.
    #[cold]
    pub(super) fn give_up(&mut self, rules: &Rules, failure: &Failure, stop: Stop) {
        self.story().give_up(failure, stop);
        self.finish(rules, stop);
    }

    /// Ends the series because the next attempt would start past the deadline.
    #[cold]
    pub(super) fn late<C, B, Q, P, Res, E>(
        &mut self,
        policy: &Policy<C, B, Q, P>,
        last: &Result<Res, E>,
    ) where
        C: Classify<Res, E>,
    {
        if let Some(budget) = self.call_budget.as_ref().filter(|budget| budget.is_late()) {
            budget.stop(BudgetLimit::Deadline);
        }
        let failure = failure_of(policy.classify.classify(last.as_ref()));
        self.give_up(&policy.rules, &failure, Stop::Deadline);
    }

    /// Ends the series because the service did not become ready for the next attempt.
    #[cold]
    pub(super) fn unready<C, B, Q, P, Res, E>(&mut self, policy: &Policy<C, B, Q, P>, error: &E)
    where
        C: Classify<Res, E>,
        E: fmt::Display + 'static,
    {
        let failure = failure_of(policy.classify.classify(Err(error)));
        self.story().note(&failure, &describe(error));
        self.give_up(&policy.rules, &failure, Stop::NotRetryable);
    }

    fn finish(&mut self, rules: &Rules, stop: Stop) {
        if let Some(listener) = &rules.on_finish {
            let history = self.story.get().and_then(|story| story.history.as_ref());
            listener(&RetryReport {
                attempts: self.attempts(),
                delays: history.map_or(&[], |history| &history.delays),
                last_failure: history.and_then(|history| history.last_failure),
                stop,
            });
        }
        // Whoever keeps the finished future around does not keep a place in the budget.
        self.share = None;
    }
}

// ===== impl Story =====

impl Story {
    /// Opens the spans of a series and its first attempt, if somebody may listen.
    #[inline(always)]
    pub(super) fn open(rules: &Rules, max_attempts: usize) -> Rare<Self> {
        if Telemetry::nobody_listens() {
            Rare::NONE
        } else {
            Self::open_slowly(rules, max_attempts)
        }
    }

    #[cold]
    fn open_slowly(rules: &Rules, max_attempts: usize) -> Rare<Self> {
        let telemetry = series_span(rules, max_attempts);
        if telemetry.is_off() {
            return Rare::NONE;
        }
        let mut story = Self::new(telemetry);
        story.open_attempt(rules);
        Rare::some(story)
    }

    fn new(telemetry: Telemetry) -> Self {
        Self { attempts: 1, history: None, telemetry, attempt: Telemetry::default() }
    }

    fn open_attempt(&mut self, rules: &Rules) {
        if let Some(series) = self.telemetry.span() {
            self.attempt = attempt_span(rules, series, self.attempts);
        }
    }

    fn note(&mut self, failure: &Failure, error: &dyn fmt::Display) {
        let listens = self.telemetry.span().is_some()
            || tracing::enabled!(target: telemetry::LOG_TARGET, tracing::Level::ERROR);
        let history = self.history.get_or_insert_default();
        history.failed(self.attempts, failure, listens.then_some(error));
    }

    fn wait(&mut self, failure: &Failure, delay: Duration, is_reported: bool) {
        let Some(history) = &mut self.history else { return };
        history.wait(delay, is_reported);
        let (attempt, error) = (self.attempts, history.last_error.as_str());
        self.telemetry.in_scope(|| {
            tracing::warn!(
                target: telemetry::LOG_TARGET,
                "Attempt {attempt} failed: {error}. Retrying in {:.2}s...",
                delay.as_secs_f64()
            );
        });
        self.attempt.end(outcome_of(failure), |span| {
            let seconds = delay.as_secs_f64();
            span.record("delay_seconds", seconds);
            record_failure(span, failure, &error);
            record_status(
                span,
                level::WARNING,
                format_args!("Attempt {attempt} failed, retrying in {seconds:.2}s"),
            );
        });
    }

    fn pass_on(&mut self, stop: Stop) {
        let success = stop == Stop::Success;
        let outcome = if success { outcome::SUCCESS } else { outcome::CANCELLED };
        let attempts = self.attempts;
        self.attempt.end(outcome, |_| ());
        if let Some(history) = &self.history {
            rescued(&self.telemetry, attempts, history, success);
        }
        self.telemetry.end(outcome, |span| record_end(span, attempts, stop));
    }

    fn give_up(&mut self, failure: &Failure, stop: Stop) {
        let Self { attempts, ref mut history, ref mut telemetry, ref mut attempt } = *self;
        let history = &*history.get_or_insert_default();
        let error = history.last_error.as_str();
        attempt.end(outcome_of(failure), |span| {
            record_failure(span, failure, &error);
            record_status(span, level::ERROR, format_args!("Attempt {attempts} failed: {error}"));
        });
        let message = Ending { stop, attempts };
        telemetry.in_scope(|| {
            tracing::error!(
                target: telemetry::LOG_TARGET,
                "{message}. Last error: {error}"
            );
        });
        if attempts > 1 {
            telemetry.score(score::RETRY_ATTEMPTS, as_i64(attempts), format_args!("{message}"));
        }
        telemetry.end(outcome_of(failure), |span| {
            span.record("retry_history", history.to_json());
            if attempts > 1 {
                span.record("retry_succeeded", false);
            }
            span.record("final_error", error);
            record_end(span, attempts, stop);
            record_failure(span, failure, &error);
            record_status(span, level::ERROR, format_args!("{message}"));
        });
    }

    /// Records what is known of a series that has no end.
    #[cold]
    fn record_so_far(&self) {
        if let Some(span) = self.telemetry.span() {
            if let Some(history) = &self.history {
                span.record("retry_history", history.to_json());
            }
            span.record("attempts_needed", as_i64(self.attempts));
        }
    }
}

impl Spans for Story {
    #[cold]
    fn enter(&self) {
        self.telemetry.enter();
        self.attempt.enter();
    }

    #[cold]
    fn exit(&self) {
        self.attempt.exit();
        self.telemetry.exit();
    }

    #[cold]
    fn panicked(&self) {
        self.record_so_far();
        self.attempt.panicked();
        self.telemetry.panicked();
    }
}

/// The caller drops the series.
impl Drop for Story {
    fn drop(&mut self) {
        self.record_so_far();
    }
}

fn failure_of(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Failure(failure) => failure,
        Outcome::Success | Outcome::Neutral => Failure::new(FailureKind::Cancelled),
    }
}

#[cold]
fn rescued(telemetry: &Telemetry, attempts: usize, history: &History, success: bool) {
    if success {
        telemetry.in_scope(|| {
            tracing::info!(
                target: telemetry::LOG_TARGET,
                "Retry succeeded on attempt {attempts}"
            );
        });
        telemetry.score(
            score::RETRY_ATTEMPTS,
            as_i64(attempts),
            format_args!("Retry succeeded on attempt {attempts}"),
        );
    }
    if let Some(span) = telemetry.span() {
        span.record("retry_history", history.to_json());
        if success {
            span.record("retry_succeeded", true);
            record_status(
                span,
                level::WARNING,
                format_args!("Retry succeeded on attempt {attempts}"),
            );
        }
    }
}

fn record_end(span: &Span, attempts: usize, stop: Stop) {
    span.record("attempts_needed", as_i64(attempts));
    span.record("stop", stop.as_str());
}

/// Says in a sentence why a series ended without success.
struct Ending {
    stop: Stop,
    attempts: usize,
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attempts = self.attempts;
        if self.stop == Stop::Attempts {
            return write!(f, "All {attempts} attempts failed");
        }
        write!(f, "Attempt {attempts} failed and ")?;
        f.write_str(match self.stop {
            Stop::Deadline => "the deadline leaves no other",
            Stop::Budget => "the retry budget is spent",
            Stop::RetryAfterOverCap => "the service asks for too long a wait",
            Stop::Attempts | Stop::Success | Stop::NotRetryable => "is not retried",
        })
    }
}

fn series_span(rules: &Rules, max_attempts: usize) -> Telemetry {
    Telemetry::open(|| {
        tracing::info_span!(
            target: telemetry::TARGET,
            telemetry::span::RETRY,
            agent_id = rules.labels.agent_id(),
            metadata = rules.labels.metadata(),
            max_attempts = as_i64(max_attempts),
            retry_history = Empty,
            retry_succeeded = Empty,
            attempts_needed = Empty,
            final_error = Empty,
            stop = Empty,
            outcome = Empty,
            failure_kind = Empty,
            error = Empty,
            error_type = Empty,
            level = Empty,
            status_message = Empty,
        )
    })
}

fn attempt_span(rules: &Rules, series: &Span, attempt: usize) -> Telemetry {
    Telemetry::open(|| {
        tracing::info_span!(
            target: telemetry::TARGET,
            parent: series,
            telemetry::span::RETRY_ATTEMPT,
            agent_id = rules.labels.agent_id(),
            metadata = rules.labels.metadata(),
            attempt = as_i64(attempt),
            delay_seconds = Empty,
            outcome = Empty,
            failure_kind = Empty,
            error = Empty,
            error_type = Empty,
            level = Empty,
            status_message = Empty,
        )
    })
}

fn as_i64(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
