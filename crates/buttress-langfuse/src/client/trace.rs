//! One trace, to be looked at.

use std::{collections::HashMap, fmt, time::SystemTime};

use crate::{
    Level, Observation, attribute, clock, terminal,
    value::{self, from_json},
};
use opentelemetry_proto::tonic::trace::v1::Span;

/// How far up is looked for what stands around: there is nothing to be ordered deeper down.
const DEEPEST: usize = 100;

/// A trace with everything in it.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Trace {
    /// The id.
    pub id: String,
    /// The name: that which was given, or that of the outermost observation.
    pub name: String,
    /// The observations, in the order of their beginnings.
    pub observations: Vec<Observation>,
}

// ===== impl Trace =====

impl Trace {
    /// Makes a trace of its observations, in any order and with repeats; none of none.
    #[must_use]
    pub fn new(observations: Vec<Observation>) -> Option<Self> {
        let mut observations = Observation::distinct(observations);
        let depths = depths(&observations);
        observations.sort_by_cached_key(|one| {
            (one.start, depths.get(&one.id).copied().unwrap_or_default(), number(one))
        });
        let first = observations.first()?;
        let root = observations.iter().find(|one| one.is_root).unwrap_or(first);
        let named = observations.iter().find_map(|one| one.trace_name.clone());
        let (id, name) = (root.trace_id.clone(), named.unwrap_or_else(|| root.name.clone()));
        Some(Self { id, name, observations })
    }

    /// Returns when the first observation began.
    #[must_use]
    pub fn start(&self) -> Option<SystemTime> {
        self.observations.first().map(|one| one.start)
    }

    /// Returns the worst level of all.
    #[must_use]
    pub fn level(&self) -> Level {
        self.observations.iter().map(|one| one.level).max().unwrap_or_default()
    }

    /// Draws the tree, as [`TerminalTree`](crate::TerminalTree) does.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let spans: Vec<Span> = self.observations.iter().map(span).collect();
        terminal::draw(&spans, colour)
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace")
            .field("id", &self.id)
            .field("observations", &self.observations.len())
            .finish_non_exhaustive()
    }
}

/// Returns how many stand around each observation: times are of milliseconds, in which one may have
/// begun in another.
fn depths(observations: &[Observation]) -> HashMap<String, usize> {
    let parents: HashMap<&str, &str> = observations
        .iter()
        .filter_map(|one| Some((one.id.as_str(), one.parent_id.as_deref()?)))
        .collect();
    let depth = |id: &str| {
        let around = std::iter::successors(Some(id), |id| parents.get(id).copied());
        around.take(DEEPEST).count()
    };
    observations.iter().map(|one| (one.id.clone(), depth(&one.id))).collect()
}

/// Returns which of several side by side it is.
fn number(one: &Observation) -> u64 {
    one.count("attempt").or_else(|| one.count("agent_index")).unwrap_or_default()
}

/// Turns an observation back into the span that it was sent as, as far as it is drawn.
fn span(one: &Observation) -> Span {
    let mut attributes = vec![
        value::attribute(attribute::TYPE, value::text(one.kind.to_lowercase())),
        value::attribute(attribute::LEVEL, value::text(one.level.as_str())),
    ];
    if let Some(message) = &one.status_message {
        attributes.push(value::attribute(attribute::STATUS_MESSAGE, value::text(message.as_str())));
    }
    for (key, recorded) in &one.metadata {
        // Dotted keys are not ours, and not drawn.
        if let (false, Some(recorded)) = (key.contains('.'), from_json(recorded)) {
            let key = format!("{}{key}", attribute::METADATA_PREFIX);
            attributes.push(value::attribute(key, recorded));
        }
    }
    Span {
        // Ids of others may be any text, and are told apart by their bytes.
        trace_id: one.trace_id.clone().into_bytes(),
        span_id: one.id.clone().into_bytes(),
        parent_span_id: one.parent_id.clone().unwrap_or_default().into_bytes(),
        name: one.name.clone(),
        start_time_unix_nano: clock::nanos(one.start),
        end_time_unix_nano: clock::nanos(one.end.unwrap_or(one.start)),
        attributes,
        ..Span::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn observation(id: &str, parent: Option<&str>, after: u64, takes: u64) -> Observation {
        let start = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000 + after);
        Observation {
            parent_id: parent.map(str::to_owned),
            end: Some(start + Duration::from_millis(takes)),
            ..Observation::new("t", id, id, start)
        }
    }

    #[test]
    fn a_trace_is_drawn_as_the_terminal_tree_draws_it() {
        let mut attempt = observation("attempt", Some("root"), 1, 2);
        attempt.level = Level::Warning;
        attempt.status_message = Some("failed\u{1b}[2J\nonce".to_owned());
        attempt.metadata.insert("attempt".to_owned(), json!(1));
        attempt.metadata.insert("scope.name".to_owned(), json!("buttress"));
        // Repeats, the wrong order, and ids that are no hex.
        let trace = Trace::new(vec![
            observation("second", Some("root"), 5, 1),
            attempt.clone(),
            observation("root", None, 0, 9),
            attempt,
        ]);
        let expected = "\
root [span] 9.0ms
├─ attempt [span] 2.0ms WARNING attempt=1: failed [2J once
└─ second [span] 1.0ms
";
        let trace = trace.unwrap();
        assert_eq!(trace.render(false), expected);
        assert_eq!((trace.level(), trace.name.as_str()), (Level::Warning, "root"));
        assert!(trace.render(true).contains("\u{1b}[33mWARNING\u{1b}[0m"));
    }

    #[test]
    fn what_began_in_one_millisecond_stands_in_its_order() {
        let attempt = |id: &str, number: u64, takes: u64| {
            let mut one = observation(id, Some("root"), 0, takes);
            one.metadata.insert("attempt".to_owned(), json!(number));
            one
        };
        let root = observation("root", None, 0, 1);
        let trace = Trace::new(vec![attempt("b", 2, 1), attempt("a", 1, 0), root]).unwrap();
        let drawn = trace.render(false);
        let names: Vec<_> = drawn.lines().map(|line| line.split(" [").next().unwrap()).collect();
        assert_eq!(names, ["root", "├─ a", "└─ b"]);
    }

    #[test]
    fn of_nothing_there_is_no_trace_and_a_trace_without_its_root_is_drawn() {
        assert_eq!(Trace::new(Vec::new()), None);
        let orphan = observation("orphan", Some("gone"), 0, 1);
        assert_eq!(Trace::new(vec![orphan]).unwrap().render(false), "orphan [span] 1.0ms\n");
    }
}
