//! The way from a layer to the server and back.

use std::{
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use buttress::telemetry;
use buttress_langfuse::{Durability, Langfuse};
use buttress_tests::langfuse_server::{LangfuseServer, Observation};
use serde_json::{Map, Value};
use tracing::{Event, Subscriber, field::Field};
use tracing_subscriber::layer::SubscriberExt as _;

use super::{EVERYWHERE, TABLE};

/// What a scenario left behind.
pub(crate) struct Seen {
    pub(crate) observations: Vec<Observation>,
    pub(crate) log: Vec<String>,
    /// What was sent, as one request of OTLP/JSON.
    pub(crate) said: Value,
    /// The headers that name our SDK and its version.
    pub(crate) sdk: [String; 2],
    pub(crate) public_key: String,
}

/// Runs a scenario on a paused clock, delivers its spans, and reads them from the server.
pub(crate) fn observe(scenario: impl AsyncFnOnce()) -> Seen {
    let server = LangfuseServer::start_blocking();
    server.keep_what_is_said();
    let langfuse = Langfuse::builder()
        .public_key(server.public_key())
        .secret_key(server.secret_key())
        .base_url(server.base_url())
        .durability(Durability::Memory)
        .start()
        .unwrap();
    let log = LogLines::default();
    let subscriber = tracing_subscriber::registry().with(langfuse.layer()).with(log.clone());
    tracing::subscriber::with_default(subscriber, || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().start_paused(true).build().unwrap().block_on(scenario());
    });
    langfuse.shutdown(Duration::from_secs(20)).unwrap();
    let requests = server.requests();
    let header = |name| requests[0].headers[name].to_str().unwrap().to_owned();
    Seen {
        observations: server.observations(),
        log: log.0.lock().unwrap().clone(),
        said: server.said(),
        sdk: ["x-langfuse-sdk-name", "x-langfuse-sdk-version"].map(header),
        public_key: server.public_key().to_owned(),
    }
}

/// Keeps the lines that layers log.
#[derive(Clone, Default)]
struct LogLines(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> tracing_subscriber::Layer<S> for LogLines {
    fn on_event(&self, event: &Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        if event.metadata().target() == telemetry::LOG_TARGET {
            let mut line = event.metadata().level().to_string();
            event.record(&mut |field: &Field, value: &dyn std::fmt::Debug| {
                assert_eq!(field.name(), "message", "a log line is a sentence");
                write!(line, " {value:?}").unwrap();
            });
            self.0.lock().unwrap().push(line);
        }
    }
}

impl Seen {
    /// Draws the trees: a line for what a person reads, and one for the keys.
    fn tree(&self) -> String {
        let mut text = String::new();
        for root in self.observations.iter().filter(|one| one.parent_id().is_none()) {
            self.draw(root, 0, &mut text);
        }
        text
    }

    fn draw(&self, one: &Observation, depth: usize, text: &mut String) {
        let indent = "  ".repeat(depth);
        write!(text, "{indent}{} {} {}", one.name(), one.kind(), one.level()).unwrap();
        if let Some(message) = one.status_message() {
            write!(text, ": {message}").unwrap();
        }
        writeln!(text, "\n{indent}  {}", Value::Object(keys(one))).unwrap();
        // Spans are stored in the order of their ends, which is that of siblings in time.
        for child in &self.observations {
            if child.parent_id() == Some(one.id()) {
                self.draw(child, depth + 1, text);
            }
        }
    }

    #[track_caller]
    pub(crate) fn check(&self, tree: &str, log: &[&str]) {
        let is = self.tree();
        let expected: String =
            tree.lines().skip(1).map(|line| format!("{}\n", line.trim_end())).collect();
        assert_eq!(is, expected, "\nis:\n{is}\nexpected:\n{expected}");
        assert_eq!(self.log, log);
        check_rows(&self.observations);
    }
}

/// Returns the metadata that the span itself recorded.
pub(crate) fn keys(one: &Observation) -> Map<String, Value> {
    let mut metadata = one.field("metadata").as_object().cloned().unwrap_or_default();
    for added in ["attributes", "resourceAttributes", "scope"] {
        metadata.remove(added);
    }
    // Lists go as JSON text, which the server keeps and its readers parse.
    for value in metadata.values_mut() {
        if let Some(list) = value.as_str().filter(|text| text.starts_with('[')) {
            *value = serde_json::from_str(list).unwrap();
        }
    }
    metadata
}

/// Checks every observation against its row of the table.
#[track_caller]
pub(crate) fn check_rows(observations: &[Observation]) {
    for one in observations {
        let row = TABLE.iter().find(|(name, ..)| *name == one.name());
        let (name, kind, own) = row.unwrap_or_else(|| panic!("{} has no row", one.name()));
        assert_eq!(one.kind(), *kind, "{name}");
        for key in keys(one).keys() {
            let known = own.contains(&&**key) || EVERYWHERE.contains(&&**key);
            assert!(known, "{name} has a key {key} that no row names");
        }
    }
}
