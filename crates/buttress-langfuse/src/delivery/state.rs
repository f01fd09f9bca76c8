//! What waits, how much was delivered, and how it ended.

use std::collections::{HashSet, VecDeque};

use bytes::Bytes;

use crate::sink::{FlushError, Stats};

/// No request holds more bytes of spans than this, before compression, unless one span does.
pub(super) const REQUEST_BYTES: usize = 3 << 20;

#[derive(Default)]
pub(super) struct State {
    pub(super) queue: VecDeque<Bytes>,
    pub(super) queued_bytes: usize,
    pub(super) stats: Stats,
    /// How many threads wait in `flush` and `shutdown`: do not wait for more spans.
    pub(super) waiting: usize,
    /// Whether somebody has begun to wait since the last try began.
    pub(super) hurry: bool,
    pub(super) pause: Pause,
    /// Whether spans are taken no more.
    pub(super) closing: bool,
    pub(super) end: Option<End>,
    /// Whether the thread has nothing left to do.
    pub(super) thread_ended: bool,
    pub(super) last_error: Option<String>,
    /// What was said on stderr already.
    pub(super) said: HashSet<&'static str>,
}

/// Why delivery pauses between two tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Pause {
    /// It does not.
    #[default]
    None,
    /// The server asked for it.
    Asked,
    /// The server is away.
    Away,
    /// A person has to change something.
    Misconfigured,
}

/// How delivery ended.
pub(super) enum End {
    /// It was shut down, which ended so.
    Closed(Result<(), FlushError>),
    /// The thread panicked.
    Panicked(FlushError),
}

// ===== impl State =====

impl State {
    /// Takes what fits into a request.
    pub(super) fn take(&mut self) -> Vec<Bytes> {
        if self.queued_bytes <= REQUEST_BYTES {
            // At once: whose spans end meanwhile waits for this.
            self.queued_bytes = 0;
            let room = VecDeque::with_capacity(self.queue.len());
            return std::mem::replace(&mut self.queue, room).into();
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.queue.front()
            && (batch.is_empty() || bytes + next.len() <= REQUEST_BYTES)
        {
            bytes += next.len();
            batch.extend(self.queue.pop_front());
        }
        self.queued_bytes -= bytes;
        batch
    }

    pub(super) const fn is_settled(&self, target: u64) -> bool {
        self.stats.delivered + self.stats.refused >= target
    }

    pub(super) fn pending(&self) -> usize {
        usize::try_from(self.stats.pending).unwrap_or(usize::MAX)
    }

    /// Says what is missing when the time is over.
    pub(super) fn shortfall(&self) -> FlushError {
        let pending = self.pending();
        match self.last_error.clone() {
            Some(reason) => FlushError::Undelivered { pending, reason },
            None => FlushError::TimedOut { pending },
        }
    }

    /// Ends delivery unless it has ended, and gives up what waits; returns how much, and why.
    pub(super) fn finish(&mut self, end: impl FnOnce(&Self) -> End) -> Option<(u64, String)> {
        if self.end.is_some() {
            return None;
        }
        let end = end(self);
        let reason = match &end {
            End::Closed(Err(FlushError::Undelivered { reason, .. }))
            | End::Panicked(FlushError::Undelivered { reason, .. }) => reason.clone(),
            _ => "the time was over".to_owned(),
        };
        self.end = Some(end);
        self.queue = VecDeque::new();
        self.queued_bytes = 0;
        let given_up = std::mem::take(&mut self.stats.pending);
        self.stats.dropped += given_up;
        Some((given_up, reason))
    }
}
