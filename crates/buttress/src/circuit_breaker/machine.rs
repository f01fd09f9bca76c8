//! The state machine of one circuit, under its lock.
//!
//! What the closed path needs is mirrored in one atomic word (see `circuit.rs`); everything here
//! runs under the circuit's mutex and never calls foreign code.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    settings::{AfterLease, Judge, Settings},
    window::{Results, Totals},
};
use crate::OpenReason;

/// How many periods without a call are gone through one by one. After that only the last one
/// counts: the circuit is half-open, as if its open time had ended now.
const MOST_PERIODS: usize = 32;

/// The states of a circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Calls go through and are counted.
    Closed,
    /// Calls are rejected until the open time is over.
    Open,
    /// A few calls go through to test whether the service is well.
    HalfOpen,
    /// Calls are rejected until somebody says otherwise.
    ForcedOpen,
    /// Calls go through and nothing is counted.
    Disabled,
    /// Calls go through and are counted, but nothing opens the circuit.
    MetricsOnly,
}

/// A change of state.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Transition {
    /// The circuit's name, with its key where it has one.
    pub circuit: Arc<str>,
    /// The state before.
    pub from: State,
    /// The state after.
    pub to: State,
    /// Why it changed.
    pub reason: TransitionReason,
    /// The generation that the change began.
    pub generation: u64,
}

/// Why a circuit changed its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TransitionReason {
    /// So many calls failed in a row.
    ConsecutiveFailures,
    /// The share of failed calls reached its limit.
    FailureRate,
    /// The share of slow calls reached its limit.
    SlowCallRate,
    /// The service asked to wait.
    RateLimited,
    /// The open time was over.
    OpenTimeOver,
    /// The probes succeeded.
    ProbesSucceeded,
    /// A probe failed, or too many of them.
    ProbeFailed,
    /// The half-open period ended without a verdict.
    LeaseOver,
    /// Somebody asked for it.
    Manual,
}

/// What one result says to the circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Success,
    Failure,
    /// Neither: the failure was the request's or the caller's.
    Ignored,
    /// The caller dropped the call.
    Cancelled,
    /// Too many calls, with the time that the service asked to wait; ignored unless
    /// `rate_limit_opens` is set.
    RateLimited(Duration),
}

/// Leave to make one call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Permit {
    pub(super) generation: u64,
    /// When the call began, where a rule asks for it.
    pub(super) started: Option<Instant>,
}

/// Why a call may not be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rejection {
    pub(super) reason: OpenReason,
    pub(super) retry_after: Option<Duration>,
}

/// Counters that only grow.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counters {
    pub(super) not_permitted: u64,
    pub(super) cancelled: u64,
    pub(super) ignored: u64,
}

#[derive(Debug)]
pub(super) struct Machine {
    pub(super) settings: Settings,
    pub(super) state: State,
    pub(super) generation: u64,
    pub(super) counters: Counters,
    /// Failures in a row, where they are counted under the lock.
    pub(super) failures: u32,
    /// When an open circuit becomes half-open.
    pub(super) until: Option<Instant>,
    results: Option<Results>,
    /// When a half-open period ends.
    lease_end: Option<Instant>,
    probes: Probes,
    /// How often in a row the circuit has opened since it was last closed.
    opened: u32,
    random: fastrand::Rng,
}

/// The probes of a half-open period.
#[derive(Debug, Clone, Copy, Default)]
struct Probes {
    in_flight: u32,
    successes: u32,
    judged: Totals,
}

// ===== impl State =====

impl State {
    pub(super) const ALL: [Self; 6] = [
        Self::Closed,
        Self::Open,
        Self::HalfOpen,
        Self::ForcedOpen,
        Self::Disabled,
        Self::MetricsOnly,
    ];

    /// Returns the state in snake case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::Disabled => "disabled",
            Self::MetricsOnly => "metrics_only",
        }
    }

    /// The state in the seed's capitals, as transitions name it.
    pub(super) const fn in_capitals(self) -> &'static str {
        match self {
            Self::Closed => "CLOSED",
            Self::Open => "OPEN",
            Self::HalfOpen => "HALF_OPEN",
            Self::ForcedOpen => "FORCED_OPEN",
            Self::Disabled => "DISABLED",
            Self::MetricsOnly => "METRICS_ONLY",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::fmt::Display for Transition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} -> {}", self.from.in_capitals(), self.to.in_capitals())
    }
}

impl TransitionReason {
    /// Returns the reason in snake case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::FailureRate => "failure_rate",
            Self::SlowCallRate => "slow_call_rate",
            Self::RateLimited => "rate_limited",
            Self::OpenTimeOver => "open_time_over",
            Self::ProbesSucceeded => "probes_succeeded",
            Self::ProbeFailed => "probe_failed",
            Self::LeaseOver => "lease_over",
            Self::Manual => "manual",
        }
    }
}

// ===== impl Machine =====

impl Machine {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            state: State::Closed,
            generation: 0,
            counters: Counters::default(),
            failures: 0,
            until: None,
            results: None,
            lease_end: None,
            probes: Probes::default(),
            opened: 0,
            random: fastrand::Rng::new(),
        }
    }

    /// Applies what time alone has changed, each change at the moment it was due.
    pub(super) fn catch_up(&mut self, now: Instant, changes: &mut Changes) {
        // A circuit that nobody asked for days may have gone through many periods that nobody used.
        for _ in 0..MOST_PERIODS {
            match (self.state, self.until, self.lease_end) {
                // ## Open => HalfOpen
                (State::Open, Some(due), _) if now >= due => {
                    self.enter(State::HalfOpen, TransitionReason::OpenTimeOver, due, changes);
                }
                // ## HalfOpen => (Open | Closed | HalfOpen)
                (State::HalfOpen, _, Some(due)) if now >= due => self.end_lease(due, now, changes),
                _ => return,
            }
        }
        if self.state == State::Open {
            self.enter(State::HalfOpen, TransitionReason::OpenTimeOver, now, changes);
        }
        self.begin_lease(now);
    }

    fn end_lease(&mut self, due: Instant, now: Instant, changes: &mut Changes) {
        let Some((lease, after)) = self.settings.half_open_lease else {
            self.lease_end = None;
            return;
        };
        match after {
            AfterLease::Open => self.open(TransitionReason::LeaseOver, None, due, changes),
            AfterLease::Closed => {
                self.enter(State::Closed, TransitionReason::LeaseOver, due, changes);
            }
            AfterLease::Renew => {
                // Periods that nobody used are skipped: the last of them is what counts.
                let passed =
                    now.saturating_duration_since(due).as_nanos() / lease.as_nanos().max(1);
                let skipped = u32::try_from(passed).ok().and_then(|n| lease.checked_mul(n));
                self.renew(skipped.and_then(|skipped| due.checked_add(skipped)).unwrap_or(now));
            }
        }
    }

    fn begin_lease(&mut self, from: Instant) {
        self.lease_end =
            self.settings.half_open_lease.and_then(|(lease, _)| from.checked_add(lease));
    }

    /// Asks for leave to make a call.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        changes: &mut Changes,
    ) -> Result<Permit, Rejection> {
        self.catch_up(now, changes);
        let reject = |reason, retry_after| Err(Rejection { reason, retry_after });
        let admitted = match self.state {
            State::Closed | State::Disabled | State::MetricsOnly => Ok(()),
            State::Open => {
                let left = self.until.map(|until| until.saturating_duration_since(now));
                reject(OpenReason::Open, left)
            }
            State::ForcedOpen => reject(OpenReason::ForcedOpen, None),
            State::HalfOpen if self.probes.fits(self.settings.half_open) => {
                self.probes.in_flight += 1;
                Ok(())
            }
            State::HalfOpen => reject(OpenReason::HalfOpenFull, None),
        };
        if admitted.is_err() {
            self.counters.not_permitted += 1;
        }
        let started = self.settings.times_calls().then_some(now);
        admitted.map(|()| Permit { generation: self.generation, started })
    }

    /// Takes in the result of a call of this generation.
    pub(super) fn settle(
        &mut self,
        verdict: Verdict,
        slow: bool,
        now: Instant,
        changes: &mut Changes,
    ) {
        match self.state {
            State::Disabled => (),
            State::Closed | State::MetricsOnly => self.count(verdict, slow, now, changes),
            State::HalfOpen => self.judge(verdict, slow, now, changes),
            // A generation ends when its circuit opens, so no result belongs to one that is open.
            State::Open | State::ForcedOpen => (),
        }
    }

    /// Counts a result while every call is let through.
    fn count(&mut self, verdict: Verdict, slow: bool, now: Instant, changes: &mut Changes) {
        let failed = match verdict {
            Verdict::Success => false,
            Verdict::Failure => true,
            Verdict::Ignored => {
                self.counters.ignored += 1;
                return;
            }
            Verdict::Cancelled => {
                self.counters.cancelled += 1;
                return;
            }
            Verdict::RateLimited(wait) => {
                self.counters.ignored += 1;
                if self.state == State::Closed && self.settings.rate_limit_opens {
                    let reason = TransitionReason::RateLimited;
                    let wait = wait.min(self.settings.longest_open());
                    self.open(reason, Some(wait), now, changes);
                }
                return;
            }
        };
        self.failures = if failed { self.failures.saturating_add(1) } else { 0 };
        if self.settings.has_window() {
            let window = self.settings.window;
            let results = self.results.get_or_insert_with(|| Results::new(window, now));
            results.record(now, failed, slow);
        }
        if self.state == State::Closed
            && let Some(reason) = self.trips(now)
        {
            self.open(reason, None, now, changes);
        }
    }

    /// Returns why the circuit should open, if it should.
    fn trips(&mut self, now: Instant) -> Option<TransitionReason> {
        if self.settings.consecutive().is_some_and(|limit| self.failures >= limit) {
            return Some(TransitionReason::ConsecutiveFailures);
        }
        let totals = self.results.as_mut()?.totals(now);
        let minimum = match self.settings.window.kind {
            super::window::WindowKind::Calls { size } => {
                self.settings.minimum_calls.min(size as u64)
            }
            super::window::WindowKind::Time { .. } => self.settings.minimum_calls,
        };
        if totals.calls < minimum {
            return None;
        }
        if self.settings.failure_rate.is_some_and(|limit| totals.failure_rate() >= limit) {
            return Some(TransitionReason::FailureRate);
        }
        let slow = self.settings.slow_call.is_some_and(|(_, limit)| totals.slow_rate() >= limit);
        slow.then_some(TransitionReason::SlowCallRate)
    }

    /// Judges the result of a probe.
    fn judge(&mut self, verdict: Verdict, slow: bool, now: Instant, changes: &mut Changes) {
        self.probes.in_flight = self.probes.in_flight.saturating_sub(1);
        let failed = match verdict {
            Verdict::Success => false,
            Verdict::Failure => true,
            Verdict::Ignored => {
                self.counters.ignored += 1;
                return;
            }
            Verdict::Cancelled => {
                self.counters.cancelled += 1;
                return;
            }
            Verdict::RateLimited(wait) => {
                self.counters.ignored += 1;
                if self.settings.rate_limit_opens {
                    let wait = wait.min(self.settings.longest_open());
                    self.open(TransitionReason::RateLimited, Some(wait), now, changes);
                }
                return;
            }
        };
        let closes = match self.settings.half_open.judge {
            Judge::Consecutive { .. } if failed => Some(false),
            Judge::Consecutive { successes } => {
                self.probes.successes += 1;
                (self.probes.successes >= successes).then_some(true)
            }
            Judge::Rate => {
                let call = Totals { calls: 1, failures: failed.into(), slow: slow.into() };
                self.probes.judged.add(call);
                let all = self.probes.judged.calls >= u64::from(self.settings.half_open.permits);
                all.then(|| self.probes_pass())
            }
        };
        match closes {
            None => (),
            Some(true) => {
                self.enter(State::Closed, TransitionReason::ProbesSucceeded, now, changes);
            }
            Some(false) => self.open(TransitionReason::ProbeFailed, None, now, changes),
        }
    }

    fn probes_pass(&self) -> bool {
        let judged = self.probes.judged;
        let no_rate = if self.settings.slow_call.is_some() { None } else { Some(0.5) };
        let failing = self.settings.failure_rate.or(no_rate);
        let slow = self.settings.slow_call.map(|(_, limit)| limit);
        failing.is_none_or(|limit| judged.failure_rate() < limit)
            && slow.is_none_or(|limit| judged.slow_rate() < limit)
    }

    /// Opens the circuit for a given time, or for as long as its rules say.
    pub(super) fn open(
        &mut self,
        reason: TransitionReason,
        time: Option<Duration>,
        at: Instant,
        changes: &mut Changes,
    ) {
        let random = if self.settings.open_jitter > 0.0 { self.random.f64() } else { 0.0 };
        let time = time.unwrap_or_else(|| self.settings.open_time(self.opened, random));
        self.opened = self.opened.saturating_add(1);
        self.enter(State::Open, reason, at, changes);
        // A time beyond the clock is one that nobody lives to see.
        self.until = at.checked_add(time).or_else(|| at.checked_add(Duration::from_secs(1 << 32)));
    }

    /// Enters a state: a new generation, in which nothing of the old one counts.
    pub(super) fn enter(
        &mut self,
        to: State,
        reason: TransitionReason,
        at: Instant,
        changes: &mut Changes,
    ) {
        let from = std::mem::replace(&mut self.state, to);
        self.generation += 1;
        self.until = None;
        self.lease_end = None;
        self.probes = Probes::default();
        match to {
            State::HalfOpen => self.begin_lease(at),
            State::Closed | State::Disabled | State::MetricsOnly => {
                self.failures = 0;
                self.results = None;
                self.opened = 0;
            }
            State::Open | State::ForcedOpen => (),
        }
        if from != to {
            changes.0.push((from, to, reason, self.generation));
        }
    }

    /// Takes over new settings; results stay where they still fit.
    ///
    /// Probes that were sent under other rules are late: their period begins anew.
    pub(super) fn reconfigure(&mut self, settings: Settings, now: Instant) {
        if settings.window != self.settings.window || !settings.has_window() {
            self.results = None;
        }
        let other_probes = settings.half_open != self.settings.half_open;
        self.settings = settings;
        if self.state == State::HalfOpen && (other_probes || self.lease_end.is_none()) {
            self.renew(now);
        }
    }

    /// Begins a half-open period anew.
    fn renew(&mut self, from: Instant) {
        self.generation += 1;
        self.probes = Probes::default();
        self.begin_lease(from);
    }

    /// Counts a failure that belongs to no call, such as one of readiness.
    pub(super) fn count_alone(&mut self, verdict: Verdict, now: Instant, changes: &mut Changes) {
        match self.state {
            State::HalfOpen if self.probes.fits(self.settings.half_open) => {
                self.probes.in_flight += 1;
                self.judge(verdict, false, now, changes);
            }
            State::Closed | State::MetricsOnly => self.count(verdict, false, now, changes),
            State::Open | State::HalfOpen | State::ForcedOpen | State::Disabled => (),
        }
    }

    pub(super) fn totals(&mut self, now: Instant) -> Totals {
        self.results.as_mut().map_or_else(Totals::default, |results| results.totals(now))
    }

    pub(super) const fn successes(&self) -> u32 {
        self.probes.successes
    }
}

impl Probes {
    const fn fits(&self, half_open: super::HalfOpen) -> bool {
        match half_open.judge {
            Judge::Consecutive { successes } => {
                self.in_flight < half_open.permits
                    && self.in_flight.saturating_add(self.successes) < successes
            }
            Judge::Rate => {
                (self.in_flight as u64).saturating_add(self.judged.calls) < half_open.permits as u64
            }
        }
    }
}

/// The changes of state that one step made, in their order.
#[derive(Debug, Default)]
pub(super) struct Changes(pub(super) Vec<(State, State, TransitionReason, u64)>);
