//! What is known about the traces that have an open span in this process.
//!
//! Langfuse's fourth version keeps no row for a trace: its name, session and user stand on every
//! observation. So what any span of a trace says about it is kept here, as long as one of its
//! spans is open, and written on each span that ends afterwards.

mod hashes;
mod trace;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use opentelemetry::{KeyValue, SpanId, TraceId};

use self::{
    hashes::TraceHashes,
    trace::{Began, Spans, Trace, nearest_sent},
};
use crate::{encode::Encoded, propagation::Scope, trace::TraceContext};

const SHARDS: usize = 16;
/// How many traces are kept at a time; the oldest are forgotten first.
const CAPACITY: usize = 100_000;
/// How many bytes of spans wait for the ends of their traces; then those of the oldest are sent.
const HELD_BYTES: usize = 32 << 20;
/// After how many nanoseconds a trace is no more waited for.
const LONG: u64 = 10_000_000_000;
/// How many spans of one trace are kept before those that ended are forgotten.
const SPANS_PER_TRACE: usize = 10_000;

/// How many names of spans are kept, for each shard.
const NAMES: usize = 256;
/// How many traces that ended leave their memory to new ones, for each shard.
const SPARE: usize = 8;
/// How much room for spans a trace may have to leave it to a new one.
const SPARE_SPANS: usize = 64;

/// The open traces of this process.
pub(crate) struct Traces {
    shards: [Mutex<Shard>; SHARDS],
    capacity_per_shard: usize,
    /// How many bytes are held back, of all traces.
    held_bytes: AtomicUsize,
}

/// A span that starts.
#[derive(Debug)]
pub(crate) struct Started<'a> {
    pub(crate) trace: TraceId,
    pub(crate) span: SpanId,
    pub(crate) parent: SpanId,
    pub(crate) parent_is_remote: bool,
    /// Whether the span is one that is sent.
    pub(crate) sent: bool,
    pub(crate) name: &'a str,
    /// Whether it is an agent's.
    pub(crate) is_agent: bool,
    /// In nanoseconds since 1970, where it is kept with the name.
    pub(crate) at: Option<u64>,
    /// What the span says about its trace.
    pub(crate) says: Option<Box<TraceContext>>,
    /// What is known around the span.
    pub(crate) scope: Option<Arc<Scope>>,
    /// Whether a caller in another process has decided that the trace is not wanted.
    pub(crate) is_unwanted: bool,
}

/// What is known about a span that ends.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// Whether the span was seen when it started.
    pub(crate) known: bool,
    /// The nearest span above it that is sent.
    pub(crate) above: Option<SpanId>,
    /// What stands above it: that span, or whatever called this process, or a span that is not
    /// sent; invalid where nothing does.
    pub(crate) parent: Option<SpanId>,
    /// Whether another process has said that the root of the trace is there.
    pub(crate) is_claimed: bool,
    /// Whether its context has gone out of the process.
    pub(crate) went_out: bool,
    /// What was added to the span from outside.
    pub(crate) updates: Vec<KeyValue>,
    /// What is known about the trace.
    pub(crate) trace: Option<Arc<TraceContext>>,
    /// What is known around the span.
    pub(crate) scope: Option<Arc<Scope>>,
    /// Whether something failed in the trace before.
    pub(crate) eventful: bool,
    /// Whether a span below it has taken its place, as it was not one that is sent then.
    pub(crate) passed_over: bool,
    /// Whether its trace is sent as it comes.
    pub(crate) is_sent: bool,
    /// Whether a caller in another process has decided that the trace is not wanted.
    pub(crate) is_unwanted: bool,
    /// What was held back of the trace, if this was its last span.
    pub(crate) held: Option<Vec<Held>>,
}

/// A span that waits for the end of its trace: whether it is sent is not decided yet.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) span: SpanId,
    /// The nearest span above that is sent.
    pub(crate) above: Option<SpanId>,
    pub(crate) encoded: Encoded,
    /// Whether it may be left out of a trace in which nothing went wrong.
    pub(crate) is_dispensable: bool,
    /// Whether a caller in another process has decided that its trace is not wanted.
    pub(crate) is_unwanted: bool,
    /// When it ended, in nanoseconds since 1970.
    pub(crate) at: u64,
}

#[derive(Default)]
struct Shard {
    traces: HashMap<TraceId, Trace, TraceHashes>,
    /// Traces by age; those that ended since are skipped.
    ages: VecDeque<(TraceId, u64)>,
    next: u64,
    /// What traces that ended kept their spans in, empty.
    spare: Vec<Spans>,
    /// Names of spans, which few are: each is kept once.
    names: HashSet<Arc<str>>,
}

/// What others are told of a span whose context goes out of the process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GoesOut {
    /// The nearest span that is sent, else what called this process, else the span itself.
    pub(crate) parent: SpanId,
    /// Whether it is one that is sent from here.
    pub(crate) is_sent: bool,
}

/// A span that is open, as it is written where one below it has failed.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) span: SpanId,
    /// The nearest span above that is sent, else whatever stands above.
    pub(crate) parent: SpanId,
    /// Whether nothing above it is sent, from this process or by its word from another.
    pub(crate) is_outermost: bool,
    pub(crate) name: Arc<str>,
    pub(crate) at: u64,
    pub(crate) scope: Option<Arc<Scope>>,
}

// ===== impl Traces =====

impl Traces {
    pub(crate) fn new() -> Self {
        Self::with_capacity(CAPACITY)
    }

    fn with_capacity(capacity: usize) -> Self {
        let capacity_per_shard = capacity.div_ceil(SHARDS);
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            capacity_per_shard,
            held_bytes: AtomicUsize::new(0),
        }
    }

    /// Notes a span that starts; returns what was held back of traces that had to make room.
    #[must_use = "what was held back is to be sent"]
    pub(crate) fn start(&self, started: Started<'_>) -> Vec<Held> {
        let held = self.shard(started.trace).start(started, self.capacity_per_shard);
        self.no_more(&held);
        held
    }

    /// Takes what is known about a span that ends, and forgets the trace with its last span.
    ///
    /// `name` is there if the span, as it ends, is one to send; it may not have been when it
    /// started.
    pub(crate) fn end(&self, trace: TraceId, span: SpanId, name: Option<&str>) -> Ended {
        let ended = self.shard(trace).end(trace, span, name);
        if let Some(held) = &ended.held {
            self.no_more(held);
        }
        ended
    }

    /// Holds a span back until its trace is decided; returns what is to be sent at once, for want
    /// of room or because the trace takes long: the whole of its trace, or of the oldest ones.
    #[must_use = "what was held back is to be sent"]
    pub(crate) fn hold(&self, trace: TraceId, held: Held, is_wanted: bool) -> Vec<Held> {
        let bytes = held.encoded.0.len();
        let mut shard = self.shard(trace);
        let Some(known) = shard.traces.get_mut(&trace) else {
            return if is_wanted { vec![held] } else { Vec::new() };
        };
        if known.is_sent || known.eventful {
            return vec![held];
        }
        let is_long =
            known.held.first().is_some_and(|first| held.at - first.at.min(held.at) > LONG)
                && is_wanted;
        known.held.push(held);
        let all = self.held_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let sent = if is_long {
            known.is_sent = true;
            std::mem::take(&mut known.held)
        } else if all > HELD_BYTES {
            shard.give_way()
        } else {
            return Vec::new();
        };
        self.no_more(&sent);
        sent
    }

    /// Takes what was held back of a trace that is open, which is sent from now on.
    pub(crate) fn take_held(&self, trace: TraceId) -> Vec<Held> {
        let mut shard = self.shard(trace);
        let Some(known) = shard.traces.get_mut(&trace) else { return Vec::new() };
        let held = std::mem::take(&mut known.held);
        self.no_more(&held);
        held
    }

    fn no_more(&self, held: &[Held]) {
        if !held.is_empty() {
            let bytes = held.iter().map(|held| held.encoded.0.len()).sum();
            self.held_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Finds the nearest agent at or above a span, else the nearest span that is sent.
    pub(crate) fn nearest_agent(&self, trace: TraceId, span: SpanId) -> Option<SpanId> {
        let nearest = self.nearest_sent(trace, span)?;
        let shard = self.shard(trace);
        let spans = &shard.traces.get(&trace)?.spans;
        let mut candidate = Some(nearest);
        while let Some(span) = candidate {
            let note = spans.get(&span)?;
            if note.is_agent && note.open {
                return Some(span);
            }
            candidate = note.above;
        }
        Some(nearest)
    }

    /// Adds to a trace what one of its spans said at its end.
    pub(crate) fn learn(&self, trace: TraceId, says: Option<&TraceContext>, eventful: bool) {
        if !eventful && says.is_none() {
            return;
        }
        if let Some(trace) = self.shard(trace).traces.get_mut(&trace) {
            trace.eventful |= eventful;
            trace.learn(says);
        }
    }

    /// Finds the span itself or the nearest one above it that is sent and still open.
    pub(crate) fn nearest_sent(&self, trace: TraceId, span: SpanId) -> Option<SpanId> {
        nearest_sent(&self.shard(trace).traces.get(&trace)?.spans, span)
    }

    /// Notes that the context of a span goes out of the process; returns the parent that others
    /// are told.
    pub(crate) fn goes_out(&self, trace: TraceId, span: SpanId) -> Option<GoesOut> {
        let mut shard = self.shard(trace);
        let spans = &mut shard.traces.get_mut(&trace)?.spans;
        let beyond = spans.get(&span)?.beyond;
        let nearest = nearest_sent(spans, span);
        if let Some(note) = nearest.and_then(|nearest| spans.get_mut(&nearest)) {
            note.went_out = true;
        }
        Some(GoesOut { parent: nearest.or(beyond).unwrap_or(span), is_sent: nearest.is_some() })
    }

    /// Returns what is known around a span.
    pub(crate) fn scope(&self, trace: TraceId, span: SpanId) -> Option<Arc<Scope>> {
        self.shard(trace).traces.get(&trace)?.spans.get(&span)?.scope.clone()
    }

    /// Says of a span that is open what a scope within it says, which ends before it.
    pub(crate) fn stand_in(&self, trace: TraceId, span: SpanId, scope: &Arc<Scope>) {
        if let Some(trace) = self.shard(trace).traces.get_mut(&trace)
            && let Some(note) = trace.spans.get_mut(&span)
            && note.open
        {
            note.stands_in = Some(scope.clone());
        }
    }

    /// Returns whether something has gone wrong in a trace that is open.
    pub(crate) fn is_eventful(&self, trace: TraceId) -> bool {
        self.shard(trace).traces.get(&trace).is_some_and(|trace| trace.eventful)
    }

    /// Returns whether a caller in another process has decided that an open trace is not wanted.
    pub(crate) fn is_unwanted(&self, trace: TraceId) -> bool {
        self.shard(trace).traces.get(&trace).is_some_and(|trace| trace.is_unwanted)
    }

    /// Takes the starts of the open spans above one that have not been taken yet, the outermost
    /// first; and what is known about the trace.
    pub(crate) fn starts_above(
        &self,
        trace: TraceId,
        above: Option<SpanId>,
    ) -> (Vec<Start>, Option<Arc<TraceContext>>) {
        let mut shard = self.shard(trace);
        let Some(trace) = shard.traces.get_mut(&trace) else { return (Vec::new(), None) };
        let mut starts = Vec::new();
        let mut next = above;
        while let Some(span) = next
            && let Some(note) = trace.spans.get_mut(&span)
        {
            next = note.above;
            let Some(Began { at, name }) = note.began.take().filter(|_| note.open) else {
                continue;
            };
            let above = note.above.or(note.beyond).or(note.parent);
            starts.push(Start {
                span,
                parent: above.unwrap_or(SpanId::INVALID),
                is_outermost: note.above.is_none() && !note.is_claimed,
                name,
                at,
                scope: note.scope.clone(),
            });
        }
        starts.reverse();
        (starts, Some(trace.context.clone()))
    }

    /// Adds an attribute to a span that is still open, in place of an earlier one of its key.
    pub(crate) fn update(&self, trace: TraceId, span: SpanId, attribute: KeyValue) {
        if let Some(trace) = self.shard(trace).traces.get_mut(&trace)
            && let Some(note) = trace.spans.get_mut(&span)
            && note.open
        {
            match note.updates.iter_mut().find(|known| known.key == attribute.key) {
                Some(known) => *known = attribute,
                None => note.updates.push(attribute),
            }
        }
    }

    fn shard(&self, trace: TraceId) -> MutexGuard<'_, Shard> {
        // Ids are random, so their last byte spreads them evenly.
        let last = trace.to_bytes()[15];
        let shard = &self.shards[usize::from(last) % SHARDS];
        // What a panicking thread left is still a map of whole entries.
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// ===== impl Shard =====

impl Shard {
    fn start(&mut self, started: Started<'_>, capacity: usize) -> Vec<Held> {
        let at = started.at.filter(|_| started.sent);
        let began = at.map(|at| Began { at, name: self.name(started.name) });
        if let Some(trace) = self.traces.get_mut(&started.trace) {
            trace.start(started, began);
            return Vec::new();
        }
        let id = started.trace;
        let (mut trace, held) = self.admit(id, capacity);
        trace.start(started, began);
        self.traces.insert(id, trace);
        held
    }

    /// Returns a name as it is kept.
    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        // Names that are made up one by one are no use to keep.
        if self.names.len() >= NAMES {
            self.names.clear();
        }
        let name: Arc<str> = name.into();
        self.names.insert(Arc::clone(&name));
        name
    }

    /// Takes what is held back of the oldest traces, until half of it is gone.
    fn give_way(&mut self) -> Vec<Held> {
        let bytes =
            |trace: &Trace| -> usize { trace.held.iter().map(|held| held.encoded.0.len()).sum() };
        let mut left = self.traces.values().map(bytes).sum::<usize>() / 2;
        let mut sent = Vec::new();
        for (id, serial) in &self.ages {
            let Some(trace) = self.traces.get_mut(id).filter(|trace| trace.serial == *serial)
            else {
                continue;
            };
            if trace.held.is_empty() {
                continue;
            }
            let held = bytes(trace);
            trace.is_sent = true;
            sent.append(&mut trace.held);
            if held >= left {
                break;
            }
            left -= held;
        }
        sent
    }

    /// Makes room for a trace.
    fn admit(&mut self, id: TraceId, capacity: usize) -> (Trace, Vec<Held>) {
        let mut held = Vec::new();
        while self.traces.len() >= capacity.max(1)
            && let Some(mut oldest) = self.forget_oldest()
        {
            held.append(&mut oldest.held);
        }
        // Traces that ended left their places in the list of ages.
        if self.ages.len() > 2 * self.traces.len() + 64 {
            let traces = &self.traces;
            self.ages
                .retain(|(id, serial)| traces.get(id).is_some_and(|trace| trace.serial == *serial));
        }
        self.next += 1;
        self.ages.push_back((id, self.next));
        let spans = self.spare.pop().unwrap_or_default();
        (Trace { serial: self.next, spans, ..Trace::default() }, held)
    }

    fn forget_oldest(&mut self) -> Option<Trace> {
        while let Some((id, serial)) = self.ages.pop_front() {
            if self.traces.get(&id).is_some_and(|trace| trace.serial == serial) {
                return self.traces.remove(&id);
            }
        }
        None
    }

    fn end(&mut self, id: TraceId, span: SpanId, name: Option<&str>) -> Ended {
        let Some(trace) = self.traces.get_mut(&id) else { return Ended::default() };
        let mut ended = trace.end(span, name);
        if trace.open == 0 {
            ended.held = Some(std::mem::take(&mut trace.held));
            let spans = std::mem::take(&mut trace.spans);
            self.traces.remove(&id);
            self.keep(spans);
        }
        ended
    }

    /// Keeps the memory of a trace that ended.
    fn keep(&mut self, mut spans: Spans) {
        if self.spare.len() < SPARE && spans.capacity() <= SPARE_SPANS {
            spans.clear();
            self.spare.push(spans);
        }
    }
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shards = self.shards.iter();
        let open: usize = shards
            .map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).traces.len())
            .sum();
        f.debug_struct("Traces").field("open", &open).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
