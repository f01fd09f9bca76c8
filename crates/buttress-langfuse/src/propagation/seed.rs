//! Traces whose ids are chosen.

use opentelemetry::{
    SpanId, TraceId,
    trace::{SpanContext, TraceFlags, TraceState},
};
use sha2::{Digest as _, Sha256};

/// Tells the parent that stands for the beginning of a trace from any other.
const BEGINNING: u64 = 0x6275_7474_7265_7373;

/// Returns the id of the trace that belongs to a seed, such as the id of an order.
///
/// It is the id that the official SDKs make of the same seed: the first half of its SHA-256.
/// [`Propagate::trace_seed`](crate::Propagate::trace_seed) begins a trace with it.
///
/// # Examples
///
/// ```
/// let id = buttress_langfuse::trace_id_from_seed("order-7");
/// assert_eq!(id, "df8cf80227ec3237922df0ecd88385c5");
/// ```
#[must_use]
pub fn trace_id_from_seed(seed: &str) -> String {
    trace_id(seed).to_string()
}

pub(super) fn trace_id(seed: &str) -> TraceId {
    let mut id = [0; 16];
    id.copy_from_slice(&Sha256::digest(seed)[..16]);
    TraceId::from_bytes(id)
}

/// Makes the parent below which a trace of this id begins.
///
/// Providers take the id of a trace from a parent and from nowhere else, so there is one that
/// nobody sends.
pub(super) fn beginning(trace: TraceId) -> SpanContext {
    let (flags, state) = (TraceFlags::SAMPLED, TraceState::NONE);
    SpanContext::new(trace, beginning_of(trace), flags, true, state)
}

/// Returns whether a parent stands for the beginning of its trace, so that there is none.
pub(crate) fn is_beginning(trace: TraceId, parent: SpanId) -> bool {
    parent == beginning_of(trace)
}

fn beginning_of(trace: TraceId) -> SpanId {
    let bytes = trace.to_bytes();
    let (mut high, mut low) = ([0; 8], [0; 8]);
    high.copy_from_slice(&bytes[..8]);
    low.copy_from_slice(&bytes[8..]);
    // Other tracers give the first span of a trace one half of the trace's id; none gives it this.
    let id = u64::from_be_bytes(high) ^ u64::from_be_bytes(low).rotate_left(17) ^ BEGINNING;
    SpanId::from(id.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_those_of_the_official_sdks() {
        // The first half of what `sha256sum` says.
        for (seed, id) in [
            ("", "e3b0c44298fc1c149afbf4c8996fb924"),
            ("order-7", "df8cf80227ec3237922df0ecd88385c5"),
            ("my-seed", "e47b450a58ba3f9ba4a36ec20b7f7c18"),
            ("K\u{e4}se \u{1f9c0}", "4fa703f670104bbc244332082c2f1b9d"),
        ] {
            assert_eq!(trace_id_from_seed(seed), id, "{seed}");
        }
    }

    #[test]
    fn a_beginning_is_known_by_its_ids_alone() {
        let trace = trace_id("order-7");
        let parent = beginning(trace);
        assert!(parent.is_valid() && is_beginning(trace, parent.span_id()));
        assert!(!is_beginning(trace_id("order-8"), parent.span_id()));
        assert!(!is_beginning(trace, SpanId::INVALID));
    }
}
