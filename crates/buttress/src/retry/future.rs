use std::{
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tower::Service;
use tracing::{Span, field::Empty};

use super::{
    Backoff, RetryReport, Stop,
    budget::Share,
    history::History,
    outermost::{self, Inside},
    policy::{Policy, Rules, Standing},
};
use crate::{
    BudgetLimit, CallBudget, Classify, Failure, FailureKind, FindCallBudget, Outcome, Replay,
    call_budget::paid,
    sharded::Handle,
    telemetry::{
        self, Telemetry, describe, level, outcome, outcome_of, record_failure, record_status,
    },
    unwind::on_unwind,
};

pin_project! {
    /// The answer of a [`Retry`](super::Retry).
    pub struct ResponseFuture<S, Req, C, B, Q, P>
    where
        S: Service<Req>,
    {
        #[pin]
        state: State<S, S::Future, Result<S::Response, S::Error>>,
        // The copy for the next attempt; none where there is none, or no copy can be made.
        request: Option<Req>,
        plan: Handle<Plan<S, C, B, Q, P>>,
        series: Series,
    }

    impl<S, Req, C, B, Q, P> PinnedDrop for ResponseFuture<S, Req, C, B, Q, P>
    where
        S: Service<Req>,
    {
        fn drop(this: Pin<&mut Self>) {
            this.project().series.abandon();
        }
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, F, T> {
        // An attempt is running.
        Calling { #[pin] future: F },
        // Between two attempts. Boxed, so that a call without failures does not carry it along.
        Between { between: Pin<Box<Between<S, T>>> },
        Done,
    }
}

pin_project! {
    // A series after a failed attempt.
    struct Between<S, T> {
        // The result of the last attempt.
        last: Option<T>,
        // The delay before the next attempt; then what limits the wait for its service.
        #[pin]
        timer: Option<Sleep>,
        // The service of the next attempt, once the delay is over.
        service: Option<S>,
    }
}

/// What every series of a retry needs to know.
pub(super) struct Plan<S, C, B, Q, P> {
    policy: Arc<Policy<C, B, Q, P>>,
    /// Cloned for each further attempt and never called itself, so that a call which succeeds at
    /// once clones nothing.
    spare: Mutex<S>,
}

/// What a series keeps beside its attempt.
struct Series {
    attempts: usize,
    max_attempts: usize,
    limits: Option<Limits>,
    history: Option<Box<History>>,
    telemetry: Telemetry,
    attempt: Telemetry,
}

/// What limits a series beside its attempts.
struct Limits {
    deadline: Option<Instant>,
    call_budget: Option<CallBudget>,
    share: Option<Share>,
}

// ===== impl Plan =====

impl<S, C, B, Q, P> Plan<S, C, B, Q, P> {
    pub(super) fn new(policy: &Arc<Policy<C, B, Q, P>>, spare: S) -> Self {
        Self { policy: Arc::clone(policy), spare: Mutex::new(spare) }
    }

    #[cold]
    fn another(&self) -> S
    where
        S: Clone,
    {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

// ===== impl ResponseFuture =====

impl<S, Req, C, B, Q, P> ResponseFuture<S, Req, C, B, Q, P>
where
    S: Service<Req> + Clone,
    Q: FindCallBudget<Req>,
    P: Replay<Req>,
{
    #[inline(always)]
    pub(super) fn start(ready: &mut S, request: Req, plan: Handle<Plan<S, C, B, Q, P>>) -> Self {
        let policy = &*plan.policy;
        let rules = &policy.rules;
        let call_budget = policy.call_budget.call_budget(&request);
        let mut series = Series::new(rules);
        if rules.has_limits() || call_budget.is_some() {
            series.limits = Some(Limits::new(rules, call_budget));
        }
        series.open_attempt(rules);
        let copy = if series.max_attempts > 1 { policy.replay.replay(&request) } else { None };
        let future = series.call(rules, || ready.call(request));
        Self { state: State::Calling { future }, request: copy, plan, series }
    }
}

impl<S, Req, C, B, Q, P> Future for ResponseFuture<S, Req, C, B, Q, P>
where
    S: Service<Req> + Clone,
    S::Error: fmt::Display + 'static,
    C: Classify<S::Response, S::Error>,
    B: Backoff,
    P: Replay<Req>,
{
    type Output = Result<S::Response, S::Error>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.as_mut().project();
        let policy = &*this.plan.policy;
        if let StateProj::Calling { future } = this.state.project() {
            let result = ready!(this.series.run(&policy.rules, || future.poll(cx)));
            let outcome = policy.classify.classify(result.as_ref());
            if outcome == Outcome::Success && this.series.is_plain(&policy.rules) {
                self.project().state.set(State::Done);
                return Poll::Ready(result);
            }
            if let Some(result) = self.as_mut().attempted(result, outcome) {
                return Poll::Ready(result);
            }
        }
        self.go_on(cx)
    }
}

impl<S, Req, C, B, Q, P> ResponseFuture<S, Req, C, B, Q, P>
where
    S: Service<Req> + Clone,
    S::Error: fmt::Display + 'static,
    C: Classify<S::Response, S::Error>,
    B: Backoff,
    P: Replay<Req>,
{
    /// Takes in the result of an attempt; none is returned where another attempt follows.
    #[cold]
    fn attempted(
        self: Pin<&mut Self>,
        result: Result<S::Response, S::Error>,
        outcome: Outcome,
    ) -> Option<Result<S::Response, S::Error>> {
        let mut this = self.project();
        let policy = &*this.plan.policy;
        // The attempt's future goes before its error is looked at any further.
        this.state.set(State::Done);
        let failure = match outcome {
            Outcome::Failure(failure) => failure,
            outcome => {
                let success = result.is_ok() || outcome == Outcome::Success;
                this.series.pass_on(&policy.rules, success);
                return Some(result);
            }
        };
        let repeatable = this.request.is_some();
        match this.series.failed(policy, &failure, &result, repeatable) {
            Err(stop) => {
                this.series.give_up(&policy.rules, &failure, stop);
                return Some(result);
            }
            Ok(delay) => {
                let timer = if delay.is_zero() { None } else { Some(tokio::time::sleep(delay)) };
                let between = Box::pin(Between { last: Some(result), timer, service: None });
                this.state.set(State::Between { between });
            }
        }
        None
    }

    /// Goes on with a series whose first attempt has failed.
    #[inline(never)]
    fn go_on(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, S::Error>> {
        loop {
            let mut this = self.as_mut().project();
            let policy = &*this.plan.policy;
            let rules = &policy.rules;
            let next = match this.state.as_mut().project() {
                // ## Calling => (Between | Done)
                StateProj::Calling { future } => {
                    let result = ready!(this.series.run(rules, || future.poll(cx)));
                    let outcome = policy.classify.classify(result.as_ref());
                    match self.as_mut().attempted(result, outcome) {
                        Some(result) => return Poll::Ready(result),
                        None => continue,
                    }
                }
                // ## Between => (Calling | Done)
                StateProj::Between { between } => {
                    let mut between = between.as_mut().project();
                    if between.service.is_none() {
                        if let Some(delay) = between.timer.as_mut().as_pin_mut() {
                            ready!(delay.poll(cx));
                        }
                        between.timer.set(None);
                    }
                    let service = between.service.get_or_insert_with(|| this.plan.another());
                    let ready = this.series.run(rules, || service.poll_ready(cx));
                    if let Poll::Ready(Err(error)) = ready {
                        this.state.set(State::Done);
                        this.series.unready(policy, &error);
                        return Poll::Ready(Err(error));
                    }
                    if ready!(this.series.waits_too_long(ready.is_ready(), between.timer, cx)) {
                        let last = between.last.take().expect("it follows a failure");
                        this.state.set(State::Done);
                        this.series.late(policy, &last);
                        return Poll::Ready(last);
                    }
                    let request = this.request.take().expect("a retry is decided with a copy");
                    this.series.attempts += 1;
                    if this.series.attempts < this.series.max_attempts {
                        *this.request = policy.replay.replay(&request);
                    }
                    this.series.open_attempt(rules);
                    let future = this.series.call(rules, || service.call(request));
                    State::Calling { future }
                }
                StateProj::Done => panic!("polled after completion"),
            };
            this.state.set(next);
        }
    }
}

impl<S, Req, C, B, Q, P> fmt::Debug for ResponseFuture<S, Req, C, B, Q, P>
where
    S: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("attempts", &self.series.attempts)
            .finish_non_exhaustive()
    }
}

// ===== impl Limits =====

impl Limits {
    #[cold]
    fn new(rules: &Rules, call_budget: Option<CallBudget>) -> Self {
        if let Some(budget) = &call_budget {
            budget.take_first();
        }
        Self {
            deadline: rules.deadline.and_then(|within| Instant::now().checked_add(within)),
            call_budget,
            share: rules.budget.as_ref().map(super::RetryBudget::enter),
        }
    }
}

// ===== impl Series =====

impl Series {
    #[inline]
    fn new(rules: &Rules) -> Self {
        let max_attempts = if outermost::is_inside() { 1 } else { rules.max_attempts };
        Self {
            attempts: 1,
            max_attempts,
            limits: None,
            history: None,
            telemetry: series_span(rules, max_attempts),
            attempt: Telemetry::default(),
        }
    }

    /// Runs a call or poll of the inner service in the spans of the series and its attempt.
    #[inline]
    fn run<T>(&mut self, rules: &Rules, inner: impl FnOnce() -> T) -> T {
        if self.telemetry.is_off() && !rules.outermost {
            return inner();
        }
        self.run_in_spans(rules, inner)
    }

    #[cold]
    fn run_in_spans<T>(&mut self, rules: &Rules, inner: impl FnOnce() -> T) -> T {
        let _inside = rules.outermost.then(Inside::enter);
        let Self { telemetry, attempt, history, attempts, .. } = self;
        if telemetry.is_off() {
            return inner();
        }
        telemetry.in_scope(|| {
            on_unwind(
                || attempt.in_scope(inner),
                || record_so_far(&Span::current(), *attempts, history.as_deref()),
            )
        })
    }

    /// Makes an attempt, for which the call's budget is charged already.
    #[inline]
    fn call<T>(&mut self, rules: &Rules, inner: impl FnOnce() -> T) -> T {
        let is_paid = self.call_budget().is_some();
        self.run(rules, || paid(is_paid, inner))
    }

    #[inline]
    fn call_budget(&self) -> Option<&CallBudget> {
        self.limits.as_ref().and_then(|limits| limits.call_budget.as_ref())
    }

    /// Returns whether a success ends the series without anybody to tell.
    #[inline]
    fn is_plain(&self, rules: &Rules) -> bool {
        self.telemetry.is_off()
            && self.limits.is_none()
            && self.history.is_none()
            && rules.on_finish.is_none()
    }

    /// Returns the last moment at which an attempt may start.
    fn last_start(&self) -> Option<Instant> {
        let limits = self.limits.as_ref()?;
        let call = limits.call_budget.as_ref().and_then(CallBudget::deadline_at);
        limits.deadline.into_iter().chain(call).min()
    }

    /// Says whether the next attempt comes too late, as soon as that is known.
    fn waits_too_long(
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

    #[inline]
    fn open_attempt(&mut self, rules: &Rules) {
        if !self.telemetry.is_off() {
            self.open_attempt_slowly(rules);
        }
    }

    #[cold]
    fn open_attempt_slowly(&mut self, rules: &Rules) {
        if let Some(series) = self.telemetry.span() {
            self.attempt = attempt_span(rules, series, self.attempts);
        }
    }

    /// Notes a failed attempt and decides whether another follows.
    #[cold]
    fn failed<C, B, Q, P, Res, E>(
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
            Ok(_) => self.note(failure, failure),
            Err(error) => self.note(failure, &describe(error)),
        }
        let mut standing = Standing {
            attempts: self.attempts,
            max_attempts: self.max_attempts,
            repeatable,
            previous_delay: self.history.as_ref().and_then(|history| history.last_delay),
            deadline: None,
            call_budget: None,
            share: None,
        };
        if let Some(limits) = &mut self.limits {
            standing.deadline = limits.deadline;
            standing.call_budget = limits.call_budget.as_ref();
            standing.share = limits.share.as_mut();
        }
        let decision = policy.decide(failure, standing);
        if let Ok(delay) = decision {
            self.wait(failure, delay);
        }
        decision
    }

    fn note(&mut self, failure: &Failure, error: &dyn fmt::Display) {
        let listens = self.telemetry.span().is_some()
            || tracing::enabled!(target: telemetry::LOG_TARGET, tracing::Level::ERROR);
        let history = self.history.get_or_insert_default();
        history.failed(self.attempts, failure, listens.then_some(error));
    }

    fn wait(&mut self, failure: &Failure, delay: Duration) {
        let Some(history) = &mut self.history else { return };
        history.wait(delay);
        let (attempt, seconds, error) =
            (self.attempts, delay.as_secs_f64(), history.last_error.as_str());
        self.telemetry.in_scope(|| {
            tracing::warn!(
                target: telemetry::LOG_TARGET,
                "Attempt {attempt} failed: {error}. Retrying in {seconds:.2}s..."
            );
        });
        self.attempt.end(outcome_of(failure), |span| {
            span.record("delay_seconds", seconds);
            record_failure(span, failure, &error);
            record_status(
                span,
                level::WARNING,
                format_args!("Attempt {attempt} failed, retrying in {seconds:.2}s"),
            );
        });
    }

    /// Ends the series with a success, or with a result that is neither success nor failure.
    fn pass_on(&mut self, rules: &Rules, success: bool) {
        let share = self.limits.as_ref().and_then(|limits| limits.share.as_ref());
        if success && let Some(share) = share {
            share.succeed(self.attempts > 1);
        }
        let (outcome, stop) = if success {
            (outcome::SUCCESS, Stop::Success)
        } else {
            (outcome::CANCELLED, Stop::NotRetryable)
        };
        self.attempt.end(outcome, |_| ());
        if let Some(history) = &self.history {
            rescued(&mut self.telemetry, self.attempts, history, success);
        }
        let attempts = self.attempts;
        self.telemetry.end(outcome, |span| {
            record_end(span, attempts, stop);
        });
        self.finish(rules, stop);
    }

    /// Ends the series with its last failure.
    #[cold]
    fn give_up(&mut self, rules: &Rules, failure: &Failure, stop: Stop) {
        let attempts = self.attempts;
        let history = self.history.take().unwrap_or_default();
        let error = history.last_error.as_str();
        self.attempt.end(outcome_of(failure), |span| {
            record_failure(span, failure, &error);
            record_status(span, level::ERROR, format_args!("Attempt {attempts} failed: {error}"));
        });
        let message = Ending { stop, attempts };
        self.telemetry.in_scope(|| {
            tracing::error!(
                target: telemetry::LOG_TARGET,
                "{message}. Last error: {error}"
            );
        });
        self.telemetry.end(outcome_of(failure), |span| {
            span.record("retry_history", history.to_json());
            if attempts > 1 {
                span.record("retry_succeeded", false);
            }
            span.record("final_error", error);
            record_end(span, attempts, stop);
            record_failure(span, failure, &error);
            record_status(span, level::ERROR, format_args!("{message}"));
        });
        self.history = Some(history);
        self.finish(rules, stop);
    }

    /// Ends the series because the next attempt would start past the deadline.
    #[cold]
    fn late<C, B, Q, P, Res, E>(&mut self, policy: &Policy<C, B, Q, P>, last: &Result<Res, E>)
    where
        C: Classify<Res, E>,
    {
        if let Some(budget) = self.call_budget().filter(|budget| budget.is_late()) {
            budget.stop(BudgetLimit::Deadline);
        }
        let failure = failure_of(policy.classify.classify(last.as_ref()));
        self.give_up(&policy.rules, &failure, Stop::Deadline);
    }

    /// Ends the series because the service did not become ready for the next attempt.
    #[cold]
    fn unready<C, B, Q, P, Res, E>(&mut self, policy: &Policy<C, B, Q, P>, error: &E)
    where
        C: Classify<Res, E>,
        E: fmt::Display + 'static,
    {
        let failure = failure_of(policy.classify.classify(Err(error)));
        self.note(&failure, &describe(error));
        self.give_up(&policy.rules, &failure, Stop::NotRetryable);
    }

    fn finish(&mut self, rules: &Rules, stop: Stop) {
        if let Some(listener) = &rules.on_finish {
            let history = self.history.as_deref();
            listener(&RetryReport {
                attempts: self.attempts,
                delays: history.map_or(&[], |history| &history.delays),
                last_failure: history.and_then(|history| history.last_failure),
                stop,
            });
        }
        // Whoever keeps the finished future around does not keep a place in the budget.
        self.limits = None;
    }

    /// Writes what is known when the caller drops the series.
    #[inline]
    fn abandon(&mut self) {
        if let Some(span) = self.telemetry.span() {
            record_so_far(span, self.attempts, self.history.as_deref());
        }
    }
}

/// Records what is known of a series that has no end.
#[cold]
fn record_so_far(span: &Span, attempts: usize, history: Option<&History>) {
    if let Some(history) = history {
        span.record("retry_history", history.to_json());
    }
    span.record("attempts_needed", as_i64(attempts));
}

fn failure_of(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Failure(failure) => failure,
        Outcome::Success | Outcome::Neutral => Failure::new(FailureKind::Cancelled),
    }
}

#[cold]
fn rescued(telemetry: &mut Telemetry, attempts: usize, history: &History, success: bool) {
    if success {
        telemetry.in_scope(|| {
            tracing::info!(
                target: telemetry::LOG_TARGET,
                "Retry succeeded on attempt {attempts}"
            );
        });
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

#[inline]
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
