use std::{
    fmt,
    mem::ManuallyDrop,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};
use tower::Service;

use super::{
    Backoff, RetryBudget,
    outermost::{self, Inside},
    policy::Policy,
    series::{Series, Story},
};
use crate::{
    Classify, FindCallBudget, Outcome, Replay, call_budget::Paid, sharded::Handle, telemetry::Scope,
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
    /// Starts the first attempt.
    ///
    /// What a series without failures consists of is never referred to before it stands in the
    /// future, so that the compiler can put it there at once.
    #[inline(always)]
    pub(super) fn start(ready: &mut S, request: Req, plan: Handle<Plan<S, C, B, Q, P>>) -> Self {
        let policy = &*plan.policy;
        let rules = &policy.rules;
        let call_budget = policy.call_budget.call_budget(&request);
        let is_paid = call_budget.is_some();
        if let Some(budget) = &call_budget {
            budget.take_first();
        }
        let max_attempts = if outermost::is_inside() { 1 } else { rules.max_attempts };
        let story = Story::open(rules, max_attempts);
        let copy = if max_attempts > 1 { policy.replay.replay(&request) } else { None };
        let inside = if rules.outermost { Some(Inside::enter()) } else { None };
        let scope = Scope::enter(&story);
        let future = {
            let _paid = Paid::from_now_on(is_paid);
            ManuallyDrop::new(ready.call(request))
        };
        scope.leave();
        drop(inside);
        let series = Series {
            max_attempts,
            deadline: match rules.deadline {
                None => None,
                Some(within) => Instant::now().checked_add(within),
            },
            call_budget,
            share: rules.budget.as_ref().map(RetryBudget::enter),
            story,
        };
        let state = State::Calling { future: ManuallyDrop::into_inner(future) };
        Self { state, request: copy, plan, series }
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
            let inside = if policy.rules.outermost { Some(Inside::enter()) } else { None };
            let scope = Scope::enter(&this.series.story);
            let poll = future.poll(cx);
            scope.leave();
            drop(inside);
            let result = ready!(poll);
            let outcome = match &result {
                Ok(response) => match policy.classify.classify(Ok(response)) {
                    Outcome::Success if this.series.is_plain(&policy.rules) => {
                        return Poll::Ready(result);
                    }
                    outcome => outcome,
                },
                Err(error) => policy.classify.classify(Err(error)),
            };
            if let Poll::Ready(result) = self.as_mut().attempted(result, outcome, cx) {
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
    /// Takes in the result of an attempt; pending where another attempt follows or has begun.
    #[cold]
    fn attempted(
        mut self: Pin<&mut Self>,
        result: Result<S::Response, S::Error>,
        outcome: Outcome,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Response, S::Error>> {
        let mut this = self.as_mut().project();
        let policy = &*this.plan.policy;
        // The attempt's future goes before its error is looked at any further.
        this.state.set(State::Done);
        let failure = match outcome {
            Outcome::Failure(failure) => failure,
            outcome => {
                let success = result.is_ok() || outcome == Outcome::Success;
                this.series.pass_on(&policy.rules, success);
                return Poll::Ready(result);
            }
        };
        let repeatable = this.request.is_some();
        let delay = match this.series.failed(policy, &failure, &result, repeatable) {
            Err(stop) => {
                this.series.give_up(&policy.rules, &failure, stop);
                return Poll::Ready(result);
            }
            Ok(delay) => delay,
        };
        let (mut timer, mut service) = (None, None);
        if delay.is_zero() {
            // Most services are ready at once, and then there is nothing to keep in between: no time
            // has passed since the series was found to be within its limits.
            let mut next = this.plan.another();
            match this.series.run(&policy.rules, || next.poll_ready(cx)) {
                Poll::Ready(Ok(())) => {
                    self.call(&mut next);
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => {
                    this.series.unready(policy, &error);
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => service = Some(next),
            }
        } else {
            timer = Some(tokio::time::sleep(delay));
        }
        // Pinned for its timer, and boxed so that a call without failures does not carry it along.
        let between = Box::pin(Between { last: Some(result), timer, service });
        this.state.set(State::Between { between });
        Poll::Pending
    }

    /// Makes another attempt.
    fn call(self: Pin<&mut Self>, service: &mut S) {
        let mut this = self.project();
        let policy = &*this.plan.policy;
        let rules = &policy.rules;
        let request = this.request.take().expect("a retry is decided with a copy");
        if this.series.begin_another(rules) {
            *this.request = policy.replay.replay(&request);
        }
        let is_paid = this.series.call_budget.is_some();
        let future = this.series.run(rules, || {
            let _paid = Paid::from_now_on(is_paid);
            service.call(request)
        });
        this.state.set(State::Calling { future });
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
            match this.state.as_mut().project() {
                // ## Calling => (Calling | Between | Done)
                StateProj::Calling { future } => {
                    let result = ready!(this.series.run(rules, || future.poll(cx)));
                    let outcome = policy.classify.classify(result.as_ref());
                    let answer = self.as_mut().attempted(result, outcome, cx);
                    if answer.is_ready() {
                        return answer;
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
                    let mut service = between.service.take().expect("it was made above");
                    self.as_mut().call(&mut service);
                }
                StateProj::Done => panic!("polled after completion"),
            }
        }
    }
}

impl<S, Req, C, B, Q, P> fmt::Debug for ResponseFuture<S, Req, C, B, Q, P>
where
    S: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("attempts", &self.series.attempts())
            .finish_non_exhaustive()
    }
}
