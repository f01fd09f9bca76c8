//! What layers use to write the contract.

use std::{
    any::Any,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tracing::{Span, level_filters::LevelFilter};

use super::{key, level, outcome};
use crate::{BoxError, Error, ErrorKind, Failure, FailureKind, error::Told, rare::Rare};

/// What every span of a layer carries: the setters `agent_id` and `metadata` of each layer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Labels {
    pub(crate) agent_id: Option<Arc<str>>,
    pub(crate) metadata: Option<Arc<str>>,
}

impl Labels {
    pub(crate) fn agent_id(&self) -> Option<&str> {
        self.agent_id.as_deref()
    }

    pub(crate) fn metadata(&self) -> Option<&str> {
        self.metadata.as_deref()
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.agent_id.is_none() && self.metadata.is_none()
    }
}

/// The span of one call: nothing at all unless somebody listens.
///
/// Dropped without a result, the call was cancelled. `T` is what a layer keeps for its span.
#[derive(Debug)]
pub(crate) struct Telemetry<T = ()>(Rare<Open<T>>);

#[derive(Debug)]
pub(crate) struct Open<T> {
    span: Span,
    kept: T,
    /// Set by a panic, which is the end of the call whatever is recorded afterwards.
    panicked: AtomicBool,
}

/// Spans around one poll or call of the inner service.
pub(crate) trait Spans {
    fn enter(&self);
    fn exit(&self);
    /// Leaves the spans and records that the call has panicked.
    fn panicked(&self);
}

/// One poll or call of the inner service inside spans, until [`leave`](Self::leave); not for
/// keeping across an await.
///
/// Dropped by a panic, it records that; the spans end with the call's future.
#[must_use = "a scope that is dropped has panicked"]
pub(crate) struct Scope<'a, S: Spans>(Option<&'a S>);

impl Telemetry {
    /// Returns whether no subscriber of the program wants spans of this level: two loads.
    #[inline(always)]
    pub(crate) fn nobody_listens() -> bool {
        tracing::Level::INFO > LevelFilter::current()
    }
}

impl<T: Default> Telemetry<T> {
    /// Opens a span if somebody may listen.
    #[inline(always)]
    pub(crate) fn open(span: impl FnOnce() -> Span) -> Self {
        if Telemetry::nobody_listens() { Self(Rare::NONE) } else { Self::open_slowly(span) }
    }

    #[cold]
    fn open_slowly(span: impl FnOnce() -> Span) -> Self {
        let span = span();
        if span.is_disabled() {
            return Self(Rare::NONE);
        }
        Self(Rare::some(Open { span, kept: T::default(), panicked: AtomicBool::new(false) }))
    }
}

impl<T> Telemetry<T> {
    #[inline(always)]
    pub(crate) const fn is_off(&self) -> bool {
        self.0.is_none()
    }

    /// Returns the span, to record what becomes known on the way; none after a panic, which
    /// ends it.
    #[inline(always)]
    pub(crate) fn span(&self) -> Option<&Span> {
        self.0.get().and_then(Open::span)
    }

    /// Enters the span.
    #[inline(always)]
    pub(crate) fn scope(&self) -> Scope<'_, Open<T>> {
        Scope::enter(&self.0)
    }

    /// Runs one poll or call of the inner service inside the span.
    ///
    /// A panic ends the span as `panicked` and goes on unwinding.
    #[inline(always)]
    pub(crate) fn in_scope<R>(&self, f: impl FnOnce() -> R) -> R {
        let scope = self.scope();
        let result = f();
        scope.leave();
        result
    }

    /// Scores the span.
    pub(crate) fn score(
        &self,
        name: &'static str,
        value: impl tracing::Value,
        comment: fmt::Arguments<'_>,
    ) {
        // Without a span there is nothing to score.
        if !self.is_off() {
            self.score_slowly(name, &value, comment);
        }
    }

    #[cold]
    #[inline(never)]
    fn score_slowly(
        &self,
        name: &'static str,
        value: &dyn tracing::Value,
        comment: fmt::Arguments<'_>,
    ) {
        self.in_scope(|| {
            tracing::info!(target: super::SCORE_TARGET, name, value, comment);
        });
    }

    /// Returns what is kept for the span.
    pub(crate) fn kept(&self) -> Option<&T> {
        self.0.get().map(|open| &open.kept)
    }

    /// Returns what is kept for the span, to add to it.
    pub(crate) fn kept_mut(&mut self) -> Option<&mut T> {
        self.0.get_mut().map(|open| &mut open.kept)
    }

    /// Ends the span; `record` writes what is known at the end besides the outcome.
    #[inline(always)]
    pub(crate) fn end(&mut self, outcome: &'static str, record: impl FnOnce(&Span)) {
        self.end_with(outcome, |span, _| record(span));
    }

    /// Ends the span as [`end`](Self::end) does, with what was kept for it.
    #[inline(always)]
    pub(crate) fn end_with(&mut self, outcome: &'static str, record: impl FnOnce(&Span, &T)) {
        if let Some(open) = self.0.get() {
            open.end(outcome, record);
            self.0.clear();
        }
    }
}

impl<T> Default for Telemetry<T> {
    fn default() -> Self {
        Self(Rare::NONE)
    }
}

impl<T> Drop for Telemetry<T> {
    #[inline(always)]
    fn drop(&mut self) {
        self.end(outcome::CANCELLED, |_| ());
    }
}

impl<T> Open<T> {
    #[cold]
    fn span(&self) -> Option<&Span> {
        (!self.panicked.load(Ordering::Relaxed)).then_some(&self.span)
    }

    #[cold]
    fn end(&self, outcome: &'static str, record: impl FnOnce(&Span, &T)) {
        if let Some(span) = self.span() {
            record(span, &self.kept);
            span.record(key::OUTCOME, outcome);
        }
    }
}

impl<T> Spans for Open<T> {
    #[cold]
    fn enter(&self) {
        self.span.with_subscriber(|(id, subscriber)| subscriber.enter(id));
    }

    #[cold]
    fn exit(&self) {
        self.span.with_subscriber(|(id, subscriber)| subscriber.exit(id));
    }

    #[cold]
    fn panicked(&self) {
        self.exit();
        self.span.record(key::FAILURE_KIND, "panicked");
        self.span.record(key::ERROR_TYPE, "panicked");
        record_status(&self.span, level::ERROR, format_args!("The call panicked"));
        self.span.record(key::OUTCOME, outcome::PANICKED);
        self.panicked.store(true, Ordering::Relaxed);
    }
}

impl<T> Spans for Telemetry<T> {
    fn enter(&self) {
        self.0.get().into_iter().for_each(Open::enter);
    }

    fn exit(&self) {
        self.0.get().into_iter().for_each(Open::exit);
    }

    fn panicked(&self) {
        self.0.get().into_iter().for_each(Open::panicked);
    }
}

impl<'a, S: Spans> Scope<'a, S> {
    /// Enters the spans, where there are any.
    #[inline(always)]
    pub(crate) fn enter(spans: &'a Rare<S>) -> Self {
        if let Some(spans) = spans.get() {
            spans.enter();
        }
        Self(spans.get())
    }

    /// Leaves the spans.
    #[inline(always)]
    pub(crate) fn leave(mut self) {
        if let Some(spans) = self.0.take() {
            spans.exit();
        }
    }
}

impl<S: Spans> Drop for Scope<'_, S> {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(spans) = self.0.take() {
            spans.panicked();
        }
    }
}

/// Returns the `outcome` of a call that failed so.
pub(crate) const fn outcome_of(failure: &Failure) -> &'static str {
    match failure.kind() {
        FailureKind::Cancelled => outcome::CANCELLED,
        FailureKind::CircuitOpen => outcome::REJECTED,
        FailureKind::Panicked => outcome::PANICKED,
        _ => outcome::FAILURE,
    }
}

/// Records what failed, under each of its keys.
pub(crate) fn record_failure(span: &Span, failure: &Failure, error: &dyn fmt::Display) {
    span.record(key::FAILURE_KIND, failure.kind().as_str());
    span.record(key::ERROR_TYPE, failure.kind().as_str());
    span.record(key::ERROR, tracing::field::display(error));
}

/// Records how bad it is and the sentence for people.
pub(crate) fn record_status(span: &Span, level: &'static str, message: fmt::Arguments<'_>) {
    span.record(key::LEVEL, level);
    span.record(key::STATUS_MESSAGE, tracing::field::display(message));
}

/// Shows an error as spans and log lines want it: in one line with all that caused it.
///
/// `Display` of our own error names the agent, which spans have a field for, and leaves the
/// cause out, which nobody looks up from a span.
pub(crate) const fn describe<E: fmt::Display + 'static>(error: &E) -> Described<'_, E> {
    Described(error)
}

#[derive(Debug)]
pub(crate) struct Described<'a, E>(&'a E);

impl<E: fmt::Display + 'static> fmt::Display for Described<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let any = self.0 as &dyn Any;
        if let Some(ours) = any.downcast_ref::<Error>() {
            tell(ours, f)
        } else if let Some(boxed) = any.downcast_ref::<BoxError>() {
            tell_chain(&**boxed, f)
        } else if let Some(error) = chained(any) {
            tell_chain(error, f)
        } else {
            write!(f, "{}", self.0)
        }
    }
}

/// Returns an error whose cause belongs to its text too.
fn chained(error: &dyn Any) -> Option<&(dyn std::error::Error + 'static)> {
    #[cfg(feature = "checkpoint")]
    if let Some(store) = error.downcast_ref::<crate::StoreError>() {
        return Some(store);
    }
    #[cfg(feature = "tonic")]
    if let Some(status) = error.downcast_ref::<tonic::Status>() {
        return Some(status);
    }
    _ = error;
    None
}

fn tell(error: &Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let source = error.cause();
    match (error.kind(), source) {
        #[cfg(feature = "checkpoint")]
        (ErrorKind::Checkpoint, Some(source)) => tell_chain(source, f),
        #[cfg(feature = "checkpoint")]
        (kind @ ErrorKind::CheckpointNotFound { .. }, _) => write!(f, "{kind}"),
        (ErrorKind::Service, Some(source)) => tell_chain(source, f),
        (kind @ ErrorKind::FallbackExhausted { failures }, _) => {
            write!(f, "{kind}")?;
            for (place, failed) in failures.iter().enumerate() {
                f.write_str(if place == 0 { ": " } else { "; " })?;
                write!(f, "{}: ", failed.agent)?;
                match &failed.error {
                    Some(error) => tell_chain(&**error, f)?,
                    None => write!(f, "{}", failed.failure)?,
                }
            }
            Ok(())
        }
        #[cfg(feature = "swarm")]
        (ErrorKind::CriticalDegradation { failures, .. }, _) => {
            f.write_str("too many required agents failed")?;
            for (place, failed) in failures.iter().filter(|one| one.is_required()).enumerate() {
                f.write_str(if place == 0 { ": " } else { "; " })?;
                write!(f, "{}: ", failed.agent())?;
                tell(failed.error(), f)?;
            }
            Ok(())
        }
        // What it panicked with may show the request.
        (kind @ ErrorKind::Panicked, _) | (kind, None) => write!(f, "{kind}"),
        (kind, Some(source)) => {
            write!(f, "{kind}: ")?;
            tell_chain(source, f)
        }
    }
}

/// The longest chain of causes that is told; one that is longer may be a circle.
const LONGEST_CHAIN: usize = 16;

fn tell_chain(
    error: &(dyn std::error::Error + 'static),
    f: &mut fmt::Formatter<'_>,
) -> fmt::Result {
    let mut told = String::new();
    let causes = std::iter::successors(Some(error), |error| error.source());
    for error in causes.take(LONGEST_CHAIN) {
        if let Some(ours) = error.downcast_ref::<Error>() {
            return tell(ours, f);
        }
        let text = Told(error).to_string();
        // Many errors repeat what caused them.
        if told.is_empty() {
            f.write_str(&text)?;
            told = text;
        } else if !told.contains(&text) {
            write!(f, ": {text}")?;
            told = text;
        }
    }
    Ok(())
}
