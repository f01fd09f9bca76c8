//! What cases are run with: stores, time, and how often.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use buttress::{
    CheckpointStore,
    checkpoint::{Capabilities, Clock},
};

use super::{
    Harness, Options, Rounds,
    check::{Checked, skip},
};

/// What one case is run with.
pub(super) struct Fixture<'h, H> {
    harness: &'h H,
    /// How often.
    pub(super) rounds: Rounds,
    /// The time of the stores, in milliseconds since 1970.
    millis: Arc<AtomicU64>,
}

/// What the time starts at: 2026-11-25, 12:00 UTC and some milliseconds.
const START: u64 = 1_795_608_000_123;

// ===== impl Fixture =====

impl<'h, H: Harness> Fixture<'h, H> {
    pub(super) fn new(harness: &'h H, rounds: Rounds) -> Self {
        Self { harness, rounds, millis: Arc::new(AtomicU64::new(START)) }
    }

    /// Opens an empty store that keeps all.
    pub(super) async fn open(&self) -> Arc<H::Store> {
        Arc::new(self.harness.open(&self.options()).await)
    }

    /// Opens an empty store that keeps all, or skips the case where it keeps fewer than `least`.
    pub(super) async fn open_with_history(&self, least: u32) -> Checked<Arc<H::Store>> {
        let store = self.open().await;
        match store.capabilities().kept {
            Some(kept) if kept.get() < least => {
                skip(format!("the store keeps {kept} checkpoints of a chain"))
            }
            _ => Ok(store),
        }
    }

    /// Opens an empty store that keeps so many checkpoints of a chain.
    pub(super) async fn open_keeping(&self, keep: NonZeroU32) -> Checked<Arc<H::Store>> {
        let options = Options { keep: Some(keep), ..self.options() };
        let store = Arc::new(self.harness.open(&options).await);
        if store.capabilities().kept == Some(keep) {
            return Ok(store);
        }
        skip("the store cannot be told how many checkpoints stay")
    }

    /// Opens an empty store for states up to a size.
    pub(super) async fn open_for_states(&self, max_state: u64) -> Checked<Arc<H::Store>> {
        let options = Options { max_state, ..self.options() };
        let store = Arc::new(self.harness.open(&options).await);
        if store.capabilities().max_state == max_state {
            return Ok(store);
        }
        skip("the store cannot be told how large a state may be")
    }

    /// Opens a second handle on what a store has stored.
    pub(super) async fn reopen(&self, store: &Arc<H::Store>) -> Checked<Arc<H::Store>> {
        match self.harness.reopen(store, &self.options()).await {
            Some(second) => Ok(Arc::new(second)),
            None => skip("the store refuses a second handle while the first is open"),
        }
    }

    /// Asks the harness what lies around.
    pub(super) async fn inspect(&self, store: &Arc<H::Store>) -> Checked {
        self.harness.inspect(store).await.map_err(super::check::fail)
    }

    /// Returns what must not show.
    pub(super) fn secrets(&self) -> Vec<String> {
        self.harness.secrets()
    }

    /// Returns how a store shows itself.
    pub(super) fn debug(&self, store: &Arc<H::Store>) -> String {
        self.harness.debug(store)
    }

    /// Returns how long leases are: long enough to be held for the length of a few calls.
    pub(super) fn lease_time(&self) -> Duration {
        if self.harness.clock_is_injected() {
            Duration::from_secs(60)
        } else {
            Duration::from_secs(2)
        }
    }

    /// Lets the time of a lease, and a little more, go by.
    pub(super) async fn let_lease_run_out(&self) {
        let time = self.lease_time() + Duration::from_millis(50);
        if self.harness.clock_is_injected() {
            self.millis.fetch_add(millis(time), Ordering::Relaxed);
        } else {
            tokio::time::sleep(time).await;
        }
    }

    /// Lets a part of the time of a lease go by.
    pub(super) async fn let_half_a_lease_pass(&self) {
        let time = self.lease_time() / 2;
        if self.harness.clock_is_injected() {
            self.millis.fetch_add(millis(time), Ordering::Relaxed);
        } else {
            tokio::time::sleep(time).await;
        }
    }

    /// Sets the clock of the stores back.
    pub(super) fn set_clock_back(&self, time: Duration) -> Checked {
        if !self.harness.clock_is_injected() {
            return skip("the store is not measured by a clock that can be set");
        }
        self.millis.fetch_sub(millis(time), Ordering::Relaxed);
        Ok(())
    }

    fn options(&self) -> Options {
        let now = Arc::clone(&self.millis);
        let clock = Clock::new(move || {
            SystemTime::UNIX_EPOCH + Duration::from_millis(now.load(Ordering::Relaxed))
        });
        Options { clock, keep: None, max_state: Capabilities::MAX_STATE }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
