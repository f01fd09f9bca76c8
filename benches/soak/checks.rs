//! What must hold after a run, however fast the machine is.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::run::Outcome;

/// How much the memory may grow over a run: the queue of spans may hold 64 MiB of it.
const GROWTH_KIB: u64 = 128 << 10;

/// One thing that must hold.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) holds: bool,
    pub(crate) found: String,
}

/// Looks whether everything holds that must.
pub(crate) fn all(outcome: &Outcome) -> Vec<Check> {
    vec![
        nothing_left("no task is left", Some(outcome.before.tasks), Some(outcome.after.tasks)),
        nothing_left(
            "no descriptor is left",
            outcome.before.descriptors,
            outcome.after.descriptors,
        ),
        memory(outcome),
        delivered(outcome),
        calls_traced(outcome),
        failures_traced(outcome),
    ]
}

fn nothing_left(name: &'static str, before: Option<u64>, after: Option<u64>) -> Check {
    let (Some(before), Some(after)) = (before, after) else {
        return Check { name, holds: true, found: "not known on this system".to_owned() };
    };
    Check {
        name,
        holds: after <= before,
        found: format!("{before} before the load, {after} after it"),
    }
}

fn memory(outcome: &Outcome) -> Check {
    let last = outcome.samples.last().unwrap_or(&outcome.after);
    let grown = last.rss_kib.unwrap_or(0).saturating_sub(outcome.before.rss_kib.unwrap_or(0));
    Check {
        name: "memory is bounded",
        holds: grown <= GROWTH_KIB,
        found: format!("{} MiB more at the end of the load than before it", grown >> 10),
    }
}

fn delivered(outcome: &Outcome) -> Check {
    let (stats, arrived) = (&outcome.stats, &outcome.arrived);
    let all_delivered = stats.dropped == 0 && stats.refused == 0 && stats.pending == 0;
    let found = format!(
        "{} made, {} delivered, {} dropped, {} refused, {} arrived, {} twice",
        stats.accepted + stats.dropped,
        stats.delivered,
        stats.dropped,
        stats.refused,
        arrived.spans,
        arrived.repeats
    );
    Check {
        name: "every span is delivered",
        holds: all_delivered
            && stats.delivered == stats.accepted
            && arrived.spans == stats.accepted
            && arrived.lost_batches == 0,
        found,
    }
}

fn calls_traced(outcome: &Outcome) -> Check {
    let (handled, agents) = (outcome.stack.handled, outcome.arrived.agents);
    Check {
        name: "every guarded call is traced",
        holds: handled == agents,
        found: format!("{handled} calls, {agents} traces"),
    }
}

fn failures_traced(outcome: &Outcome) -> Check {
    let seen: BTreeSet<u64> = outcome.failed_calls.iter().copied().collect();
    let traced: BTreeSet<u64> = outcome.arrived.failed_calls.iter().copied().collect();
    let missing: Vec<&u64> = seen.difference(&traced).collect();
    let mut found = format!(
        "{} failures seen by callers, {} traces with an ERROR, {} of them of calls seen to fail",
        seen.len(),
        outcome.arrived.failed_agents,
        seen.intersection(&traced).count()
    );
    if let Some(first) = missing.first() {
        found.push_str(&format!(", {} without a trace (the first is call {first})", missing.len()));
    }
    Check { name: "every failure is traced", holds: missing.is_empty(), found }
}
