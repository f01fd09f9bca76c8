use std::{fmt, marker::PhantomData, sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    BoxStore, Checkpoint, CheckpointKey, CheckpointStore, Clock, Namespace, Payload, Put,
    StoreError, WorkflowId, schema::Schema, spans, workflow::Workflow,
};
use crate::{BoxError, Error, telemetry::Labels};

/// Saves, loads and resumes the state of workflows as a serde type.
///
/// The seed's `CheckpointManager`. The state is written as JSON, before the future is first
/// pending, so that changes afterwards are not in it. Writing and reading JSON is work of the
/// caller's thread, as that of an HTTP body is; only the store's own work is done elsewhere. Where a
/// state of many megabytes must not hold up a runtime of few threads, save it from one of
/// `spawn_blocking`.
///
/// Clones share their settings.
///
/// # Defaults
///
/// - `namespace`: the workflow's own
/// - `schema_version`: 1
/// - `when_unavailable`: [`WhenUnavailable::FAIL`]
/// - `clock`: the system's
///
/// # Tracing
///
/// `save_checkpoint`, `load_checkpoint` and `resume_from_checkpoint`, as in
/// [`telemetry`](crate::telemetry). A missing checkpoint is an ERROR; a save that was gone on
/// without is a WARNING.
///
/// See the [module docs](super) for an example.
#[must_use]
pub struct Checkpointer<S> {
    store: BoxStore,
    settings: Arc<Settings>,
    state: PhantomData<fn() -> S>,
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) namespace: Namespace,
    pub(super) schema: Schema,
    pub(super) when_unavailable: WhenUnavailable,
    pub(super) clock: Clock,
    pub(super) labels: Labels,
}

/// What to do when the store is away: try again, go on without, or fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WhenUnavailable {
    retries: u32,
    goes_on: bool,
}

/// What became of a save.
#[derive(Debug)]
#[non_exhaustive]
#[must_use = "a save may have been gone on without"]
pub struct Saved {
    /// The checkpoint; none where the store was away and the caller goes on without.
    pub sequence: Option<u64>,
    /// Why there is none.
    pub skipped: Option<StoreError>,
}

/// A checkpoint to go on from.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Resumed<S> {
    /// The checkpoint, with the phase to go on at.
    pub checkpoint: Checkpoint<S>,
    /// How long ago it was saved by the clocks of its writer and of this process; zero where the
    /// writer's is ahead.
    pub age: Duration,
}

// ===== impl Checkpointer =====

impl<S> Checkpointer<S> {
    /// Creates one over a store.
    pub fn new(store: impl CheckpointStore) -> Self {
        let settings = Settings {
            namespace: Namespace::default(),
            schema: Schema::new(),
            when_unavailable: WhenUnavailable::FAIL,
            clock: Clock::SYSTEM,
            labels: Labels::default(),
        };
        Self { store: BoxStore::new(store), settings: Arc::new(settings), state: PhantomData }
    }

    /// Sets the part of each workflow that is saved.
    pub fn namespace(mut self, namespace: Namespace) -> Self {
        self.change().namespace = namespace;
        self
    }

    /// Sets the version of the state's schema.
    ///
    /// A checkpoint of a newer one is `TooNew` and left untouched.
    ///
    /// # Panics
    ///
    /// If it is 0, which stands for states that another program has written.
    #[track_caller]
    pub fn schema_version(mut self, version: u32) -> Self {
        assert!(version > 0, "schema versions begin with 1");
        self.change().schema.set_version(version);
        self
    }

    /// Adds the step that makes a state of version `from` one of the next.
    ///
    /// Steps run in order, once each, when an older checkpoint is loaded; what is stored stays as
    /// it is. A missing one is `NoMigration`, one that fails is `Corrupt`.
    pub fn upcast(
        mut self,
        from: u32,
        step: impl Fn(Value) -> Result<Value, BoxError> + Send + Sync + 'static,
    ) -> Self {
        self.change().schema.add_step(from, step);
        self
    }

    /// Sets what to do when the store is away.
    pub fn when_unavailable(mut self, what: WhenUnavailable) -> Self {
        self.change().when_unavailable = what;
        self
    }

    /// Sets the clock of timestamps and ages.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.change().clock = clock;
        self
    }

    /// Sets the agent that spans name.
    pub fn agent_id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.change().labels.agent_id = Some(id.into());
        self
    }

    /// Sets a JSON object that spans carry.
    pub fn metadata(mut self, json: impl Into<Arc<str>>) -> Self {
        self.change().labels.metadata = Some(json.into());
        self
    }

    /// Returns the store.
    #[must_use]
    pub const fn store(&self) -> &BoxStore {
        &self.store
    }

    fn change(&mut self) -> &mut Settings {
        Arc::make_mut(&mut self.settings)
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn key(&self, id: &WorkflowId) -> CheckpointKey {
        CheckpointKey::new(id.clone()).in_namespace(self.settings.namespace.clone())
    }

    /// The same for another state.
    pub(super) fn for_state<T>(&self) -> Checkpointer<T> {
        let (store, settings) = (self.store.clone(), Arc::clone(&self.settings));
        Checkpointer { store, settings, state: PhantomData }
    }

    pub(super) fn goes_on(&self) -> bool {
        self.settings.when_unavailable.goes_on
    }

    /// The same for a memo, which is in a part of its own.
    pub(super) fn for_memo<T>(&self, namespace: Namespace) -> Checkpointer<T> {
        let mut settings = (*self.settings).clone();
        settings.namespace = namespace;
        settings.schema = settings.schema.of_memos();
        Checkpointer { store: self.store.clone(), settings: Arc::new(settings), state: PhantomData }
    }
}

impl<S: Serialize + DeserializeOwned> Checkpointer<S> {
    /// Saves a state behind whatever is saved already: the seed's `save_checkpoint`.
    ///
    /// Of two that save at once both succeed, one after the other. Who wants to be the only writer
    /// uses a [`workflow`](Self::workflow).
    ///
    /// # Errors
    ///
    /// `Checkpoint`, whose source is the [`StoreError`]: `Encode` where what was written could not
    /// be read again (a number that JSON has not, nesting that is too deep), `TooNew` where a newer
    /// program has saved.
    ///
    /// # Cancellation
    ///
    /// Leaves the old checkpoint or the new one.
    pub async fn save(&self, id: &WorkflowId, phase: &str, state: &S) -> Result<Saved, Error> {
        let put = self.put(&self.key(id), phase, state);
        self.save_put(id, phase, put).await
    }
}

impl<S: Serialize> Checkpointer<S> {
    /// Saves a state that this program only writes, behind whatever is saved already.
    pub(super) async fn save_unread(
        &self,
        id: &WorkflowId,
        phase: &str,
        state: &S,
    ) -> Result<Saved, Error> {
        let put = self.put_unread(&self.key(id), phase, state);
        self.save_put(id, phase, put).await
    }

    async fn save_put(
        &self,
        id: &WorkflowId,
        phase: &str,
        put: Result<Put, StoreError>,
    ) -> Result<Saved, Error> {
        let key = self.key(id);
        let mut span = spans::save(self, &key, phase);
        let saved = match put {
            Ok(put) => span.run(self.put_behind_the_head(&put)).await,
            Err(error) => Err(error),
        };
        self.saved(span, &key, phase, saved)
    }

    /// Saves the first state of a chain: whoever comes later gets a `Conflict`.
    pub(super) async fn save_first(
        &self,
        key: &CheckpointKey,
        phase: &str,
        state: &S,
    ) -> Result<(), Error> {
        let put = self.put_unread(key, phase, state);
        let mut span = spans::save(self, key, phase);
        let saved = match put {
            Ok(put) => span.run(self.when_back(|| self.store.put(put.clone()))).await,
            Err(error) => Err(error),
        };
        let _saved = self.saved(span, key, phase, saved)?;
        Ok(())
    }

    /// Makes the put of a state, of which nothing is known to be readable again; its parent is to be
    /// filled in.
    fn put_unread(&self, key: &CheckpointKey, phase: &str, state: &S) -> Result<Put, StoreError> {
        let state = Payload::json(state).map_err(|error| error.in_chain(key))?;
        let mut put =
            Put::new(key.clone(), None, state).phase(phase).timestamp(self.settings.clock.now());
        put.schema_version = self.settings.schema.version();
        Ok(put)
    }

    async fn put_behind_the_head(&self, put: &Put) -> Result<u64, StoreError> {
        loop {
            let mut put = put.clone();
            put.parent = self.head(&put.key).await?;
            match self.when_back(|| self.store.put(put.clone())).await {
                // Somebody else was faster, so this ends when all others are done.
                Err(error) if error.is_conflict() => {}
                put => return put,
            }
        }
    }

    /// Returns the sequence of the head, where this program may go behind it.
    ///
    /// Behind one of a newer schema it may not: what the newer program has saved would be pruned.
    pub(super) async fn head(&self, key: &CheckpointKey) -> Result<Option<u64>, StoreError> {
        let Some(head) = self.when_back(|| self.store.latest(key)).await? else { return Ok(None) };
        self.settings.schema.admit(&head)?;
        Ok(Some(head.sequence))
    }
}

impl<S: Serialize + DeserializeOwned> Checkpointer<S> {
    /// Makes the put of a state that can be read again; its parent is to be filled in.
    pub(super) fn put(
        &self,
        key: &CheckpointKey,
        phase: &str,
        state: &S,
    ) -> Result<Put, StoreError> {
        let put = self.put_unread(key, phase, state)?;
        Schema::check::<S>(&put.state).map_err(|error| error.in_chain(key))?;
        Ok(put)
    }

    /// Returns a workflow whose only writer the caller wants to be.
    pub fn workflow(&self, id: &WorkflowId) -> Workflow<S> {
        Workflow::new(self.clone(), id)
    }
}

impl<S: DeserializeOwned> Checkpointer<S> {
    /// Loads the newest checkpoint: the seed's `load_checkpoint`.
    ///
    /// # Errors
    ///
    /// `CheckpointNotFound`; `Checkpoint`, whose source is the [`StoreError`].
    pub async fn load(&self, id: &WorkflowId) -> Result<Checkpoint<S>, Error> {
        let key = self.key(id);
        let mut span = spans::load(self, &key);
        let loaded = span.run(self.read_head(&key)).await;
        let loaded =
            loaded.and_then(|found| found.ok_or_else(|| StoreError::not_found().in_chain(&key)));
        match loaded {
            Ok(checkpoint) => {
                span.loaded(&checkpoint);
                Ok(checkpoint)
            }
            Err(error) => Err(span.not_loaded(&key, error)),
        }
    }

    /// Loads the newest checkpoint and says how old it is: the seed's `resume_from_checkpoint`.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub async fn resume(&self, id: &WorkflowId) -> Result<Resumed<S>, Error> {
        let key = self.key(id);
        let mut span = spans::resume(self, &key);
        match span.run(self.load(id)).await {
            Ok(checkpoint) => {
                let now = self.settings.clock.now();
                let age = now.duration_since(checkpoint.timestamp).unwrap_or_default();
                span.resumed(&checkpoint, age);
                Ok(Resumed { checkpoint, age })
            }
            Err(error) => {
                span.failed(&error);
                Err(error)
            }
        }
    }

    pub(super) async fn read_head(
        &self,
        key: &CheckpointKey,
    ) -> Result<Option<Checkpoint<S>>, StoreError> {
        let Some(stored) = self.when_back(|| self.store.latest(key)).await? else {
            return Ok(None);
        };
        let place = self.store.place(key, stored.sequence);
        self.settings.schema.read(stored, || place.to_string()).map(Some)
    }
}

impl<S> Checkpointer<S> {
    /// Asks the store again while it is away, as often as the settings say.
    pub(super) async fn when_back<T, F>(&self, mut ask: impl FnMut() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let policy = self.settings.when_unavailable;
        let mut delays = policy.delays();
        loop {
            let answer = ask().await;
            let is_away = answer.as_ref().is_err_and(StoreError::is_unavailable);
            match delays.next() {
                Some(delay) if is_away => tokio::time::sleep(delay).await,
                _ => return answer,
            }
        }
    }

    /// Makes the result of a save, and its span.
    pub(super) fn saved(
        &self,
        span: spans::Span,
        key: &CheckpointKey,
        phase: &str,
        result: Result<u64, StoreError>,
    ) -> Result<Saved, Error> {
        let saved = self.went_on(result).map_err(Error::from);
        match &saved {
            Ok(Saved { sequence: Some(sequence), .. }) => {
                span.saved(key, phase, &self.store.place(key, *sequence));
            }
            Ok(Saved { skipped: Some(error), .. }) => span.skipped(key, error),
            Ok(_) => {}
            Err(error) => span.failed(error),
        }
        saved
    }

    /// Makes the result of a save: where the store is away, as the settings say.
    pub(super) fn went_on(&self, result: Result<u64, StoreError>) -> Result<Saved, StoreError> {
        match result {
            Ok(sequence) => Ok(Saved { sequence: Some(sequence), skipped: None }),
            Err(error) if self.settings.when_unavailable.endures(&error) => {
                Ok(Saved { sequence: None, skipped: Some(error) })
            }
            Err(error) => Err(error),
        }
    }
}

impl<S> Clone for Checkpointer<S> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), settings: Arc::clone(&self.settings), state: PhantomData }
    }
}

impl<S> fmt::Debug for Checkpointer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpointer")
            .field("store", &self.store)
            .field("settings", &self.settings)
            .finish()
    }
}

// ===== impl WhenUnavailable =====

impl WhenUnavailable {
    /// Fails: nothing goes on that is not saved.
    pub const FAIL: Self = Self { retries: 0, goes_on: false };
    /// Goes on without a checkpoint, and says so in the result and the span.
    pub const GO_ON: Self = Self { retries: 0, goes_on: true };

    /// Tries again, after 100 ms and then twice as long each time, at most 5 s; then fails.
    #[must_use]
    pub const fn retry(retries: u32) -> Self {
        Self { retries, goes_on: false }
    }

    /// Goes on without a checkpoint once the retries are spent.
    #[must_use]
    pub const fn then_go_on(mut self) -> Self {
        self.goes_on = true;
        self
    }

    /// Returns whether an error of the store is one to go on without it.
    #[must_use]
    pub const fn endures(self, error: &StoreError) -> bool {
        self.goes_on && error.is_unavailable()
    }

    fn delays(self) -> impl Iterator<Item = Duration> {
        const FIRST: Duration = Duration::from_millis(100);
        const LONGEST: Duration = Duration::from_secs(5);
        let doubled = |delay: &Duration| Some((*delay * 2).min(LONGEST));
        let retries = usize::try_from(self.retries).unwrap_or(usize::MAX);
        std::iter::successors(Some(FIRST), doubled).take(retries)
    }
}

impl Default for WhenUnavailable {
    fn default() -> Self {
        Self::FAIL
    }
}
