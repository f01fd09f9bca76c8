//! What the delivery's thread shares with those that hand spans over and wait for them.

use std::{
    pin::pin,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use buttress::{Circuit, CircuitBreakerLayer, HalfOpen};
use bytes::Bytes;
use tokio::{sync::Notify, time::Instant};

use super::{
    Answer, Limits, Sender,
    countdown::Countdown,
    problem::Problem,
    state::{End, Left, Pause, REQUEST_BYTES, State},
};
use crate::{
    encode::{self, Encoded},
    level::Level,
    notice::notice,
    sink::{FlushError, Stats},
    spool::{Class, Kind, Spool, Waiting, Written},
    text::Secrets,
    value::Sent,
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

// ===== impl Shared: for who hands over and waits =====

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

// ===== impl Shared: for the thread =====

impl Shared {
    /// Sends what waits, batch by batch, until delivery is closed.
    pub(super) async fn run(&self, sender: &Sender) {
        if let Some(spool) = &self.spool {
            spool.take_over();
            self.state().has_taken_over = true;
            self.settled.notify_all();
        }
        let mut from_disk = true;
        loop {
            // By turns, so that neither waits for the other's end.
            let mut batch = if from_disk { self.read() } else { Vec::new() };
            from_disk = batch.is_empty();
            if batch.is_empty() {
                batch = self.next_batch().await;
            }
            if batch.is_empty() {
                return;
            }
            self.deliver(sender, batch).await;
        }
    }

    /// Reads a part of what waits on disk only.
    fn read(&self) -> Vec<Waiting> {
        let most = self.state().request_bytes as u64;
        self.spool.as_ref().map(|spool| spool.read(most)).unwrap_or_default()
    }

    /// Waits for a batch; an empty one means that delivery is closed.
    pub(super) async fn next_batch(&self) -> Vec<Waiting> {
        // An interval beyond every clock has no deadline.
        let mut deadline: Option<Instant> = None;
        loop {
            let read = self.read();
            if !read.is_empty() {
                return read;
            }
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

    /// Sends spans and scores; what is refused is split until what is at fault is alone.
    async fn deliver(&self, sender: &Sender, batch: Vec<Waiting>) {
        let (scores, spans): (Vec<_>, Vec<_>) = batch.into_iter().partition(Waiting::is_score);
        self.state().under_way = scores.iter().chain(&spans).cloned().collect();
        let mut batches = vec![scores, spans];
        while let Some(mut batch) = batches.pop() {
            if batch.is_empty() {
                continue;
            }
            if batch[0].is_score() {
                // The last ones first, so that the others need not be moved.
                let part = batch.split_off(batch.len() - sender.fitting(&batch));
                batches.push(std::mem::replace(&mut batch, part));
            }
            let bytes: Vec<Bytes> = batch.iter().map(|one| one.bytes.clone()).collect();
            self.state().is_divisible = batch.len() > 1;
            match self.send(sender, batch[0].kind, &bytes).await {
                Answer::Taken { refused } => {
                    let refused = refused.min(batch.len());
                    self.settle(&batch, refused);
                    self.state().grow_requests();
                }
                Answer::Refused { words } if batch.len() == 1 => {
                    if let Some(spool) = self.spool.as_ref().filter(|_| !batch[0].is_score()) {
                        spool.set_aside(&batch[0].bytes, &words);
                    }
                    self.say(&Problem::Refused(words));
                    self.settle(&batch, 1);
                }
                Answer::TryAgain => batches.push(batch),
                answer => {
                    if matches!(answer, Answer::TooSlow) {
                        let bytes = bytes.iter().map(Bytes::len).sum();
                        self.state().shrink_requests(bytes);
                    }
                    let rest = batch.split_off(batch.len() / 2);
                    self.state().put_off(batch.len(), rest.len());
                    // The first half goes first, so that order is kept.
                    batches.push(rest);
                    batches.push(batch);
                }
            }
        }
    }

    /// Sends one batch; who begins to wait for it ends a pause that the server did not ask for.
    async fn send(&self, sender: &Sender, kind: Kind, batch: &[Bytes]) -> Answer {
        let send = || sender.send(kind, batch);
        let mut sending = pin!(send());
        loop {
            tokio::select! {
                biased;
                answer = &mut sending => return answer,
                () = self.hurried.notified() => {
                    let pause = self.state().pause;
                    if matches!(pause, Pause::Away | Pause::Misconfigured) {
                        sending.set(send());
                    }
                }
            }
        }
    }

    /// Returns what keeps requests from a server that answers none.
    pub(super) fn breaker(&self) -> CircuitBreakerLayer {
        CircuitBreakerLayer::sharing(self.circuit.clone())
    }

    /// Notes that a try begins; who waits for it finds no open circuit.
    pub(super) fn begin_try(&self) {
        let mut state = self.state();
        if state.waiting > 0 {
            self.circuit.reset();
        }
        state.hurry = false;
        state.pause = Pause::None;
    }

    /// Notes that the server has answered for a batch, and for how many spans that it refuses.
    fn settle(&self, batch: &[Waiting], refused: usize) {
        if let Some(spool) = &self.spool {
            spool.settle(batch);
        }
        let Some(kind) = batch.first().map(|one| one.kind) else { return };
        let own = batch.iter().filter(|one| !one.is_taken_over()).count() as u64;
        let others = batch.len() as u64 - own;
        let refused = refused as u64;
        let mut state = self.state();
        // Which of them the server does not say.
        let refused_of_others = refused.saturating_sub(own).min(others);
        state.counts(kind).recovered += others - refused_of_others;
        state.has_arrived(batch.len());
        // After the end nothing is pending but what waits on disk.
        if state.end.is_some() {
            return;
        }
        let counts = state.counts(kind);
        counts.pending = counts.pending.saturating_sub(own);
        counts.refused += refused;
        state.refused_of_others += refused_of_others;
        let counts = state.counts(kind);
        counts.delivered += own.saturating_sub(refused);
        let mut told = None;
        if refused < batch.len() as u64 {
            state.last_error = None;
            told = report_drops(&mut state);
        }
        drop(state);
        self.settled.notify_all();
        if let Some(told) = told {
            notice(format_args!("{told}"));
        }
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
        // Who waits for what was taken over waits for no person.
        self.settled.notify_all();
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

/// Tells the server what it has not got, once it is back; returns what a person is told.
fn report_drops(state: &mut State) -> Option<String> {
    let dropped = state.stats.dropped;
    let drops = dropped - state.reported;
    if drops == 0 {
        return None;
    }
    state.reported = dropped;
    let text = format!("{drops} spans were dropped while they could not be delivered");
    let entries = [("dropped_spans", Sent::integer(drops.try_into().unwrap_or(i64::MAX)))];
    let report = encode::event("spans_dropped", Level::Warning, &text, &entries);
    state.stats.accepted += 1;
    state.stats.pending += 1;
    state.push(Waiting::span(report.0));
    // Not a line for each batch where more comes all the time than can be sent.
    if dropped < 2 * state.told {
        return None;
    }
    state.told = dropped;
    Some(format!("{text} ({dropped} since the start)"))
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
