use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower::{Service, util::BoxCloneSyncService};
use tracing::{Span, field::Empty};

use super::chain::Chain;
use crate::{
    AgentFailure, BoxError, CallBudget, Classify, Error, ErrorKind, Failure, FailureKind,
    FindCallBudget, Outcome, Replay,
    call_budget::Paid,
    telemetry::{
        self, Labels, Telemetry, describe, json, level, outcome, outcome_of, record_failure,
        record_status,
    },
};

/// The boxed future of an erased agent: boxed after a failure only.
type BoxFuture<Res> = <BoxCloneSyncService<(), Res, Error> as Service<()>>::Future;

pin_project! {
    /// The answer of a [`FallbackService`](super::FallbackService).
    pub struct ResponseFuture<F, Req, Res, C, Q, P> {
        #[pin]
        state: State<F, Req, Res>,
        // The copy for the next agent.
        request: Option<Req>,
        chain: Arc<Chain<Req, Res, C, Q, P>>,
        call_budget: Option<CallBudget>,
        progress: Progress,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, Req, Res> {
        // The primary is asked.
        Primary { #[pin] future: F },
        // The primary was not ready: its failure stands for its call.
        Skipped { failed: Option<(Failure, Error)> },
        // A fallback waits for its service.
        Readying { service: BoxCloneSyncService<Req, Res, Error>, request: Option<Req> },
        // A fallback is asked.
        Fallback { future: BoxFuture<Res> },
        Done,
    }
}

/// Where a call stands in its chain.
struct Progress {
    /// The agent that is asked: 0 the primary, n the n-th fallback.
    agent: usize,
    /// Which agents were asked and failed, in that order.
    failures: Vec<AgentFailure>,
    /// The same as the span tells it; only where somebody listens.
    history: json::List,
    telemetry: Telemetry,
    attempt: Telemetry,
}

/// What follows a failure.
enum Next<Req, Res> {
    Ask { service: BoxCloneSyncService<Req, Res, Error>, request: Req },
    End(Result<Res, Error>),
}

// ===== impl ResponseFuture =====

impl<F, Req, Res, C, Q, P> ResponseFuture<F, Req, Res, C, Q, P>
where
    Q: FindCallBudget<Req>,
    P: Replay<Req>,
{
    #[inline]
    pub(super) fn start<S>(
        primary: &mut S,
        request: Req,
        chain: Arc<Chain<Req, Res, C, Q, P>>,
    ) -> Self
    where
        S: Service<Req, Future = F>,
    {
        let call_budget = chain.call_budget.call_budget(&request);
        let copy = if chain.fallbacks.is_empty() { None } else { chain.replay.replay(&request) };
        let mut progress = Progress::new(&chain);
        if let Some(budget) = &call_budget {
            budget.take_first();
        }
        let is_paid = call_budget.is_some();
        let future = progress.run(|| {
            let _paid = Paid::from_now_on(is_paid);
            primary.call(request)
        });
        Self { state: State::Primary { future }, request: copy, chain, call_budget, progress }
    }

    /// Starts with the fallbacks: the primary's readiness failed.
    #[cold]
    pub(super) fn skip(
        failure: Failure,
        error: Error,
        request: Req,
        chain: Arc<Chain<Req, Res, C, Q, P>>,
    ) -> Self {
        let call_budget = chain.call_budget.call_budget(&request);
        let progress = Progress::new(&chain);
        let state = State::Skipped { failed: Some((failure, error)) };
        Self { state, request: Some(request), chain, call_budget, progress }
    }
}

impl<F, Req, Res, E, C, Q, P> Future for ResponseFuture<F, Req, Res, C, Q, P>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError> + 'static,
    C: Classify<Res, E>,
    P: Replay<Req>,
{
    type Output = Result<Res, Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let (result, outcome) = match this.state.as_mut().project() {
                // ## Primary => (Readying | Done)
                StateProj::Primary { future } => {
                    let result = ready!(this.progress.run(|| future.poll(cx)));
                    let outcome = this.chain.classify.classify(result.as_ref());
                    if let (Ok(_), Outcome::Success | Outcome::Neutral) = (&result, &outcome) {
                        this.state.set(State::Done);
                        this.progress.succeed();
                        return Poll::Ready(result.map_err(|_| unreachable!("checked above")));
                    }
                    (result.map_err(|error| wrap(error, &outcome)), outcome)
                }
                // ## Skipped => (Readying | Done)
                StateProj::Skipped { failed } => {
                    let (failure, error) = failed.take().expect("polled after completion");
                    (Err(error), Outcome::Failure(failure))
                }
                // ## Readying => (Fallback | Readying | Done)
                StateProj::Readying { service, request } => {
                    match ready!(this.progress.run(|| service.poll_ready(cx))) {
                        Ok(()) => {
                            let request = request.take().expect("a request is sent once");
                            let is_paid = this.call_budget.is_some();
                            let future = this.progress.run(|| {
                                let _paid = Paid::from_now_on(is_paid);
                                service.call(request)
                            });
                            this.state.set(State::Fallback { future });
                            continue;
                        }
                        Err(error) => {
                            let outcome = Outcome::Failure(error.failure().clone());
                            (Err(error), outcome)
                        }
                    }
                }
                // ## Fallback => (Readying | Done)
                StateProj::Fallback { future } => {
                    let result = ready!(this.progress.run(|| Pin::new(&mut *future).poll(cx)));
                    // Its errors were classified where their type was still known.
                    let outcome = match &result {
                        Ok(answer) => this.chain.classify.classify(Ok(answer)),
                        Err(error) => Outcome::Failure(error.failure().clone()),
                    };
                    (result, outcome)
                }
                StateProj::Done => panic!("polled after completion"),
            };
            this.state.set(State::Done);
            let failure = match outcome {
                Outcome::Failure(failure) => failure,
                Outcome::Success | Outcome::Neutral if result.is_ok() => {
                    this.progress.rescue();
                    return Poll::Ready(result);
                }
                Outcome::Success | Outcome::Neutral => Failure::new(FailureKind::Cancelled),
            };
            let budget = this.call_budget.as_ref();
            match this.progress.failed(this.chain, budget, this.request, result, failure) {
                Next::End(result) => return Poll::Ready(result),
                Next::Ask { service, request } => {
                    this.state.set(State::Readying { service, request: Some(request) });
                }
            }
        }
    }
}

impl<F, Req, Res, C, Q, P> fmt::Debug for ResponseFuture<F, Req, Res, C, Q, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("agent", &self.progress.agent)
            .finish_non_exhaustive()
    }
}

// ===== impl Progress =====

impl Progress {
    #[inline]
    fn new<Req, Res, C, Q, P>(chain: &Chain<Req, Res, C, Q, P>) -> Self {
        let telemetry = chain_span(&chain.labels, chain.fallbacks.len() + 1);
        let attempt = match telemetry.span() {
            Some(span) => attempt_span(&chain.labels, span, 0),
            None => Telemetry::default(),
        };
        Self { agent: 0, failures: Vec::new(), history: json::List::new(), telemetry, attempt }
    }

    /// Runs a call or poll of an agent in the spans of the chain and of its attempt.
    #[inline]
    fn run<T>(&mut self, inner: impl FnOnce() -> T) -> T {
        let Self { telemetry, attempt, .. } = self;
        telemetry.in_scope(|| attempt.in_scope(inner))
    }

    /// Ends a chain whose primary answered.
    #[inline]
    fn succeed(&mut self) {
        self.attempt.end(outcome::SUCCESS, |_| ());
        self.telemetry.end(outcome::SUCCESS, |span| {
            span.record("fallback_level", 0_i64);
            span.record("primary_failed", false);
        });
    }

    /// Ends a chain in which a fallback answered.
    #[cold]
    fn rescue(&mut self) {
        let agent = self.agent;
        self.attempt.end(outcome::SUCCESS, |_| ());
        self.telemetry.in_scope(|| {
            tracing::warn!(
                target: telemetry::LOG_TARGET,
                "Primary agent failed, fallback #{agent} succeeded"
            );
        });
        let history = self.take_history();
        self.telemetry.end(outcome::SUCCESS, |span| {
            span.record("fallback_history", history);
            span.record("fallback_succeeded", true);
            span.record("fallback_level", as_i64(agent));
            span.record("primary_failed", true);
            record_status(
                span,
                level::WARNING,
                format_args!("Primary agent failed, fallback #{agent} succeeded"),
            );
        });
    }

    /// Notes a failure and decides what follows.
    #[cold]
    fn failed<Req, Res, C, Q, P: Replay<Req>>(
        &mut self,
        chain: &Chain<Req, Res, C, Q, P>,
        call_budget: Option<&CallBudget>,
        request: &mut Option<Req>,
        result: Result<Res, Error>,
        failure: Failure,
    ) -> Next<Req, Res> {
        let place = chain.next(self.agent, &failure);
        let request =
            if place.is_some() { request.take().map(|copy| (copy, request)) } else { None };
        let spent = call_budget.and_then(|budget| match &request {
            Some(_) => budget.take_attempt().err(),
            // An agent's own retries may have used it up.
            None => budget.exhausted(),
        });
        let (Some(place), Some((copy, slot)), None) = (place, request, spent) else {
            self.end_attempt(&failure, &result, level::ERROR);
            return Next::End(self.end(chain, spent, result, failure));
        };
        self.end_attempt(&failure, &result, level::WARNING);
        self.note(chain, result.err(), failure);
        // The last agent that can be asked gets the request itself.
        if place + 1 < chain.fallbacks.len() {
            *slot = chain.replay.replay(&copy);
        }
        self.agent = place + 1;
        let agent = self.agent;
        self.telemetry.in_scope(|| {
            tracing::info!(target: telemetry::LOG_TARGET, "Trying fallback agent #{agent}...");
        });
        if let Some(span) = self.telemetry.span() {
            self.attempt = attempt_span(&chain.labels, span, agent);
        }
        Next::Ask { service: chain.fallbacks[place].service.clone(), request: copy }
    }

    /// Ends the chain without success.
    fn end<Req, Res, C, Q, P>(
        &mut self,
        chain: &Chain<Req, Res, C, Q, P>,
        spent: Option<crate::BudgetLimit>,
        result: Result<Res, Error>,
        failure: Failure,
    ) -> Result<Res, Error> {
        let id = chain.labels.agent_id.as_ref();
        if let Some(limit) = spent {
            let error = Error::new(ErrorKind::BudgetExhausted { limit }).in_agent(id);
            let error = match result {
                Ok(_) => error.with_source(failure.clone()),
                Err(source) => error.with_source(source),
            };
            let message = format_args!("No agent is asked any more: {}", error.kind());
            self.give_up(error.failure(), &describe(&error), message);
            return Err(error);
        }
        // What the predicate ended, or what nobody else was asked for, comes through unchanged.
        let ended = failure.after_output() || !(chain.fall_back_when)(&failure);
        if self.agent == 0 || ended {
            match &result {
                Ok(_) => self.end_with(&failure, &failure),
                Err(error) => self.end_with(&failure, &describe(error)),
            }
            return result.map_err(|error| error.in_agent(id));
        }
        self.note(chain, result.err(), failure);
        let failures = std::mem::take(&mut self.failures);
        let error = Error::new(ErrorKind::FallbackExhausted { failures }).in_agent(id);
        let message = format_args!("All fallback agents exhausted");
        self.give_up(error.failure(), &describe(&error), message);
        Err(error)
    }

    /// Ends the span of a chain whose last failure comes through unchanged.
    fn end_with(&mut self, failure: &Failure, error: &dyn fmt::Display) {
        let (agent, kind) = (self.agent, AgentType(self.agent));
        if agent == 0 {
            self.give_up(failure, error, format_args!("Primary agent failed: {error}"));
        } else {
            let message = format_args!("Agent {agent} ({kind}) ended the chain: {error}");
            self.give_up(failure, error, message);
        }
    }

    fn note<Req, Res, C, Q, P>(
        &mut self,
        chain: &Chain<Req, Res, C, Q, P>,
        error: Option<Error>,
        failure: Failure,
    ) {
        let name = match self.agent {
            0 => &chain.primary_name,
            n => &chain.fallbacks[n - 1].name,
        };
        let error = error.map(|error| Box::new(error) as BoxError);
        self.failures.push(AgentFailure::new(Arc::clone(name), failure, error));
    }

    fn end_attempt<Res>(
        &mut self,
        failure: &Failure,
        result: &Result<Res, Error>,
        level: &'static str,
    ) {
        match result {
            Ok(_) => self.end_attempt_with(failure, failure, level),
            Err(error) => self.end_attempt_with(failure, &describe(error), level),
        }
    }

    fn end_attempt_with(
        &mut self,
        failure: &Failure,
        error: &dyn fmt::Display,
        level: &'static str,
    ) {
        let (agent, kind) = (self.agent, AgentType(self.agent));
        self.telemetry.in_scope(|| {
            tracing::warn!(target: telemetry::LOG_TARGET, "Agent {agent} failed: {error}");
        });
        if self.telemetry.span().is_some() {
            self.history.push(|object| {
                object.number("agent_index", agent);
                object.text("agent_type", &kind);
                object.text("error", error);
                object.text("error_type", &failure.kind());
            });
        }
        self.attempt.end(outcome_of(failure), |span| {
            record_failure(span, failure, error);
            let message = format_args!("Agent {agent} ({kind}) failed: {error}");
            record_status(span, level, message);
        });
    }

    fn give_up(
        &mut self,
        failure: &Failure,
        error: &dyn fmt::Display,
        message: fmt::Arguments<'_>,
    ) {
        let history = self.take_history();
        self.telemetry.end(outcome_of(failure), |span| {
            span.record("fallback_history", history);
            span.record("fallback_succeeded", false);
            span.record("primary_failed", true);
            record_failure(span, failure, error);
            record_status(span, level::ERROR, message);
        });
    }

    fn take_history(&mut self) -> String {
        std::mem::replace(&mut self.history, json::List::new()).into_text()
    }
}

/// Shows the place of an agent in the seed's words: `primary`, `fallback_1`.
struct AgentType(usize);

impl fmt::Display for AgentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("primary"),
            n => write!(f, "fallback_{n}"),
        }
    }
}

#[cold]
fn wrap<E: Into<BoxError> + 'static>(error: E, outcome: &Outcome) -> Error {
    Error::from_service(error, |_| match outcome {
        Outcome::Failure(failure) => failure.clone(),
        Outcome::Success | Outcome::Neutral => Failure::new(FailureKind::Cancelled),
    })
}

#[inline]
fn chain_span(labels: &Labels, agents: usize) -> Telemetry {
    Telemetry::open(|| {
        tracing::info_span!(
            target: telemetry::TARGET,
            telemetry::span::FALLBACK,
            agent_id = labels.agent_id(),
            metadata = labels.metadata(),
            total_agents = as_i64(agents),
            fallback_history = Empty,
            fallback_succeeded = Empty,
            fallback_level = Empty,
            primary_failed = Empty,
            outcome = Empty,
            failure_kind = Empty,
            error = Empty,
            error_type = Empty,
            level = Empty,
            status_message = Empty,
        )
    })
}

fn attempt_span(labels: &Labels, chain: &Span, agent: usize) -> Telemetry {
    Telemetry::open(|| {
        tracing::info_span!(
            target: telemetry::TARGET,
            parent: chain,
            telemetry::span::FALLBACK_ATTEMPT,
            agent_id = labels.agent_id(),
            metadata = labels.metadata(),
            agent_index = as_i64(agent),
            agent_type = %AgentType(agent),
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
