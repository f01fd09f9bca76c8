use std::time::Duration;

use serde_json::{Value as Json, json};

use super::*;

/// An observation that began so many milliseconds after the start of the test's time.
fn at(after: u64, id: &str, name: &str, metadata: Json) -> Observation {
    let start = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000 + after);
    let mut one = Observation::new("t", id, name, start);
    let Json::Object(metadata) = metadata else { panic!("metadata is an object") };
    one.metadata = metadata.into_iter().collect();
    one
}

fn within(parent: &str, mut one: Observation) -> Observation {
    one.parent_id = Some(parent.to_owned());
    one
}

fn series(id: &str, outcome: &str, attempts: impl Into<Json>) -> Observation {
    let attempts: Json = attempts.into();
    let metadata = json!({"outcome": outcome, "attempts_needed": attempts, "stop": "attempts"});
    at(0, id, "retry_execution", metadata)
}

fn total(observations: Vec<Observation>) -> Figures {
    Statistics::of(observations).total
}

#[test]
fn of_nothing_every_figure_is_none_and_none_is_divided_by_zero() {
    let statistics = Statistics::of(Vec::new());
    assert!(statistics.is_empty());
    let Figures { calls, retry, fallback, timeout, circuits, degradation, failures } =
        statistics.total;
    assert_eq!(calls.availability(), None);
    assert_eq!((retry.success_rate(), retry.average_attempts_needed()), (None, None));
    assert_eq!((fallback.rate(), timeout.rate(), degradation.rate()), (None, None, None));
    assert_eq!(degradation.average_success_rate(), None);
    assert!(circuits.is_empty() && failures.is_empty() && fallback.levels.is_empty());
}

#[test]
fn what_others_made_is_passed_over() {
    let others = at(0, "a", "GET /", json!({"outcome": "delivered"}));
    assert!(Statistics::of(vec![others]).is_empty());
}

#[test]
fn a_success_at_the_first_attempt_is_no_success_of_the_retry() {
    let retry = total(vec![
        series("a", "success", 1),
        series("b", "success", 2),
        // As some servers write numbers.
        series("c", "success", "4"),
        series("d", "failure", 3),
        series("e", "failure", 1),
        series("f", "cancelled", 1),
    ])
    .retry;
    assert_eq!((retry.series, retry.first_try, retry.retried, retry.rescued), (6.0, 1.0, 3.0, 2.0));
    assert_eq!(retry.success_rate(), Some(2.0 / 3.0));
    assert_eq!(retry.average_attempts_needed(), Some(3.0));
    assert_eq!((retry.attempts, retry.failed), (12.0, 2.0));
    assert_eq!(retry.stops["attempts"], 6.0);
}

#[test]
fn series_of_one_attempt_alone_have_no_success_rate() {
    let retry = total(vec![series("a", "success", 1)]).retry;
    assert_eq!((retry.success_rate(), retry.average_attempts_needed()), (None, None));
}

#[test]
fn fallbacks_are_counted_by_who_answered() {
    let chain = |id: &str, metadata: Json| at(0, id, "fallback_chain", metadata);
    let fallback = total(vec![
        chain("a", json!({"outcome": "success", "fallback_level": 0, "primary_failed": false})),
        chain("b", json!({"outcome": "success", "fallback_level": 1, "primary_failed": true})),
        chain("c", json!({"outcome": "success", "fallback_level": 2, "primary_failed": "true"})),
        chain(
            "d",
            json!({"outcome": "failure", "fallback_succeeded": false, "primary_failed": true}),
        ),
        chain("e", json!({"outcome": "cancelled"})),
        // It has nobody to fall back to.
        chain("f", json!({"outcome": "failure", "total_agents": 1})),
    ])
    .fallback;
    assert_eq!((fallback.chains, fallback.rescued, fallback.exhausted), (5.0, 2.0, 1.0));
    assert_eq!((fallback.rate(), fallback.primary_failed), (Some(0.4), 3.0));
    assert_eq!(fallback.levels, BTreeMap::from([(0, 1.0), (1, 1.0), (2, 1.0)]));
}

#[test]
fn a_limit_that_ran_out_is_told_from_one_that_passes_a_timeout_on() {
    let metadata = json!({"outcome": "failure", "failure_kind": "timeout"});
    let mut inner = within("outer", at(1, "inner", "timeout_protected_call", metadata.clone()));
    inner.level = Level::Error;
    let outer = at(0, "outer", "timeout_protected_call", metadata);
    let timeout = total(vec![outer, inner]).timeout;
    assert_eq!((timeout.calls, timeout.timed_out, timeout.rate()), (2.0, 1.0, Some(0.5)));
}

#[test]
fn degradation_is_counted_by_level() {
    let run = |id: &str, metadata: Json| at(0, id, "research_swarm_with_degradation", metadata);
    let degradation = total(vec![
        run("a", json!({"outcome": "success", "degradation_level": 0, "success_rate": 1, "failed_agents": []})),
        run("b", json!({"outcome": "success", "degradation_level": 1, "success_rate": 0.6, "failed_agents": ["news", "mood"]})),
        run("c", json!({"outcome": "success", "degradation_level": "2", "success_rate": "0.2", "failed_agents": r#"["news"]"#})),
        run("d", json!({"outcome": "failure", "failure_rate": 0.5, "failed_agents": ["news"]})),
        run("e", json!({"outcome": "cancelled"})),
    ])
    .degradation;
    let levels = (degradation.full, degradation.degraded, degradation.minimal);
    assert_eq!((levels, degradation.critical, degradation.runs), ((1.0, 1.0, 1.0), 1.0, 5.0));
    assert_eq!(degradation.rate(), Some(0.6));
    let average = degradation.average_success_rate().unwrap();
    assert!((average - 0.6).abs() < 1e-9, "{average}");
    let failed = BTreeMap::from([("mood".to_owned(), 1.0), ("news".to_owned(), 3.0)]);
    assert_eq!(degradation.failed_agents, failed);
}

#[test]
fn a_call_is_what_stands_outermost_and_failures_are_what_callers_saw() {
    let outcome = |outcome: &str, kind: &str| json!({"outcome": outcome, "failure_kind": kind});
    let figures = total(vec![
        at(0, "root", "agent_a", json!({"outcome": "success"})),
        within("root", at(1, "chain", "fallback_chain", json!({"outcome": "success"}))),
        within("chain", at(2, "one", "retry_attempt", outcome("failure", "transient"))),
        within("chain", at(3, "two", "retry_attempt", outcome("rejected", "circuit_open"))),
        at(4, "lost", "agent_a", outcome("failure", "rate_limited")),
        at(5, "shut", "circuit_breaker_call", outcome("rejected", "circuit_open")),
        at(6, "left", "agent_a", json!({"outcome": "cancelled"})),
        at(7, "bad", "agent_a", outcome("panicked", "panicked")),
        at(8, "odd", "agent_a", json!({"outcome": "failure"})),
        // Nobody's call: a store, and a circuit that somebody tripped.
        at(9, "save", "save_checkpoint", json!({"outcome": "success"})),
    ]);
    let calls = &figures.calls;
    assert_eq!((calls.all, calls.answered, calls.failed), (6.0, 1.0, 2.0));
    assert_eq!((calls.rejected, calls.panicked, calls.cancelled), (1.0, 1.0, 1.0));
    assert_eq!(calls.availability(), Some(1.0 / 6.0));
    let failures: Vec<_> = figures
        .failures
        .iter()
        .map(|(kind, failures)| (kind.as_str(), failures.calls, failures.attempts))
        .collect();
    let expected = [
        ("circuit_open", 1.0, 1.0),
        ("panicked", 1.0, 0.0),
        ("rate_limited", 1.0, 0.0),
        ("transient", 0.0, 1.0),
        ("unknown", 1.0, 0.0),
    ];
    assert_eq!(failures, expected);
}

#[test]
fn a_call_may_stand_in_what_others_made_but_not_in_what_was_not_read() {
    let mut http = at(0, "http", "POST /ask", json!({}));
    http.is_root = true;
    let inside = within("http", at(1, "agent", "agent_a", json!({"outcome": "success"})));
    let mut joined = within("elsewhere", at(2, "joined", "agent_a", json!({"outcome": "success"})));
    joined.is_root = true;
    // Its parent began before the period.
    let cut = within("before", at(3, "cut", "retry_execution", json!({"outcome": "success"})));
    assert_eq!(total(vec![http, inside, joined, cut]).calls.all, 2.0);
}

#[test]
fn by_agent_a_call_is_what_stands_outermost_of_it() {
    let of = |agent: &str| json!({"outcome": "success", "agent_id": agent});
    let statistics = Statistics::of(vec![
        at(0, "graph", "graph_trading", json!({"outcome": "success"})),
        within("graph", at(1, "a", "agent_a", of("a"))),
        within("a", at(2, "chain", "fallback_chain", of("a"))),
        // It says no agent and is of the one around it.
        within("chain", at(3, "series", "retry_execution", json!({"outcome": "success"}))),
        within("chain", at(4, "b", "agent_b", of("b"))),
    ]);
    assert_eq!(statistics.total.calls.all, 1.0);
    let calls: Vec<_> = statistics
        .by_agent
        .iter()
        .map(|(agent, figures)| (agent.as_str(), figures.calls.all, figures.retry.series))
        .collect();
    assert_eq!(calls, [("", 1.0, 0.0), ("a", 1.0, 1.0), ("b", 1.0, 0.0)]);
}

#[test]
fn circles_and_what_is_its_own_parent_end() {
    let outcome = json!({"outcome": "success"});
    let statistics = Statistics::of(vec![
        within("b", at(0, "a", "agent_a", outcome.clone())),
        within("a", at(1, "b", "agent_b", outcome.clone())),
        within("c", at(2, "c", "agent_c", outcome)),
    ]);
    assert_eq!(statistics.observations, 3);
}

fn event(after: u64, id: &str, transition: &str) -> Observation {
    let metadata =
        json!({"circuit_key": "gpt", "outcome": "success", "state_transition": transition});
    let mut one = at(after, id, "circuit_breaker.opened", metadata);
    one.kind = "EVENT".to_owned();
    one
}

fn through(after: u64, takes: u64, id: &str, state: &str, outcome: &str) -> Observation {
    let metadata = json!({
        "circuit_key": "gpt", "outcome": outcome, "circuit_state_at_start": state,
        "circuit_state": state,
    });
    let mut one = at(after, id, "circuit_breaker_call", metadata);
    one.end = Some(one.start + Duration::from_millis(takes));
    one
}

#[test]
fn time_in_each_state_is_between_the_signs_of_a_circuit() {
    let circuits = total(vec![
        event(60_000, "3", "HALF_OPEN -> CLOSED"),
        through(0, 5, "a", "closed", "success"),
        event(20_000, "1", "CLOSED -> OPEN"),
        through(30_000, 0, "b", "open", "rejected"),
        event(50_000, "2", "OPEN -> HALF_OPEN"),
        through(90_000, 10_000, "c", "closed", "success"),
    ])
    .circuits;
    let gpt = &circuits["gpt"];
    let seconds = |state: &str| gpt.time_in[state].as_secs_f64();
    assert_eq!((seconds("closed"), seconds("open"), seconds("half_open")), (60.0, 30.0, 10.0));
    assert_eq!((gpt.calls, gpt.rejected, gpt.opened()), (3.0, 1.0, 1.0));
    let transitions: Vec<_> = gpt.transitions.keys().map(String::as_str).collect();
    assert_eq!(transitions, ["closed -> open", "half_open -> closed", "open -> half_open"]);
    let since = SystemTime::UNIX_EPOCH + Duration::from_millis(1_060_000);
    assert_eq!((gpt.state.as_deref(), gpt.since), (Some("closed"), Some(since)));
}

#[test]
fn a_circuit_that_is_only_seen_to_change_was_in_its_first_state_for_no_time() {
    let circuits = total(vec![event(5_000, "1", "CLOSED -> OPEN")]).circuits;
    let gpt = &circuits["gpt"];
    assert_eq!(gpt.time_in.values().sum::<Duration>(), Duration::ZERO);
    assert_eq!((gpt.state.as_deref(), gpt.opened()), (Some("open"), 1.0));
}

#[test]
fn a_late_answer_of_an_older_state_moves_nothing() {
    let circuits = total(vec![
        through(0, 30_000, "slow", "closed", "success"),
        event(10_000, "1", "CLOSED -> OPEN"),
    ])
    .circuits;
    let gpt = &circuits["gpt"];
    assert_eq!(gpt.state.as_deref(), Some("open"));
    assert_eq!(gpt.time_in["closed"], Duration::from_secs(10));
    assert_eq!(gpt.time_in["open"], Duration::from_secs(20));
}

#[test]
fn what_came_twice_counts_once() {
    let one = series("a", "success", 2);
    let statistics = Statistics::of(vec![one.clone(), one]);
    assert_eq!((statistics.observations, statistics.total.retry.series), (1, 1.0));
}

#[test]
fn what_was_kept_by_chance_counts_for_what_was_not() {
    let mut root = at(0, "root", "agent_a", json!({"outcome": "success", "sample_rate": 0.25}));
    root.trace_id = "kept".to_owned();
    let mut child = within("root", series("child", "success", 2));
    child.trace_id = "kept".to_owned();
    let failed = series("failed", "failure", 3);
    let statistics = Statistics::of(vec![root, child, failed]);
    assert!(statistics.is_sampled);
    let Figures { calls, retry, .. } = statistics.total;
    assert_eq!((calls.all, calls.answered), (5.0, 4.0));
    assert_eq!((retry.retried, retry.success_rate()), (5.0, Some(0.8)));
    // A rate that is none is none.
    let odd = at(0, "odd", "agent_a", json!({"outcome": "success", "sample_rate": 0}));
    assert!(!Statistics::of(vec![odd]).is_sampled);
}
