//! A sink in memory, and ways to look at what it got.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::Value as Json;

use crate::{
    Langfuse,
    encode::Encoded,
    sink::{FlushError, Sink, Stats, TraceDefaults},
    spool::Class,
    value,
};

#[derive(Debug, Default)]
pub(crate) struct MemorySink {
    pub(crate) spans: Mutex<Vec<Span>>,
    pub(crate) shutdowns: Mutex<Vec<Duration>>,
    pub(crate) fails: bool,
}

impl Sink for MemorySink {
    fn accept(&self, _: &[Encoded], span: Encoded, _: Class) {
        self.spans.lock().unwrap().push(span.decode().unwrap());
    }

    fn flush(&self, _: Duration) -> Result<(), FlushError> {
        if self.fails { Err(FlushError::TimedOut { pending: 1 }) } else { Ok(()) }
    }

    fn shutdown(&self, timeout: Duration) -> Result<(), FlushError> {
        self.shutdowns.lock().unwrap().push(timeout);
        self.flush(timeout)
    }

    fn stats(&self) -> Stats {
        Stats { accepted: self.spans.lock().unwrap().len() as u64, ..Stats::default() }
    }
}

impl MemorySink {
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }

    pub(crate) fn span(&self, name: &str) -> Span {
        let mut found = self.spans().into_iter().filter(|span| span.name == name);
        let span = found.next().unwrap_or_else(|| panic!("no span {name}"));
        assert!(found.next().is_none(), "two spans {name}");
        span
    }
}

pub(crate) fn langfuse() -> (Langfuse, Arc<MemorySink>) {
    langfuse_with(TraceDefaults::default())
}

pub(crate) fn langfuse_with(defaults: TraceDefaults) -> (Langfuse, Arc<MemorySink>) {
    let sink = Arc::new(MemorySink::default());
    (Langfuse::assemble(sink.clone(), defaults, None, None), sink)
}

/// Returns an attribute as JSON, `null` where it is missing.
pub(crate) fn get(span: &Span, key: &str) -> Json {
    let mut found = span.attributes.iter().filter(|known| known.key == key);
    let value =
        found.next().map_or(Json::Null, |known| value::to_json(known.value.as_ref().unwrap()));
    assert!(found.next().is_none(), "{key} is sent twice");
    value
}

/// Returns an entry of the metadata as JSON.
pub(crate) fn metadata(span: &Span, key: &str) -> Json {
    get(span, &format!("langfuse.observation.metadata.{key}"))
}
