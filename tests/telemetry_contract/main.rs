//! Walks the telemetry contract: what each layer tells Langfuse, once for a success and once for
//! each way to fail.
//!
//! Every trace goes over a socket to a server that behaves as Langfuse does, and is compared as a
//! whole: names, nesting, types, levels, sentences, and every key with its value. The clock is
//! paused, so delays and waits are exact.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

/// Names scenarios, for the test that runs all of them.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        pub(crate) const SCENARIOS: &[(&str, fn() -> Seen)] = &[$((stringify!($name), $name)),*];
    };
}

mod checkpoints;
mod graphs;
mod layers;
mod sample;
mod seen;
mod streams;
mod swarms;
mod users;

use std::collections::BTreeSet;

use self::seen::{check_rows, keys};

/// What every span may carry.
const EVERYWHERE: [&str; 6] =
    ["agent_id", "outcome", "failure_kind", "error", "error_type", "ticker"];

/// The rows: a span, its type in Langfuse, and the keys of its own.
const TABLE: [(&str, &str, &[&str]); 21] = [
    (
        "agent_research",
        "AGENT",
        &[
            "has_fallbacks",
            "timeout_seconds",
            "max_retries",
            "circuit_breaker_threshold",
            "success",
        ],
    ),
    (
        "circuit_breaker_call",
        "SPAN",
        &[
            "circuit_key",
            "circuit_state_at_start",
            "circuit_state",
            "failure_count",
            "success_count",
            "retry_after_seconds",
            "state_transition",
        ],
    ),
    (
        "retry_execution",
        "SPAN",
        &[
            "max_attempts",
            "retry_history",
            "retry_succeeded",
            "attempts_needed",
            "final_error",
            "stop",
        ],
    ),
    ("retry_attempt", "SPAN", &["attempt", "delay_seconds"]),
    ("timeout_protected_call", "SPAN", &["timeout_seconds"]),
    ("streamed_call", "SPAN", &["items", "first_item_seconds"]),
    (
        "fallback_chain",
        "SPAN",
        &[
            "total_agents",
            "fallback_history",
            "fallback_succeeded",
            "fallback_level",
            "primary_failed",
        ],
    ),
    ("fallback_attempt", "SPAN", &["agent_index", "agent_type"]),
    ("circuit_breaker.opened", "EVENT", &["circuit_key", "state_transition", "reason"]),
    ("circuit_breaker.half_opened", "EVENT", &["circuit_key", "state_transition", "reason"]),
    ("save_checkpoint", "SPAN", &["workflow_id", "phase", "checkpoint_file", "checkpoint_uri"]),
    ("load_checkpoint", "SPAN", &["workflow_id", "checkpoint_phase", "checkpoint_timestamp"]),
    ("resume_from_checkpoint", "SPAN", &["workflow_id", "resume_phase", "checkpoint_age_seconds"]),
    (
        "research_swarm_with_degradation",
        "CHAIN",
        &[
            "required_agents_count",
            "optional_agents_count",
            "total_agents",
            "degradation_level",
            "success_rate",
            "successful_agents",
            "failed_agents",
            "failure_rate",
            "threshold",
        ],
    ),
    ("swarm_agent", "AGENT", &["required"]),
    ("graph_trading", "CHAIN", &["workflow_id", "resumed_from", "steps"]),
    ("node_research", "CHAIN", &["workflow_id", "phase", "step", "route"]),
    ("node_gate", "CHAIN", &["workflow_id", "phase", "step", "route"]),
    ("circuit_breaker.closed", "EVENT", &["circuit_key", "state_transition", "reason"]),
    ("llm_call", "GENERATION", &[]),
    ("llm_call of an older program", "GENERATION", &[]),
];

/// The scenarios of each module.
const SCENARIOS: [(&str, &[(&str, fn() -> seen::Seen)]); 6] = [
    ("layers", layers::SCENARIOS),
    ("streams", streams::SCENARIOS),
    ("checkpoints", checkpoints::SCENARIOS),
    ("swarms", swarms::SCENARIOS),
    ("graphs", graphs::SCENARIOS),
    ("users", users::SCENARIOS),
];

/// Also leaves in `otlp-samples`, below cargo's target folder, what was sent in each scenario.
#[test]
fn every_key_of_the_table_is_recorded_by_some_scenario() {
    let mut seen: BTreeSet<(String, String)> = BTreeSet::new();
    let samples = sample::folder();
    for (module, scenarios) in SCENARIOS {
        for (name, scenario) in scenarios {
            let scenario = scenario();
            check_rows(&scenario.observations);
            sample::write(&samples.join(format!("{module}-{name}.in.json")), &scenario);
            for one in scenario.observations {
                seen.insert((one.name().to_owned(), String::new()));
                seen.extend(keys(&one).into_iter().map(|(key, _)| (one.name().to_owned(), key)));
            }
        }
    }
    for (name, _, own) in TABLE {
        for key in own.iter().copied().chain([""]) {
            let place = (name.to_owned(), key.to_owned());
            assert!(seen.contains(&place), "no scenario records {key:?} of {name}");
        }
    }
}

/// The words in a cell that are set as code.
fn codes(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The page for people has the same rows: whoever looks for a key there finds it, and finds no other.
#[test]
fn the_table_of_the_guide_is_this_one() {
    let page = buttress_tests::package().join("../docs/langfuse.md");
    let page = std::fs::read_to_string(page).unwrap();
    let section = page.split("\n## ").find(|one| one.starts_with("What every span becomes"));
    let rows: Vec<Vec<&str>> = section
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    let is_of = |row: &[&str], name: &str| {
        codes(row[1]).into_iter().any(|told| match (told.find('{'), told.find('}')) {
            (Some(start), Some(end)) => {
                name.starts_with(&told[..start]) && name.ends_with(&told[end + 1..])
            }
            // `.closed` stands behind `circuit_breaker.opened`.
            _ => told == name || (told.starts_with('.') && name.ends_with(told)),
        })
    };
    let mut told: Vec<BTreeSet<&str>> = vec![BTreeSet::new(); rows.len()];
    for (name, kind, own) in TABLE {
        let name = name.split(' ').next().unwrap();
        let row = rows.iter().position(|row| is_of(row, name));
        let row = row.unwrap_or_else(|| panic!("the guide lacks {name}"));
        assert_eq!(rows[row][2], kind.to_lowercase(), "{name}");
        told[row].extend(own);
    }
    for (row, recorded) in rows.iter().zip(told) {
        // An event of delivery: its tests make Langfuse lose spans.
        if codes(row[1]) == ["spans_dropped"] {
            continue;
        }
        let told: BTreeSet<&str> = codes(row[5]).into_iter().collect();
        assert_eq!(told, recorded, "{}", row[1]);
    }
}
