//! The spans of a run and of its nodes.

use std::{error::Error as _, fmt::Display};

use buttress::{
    Error, ErrorKind, Failure, FailureKind,
    telemetry::{TARGET, span},
};
use tracing::{Span, field::Empty};

use crate::{GraphError, GraphErrorKind};

/// A span that has one outcome, and ends when this is dropped; without one, it was cancelled.
#[derive(Debug)]
pub(crate) struct Ending {
    span: Span,
    has_outcome: bool,
}

pub(crate) fn graph(span_name: &str, workflow_id: &str) -> Ending {
    Ending::new(tracing::info_span!(
        target: TARGET,
        span::GRAPH,
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
    ))
}

pub(crate) fn node(span_name: &str, name: &str, workflow_id: &str, step: u64) -> Ending {
    Ending::new(tracing::info_span!(
        target: TARGET,
        span::NODE,
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
    ))
}

// ===== impl Ending =====

impl Ending {
    const fn new(span: Span) -> Self {
        Self { span, has_outcome: false }
    }

    /// Returns the span, to run a future in.
    pub(crate) fn span(&self) -> Span {
        self.span.clone()
    }

    pub(crate) fn record_step(&self, name: &str, number: u64) {
        self.span.record(name, as_i64(number));
    }

    /// Records where a node leads.
    pub(crate) fn leads<'a>(&self, to: impl Iterator<Item = &'a str>) {
        if !self.span.is_disabled() {
            self.span.record("route", to.collect::<Vec<_>>().join(","));
        }
    }

    pub(crate) fn succeeded(&mut self) {
        self.end("success");
    }

    /// Ends a node that failed.
    pub(crate) fn failed(&mut self, name: &str, error: &Error) {
        // It goes on with its run.
        if GraphError::is_drained(error) {
            self.end("success");
            return;
        }
        let text = text(error);
        let message = format!("Node {} failed: {text}", name.escape_debug());
        self.fails(error.failure(), &text, &message);
        self.end("failure");
    }

    /// Ends a run that has no result.
    pub(crate) fn stopped(&mut self, error: &GraphError) {
        let waits =
            matches!(error.kind(), GraphErrorKind::Interrupted { .. } | GraphErrorKind::Drained);
        if waits {
            self.end("success");
            return;
        }
        let (failure, text) = match error.cause() {
            Some(cause) => (cause.failure().clone(), format!("{error}: {}", text(cause))),
            None => (Failure::new(FailureKind::Permanent), error.to_string()),
        };
        self.fails(&failure, &text, &text);
        self.end("failure");
    }

    fn fails(&self, failure: &Failure, error: &dyn Display, message: &dyn Display) {
        let kind = failure.kind().as_str();
        self.span.record("failure_kind", kind);
        self.span.record("error", tracing::field::display(error));
        self.span.record("error_type", kind);
        self.span.record("level", "ERROR");
        self.span.record("status_message", tracing::field::display(message));
    }

    fn end(&mut self, outcome: &'static str) {
        if !std::mem::replace(&mut self.has_outcome, true) {
            self.span.record("outcome", outcome);
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.end(if std::thread::panicking() { "panicked" } else { "cancelled" });
    }
}

/// Says what an error is: the node's own where it is one, which stands behind ours.
fn text(error: &Error) -> String {
    match (error.kind(), error.source()) {
        (ErrorKind::Service, Some(own)) => own.to_string(),
        _ => error.to_string(),
    }
}

fn as_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
