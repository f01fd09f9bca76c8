//! The spans that are kept, within bounds.

use std::collections::{HashMap, VecDeque};

use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use crate::sink::Stats;

/// How many spans are kept.
pub(super) const CAPACITY: usize = 10_000;
/// How many bytes of spans are kept, as they are sent.
pub(super) const CAPACITY_BYTES: usize = 16 << 20;

#[derive(Default)]
pub(super) struct Collected {
    traces: HashMap<Vec<u8>, VecDeque<Kept>>,
    /// The ids of the traces, oldest first.
    order: VecDeque<Vec<u8>>,
    spans: usize,
    bytes: usize,
    pub(super) stats: Stats,
}

/// A span and its size.
struct Kept {
    span: Span,
    bytes: usize,
}

impl Collected {
    pub(super) fn add(&mut self, span: Span) {
        let id = span.trace_id.clone();
        let bytes = span.encoded_len();
        let spans = self.traces.entry(id.clone()).or_default();
        if spans.is_empty() {
            self.order.push_back(id.clone());
        }
        spans.push_back(Kept { span, bytes });
        self.spans += 1;
        self.bytes += bytes;
        self.stats.accepted += 1;
        self.stats.delivered += 1;
        while self.is_over() && self.make_room(&id) {}
    }

    pub(super) const fn spans(&self) -> usize {
        self.spans
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the traces, oldest first, each with its spans in the order of their ends.
    pub(super) fn in_order(&self) -> impl Iterator<Item = impl Iterator<Item = &Span>> {
        let traces = self.order.iter().filter_map(|id| self.traces.get(id));
        traces.map(|spans| spans.iter().map(|kept| &kept.span))
    }

    const fn is_over(&self) -> bool {
        self.spans > CAPACITY || self.bytes > CAPACITY_BYTES
    }

    /// Forgets the oldest trace; of the one that has just grown only its oldest span, and never
    /// its newest. Returns whether there was anything to forget.
    fn make_room(&mut self, growing: &[u8]) -> bool {
        if self.order.front().is_some_and(|oldest| oldest == growing)
            && let Some(spans) = self.traces.get_mut(growing)
            && spans.len() > 1
        {
            let oldest = spans.pop_front();
            self.forget(oldest);
            return true;
        }
        let Some(place) = self.order.iter().position(|id| id != growing) else { return false };
        let Some(id) = self.order.remove(place) else { return false };
        let spans = self.traces.remove(&id).unwrap_or_default();
        self.forget(spans);
        true
    }

    fn forget(&mut self, spans: impl IntoIterator<Item = Kept>) {
        for kept in spans {
            self.spans -= 1;
            self.bytes -= kept.bytes;
            self.stats.dropped += 1;
            self.stats.delivered -= 1;
        }
    }
}
