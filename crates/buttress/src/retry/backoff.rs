//! How long to wait before the next attempt.

use std::{sync::Arc, time::Duration};

/// Computes the delay before a retry.
///
/// A list of durations is a backoff too: it is taken as it is, and its last delay repeats (an
/// empty one means no delay). [`RetryLayer::max_attempts`](super::RetryLayer::max_attempts) alone
/// limits the number of attempts. A delay of zero uses no timer.
pub trait Backoff {
    /// Returns the delay before the `retry`-th retry, counted from 0.
    ///
    /// `previous` is the delay before that one; `random` is evenly spread over 0 to 1.
    fn delay(&self, retry: usize, previous: Option<Duration>, random: f64) -> Duration;

    /// Returns whether the delays are spread at random; a `Retry-After` is then spread too.
    fn is_random(&self) -> bool {
        false
    }
}

/// Delays that grow by a factor: `min(base * factor^n, max)`, spread by a [`Jitter`].
///
/// The cap holds after the jitter. Nothing overflows: a delay too long for the clock is `max`.
///
/// # Defaults
///
/// - `base`: 1 s
/// - `factor`: 2
/// - `max`: 60 s
/// - `jitter`: [`Proportional`](Jitter::Proportional), 0.5 to 1.5 times the delay
///
/// All four are the seed's, whose jitter exceeds the cap.
#[derive(Debug, Clone, Copy, PartialEq)]
#[must_use]
pub struct ExponentialBackoff {
    base: Duration,
    factor: f64,
    max: Duration,
    jitter: Jitter,
}

/// How delays are spread, so that callers that failed together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Jitter {
    /// The delay as it is.
    None,
    /// Anything from 0 to the delay.
    Full,
    /// Anything from half the delay to the delay.
    Equal,
    /// Anything from the base to three times the delay before (AWS's "decorrelated jitter").
    Decorrelated,
    /// The delay times 1 - `below` to 1 + `above`.
    Proportional {
        /// The share that may be taken off, 0 to 1.
        below: f64,
        /// The share that may be added, 0 or more.
        above: f64,
    },
}

// ===== impl Jitter =====

impl Jitter {
    /// Returns what is wrong with the shares of [`Proportional`](Self::Proportional).
    pub(super) fn problem(self) -> Option<&'static str> {
        match self {
            Self::Proportional { below, .. } if !(0.0..=1.0).contains(&below) => {
                Some("the share taken off by jitter must be from 0 to 1")
            }
            Self::Proportional { above, .. } if !(above >= 0.0 && above.is_finite()) => {
                Some("the share added by jitter must be 0 or more")
            }
            _ => None,
        }
    }
}

impl Default for Jitter {
    fn default() -> Self {
        Self::Proportional { below: 0.5, above: 0.5 }
    }
}

// ===== impl ExponentialBackoff =====

impl ExponentialBackoff {
    /// Creates a backoff whose first delay is `base`.
    pub fn new(base: Duration) -> Self {
        Self { base, factor: 2.0, max: Duration::from_secs(60), jitter: Jitter::default() }
    }

    /// Sets what each delay is multiplied by to get the next.
    ///
    /// # Panics
    ///
    /// If the factor is less than 1 or not finite.
    #[track_caller]
    pub fn factor(mut self, factor: f64) -> Self {
        assert!(
            factor >= 1.0 && factor.is_finite(),
            "a backoff's factor must be 1 or more, not {factor}"
        );
        self.factor = factor;
        self
    }

    /// Sets the longest delay, jitter included.
    pub const fn max(mut self, max: Duration) -> Self {
        self.max = max;
        self
    }

    /// Sets how the delays are spread.
    ///
    /// # Panics
    ///
    /// If a share of [`Jitter::Proportional`] is out of its range.
    #[track_caller]
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        if let Some(problem) = jitter.problem() {
            panic!("{problem}, not {jitter:?}");
        }
        self.jitter = jitter;
        self
    }

    fn capped(&self, nanos: f64) -> Duration {
        let max = self.max.as_nanos();
        // A cast from f64 saturates, so a product beyond every clock is `max` as well.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let nanos = (nanos.round() as u128).min(max);
        let nanos_per_second = 1_000_000_000;
        let seconds = u64::try_from(nanos / nanos_per_second).unwrap_or(u64::MAX);
        let rest = u32::try_from(nanos % nanos_per_second).unwrap_or(0);
        Duration::new(seconds, rest)
    }
}

impl Default for ExponentialBackoff {
    fn default() -> Self {
        Self::new(Duration::from_secs(1))
    }
}

impl Backoff for ExponentialBackoff {
    fn delay(&self, retry: usize, previous: Option<Duration>, random: f64) -> Duration {
        let base = nanos(self.base);
        let power = self.factor.powi(i32::try_from(retry).unwrap_or(i32::MAX));
        // Zero times an infinite power is not a number, but no delay.
        let grown = if base == 0.0 { 0.0 } else { (base * power).min(nanos(self.max)) };
        let between = |low: f64, high: f64| low + (high - low).max(0.0) * random;
        self.capped(match self.jitter {
            Jitter::None => grown,
            Jitter::Full => between(0.0, grown),
            Jitter::Equal => between(grown / 2.0, grown),
            Jitter::Decorrelated => between(base, previous.map_or(base, nanos) * 3.0),
            Jitter::Proportional { below, above } => {
                between(grown * (1.0 - below), grown * (1.0 + above))
            }
        })
    }

    fn is_random(&self) -> bool {
        self.jitter != Jitter::None
    }
}

#[expect(clippy::cast_precision_loss, reason = "a delay of over 104 days loses nanoseconds")]
fn nanos(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}

impl<B: Backoff + ?Sized> Backoff for Arc<B> {
    fn delay(&self, retry: usize, previous: Option<Duration>, random: f64) -> Duration {
        (**self).delay(retry, previous, random)
    }

    fn is_random(&self) -> bool {
        (**self).is_random()
    }
}

// ===== lists of delays =====

impl Backoff for [Duration] {
    fn delay(&self, retry: usize, _: Option<Duration>, _: f64) -> Duration {
        self.get(retry).or(self.last()).copied().unwrap_or(Duration::ZERO)
    }
}

impl<const N: usize> Backoff for [Duration; N] {
    fn delay(&self, retry: usize, previous: Option<Duration>, random: f64) -> Duration {
        self.as_slice().delay(retry, previous, random)
    }
}

impl Backoff for Vec<Duration> {
    fn delay(&self, retry: usize, previous: Option<Duration>, random: f64) -> Duration {
        self.as_slice().delay(retry, previous, random)
    }
}
