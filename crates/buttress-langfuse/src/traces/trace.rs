//! One open trace, and what is known of its spans.

use std::{collections::HashMap, hash::BuildHasherDefault, sync::Arc};

use opentelemetry::{KeyValue, SpanId};

use super::{Ended, Held, SPANS_PER_TRACE, Started, hashes::SpanHasher};
use crate::{propagation::Scope, trace::TraceContext};

pub(super) type Spans = HashMap<SpanId, Note, BuildHasherDefault<SpanHasher>>;

#[derive(Default)]
pub(super) struct Trace {
    /// Tells a trace from an earlier one of the same id.
    pub(super) serial: u64,
    pub(super) open: usize,
    /// Whether another process began the trace, which then names it.
    pub(super) joined: bool,
    pub(super) is_unwanted: bool,
    pub(super) eventful: bool,
    /// Whether its spans are sent as they come, though nothing has gone wrong.
    pub(super) is_sent: bool,
    pub(super) held: Vec<Held>,
    pub(super) context: Arc<TraceContext>,
    pub(super) spans: Spans,
}

#[derive(Default)]
pub(super) struct Note {
    pub(super) open: bool,
    pub(super) sent: bool,
    /// The span right above, in this process.
    pub(super) parent: Option<SpanId>,
    /// The nearest span above that is sent.
    pub(super) above: Option<SpanId>,
    /// The span that called this process, where the outermost span above is its child.
    pub(super) beyond: Option<SpanId>,
    pub(super) is_claimed: bool,
    pub(super) went_out: bool,
    /// Whether a span that is sent began below while this one was not one of them.
    pub(super) passed_over: bool,
    pub(super) is_agent: bool,
    pub(super) updates: Vec<KeyValue>,
    /// What is known around the span, and so around those below it.
    pub(super) scope: Option<Arc<Scope>>,
    /// What a scope that began within the span says of it alone.
    pub(super) stands_in: Option<Arc<Scope>>,
    /// What is written of it before it ends, until it is.
    pub(super) began: Option<Began>,
}

/// When and as what a span began.
pub(super) struct Began {
    /// In nanoseconds since 1970.
    pub(super) at: u64,
    pub(super) name: Arc<str>,
}

// ===== impl Trace =====

impl Trace {
    pub(super) fn start(&mut self, started: Started<'_>, began: Option<Began>) {
        // A process may call itself.
        let parent_note = self.spans.get(&started.parent);
        let is_remote = started.parent_is_remote && parent_note.is_none();
        let above = parent_note
            .and_then(|parent| if parent.sent { Some(started.parent) } else { parent.above });
        let beyond =
            if is_remote { Some(started.parent) } else { parent_note.and_then(|note| note.beyond) };
        let scope =
            Scope::deeper(started.scope, parent_note.and_then(|parent| parent.scope.clone()));
        let is_claimed = scope.as_ref().is_some_and(|scope| scope.has_claimed(started.trace));
        self.joined |= is_remote;
        self.is_unwanted |= started.is_unwanted;
        self.learn(started.says.as_deref());
        let parent = (!is_remote).then_some(started.parent);
        if started.sent {
            if above.is_none() {
                self.name_after(started.name);
            }
            self.pass_over(parent);
        }
        if self.spans.len() >= SPANS_PER_TRACE.max(2 * self.open) {
            self.spans.retain(|_, note| note.open);
        }
        let note = Note {
            open: true,
            sent: started.sent,
            parent,
            above,
            beyond,
            is_claimed,
            went_out: false,
            passed_over: false,
            is_agent: started.is_agent,
            updates: Vec::new(),
            scope,
            stands_in: None,
            began,
        };
        let replaced = self.spans.insert(started.span, note);
        if replaced.is_none_or(|note| !note.open) {
            self.open += 1;
        }
    }

    pub(super) fn learn(&mut self, says: Option<&TraceContext>) {
        if let Some(says) = says
            && !says.is_empty()
        {
            Arc::make_mut(&mut self.context).merge(says);
        }
    }

    /// Names the trace after its outermost span, where this process began it and nobody else did.
    pub(super) fn name_after(&mut self, root: &str) {
        if !self.joined && self.context.name.is_none() {
            Arc::make_mut(&mut self.context).name = Some(root.to_owned());
        }
    }

    /// Notes that a span which is sent has begun below spans which are not.
    pub(super) fn pass_over(&mut self, mut parent: Option<SpanId>) {
        while let Some(note) = parent.and_then(|parent| self.spans.get_mut(&parent))
            && !note.sent
            && !note.passed_over
        {
            note.passed_over = true;
            parent = note.parent;
        }
    }

    pub(super) fn end(&mut self, span: SpanId, name: Option<&str>) -> Ended {
        let Some(note) = self.spans.get_mut(&span).filter(|note| note.open) else {
            return Ended { trace: Some(self.context.clone()), ..Ended::default() };
        };
        // The note stays as long as the trace, for children that start after their parent's end.
        note.open = false;
        note.began = None;
        self.open -= 1;
        let passed_over = !note.sent && note.passed_over;
        let late = name.filter(|_| !note.sent && !passed_over);
        note.sent |= late.is_some();
        let (above, beyond, parent) = (note.above, note.beyond, note.parent);
        let (is_claimed, went_out) = (note.is_claimed, note.went_out);
        let updates = std::mem::take(&mut note.updates);
        let scope = note.stands_in.take().or_else(|| note.scope.clone());
        if let Some(name) = late {
            if above.is_none() {
                self.name_after(name);
            }
            self.pass_over(parent);
        }
        let trace = Some(self.context.clone());
        let (eventful, is_sent) = (self.eventful, self.is_sent);
        Ended {
            known: true,
            above,
            parent: above.or(beyond).or(parent),
            is_claimed,
            went_out,
            updates,
            trace,
            scope,
            eventful,
            passed_over,
            is_sent,
            is_unwanted: self.is_unwanted,
            held: None,
        }
    }
}

pub(super) fn nearest_sent(spans: &Spans, span: SpanId) -> Option<SpanId> {
    let mut candidate = Some(span);
    while let Some(span) = candidate {
        let note = spans.get(&span)?;
        if note.sent && note.open {
            return Some(span);
        }
        candidate = note.above;
    }
    None
}
