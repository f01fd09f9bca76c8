//! How long somebody waits.

use std::time::{Duration, Instant};

/// Time that runs for who waits, on the real clock: the clock of the caller's runtime may stand
/// still.
#[derive(Debug)]
pub(super) struct Countdown {
    start: Instant,
    timeout: Duration,
}

impl Countdown {
    #[expect(clippy::disallowed_methods, reason = "a paused clock of tokio would never end it")]
    pub(super) fn start(timeout: Duration) -> Self {
        Self { start: Instant::now(), timeout }
    }

    pub(super) fn left(&self) -> Duration {
        self.timeout.saturating_sub(self.start.elapsed())
    }

    pub(super) fn is_over(&self) -> bool {
        self.left().is_zero()
    }
}
