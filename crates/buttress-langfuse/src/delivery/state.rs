//! What waits, how much was delivered, and how it ended.

use std::collections::{HashSet, VecDeque};

use crate::{
    sink::{FlushError, Stats},
    spool::{Kind, Waiting},
};

/// No request holds more bytes of spans than this, before compression, unless one span does.
pub(super) const REQUEST_BYTES: usize = 3 << 20;
/// However slow the server is, requests may hold so much.
const LEAST_REQUEST_BYTES: usize = 4 << 10;

pub(super) struct State {
    pub(super) queue: VecDeque<Waiting>,
    /// Of the queue, what gives way to what matters more.
    expendable: usize,
    /// What is on its way to the server; what is sent next stands last.
    pub(super) under_way: Vec<Waiting>,
    /// Whether that is of more than one span.
    pub(super) is_divisible: bool,
    /// How many bytes a request holds at most: fewer where they are too slow.
    pub(super) request_bytes: usize,
    pub(super) queued_bytes: usize,
    /// Counts of spans.
    pub(super) stats: Stats,
    /// The same of scores.
    pub(super) scores: Stats,
    /// Of what was accepted, what was given up for want of room on disk.
    pub(super) given_up: u64,
    /// Of what was refused, what was taken over: it was never accepted.
    pub(super) refused_of_others: u64,
    /// Whether the thread has looked for what processes before have left.
    pub(super) has_taken_over: bool,
    /// How many drops the server was told of.
    pub(super) reported: u64,
    /// How many drops a person was told of.
    pub(super) told: u64,
    /// Of what was given up, what was in memory only and of traces in which something went wrong.
    pub(super) dropped_eventful: u64,
    /// How many threads wait in `flush`, `recover` and `shutdown`: do not wait for more spans.
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

/// What is left at the end.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// How much the next process finds.
    pub(super) kept: u64,
    /// How many spans it does not find that are of traces in which something went wrong.
    pub(super) lost_eventful: u64,
}

/// How delivery ended.
pub(super) enum End {
    /// It was shut down, which ended so.
    Closed(Result<(), FlushError>),
    /// The thread panicked.
    Panicked(FlushError),
}

// ===== impl State =====

impl Default for State {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            expendable: 0,
            queued_bytes: 0,
            under_way: Vec::new(),
            is_divisible: false,
            request_bytes: REQUEST_BYTES,
            stats: Stats::default(),
            scores: Stats::default(),
            given_up: 0,
            refused_of_others: 0,
            has_taken_over: false,
            reported: 0,
            told: 0,
            dropped_eventful: 0,
            waiting: 0,
            hurry: false,
            pause: Pause::None,
            closing: false,
            end: None,
            thread_ended: false,
            last_error: None,
            said: HashSet::new(),
        }
    }
}

impl State {
    /// Lets something wait.
    pub(super) fn push(&mut self, one: Waiting) {
        self.queued_bytes += one.bytes.len();
        self.expendable += usize::from(is_expendable(&one));
        self.queue.push_back(one);
    }

    /// Gives up what waits in memory only, so that so many bytes of what went wrong have room: what
    /// went well first, then the oldest; returns whether there was something.
    pub(super) fn give_way(&mut self, bytes: usize) -> bool {
        if self.expendable == 0 {
            let oldest = self.queue.iter().position(|one| one.position.is_none());
            return match oldest.and_then(|at| self.queue.remove(at)) {
                Some(one) => {
                    self.drop_one(&one);
                    true
                }
                None => false,
            };
        }
        // All of the queue is looked at, so not for one span alone.
        let least = self.expendable.min(self.queue.len() / 16);
        let mut queue = std::mem::take(&mut self.queue);
        let (mut spans, mut freed) = (0, 0);
        queue.retain(|one| {
            let goes = is_expendable(one) && (spans == 0 || spans < least || freed < bytes);
            if goes {
                (spans, freed) = (spans + 1, freed + one.bytes.len());
                self.drop_one(one);
            }
            !goes
        });
        self.queue = queue;
        self.expendable -= spans;
        true
    }

    /// Counts one that was accepted, waited in the queue and is given up.
    fn drop_one(&mut self, one: &Waiting) {
        self.queued_bytes -= one.bytes.len();
        self.given_up += 1;
        let counts = self.counts(one.kind);
        counts.pending = counts.pending.saturating_sub(1);
        self.note_drop(one);
    }

    /// Counts one that is given up.
    pub(super) fn note_drop(&mut self, one: &Waiting) {
        self.counts(one.kind).dropped += 1;
        self.dropped_eventful += u64::from(one.is_eventful && !one.is_score());
    }

    /// Takes what fits into a request.
    pub(super) fn take(&mut self) -> Vec<Waiting> {
        if self.queued_bytes <= self.request_bytes {
            // At once: whose spans end meanwhile waits for this.
            self.queued_bytes = 0;
            self.expendable = 0;
            let room = VecDeque::with_capacity(self.queue.len());
            return std::mem::replace(&mut self.queue, room).into();
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.queue.front()
            && (batch.is_empty() || bytes + next.bytes.len() <= self.request_bytes)
        {
            bytes += next.bytes.len();
            batch.extend(self.queue.pop_front());
        }
        self.queued_bytes -= bytes;
        self.expendable -= batch.iter().filter(|one| is_expendable(one)).count();
        batch
    }

    /// Notes that of what is sent next only the first part is, and the rest after it.
    pub(super) fn put_off(&mut self, first: usize, rest: usize) {
        if let Some(at) = self.under_way.len().checked_sub(first + rest) {
            self.under_way[at..].rotate_left(first);
        }
    }

    /// Notes that what was sent last has its answer.
    pub(super) fn has_arrived(&mut self, sent: usize) {
        self.under_way.truncate(self.under_way.len().saturating_sub(sent));
    }

    /// Makes requests smaller than one that was too slow.
    pub(super) fn shrink_requests(&mut self, bytes: usize) {
        self.request_bytes = (bytes / 2).clamp(LEAST_REQUEST_BYTES, REQUEST_BYTES);
    }

    /// Makes requests larger again, after one that was not.
    pub(super) fn grow_requests(&mut self) {
        self.request_bytes = (self.request_bytes * 5 / 4).min(REQUEST_BYTES);
    }

    /// Returns the counts of spans or of scores.
    pub(super) fn counts(&mut self, kind: Kind) -> &mut Stats {
        if kind == Kind::Score { &mut self.scores } else { &mut self.stats }
    }

    pub(super) const fn accepted(&self) -> u64 {
        self.stats.accepted + self.scores.accepted
    }

    pub(super) const fn is_settled(&self, target: u64) -> bool {
        let (spans, scores) = (&self.stats, &self.scores);
        let settled = spans.delivered + spans.refused + scores.delivered + scores.refused;
        settled - self.refused_of_others + self.given_up >= target
    }

    pub(super) fn pending(&self) -> usize {
        usize::try_from(self.stats.pending + self.scores.pending).unwrap_or(usize::MAX)
    }

    /// Says what is missing when the time is over.
    pub(super) fn shortfall(&self) -> FlushError {
        self.shortfall_of(self.pending())
    }

    /// Says what is missing when so much waits.
    pub(super) fn shortfall_of(&self, pending: usize) -> FlushError {
        match self.last_error.clone() {
            Some(reason) => FlushError::Undelivered { pending, reason },
            None => FlushError::TimedOut { pending },
        }
    }

    /// Ends delivery unless it has ended, and gives up what waits and what `keep` does not keep of
    /// it; returns how much, and why.
    pub(super) fn finish(
        &mut self,
        end: impl FnOnce(&Self) -> End,
        keep: impl FnOnce(Vec<Waiting>) -> Left,
    ) -> Option<(u64, String)> {
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
        let mut waiting = std::mem::take(&mut self.under_way);
        waiting.extend(std::mem::take(&mut self.queue));
        (self.queued_bytes, self.expendable) = (0, 0);
        let pending = self.stats.pending + self.scores.pending;
        let left = keep(waiting);
        let given_up = pending - left.kept.min(pending);
        self.dropped_eventful += left.lost_eventful.min(given_up);
        // Spans first, as which all count that wait on disk.
        let spans = given_up.min(self.stats.pending);
        self.stats.pending -= spans;
        self.stats.dropped += spans;
        self.scores.pending -= given_up - spans;
        self.scores.dropped += given_up - spans;
        Some((given_up, reason))
    }
}

/// Returns whether something gives way to what matters more.
fn is_expendable(one: &Waiting) -> bool {
    one.position.is_none() && !one.is_eventful
}
