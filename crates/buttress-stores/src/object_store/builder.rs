use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use ::object_store::{Error, ObjectStoreExt as _, PutMode, PutOptions, path::Path};
use buttress::checkpoint::{Capabilities, Clock, Durable, StoreError, WriteId};

use super::{Inner, ObjectStore, error, names};

/// Sets up an [`ObjectStore`].
///
/// # Defaults
///
/// - `prefix`: none, all of the bucket
/// - `keep`: the newest 10 checkpoints of a chain
/// - `max_state`: 64 MiB
/// - `durable`: as configured
/// - `call_timeout`: 60 s
/// - `clock`: the system's
#[must_use = "a builder does nothing until it opens"]
pub struct ObjectStoreBuilder {
    store: Arc<dyn ::object_store::ObjectStore>,
    prefix: Path,
    capabilities: Capabilities,
    call_timeout: Duration,
    clock: Clock,
}

// ===== impl ObjectStoreBuilder =====

impl ObjectStoreBuilder {
    pub(super) fn new(store: Arc<dyn ::object_store::ObjectStore>) -> Self {
        let kept = NonZeroU32::new(10);
        Self {
            store,
            prefix: Path::default(),
            capabilities: Capabilities::new(Durable::Configured).shared(true).kept(kept),
            call_timeout: Duration::from_secs(60),
            clock: Clock::SYSTEM,
        }
    }

    /// Sets what the names of all objects begin with, such as `agents/checkpoints`.
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = Path::from(prefix);
        self
    }

    /// Sets how many checkpoints of a chain stay; older ones are deleted behind each put.
    ///
    /// # Panics
    ///
    /// If it is 0.
    #[track_caller]
    pub fn keep(mut self, checkpoints: u32) -> Self {
        let keep = NonZeroU32::new(checkpoints).expect("at least one checkpoint is kept");
        self.capabilities = self.capabilities.kept(Some(keep));
        self
    }

    /// Keeps all checkpoints until they are pruned; to read a chain is to list all its objects.
    pub fn keep_all(mut self) -> Self {
        self.capabilities = self.capabilities.kept(None);
        self
    }

    /// Sets the largest state, or value of a write, in bytes.
    pub fn max_state(mut self, bytes: u64) -> Self {
        self.capabilities = self.capabilities.max_state(bytes);
        self
    }

    /// Says whether what the backend acknowledges survives, which only its owner knows.
    pub fn durable(mut self, durable: Durable) -> Self {
        self.capabilities.durable = durable;
        self
    }

    /// Sets how long a call may take, with all its requests.
    ///
    /// The client of a cloud repeats requests by itself, for minutes unless told otherwise.
    pub const fn call_timeout(mut self, time: Duration) -> Self {
        self.call_timeout = time;
        self
    }

    /// Sets the clock that leases are measured by.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Opens the store, and finds out whether the backend refuses to create what is there: it
    /// creates one small object twice and deletes it.
    ///
    /// # Errors
    ///
    /// `Setup` where it does not refuse, or cannot be used as it is set up; `Unavailable`.
    pub async fn open(self) -> Result<ObjectStore, StoreError> {
        let store = ObjectStore::new(Inner {
            store: self.store,
            base: self.prefix.as_ref().to_owned(),
            capabilities: self.capabilities,
            call_timeout: self.call_timeout,
            clock: self.clock,
        });
        store.within(store.0.probe()).await?;
        Ok(store)
    }
}

impl fmt::Debug for ObjectStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStoreBuilder")
            .field("store", &format_args!("{}", self.store))
            .field("prefix", &self.prefix.as_ref())
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

// ===== impl Inner =====

impl Inner {
    /// Creates an object twice: only one that is not there may be created.
    async fn probe(&self) -> Result<(), StoreError> {
        let path = names::path(&self.base, &format!("probe-{}", WriteId::random()));
        let create = || {
            let options = PutOptions::from(PutMode::Create);
            self.store.put_opts(&path, b"is create-if-absent honoured?"[..].into(), options)
        };
        match create().await {
            Ok(_) => {}
            // Whether it can be written is for the first put to say: one may only want to read.
            Err(Error::PermissionDenied { .. }) => return Ok(()),
            Err(error @ Error::NotFound { .. }) => {
                let reason = format!("there is no such bucket or folder: {}", self.store);
                return Err(StoreError::setup(reason).with_source(error::failed(&error)));
            }
            Err(error) => return Err(error::failed(&error)),
        }
        let again = create().await;
        // Left over it harms nobody.
        drop(self.store.delete(&path).await);
        match again {
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(()),
            Err(error) => Err(error::failed(&error)),
            Ok(_) => {
                let reason = "the backend replaces an object that was to be created only if absent";
                Err(StoreError::setup(format!("{reason}: {}", self.store)))
            }
        }
    }
}
