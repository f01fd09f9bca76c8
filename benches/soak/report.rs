//! The report: a table for people, an object for programs.

use std::fmt::Write as _;

use buttress_benches::latency::Summary;
use serde_json::{Value, json};

use crate::{
    agent::SEED,
    args::Plan,
    load::{Calls, Loaded, MOST_IN_FLIGHT},
    run::Outcome,
    watch::Sample,
};

/// Writes the report for people.
pub(crate) fn table(plan: &Plan, outcome: &Outcome) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut text = format!(
        "soak: {} calls/s on each route for {:.1} s of {:.1} s, a fault in 10 % of calls (seed \
         {SEED}), {cores} cores\n",
        plan.rps,
        outcome.loaded.seconds,
        plan.time.as_secs_f64()
    );
    if !plan.langfuse_delay.is_zero() {
        _ = writeln!(text, "Langfuse answers after {:?}", plan.langfuse_delay);
    }
    routes(&mut text, &outcome.loaded);
    latencies(&mut text, &outcome.loaded);
    held(&mut text, outcome);
    stack(&mut text, outcome);
    checks(&mut text, outcome);
    text
}

fn routes(text: &mut String, loaded: &Loaded) {
    _ = writeln!(
        text,
        "\n{:<30} {:>9} {:>9} {:>11} {:>8} {:>11} {:>9}",
        "route", "calls", "answers/s", "succeeded %", "failed", "unanswered", "overload"
    );
    for (name, calls) in [("bare", &loaded.bare), ("guarded", &loaded.guarded)] {
        _ = writeln!(
            text,
            "{name:<30} {:>9} {:>9.1} {:>11.2} {:>8} {:>11} {:>9}",
            calls.due,
            calls.answers_per_second(loaded.seconds),
            calls.succeeded_percent(),
            calls.failed,
            calls.unanswered,
            calls.overload
        );
    }
    _ = writeln!(
        text,
        "  overload: not started, since {MOST_IN_FLIGHT} calls of the route were under way"
    );
}

fn latencies(text: &mut String, loaded: &Loaded) {
    _ = writeln!(
        text,
        "\n{:<30} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "latency in ms", "calls", "p50", "p99", "p99.9", "max"
    );
    let (bare, guarded) = (&loaded.bare, &loaded.guarded);
    compared(text, "calls without a fault", bare, guarded, |calls| &calls.fault_free);
    compared(text, "all calls", bare, guarded, |calls| &calls.all);
    row(text, "generator late by", &loaded.lag);
    text.push_str(
        "  from the intended start to the end of the answer, and no less than 10 s where there was\n  \
         none; added: guarded minus bare at the quantile, in the same process: what delivery\n  \
         computes beside the calls falls on both routes and is not in it\n",
    );
}

fn compared(text: &mut String, which: &str, bare: &Calls, guarded: &Calls, of: Of) {
    row(text, &format!("{which}: bare"), of(bare));
    row(text, &format!("{which}: guarded"), of(guarded));
    _ = write!(text, "{:<40}", format!("{which}: added"));
    match added(bare, guarded, of) {
        Some(added) => added.iter().for_each(|added| _ = write!(text, " {added:>+9.3}")),
        None => [(); 4].iter().for_each(|()| _ = write!(text, " {:>9}", "-")),
    }
    text.push('\n');
}

fn row(text: &mut String, name: &str, summary: &Summary) {
    _ = write!(text, "{name:<30} {:>9}", summary.calls);
    for figure in summary.figures() {
        _ = write!(text, " {figure:>9.3}");
    }
    text.push('\n');
}

/// Which of the latencies of a route.
type Of = fn(&Calls) -> &Summary;

/// Returns how much later the guarded route answers; nothing where one of the two never did.
fn added(bare: &Calls, guarded: &Calls, of: Of) -> Option<[f64; 4]> {
    let answers = |calls: &Calls| calls.answers() > 0 && of(calls).calls > 0;
    if !answers(bare) || !answers(guarded) {
        return None;
    }
    let (bare, guarded) = (of(bare).figures(), of(guarded).figures());
    Some(std::array::from_fn(|place| guarded[place] - bare[place]))
}

/// What the process held, in the columns of the table.
const HELD: [(&str, fn(&Sample) -> f64); 4] = [
    ("memory, MiB", |sample| float(sample.rss_kib.unwrap_or(0)) / 1024.0),
    ("descriptors", |sample| float(sample.descriptors.unwrap_or(0))),
    ("tasks", |sample| float(sample.tasks)),
    ("spans that wait", |sample| float(sample.waiting_spans)),
];

fn held(text: &mut String, outcome: &Outcome) {
    _ = writeln!(
        text,
        "\n{:<30} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "the server's process", "before", "first", "median", "last", "max", "after"
    );
    for (name, of) in HELD {
        _ = write!(text, "{name:<30} {:>9.1}", of(&outcome.before));
        for figure in spread(&outcome.samples, of) {
            let figure = figure.map_or("-".to_owned(), |figure| format!("{figure:.1}"));
            _ = write!(text, " {figure:>9}");
        }
        _ = writeln!(text, " {:>9.1}", of(&outcome.after));
    }
    if let Some(cores) = cores_used(&outcome.samples) {
        _ = writeln!(text, "  it computed on {cores:.2} cores");
    }
    _ = writeln!(
        text,
        "  {} samples in the load; before: warmed up, idle; after: every connection closed",
        outcome.samples.len()
    );
}

/// Returns the first, the median, the last and the greatest of the samples, where there are any.
fn spread(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> [Option<f64>; 4] {
    let figures: Vec<f64> = samples.iter().map(of).collect();
    let mut sorted = figures.clone();
    sorted.sort_by(f64::total_cmp);
    [figures.first(), sorted.get(sorted.len() / 2), figures.last(), sorted.last()]
        .map(Option::<&f64>::copied)
}

fn cores_used(samples: &[Sample]) -> Option<f64> {
    let (first, last) = (samples.first()?, samples.last()?);
    let seconds = last.seconds - first.seconds;
    (seconds > 0.0).then_some((last.cpu_seconds? - first.cpu_seconds?) / seconds)
}

fn stack(text: &mut String, outcome: &Outcome) {
    let (stack, stats) = (&outcome.stack, &outcome.stats);
    _ = writeln!(
        text,
        "\ncircuit: opened {} times, rejected {} attempts",
        stack.opened, stack.rejected
    );
    _ = writeln!(
        text,
        "Langfuse: {} spans made, {} delivered, {} dropped, {} refused; {} arrived, {} of them twice",
        stats.accepted + stats.dropped,
        stats.delivered,
        stats.dropped,
        stats.refused,
        outcome.arrived.spans,
        outcome.arrived.repeats
    );
    if let Some(why) = &outcome.undelivered {
        _ = writeln!(text, "  {why}");
    }
}

fn checks(text: &mut String, outcome: &Outcome) {
    text.push('\n');
    for check in &outcome.checks {
        let word = if check.holds { "ok" } else { "FAILED" };
        _ = writeln!(text, "{word:<7} {}: {}", check.name, check.found);
    }
    if outcome.interrupted {
        text.push_str("interrupted: this is what there was\n");
    }
}

/// Returns the report for programs.
pub(crate) fn json(plan: &Plan, outcome: &Outcome) -> Value {
    let loaded = &outcome.loaded;
    let route = |calls: &Calls| {
        let mut value = json!(calls);
        value["answers_per_second"] = json!(calls.answers_per_second(loaded.seconds));
        value["succeeded_percent"] = json!(calls.succeeded_percent());
        value
    };
    let added = |of| {
        added(&loaded.bare, &loaded.guarded, of).map(
            |[p50, p99, p999, max]| json!({ "p50": p50, "p99": p99, "p999": p999, "max": max }),
        )
    };
    json!({
        "rps": plan.rps,
        "planned_seconds": plan.time.as_secs_f64(),
        "seconds": loaded.seconds,
        "seed": SEED,
        "langfuse_delay_ms": plan.langfuse_delay.as_secs_f64() * 1e3,
        "interrupted": outcome.interrupted,
        "latency_unit": "ms",
        "bare": route(&loaded.bare),
        "guarded": route(&loaded.guarded),
        "added": {
            "fault_free": added(|calls| &calls.fault_free),
            "all": added(|calls| &calls.all),
        },
        "generator_lag": loaded.lag,
        "before": outcome.before,
        "samples": outcome.samples,
        "after": outcome.after,
        "cores_used": cores_used(&outcome.samples),
        "circuit": { "opened": outcome.stack.opened, "rejected": outcome.stack.rejected },
        "langfuse": {
            "made": outcome.stats.accepted + outcome.stats.dropped,
            "delivered": outcome.stats.delivered,
            "dropped": outcome.stats.dropped,
            "refused": outcome.stats.refused,
            "arrived": outcome.arrived.spans,
            "repeats": outcome.arrived.repeats,
            "agents": outcome.arrived.agents,
            "failed_agents": outcome.arrived.failed_agents,
            "undelivered": outcome.undelivered,
        },
        "failures_seen": outcome.failed_calls.len(),
        "checks": outcome.checks,
        "holds": outcome.holds(),
    })
}

impl Calls {
    pub(crate) const fn answers(&self) -> u64 {
        self.succeeded + self.failed
    }

    fn answers_per_second(&self, seconds: f64) -> f64 {
        if seconds > 0.0 { float(self.answers()) / seconds } else { 0.0 }
    }

    fn succeeded_percent(&self) -> f64 {
        if self.due > 0 { float(self.succeeded) / float(self.due) * 100.0 } else { 0.0 }
    }
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
const fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_added_to_a_side_without_answers() {
        let summary = Summary { calls: 3, p50: 2.0, ..Summary::default() };
        let answered = Calls { due: 3, succeeded: 3, all: summary, ..Calls::default() };
        let silent = Calls { due: 3, unanswered: 3, all: summary, ..Calls::default() };
        let all: Of = |calls| &calls.all;
        assert_eq!(added(&answered, &answered, all), Some([0.0; 4]));
        assert_eq!(added(&answered, &silent, all), None);
        assert_eq!(added(&silent, &answered, all), None);
        let mut text = String::new();
        compared(&mut text, "all calls", &answered, &silent, all);
        let last: Vec<&str> = text.lines().last().unwrap_or("").split_whitespace().collect();
        assert_eq!(last, ["all", "calls:", "added", "-", "-", "-", "-"]);
    }
}
