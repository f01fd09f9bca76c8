use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower::Service;
use tracing::{Span, field::Empty};

use super::{
    Circuit, Readiness, Transition,
    circuit::announce_all,
    machine::{Permit, Rejection, Verdict},
};
use crate::{
    BoxError, Classify, Error, ErrorKind, Failure, FailureKind, Outcome,
    telemetry::{
        self, Labels, Telemetry, describe, level, outcome, outcome_of, record_failure,
        record_status,
    },
    unwind::on_unwind,
};

pin_project! {
    /// The answer of a [`CircuitBreaker`](super::CircuitBreaker).
    pub struct ResponseFuture<S, Req, C>
    where
        S: Service<Req>,
    {
        #[pin]
        state: State<S, Req, S::Future>,
        watch: Watch,
        classify: C,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, Req, F> {
        // The call is made.
        Calling { #[pin] future: F },
        // The call is admitted, but its service was not made ready: the circuit was open then.
        Readying { service: S, request: Option<Req> },
        // The call was rejected.
        Rejected { error: Option<Error> },
        Done,
    }
}

/// A call that is about to be made; what the breaker and the keyed breaker share.
pub(super) struct Call<'a, S, C> {
    pub(super) inner: &'a mut S,
    pub(super) readiness: &'a mut Readiness,
    pub(super) circuit: Circuit,
    pub(super) classify: C,
    pub(super) labels: &'a Labels,
}

/// What a call owes the circuit: its result.
struct Watch {
    circuit: Circuit,
    /// Taken when the result is reported; a permit that is left when the call is dropped means
    /// that its caller cancelled it.
    permit: Option<Permit>,
    labels: Labels,
    telemetry: Telemetry,
    transitions: Vec<Transition>,
}

// ===== impl Call =====

impl<S, C> Call<'_, S, C> {
    #[inline]
    pub(super) fn start<Req>(self, request: Req) -> ResponseFuture<S, Req, C>
    where
        S: Service<Req> + Clone,
    {
        let telemetry = open_span(&self.circuit, self.labels);
        let mut watch = Watch {
            circuit: self.circuit,
            permit: None,
            labels: self.labels.clone(),
            telemetry,
            transitions: Vec::new(),
        };
        let state = match watch.admit() {
            Err(rejection) => {
                give_back(self.inner, self.readiness);
                State::Rejected { error: Some(watch.reject(rejection)) }
            }
            Ok(()) if *self.readiness == Readiness::Ready => {
                *self.readiness = Readiness::Unasked;
                State::Calling { future: watch.run(|| self.inner.call(request)) }
            }
            // The instance that was asked goes along: it may stand in a queue already.
            Ok(()) => {
                *self.readiness = Readiness::Unasked;
                let unasked = self.inner.clone();
                let service = std::mem::replace(self.inner, unasked);
                State::Readying { service, request: Some(request) }
            }
        };
        ResponseFuture { state, watch, classify: self.classify }
    }
}

/// Gives back what a service that is not called may have reserved when it was asked for readiness,
/// such as a place under a limit that others wait for: only dropping the service does.
#[cold]
fn give_back<S: Clone>(inner: &mut S, readiness: &mut Readiness) {
    if *readiness != Readiness::Unasked {
        *readiness = Readiness::Unasked;
        let unasked = inner.clone();
        *inner = unasked;
    }
}

// ===== impl ResponseFuture =====

impl<S, Req, C> Future for ResponseFuture<S, Req, C>
where
    S: Service<Req>,
    S::Error: Into<BoxError> + 'static,
    C: Classify<S::Response, S::Error>,
{
    type Output = Result<S::Response, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                // ## Calling => Done
                StateProj::Calling { future } => {
                    let result = ready!(this.watch.run(|| future.poll(cx)));
                    this.state.set(State::Done);
                    return Poll::Ready(this.watch.settle(this.classify, result));
                }
                // ## Readying => (Calling | Done)
                StateProj::Readying { service, request } => {
                    if let Err(error) = ready!(this.watch.run(|| service.poll_ready(cx))) {
                        this.state.set(State::Done);
                        return Poll::Ready(this.watch.settle(this.classify, Err(error)));
                    }
                    let request = request.take().expect("a request is sent once");
                    let future = this.watch.run(|| service.call(request));
                    this.state.set(State::Calling { future });
                }
                // ## Rejected => Done
                StateProj::Rejected { error } => {
                    return Poll::Ready(Err(error.take().expect("polled after completion")));
                }
                StateProj::Done => panic!("polled after completion"),
            }
        }
    }
}

impl<S, Req, C> fmt::Debug for ResponseFuture<S, Req, C>
where
    S: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("circuit", &self.watch.circuit)
            .finish_non_exhaustive()
    }
}

// ===== impl Watch =====

impl Watch {
    #[inline]
    fn admit(&mut self) -> Result<(), Rejection> {
        let (admission, transitions) = self.circuit.admit();
        if !transitions.is_empty() {
            self.changed(transitions);
        }
        admission.map(|permit| self.permit = Some(permit))
    }

    /// Tells what a step changed, inside the call's span.
    #[cold]
    fn changed(&mut self, transitions: Vec<Transition>) {
        let Self { telemetry, labels, .. } = self;
        telemetry.in_scope(|| announce_all(&transitions, labels));
        self.transitions.extend(transitions);
    }

    /// Runs a call or poll of the inner service; a panic of it is a failure.
    #[inline]
    fn run<T>(&mut self, inner: impl FnOnce() -> T) -> T {
        let Self { circuit, permit, labels, telemetry, transitions } = self;
        let is_told = telemetry.span().is_some();
        telemetry.in_scope(|| {
            on_unwind(inner, || {
                let Some(permit) = permit.take() else { return };
                let more = circuit.settle(permit, Verdict::Failure);
                announce_all(&more, labels);
                transitions.extend(more);
                if is_told {
                    record_circuit(&Span::current(), circuit, transitions);
                }
            })
        })
    }

    #[inline]
    fn settle<Res, E, C>(&mut self, classify: &C, result: Result<Res, E>) -> Result<Res, Error>
    where
        E: Into<BoxError> + 'static,
        C: Classify<Res, E>,
    {
        let outcome = classify.classify(result.as_ref());
        let verdict = Verdict::of(&outcome);
        if let Some(permit) = self.permit.take() {
            let transitions = self.circuit.settle(permit, verdict);
            if !transitions.is_empty() {
                self.changed(transitions);
            }
        }
        match (result, outcome) {
            (Ok(response), Outcome::Failure(failure)) => {
                self.fail(verdict, &failure, &failure);
                Ok(response)
            }
            (Ok(response), _) => {
                self.succeed();
                Ok(response)
            }
            (Err(error), outcome) => Err(self.wrap(error, verdict, outcome)),
        }
    }

    #[cold]
    fn wrap<E>(&mut self, error: E, verdict: Verdict, outcome: Outcome) -> Error
    where
        E: Into<BoxError> + 'static,
    {
        let failure = match outcome {
            Outcome::Failure(failure) => failure,
            Outcome::Success | Outcome::Neutral => Failure::new(FailureKind::Cancelled),
        };
        let error = Error::from_service(error, |_| failure.clone());
        let error = error.in_agent(self.labels.agent_id.as_ref());
        self.fail(verdict, &failure, &describe(&error));
        error
    }

    #[inline]
    fn succeed(&mut self) {
        if self.telemetry.span().is_some() {
            let Self { telemetry, circuit, transitions, .. } = self;
            telemetry.end(outcome::SUCCESS, |span| record_circuit(span, circuit, transitions));
        }
    }

    #[cold]
    fn fail(&mut self, verdict: Verdict, failure: &Failure, error: &dyn fmt::Display) {
        let Self { telemetry, circuit, transitions, .. } = self;
        telemetry.end(outcome_of(failure), |span| {
            record_circuit(span, circuit, transitions);
            record_failure(span, failure, error);
            if verdict == Verdict::Failure {
                let message = format_args!("Circuit breaker recorded failure: {error}");
                record_status(span, level::ERROR, message);
            }
        });
    }

    #[cold]
    fn reject(&mut self, rejection: Rejection) -> Error {
        let Rejection { reason, retry_after } = rejection;
        let key = Arc::clone(self.circuit.name());
        let error = Error::new(ErrorKind::CircuitOpen { key, reason, retry_after });
        let error = error.in_agent(self.labels.agent_id.as_ref());
        let Self { telemetry, circuit, transitions, labels, .. } = self;
        telemetry.end(outcome::REJECTED, |span| {
            record_circuit(span, circuit, transitions);
            record_failure(span, error.failure(), &describe(&error));
            let id = labels.agent_id().unwrap_or(circuit.name());
            let message = format_args!("Circuit breaker is OPEN for agent {id}");
            record_status(span, level::ERROR, message);
        });
        error
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            let transitions = self.circuit.settle(permit, Verdict::Cancelled);
            if !transitions.is_empty() {
                self.changed(transitions);
            }
            let Self { telemetry, circuit, transitions, .. } = self;
            telemetry.end(outcome::CANCELLED, |span| record_circuit(span, circuit, transitions));
        }
    }
}

// ===== impl Verdict =====

impl Verdict {
    pub(super) fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Success => Self::Success,
            Outcome::Neutral => Self::Ignored,
            Outcome::Failure(failure) if failure.trips() => Self::Failure,
            Outcome::Failure(failure) => match (failure.kind(), failure.retry_after()) {
                (FailureKind::RateLimited, Some(wait)) if !wait.is_zero() => {
                    Self::RateLimited(wait)
                }
                _ => Self::Ignored,
            },
        }
    }
}

#[inline]
fn open_span(circuit: &Circuit, labels: &Labels) -> Telemetry {
    Telemetry::new(tracing::info_span!(
        target: telemetry::TARGET,
        telemetry::span::CIRCUIT_BREAKER,
        agent_id = labels.agent_id(),
        metadata = labels.metadata(),
        circuit_key = &**circuit.name(),
        circuit_state_at_start = circuit.state_before().as_str(),
        circuit_state = Empty,
        failure_count = Empty,
        success_count = Empty,
        retry_after_seconds = Empty,
        state_transition = Empty,
        outcome = Empty,
        failure_kind = Empty,
        error = Empty,
        error_type = Empty,
        level = Empty,
        status_message = Empty,
    ))
}

/// Records how the circuit stands at the end of a call.
fn record_circuit(span: &Span, circuit: &Circuit, transitions: &[Transition]) {
    let now = circuit.snapshot();
    span.record("circuit_state", now.state.as_str());
    span.record("failure_count", i64::from(now.consecutive_failures));
    span.record("success_count", i64::from(now.successes));
    if let Some(wait) = now.retry_after {
        span.record("retry_after_seconds", wait.as_secs_f64());
    }
    if !transitions.is_empty() {
        let words: Vec<_> = transitions.iter().map(ToString::to_string).collect();
        span.record("state_transition", words.join(", "));
    }
}
