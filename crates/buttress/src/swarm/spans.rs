//! The spans, log lines and scores of a swarm.

use tracing::{Span, field::Empty};

use super::{DegradationLevel, Member, Settings, SwarmFailure, SwarmReport};
use crate::{
    Error, ErrorKind,
    telemetry::{
        self, Labels, Telemetry, describe, json, level, outcome, outcome_of, record_failure,
        record_status, score,
    },
};

pub(super) fn swarm<Req, T, R>(settings: &Settings<Req, T, R>) -> Telemetry {
    let (all, required) = (settings.members.len(), settings.required);
    Telemetry::open(|| {
        tracing::info_span!(
            target: telemetry::TARGET,
            telemetry::span::SWARM,
            otel.name = settings.span_name,
            observation_type = "chain",
            metadata = settings.labels.metadata(),
            required_agents_count = as_i64(required),
            optional_agents_count = as_i64(all - required),
            total_agents = as_i64(all),
            degradation_level = Empty,
            success_rate = Empty,
            successful_agents = Empty,
            failed_agents = Empty,
            failure_rate = Empty,
            threshold = Empty,
            outcome = Empty,
            failure_kind = Empty,
            error = Empty,
            error_type = Empty,
            level = Empty,
            status_message = Empty,
        )
    })
}

pub(super) fn agent<Req, T>(
    member: &Member<Req, T>,
    labels: &Labels,
    swarm: Option<&Span>,
) -> Telemetry {
    let Some(swarm) = swarm else { return Telemetry::default() };
    Telemetry::open(|| {
        tracing::info_span!(
            target: telemetry::TARGET,
            parent: swarm,
            telemetry::span::SWARM_AGENT,
            observation_type = "agent",
            agent_id = &*member.name,
            metadata = labels.metadata(),
            required = member.required,
            outcome = Empty,
            failure_kind = Empty,
            error = Empty,
            error_type = Empty,
            level = Empty,
            status_message = Empty,
        )
    })
}

/// Ends the span of an agent that failed, and logs it in the seed's words.
pub(super) fn agent_failed(telemetry: &mut Telemetry, id: &str, required: bool, error: &Error) {
    let text = describe(error);
    telemetry.in_scope(|| {
        if required {
            tracing::error!(target: telemetry::LOG_TARGET, "Required agent {id} failed: {text}");
        } else {
            tracing::warn!(target: telemetry::LOG_TARGET, "Optional agent {id} failed: {text}");
        }
    });
    telemetry.end(outcome_of(error.failure()), |span| {
        record_failure(span, error.failure(), &text);
        if required {
            let message = format_args!("Required agent {id} failed: {text}");
            record_status(span, level::ERROR, message);
        } else {
            let message = format_args!("Optional agent {id} failed: {text}");
            record_status(span, level::WARNING, message);
        }
    });
}

/// Writes what a report says into the span, which goes on, and scores its level.
pub(super) fn report<T>(telemetry: &Telemetry, report: &SwarmReport<T>) {
    let (degradation, rate) = (report.level(), report.success_rate());
    let percent = rate * 100.0;
    telemetry.score(
        score::DEGRADATION_LEVEL,
        degradation.as_i64(),
        format_args!("Success rate: {percent:.1}%"),
    );
    let Some(span) = telemetry.span() else { return };
    span.record("degradation_level", degradation.as_i64());
    span.record("success_rate", rate);
    span.record("successful_agents", as_i64(report.findings().len()));
    let failed = report.failures().iter().map(SwarmFailure::agent);
    span.record("failed_agents", json::texts(failed));
    if degradation != DegradationLevel::Full {
        record_status(span, level::WARNING, format_args!("Success rate: {percent:.1}%"));
    }
}

/// Ends the span of a swarm that answers.
pub(super) fn reported(telemetry: &mut Telemetry) {
    telemetry.end(outcome::SUCCESS, |_| ());
}

/// Ends the span of a swarm too many of whose agents have failed.
pub(super) fn critical(telemetry: &mut Telemetry, error: &Error) {
    telemetry.end(outcome::FAILURE, |span| {
        if let ErrorKind::CriticalDegradation { failures, failure_rate, threshold, .. } =
            error.kind()
        {
            let failed = failures.iter().map(SwarmFailure::agent);
            span.record("failed_agents", json::texts(failed));
            span.record("failure_rate", failure_rate);
            span.record("threshold", threshold);
        }
        record_failure(span, error.failure(), &describe(error));
        record_status(span, level::ERROR, format_args!("Too many required agents failed"));
    });
}

fn as_i64(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
