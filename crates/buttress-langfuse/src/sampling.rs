//! Which traces are sent, and what of them: what went wrong always, of the rest a share.

use opentelemetry::{SpanId, TraceId};

use crate::{
    core::Core,
    encode::{Encoded, with_parent},
    spool::Class,
    traces::{Ended, Held},
};

/// How much is sent of what went well.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sampling {
    /// The share of traces, 0 to 1.
    pub(crate) rate: f64,
    /// Whether spans are left out that say nothing but that all went well.
    pub(crate) is_compact: bool,
}

/// A span that has ended, and what is to be decided of it.
pub(crate) struct Decided {
    pub(crate) trace: TraceId,
    pub(crate) held: Held,
    /// Whether something went wrong, in it or before it in its trace.
    pub(crate) is_eventful: bool,
    /// Whether its trace is sent as it comes.
    pub(crate) is_sent: bool,
    /// What was held back of its trace, if this was the last span of it.
    pub(crate) rest: Option<Vec<Held>>,
    /// The starts of the open spans above it.
    pub(crate) starts: Vec<Encoded>,
}

// ===== impl Sampling =====

impl Sampling {
    /// Returns whether of spans that follow each other some go and some stay.
    pub(crate) fn picks(self) -> bool {
        self.is_compact || self.rate < 1.0
    }

    /// Decides by the trace's id, as every SDK of OpenTelemetry does, so that services agree.
    pub(crate) fn takes(self, trace: TraceId) -> bool {
        if self.rate >= 1.0 {
            return true;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of 2^63 fits, and the cast saturates"
        )]
        let bound = (self.rate.max(0.0) * (1_u64 << 63) as f64) as u64;
        let mut low = [0; 8];
        low.copy_from_slice(&trace.to_bytes()[8..]);
        u64::from_be_bytes(low) >> 1 < bound
    }
}

impl Core {
    /// Sends a span, holds it back until its trace is decided, or lets it go.
    pub(crate) fn decide(&self, decided: Decided) {
        let Decided { trace, held, is_eventful, is_sent, rest, starts } = decided;
        let is_wanted = !held.is_unwanted && self.sampling.takes(trace);
        if is_eventful || is_sent || (is_wanted && !self.sampling.is_compact) {
            let class = if is_eventful { Class::Eventful } else { Class::Uneventful };
            // Of a trace in which something goes wrong, what went before it too.
            let before = match rest {
                Some(rest) => rest,
                None if is_eventful => self.traces.take_held(trace),
                None => Vec::new(),
            };
            self.send(before, class);
            self.accept(&starts, held.encoded, class);
            return;
        }
        match rest {
            None => {
                let sent = self.traces.hold(trace, held, is_wanted);
                self.send(sent, Class::Uneventful);
            }
            Some(mut all) if is_wanted => {
                all.push(held);
                self.send(compact(all), Class::Uneventful);
            }
            // It went well, and is not of the share.
            Some(_) => {}
        }
    }

    /// Decides a trace whose last span is not one that is sent.
    pub(crate) fn finish(&self, trace: TraceId, ended: Ended) {
        let Some(held) = ended.held.filter(|held| !held.is_empty()) else { return };
        let is_wanted = !ended.is_unwanted && self.sampling.takes(trace);
        if ended.eventful || ended.is_sent || is_wanted {
            let class = if ended.eventful { Class::Eventful } else { Class::Uneventful };
            self.send(if ended.eventful { held } else { compact(held) }, class);
        }
    }

    /// Sends spans that were held back, but for those that nobody wants and nothing went wrong with.
    pub(crate) fn send(&self, held: Vec<Held>, class: Class) {
        for held in held.into_iter().filter(|held| class == Class::Eventful || !held.is_unwanted) {
            self.accept(&[], held.encoded, class);
        }
    }
}

/// Leaves out the spans that can be, and puts what was below them below the next one above.
///
/// The outermost stays, and what is below a span that is not here stays where it is.
fn compact(mut spans: Vec<Held>) -> Vec<Held> {
    let above = |id: SpanId, spans: &[Held]| {
        spans.iter().find(|held| held.span == id).map(|held| (held.is_dispensable, held.above))
    };
    let goes = |held: &Held| held.is_dispensable && held.above.is_some();
    let parents: Vec<Option<SpanId>> = spans
        .iter()
        .map(|held| {
            let mut parent = held.above;
            while let Some(id) = parent
                && let Some((true, Some(next))) = above(id, &spans)
            {
                parent = Some(next);
            }
            parent
        })
        .collect();
    for (held, parent) in spans.iter_mut().zip(parents) {
        if parent != held.above {
            held.encoded = with_parent(&held.encoded, parent.map(SpanId::to_bytes));
            held.above = parent;
        }
    }
    spans.retain(|held| !goes(held));
    spans
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::Writer;

    fn held(span: u64, above: u64, is_dispensable: bool) -> Held {
        let write = |into: &mut Writer<'_>| {
            into.bytes(1, &[1; 16]);
            into.bytes(2, &span.to_be_bytes());
            into.text(3, if span.is_multiple_of(2) { "a=1" } else { "" });
            if above > 0 {
                into.bytes(4, &above.to_be_bytes());
            }
            into.text(5, &span.to_string());
        };
        Held {
            span: SpanId::from(span),
            above: (above > 0).then(|| SpanId::from(above)),
            encoded: Encoded::new(write),
            is_dispensable,
            is_unwanted: false,
            at: 0,
        }
    }

    #[test]
    fn what_is_left_out_leaves_its_children_to_the_next_above() {
        let spans = vec![
            held(5, 4, false),
            held(4, 3, true),
            held(3, 2, true),
            held(6, 2, true),
            held(2, 1, false),
            held(1, 0, true),
        ];
        let left: Vec<_> =
            compact(spans).iter().map(|held| held.encoded.decode().unwrap()).collect();
        let shown: Vec<_> = left
            .iter()
            .map(|span| (&*span.name, span.parent_span_id.last().copied(), &*span.trace_state))
            .collect();
        assert_eq!(shown, [("5", Some(2), ""), ("2", Some(1), "a=1"), ("1", None, "")]);
    }

    #[test]
    fn a_share_is_that_of_the_ids() {
        let share = |rate: f64, trace: u128| {
            Sampling { rate, is_compact: false }.takes(TraceId::from(trace))
        };
        assert!(share(1.0, u128::MAX) && !share(0.0, 0));
        assert!(share(0.5, (1 << 63) - 1) && !share(0.5, u128::from(u64::MAX)));
    }
}
