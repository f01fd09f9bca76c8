//! The rules of a circuit and what they must fulfil.

use std::time::Duration;

use super::window::Window;

/// The rules of a circuit, as its setters fill them.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// Named by the user; see [`consecutive`](Self::consecutive).
    pub(super) consecutive_failures: Option<u32>,
    pub(super) failure_rate: Option<f64>,
    pub(super) slow_call: Option<(Duration, f64)>,
    pub(super) window: Window,
    pub(super) minimum_calls: u64,
    pub(super) open_for: Duration,
    pub(super) open_growth: Option<(f64, Duration)>,
    pub(super) open_jitter: f64,
    /// Named by the user; see [`longest_open`](Self::longest_open).
    pub(super) max_open: Option<Duration>,
    pub(super) half_open: HalfOpen,
    pub(super) half_open_lease: Option<(Duration, AfterLease)>,
    pub(super) drop_is_failure_after: Option<Duration>,
    pub(super) rate_limit_opens: bool,
}

/// How a half-open circuit tests whether the service is well again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HalfOpen {
    pub(super) permits: u32,
    pub(super) judge: Judge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judge {
    Consecutive { successes: u32 },
    Rate,
}

/// What follows a half-open period whose time is over without a verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AfterLease {
    /// The circuit opens again.
    Open,
    /// The circuit closes.
    Closed,
    /// A new half-open period begins, with all its permits; what is still on its way is late.
    #[default]
    Renew,
}

// ===== impl HalfOpen =====

impl HalfOpen {
    /// Lets `permits` probes be on their way at a time; the first failure opens, `successes` in a
    /// row close.
    #[must_use]
    pub const fn consecutive(permits: u32, successes: u32) -> Self {
        Self { permits, judge: Judge::Consecutive { successes } }
    }

    /// Lets exactly `permits` probes through and judges them together by the failure rate (and
    /// the slow-call rate, where one is set); 0.5 where no rate is set.
    #[must_use]
    pub const fn rate(permits: u32) -> Self {
        Self { permits, judge: Judge::Rate }
    }

    const fn problem(self) -> Option<&'static str> {
        match self.judge {
            _ if self.permits == 0 => Some("must have at least 1 permit"),
            Judge::Consecutive { successes: 0 } => Some("must need at least 1 success"),
            Judge::Consecutive { successes } if self.permits > successes => {
                Some("must not have more permits than the successes it needs")
            }
            Judge::Consecutive { .. } | Judge::Rate => None,
        }
    }
}

// ===== impl Settings =====

impl Settings {
    /// The number of failures in a row that opens: the default rule where no other is named.
    pub(super) fn consecutive(&self) -> Option<u32> {
        let rates = self.failure_rate.is_some() || self.slow_call.is_some();
        self.consecutive_failures.or(if rates { None } else { Some(5) })
    }

    /// Whether results go into a window.
    pub(super) const fn has_window(&self) -> bool {
        self.failure_rate.is_some() || self.slow_call.is_some()
    }

    /// Whether a call's start must be known.
    pub(super) const fn times_calls(&self) -> bool {
        self.slow_call.is_some() || self.drop_is_failure_after.is_some()
    }

    /// The longest time that the circuit opens by itself.
    pub(super) fn longest_open(&self) -> Duration {
        self.max_open.unwrap_or_else(|| {
            let grown = self.open_growth.map_or(Duration::ZERO, |(_, max)| max);
            Duration::from_secs(60).max(self.open_for).max(grown)
        })
    }

    /// How long the circuit opens for the `n`-th time in a row, counted from 0.
    pub(super) fn open_time(&self, nth: u32, random: f64) -> Duration {
        let mut time = self.open_for;
        if let Some((factor, max)) = self.open_growth {
            let power = factor.powi(i32::try_from(nth).unwrap_or(i32::MAX));
            let grown = Duration::try_from_secs_f64(self.open_for.as_secs_f64() * power);
            time = grown.unwrap_or(Duration::MAX).min(max);
        }
        if self.open_jitter > 0.0 {
            // Spread to both sides, so that a fleet does not probe at one moment.
            let factor = 1.0 + self.open_jitter * (2.0 * random - 1.0);
            time = Duration::try_from_secs_f64(time.as_secs_f64() * factor).unwrap_or(time);
        }
        time.min(self.longest_open())
    }

    /// Returns the first rule that is broken: its field and what it must be.
    ///
    /// `field` limits the search to the rules of one field, as its setter does; rules between
    /// fields are checked only without it, since setters may come in any order.
    pub(super) fn problem(&self, field: Option<&str>) -> Option<(&'static str, &'static str)> {
        let rate = |rate: f64| rate > 0.0 && rate <= 1.0;
        let rules: [(&'static str, bool, &'static str); 12] = [
            ("consecutive_failures", self.consecutive_failures == Some(0), "must be at least 1"),
            (
                "failure_rate",
                self.failure_rate.is_some_and(|share| !rate(share)),
                "must be more than 0 and at most 1",
            ),
            (
                "slow_call",
                self.slow_call.is_some_and(|(_, share)| !rate(share)),
                "must have a rate of more than 0 and at most 1",
            ),
            ("window", self.window.problem().is_some(), self.window.problem().unwrap_or_default()),
            ("minimum_calls", self.minimum_calls == 0, "must be at least 1"),
            ("open_for", self.open_for.is_zero(), "must be longer than zero"),
            (
                "open_growth",
                self.open_growth.is_some_and(|(factor, _)| !(factor >= 1.0 && factor.is_finite())),
                "must have a factor of 1 or more",
            ),
            (
                "open_growth",
                self.open_growth.is_some_and(|(_, max)| max.is_zero()),
                "must have a longest time of more than zero",
            ),
            ("open_jitter", !(0.0..=1.0).contains(&self.open_jitter), "must be from 0 to 1"),
            ("max_open", self.max_open == Some(Duration::ZERO), "must be longer than zero"),
            (
                "half_open",
                self.half_open.problem().is_some(),
                self.half_open.problem().unwrap_or_default(),
            ),
            (
                "half_open_lease",
                self.half_open_lease.is_some_and(|(lease, _)| lease.is_zero()),
                "must be longer than zero",
            ),
        ];
        let broken = rules
            .into_iter()
            .find(|(name, broken, _)| *broken && field.is_none_or(|field| field == *name));
        if let Some((name, _, message)) = broken {
            return Some((name, message));
        }
        let together = self.max_open.is_some_and(|max| max < self.open_for);
        (field.is_none() && together).then_some(("max_open", "must not be shorter than open_for"))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            consecutive_failures: None,
            failure_rate: None,
            slow_call: None,
            window: Window::time(Duration::from_secs(60)),
            minimum_calls: 10,
            open_for: Duration::from_secs(30),
            open_growth: None,
            open_jitter: 0.0,
            max_open: None,
            half_open: HalfOpen::consecutive(1, 2),
            half_open_lease: Some((Duration::from_secs(60), AfterLease::Renew)),
            drop_is_failure_after: None,
            rate_limit_opens: false,
        }
    }
}
