//! The results of recent calls, at a constant cost per call.

use std::time::Duration;

use tokio::time::Instant;

/// The largest window of calls: it takes a byte for each.
const MOST_CALLS: usize = 1 << 20;
/// The finest window of time.
const MOST_BUCKETS: usize = 10_000;

/// Which calls a rate is computed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub(super) kind: WindowKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WindowKind {
    Calls { size: usize },
    Time { span: Duration, buckets: usize },
}

/// How many calls there were, and how many of them failed or were slow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) calls: u64,
    pub(super) failures: u64,
    pub(super) slow: u64,
}

/// The results themselves.
#[derive(Debug)]
pub(super) enum Results {
    /// The last calls, in a ring; `next` is where the next one goes.
    Calls { ring: Vec<Call>, next: usize, size: usize, totals: Totals },
    /// Calls by time, in a ring of buckets; `newest` counts buckets since `origin`.
    Time { ring: Vec<Totals>, newest: u64, origin: Instant, width: Duration, totals: Totals },
}

/// The result of one call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    failed: bool,
    slow: bool,
}

// ===== impl Window =====

impl Window {
    /// The last calls, whenever they were.
    #[must_use]
    pub const fn calls(calls: usize) -> Self {
        Self { kind: WindowKind::Calls { size: calls } }
    }

    /// The calls of a span of time, in 10 buckets: the oldest tenth is forgotten at once.
    #[must_use]
    pub const fn time(span: Duration) -> Self {
        Self { kind: WindowKind::Time { span, buckets: 10 } }
    }

    /// Sets the number of buckets of a window of time; one of calls stays as it is.
    #[must_use]
    pub const fn buckets(self, buckets: usize) -> Self {
        match self.kind {
            WindowKind::Time { span, .. } => Self { kind: WindowKind::Time { span, buckets } },
            WindowKind::Calls { .. } => self,
        }
    }

    /// Returns what is wrong with the window.
    pub(super) fn problem(self) -> Option<&'static str> {
        match self.kind {
            WindowKind::Calls { size: 0 } => Some("must hold at least 1 call"),
            WindowKind::Calls { size } if size > MOST_CALLS => {
                Some("must hold at most 1,048,576 calls")
            }
            WindowKind::Calls { .. } => None,
            WindowKind::Time { buckets: 0, .. } => Some("must have at least 1 bucket"),
            WindowKind::Time { buckets, .. } if buckets > MOST_BUCKETS => {
                Some("must have at most 10,000 buckets")
            }
            WindowKind::Time { span, buckets } if span.as_nanos() < buckets as u128 => {
                Some("must be longer than its number of buckets in nanoseconds")
            }
            WindowKind::Time { .. } => None,
        }
    }
}

// ===== impl Results =====

impl Results {
    pub(super) fn new(window: Window, now: Instant) -> Self {
        match window.kind {
            WindowKind::Calls { size } => Self::Calls {
                ring: Vec::with_capacity(size),
                next: 0,
                size,
                totals: Totals::default(),
            },
            WindowKind::Time { span, buckets } => Self::Time {
                ring: vec![Totals::default(); buckets],
                newest: 0,
                origin: now,
                width: span / u32::try_from(buckets).unwrap_or(u32::MAX),
                totals: Totals::default(),
            },
        }
    }

    /// Adds the result of one call.
    pub(super) fn record(&mut self, now: Instant, failed: bool, slow: bool) {
        self.forget(now);
        let call = Call { failed, slow };
        match self {
            Self::Calls { ring, next, size, totals } => {
                totals.add(call.into());
                if ring.len() < *size {
                    ring.push(call);
                } else {
                    totals.subtract(std::mem::replace(&mut ring[*next], call).into());
                }
                *next = if *next + 1 == *size { 0 } else { *next + 1 };
            }
            Self::Time { ring, newest, totals, .. } => {
                totals.add(call.into());
                let place = place(*newest, ring.len());
                ring[place].add(call.into());
            }
        }
    }

    /// Returns the totals of what is still in the window.
    pub(super) fn totals(&mut self, now: Instant) -> Totals {
        self.forget(now);
        match self {
            Self::Calls { totals, .. } | Self::Time { totals, .. } => *totals,
        }
    }

    /// Forgets the buckets that time has moved out of the window.
    fn forget(&mut self, now: Instant) {
        let Self::Time { ring, newest, origin, width, totals } = self else { return };
        let passed = now.saturating_duration_since(*origin).as_nanos() / width.as_nanos().max(1);
        let current = u64::try_from(passed).unwrap_or(u64::MAX);
        if current <= *newest {
            return;
        }
        let steps = (current - *newest).min(ring.len() as u64);
        for step in 1..=steps {
            let place = place(newest.saturating_add(step), ring.len());
            totals.subtract(std::mem::take(&mut ring[place]));
        }
        *newest = current;
    }
}

fn place(bucket: u64, buckets: usize) -> usize {
    usize::try_from(bucket % buckets as u64).unwrap_or(0)
}

// ===== impl Totals =====

impl From<Call> for Totals {
    fn from(call: Call) -> Self {
        Self { calls: 1, failures: call.failed.into(), slow: call.slow.into() }
    }
}

impl Totals {
    pub(super) fn failure_rate(self) -> f64 {
        share(self.failures, self.calls)
    }

    pub(super) fn slow_rate(self) -> f64 {
        share(self.slow, self.calls)
    }

    pub(super) const fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.failures += other.failures;
        self.slow += other.slow;
    }

    const fn subtract(&mut self, other: Self) {
        self.calls -= other.calls;
        self.failures -= other.failures;
        self.slow -= other.slow;
    }
}

#[expect(clippy::cast_precision_loss, reason = "fewer calls than 2^52")]
fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
