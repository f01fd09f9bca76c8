//! What a call owes its circuit, from its admission to its end, and what its span tells of it.

use std::{fmt, sync::Arc};

use tracing::{Span, field::Empty};

use super::{
    Circuit, Guard, Transition,
    circuit::announce_all,
    machine::{Permit, Rejection, Verdict},
};
#[cfg(feature = "stream")]
use crate::stream::Watcher;
use crate::{
    BoxError, Classify, Error, ErrorKind, Failure, FailureKind, Outcome,
    sharded::Handle,
    telemetry::{
        self, Labels, Telemetry, describe, level, outcome, outcome_of, record_failure,
        record_status,
    },
};

/// How a call gets at its circuit.
pub trait Access {
    #[doc(hidden)]
    fn at(&self) -> At<'_>;

    /// Keeps the circuit for an answer that goes on after the call.
    #[doc(hidden)]
    #[cfg(feature = "stream")]
    fn hold(&self) -> Held;
}

/// The circuit of a call whose answer goes on.
#[cfg(feature = "stream")]
#[derive(Debug)]
pub struct Held(Whose);

/// Whose circuit it is.
#[cfg(feature = "stream")]
#[derive(Debug)]
enum Whose {
    Breaker(Handle<Guard>),
    Key(Keyed),
}

/// The circuit of a call, and what its spans are labelled with.
#[derive(Debug, Clone, Copy)]
pub struct At<'a> {
    pub(super) circuit: &'a Circuit,
    labels: &'a Labels,
}

/// The circuit of the request's key.
#[derive(Debug, Clone)]
pub(super) struct Keyed {
    pub(super) circuit: Circuit,
    pub(super) labels: Handle<Labels>,
}

/// What a call owes the circuit: its result.
#[derive(Debug)]
pub struct Watch<A: Access> {
    pub(super) access: A,
    /// Taken when the result is reported; a permit that is left when the call is dropped means
    /// that its caller cancelled it.
    pub(super) permit: Option<Permit>,
    /// With the changes of state that the call made.
    pub(super) telemetry: Told,
}

pub(super) type Told = Telemetry<Vec<Transition>>;

/// Stands around one call or poll of the inner service: a panic of it is a failure.
pub(super) struct Unwinding<'a> {
    at: At<'a>,
    /// None once nothing can panic any more.
    permit: Option<&'a mut Option<Permit>>,
    telemetry: &'a Told,
}

// ===== impl Access =====

impl Access for Handle<Guard> {
    #[inline(always)]
    fn at(&self) -> At<'_> {
        At { circuit: &self.circuit, labels: &self.labels }
    }

    #[cfg(feature = "stream")]
    fn hold(&self) -> Held {
        Held(Whose::Breaker(self.clone()))
    }
}

impl Access for Keyed {
    #[inline(always)]
    fn at(&self) -> At<'_> {
        At { circuit: &self.circuit, labels: &self.labels }
    }

    #[cfg(feature = "stream")]
    fn hold(&self) -> Held {
        Held(Whose::Key(self.clone()))
    }
}

#[cfg(feature = "stream")]
impl Access for Held {
    fn at(&self) -> At<'_> {
        match &self.0 {
            Whose::Breaker(guard) => guard.at(),
            Whose::Key(keyed) => keyed.at(),
        }
    }

    fn hold(&self) -> Self {
        match &self.0 {
            Whose::Breaker(guard) => guard.hold(),
            Whose::Key(keyed) => keyed.hold(),
        }
    }
}

// ===== impl Watch =====

impl<A: Access> Watch<A> {
    /// Asks the inner service whether it is ready, or calls it; a panic of it is a failure.
    pub(super) fn run<T>(&mut self, inner: impl FnOnce() -> T) -> T {
        let Self { access, permit, telemetry } = self;
        let scope = telemetry.scope();
        let unwinding = Unwinding::new(access.at(), permit, telemetry);
        let result = inner();
        unwinding.disarm();
        scope.leave();
        result
    }

    #[inline(always)]
    pub(super) fn settle<Res, E, C>(
        &mut self,
        classify: &C,
        result: Result<Res, E>,
    ) -> Result<Res, Error>
    where
        E: Into<BoxError> + 'static,
        C: Classify<Res, E>,
    {
        match result {
            Ok(response) => {
                match classify.classify(Ok(&response)) {
                    Outcome::Success => self.succeed(),
                    outcome => self.end_answered(&outcome),
                }
                Ok(response)
            }
            Err(error) => {
                let outcome = classify.classify(Err(&error));
                Err(self.wrap(error, outcome))
            }
        }
    }

    /// Notes a failed result; a good answer is noted at its end, by the watch that is returned.
    #[cfg(feature = "stream")]
    pub(super) fn hold<Res, E, C>(
        &mut self,
        classify: &C,
        result: Result<Res, E>,
    ) -> Result<(Res, Watch<Held>), Error>
    where
        E: Into<BoxError> + 'static,
        C: Classify<Res, E>,
    {
        let response = match result {
            Ok(response) => match classify.classify(Ok(&response)) {
                Outcome::Success => response,
                outcome => {
                    self.end_answered(&outcome);
                    response
                }
            },
            result => self.settle(classify, result)?,
        };
        let held = Watch {
            access: self.access.hold(),
            permit: self.permit.take(),
            telemetry: std::mem::take(&mut self.telemetry),
        };
        Ok((response, held))
    }

    /// Returns the agent that errors name.
    #[cfg(feature = "stream")]
    pub(super) fn agent_id(&self) -> Option<Arc<str>> {
        self.access.at().labels.agent_id.clone()
    }

    #[inline(always)]
    fn succeed(&mut self) {
        if let Some(permit) = self.permit
            && self.telemetry.is_off()
            && self.access.at().circuit.success_is_free(permit)
        {
            self.permit = None;
        } else {
            self.succeed_slowly();
        }
    }

    #[inline(never)]
    fn succeed_slowly(&mut self) {
        self.report(Verdict::Success);
        self.end_well();
    }

    /// Reports the result to the circuit.
    fn report(&mut self, verdict: Verdict) {
        if let Some(permit) = self.permit.take() {
            let at = self.access.at();
            let transitions = at.circuit.settle(permit, verdict);
            at.changed(&transitions, &mut self.telemetry);
        }
    }

    fn end_well(&mut self) {
        let Self { telemetry, access, .. } = self;
        telemetry.end_with(outcome::SUCCESS, |span, transitions| {
            record_circuit(span, access.at().circuit, transitions);
        });
    }

    /// Ends a call whose answer is a failure, or says nothing about the service.
    #[cold]
    fn end_answered(&mut self, outcome: &Outcome) {
        let verdict = Verdict::of(outcome);
        self.report(verdict);
        match outcome {
            Outcome::Failure(failure) => self.fail(verdict, failure, failure),
            Outcome::Success | Outcome::Neutral => self.end_well(),
        }
    }

    #[cold]
    fn wrap<E>(&mut self, error: E, outcome: Outcome) -> Error
    where
        E: Into<BoxError> + 'static,
    {
        let verdict = Verdict::of(&outcome);
        self.report(verdict);
        let failure = match outcome {
            Outcome::Failure(failure) => failure,
            Outcome::Success | Outcome::Neutral => Failure::new(FailureKind::Cancelled),
        };
        let error = Error::from_service(error, |_| failure.clone());
        let error = error.in_agent(self.access.at().labels.agent_id.as_ref());
        self.fail(verdict, &failure, &describe(&error));
        error
    }

    #[cold]
    fn fail(&mut self, verdict: Verdict, failure: &Failure, error: &dyn fmt::Display) {
        let Self { telemetry, access, .. } = self;
        telemetry.end_with(outcome_of(failure), |span, transitions| {
            record_circuit(span, access.at().circuit, transitions);
            record_failure(span, failure, error);
            if verdict == Verdict::Failure {
                let message = format_args!("Circuit breaker recorded failure: {error}");
                record_status(span, level::ERROR, message);
            }
        });
    }

    #[cold]
    fn cancel(&mut self) {
        self.report(Verdict::Cancelled);
        let Self { telemetry, access, .. } = self;
        telemetry.end_with(outcome::CANCELLED, |span, transitions| {
            record_circuit(span, access.at().circuit, transitions);
        });
    }
}

#[cfg(feature = "stream")]
impl Watcher for Watch<Held> {
    fn run<R>(&mut self, poll: impl FnOnce() -> R) -> R {
        self.run(poll)
    }

    fn succeed(&mut self, _: u64) {
        self.succeed();
    }

    fn fail(&mut self, _: u64, failure: &Failure, error: &dyn fmt::Display) {
        let verdict = Verdict::of(&Outcome::Failure(failure.clone()));
        self.report(verdict);
        self.fail(verdict, failure, error);
    }
}

impl<A: Access> Drop for Watch<A> {
    #[inline(always)]
    fn drop(&mut self) {
        if self.permit.is_some() {
            self.cancel();
        }
    }
}

// ===== impl Unwinding =====

impl<'a> Unwinding<'a> {
    #[inline(always)]
    pub(super) const fn new(
        at: At<'a>,
        permit: &'a mut Option<Permit>,
        telemetry: &'a Told,
    ) -> Self {
        Self { at, permit: Some(permit), telemetry }
    }

    /// Says that nothing has panicked.
    #[inline(always)]
    pub(super) fn disarm(mut self) {
        self.permit = None;
    }
}

impl Drop for Unwinding<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take().and_then(Option::take) {
            self.at.panicked(permit, self.telemetry);
        }
    }
}

// ===== impl At =====

impl At<'_> {
    #[inline(always)]
    pub(super) fn open_span(self) -> Told {
        let Self { circuit, labels } = self;
        Telemetry::open(|| {
            tracing::info_span!(
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
            )
        })
    }

    /// Tells what a step changed, inside the call's span.
    pub(super) fn changed(self, more: &[Transition], telemetry: &mut Told) {
        if more.is_empty() {
            return;
        }
        telemetry.in_scope(|| announce_all(more, self.labels));
        telemetry.kept_mut().into_iter().for_each(|known| known.extend_from_slice(more));
    }

    /// Reports a panic, inside the call's span where it has one.
    #[cold]
    fn panicked(self, permit: Permit, telemetry: &Told) {
        let more = self.circuit.settle(permit, Verdict::Failure);
        announce_all(&more, self.labels);
        if let Some((span, known)) = telemetry.span().zip(telemetry.kept()) {
            record_circuit(span, self.circuit, &[known, &more[..]].concat());
        }
    }

    #[cold]
    pub(super) fn reject(self, rejection: Rejection, telemetry: &mut Told) -> Error {
        let Self { circuit, labels } = self;
        let Rejection { reason, retry_after } = rejection;
        let key = Arc::clone(circuit.name());
        let error = Error::new(ErrorKind::CircuitOpen { key, reason, retry_after });
        let error = error.in_agent(labels.agent_id.as_ref());
        telemetry.end_with(outcome::REJECTED, |span, transitions| {
            record_circuit(span, circuit, transitions);
            record_failure(span, error.failure(), &describe(&error));
            let id = labels.agent_id().unwrap_or(circuit.name());
            let message = format_args!("Circuit breaker is OPEN for agent {id}");
            record_status(span, level::ERROR, message);
        });
        error
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
