//! What the layer, the routes and the readers share.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use buttress::{circuit_breaker::Circuit, observe::Observed};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use crate::{
    board::{Board, Cursor, Source, Trace, choose},
    text,
};

type TraceUrl = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The state of a dashboard.
///
/// No code of others runs under its lock: circuits have listeners, and those may log, which comes
/// back here through the layer.
#[derive(Debug)]
pub(crate) struct Shared {
    board: Mutex<Board>,
    settings: RwLock<Settings>,
    pulse: watch::Sender<Pulse>,
    is_refreshing: AtomicBool,
    /// When the dashboard was made, in milliseconds since 1970.
    started: u64,
}

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) trace_url: Option<TraceUrl>,
    pub(crate) with_texts: bool,
    pub(crate) most_keyed: usize,
    pub(crate) readers: Arc<Semaphore>,
}

/// What readers wait for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pulse {
    /// Grows with everything that readers should hear of at once.
    beats: u64,
    pub(crate) is_closed: bool,
}

/// Ends a refresh, however it ends.
struct Refreshing<'a>(&'a AtomicBool);

// ===== impl Shared =====

impl Shared {
    pub(crate) fn new() -> Self {
        Self {
            board: Mutex::default(),
            settings: RwLock::default(),
            pulse: watch::Sender::new(Pulse::default()),
            is_refreshing: AtomicBool::new(false),
            started: text::now_millis(),
        }
    }

    pub(crate) fn settings(&self) -> Settings {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, set: impl FnOnce(&mut Settings)) {
        set(&mut self.settings.write().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn pulse(&self) -> watch::Receiver<Pulse> {
        self.pulse.subscribe()
    }

    /// Lets readers know that there is something to read.
    pub(crate) fn beat(&self) {
        self.pulse.send_modify(|pulse| pulse.beats += 1);
    }

    /// Ends the answers to all readers.
    pub(crate) fn close(&self) {
        self.pulse.send_modify(|pulse| pulse.is_closed = true);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.pulse.borrow().is_closed
    }

    /// Adds circuits, and watches those that are there already.
    pub(crate) fn add(self: &Arc<Self>, source: Source) {
        {
            let mut board = self.board();
            let Board { circuits, versions, .. } = &mut *board;
            let place = circuits.sources.len();
            if let Source::One(circuit) = &source {
                circuits.watch(place, circuit, Arc::downgrade(self), versions);
            }
            circuits.sources.push(source);
        }
        self.beat();
    }

    pub(crate) fn circuit(&self, id: u64) -> Option<Circuit> {
        self.board().circuits.circuit(id)
    }

    /// Returns a trace with its address; runs code of others.
    pub(crate) fn trace(&self, id: String) -> Trace {
        let settings = self.settings();
        let url = settings.trace_url.and_then(|url| url(&id)).and_then(text::address);
        Trace { id, url }
    }

    /// Takes in a span that has ended.
    pub(crate) fn take_in(&self, seen: &Observed, trace: Option<Trace>) {
        let with_texts = self.settings.read().unwrap_or_else(PoisonError::into_inner).with_texts;
        let is_news = self.board().take_in(seen, trace, with_texts);
        if is_news {
            self.beat();
        }
    }

    /// Returns what a reader does not know yet, or that there is nothing if that is to be said.
    pub(crate) fn news(
        self: &Arc<Self>,
        read: Option<Cursor>,
        say_nothing: bool,
    ) -> Option<(Cursor, String)> {
        if read.is_none() {
            // Who comes sees things as they are.
            self.board().look_again();
        }
        self.refresh();
        self.board().news(read, say_nothing, self.started)
    }

    /// Looks at every circuit; for all readers together, and not while another does.
    fn refresh(self: &Arc<Self>) {
        if self.is_refreshing.swap(true, Ordering::Acquire) {
            return;
        }
        let _refreshing = Refreshing(&self.is_refreshing);
        // Taken before the look: what changes during it is looked at again.
        let look = (self.pulse.borrow().beats, Instant::now());
        if !self.board().is_due(look) {
            return;
        }

        let sources = self.board().circuits.sources.clone();
        let mut seen = Vec::new();
        for (place, source) in sources.iter().enumerate() {
            source.look(place, &mut seen);
        }
        let more = choose(&mut seen, self.settings().most_keyed);
        let unwatched = {
            let mut board = self.board();
            board.forget();
            let Board { circuits, versions, .. } = &mut *board;
            circuits.merge(seen, more, &Arc::downgrade(self), versions)
        };
        // Here, since listeners of others may go with them.
        drop(unwatched);
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        // Every change is made as a whole, so a poisoned board is sound.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Refreshing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

// ===== impl Settings =====

impl Default for Settings {
    fn default() -> Self {
        Self {
            trace_url: None,
            with_texts: true,
            most_keyed: 100,
            readers: Arc::new(Semaphore::new(64)),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("with_texts", &self.with_texts)
            .field("most_keyed", &self.most_keyed)
            .finish_non_exhaustive()
    }
}
