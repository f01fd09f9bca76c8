use std::{fmt::Display, hash::Hash, sync::Arc, time::Duration};

use tower::Layer;

#[cfg(all(feature = "stream", feature = "http"))]
use super::AtBodyEnd;
#[cfg(feature = "stream")]
use super::AtStreamEnd;
use super::{
    AfterLease, AtAnswer, Circuit, CircuitBreaker, Guard, HalfOpen, KeyedCircuitBreakerLayer,
    Window, settings::Settings,
};
use crate::{AnyError, telemetry::Labels};

/// Stops calling a service that fails.
///
/// The circuit lives in the layer: its clones, and all services it is applied to, share it. A
/// setter changes the rules of that one circuit.
///
/// # Defaults
///
/// - `consecutive_failures`: 5 (the seed's); not a rule where a rate is named and this is not
/// - `window`: the last 60 s in 10 buckets; `minimum_calls`: 10
/// - `open_for`: 30 s; no growth, no jitter; `max_open`: 60 s, or the longest of `open_for` and
///   the growth where that is longer
/// - `half_open`: 1 probe at a time, 2 successes close
/// - `half_open_lease`: 60 s, then a new half-open period
/// - `classify`: [`AnyError`]
///
/// The clock is read on admission only where `slow_call`, `drop_is_failure_after` or a window of
/// time asks for it, and while the circuit is not closed.
///
/// # Cancellation
///
/// A dropped call gives its permit back and counts as cancelled.
///
/// # Tracing
///
/// `circuit_breaker_call` around each call, and `circuit_breaker.opened`, `.half_opened` and
/// `.closed` for each transition; see the [contract](crate::telemetry).
///
/// # Errors
///
/// [`CircuitOpen`](crate::ErrorKind::CircuitOpen) from `call`, never from `poll_ready`; the
/// service's own error is the source of an [`Error`](crate::Error).
///
/// See the [module docs](super) for an example.
#[derive(Debug, Clone)]
#[must_use = "layers do nothing until applied to a service"]
pub struct CircuitBreakerLayer<C = AnyError, M = AtAnswer> {
    circuit: Circuit,
    classify: C,
    settles: M,
    labels: Labels,
}

// ===== impl CircuitBreakerLayer =====

impl CircuitBreakerLayer {
    /// Creates the layer and its circuit.
    ///
    /// # Panics
    ///
    /// If the name is empty.
    #[track_caller]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self::sharing(Circuit::new(name))
    }

    /// Creates a layer for a circuit that others use too.
    pub fn sharing(circuit: Circuit) -> Self {
        Self { circuit, classify: AnyError, settles: AtAnswer, labels: Labels::default() }
    }

    /// Creates a layer with one circuit for each key of a request, such as the model or tenant.
    ///
    /// # Panics
    ///
    /// If the name is empty.
    #[track_caller]
    pub fn keyed<F, K>(name: impl Into<Arc<str>>, key: F) -> KeyedCircuitBreakerLayer<F, K>
    where
        K: Hash + Eq + Clone + Display + Send + Sync + 'static,
    {
        KeyedCircuitBreakerLayer::new(Self::new(name), key)
    }
}

impl<C, M> CircuitBreakerLayer<C, M> {
    /// Returns the circuit, to watch or to control it.
    #[must_use]
    pub fn circuit(&self) -> Circuit {
        self.circuit.clone()
    }

    /// Sets what counts as a failure.
    pub fn classify<D>(self, classify: D) -> CircuitBreakerLayer<D, M> {
        let Self { circuit, settles, labels, .. } = self;
        CircuitBreakerLayer { circuit, classify, settles, labels }
    }

    /// Waits for the end of an answer that is a stream before the call counts, and keeps its permit
    /// until then.
    ///
    /// The end is a success, and so is a drop after at least one item: clients stop at the mark of
    /// the end. A drop before the first item is a cancellation. An item that is an error is a failure,
    /// and so is one that `classify_items` calls one; it is handed on. A slow call is one whose stream
    /// is slow. Errors of the stream become [`Error`](crate::Error):
    /// [`Interrupted`](crate::ErrorKind::Interrupted) after the first item. A probe whose stream lasts
    /// longer than [`half_open_lease`](Self::half_open_lease) comes too late to close the circuit.
    #[cfg(feature = "stream")]
    pub fn settle_at_stream_end(self) -> CircuitBreakerLayer<C, AtStreamEnd> {
        self.settles(AtStreamEnd { classify_items: AnyError })
    }

    /// Waits for the end of an HTTP body before the call counts, and keeps its permit until then.
    ///
    /// As [`settle_at_stream_end`](Self::settle_at_stream_end), with frames for items. Its end is also
    /// `is_end_stream()`. With [`LlmClassifier`](crate::LlmClassifier) the events of the body are
    /// read, with `GrpcClassifier` its trailers; a closure needs
    /// [`ByHead`](crate::classify::ByHead).
    #[cfg(all(feature = "stream", feature = "http"))]
    pub fn settle_at_body_end(self) -> CircuitBreakerLayer<C, AtBodyEnd> {
        self.settles(AtBodyEnd)
    }

    #[cfg(feature = "stream")]
    fn settles<N>(self, settles: N) -> CircuitBreakerLayer<C, N> {
        let Self { circuit, classify, labels, .. } = self;
        CircuitBreakerLayer { circuit, classify, settles, labels }
    }

    /// Opens after so many failures in a row.
    ///
    /// # Panics
    ///
    /// If the number is zero.
    #[track_caller]
    pub fn consecutive_failures(self, failures: u32) -> Self {
        self.set("consecutive_failures", |rules| rules.consecutive_failures = Some(failures))
    }

    /// Opens when this share of the window's calls failed, from 0 to 1.
    ///
    /// # Panics
    ///
    /// If the share is not more than 0 and at most 1.
    #[track_caller]
    pub fn failure_rate(self, share: f64) -> Self {
        self.set("failure_rate", |rules| rules.failure_rate = Some(share))
    }

    /// Opens when this share of the window's calls took longer than `longer_than`.
    ///
    /// Failures and successes alike; a call that took exactly that long is not slow. Half-open
    /// probes are judged by it with [`HalfOpen::rate`] only.
    ///
    /// # Panics
    ///
    /// If the share is not more than 0 and at most 1.
    #[track_caller]
    pub fn slow_call(self, longer_than: Duration, share: f64) -> Self {
        self.set("slow_call", |rules| rules.slow_call = Some((longer_than, share)))
    }

    /// Sets which calls the rates are computed over.
    ///
    /// # Panics
    ///
    /// If the window holds no call or more than 1,048,576, has no bucket or more than 10,000, or is
    /// shorter than a nanosecond per bucket.
    #[track_caller]
    pub fn window(self, window: Window) -> Self {
        self.set("window", |rules| rules.window = window)
    }

    /// Sets how many calls the window must hold before a rate counts.
    ///
    /// A window of fewer calls counts when it is full.
    ///
    /// # Panics
    ///
    /// If the number is zero.
    #[track_caller]
    pub fn minimum_calls(self, calls: u64) -> Self {
        self.set("minimum_calls", |rules| rules.minimum_calls = calls)
    }

    /// Sets how long the circuit stays open.
    ///
    /// # Panics
    ///
    /// If the time is zero.
    #[track_caller]
    pub fn open_for(self, time: Duration) -> Self {
        self.set("open_for", |rules| rules.open_for = time)
    }

    /// Multiplies the open time by a factor each time the circuit opens again before it closed, up
    /// to `max`.
    ///
    /// # Panics
    ///
    /// If the factor is less than 1 or not finite, or the longest time is zero.
    #[track_caller]
    pub fn open_growth(self, factor: f64, max: Duration) -> Self {
        self.set("open_growth", |rules| rules.open_growth = Some((factor, max)))
    }

    /// Spreads the open time by this share to both sides, so that a fleet does not probe at once.
    ///
    /// # Panics
    ///
    /// If the share is not from 0 to 1.
    #[track_caller]
    pub fn open_jitter(self, share: f64) -> Self {
        self.set("open_jitter", |rules| rules.open_jitter = share)
    }

    /// Sets the longest time that the circuit opens by itself, whatever a `Retry-After` says.
    ///
    /// # Panics
    ///
    /// If the time is zero; when the layer is applied, if it is shorter than `open_for`.
    #[track_caller]
    pub fn max_open(self, time: Duration) -> Self {
        self.set("max_open", |rules| rules.max_open = Some(time))
    }

    /// Sets how a half-open circuit tests the service.
    ///
    /// # Panics
    ///
    /// If there is no permit, no success is needed, or there are more permits than successes.
    #[track_caller]
    pub fn half_open(self, half_open: HalfOpen) -> Self {
        self.set("half_open", |rules| rules.half_open = half_open)
    }

    /// Sets how long a half-open period lasts without a verdict, and what follows: a probe that
    /// hangs does not wedge the circuit.
    ///
    /// # Panics
    ///
    /// If the time is zero.
    #[track_caller]
    pub fn half_open_lease(self, time: Duration, after: AfterLease) -> Self {
        self.set("half_open_lease", |rules| rules.half_open_lease = Some((time, after)))
    }

    /// Counts a call that was dropped after at least this time as a failure.
    ///
    /// For a timeout further out, which drops the call: without it the breaker never hears of it.
    #[track_caller]
    pub fn drop_is_failure_after(self, time: Duration) -> Self {
        self.set("drop_is_failure_after", |rules| rules.drop_is_failure_after = Some(time))
    }

    /// Opens the circuit for the `Retry-After` of a rate-limited call, at most `max_open`.
    #[track_caller]
    pub fn rate_limit_opens(self) -> Self {
        self.set("rate_limit_opens", |rules| rules.rate_limit_opens = true)
    }

    /// Sets the agent that spans and errors name.
    pub fn agent_id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.labels.agent_id = Some(id.into());
        self
    }

    /// Sets a JSON object that the span carries.
    pub fn metadata(mut self, json: impl Into<Arc<str>>) -> Self {
        self.labels.metadata = Some(json.into());
        self
    }

    /// Creates a layer with the same rules and a circuit of its own.
    pub fn renamed(&self, name: impl Into<Arc<str>>) -> Self
    where
        C: Clone,
        M: Clone,
    {
        Self {
            circuit: Circuit::with_settings(name.into(), self.circuit.settings()),
            classify: self.classify.clone(),
            settles: self.settles.clone(),
            labels: self.labels.clone(),
        }
    }

    /// Creates a layer with the same rules, a circuit of its own, and nothing else of this one.
    pub(super) fn rules(&self, name: Arc<str>) -> CircuitBreakerLayer {
        let circuit = Circuit::with_settings(name, self.circuit.settings());
        let (classify, labels) = (AnyError, self.labels.clone());
        CircuitBreakerLayer { circuit, classify, settles: AtAnswer, labels }
    }

    /// Returns the number of failures in a row that opens, for the agent's span.
    #[cfg(feature = "agent")]
    pub(crate) fn threshold(&self) -> Option<u32> {
        self.circuit.settings().consecutive()
    }

    /// Changes one rule; a wrong one changes nothing.
    #[track_caller]
    fn set(self, field: &'static str, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = self.circuit.settings();
        change(&mut settings);
        expect_no_problem(settings.problem(Some(field)));
        self.circuit.set(settings);
        self
    }
}

#[cfg(feature = "stream")]
impl<C, I> CircuitBreakerLayer<C, AtStreamEnd<I>> {
    /// Sets which items are failures, and what an error of the stream means.
    pub fn classify_items<J>(self, classify_items: J) -> CircuitBreakerLayer<C, AtStreamEnd<J>> {
        self.settles(AtStreamEnd { classify_items })
    }
}

impl<S, C: Clone, M: Clone> Layer<S> for CircuitBreakerLayer<C, M> {
    type Service = CircuitBreaker<S, C, M>;

    /// Puts the circuit before a service.
    ///
    /// # Panics
    ///
    /// If rules do not agree with each other: `max_open` shorter than `open_for`.
    #[track_caller]
    fn layer(&self, inner: S) -> Self::Service {
        expect_no_problem(self.circuit.settings().problem(None));
        let guard = Guard { circuit: self.circuit.clone(), labels: self.labels.clone() };
        CircuitBreaker::new(inner, guard, self.classify.clone(), self.settles.clone())
    }
}

#[track_caller]
pub(super) fn expect_no_problem(problem: Option<(&'static str, &'static str)>) {
    if let Some((field, message)) = problem {
        panic!("{field} {message}");
    }
}
