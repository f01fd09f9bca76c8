//! The trees of spans, for a terminal: the same spans as in Langfuse.

mod collected;
mod span;
mod tree;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use opentelemetry_proto::tonic::trace::v1::Span;
use serde_json::Value as Json;

use self::{collected::Collected, tree::Tree};
use crate::{
    encode::Encoded,
    sink::{FlushError, Sink, Stats},
    spool::Class,
};

/// Collects traces and draws them as trees.
///
/// A cheap handle: clones share the spans. The last 10,000 spans are kept, and at most 16 MiB of
/// them as they are sent, which in memory take more. Past it the oldest traces go, of a trace that
/// still grows its oldest spans; the newest span always stays. `Stats` count what went as dropped
/// where the tree is all that collects.
///
/// Control characters and those that turn text around are drawn as spaces. Spans more than 50
/// levels below their root are counted instead of shown, so that JSON of the deepest tree stays
/// within the 128 levels that `serde_json` reads.
///
/// # Defaults
///
/// - `colour`: off
#[derive(Clone, Default)]
pub struct TerminalTree {
    collected: Arc<Mutex<Collected>>,
    colour: bool,
}

// ===== impl TerminalTree =====

impl TerminalTree {
    /// Makes an empty collection.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says whether levels are drawn in colour.
    #[must_use]
    pub const fn colour(mut self, colour: bool) -> Self {
        self.colour = colour;
        self
    }

    /// Draws every trace, oldest first.
    #[must_use]
    pub fn render(&self) -> String {
        self.trees().join("\n")
    }

    /// Draws each trace for itself, oldest first.
    #[must_use]
    pub fn trees(&self) -> Vec<String> {
        let collected = self.collected();
        collected.in_order().map(|spans| Tree::of(spans.collect()).render(self.colour)).collect()
    }

    /// Returns the roots of every trace as JSON, with their children in them.
    ///
    /// A span 50 levels below its root has a number `deeper` instead of children, where it has
    /// any: that of the spans below it.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let collected = self.collected();
        collected.in_order().flat_map(|spans| Tree::of(spans.collect()).to_json()).collect()
    }

    /// Takes a span.
    pub(crate) fn collect(&self, span: Span) {
        self.collected().add(span);
    }

    fn collected(&self) -> MutexGuard<'_, Collected> {
        // What a panicking thread left is still a list of whole spans.
        self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Draws the spans of one trace, which need not all have been collected.
#[cfg(feature = "client")]
pub(crate) fn draw(spans: &[Span], colour: bool) -> String {
    Tree::of(spans.iter().collect()).render(colour)
}

impl Sink for TerminalTree {
    fn accept(&self, _: &[Encoded], span: Encoded, _: Class) {
        if let Ok(span) = span.decode() {
            self.collect(span);
        }
    }

    fn flush(&self, _: Duration) -> Result<(), FlushError> {
        Ok(())
    }

    fn shutdown(&self, _: Duration) -> Result<(), FlushError> {
        Ok(())
    }

    fn stats(&self) -> Stats {
        self.collected().stats
    }
}

impl fmt::Debug for TerminalTree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What spans say is not shown: it may be a prompt.
        let collected = self.collected();
        f.debug_struct("TerminalTree")
            .field("spans", &collected.spans())
            .field("bytes", &collected.bytes())
            .field("colour", &self.colour)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
