//! What the thread of the delivery does with what it shares.

use std::{pin::pin, time::Duration};

use buttress::CircuitBreakerLayer;
use bytes::Bytes;
use tokio::time::Instant;

use super::{Answer, Pause, Problem, Sender, Shared, State};
use crate::{
    encode,
    level::Level,
    notice::notice,
    spool::{Kind, Waiting},
    value::Sent,
};

impl Shared {
    /// Sends what waits, batch by batch, until delivery is closed.
    pub(in crate::delivery) async fn run(&self, sender: &Sender) {
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
    pub(in crate::delivery) async fn next_batch(&self) -> Vec<Waiting> {
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
    pub(in crate::delivery) fn breaker(&self) -> CircuitBreakerLayer {
        CircuitBreakerLayer::sharing(self.circuit.clone())
    }

    /// Notes that a try begins; who waits for it finds no open circuit.
    pub(in crate::delivery) fn begin_try(&self) {
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
    pub(in crate::delivery) fn say(&self, problem: &Problem) {
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
    pub(in crate::delivery) fn pause(&self, pause: Pause) {
        self.state().pause = pause;
        // Who waits for what was taken over waits for no person.
        self.settled.notify_all();
    }

    /// Returns how long delivery pauses, where `usual` is what the backoff says.
    ///
    /// Whoever has begun to wait since the last try gets one at once; a server that is away is
    /// tried often while somebody waits.
    pub(in crate::delivery) fn delay(
        &self,
        usual: Duration,
        awaited: Duration,
        person: Duration,
    ) -> Duration {
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
