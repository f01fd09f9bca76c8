//! The telemetry contract: names of spans, keys of fields, and how layers write them.
//!
//! Layers emit plain `tracing` spans under the target [`TARGET`] at level INFO, log lines as
//! events under [`LOG_TARGET`] and scores as events under [`SCORE_TARGET`]. Names and keys are the
//! seed's. Each field is recorded once; integers are recorded as `i64`, rates and seconds as
//! `f64`, lists as JSON strings, since OpenTelemetry's bridge turns other integers into strings
//! and appends what is recorded twice.

/// The target of every span.
pub const TARGET: &str = "buttress";
/// The target of the events that are log lines.
pub const LOG_TARGET: &str = "buttress::log";
/// The target of the events that are scores, with `name`, `value` and `comment`.
pub const SCORE_TARGET: &str = "buttress::score";

/// Names of spans.
pub mod span {
    /// An agent's root span; its `otel.name` is `agent_{id}`.
    pub const AGENT: &str = "fault_tolerant_agent_invoke";
    /// One call through a circuit breaker.
    pub const CIRCUIT_BREAKER: &str = "circuit_breaker_call";
    /// A circuit opened.
    pub const CIRCUIT_OPENED: &str = "circuit_breaker.opened";
    /// A circuit became half-open.
    pub const CIRCUIT_HALF_OPENED: &str = "circuit_breaker.half_opened";
    /// A circuit closed.
    pub const CIRCUIT_CLOSED: &str = "circuit_breaker.closed";
    /// A series of attempts.
    pub const RETRY: &str = "retry_execution";
    /// One attempt of a series.
    pub const RETRY_ATTEMPT: &str = "retry_attempt";
    /// One call under a time limit.
    pub const TIMEOUT: &str = "timeout_protected_call";
    /// One answer that is a stream, until its end.
    pub const STREAM: &str = "streamed_call";
    /// One call through a chain of agents.
    pub const FALLBACK: &str = "fallback_chain";
    /// One agent of a chain.
    pub const FALLBACK_ATTEMPT: &str = "fallback_attempt";
    /// One call of a swarm; its `otel.name` is `{swarm}_with_degradation`.
    pub const SWARM: &str = "swarm_with_degradation";
    /// One agent of a swarm.
    pub const SWARM_AGENT: &str = "swarm_agent";
    /// A state is saved.
    pub const SAVE_CHECKPOINT: &str = "save_checkpoint";
    /// A state is loaded.
    pub const LOAD_CHECKPOINT: &str = "load_checkpoint";
    /// A workflow goes on from its state.
    pub const RESUME_FROM_CHECKPOINT: &str = "resume_from_checkpoint";
    /// The run of a graph, which tracing shows as `graph_{name}`.
    pub const GRAPH: &str = "graph";
    /// A node of a graph, which tracing shows as `node_{name}`.
    pub const NODE: &str = "node";
    /// One call of a language model.
    pub const LLM_CALL: &str = "llm_call";
}

/// Keys of fields.
pub mod key {
    /// The agent that the span is about.
    pub const AGENT_ID: &str = "agent_id";
    /// `success`, `failure`, `rejected`, `cancelled` or `panicked`.
    pub const OUTCOME: &str = "outcome";
    /// The kind of failure in snake case.
    pub const FAILURE_KIND: &str = "failure_kind";
    /// The text of the error.
    pub const ERROR: &str = "error";
    /// The kind of failure in snake case, under the seed's name.
    pub const ERROR_TYPE: &str = "error_type";
    /// A JSON object of the user's.
    pub const METADATA: &str = "metadata";
    /// The file that a checkpoint was saved in.
    pub const CHECKPOINT_FILE: &str = "checkpoint_file";
    /// The address that a checkpoint was saved at.
    pub const CHECKPOINT_URI: &str = "checkpoint_uri";
    /// The phase of the checkpoint that was loaded.
    pub const CHECKPOINT_PHASE: &str = "checkpoint_phase";
    /// When it was saved.
    pub const CHECKPOINT_TIMESTAMP: &str = "checkpoint_timestamp";
    /// The phase that a workflow goes on from.
    pub const RESUME_PHASE: &str = "resume_phase";
    /// How long ago it was saved.
    pub const CHECKPOINT_AGE_SECONDS: &str = "checkpoint_age_seconds";
    /// `WARNING` or `ERROR`; absent otherwise.
    pub const LEVEL: &str = "level";
    /// What a person reads beside the level.
    pub const STATUS_MESSAGE: &str = "status_message";
    /// What the span is: `agent`, `chain`, `generation` or `event`; a plain span where absent.
    pub const OBSERVATION_TYPE: &str = "observation_type";
}

/// Names of the scores that layers give.
pub mod score {
    /// How far a swarm is degraded, 0 to 3.
    pub const DEGRADATION_LEVEL: &str = "degradation_level";
    /// Whether a fallback was asked; only where one was.
    pub const FALLBACK_USED: &str = "fallback_used";
    /// How many attempts a series took; only where it took more than one.
    pub const RETRY_ATTEMPTS: &str = "retry_attempts";
}

/// Values of the field `outcome`.
pub mod outcome {
    /// The call succeeded.
    pub const SUCCESS: &str = "success";
    /// The call failed.
    pub const FAILURE: &str = "failure";
    /// A circuit breaker did not let the call through.
    pub const REJECTED: &str = "rejected";
    /// The caller dropped the call.
    pub const CANCELLED: &str = "cancelled";
    /// The call panicked.
    pub const PANICKED: &str = "panicked";
}

/// Values of the field `level`.
pub mod level {
    /// Something failed and was made good.
    pub const WARNING: &str = "WARNING";
    /// The caller got a failure.
    pub const ERROR: &str = "ERROR";
}

pub(crate) use internal::{
    Labels, Scope, Spans, Telemetry, describe, json, outcome_of, record_failure, record_status,
};

/// What layers use to write the contract.
mod internal {
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

    /// The little JSON that spans need: a list of flat objects.
    pub(crate) mod json {
        use std::fmt::{self, Write as _};

        /// A JSON array of objects, written as it grows.
        #[derive(Debug, Clone)]
        pub(crate) struct List(String);

        /// Returns a JSON array of texts.
        #[cfg(feature = "swarm")]
        pub(crate) fn texts<'a>(texts: impl Iterator<Item = &'a str>) -> String {
            let mut list = String::from("[");
            for text in texts {
                list.push_str(if list.len() == 1 { "\"" } else { ",\"" });
                _ = Escaped(&mut list).write_str(text);
                list.push('"');
            }
            list.push(']');
            list
        }

        /// One object of a [`List`].
        #[derive(Debug)]
        pub(crate) struct Object<'a> {
            text: &'a mut String,
            empty: bool,
        }

        impl List {
            pub(crate) const fn new() -> Self {
                Self(String::new())
            }

            /// Adds an object.
            pub(crate) fn push(&mut self, fill: impl FnOnce(&mut Object<'_>)) {
                self.0.push(if self.0.is_empty() { '[' } else { ',' });
                self.0.push('{');
                fill(&mut Object { text: &mut self.0, empty: true });
                self.0.push('}');
            }

            /// Returns the array as text.
            pub(crate) fn into_text(mut self) -> String {
                self.0.push_str(if self.0.is_empty() { "[]" } else { "]" });
                self.0
            }
        }

        impl Object<'_> {
            pub(crate) fn number(&mut self, key: &str, value: usize) {
                self.key(key);
                _ = write!(self.text, "{value}");
            }

            pub(crate) fn text(&mut self, key: &str, value: &dyn fmt::Display) {
                self.key(key);
                self.text.push('"');
                _ = write!(Escaped(self.text), "{value}");
                self.text.push('"');
            }

            fn key(&mut self, key: &str) {
                if !self.empty {
                    self.text.push(',');
                }
                self.empty = false;
                _ = write!(self.text, "\"{key}\":");
            }
        }

        /// Writes text with the escapes of RFC 8259, section 7.
        struct Escaped<'a>(&'a mut String);

        impl fmt::Write for Escaped<'_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                for char in text.chars() {
                    match char {
                        '"' => self.0.push_str("\\\""),
                        '\\' => self.0.push_str("\\\\"),
                        '\n' => self.0.push_str("\\n"),
                        '\r' => self.0.push_str("\\r"),
                        '\t' => self.0.push_str("\\t"),
                        '\0'..='\u{1f}' => write!(self.0, "\\u{:04x}", u32::from(char))?,
                        _ => self.0.push(char),
                    }
                }
                Ok(())
            }
        }
    }
}
