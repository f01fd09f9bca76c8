use std::{fmt, sync::Arc, time::SystemTime};

/// The wall clock that timestamps and the ends of leases are read from.
///
/// Checkpoints are never ordered by it.
#[derive(Clone)]
pub struct Clock(Option<Arc<dyn Fn() -> SystemTime + Send + Sync>>);

// ===== impl Clock =====

impl Clock {
    /// The clock of the system.
    pub const SYSTEM: Self = Self(None);

    /// Creates a clock of one's own, for tests.
    pub fn new(now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(now)))
    }

    /// Returns the time.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        self.0.as_ref().map_or_else(SystemTime::now, |now| now())
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::SYSTEM
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_none() { "Clock::SYSTEM" } else { "Clock" })
    }
}
