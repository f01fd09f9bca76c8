use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::{TimeLimit, timer::poll_timer};

/// How long the parts of a stream may take; none is no limit.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    /// From the call to the first item.
    pub(crate) first: Option<Duration>,
    /// From one item to the next.
    pub(crate) idle: Option<Duration>,
    /// From the call to the end.
    pub(crate) total: Option<Duration>,
}

/// How long a stream has taken so far.
///
/// The clock is read while the stream is pending, and a wait begins with the first such poll after an
/// item: a reader that takes its time is not counted. Only a limit of the whole has it read at each
/// item.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watch {
    limits: Limits,
    started: Option<Instant>,
    /// Since when the next item is waited for; none until it is.
    waits_since: Option<Instant>,
    has_items: bool,
}

// ===== impl Limits =====

impl Limits {
    /// Returns the limit that a span names: the longest that is set.
    pub(crate) fn longest(&self) -> Option<Duration> {
        [self.total, self.first, self.idle].into_iter().flatten().max()
    }
}

#[track_caller]
pub(crate) fn checked(time: Duration, limit: TimeLimit) -> Option<Duration> {
    assert!(!time.is_zero(), "the limit {limit} must be longer than zero");
    Some(time)
}

// ===== impl Watch =====

impl Watch {
    pub(crate) const fn new(limits: Limits) -> Self {
        Self { limits, started: None, waits_since: None, has_items: false }
    }

    /// Notes that an item came; returns the limit of the whole where it came too late.
    ///
    /// A stream that is never waited for is never pending, and its timer never asked.
    pub(crate) fn item(&mut self) -> Option<(TimeLimit, Duration)> {
        self.has_items = true;
        self.waits_since = None;
        let total = self.limits.total?;
        let now = Instant::now();
        let started = *self.started.get_or_insert(now);
        (now.saturating_duration_since(started) > total).then_some((TimeLimit::Total, total))
    }

    /// Returns the limit that ran out, while the stream is pending.
    pub(crate) fn poll_limit(
        &mut self,
        mut sleep: Pin<&mut Option<Sleep>>,
        cx: &mut Context<'_>,
    ) -> Poll<(TimeLimit, Duration)> {
        let waits_since = *self.waits_since.get_or_insert_with(Instant::now);
        let started = *self.started.get_or_insert(waits_since);
        let wait = if self.has_items {
            (TimeLimit::Idle, waits_since, self.limits.idle)
        } else {
            (TimeLimit::FirstItem, started, self.limits.first)
        };
        let nearest = [wait, (TimeLimit::Total, started, self.limits.total)]
            .into_iter()
            .filter_map(|(limit, from, time)| {
                let time = time?;
                // A time beyond every clock is no limit.
                Some((from.checked_add(time)?, limit, time))
            })
            .min_by_key(|(deadline, ..)| *deadline);
        let Some((deadline, limit, time)) = nearest else { return Poll::Pending };
        loop {
            let Some(mut armed) = sleep.as_mut().as_pin_mut() else {
                sleep.set(Some(sleep_until(deadline)));
                continue;
            };
            // A timer that is set for an earlier time is left alone: it is set anew when it is over,
            // and not for every item.
            if armed.deadline() > deadline {
                armed.as_mut().reset(deadline);
            }
            let is_due = armed.deadline() == deadline;
            match poll_timer(armed.as_mut(), cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if is_due => return Poll::Ready((limit, time)),
                Poll::Ready(()) => armed.reset(deadline),
            }
        }
    }
}
