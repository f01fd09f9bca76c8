//! The handle.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tracing::Subscriber;
use tracing_subscriber::{Layer, registry::LookupSpan};

use crate::{
    core::Core,
    layer,
    processor::LangfuseSpanProcessor,
    sink::{FlushError, ProjectLink, Sink, Stats, TraceDefaults},
    terminal::TerminalTree,
};

/// How long the last handle waits for delivery when it is dropped.
const DROP_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends the traces of this process to Langfuse.
///
/// A cheap handle: clones share one delivery. Keep one until the program ends and call
/// [`shutdown`](Self::shutdown) there; the last handle that is dropped without it delivers what
/// is left by itself, for at most 5 seconds.
///
/// # Examples
///
/// ```
/// use buttress_langfuse::{Langfuse, TerminalTree};
/// use tracing_subscriber::layer::SubscriberExt as _;
///
/// // Collects the spans instead of sending them.
/// let tree = TerminalTree::new();
/// let langfuse = Langfuse::to_terminal(tree.clone());
/// let subscriber = tracing_subscriber::registry().with(langfuse.layer());
/// tracing::subscriber::with_default(subscriber, || {
///     let _span = tracing::info_span!(target: "buttress", "retry_execution").entered();
///     buttress_langfuse::current().session("session-7").metadata("ticker", "AAPL");
/// });
/// assert!(tree.render().contains("retry_execution"));
/// ```
#[derive(Clone)]
pub struct Langfuse {
    handle: Arc<Handle>,
}

/// Ends delivery when the last clone goes.
struct Handle {
    core: Arc<Core>,
    link: Option<ProjectLink>,
    /// The tree that is the sink itself, where nothing is sent.
    tree: Option<TerminalTree>,
    closed: AtomicBool,
}

impl Langfuse {
    /// Puts the parts together.
    pub(crate) fn assemble(
        sink: Arc<dyn Sink>,
        defaults: TraceDefaults,
        printer: Option<TerminalTree>,
        link: Option<ProjectLink>,
    ) -> Self {
        let core = Core::new(sink, defaults, printer);
        Self { handle: Arc::new(Handle { core, link, tree: None, closed: AtomicBool::new(false) }) }
    }

    /// Puts the parts together where nothing is sent.
    pub(crate) fn assemble_for_terminal(
        sink: Arc<dyn Sink>,
        defaults: TraceDefaults,
        tree: TerminalTree,
    ) -> Self {
        Self {
            handle: Arc::new(Handle {
                core: Core::new(sink, defaults, None),
                link: None,
                tree: Some(tree),
                closed: AtomicBool::new(false),
            }),
        }
    }

    /// Collects every trace in `tree` and sends nothing.
    #[must_use]
    pub fn to_terminal(tree: TerminalTree) -> Self {
        Self::assemble_for_terminal(Arc::new(tree.clone()), TraceDefaults::default(), tree)
    }

    /// Returns the tracing layer, for a subscriber without a layer of tracing-opentelemetry.
    ///
    /// Two such layers cannot stand in one subscriber: this one is then refused, says so on
    /// stderr, and does nothing. Add [`span_processor`](Self::span_processor) to the other
    /// layer's provider instead. A line on stderr also says when a filter keeps the spans of
    /// buttress out. Neither is noticed for a layer in a `Vec` or an `Option`, which do not tell
    /// their layers of the subscriber: two layers of tracing-opentelemetry panic there.
    ///
    /// # Tracing
    ///
    /// The layer sees every span, so that ids are shared with what is around an agent; it sends
    /// spans of the target `buttress`, spans with `gen_ai.*` fields, and those of targets that
    /// the configuration names. The provider is the layer's own, never the global one.
    ///
    /// What a span is counts when it starts, which is when it is first entered or gets a child. A
    /// span that records its first `gen_ai.*` field later is sent too, unless one that is sent
    /// began below it before: that one has taken its place in the trace.
    #[must_use]
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + 'static,
    {
        layer::build(&self.handle.core)
    }

    /// Returns a span processor, for a provider of OpenTelemetry that exists already.
    ///
    /// It sends what [`layer`](Self::layer) sends, scores too, at the end of each span: a failed span
    /// is told of when the last handle on it is dropped, not when its layer records the failure. The
    /// provider's tracing-opentelemetry layer must keep targets on, as it does by default.
    #[must_use]
    pub fn span_processor(&self) -> LangfuseSpanProcessor {
        self.handle.core.share_provider();
        LangfuseSpanProcessor::new(self.handle.core.clone(), false)
    }

    /// Waits until every span that has ended is delivered.
    ///
    /// Delivery has a thread of its own, so this cannot deadlock on any runtime; it does block
    /// the calling thread.
    ///
    /// # Errors
    ///
    /// Fails when spans still wait after `timeout`, or were given up when delivery ended.
    pub fn flush(&self, timeout: Duration) -> Result<(), FlushError> {
        self.handle.core.flush(timeout)
    }

    /// Waits until what processes before have left in the spool is delivered, or refused for good.
    ///
    /// What ended processes left is taken over once, when this handle starts, and is delivered
    /// without this as well; [`Stats::to_recover`] says how much of it still waits. Of it that
    /// which cannot be read stays on disk, counts as waiting, and is said on stderr.
    ///
    /// # Errors
    ///
    /// Fails when some of it still waits after `timeout`, and `Misconfigured` as soon as Langfuse
    /// answers that keys or address are wrong. Nothing of it is lost: it stays on disk.
    pub fn recover(&self, timeout: Duration) -> Result<(), FlushError> {
        self.handle.core.recover(timeout)
    }

    /// Delivers what is left and ends delivery, for every clone of the handle.
    ///
    /// It takes no longer than `timeout`, and answers the same when it is called again. What is
    /// not delivered by then is given up: one line on stderr says how many spans, and
    /// [`Stats::dropped`] counts them.
    ///
    /// # Errors
    ///
    /// Fails when spans still wait after `timeout`.
    pub fn shutdown(&self, timeout: Duration) -> Result<(), FlushError> {
        self.handle.closed.store(true, Ordering::Relaxed);
        self.handle.core.shutdown(timeout)
    }

    /// Returns the counts of spans since the start.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.handle.core.stats()
    }

    /// Tells the recorder of the `metrics` facade the counts since the start; call it when it is asked.
    ///
    /// `buttress.langfuse.spans` and `.scores` by `outcome` (delivered, dropped, refused),
    /// `buttress.langfuse.pending` and `.scores.pending`, `buttress.langfuse.spool.depth`: what waits on disk
    /// only; and what to be called for: `buttress.langfuse.dropped_eventful`, spans of traces in which
    /// something had gone wrong, and `buttress.langfuse.spool.damaged`.
    #[cfg(feature = "metrics")]
    pub fn publish_metrics(&self) {
        crate::metrics::publish(&self.stats());
    }

    /// Returns the tree that collects the same spans, where one was asked for or keys are missing.
    #[must_use]
    pub fn terminal(&self) -> Option<&TerminalTree> {
        self.handle.tree.as_ref().or_else(|| self.handle.core.printer())
    }

    /// Returns the address at which a person reads a trace; none where nothing is sent.
    #[must_use]
    pub fn trace_url(&self, trace_id: &str) -> Option<String> {
        self.handle.link.as_ref().map(|link| link.trace(trace_id))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.closed.swap(true, Ordering::Relaxed) {
            return;
        }
        // The sink itself says what it gives up.
        drop(self.core.shutdown(DROP_TIMEOUT));
        self.core.abandon();
    }
}

impl fmt::Debug for Langfuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Langfuse").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl ProjectLink {
    fn trace(&self, trace_id: &str) -> String {
        let base = self.base_url.trim_end_matches('/');
        match &self.project_id {
            Some(project) => format!("{base}/project/{project}/traces/{trace_id}"),
            // Langfuse finds the project by itself for whoever may see it.
            None => format!("{base}/trace/{trace_id}"),
        }
    }
}

#[cfg(test)]
mod tests;
