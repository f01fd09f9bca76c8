//! What the delivery's thread shares with those that hand spans over and wait for them.

mod work;

use std::{
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use buttress::{Circuit, CircuitBreakerLayer, HalfOpen};
use tokio::sync::Notify;

use super::{
    Answer, Limits, Sender,
    countdown::Countdown,
    problem::Problem,
    state::{End, Left, Pause, REQUEST_BYTES, State},
};
use crate::{
    encode::Encoded,
    notice::notice,
    sink::{FlushError, Stats},
    spool::{Class, Spool, Waiting, Written},
    text::Secrets,
};

/// What delivery says when its thread has panicked.
const PANICKED: &str = "the thread of the delivery has panicked";

pub(super) struct Shared {
    pub(super) limits: Limits,
    /// The destination's name in sentences.
    peer: &'static str,
    /// What no sentence shows.
    pub(super) secrets: Secrets,
    /// Where spans wait that outlive the process.
    spool: Option<Spool>,
    /// Keeps requests from a server that answers none.
    circuit: Circuit,
    state: Mutex<State>,
    /// Wakes the thread.
    pub(super) work: Notify,
    /// Tells the thread to give up.
    pub(super) stop: Notify,
    /// Wakes who waits in `flush` and `shutdown`.
    settled: Condvar,
    /// Ends the pause between two tries: somebody has begun to wait.
    hurried: Notify,
}

/// What became of a span that was handed over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) is_first_drop: bool,
    /// Whether the thread has something to do now.
    pub(super) wakes: bool,
}

/// Tells that the thread has ended, also by a panic.
pub(super) struct Ending<'a>(pub(super) &'a Shared);

// ===== impl Shared =====

impl Shared {
    pub(super) fn new(
        limits: Limits,
        peer: &'static str,
        secrets: Secrets,
        spool: Option<Spool>,
    ) -> Self {
        Self {
            limits,
            peer,
            secrets,
            spool,
            // Shorter than the longest delay between tries, and by one probe.
            circuit: CircuitBreakerLayer::new("langfuse")
                .open_for((limits.retry_max / 4).max(Duration::from_millis(1)))
                .half_open(HalfOpen::consecutive(1, 1))
                .circuit(),
            state: Mutex::default(),
            work: Notify::new(),
            stop: Notify::new(),
            settled: Condvar::new(),
            hurried: Notify::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) const fn journals(&self) -> bool {
        self.spool.is_some()
    }

    /// Takes a span: into memory, and where it has to be, on disk.
    pub(super) fn accept(
        &self,
        starts: &[Encoded],
        mut waiting: Waiting,
        class: Class,
    ) -> Accepted {
        waiting.is_eventful = class == Class::Eventful;
        let Some(spool) = &self.spool else { return self.keep(waiting) };
        let kind = waiting.kind;
        let waiting = match spool.wants(&waiting.bytes, class) {
            true => waiting,
            false => match self.try_to_keep(waiting) {
                Ok(accepted) => return accepted,
                Err(waiting) => waiting,
            },
        };
        let has_room = self.has_room(&self.state(), waiting.bytes.len());
        let written = spool.append(starts, waiting, class, has_room);
        let accepted = match written {
            Written::Kept(waiting) | Written::Failed(waiting) => self.keep(waiting),
            Written::Stored => {
                let mut state = self.state();
                let counts = state.counts(kind);
                counts.accepted += 1;
                counts.pending += 1;
                Accepted { is_first_drop: false, wakes: true }
            }
        };
        self.give_up(spool.take_given_up()).or(accepted)
    }

    /// Counts spans for which the disk has no room left.
    fn give_up(&self, spans: u64) -> Accepted {
        if spans == 0 {
            return Accepted::default();
        }
        let mut state = self.state();
        state.stats.pending = state.stats.pending.saturating_sub(spans);
        state.stats.dropped += spans;
        state.given_up += spans;
        Accepted { is_first_drop: state.said.insert("dropped"), wakes: false }
    }

    fn has_room(&self, state: &State, bytes: usize) -> bool {
        let Limits { queue_spans, queue_bytes, .. } = self.limits;
        let is_full = state.queue.len() >= queue_spans
            || state.queued_bytes.saturating_add(bytes) > queue_bytes;
        !is_full && !state.closing && state.end.is_none()
    }

    /// Keeps something in memory, or gives it up.
    fn keep(&self, one: Waiting) -> Accepted {
        self.try_to_keep(one).unwrap_or_else(|one| {
            let mut state = self.state();
            state.note_drop(&one);
            Accepted { is_first_drop: state.said.insert("dropped"), wakes: false }
        })
    }

    /// Keeps something in memory, where it has room; for what is on disk too it always has. What
    /// went wrong takes the place of what went well, and then of what is older.
    fn try_to_keep(&self, span: Waiting) -> Result<Accepted, Waiting> {
        let mut state = self.state();
        let (is_stored, bytes) = (span.position.is_some(), span.bytes.len());
        let mut is_first_drop = false;
        while !is_stored && !self.has_room(&state, bytes) {
            let may_take = span.is_eventful && !state.closing && state.end.is_none();
            if !may_take || bytes > self.limits.queue_bytes || !state.give_way(bytes) {
                return Err(span);
            }
            is_first_drop |= state.said.insert("dropped");
        }
        let counts = state.counts(span.kind);
        counts.accepted += 1;
        counts.pending += 1;
        if state.end.is_some() {
            // The next process finds it.
            return Ok(Accepted::default());
        }
        let was_due = self.is_due(&state);
        state.push(span);
        // The first span starts the interval, and what is due ends it.
        let wakes = state.queue.len() == 1 || (!was_due && self.is_due(&state));
        Ok(Accepted { is_first_drop, wakes })
    }

    pub(super) fn stats(&self) -> Stats {
        let mut stats = {
            let state = self.state();
            let scores = state.scores;
            Stats {
                scores_accepted: scores.accepted,
                scores_delivered: scores.delivered,
                scores_dropped: scores.dropped,
                scores_refused: scores.refused,
                scores_pending: scores.pending,
                scores_recovered: scores.recovered,
                dropped_eventful: state.dropped_eventful,
                ..state.stats
            }
        };
        if let Some(spool) = &self.spool {
            let counts = spool.counts();
            stats.dropped_eventful += counts.dropped_eventful;
            stats.damaged = counts.damaged;
            stats.spooled = spool.unread_of_own();
            stats.to_recover = spool.to_recover();
        }
        stats
    }

    /// Leaves to the next process what waits.
    fn leave(&self, waiting: Vec<Waiting>) -> Left {
        let spool = self.spool.as_ref();
        let mut left = Left { kept: spool.map_or(0, Spool::unread_of_own), lost_eventful: 0 };
        for one in waiting.into_iter().filter(|one| !one.is_taken_over()) {
            let is_eventful_span = one.is_eventful && !one.is_score();
            let class = if one.is_eventful { Class::Eventful } else { Class::Uneventful };
            let is_kept = one.position.is_some()
                || spool.is_some_and(|spool| {
                    !matches!(spool.append(&[], one, class, false), Written::Failed(_))
                });
            left.kept += u64::from(is_kept);
            left.lost_eventful += u64::from(is_eventful_span && !is_kept);
        }
        left
    }

    /// Returns whether so much waits that it is sent at once, before the queue can be full.
    fn is_due(&self, state: &State) -> bool {
        let Limits { flush_at, queue_spans, queue_bytes, .. } = self.limits;
        state.queue.len() >= flush_at.min((queue_spans / 2).max(1))
            || state.queued_bytes >= REQUEST_BYTES.min((queue_bytes / 2).max(1))
    }

    /// Waits until what was accepted so far is settled.
    pub(super) fn flush(&self, countdown: &Countdown) -> Result<(), FlushError> {
        let mut state = self.state();
        let target = state.accepted();
        self.begin_to_wait(&mut state);
        let result = loop {
            if state.is_settled(target) {
                break Ok(());
            }
            match &state.end {
                Some(End::Closed(_)) => break Err(FlushError::Closed),
                Some(End::Panicked(error)) => break Err(error.clone()),
                None if countdown.is_over() => break Err(state.shortfall()),
                None => state = self.wait(state, countdown),
            }
        };
        state.waiting -= 1;
        result
    }

    /// Waits until what was taken over is settled, or a person has to change something.
    pub(super) fn recover(&self, countdown: &Countdown) -> Result<(), FlushError> {
        let Some(spool) = &self.spool else { return Ok(()) };
        let mut state = self.state();
        self.begin_to_wait(&mut state);
        let result = loop {
            let left = spool.to_recover();
            // What is settled on disk is counted a moment later.
            let is_under_way = state.under_way.iter().any(Waiting::is_taken_over);
            if state.has_taken_over && left == 0 && !is_under_way {
                break Ok(());
            }
            let pending = usize::try_from(left).unwrap_or(usize::MAX);
            // Not by a try from before this wait.
            let is_misconfigured = state.pause == Pause::Misconfigured && !state.hurry;
            match (&state.end, state.last_error.clone()) {
                (Some(End::Closed(_)), _) => break Err(FlushError::Closed),
                (Some(End::Panicked(error)), _) => break Err(error.clone()),
                (None, Some(reason)) if is_misconfigured => {
                    break Err(FlushError::Misconfigured { pending, reason });
                }
                (None, _) if countdown.is_over() => break Err(state.shortfall_of(pending)),
                (None, _) => state = self.wait(state, countdown),
            }
        };
        state.waiting -= 1;
        result
    }

    /// Waits until everything is settled, and gives up what is not.
    pub(super) fn close(&self, countdown: &Countdown) -> Result<(), FlushError> {
        let mut state = self.state();
        state.closing = true;
        self.begin_to_wait(&mut state);
        let target = state.accepted();
        let result = loop {
            match &state.end {
                Some(End::Closed(result)) => break result.clone(),
                Some(End::Panicked(error)) => break Err(error.clone()),
                None if state.is_settled(target) => break Ok(()),
                None if countdown.is_over() => break Err(state.shortfall()),
                None => state = self.wait(state, countdown),
            }
        };
        state.waiting -= 1;
        let given_up = state.finish(|_| End::Closed(result.clone()), |waiting| self.leave(waiting));
        let left = state.pending();
        drop(state);
        if let Some(spool) = &self.spool {
            spool.close();
        }
        self.settled.notify_all();
        if given_up.is_some() && left > 0 {
            notice(format_args!(
                "delivery has ended, and {left} spans wait on disk for the next process"
            ));
        }
        tell(given_up);
        result
    }

    /// Waits for the thread; returns whether it has ended in time, and not by a panic.
    pub(super) fn ends_within(&self, countdown: &Countdown) -> bool {
        let mut state = self.state();
        let may_end =
            |state: &State| !state.thread_ended && !matches!(state.end, Some(End::Panicked(_)));
        while may_end(&state) && !countdown.is_over() {
            state = self.wait(state, countdown);
        }
        state.thread_ended
    }

    fn begin_to_wait(&self, state: &mut State) {
        state.waiting += 1;
        state.hurry = true;
        self.work.notify_one();
        self.hurried.notify_one();
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        countdown: &Countdown,
    ) -> MutexGuard<'a, State> {
        let waited = self.settled.wait_timeout(state, countdown.left());
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Accepted {
    fn or(self, other: Self) -> Self {
        Self {
            is_first_drop: self.is_first_drop || other.is_first_drop,
            wakes: self.wakes || other.wakes,
        }
    }
}

// ===== impl Ending =====

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut given_up = None;
        let mut state = self.0.state();
        if thread::panicking() {
            let end = |state: &State| {
                let (pending, reason) = (state.pending(), PANICKED.to_owned());
                End::Panicked(FlushError::Undelivered { pending, reason })
            };
            given_up = state.finish(end, |waiting| self.0.leave(waiting));
        } else {
            state.thread_ended = true;
        }
        drop(state);
        self.0.settled.notify_all();
        match given_up {
            Some((0, reason)) => notice(format_args!("delivery has ended: {reason}")),
            given_up => tell(given_up),
        }
    }
}

fn tell(given_up: Option<(u64, String)>) {
    if let Some((spans @ 1.., reason)) = given_up {
        notice(format_args!("delivery has ended and {spans} spans are given up: {reason}"));
    }
}
