//! What the server has received, for the asserts of tests.

use std::collections::HashMap;

use http::{HeaderMap, Method};
use serde_json::Value;

use super::faults::Fault;
use super::js::{Js, Object};

/// One request for ingestion, as the server saw it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The length of the body on the wire; nothing if it was not read.
    pub wire_bytes: Option<usize>,
    /// The length of the body after decompression; nothing if it did not come so far.
    pub body_bytes: Option<usize>,
    /// The status that was answered; nothing while the request hangs and after a reset.
    pub status: Option<u16>,
    /// The ids of the spans in the body, repeats included.
    pub span_ids: Vec<String>,
    /// Whether the spans were stored.
    pub is_stored: bool,
    /// The fault that was shown.
    pub fault: Option<Fault>,
}

/// A row of the server's table of observations.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    row: Value,
}

impl Observation {
    fn new(event: Object) -> Self {
        Self { row: Js::Obj(event).to_serde() }
    }

    /// Returns the whole row, with the fields that the real server's code gives it.
    #[must_use]
    pub fn row(&self) -> &Value {
        &self.row
    }

    /// Returns a field of the row; `null` if it is not there.
    #[must_use]
    pub fn field(&self, name: &str) -> &Value {
        &self.row[name]
    }

    fn text(&self, name: &str) -> &str {
        self.row[name].as_str().unwrap_or_default()
    }

    /// Returns the id of the observation, which is the id of the span.
    #[must_use]
    pub fn id(&self) -> &str {
        self.text("spanId")
    }

    /// Returns the id of the trace.
    #[must_use]
    pub fn trace_id(&self) -> &str {
        self.text("traceId")
    }

    /// Returns the id of the parent, if there is one.
    #[must_use]
    pub fn parent_id(&self) -> Option<&str> {
        self.row["parentSpanId"].as_str().filter(|id| !id.is_empty())
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.text("name")
    }

    /// Returns the type, such as `SPAN`.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.text("type")
    }

    /// Returns the level, such as `WARNING`.
    #[must_use]
    pub fn level(&self) -> &str {
        self.text("level")
    }

    /// Returns the status message, if there is one.
    #[must_use]
    pub fn status_message(&self) -> Option<&str> {
        self.row["statusMessage"].as_str()
    }

    /// Tells whether the interface shows this as the root of its trace.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.parent_id().is_none() || self.row["isAppRoot"] == true
    }

    /// Returns the metadata under a key, before it is flattened.
    #[must_use]
    pub fn metadata(&self, key: &str) -> &Value {
        &self.row["metadata"][key]
    }

    /// Returns the metadata under a dotted path, as it is stored: as text.
    #[must_use]
    pub fn stored_metadata(&self, path: &str) -> Option<&str> {
        let flattened = &self.row["metadataFlattened"];
        let place = flattened["names"].as_array()?.iter().position(|name| name == path)?;
        flattened["values"][place].as_str()
    }
}

/// Everything that was received so far.
#[derive(Debug, Default)]
pub struct Received {
    pub(super) requests: Vec<Request>,
    /// One row for each span, the latest delivery of it, in the order of first arrival.
    observations: Vec<Observation>,
    places: HashMap<(String, String), usize>,
    deliveries: HashMap<String, usize>,
    rows: usize,
    lost_batches: usize,
    /// What every request said, where it is kept.
    pub(super) said: Option<Vec<Js>>,
}

impl Received {
    /// Lists the observations. A span that was delivered twice is one observation.
    #[must_use]
    pub fn observations(&self) -> &[Observation] {
        &self.observations
    }

    /// Lists the observations with a name.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Observation> {
        self.observations.iter().filter(move |observation| observation.name() == name)
    }

    /// Lists the requests for ingestion in the order of their arrival.
    #[must_use]
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// Counts how often a span was stored.
    #[must_use]
    pub fn deliveries(&self, span_id: &str) -> usize {
        self.deliveries.get(span_id).copied().unwrap_or(0)
    }

    /// Counts the rows that were stored beyond the first of each span.
    #[must_use]
    pub fn duplicates(&self) -> usize {
        self.rows - self.observations.len()
    }

    /// Counts the batches that were answered with 200 and then given up, because one span in them
    /// could not be read.
    #[must_use]
    pub fn lost_batches(&self) -> usize {
        self.lost_batches
    }

    pub(super) fn store(&mut self, events: Vec<Object>) {
        for event in events {
            let observation = Observation::new(event);
            self.rows += 1;
            *self.deliveries.entry(observation.id().to_owned()).or_default() += 1;
            let key = (observation.trace_id().to_owned(), observation.id().to_owned());
            match self.places.get(&key) {
                Some(place) => self.observations[*place] = observation,
                None => {
                    self.places.insert(key, self.observations.len());
                    self.observations.push(observation);
                }
            }
        }
    }

    pub(super) fn lose_batch(&mut self) {
        self.lost_batches += 1;
    }
}
