//! The figures for programs; `docs/cli.md` documents the keys, which stay.

use std::collections::BTreeMap;

use buttress_langfuse::statistics::{
    CallFigures, CircuitFigures, DegradationFigures, FailureFigures, FallbackFigures, Figures,
    RetryFigures, TimeoutFigures,
};
use serde_json::{Map, Value as Json, json};

use super::Counted;
use crate::{args::By, period::iso};

pub(super) fn of(counted: &Counted, by: Option<By>) -> Json {
    let statistics = &counted.statistics;
    let mut document = json!({
        "since": iso(counted.since),
        "until": iso(counted.until),
        "observations": statistics.observations,
        "first": statistics.first.map(iso),
        "last": statistics.last.map(iso),
        "truncated": counted.is_cut,
        "spool": counted.spool.as_ref().map(|folder| folder.display().to_string()),
        "sampled": statistics.is_sampled,
        "total": figures(&statistics.total),
    });
    if by == Some(By::Agent) {
        let agents = statistics.by_agent.iter().map(|(agent, of_agent)| {
            let mut row = Map::from_iter([("agent".to_owned(), named(agent))]);
            row.extend(figures(of_agent));
            Json::Object(row)
        });
        document["agents"] = agents.collect();
    }
    document
}

/// What is of no agent stands under null.
fn named(agent: &str) -> Json {
    if agent.is_empty() { Json::Null } else { agent.into() }
}

fn figures(figures: &Figures) -> Map<String, Json> {
    let failures = figures.failures.iter().map(failure);
    let sections = [
        ("calls", calls(&figures.calls)),
        ("retry", retry(&figures.retry)),
        ("fallback", fallback(&figures.fallback)),
        ("timeouts", timeouts(&figures.timeout)),
        ("circuits", figures.circuits.iter().map(circuit).collect()),
        ("degradation", degradation(&figures.degradation)),
        ("failures", failures.collect()),
    ];
    sections.into_iter().map(|(name, section)| (name.to_owned(), section)).collect()
}

fn calls(calls: &CallFigures) -> Json {
    json!({
        "all": count(calls.all),
        "answered": count(calls.answered),
        "failed": count(calls.failed),
        "rejected": count(calls.rejected),
        "panicked": count(calls.panicked),
        "cancelled": count(calls.cancelled),
        "unfinished": count(calls.unfinished),
        "availability": calls.availability(),
    })
}

fn retry(retry: &RetryFigures) -> Json {
    json!({
        "series": count(retry.series),
        "first_try": count(retry.first_try),
        "retried": count(retry.retried),
        "rescued": count(retry.rescued),
        "failed": count(retry.failed),
        "attempts": count(retry.attempts),
        "success_rate": retry.success_rate(),
        "average_attempts_needed": retry.average_attempts_needed(),
        "stops": counts(&retry.stops),
    })
}

fn fallback(fallback: &FallbackFigures) -> Json {
    json!({
        "chains": count(fallback.chains),
        "primary_failed": count(fallback.primary_failed),
        "rescued": count(fallback.rescued),
        "exhausted": count(fallback.exhausted),
        "rate": fallback.rate(),
        "levels": counts(&fallback.levels),
    })
}

fn timeouts(timeout: &TimeoutFigures) -> Json {
    json!({
        "calls": count(timeout.calls),
        "timed_out": count(timeout.timed_out),
        "rate": timeout.rate(),
    })
}

fn degradation(degradation: &DegradationFigures) -> Json {
    json!({
        "runs": count(degradation.runs),
        "full": count(degradation.full),
        "degraded": count(degradation.degraded),
        "minimal": count(degradation.minimal),
        "critical": count(degradation.critical),
        "rate": degradation.rate(),
        "average_success_rate": degradation.average_success_rate(),
        "failed_agents": counts(&degradation.failed_agents),
    })
}

fn circuit((name, circuit): (&String, &CircuitFigures)) -> Json {
    let seconds = circuit.time_in.iter();
    let seconds = seconds.map(|(state, time)| (state.clone(), json!(time.as_secs_f64())));
    json!({
        "circuit": name,
        "calls": count(circuit.calls),
        "rejected": count(circuit.rejected),
        "opened": count(circuit.opened()),
        "state": circuit.state,
        "since": circuit.since.map(iso),
        "seconds_in": seconds.collect::<Map<_, _>>(),
        "transitions": counts(&circuit.transitions),
    })
}

fn failure((kind, failures): (&String, &FailureFigures)) -> (String, Json) {
    let row = json!({ "calls": count(failures.calls), "attempts": count(failures.attempts) });
    (kind.clone(), row)
}

fn counts<K: ToString>(counts: &BTreeMap<K, f64>) -> Json {
    counts.iter().map(|(key, times)| (key.to_string(), count(*times))).collect()
}

/// Writes a count without a fraction: what was kept by chance stands for about so many.
fn count(count: f64) -> Json {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count is not negative, and a cast of what is too large gives the largest"
    )]
    let whole = count.round() as u64;
    whole.into()
}
