//! What the spans of the contract come to in numbers, for the `metrics` facade.

use std::{
    borrow::Cow,
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use tracing::{
    Subscriber,
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{
    layer::{Context, Layer},
    registry::LookupSpan,
};

use super::{Observe, ObserveLayer, Observed};
use crate::telemetry::{key, outcome, span};

/// Counts what the layers do, for the recorder of the `metrics` facade.
///
/// Names and attributes are those of OpenTelemetry's conventions: a word for each level, seconds,
/// `error.type`. An exporter for Prometheus makes `buttress_agent_calls_total` of `buttress.agent.calls`.
///
/// | name | kind | attributes |
/// |---|---|---|
/// | `buttress.agent.calls` | counter | `agent`, `outcome`, `error.type` |
/// | `buttress.agent.duration` | histogram, s | `agent`, `outcome` |
/// | `buttress.retry.attempts` | counter | `agent`, `outcome`, `error.type` |
/// | `buttress.retry.attempt.duration` | histogram, s | `agent`, `outcome` |
/// | `buttress.retry.series` | counter | `agent`, `result`: `first`, `rescued`, `failed` |
/// | `buttress.circuit_breaker.calls` | counter | `circuit`, `outcome` |
/// | `buttress.circuit_breaker.state` | gauge | `circuit`; 0 closed, 1 half-open, 2 open |
/// | `buttress.circuit_breaker.transitions` | counter | `circuit`, `transition` |
/// | `buttress.timeout.calls` | counter | `agent`, `outcome` |
/// | `buttress.fallback.calls` | counter | `agent`, `outcome`, `level` |
/// | `buttress.swarm.calls` | counter | `swarm`, `outcome`, `level` |
/// | `buttress.swarm.degradation_level` | gauge, of the last call | `swarm` |
/// | `buttress.stream.items` | counter | `agent` |
/// | `buttress.stream.first_item.duration` | histogram, s | `agent` |
/// | `buttress.graph.runs` | counter | `graph`, `outcome` |
/// | `buttress.graph.node.duration` | histogram, s | `node`, `outcome` |
/// | `buttress.checkpoint.calls` | counter | `operation`, `outcome` |
/// | `buttress.checkpoint.duration` | histogram, s | `operation` |
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
    circuits: Known,
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

// ===== impl MetricsLayer =====

impl MetricsLayer {
    /// Creates the layer, and describes its instruments to the recorder that is installed.
    #[must_use]
    pub fn new() -> Self {
        describe();
        let meter = Meter {
            most_values: 1_000,
            agents: Known::default(),
            circuits: Known::default(),
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
                let (agent, kind) = (self.agent(seen), kind_of(seen));
                counter!("buttress.agent.calls", "agent" => agent.clone(), "outcome" => outcome.clone(), "error.type" => kind)
                    .increment(1);
                histogram!("buttress.agent.duration", "agent" => agent, "outcome" => outcome)
                    .record(seen.took());
            }
            span::RETRY_ATTEMPT => {
                let (agent, kind) = (self.agent(seen), kind_of(seen));
                counter!("buttress.retry.attempts", "agent" => agent.clone(), "outcome" => outcome.clone(), "error.type" => kind)
                    .increment(1);
                histogram!("buttress.retry.attempt.duration", "agent" => agent, "outcome" => outcome)
                    .record(seen.took());
            }
            span::RETRY => {
                let needed = seen.i64("attempts_needed").unwrap_or(0);
                let result = match (&*outcome, needed) {
                    (outcome::SUCCESS, ..=1) => "first",
                    (outcome::SUCCESS, _) => "rescued",
                    _ => "failed",
                };
                counter!("buttress.retry.series", "agent" => self.agent(seen), "result" => result)
                    .increment(1);
            }
            span::CIRCUIT_BREAKER => self.breaker(seen, outcome),
            span::CIRCUIT_OPENED => self.transition(seen, 2.0),
            span::CIRCUIT_HALF_OPENED => self.transition(seen, 1.0),
            span::CIRCUIT_CLOSED => self.transition(seen, 0.0),
            span::TIMEOUT => {
                counter!("buttress.timeout.calls", "agent" => self.agent(seen), "outcome" => timed(seen, outcome))
                    .increment(1);
            }
            span::FALLBACK => {
                let level = level(seen.i64("fallback_level"));
                counter!("buttress.fallback.calls", "agent" => self.agent(seen), "outcome" => outcome, "level" => level)
                    .increment(1);
            }
            span::SWARM => self.swarm(seen, outcome),
            span::STREAM => {
                let agent = self.agent(seen);
                if let Some(time) = seen.f64("first_item_seconds") {
                    histogram!("buttress.stream.first_item.duration", "agent" => agent.clone())
                        .record(time);
                }
                let items = seen.i64("items").unwrap_or(0).unsigned_abs();
                counter!("buttress.stream.items", "agent" => agent).increment(items);
            }
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

    fn circuit(&self, seen: &Observed) -> Cow<'static, str> {
        self.circuits.value(seen.str("circuit_key").unwrap_or(NOBODY), self.most_values)
    }

    fn breaker(&self, seen: &Observed, outcome: String) {
        let circuit = self.circuit(seen);
        counter!("buttress.circuit_breaker.calls", "circuit" => circuit.clone(), "outcome" => outcome)
            .increment(1);
        let state = match seen.str("circuit_state").or_else(|| seen.str("circuit_state_at_start")) {
            Some("closed") => 0.0,
            Some("half_open") => 1.0,
            Some("open" | "forced_open") => 2.0,
            // Neither of them lets a failure do anything.
            Some("disabled" | "metrics_only") => 0.0,
            _ => return,
        };
        // Of the many that share one name nobody could tell whose state it is.
        if circuit != OTHER {
            gauge!("buttress.circuit_breaker.state", "circuit" => circuit).set(state);
        }
    }

    fn transition(&self, seen: &Observed, state: f64) {
        let circuit = self.circuit(seen);
        let transition = seen.str("state_transition").unwrap_or_default().to_owned();
        counter!("buttress.circuit_breaker.transitions", "circuit" => circuit.clone(), "transition" => transition)
            .increment(1);
        if circuit != OTHER {
            gauge!("buttress.circuit_breaker.state", "circuit" => circuit).set(state);
        }
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
}

/// Returns `timeout` for a call whose own limit ran out, and not one further in.
fn timed(seen: &Observed, outcome: String) -> String {
    let is_own = seen.str(key::STATUS_MESSAGE).is_some_and(|text| text.contains("timed out"));
    if is_own { "timeout".to_owned() } else { outcome }
}

fn kind_of(seen: &Observed) -> Cow<'static, str> {
    // Kinds are words of ours, and few.
    seen.str(key::ERROR_TYPE).map_or("".into(), |kind| kind.to_owned().into())
}

/// Returns a level; the few that are.
fn level(level: Option<i64>) -> Cow<'static, str> {
    match level {
        None => "none".into(),
        Some(level @ 0..=9) => level.to_string().into(),
        Some(_) => "more".into(),
    }
}
