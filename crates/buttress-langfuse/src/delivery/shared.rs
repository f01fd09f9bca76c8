//! What the delivery's thread shares with those that hand spans over and wait for them.

use std::{
    pin::pin,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::Notify, time::Instant};

use super::{
    Answer, Limits, Sender,
    countdown::Countdown,
    problem::Problem,
    state::{End, Pause, REQUEST_BYTES, State},
};
use crate::{notice::notice, sink::FlushError, text::Secrets};

/// What delivery says when its thread has panicked.
const PANICKED: &str = "the thread of the delivery has panicked";

pub(super) struct Shared {
    pub(super) limits: Limits,
    /// The destination's name in sentences.
    peer: &'static str,
    /// What no sentence shows.
    pub(super) secrets: Secrets,
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
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) is_first_drop: bool,
    /// Whether the thread has something to do now.
    pub(super) wakes: bool,
}

/// Tells that the thread has ended, also by a panic.
pub(super) struct Ending<'a>(pub(super) &'a Shared);

// ===== impl Shared: for who hands over and waits =====

impl Shared {
    pub(super) fn new(limits: Limits, peer: &'static str, secrets: Secrets) -> Self {
        Self {
            limits,
            peer,
            secrets,
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

    pub(super) fn accept(&self, span: Bytes) -> Accepted {
        let Limits { queue_spans, queue_bytes, .. } = self.limits;
        let mut state = self.state();
        let full = state.queue.len() >= queue_spans
            || state.queued_bytes.saturating_add(span.len()) > queue_bytes;
        if full || state.closing || state.end.is_some() {
            state.stats.dropped += 1;
            return Accepted { is_first_drop: state.said.insert("dropped"), wakes: false };
        }
        let was_due = self.is_due(&state);
        state.queued_bytes += span.len();
        state.queue.push_back(span);
        state.stats.accepted += 1;
        state.stats.pending += 1;
        // The first span starts the interval, and what is due ends it.
        let wakes = state.queue.len() == 1 || (!was_due && self.is_due(&state));
        Accepted { is_first_drop: false, wakes }
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
        let target = state.stats.accepted;
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

    /// Waits until everything is settled, and gives up what is not.
    pub(super) fn close(&self, countdown: &Countdown) -> Result<(), FlushError> {
        let mut state = self.state();
        state.closing = true;
        self.begin_to_wait(&mut state);
        let target = state.stats.accepted;
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
        let given_up = state.finish(|_| End::Closed(result.clone()));
        drop(state);
        self.settled.notify_all();
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

// ===== impl Shared: for the thread =====

impl Shared {
    /// Sends what waits, batch by batch, until delivery is closed.
    pub(super) async fn run(&self, sender: &Sender) {
        loop {
            let batch = self.next_batch().await;
            if batch.is_empty() {
                return;
            }
            self.deliver(sender, batch).await;
        }
    }

    /// Waits for a batch; an empty one means that delivery is closed.
    pub(super) async fn next_batch(&self) -> Vec<Bytes> {
        // An interval beyond every clock has no deadline.
        let mut deadline: Option<Instant> = None;
        loop {
            {
                let mut state = self.state();
                let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
                let hurry = state.waiting > 0 || state.closing;
                if !state.queue.is_empty() && (late || hurry || self.is_due(&state)) {
                    return state.take();
                }
                if state.queue.is_empty() {
                    deadline = None;
                    if state.closing {
                        return Vec::new();
                    }
                } else if deadline.is_none() {
                    deadline = Instant::now().checked_add(self.limits.flush_interval);
                }
            }
            match deadline {
                None => self.work.notified().await,
                Some(deadline) => {
                    drop(tokio::time::timeout_at(deadline, self.work.notified()).await);
                }
            }
        }
    }

    /// Sends a batch; one that is refused is split until the span that is at fault is alone.
    async fn deliver(&self, sender: &Sender, batch: Vec<Bytes>) {
        let mut batches = vec![batch];
        while let Some(mut batch) = batches.pop() {
            match self.send(sender, &batch).await {
                Answer::Taken { refused } => {
                    let refused = refused.min(batch.len());
                    self.settle(batch.len() - refused, true);
                    self.settle(refused, false);
                }
                Answer::Refused { words } if batch.len() == 1 => {
                    self.say(&Problem::Refused(words));
                    self.settle(1, false);
                }
                Answer::Refused { .. } => {
                    let rest = batch.split_off(batch.len() / 2);
                    // The first half goes first, so that order is kept.
                    batches.push(rest);
                    batches.push(batch);
                }
            }
        }
    }

    /// Sends one batch; who begins to wait for it ends a pause that the server did not ask for.
    async fn send(&self, sender: &Sender, batch: &[Bytes]) -> Answer {
        let mut sending = pin!(sender.send(batch));
        loop {
            tokio::select! {
                biased;
                answer = &mut sending => return answer,
                () = self.hurried.notified() => {
                    let pause = self.state().pause;
                    if matches!(pause, Pause::Away | Pause::Misconfigured) {
                        sending.set(sender.send(batch));
                    }
                }
            }
        }
    }

    /// Notes that a try begins.
    pub(super) fn begin_try(&self) {
        let mut state = self.state();
        state.hurry = false;
        state.pause = Pause::None;
    }

    fn settle(&self, spans: usize, delivered: bool) {
        let mut state = self.state();
        // After the end nothing is pending: what comes late was given up.
        if state.end.is_some() {
            return;
        }
        let spans = spans as u64;
        state.stats.pending -= spans;
        if delivered {
            state.stats.delivered += spans;
            state.last_error = None;
        } else {
            state.stats.refused += spans;
        }
        drop(state);
        self.settled.notify_all();
    }

    /// Remembers why delivery waits, and says each cause once.
    pub(super) fn say(&self, problem: &Problem) {
        let sentence = self.secrets.hide(&problem.told_of(self.peer));
        let first = {
            let mut state = self.state();
            state.last_error = Some(sentence.clone());
            state.said.insert(problem.cause())
        };
        if first {
            notice(format_args!("{sentence}"));
        }
    }

    /// Notes why delivery pauses after a try.
    pub(super) fn pause(&self, pause: Pause) {
        self.state().pause = pause;
    }

    /// Returns how long delivery pauses, where `usual` is what the backoff says.
    ///
    /// Whoever has begun to wait since the last try gets one at once; a server that is away is
    /// tried often while somebody waits.
    pub(super) fn delay(&self, usual: Duration, awaited: Duration, person: Duration) -> Duration {
        let state = self.state();
        match state.pause {
            _ if state.hurry => Duration::ZERO,
            Pause::Misconfigured => person,
            _ if state.waiting > 0 => usual.min(awaited),
            _ => usual,
        }
    }
}

fn tell(given_up: Option<(u64, String)>) {
    if let Some((spans @ 1.., reason)) = given_up {
        notice(format_args!("delivery has ended and {spans} spans are given up: {reason}"));
    }
}

// ===== impl Ending =====

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        let mut given_up = None;
        let mut state = self.0.state();
        if thread::panicking() {
            given_up = state.finish(|state| {
                let (pending, reason) = (state.pending(), PANICKED.to_owned());
                End::Panicked(FlushError::Undelivered { pending, reason })
            });
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
