//! The handle of a circuit: its closed path in one atomic word, everything else under a lock.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tower::ServiceExt;

use super::{
    AtAnswer, CircuitBreaker, CircuitBreakerConfig, Guard,
    machine::{Changes, Machine, Permit, Rejection, State, Transition, TransitionReason, Verdict},
    settings::Settings,
    word::{Rejects, Word},
};
use crate::{
    AnyError, BoxError, ConfigError, Error,
    catch_panic::Panic,
    once::Once,
    telemetry::{self, Labels},
};

/// A circuit: the state that breakers share, as a cheap handle.
///
/// Clones are the same circuit. Handed out by [`CircuitBreakerLayer::circuit`]; one may also be
/// made alone and shared with [`CircuitBreakerLayer::sharing`].
///
/// [`CircuitBreakerLayer::circuit`]: super::CircuitBreakerLayer::circuit
/// [`CircuitBreakerLayer::sharing`]: super::CircuitBreakerLayer::sharing
///
/// ```
/// use buttress::{CircuitBreakerLayer, circuit_breaker::State};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let circuit = CircuitBreakerLayer::new("gpt-large").consecutive_failures(1).circuit();
/// let failed = circuit.call(|| async { Err::<(), _>(std::io::Error::other("reset")) }).await;
/// assert!(failed.is_err());
/// assert_eq!(circuit.state(), State::Open);
///
/// let rejected = circuit.call(|| async { Ok::<_, std::io::Error>(()) }).await.unwrap_err();
/// assert!(rejected.is_circuit_open());
/// circuit.reset();
/// assert_eq!(circuit.state(), State::Closed);
/// # }
/// ```
#[derive(Clone)]
pub struct Circuit {
    shared: Arc<Shared>,
}

struct Shared {
    name: Arc<str>,
    /// What the closed path reads; see [`Word`]. Written under the lock only.
    word: AtomicU64,
    /// What rejects a call at once; written before the word, under the lock only.
    rejects: Rejects,
    late: AtomicU64,
    machine: Mutex<Machine>,
    listeners: Mutex<Listeners>,
}

type Listener = Arc<dyn Fn(&Transition) + Send + Sync>;

/// Who hears of transitions, and the transitions that are not told yet.
#[derive(Default)]
struct Listeners {
    all: Vec<(u64, Listener)>,
    next_id: u64,
    untold: std::collections::VecDeque<Transition>,
    telling: bool,
}

/// What a circuit looks like at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Snapshot {
    /// The state, with what time alone has changed.
    pub state: State,
    /// How many states there have been; a half-open period that is renewed counts as one.
    pub generation: u64,
    /// How long an open circuit goes on rejecting.
    pub retry_after: Option<Duration>,
    /// Failures in a row.
    pub consecutive_failures: u32,
    /// Successes of probes in a row.
    pub successes: u32,
    /// Calls in the window; 0 where no rate is set.
    pub calls: u64,
    /// The share of them that failed, 0 to 1.
    pub failure_rate: f64,
    /// The share of them that were slow, 0 to 1.
    pub slow_rate: f64,
    /// Calls that were rejected, ever.
    pub not_permitted: u64,
    /// Results of calls of an older generation, ever.
    pub late: u64,
    /// Calls that their callers dropped, ever.
    pub cancelled: u64,
    /// Failures that did not count, ever.
    pub ignored: u64,
}

/// Keeps a listener of [`Circuit::subscribe`]; dropping it ends the subscription.
#[must_use = "dropping a subscription ends it"]
pub struct Subscription {
    shared: Weak<Shared>,
    id: u64,
}

// ===== impl Circuit =====

impl Circuit {
    /// Creates a circuit with the default rules; see [`CircuitBreakerLayer`][super::CircuitBreakerLayer].
    ///
    /// # Panics
    ///
    /// If the name is empty.
    #[must_use]
    #[track_caller]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        let name = name.into();
        assert!(!name.is_empty(), "a circuit's name must not be empty");
        Self::with_settings(name, Settings::default())
    }

    pub(super) fn with_settings(name: Arc<str>, settings: Settings) -> Self {
        let machine = Machine::new(settings);
        let shared = Shared {
            name,
            word: AtomicU64::new(Word::new(&machine).0),
            rejects: Rejects::new(),
            late: AtomicU64::new(0),
            machine: Mutex::new(machine),
            listeners: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns the name, with the key where it has one.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    /// Returns whether both handles are of the same circuit.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Returns the state, with what time alone has changed.
    #[must_use]
    pub fn state(&self) -> State {
        self.snapshot().state
    }

    /// Returns everything that is known about the circuit now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        let (snapshot, transitions) = self.step(|machine, changes| {
            machine.catch_up(now, changes);
            let totals = machine.totals(now);
            Snapshot {
                state: machine.state,
                generation: machine.generation,
                retry_after: machine.until.map(|until| until.saturating_duration_since(now)),
                consecutive_failures: machine.failures,
                successes: machine.successes(),
                calls: totals.calls,
                failure_rate: totals.failure_rate(),
                slow_rate: totals.slow_rate(),
                not_permitted: machine.counters.not_permitted
                    + self.shared.rejects.count.load(Ordering::Relaxed),
                late: self.shared.late.load(Ordering::Relaxed),
                cancelled: machine.counters.cancelled,
                ignored: machine.counters.ignored,
            }
        });
        announce_all(&transitions, &Labels::default());
        snapshot
    }

    /// Opens the circuit for its open time; one that is open is left as it is.
    pub fn trip(&self) {
        self.trip_now(None);
    }

    /// Opens the circuit for a given time, however long; one that is open is left as it is.
    pub fn trip_for(&self, time: Duration) {
        self.trip_now(Some(time));
    }

    /// Rejects every call until [`reset`](Self::reset) or another state is asked for.
    pub fn force_open(&self) {
        self.enter(State::ForcedOpen);
    }

    /// Lets probes through at once, whatever the open time.
    pub fn force_half_open(&self) {
        self.enter(State::HalfOpen);
    }

    /// Lets every call through and counts none, until [`reset`](Self::reset) or another state is
    /// asked for.
    pub fn disable(&self) {
        self.enter(State::Disabled);
    }

    /// Lets every call through and only counts, until [`reset`](Self::reset) or another state is
    /// asked for.
    pub fn metrics_only(&self) {
        self.enter(State::MetricsOnly);
    }

    /// Closes the circuit and forgets its counts; calls on their way are late.
    pub fn reset(&self) {
        self.enter(State::Closed);
    }

    /// Takes over new rules; the state stays, and so do the counts where they still fit.
    ///
    /// The window is kept if its kind and size are the same. What the new rules make of it shows
    /// at the next result. A half-open period begins anew if its own rule changes. The circuit
    /// keeps its name.
    ///
    /// # Errors
    ///
    /// The field that cannot be used; nothing is changed then.
    pub fn reconfigure(&self, config: CircuitBreakerConfig) -> Result<(), ConfigError> {
        self.set(config.into_settings()?);
        Ok(())
    }

    /// Calls a function after each change of state, until the subscription is dropped.
    ///
    /// Listeners run outside every lock, in the order of the changes, and may use the circuit. A
    /// panic of one is caught, and the others still hear of the change.
    pub fn subscribe(
        &self,
        listener: impl Fn(&Transition) + Send + Sync + 'static,
    ) -> Subscription {
        let mut listeners = self.shared.listeners();
        let id = listeners.next_id;
        listeners.next_id += 1;
        listeners.all.push((id, Arc::new(listener)));
        Subscription { shared: Arc::downgrade(&self.shared), id }
    }

    /// Guards an async function: the breaker for who has no service.
    ///
    /// # Errors
    ///
    /// As [`CircuitBreakerLayer`][super::CircuitBreakerLayer].
    ///
    /// # Panics
    ///
    /// As the function does; the panic counts as a failure.
    ///
    /// # Cancellation
    ///
    /// As [`CircuitBreakerLayer`][super::CircuitBreakerLayer].
    pub async fn call<F, Fut, T, E>(&self, function: F) -> Result<T, Error>
    where
        F: FnOnce() -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: Into<BoxError> + 'static,
    {
        let function = Mutex::new(Some(function));
        let once = Once::new(&function);
        let guard = Guard { circuit: self.clone(), labels: Labels::default() };
        CircuitBreaker::new(once, guard, AnyError, AtAnswer).oneshot(()).await
    }

    /// Gives leave to make a call while the circuit is closed: one atomic load.
    #[inline]
    pub(super) fn admit_closed(&self) -> Option<Permit> {
        let word = self.shared.word();
        if !word.is(State::Closed) {
            return None;
        }
        let started = word.is_timed().then(Instant::now);
        Some(Permit { generation: word.generation(), started })
    }

    /// Rejects a call where nothing has to be decided: two atomic loads and the time.
    #[inline]
    pub(super) fn reject_at_once(&self) -> Option<Rejection> {
        self.shared.rejects.reject(self.shared.word())
    }

    /// Asks for leave to make a call, whatever the state.
    #[cold]
    pub(super) fn admit(&self) -> (Result<Permit, Rejection>, Vec<Transition>) {
        let now = Instant::now();
        self.step(|machine, changes| machine.admit(now, changes))
    }

    /// Whether calls are rejected as far as one look tells; due times are not looked at.
    #[inline]
    pub(super) fn seems_open(&self) -> bool {
        let word = self.shared.word();
        word.is(State::Open) || word.is(State::ForcedOpen)
    }

    /// Returns the state as the last call left it; what is due by time alone is not done.
    pub(super) fn state_before(&self) -> State {
        self.shared.word().state()
    }

    /// Returns whether a success changes nothing: one atomic load.
    #[inline]
    pub(super) fn success_is_free(&self, permit: Permit) -> bool {
        self.shared.word().ignores_success(permit.generation)
    }

    /// Reports the result of a call.
    pub(super) fn settle(&self, permit: Permit, verdict: Verdict) -> Vec<Transition> {
        let now = Instant::now();
        let ((), transitions) = self.step(|machine, changes| {
            machine.catch_up(now, changes);
            if machine.generation != permit.generation {
                self.shared.late.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let took = permit.started.map(|start| now.saturating_duration_since(start));
            let limit = machine.settings.slow_call.map(|(limit, _)| limit);
            let slow = took.zip(limit).is_some_and(|(took, limit)| took > limit);
            let patience = machine.settings.drop_is_failure_after;
            let verdict = match (verdict, took, patience) {
                (Verdict::Cancelled, Some(took), Some(patience)) if took >= patience => {
                    Verdict::Failure
                }
                (verdict, ..) => verdict,
            };
            machine.settle(verdict, slow, now, changes);
        });
        transitions
    }

    /// Counts a failure that belongs to no call, such as one of readiness.
    #[cold]
    pub(super) fn count(&self, verdict: Verdict, labels: &Labels) {
        let now = Instant::now();
        let ((), transitions) = self.step(|machine, changes| {
            machine.catch_up(now, changes);
            machine.count_alone(verdict, now, changes);
        });
        announce_all(&transitions, labels);
    }

    /// Takes over new rules.
    pub(super) fn set(&self, settings: Settings) {
        let now = Instant::now();
        self.step(|machine, _| machine.reconfigure(settings, now));
    }

    pub(super) fn settings(&self) -> Settings {
        self.shared.machine().settings.clone()
    }

    fn trip_now(&self, time: Option<Duration>) {
        self.change(|machine, now, changes| {
            // Nothing that happens while a circuit is open extends it.
            if machine.state != State::Open {
                machine.open(TransitionReason::Manual, time, now, changes);
            }
        });
    }

    fn enter(&self, state: State) {
        self.change(|machine, now, changes| {
            machine.enter(state, TransitionReason::Manual, now, changes);
        });
    }

    /// Changes the state because somebody asked for it.
    fn change(&self, change: impl FnOnce(&mut Machine, Instant, &mut Changes)) {
        let now = Instant::now();
        let ((), transitions) = self.step(|machine, changes| {
            machine.catch_up(now, changes);
            change(machine, now, changes);
        });
        announce_all(&transitions, &Labels::default());
    }

    /// Runs one step of the machine under the lock, then tells the listeners what it changed.
    ///
    /// Spans and log lines are the caller's, who knows what the step was made for.
    fn step<T>(&self, step: impl FnOnce(&mut Machine, &mut Changes) -> T) -> (T, Vec<Transition>) {
        let shared = &*self.shared;
        let mut changes = Changes::default();
        let mut machine = shared.machine();
        let result = step(&mut machine, &mut changes);
        shared.rejects.publish(&machine);
        shared.word.store(Word::new(&machine).0, Ordering::Release);
        if changes.0.is_empty() {
            return (result, Vec::new());
        }
        let transitions: Vec<_> = changes
            .0
            .into_iter()
            .map(|(from, to, reason, generation)| Transition {
                circuit: Arc::clone(&shared.name),
                from,
                to,
                reason,
                generation,
            })
            .collect();
        // Queued under the machine's lock, so that the order is that of the changes.
        shared.listeners().untold.extend(transitions.iter().cloned());
        drop(machine);
        shared.tell();
        (result, transitions)
    }
}

impl fmt::Debug for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Circuit").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

// ===== impl Shared =====

impl Shared {
    #[inline]
    fn word(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        // Nothing under this lock panics half-way, so a poisoned one is sound.
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listeners(&self) -> MutexGuard<'_, Listeners> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the listeners what is untold, one transition after the other.
    ///
    /// One thread tells at a time; what a listener itself changes is told after it has returned.
    fn tell(&self) {
        loop {
            let (transition, listeners) = {
                let mut state = self.listeners();
                if state.telling {
                    return;
                }
                let Some(transition) = state.untold.pop_front() else { return };
                state.telling = true;
                let all: Vec<_> = state.all.iter().map(|(_, one)| Arc::clone(one)).collect();
                (transition, all)
            };
            for listener in listeners {
                if Panic::catch(|| listener(&transition)).is_err() {
                    tracing::error!(
                        target: telemetry::LOG_TARGET,
                        "A listener of circuit {} panicked",
                        transition.circuit
                    );
                }
            }
            self.listeners().telling = false;
        }
    }
}

// ===== impl Subscription =====

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            let removed: Vec<_> =
                shared.listeners().all.extract_if(.., |(id, _)| *id == self.id).collect();
            // The listener is dropped outside the lock: what it holds may use the circuit.
            drop(removed);
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Writes transitions as spans of no length and as the seed's log lines.
pub(super) fn announce_all(transitions: &[Transition], labels: &Labels) {
    for transition in transitions {
        announce(transition, labels);
    }
}

fn announce(transition: &Transition, labels: &Labels) {
    let circuit = &*transition.circuit;
    let agent = labels.agent_id().unwrap_or(circuit);
    let (words, reason) = (tracing::field::display(transition), transition.reason.as_str());
    macro_rules! event {
        ($name:expr) => {
            drop(tracing::info_span!(
                target: telemetry::TARGET,
                $name,
                observation_type = "event",
                agent_id = labels.agent_id(),
                metadata = labels.metadata(),
                circuit_key = circuit,
                state_transition = words,
                reason,
                outcome = telemetry::outcome::SUCCESS,
            ))
        };
    }
    match transition.to {
        State::Open | State::ForcedOpen => {
            event!(telemetry::span::CIRCUIT_OPENED);
            tracing::error!(
                target: telemetry::LOG_TARGET,
                "Circuit breaker OPEN for agent {agent}"
            );
        }
        State::HalfOpen => event!(telemetry::span::CIRCUIT_HALF_OPENED),
        State::Closed => {
            event!(telemetry::span::CIRCUIT_CLOSED);
            tracing::info!(
                target: telemetry::LOG_TARGET,
                "Circuit breaker CLOSED for agent {agent}"
            );
        }
        State::Disabled | State::MetricsOnly => (),
    }
}
