//! What the spans of the contract come to in numbers, for the `metrics` facade.

use std::{
    borrow::Cow,
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use metrics::{
    Label, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use tracing::{
    Subscriber,
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    layer::{Context, Layer},
    registry::LookupSpan,
};

use super::{
    Observe, ObserveLayer, Observed,
    circuits::{Circuits, Sign},
};
use crate::telemetry::{self, key, outcome, span};

/// Counts what the layers do, for the recorder of the `metrics` facade.
///
/// Names and attributes are those of OpenTelemetry's conventions: a word for each level, seconds, and
/// `error.type` where there is an error, the kind of failure in snake case. What an exporter makes of the
/// names is its own: metrics-exporter-prometheus writes `buttress_agent_calls`, and
/// `buttress_agent_calls_total` only after `with_recommended_naming(true)`, which adds units as well.
///
/// | name | kind | attributes |
/// |---|---|---|
/// | `buttress.agent.calls` | counter | `agent`, `outcome`, `error.type` |
/// | `buttress.agent.duration` | histogram, s | `agent`, `outcome` |
/// | `buttress.retry.attempts` | counter | `agent`, `outcome`, `error.type` |
/// | `buttress.retry.attempt.duration` | histogram, s | `agent`, `outcome` |
/// | `buttress.retry.series` | counter | `agent`, `result`, `stop` where it ended without success |
/// | `buttress.circuit_breaker.calls` | counter | `circuit`, `outcome` |
/// | `buttress.circuit_breaker.state` | gauge | `circuit`; 0 closed, 1 half-open, 2 open |
/// | `buttress.circuit_breaker.transitions` | counter | `circuit`, `transition` |
/// | `buttress.timeout.calls` | counter | `agent`, `outcome`: `timeout` where its own limit ran out |
/// | `buttress.fallback.calls` | counter | `agent`, `outcome`, `level` |
/// | `buttress.swarm.calls` | counter | `swarm`, `outcome`, `level` |
/// | `buttress.swarm.degradation_level` | gauge, of the last call | `swarm` |
/// | `buttress.swarm.agent.calls` | counter | `agent`, `outcome`, `error.type` |
/// | `buttress.stream.calls` | counter | `agent`, `outcome`: `interrupted` after an item; `error.type` |
/// | `buttress.stream.duration` | histogram, s | `agent`, `outcome` |
/// | `buttress.stream.items` | counter | `agent` |
/// | `buttress.stream.first_item.duration` | histogram, s | `agent` |
/// | `buttress.graph.runs` | counter | `graph`, `outcome` |
/// | `buttress.graph.node.duration` | histogram, s | `node`, `outcome` |
/// | `buttress.checkpoint.calls` | counter | `operation`, `outcome` |
/// | `buttress.checkpoint.duration` | histogram, s | `operation` |
///
/// The `result` of a series is `first` (its first attempt succeeded), `rescued` (a later one did),
/// `failed` (none of several did, or its caller gave up meanwhile) or `not_retried` (only one was made, in
/// vain). So retry success, as `buttress stats` counts it, is `rescued` by `rescued` and `failed`. `stop`
/// is the reason of the last: `attempts`, `not_retryable`, `deadline`, `budget`, `retry_after_over_cap`.
///
/// The state of a circuit is the newest that was told. Changes are told as they happen, but for
/// `disable()` and `metrics_only()`: those, which count as closed, are known from the next call on. A
/// call that began before a change says nothing any more.
///
/// Install the recorder before the layer is made, which describes the instruments. The layer is one of
/// a `tracing` subscriber that enables the target `buttress` at level INFO; the layers of services
/// themselves know nothing of it. A circuit's state is known from its first call or change on.
///
/// # Defaults
///
/// - `most_values`: 1,000 values of `agent`, `circuit`, `swarm`, `graph` and `node` each; further ones
///   are counted under `other`, since keys of circuits may come from requests
///
/// # Examples
///
/// ```
/// use buttress::observe::MetricsLayer;
/// use tracing_subscriber::layer::SubscriberExt;
///
/// let subscriber = tracing_subscriber::registry().with(MetricsLayer::new().most_values(200));
/// # drop(subscriber);
/// ```
#[derive(Debug)]
pub struct MetricsLayer {
    observe: ObserveLayer<Meter>,
}

#[derive(Debug)]
struct Meter {
    most_values: usize,
    agents: Known,
    circuits: Circuits,
    swarms: Known,
    graphs: Known,
    nodes: Known,
}

/// The values of an attribute that were seen.
#[derive(Debug, Default)]
struct Known(Mutex<HashSet<String>>);

/// Where further values are counted.
const OTHER: &str = "other";
/// The agent of a span that has none.
const NOBODY: &str = "unknown";

/// The states of a circuit, as numbers.
const CLOSED: f64 = 0.0;
const HALF_OPEN: f64 = 1.0;
const OPEN: f64 = 2.0;

// ===== impl MetricsLayer =====

impl MetricsLayer {
    /// Creates the layer, and describes its instruments to the recorder that is installed.
    #[must_use]
    pub fn new() -> Self {
        describe();
        let meter = Meter {
            most_values: 1_000,
            agents: Known::default(),
            circuits: Circuits::default(),
            swarms: Known::default(),
            graphs: Known::default(),
            nodes: Known::default(),
        };
        Self { observe: ObserveLayer::new(meter) }
    }

    /// Sets how many values each attribute may have.
    ///
    /// # Panics
    ///
    /// If the number is zero.
    #[must_use]
    #[track_caller]
    pub fn most_values(mut self, values: usize) -> Self {
        assert!(values > 0, "most_values must be at least 1");
        self.observe.observer.most_values = values;
        self
    }
}

impl Default for MetricsLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for MetricsLayer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        self.observe.on_new_span(attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        self.observe.on_record(id, values, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        self.observe.on_close(id, context);
    }
}

fn describe() {
    describe_counter!("buttress.agent.calls", Unit::Count, "Calls of agents.");
    describe_histogram!("buttress.agent.duration", Unit::Seconds, "Time of a call of an agent.");
    describe_counter!("buttress.retry.attempts", Unit::Count, "Attempts of retried calls.");
    describe_histogram!("buttress.retry.attempt.duration", Unit::Seconds, "Time of an attempt.");
    describe_counter!("buttress.retry.series", Unit::Count, "Calls through a retry.");
    describe_counter!(
        "buttress.circuit_breaker.calls",
        Unit::Count,
        "Calls through circuit breakers."
    );
    describe_gauge!(
        "buttress.circuit_breaker.state",
        "State of a circuit: 0 closed, 1 half-open, 2 open."
    );
    describe_counter!(
        "buttress.circuit_breaker.transitions",
        Unit::Count,
        "Changes of the state of circuits."
    );
    describe_counter!("buttress.timeout.calls", Unit::Count, "Calls under a time limit.");
    describe_counter!("buttress.fallback.calls", Unit::Count, "Calls through a fallback chain.");
    describe_counter!("buttress.swarm.calls", Unit::Count, "Calls of swarms.");
    describe_gauge!("buttress.swarm.degradation_level", "Degradation of a swarm's last call.");
    describe_counter!("buttress.swarm.agent.calls", Unit::Count, "Calls of agents in swarms.");
    describe_counter!("buttress.stream.calls", Unit::Count, "Streamed answers.");
    describe_histogram!(
        "buttress.stream.duration",
        Unit::Seconds,
        "Time from a call to the end of its streamed answer."
    );
    describe_counter!("buttress.stream.items", Unit::Count, "Items of streamed answers.");
    describe_histogram!(
        "buttress.stream.first_item.duration",
        Unit::Seconds,
        "Time until the first item of a streamed answer."
    );
    describe_counter!("buttress.graph.runs", Unit::Count, "Runs of graphs.");
    describe_histogram!("buttress.graph.node.duration", Unit::Seconds, "Time of a node's call.");
    describe_counter!("buttress.checkpoint.calls", Unit::Count, "Saves and loads of checkpoints.");
    describe_histogram!("buttress.checkpoint.duration", Unit::Seconds, "Time of a save or load.");
}

// ===== impl Known =====

impl Known {
    /// Returns the value to count under.
    fn value(&self, value: &str, most: usize) -> Cow<'static, str> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(value) {
            return value.to_owned().into();
        }
        if known.len() >= most {
            return OTHER.into();
        }
        known.insert(value.to_owned());
        value.to_owned().into()
    }
}

// ===== impl Meter =====

impl Observe for Meter {
    fn observe(&self, seen: &Observed) {
        let outcome = seen.str(key::OUTCOME).unwrap_or(outcome::CANCELLED).to_owned();
        match seen.name() {
            span::AGENT => {
                let labels = self.labels(seen, &outcome);
                counter!("buttress.agent.calls", with_kind(&labels, seen)).increment(1);
                histogram!("buttress.agent.duration", labels).record(seen.took());
            }
            span::RETRY_ATTEMPT => {
                let labels = self.labels(seen, &outcome);
                counter!("buttress.retry.attempts", with_kind(&labels, seen)).increment(1);
                histogram!("buttress.retry.attempt.duration", labels).record(seen.took());
            }
            span::RETRY => {
                let mut labels = vec![
                    Label::new("agent", self.agent(seen)),
                    Label::new("result", result_of(seen, &outcome)),
                ];
                if outcome != outcome::SUCCESS
                    && let Some(stop) = seen.str("stop")
                {
                    labels.push(Label::new("stop", stop.to_owned()));
                }
                counter!("buttress.retry.series", labels).increment(1);
            }
            span::CIRCUIT_BREAKER => {
                let sign = Sign::Call(seen.str("circuit_state").and_then(number_of));
                let circuit = self.circuit(seen, sign);
                counter!("buttress.circuit_breaker.calls", "circuit" => circuit, "outcome" => outcome)
                    .increment(1);
            }
            span::CIRCUIT_OPENED => self.transition(seen, OPEN),
            span::CIRCUIT_HALF_OPENED => self.transition(seen, HALF_OPEN),
            span::CIRCUIT_CLOSED => self.transition(seen, CLOSED),
            span::TIMEOUT => {
                let outcome = if ran_out(seen) { "timeout" } else { &outcome };
                counter!("buttress.timeout.calls", self.labels(seen, outcome)).increment(1);
            }
            span::FALLBACK => {
                let level = level(seen.i64("fallback_level"));
                counter!("buttress.fallback.calls", "agent" => self.agent(seen), "outcome" => outcome, "level" => level)
                    .increment(1);
            }
            span::SWARM => self.swarm(seen, outcome),
            span::SWARM_AGENT => {
                let labels = self.labels(seen, &outcome);
                counter!("buttress.swarm.agent.calls", with_kind(&labels, seen)).increment(1);
            }
            span::STREAM => self.stream(seen, &outcome),
            span::GRAPH => {
                let graph = self.graphs.value(seen.otel_name(), self.most_values);
                counter!("buttress.graph.runs", "graph" => graph, "outcome" => outcome)
                    .increment(1);
            }
            span::NODE => {
                let node = self.nodes.value(seen.otel_name(), self.most_values);
                histogram!("buttress.graph.node.duration", "node" => node, "outcome" => outcome)
                    .record(seen.took());
            }
            operation @ (span::SAVE_CHECKPOINT
            | span::LOAD_CHECKPOINT
            | span::RESUME_FROM_CHECKPOINT) => {
                counter!("buttress.checkpoint.calls", "operation" => operation, "outcome" => outcome)
                    .increment(1);
                histogram!("buttress.checkpoint.duration", "operation" => operation)
                    .record(seen.took());
            }
            _ => {}
        }
    }
}

impl Meter {
    fn agent(&self, seen: &Observed) -> Cow<'static, str> {
        self.agents.value(seen.agent_id().unwrap_or(NOBODY), self.most_values)
    }

    /// Returns what most instruments count by.
    fn labels(&self, seen: &Observed, outcome: &str) -> Vec<Label> {
        let agent = Label::new("agent", self.agent(seen));
        vec![agent, Label::new("outcome", outcome.to_owned())]
    }

    /// Takes over what a span tells of a circuit; returns the name to count under.
    fn circuit(&self, seen: &Observed, sign: Sign) -> Cow<'static, str> {
        let name = seen.str("circuit_key").unwrap_or(NOBODY);
        // Of the many that share one name nobody could tell whose state it is.
        let is_known = self.circuits.take_over(name, self.most_values, seen.place(), sign);
        if is_known { name.to_owned().into() } else { OTHER.into() }
    }

    fn transition(&self, seen: &Observed, state: f64) {
        let circuit = self.circuit(seen, Sign::Change(state));
        let transition = seen.str("state_transition").unwrap_or_default().to_owned();
        counter!("buttress.circuit_breaker.transitions", "circuit" => circuit, "transition" => transition)
            .increment(1);
    }

    fn swarm(&self, seen: &Observed, outcome: String) {
        let name = seen.otel_name();
        let name = name.strip_suffix("_with_degradation").unwrap_or(name);
        let swarm = self.swarms.value(name, self.most_values);
        let degradation = seen.i64("degradation_level");
        let level = level(degradation);
        counter!("buttress.swarm.calls", "swarm" => swarm.clone(), "outcome" => outcome, "level" => level)
            .increment(1);
        if let Some(degradation) = degradation.filter(|_| swarm != OTHER) {
            #[expect(clippy::cast_precision_loss, reason = "there are four levels")]
            gauge!("buttress.swarm.degradation_level", "swarm" => swarm).set(degradation as f64);
        }
    }

    fn stream(&self, seen: &Observed, outcome: &str) {
        let agent = self.agent(seen);
        if let Some(time) = seen.f64("first_item_seconds") {
            histogram!("buttress.stream.first_item.duration", "agent" => agent.clone())
                .record(time);
        }
        let items = seen.i64("items").unwrap_or(0).unsigned_abs();
        counter!("buttress.stream.items", "agent" => agent).increment(items);
        // After an item nothing is tried again: what was handed on is all that its reader gets.
        let is_interrupted = items > 0 && outcome == outcome::FAILURE;
        let outcome = if is_interrupted { "interrupted" } else { outcome };
        let labels = self.labels(seen, outcome);
        counter!("buttress.stream.calls", with_kind(&labels, seen)).increment(1);
        histogram!("buttress.stream.duration", labels).record(seen.took());
    }
}

/// Returns the number of a circuit's state.
fn number_of(state: &str) -> Option<f64> {
    match state {
        // Of the last two neither lets a failure do anything.
        "closed" | "disabled" | "metrics_only" => Some(CLOSED),
        "half_open" => Some(HALF_OPEN),
        "open" | "forced_open" => Some(OPEN),
        _ => None,
    }
}

/// Returns what a series of attempts came to, as the statistics of Langfuse count it.
fn result_of(seen: &Observed, outcome: &str) -> &'static str {
    let is_retried = seen.i64("attempts_needed").unwrap_or(0) > 1;
    match (outcome == outcome::SUCCESS, is_retried) {
        (true, false) => "first",
        (true, true) => "rescued",
        (false, true) => "failed",
        (false, false) => "not_retried",
    }
}

/// Tells whether a call's own limit ran out, and not one further in, which is passed on without a level.
fn ran_out(seen: &Observed) -> bool {
    seen.str(key::LEVEL) == Some(telemetry::level::ERROR)
        && seen.str(key::FAILURE_KIND) == Some("timeout")
}

/// Adds the kind of failure, where there is one; kinds are words of ours, and few.
fn with_kind(labels: &[Label], seen: &Observed) -> Vec<Label> {
    let mut labels = labels.to_vec();
    if let Some(kind) = seen.str(key::ERROR_TYPE) {
        labels.push(Label::new("error.type", kind.to_owned()));
    }
    labels
}

/// Returns a level; the few that are.
fn level(level: Option<i64>) -> Cow<'static, str> {
    match level {
        None => "none".into(),
        Some(level @ 0..=9) => level.to_string().into(),
        Some(_) => "more".into(),
    }
}
