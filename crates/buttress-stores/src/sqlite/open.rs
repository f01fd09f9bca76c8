use std::{
    future::IntoFuture,
    num::NonZeroU32,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use buttress::{
    StoreError,
    checkpoint::{Capabilities, Clock, Durable},
};

use super::{Shared, SqliteStore, readers::Readers, writer::Writer};

/// A [`SqliteStore`] that is being opened: awaiting it opens it.
///
/// # Defaults
///
/// - `keep`: the newest 10 checkpoints of a chain
/// - `synchronous`: [`Synchronous::Full`]
/// - `busy_timeout`: 30 s
/// - `max_state`: 64 MiB
/// - `clock`: the system's
///
/// # Errors
///
/// `Setup` where the file cannot be used: a missing right, a folder, a file of another program;
/// `Corrupt` where it is no SQLite file; `TooNew` where a newer program wrote it, which leaves it
/// as it is; `Unavailable`.
#[derive(Debug, Clone)]
#[must_use = "a store is opened by awaiting this"]
pub struct OpenSqlite {
    path: PathBuf,
    pub(super) settings: Settings,
    keep: Option<NonZeroU32>,
    max_state: u64,
    clock: Clock,
}

/// What each connection is set to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    pub(super) synchronous: Synchronous,
    pub(super) busy_timeout: Duration,
}

/// When SQLite waits for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Synchronous {
    /// At every commit: what is acknowledged outlives a loss of power.
    Full,
    /// When the log is copied into the file: what is acknowledged outlives the process, and a
    /// loss of power may take the newest. About 20 times as fast.
    Normal,
}

/// The largest state a row can hold: SQLite's limit is 10^9 bytes for all of a row.
const LARGEST: u64 = 900_000_000;

const KEEP: NonZeroU32 = NonZeroU32::new(10).expect("10 is not 0");

// ===== impl OpenSqlite =====

impl OpenSqlite {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            settings: Settings {
                synchronous: Synchronous::Full,
                busy_timeout: Duration::from_secs(30),
            },
            keep: Some(KEEP),
            max_state: Capabilities::MAX_STATE,
            clock: Clock::SYSTEM,
        }
    }

    /// Sets how many checkpoints of a chain stay.
    ///
    /// # Panics
    ///
    /// If it is 0.
    #[track_caller]
    pub fn keep(mut self, checkpoints: u32) -> Self {
        self.keep = Some(NonZeroU32::new(checkpoints).expect("at least one checkpoint is kept"));
        self
    }

    /// Keeps all checkpoints of a chain.
    pub const fn keep_all(mut self) -> Self {
        self.keep = None;
        self
    }

    /// Sets when SQLite waits for the disk.
    pub const fn synchronous(mut self, synchronous: Synchronous) -> Self {
        self.settings.synchronous = synchronous;
        self
    }

    /// Sets how long a write waits for another process before it is `Unavailable`.
    pub const fn busy_timeout(mut self, timeout: Duration) -> Self {
        self.settings.busy_timeout = timeout;
        self
    }

    /// Sets the largest state in bytes; above 900 MB it is 900 MB.
    pub const fn max_state(mut self, bytes: u64) -> Self {
        self.max_state = if bytes < LARGEST { bytes } else { LARGEST };
        self
    }

    /// Sets the clock that leases are measured by.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    async fn open(self) -> Result<SqliteStore, StoreError> {
        let path = self.path.clone();
        let opened = Writer::open(self.path, self.settings).await;
        let (writer, file) = opened.map_err(|problem| problem.into_error_at(&path))?;
        let durable = match self.settings.synchronous {
            Synchronous::Full => Durable::Always,
            Synchronous::Normal => Durable::Configured,
        };
        Ok(SqliteStore(Arc::new(Shared {
            readers: Readers::new(Arc::clone(&file), self.settings),
            file,
            writer,
            capabilities: Capabilities::new(durable)
                .shared(true)
                .kept(self.keep)
                .max_state(self.max_state),
            clock: self.clock,
        })))
    }
}

impl IntoFuture for OpenSqlite {
    type Output = Result<SqliteStore, StoreError>;
    // Boxed, since the future of an async fn has no name yet; it is made once per store.
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.open())
    }
}
