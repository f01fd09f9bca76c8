//! The conformance suite: what every [`CheckpointStore`] promises, case by case.
//!
//! The numbers of the cases are those of the project's contract; [`CASES`] lists them. A store of
//! one's own is tested by telling the suite how to open it:
//!
//! ```
//! use buttress::MemoryStore;
//! use buttress_stores::conformance::{self, Harness, Options, Rounds};
//!
//! struct Memory;
//!
//! impl Harness for Memory {
//!     type Store = MemoryStore;
//!
//!     async fn open(&self, options: &Options) -> MemoryStore {
//!         let store = MemoryStore::new().clock(options.clock.clone()).max_state(options.max_state);
//!         match options.keep {
//!             Some(keep) => store.keep(keep.get()),
//!             None => store,
//!         }
//!     }
//!
//!     async fn reopen(&self, store: &MemoryStore, _: &Options) -> Option<MemoryStore> {
//!         Some(store.clone())
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
//! let verdict = conformance::run_case(&Memory, 13, Rounds::Short).await;
//! assert!(verdict.is_passed(), "{verdict}");
//! # });
//! ```
//!
//! [`run`] runs all of them and answers a [`Report`], which prints as a table and fails a test by
//! [`assert_passed`](Report::assert_passed). A case that panics or never ends fails too.
//!
//! The suite needs a tokio runtime with time that is not paused. It tests a store through its
//! trait only: what a store does when its process is killed, its disk is full or its files are
//! damaged is for tests of its own, and [`Verdict::Elsewhere`] says so.

mod cases;
mod chain;
mod check;
mod concurrency;
mod delete;
mod errors;
mod fixture;
mod ids;
mod lease;
mod list;
mod parent;
mod put;
mod report;
mod writes;

use std::num::NonZeroU32;

use buttress::{CheckpointStore, checkpoint::Clock};

pub use self::{
    cases::{CASES, Case, Class, run, run_case},
    report::{Outcome, Report, Verdict},
};

/// How the suite opens a store.
pub trait Harness {
    /// The store.
    type Store: CheckpointStore;

    /// Opens a store that is empty and shares nothing with one that was opened before.
    fn open(&self, options: &Options) -> impl Future<Output = Self::Store>;

    /// Opens what `store` has stored once more, as a process does that starts beside it or after
    /// it; none where the store refuses it while the first one is open.
    fn reopen(
        &self,
        store: &Self::Store,
        options: &Options,
    ) -> impl Future<Output = Option<Self::Store>>;

    /// Says whether leases are measured by [`Options::clock`].
    ///
    /// Where they are not, because a server's clock decides, the suite waits for real.
    fn clock_is_injected(&self) -> bool {
        true
    }

    /// Returns what must not show in `Debug` and `Display`, such as a password.
    fn secrets(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns the store's `Debug`, which must not show a state or a password either.
    fn debug(&self, store: &Self::Store) -> String {
        _ = store;
        String::new()
    }

    /// Looks at what lies around after a case: a file outside of the store's folder, a temporary
    /// file that nobody removes.
    ///
    /// # Errors
    ///
    /// What should not be there.
    fn inspect(&self, store: &Self::Store) -> impl Future<Output = Result<(), String>> {
        _ = store;
        async { Ok(()) }
    }
}

/// What a case asks of the store it opens.
///
/// A store that cannot do it leaves it and says so in its capabilities; cases that need it are
/// skipped.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// The clock that leases are measured by.
    pub clock: Clock,
    /// How many checkpoints of a chain stay; none where all.
    pub keep: Option<NonZeroU32>,
    /// The largest state in bytes.
    pub max_state: u64,
}

/// How often races and loops are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rounds {
    /// A few times, for every run of the tests.
    Short,
    /// As often as the contract says: 1,000 times.
    Full,
}

// ===== impl Rounds =====

impl Rounds {
    /// Reads the environment: full where `BUTTRESS_ROUNDS` is `full`.
    #[must_use]
    pub fn from_env() -> Self {
        match std::env::var("BUTTRESS_ROUNDS") {
            Ok(rounds) if rounds == "full" => Self::Full,
            _ => Self::Short,
        }
    }

    /// Returns how often a case of 1,000 rounds is run.
    #[must_use]
    pub const fn of_thousand(self) -> usize {
        match self {
            Self::Short => 25,
            Self::Full => 1000,
        }
    }
}
