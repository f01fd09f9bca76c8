//! A circuit for each key: provider, model, tenant.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::{BuildHasher as _, Hash, RandomState},
    marker::PhantomData,
    sync::{
        Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::Instant;
use tower::{Layer, Service};

#[cfg(all(feature = "stream", feature = "http"))]
use super::AtBodyEnd;
#[cfg(feature = "stream")]
use super::AtStreamEnd;
use super::{
    AtAnswer, Circuit, CircuitBreakerLayer, KeyedResponseFuture, Readiness, Settle, State,
    future::Call, watch::Keyed,
};
use crate::{
    AnyError, BoxError, Classify, Error, classify::into_error, sharded::Sharded, telemetry::Labels,
};

/// Keeps one circuit per key of the request; made by [`CircuitBreakerLayer::keyed`].
///
/// # Defaults
///
/// - the rules of every circuit: those of [`CircuitBreakerLayer`]; [`like`](Self::like) sets others
/// - `capacity`: 10,000 keys
/// - `idle`: 10 min without a call, and a closed circuit is forgotten
///
/// A circuit that is not closed is never forgotten. In a full table the key that was used longest
/// ago of 64 is forgotten for a further one; where none of them is closed, the further key is let
/// through uncounted. Circuits that are idle are looked for when a key is added.
///
/// A table for 512 keys or more is kept in up to 64 parts with a lock each, and a part is full with
/// its share of the keys.
///
/// # Cancellation, Tracing, Errors
///
/// As [`CircuitBreakerLayer`], but for errors of the inner service's readiness: which circuit they
/// belong to is not known before there is a request, so none counts them.
///
/// # Examples
///
/// ```
/// use buttress::CircuitBreakerLayer;
/// use tower::{Service, ServiceBuilder, ServiceExt};
///
/// # #[derive(Clone)] struct Prompt { model: String }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), buttress::Error> {
/// let layer = CircuitBreakerLayer::keyed("openai", |prompt: &Prompt| prompt.model.clone());
/// let circuits = layer.circuits();
/// let mut agent = ServiceBuilder::new()
///     .layer(layer)
///     .service_fn(|_: Prompt| async { Ok::<_, std::io::Error>("fine") });
/// agent.ready().await?.call(Prompt { model: "gpt-large".to_owned() }).await?;
/// assert_eq!(&**circuits.get(&"gpt-large".to_owned()).unwrap().name(), "openai/gpt-large");
/// # Ok(())
/// # }
/// ```
#[must_use = "layers do nothing until applied to a service"]
pub struct KeyedCircuitBreakerLayer<F, K, C = AnyError, M = AtAnswer> {
    key: F,
    circuits: CircuitBreakers<K>,
    classify: C,
    settles: M,
    labels: Labels,
}

/// The circuits of a keyed breaker, as a cheap handle.
pub struct CircuitBreakers<K> {
    table: Arc<Table<K>>,
}

struct Table<K> {
    /// Whose rules every circuit has.
    template: RwLock<CircuitBreakerLayer>,
    /// Each key belongs to one of the parts, so that calls for different keys seldom wait for each
    /// other. Made at the first call, when the capacity is known.
    parts: OnceLock<Box<[Part<K>]>>,
    /// Chooses the part of a key.
    hasher: RandomState,
    /// The moment that entries count their time from.
    origin: Instant,
    capacity: AtomicU64,
    idle_millis: AtomicU64,
}

/// Keeps a lock on a cache line that nothing else stands on.
#[repr(align(64))]
struct Part<K>(RwLock<Circuits<K>>);

struct Circuits<K> {
    entries: HashMap<K, Entry>,
    /// The keys in the order in which they are looked at when the part is full.
    queue: VecDeque<K>,
    swept_millis: u64,
}

/// How many parts there are at most, and how many keys make it worth to have one more.
const PARTS: u64 = 64;
const KEYS_PER_PART: u64 = 256;

/// How many keys are looked at to find one to forget.
const CANDIDATES: usize = 64;

struct Entry {
    circuit: Circuit,
    /// When a call last asked for it, in milliseconds since the table's origin.
    used_millis: AtomicU64,
}

/// A service behind a circuit per key; made by [`KeyedCircuitBreakerLayer`].
pub struct KeyedCircuitBreaker<S, F, K, C = AnyError, M = AtAnswer> {
    inner: S,
    readiness: Readiness,
    key: F,
    circuits: CircuitBreakers<K>,
    classify: C,
    settles: M,
    labels: Sharded<Labels, Labels>,
    _key: PhantomData<fn() -> K>,
}

// ===== impl KeyedCircuitBreakerLayer =====

impl<F, K> KeyedCircuitBreakerLayer<F, K> {
    pub(super) fn new(template: CircuitBreakerLayer, key: F) -> Self {
        let table = Table {
            template: RwLock::new(template),
            parts: OnceLock::new(),
            hasher: RandomState::new(),
            origin: Instant::now(),
            capacity: AtomicU64::new(10_000),
            idle_millis: AtomicU64::new(10 * 60 * 1_000),
        };
        let circuits = CircuitBreakers { table: Arc::new(table) };
        let labels = Labels::default();
        Self { key, circuits, classify: AnyError, settles: AtAnswer, labels }
    }
}

impl<F, K, C, M> KeyedCircuitBreakerLayer<F, K, C, M> {
    /// Returns the circuits, to watch or to control them.
    #[must_use]
    pub fn circuits(&self) -> CircuitBreakers<K> {
        self.circuits.clone()
    }

    /// Sets the rules of every circuit: those of another layer, whose own circuit is not used.
    pub fn like<D, N>(self, layer: &CircuitBreakerLayer<D, N>) -> Self {
        let mut template =
            self.circuits.table.template.write().unwrap_or_else(PoisonError::into_inner);
        let name = Arc::clone(template.circuit().name());
        *template = layer.rules(name);
        drop(template);
        self
    }

    /// Sets how many keys are kept.
    ///
    /// # Panics
    ///
    /// If the number is zero.
    #[track_caller]
    pub fn capacity(self, keys: usize) -> Self {
        assert!(keys > 0, "capacity must be at least 1");
        self.circuits.table.capacity.store(keys as u64, Ordering::Relaxed);
        self
    }

    /// Sets how long a closed circuit is kept without a call.
    ///
    /// # Panics
    ///
    /// If the time is zero.
    #[track_caller]
    pub fn idle(self, time: Duration) -> Self {
        assert!(!time.is_zero(), "idle must be longer than zero");
        self.circuits.table.idle_millis.store(millis(time).max(1), Ordering::Relaxed);
        self
    }

    /// Sets what counts as a failure.
    pub fn classify<D>(self, classify: D) -> KeyedCircuitBreakerLayer<F, K, D, M> {
        let Self { key, circuits, settles, labels, .. } = self;
        KeyedCircuitBreakerLayer { key, circuits, classify, settles, labels }
    }

    /// Waits for the end of an answer that is a stream, as
    /// [`CircuitBreakerLayer::settle_at_stream_end`] does.
    #[cfg(feature = "stream")]
    pub fn settle_at_stream_end(self) -> KeyedCircuitBreakerLayer<F, K, C, AtStreamEnd> {
        self.settles(AtStreamEnd { classify_items: AnyError })
    }

    /// Waits for the end of an HTTP body, as [`CircuitBreakerLayer::settle_at_body_end`] does.
    #[cfg(all(feature = "stream", feature = "http"))]
    pub fn settle_at_body_end(self) -> KeyedCircuitBreakerLayer<F, K, C, AtBodyEnd> {
        self.settles(AtBodyEnd)
    }

    #[cfg(feature = "stream")]
    fn settles<N>(self, settles: N) -> KeyedCircuitBreakerLayer<F, K, C, N> {
        let Self { key, circuits, classify, labels, .. } = self;
        KeyedCircuitBreakerLayer { key, circuits, classify, settles, labels }
    }

    /// Sets the agent that spans and errors name.
    pub fn agent_id(mut self, id: impl Into<Arc<str>>) -> Self {
        self.labels.agent_id = Some(id.into());
        self
    }

    /// Sets a JSON object that the span carries.
    pub fn metadata(mut self, json: impl Into<Arc<str>>) -> Self {
        self.labels.metadata = Some(json.into());
        self
    }
}

#[cfg(feature = "stream")]
impl<F, K, C, I> KeyedCircuitBreakerLayer<F, K, C, AtStreamEnd<I>> {
    /// Sets which items are failures, and what an error of the stream means.
    pub fn classify_items<J>(
        self,
        classify_items: J,
    ) -> KeyedCircuitBreakerLayer<F, K, C, AtStreamEnd<J>> {
        self.settles(AtStreamEnd { classify_items })
    }
}

impl<F: Clone, K, C: Clone, M: Clone> Clone for KeyedCircuitBreakerLayer<F, K, C, M> {
    fn clone(&self) -> Self {
        Self {
            key: self.key.clone(),
            circuits: self.circuits.clone(),
            classify: self.classify.clone(),
            settles: self.settles.clone(),
            labels: self.labels.clone(),
        }
    }
}

impl<F, K, C, M> fmt::Debug for KeyedCircuitBreakerLayer<F, K, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedCircuitBreakerLayer")
            .field("circuits", &self.circuits)
            .finish_non_exhaustive()
    }
}

impl<S, F: Clone, K, C: Clone, M: Clone> Layer<S> for KeyedCircuitBreakerLayer<F, K, C, M> {
    type Service = KeyedCircuitBreaker<S, F, K, C, M>;

    fn layer(&self, inner: S) -> Self::Service {
        KeyedCircuitBreaker {
            inner,
            readiness: Readiness::Unasked,
            key: self.key.clone(),
            circuits: self.circuits.clone(),
            classify: self.classify.clone(),
            settles: self.settles.clone(),
            labels: Sharded::new(self.labels.clone()),
            _key: PhantomData,
        }
    }
}

// ===== impl CircuitBreakers =====

impl<K> CircuitBreakers<K>
where
    K: Hash + Eq + Clone + fmt::Display + Send + Sync + 'static,
{
    /// Returns the circuit of a key, if a call has asked for it and it is not forgotten.
    #[must_use]
    pub fn get(&self, key: &K) -> Option<Circuit> {
        self.table.part(key).read().entries.get(key).map(|entry| entry.circuit.clone())
    }

    /// Returns every key with its circuit, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (K, Circuit)> + use<K> {
        let mut all = Vec::new();
        for part in self.table.parts() {
            let circuits = part.read();
            let entries = circuits.entries.iter();
            all.extend(entries.map(|(key, entry)| (key.clone(), entry.circuit.clone())));
        }
        all.into_iter()
    }

    /// Returns the circuit of a key, a new one if there is none.
    fn circuit(&self, key: K) -> Circuit {
        let now = millis(Instant::now().saturating_duration_since(self.table.origin));
        let part = self.table.part(&key);
        if let Some(entry) = part.read().entries.get(&key) {
            entry.used_millis.store(now, Ordering::Relaxed);
            return entry.circuit.clone();
        }
        self.add(part, key, now)
    }

    #[cold]
    fn add(&self, part: &Part<K>, key: K, now: u64) -> Circuit {
        let template = self.table.template.read().unwrap_or_else(PoisonError::into_inner).clone();
        let name = format!("{}/{key}", template.circuit().name());
        let circuit = template.renamed(name).circuit();
        // What is forgotten is dropped after the lock: it may run code of others.
        let mut forgotten = Vec::new();
        let mut circuits = part.write();
        // Another call may have added it since.
        if let Some(entry) = circuits.entries.get(&key) {
            return entry.circuit.clone();
        }
        circuits.sweep(self.table.idle_millis.load(Ordering::Relaxed), now, &mut forgotten);
        let capacity = self.table.capacity_of_a_part();
        if circuits.entries.len() as u64 >= capacity && !circuits.forget_one(&mut forgotten) {
            return circuit;
        }
        let entry = Entry { circuit: circuit.clone(), used_millis: AtomicU64::new(now) };
        circuits.queue.push_back(key.clone());
        circuits.entries.insert(key, entry);
        drop(circuits);
        drop(forgotten);
        circuit
    }
}

// ===== impl Table, Part =====

impl<K> Table<K> {
    fn parts(&self) -> &[Part<K>] {
        self.parts.get_or_init(|| {
            let parts = self.capacity.load(Ordering::Relaxed) / KEYS_PER_PART;
            (0..parts.clamp(1, PARTS)).map(|_| Part::new()).collect()
        })
    }

    fn part(&self, key: &K) -> &Part<K>
    where
        K: Hash,
    {
        let parts = self.parts();
        // The table of the part takes the hash of a hasher of its own.
        let hash = if parts.len() == 1 { 0 } else { self.hasher.hash_one(key) };
        #[expect(clippy::cast_possible_truncation, reason = "a part is one of a few")]
        let place = (hash % parts.len() as u64) as usize;
        &parts[place]
    }

    fn capacity_of_a_part(&self) -> u64 {
        self.capacity.load(Ordering::Relaxed).div_ceil(self.parts().len() as u64)
    }
}

impl<K> Part<K> {
    fn new() -> Self {
        let (entries, queue) = (HashMap::new(), VecDeque::new());
        Self(RwLock::new(Circuits { entries, queue, swept_millis: 0 }))
    }

    fn read(&self) -> RwLockReadGuard<'_, Circuits<K>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Circuits<K>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

// ===== impl Circuits =====

impl<K: Hash + Eq> Circuits<K> {
    /// Forgets the closed circuits that nobody used for long.
    fn sweep(&mut self, idle: u64, now: u64, forgotten: &mut Vec<(K, Entry)>) {
        // A look at every circuit is worth it once per half of the idle time.
        if now.saturating_sub(self.swept_millis) < idle / 2 {
            return;
        }
        self.swept_millis = now;
        let Self { entries, queue, .. } = self;
        forgotten.extend(
            entries.extract_if(|_, entry| {
                now.saturating_sub(entry.used()) >= idle && entry.is_closed()
            }),
        );
        queue.retain(|key| entries.contains_key(key));
    }

    /// Makes room for one more; false where no circuit that was looked at is closed.
    fn forget_one(&mut self, forgotten: &mut Vec<(K, Entry)>) -> bool {
        let candidates = self.queue.len().min(CANDIDATES);
        let used = self.queue.iter().take(candidates).enumerate().filter_map(|(place, key)| {
            let entry = self.entries.get(key).filter(|entry| entry.is_closed())?;
            Some((entry.used(), place))
        });
        let oldest = used.min().map(|(_, place)| place);
        let key = oldest.and_then(|place| self.queue.remove(place));
        // The others wait for their next turn at the end.
        self.queue.rotate_left(candidates.saturating_sub(usize::from(key.is_some())));
        let entry = key.and_then(|key| self.entries.remove_entry(&key));
        let found = entry.is_some();
        forgotten.extend(entry);
        found
    }
}

// ===== impl Entry =====

impl Entry {
    fn used(&self) -> u64 {
        self.used_millis.load(Ordering::Relaxed)
    }

    /// Whether the circuit was closed when it was last used; nothing is told and no code of others
    /// runs, since the table is locked.
    fn is_closed(&self) -> bool {
        self.circuit.state_before() == State::Closed
    }
}

impl<K> Clone for CircuitBreakers<K> {
    fn clone(&self) -> Self {
        Self { table: Arc::clone(&self.table) }
    }
}

impl<K> fmt::Debug for CircuitBreakers<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: usize = self.table.parts().iter().map(|part| part.read().entries.len()).sum();
        f.debug_struct("CircuitBreakers").field("keys", &keys).finish_non_exhaustive()
    }
}

// ===== impl KeyedCircuitBreaker =====

impl<S, F, K, C, M> KeyedCircuitBreaker<S, F, K, C, M> {
    /// Returns the circuits.
    #[must_use]
    pub const fn circuits(&self) -> &CircuitBreakers<K> {
        &self.circuits
    }

    /// Returns the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service for changes.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service and drops the breakers.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

/// A clone's inner service is not ready, whatever the original's is.
impl<S: Clone, F: Clone, K, C: Clone, M: Clone> Clone for KeyedCircuitBreaker<S, F, K, C, M> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            readiness: Readiness::Unasked,
            key: self.key.clone(),
            circuits: self.circuits.clone(),
            classify: self.classify.clone(),
            settles: self.settles.clone(),
            labels: self.labels.clone(),
            _key: PhantomData,
        }
    }
}

impl<S: fmt::Debug, F, K, C, M> fmt::Debug for KeyedCircuitBreaker<S, F, K, C, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedCircuitBreaker")
            .field("inner", &self.inner)
            .field("circuits", &self.circuits)
            .finish_non_exhaustive()
    }
}

impl<S, F, K, C, M, Req> Service<Req> for KeyedCircuitBreaker<S, F, K, C, M>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError> + 'static,
    F: Fn(&Req) -> K,
    K: Hash + Eq + Clone + fmt::Display + Send + Sync + 'static,
    C: Classify<S::Response, S::Error> + Clone,
    M: Settle<S::Response, S::Error, C> + Clone,
{
    type Response = M::Response;
    type Error = Error;
    type Future = KeyedResponseFuture<S, Req, C, M>;

    /// Makes the inner service ready; which circuit is asked is known only with the request.
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.readiness == Readiness::Ready {
            return Poll::Ready(Ok(()));
        }
        self.readiness = Readiness::Asked;
        let poll = self.inner.poll_ready(cx);
        if let Poll::Ready(Ok(())) = poll {
            self.readiness = Readiness::Ready;
        }
        poll.map_err(|error| {
            let agent_id = self.labels.prototype().agent_id.as_ref();
            into_error(&self.classify, error).in_agent(agent_id)
        })
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        let access = Keyed {
            circuit: self.circuits.circuit((self.key)(&request)),
            labels: self.labels.handle(Labels::clone),
        };
        let call = Call {
            inner: &mut self.inner,
            readiness: &mut self.readiness,
            access,
            classify: self.classify.clone(),
            settles: self.settles.clone(),
        };
        KeyedResponseFuture::new(call.start(request))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
