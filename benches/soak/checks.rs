//! What must hold after a run, however fast the machine is.

use std::collections::BTreeSet;

use serde::Serialize;

use crate::{agent::Fault, run::Outcome, watch::Sample};

/// How much more memory an idle process may hold after the load than before it: what the allocator
/// keeps, whatever the load was ..
const GROWTH: u64 = 8 << 20;
/// .. a little per call ..
const GROWTH_PER_CALL: u64 = 64;
/// .. where delivery fell behind, what it kept for each span that waited at once ..
const GROWTH_PER_WAITING_SPAN: u64 = 512;
/// .. and where calls piled up, the buffers of each connection that was open at once.
const GROWTH_PER_CONNECTION: u64 = 32 << 10;

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
        load_reached(outcome),
        all_answered(outcome),
        right_failures(outcome),
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

fn load_reached(outcome: &Outcome) -> Check {
    let (bare, guarded) = (&outcome.loaded.bare, &outcome.loaded.guarded);
    let overload = bare.overload + guarded.overload;
    let not_reached = if overload > 0 { ": the load was not reached" } else { "" };
    Check {
        name: "the load is reached",
        holds: bare.due > 0 && guarded.due > 0 && overload == 0,
        found: format!(
            "{} bare and {} guarded calls were due, {overload} were not started{not_reached}",
            bare.due, guarded.due
        ),
    }
}

fn all_answered(outcome: &Outcome) -> Check {
    let (bare, guarded) = (outcome.loaded.bare.unanswered, outcome.loaded.guarded.unanswered);
    Check {
        name: "every call is answered",
        holds: bare == 0 && guarded == 0,
        found: format!("{bare} bare and {guarded} guarded calls were not"),
    }
}

/// What cannot be mended fails, and nothing else does.
fn right_failures(outcome: &Outcome) -> Check {
    let is_everywhere = |call: &&u64| Fault::of(**call).is_some_and(Fault::is_everywhere);
    let wrong = outcome.failed_calls.iter().filter(|call| !is_everywhere(call)).count();
    let (bare, guarded) = (&outcome.loaded.bare, &outcome.loaded.guarded);
    Check {
        name: "guarded calls fail where every agent fails",
        holds: wrong == 0 && bare.succeeded > 0 && guarded.succeeded > 0,
        found: format!("{} failed, {wrong} of them without need", outcome.failed_calls.len()),
    }
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

/// Compares the idle process after the load with the idle one before it.
fn memory(outcome: &Outcome) -> Check {
    let name = "memory is given back";
    let (Some(before), Some(after)) = (outcome.before.rss_kib, outcome.after.rss_kib) else {
        return Check { name, holds: true, found: "not known on this system".to_owned() };
    };
    let grown = after.saturating_sub(before) << 10;
    let calls = outcome.loaded.bare.due + outcome.loaded.guarded.due;
    let peak = |of: fn(&Sample) -> u64| outcome.samples.iter().map(of).max().unwrap_or(0);
    let waiting = peak(|sample| sample.waiting_spans);
    let open = peak(|sample| sample.descriptors.unwrap_or(0));
    let open = open.saturating_sub(outcome.before.descriptors.unwrap_or(0));
    let most = GROWTH
        + calls * GROWTH_PER_CALL
        + waiting * GROWTH_PER_WAITING_SPAN
        + open * GROWTH_PER_CONNECTION;
    Check {
        name,
        holds: grown <= most,
        found: format!(
            "{:.1} MiB more after the load than before it, at most {:.1} for {calls} calls, {waiting} \
             spans that waited and {open} connections that were open at once",
            mib(grown),
            mib(most)
        ),
    }
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
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
