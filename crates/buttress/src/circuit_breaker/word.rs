//! What a call reads of its circuit without a lock.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::machine::{Machine, Rejection, State};
use crate::OpenReason;

/// Until when an open circuit rejects.
pub(super) struct Rejects {
    /// The moment that `until` counts from.
    origin: Instant,
    /// In nanoseconds; zero where the circuit is not open, `u64::MAX` where its time has no end.
    until: AtomicU64,
    /// How many calls were rejected at once.
    pub(super) count: AtomicU64,
}

/// The atomic word: the generation, the state, and what decides how much a call has to do.
#[derive(Clone, Copy)]
pub(super) struct Word(pub(super) u64);

// ===== impl Word =====

impl Word {
    /// The last result was a failure.
    const FAILING: u64 = 1;
    /// Successes are counted too.
    const WINDOWED: u64 = 2;
    /// A call's start must be known.
    const TIMED: u64 = 4;
    const STATE: u32 = 3;
    const GENERATION: u32 = 8;

    pub(super) fn new(machine: &Machine) -> Self {
        let flag = |flag, is_set| if is_set { flag } else { 0 };
        let state = (machine.state as u64) << Self::STATE;
        Self(
            machine.generation << Self::GENERATION
                | state
                | flag(Self::FAILING, machine.failures > 0)
                | flag(Self::WINDOWED, machine.settings.has_window())
                | flag(Self::TIMED, machine.settings.times_calls()),
        )
    }

    pub(super) const fn is(self, state: State) -> bool {
        self.0 >> Self::STATE & 0x1f == state as u64
    }

    pub(super) fn state(self) -> State {
        let known = State::ALL.into_iter().find(|state| self.is(*state));
        known.expect("only states are written into the word")
    }

    pub(super) const fn is_timed(self) -> bool {
        self.0 & Self::TIMED != 0
    }

    pub(super) const fn generation(self) -> u64 {
        self.0 >> Self::GENERATION
    }

    /// Returns whether a success changes nothing in a closed circuit of this generation.
    pub(super) const fn ignores_success(self, generation: u64) -> bool {
        self.0 & !Self::TIMED
            == generation << Self::GENERATION | (State::Closed as u64) << Self::STATE
    }
}

// ===== impl Rejects =====

impl Rejects {
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), until: AtomicU64::new(0), count: AtomicU64::new(0) }
    }

    pub(super) fn publish(&self, machine: &Machine) {
        let until = match (machine.state, machine.until) {
            (State::Open, Some(until)) => {
                let nanos = until.saturating_duration_since(self.origin).as_nanos();
                u64::try_from(nanos).unwrap_or(u64::MAX)
            }
            (State::Open, None) => u64::MAX,
            _ => 0,
        };
        self.until.store(until, Ordering::Relaxed);
    }

    /// Rejects a call of a circuit that is open and whose time is not over.
    pub(super) fn reject(&self, word: Word) -> Option<Rejection> {
        let rejection = if word.is(State::ForcedOpen) {
            Rejection { reason: OpenReason::ForcedOpen, retry_after: None }
        } else if word.is(State::Open) {
            let retry_after = match self.until.load(Ordering::Relaxed) {
                u64::MAX => None,
                until => {
                    let now = Instant::now().saturating_duration_since(self.origin);
                    let left = Duration::from_nanos(until).saturating_sub(now);
                    if left.is_zero() {
                        return None;
                    }
                    Some(left)
                }
            };
            Rejection { reason: OpenReason::Open, retry_after }
        } else {
            return None;
        };
        self.count.fetch_add(1, Ordering::Relaxed);
        Some(rejection)
    }
}
