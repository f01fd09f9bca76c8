//! What layers and span processors share with the handle.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use opentelemetry::TraceId;

use crate::{
    encode::Encoded,
    filter::SpanFilter,
    notice::notice,
    privacy::Privacy,
    sampling::Sampling,
    score::Score,
    sink::{FlushError, Sink, Stats, TraceDefaults},
    spool::Class,
    terminal::TerminalTree,
    trace::Defaults,
    traces::Traces,
};

/// Every core that is in use, for code that has a span but no handle.
static LIVE: Mutex<Vec<Weak<Core>>> = Mutex::new(Vec::new());

/// The way of a span from its end to the sink.
pub(crate) struct Core {
    pub(crate) traces: Traces,
    pub(crate) filter: SpanFilter,
    pub(crate) defaults: Defaults,
    pub(crate) sampling: Sampling,
    pub(crate) privacy: Privacy,
    pub(crate) as_root: bool,
    /// Whether the sink wants the starts of open spans.
    pub(crate) journals: bool,
    sink: Arc<dyn Sink>,
    printer: Option<TerminalTree>,
    /// Whether spans come from a provider of the user's, who may send others elsewhere.
    shares_provider: AtomicBool,
    /// Whether the last handle was dropped while spans may still come.
    abandoned: AtomicBool,
}

impl Core {
    pub(crate) fn new(
        sink: Arc<dyn Sink>,
        defaults: TraceDefaults,
        printer: Option<TerminalTree>,
    ) -> Arc<Self> {
        let core = Arc::new(Self {
            traces: Traces::new(),
            defaults: Defaults::of(&defaults),
            privacy: defaults.privacy,
            filter: SpanFilter { targets: defaults.targets },
            sampling: Sampling { rate: defaults.sample_rate, is_compact: defaults.is_compact },
            as_root: defaults.as_root,
            journals: sink.journals(),
            sink,
            printer,
            shares_provider: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
        });
        let mut live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|core| core.strong_count() > 0);
        live.push(Arc::downgrade(&core));
        core
    }

    /// Returns the cores that are in use.
    pub(crate) fn live() -> Vec<Arc<Self>> {
        let live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
        live.iter().filter_map(Weak::upgrade).collect()
    }

    /// Hands a mapped span on.
    pub(crate) fn accept(&self, starts: &[Encoded], span: Encoded, class: Class) {
        if self.abandoned.load(Ordering::Relaxed) && self.abandoned.swap(false, Ordering::Relaxed) {
            notice(format_args!(
                "a span ended after the last handle was dropped and may not be delivered; \
                 keep the `Langfuse` value until the program ends"
            ));
        }
        if let Some(printer) = &self.printer {
            printer.accept(&[], span.clone(), class);
        }
        self.sink.accept(starts, span, class);
    }

    /// Hands a score on, where its trace is one that is sent.
    pub(crate) fn score(&self, score: &Score<'_>) {
        let is_eventful = self.traces.is_eventful(score.trace);
        if !(is_eventful || score.tells_of_trouble() || self.wants(score.trace)) {
            return;
        }
        let span = score.span.and_then(|span| self.traces.nearest_sent(score.trace, span));
        let comment = score.comment.map(|comment| self.privacy.message(comment.into()));
        let score =
            Score { span, value: score.value.clone(), comment: comment.as_deref(), ..*score };
        if let Some(bytes) = score.encode(self.defaults.environment()) {
            let class = if is_eventful { Class::Eventful } else { Class::Uneventful };
            self.sink.score(bytes, class);
        }
    }

    /// Returns whether a trace that is open is sent, as far as is known.
    pub(crate) fn sends(&self, trace: TraceId) -> bool {
        self.traces.is_eventful(trace) || self.wants(trace)
    }

    /// Returns whether a trace is sent though nothing goes wrong in it.
    fn wants(&self, trace: TraceId) -> bool {
        self.sampling.takes(trace) && !self.traces.is_unwanted(trace)
    }

    pub(crate) fn shares_provider(&self) -> bool {
        self.shares_provider.load(Ordering::Relaxed)
    }

    /// Notes that spans come from a provider of the user's.
    pub(crate) fn share_provider(&self) {
        self.shares_provider.store(true, Ordering::Relaxed);
    }

    pub(crate) fn flush(&self, timeout: Duration) -> Result<(), FlushError> {
        self.sink.flush(timeout)
    }

    pub(crate) fn shutdown(&self, timeout: Duration) -> Result<(), FlushError> {
        self.sink.shutdown(timeout)
    }

    pub(crate) fn recover(&self, timeout: Duration) -> Result<(), FlushError> {
        self.sink.recover(timeout)
    }

    /// Remembers that nobody is left to shut delivery down again.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> Stats {
        self.sink.stats()
    }

    pub(crate) const fn printer(&self) -> Option<&TerminalTree> {
        self.printer.as_ref()
    }
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What spans say is not shown: it may be a prompt.
        f.debug_struct("Core")
            .field("traces", &self.traces)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
