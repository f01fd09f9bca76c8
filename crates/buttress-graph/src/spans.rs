//! The spans of a run and of its nodes.

use std::fmt::Display;

use buttress::{Error, Failure, telemetry::TARGET};
use tracing::{Span, field::Empty};

use crate::{GraphError, GraphErrorKind};

/// A span that ends with an outcome; dropped without one, it was cancelled.
#[derive(Debug)]
pub(crate) struct Ending(Option<Span>);

pub(crate) fn graph(span_name: &str, workflow_id: &str) -> Ending {
    Ending(Some(tracing::info_span!(
        target: TARGET,
        "graph",
        otel.name = span_name,
        observation_type = "chain",
        workflow_id,
        resumed_from = Empty,
        steps = Empty,
        outcome = Empty,
        failure_kind = Empty,
        error = Empty,
        error_type = Empty,
        level = Empty,
        status_message = Empty,
    )))
}

pub(crate) fn node(span_name: &str, name: &str, workflow_id: &str, step: u64) -> Ending {
    Ending(Some(tracing::info_span!(
        target: TARGET,
        "node",
        otel.name = span_name,
        observation_type = "chain",
        workflow_id,
        phase = name,
        step = as_i64(step),
        route = Empty,
        outcome = Empty,
        failure_kind = Empty,
        error = Empty,
        error_type = Empty,
        level = Empty,
        status_message = Empty,
    )))
}

// ===== impl Ending =====

impl Ending {
    /// Returns the span, to run a future in.
    pub(crate) fn span(&self) -> Span {
        self.0.clone().unwrap_or_else(Span::none)
    }

    pub(crate) fn record_step(&self, name: &str, number: u64) {
        self.span().record(name, as_i64(number));
    }

    pub(crate) fn succeeded(mut self) {
        self.end("success");
    }

    /// Ends the span of a node that failed.
    pub(crate) fn failed(mut self, name: &str, error: &Error) {
        let message = format!("Node {} failed: {error}", name.escape_debug());
        self.fails(error.failure(), &message, "ERROR");
        self.end("failure");
    }

    /// Ends the span of a run that has no result.
    pub(crate) fn stopped(mut self, error: &GraphError) {
        let waits =
            matches!(error.kind(), GraphErrorKind::Interrupted { .. } | GraphErrorKind::Drained);
        if waits {
            self.end("success");
            return;
        }
        let failure = error.cause().map(|cause| cause.failure().clone());
        let failure = failure.unwrap_or_else(|| Failure::new(buttress::FailureKind::Permanent));
        self.fails(&failure, &error.to_string(), "ERROR");
        self.end("failure");
    }

    fn fails(&self, failure: &Failure, message: &dyn Display, level: &'static str) {
        let span = self.span();
        span.record("failure_kind", failure.kind().as_str());
        span.record("error", tracing::field::display(message));
        span.record("error_type", failure.kind().as_str());
        span.record("level", level);
        span.record("status_message", tracing::field::display(message));
    }

    fn end(&mut self, outcome: &'static str) {
        if let Some(span) = self.0.take() {
            span.record("outcome", outcome);
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.end(if std::thread::panicking() { "panicked" } else { "cancelled" });
    }
}

fn as_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
