//! The circuits that are watched: where they come from, and what is seen of them.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Weak},
};

use buttress::circuit_breaker::{Circuit, Snapshot, State, Subscription};
use serde::Serialize;

use super::{
    Trace,
    log::{Change, Log, Timeline},
    section::{Section, Versions},
};
use crate::{shared::Shared, text};

/// How many circuits have a log that nobody watches yet.
const MOST_STRAYS: usize = 256;

/// Where circuits come from. Its place in the list is its number.
#[derive(Clone)]
pub(crate) enum Source {
    One(Circuit),
    Many(Arc<dyn Fn() -> Vec<Circuit> + Send + Sync>),
}

/// A circuit and what was seen of it, outside every lock.
#[derive(Debug)]
pub(crate) struct Seen {
    source: usize,
    is_keyed: bool,
    circuit: Circuit,
    snapshot: Snapshot,
}

/// What is shown of a circuit, but for its changes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct View {
    name: String,
    state: &'static str,
    generation: u64,
    /// When the state began, in milliseconds since 1970; none where nobody watched then.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    /// When an open circuit lets a probe through.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<u64>,
    consecutive_failures: u32,
    successes: u32,
    calls: u64,
    failure_rate: f64,
    slow_rate: f64,
    not_permitted: u64,
    late: u64,
    cancelled: u64,
    ignored: u64,
}

#[derive(Debug)]
pub(crate) struct Watched {
    id: u64,
    source: usize,
    circuit: Circuit,
    log: Log,
    _subscription: Subscription,
}

/// All that is known of circuits.
#[derive(Debug, Default)]
pub(crate) struct Circuits {
    pub(crate) sources: Vec<Source>,
    watched: Vec<Watched>,
    /// Changes of circuits that only spans have told of so far.
    strays: HashMap<String, Log>,
    /// How many further circuits there are, which are not shown.
    pub(crate) more: usize,
    pub(crate) views: Section<View>,
    pub(crate) timelines: Section<Timeline>,
}

// ===== impl Source =====

impl Source {
    /// Returns its circuits; runs code of others.
    pub(crate) fn look(&self, source: usize, seen: &mut Vec<Seen>) {
        let mut look = |circuit: Circuit, is_keyed| {
            let snapshot = circuit.snapshot();
            seen.push(Seen { source, is_keyed, circuit, snapshot });
        };
        match self {
            Self::One(circuit) => look(circuit.clone(), false),
            Self::Many(list) => list().into_iter().for_each(|circuit| look(circuit, true)),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(circuit) => circuit.fmt(f),
            Self::Many(_) => f.write_str("Many"),
        }
    }
}

// ===== impl Seen =====

impl Seen {
    /// The lower, the more it matters.
    fn rank(&self) -> u8 {
        let snapshot = &self.snapshot;
        match snapshot.state {
            State::Closed if snapshot.consecutive_failures > 0 || snapshot.failure_rate > 0.0 => 1,
            State::Closed => 2,
            _ => 0,
        }
    }
}

/// Leaves the circuits that are shown: of those by key the ones that matter most.
///
/// Returns how many it left out.
pub(crate) fn choose(seen: &mut Vec<Seen>, most_keyed: usize) -> usize {
    let all = seen.len();
    seen.sort_by(|a, b| {
        let key = |seen: &Seen| (seen.is_keyed, seen.rank(), seen.source);
        key(a).cmp(&key(b)).then_with(|| a.circuit.name().cmp(b.circuit.name()))
    });
    let fixed = seen.iter().filter(|seen| !seen.is_keyed).count();
    seen.truncate(fixed + most_keyed);
    all - seen.len()
}

// ===== impl Circuits =====

impl Circuits {
    /// Watches a circuit from now on.
    pub(crate) fn watch(
        &mut self,
        source: usize,
        circuit: &Circuit,
        shared: Weak<Shared>,
        ids: &mut Versions,
    ) -> u64 {
        let log = self.strays.remove(&**circuit.name()).unwrap_or_default();
        let told = log.clone();
        let subscription = circuit.subscribe(move |transition| {
            told.told(transition);
            if let Some(shared) = shared.upgrade() {
                shared.beat();
            }
        });
        let id = ids.next();
        let circuit = circuit.clone();
        self.watched.push(Watched { id, source, circuit, log, _subscription: subscription });
        id
    }

    pub(crate) fn circuit(&self, id: u64) -> Option<Circuit> {
        self.watched.iter().find(|watched| watched.id == id).map(|one| one.circuit.clone())
    }

    /// Takes over what was seen; returns what is no longer watched, to be dropped outside the lock.
    pub(crate) fn merge(
        &mut self,
        seen: Vec<Seen>,
        more: usize,
        shared: &Weak<Shared>,
        ids: &mut Versions,
    ) -> Vec<Watched> {
        let now = text::now_millis();
        let mut kept = Vec::with_capacity(seen.len());
        for Seen { source, circuit, snapshot, .. } in seen {
            // A key that was forgotten and came back has a new circuit.
            let is_this = |one: &&Watched| one.source == source && one.circuit.is_same(&circuit);
            let known = self.watched.iter().find(is_this).map(|watched| watched.id);
            let id = match known {
                Some(id) => id,
                None => self.watch(source, &circuit, Weak::clone(shared), ids),
            };
            self.look(id, &snapshot, now, ids);
            kept.push(id);
        }
        self.more = more;
        let is_kept = |id| kept.contains(&id);
        self.views.retain(is_kept, ids);
        self.timelines.retain(is_kept, ids);
        self.watched.extract_if(.., |watched| !is_kept(watched.id)).collect()
    }

    fn look(&mut self, id: u64, snapshot: &Snapshot, now: u64, ids: &mut Versions) {
        let Some(watched) = self.watched.iter().find(|watched| watched.id == id) else { return };
        let timeline = watched.log.timeline();
        let view = View::new(watched, snapshot, &timeline, self.views.get(id), now);
        self.views.put(id, view, ids);
        self.timelines.put(id, timeline, ids);
    }

    /// Takes in a change that a span tells of.
    ///
    /// Of circuits that are watched it is known already, all but its trace.
    pub(crate) fn told(&mut self, name: &str, change: Change) {
        let mut watched =
            self.watched.iter().filter(|one| &**one.circuit.name() == name).peekable();
        if watched.peek().is_some() {
            if let Some(trace) = change.trace {
                watched.for_each(|one| one.log.trace(change.to, trace.clone()));
            }
            return;
        }
        if self.strays.len() >= MOST_STRAYS && !self.strays.contains_key(name) {
            let oldest = self.strays.iter().min_by_key(|(_, log)| log.last());
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.strays.remove(&oldest);
            }
        }
        self.strays.entry(name.to_owned()).or_default().add(change);
    }
}

// ===== impl View =====

impl View {
    fn new(
        watched: &Watched,
        snapshot: &Snapshot,
        timeline: &Timeline,
        before: Option<&Self>,
        now: u64,
    ) -> Self {
        let state = snapshot.state.as_str();
        let before = before.filter(|view| view.generation == snapshot.generation);
        let began = timeline.changes.last().filter(|change| change.to == state);
        let until = snapshot.retry_after.map(|wait| {
            // Within a generation it stays what it is, whenever one looks.
            before.and_then(|view| view.until).unwrap_or_else(|| {
                now.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
            })
        });
        Self {
            name: text::shown(watched.circuit.name(), text::NAME),
            state,
            generation: snapshot.generation,
            since: began.map(|change| change.at),
            until,
            consecutive_failures: snapshot.consecutive_failures,
            successes: snapshot.successes,
            calls: snapshot.calls,
            failure_rate: snapshot.failure_rate,
            slow_rate: snapshot.slow_rate,
            not_permitted: snapshot.not_permitted,
            late: snapshot.late,
            cancelled: snapshot.cancelled,
            ignored: snapshot.ignored,
        }
    }
}

/// Returns the words of a state that a transition tells in capitals.
pub(crate) fn state_of(words: &str) -> Option<&'static str> {
    let states = [
        State::Closed,
        State::Open,
        State::HalfOpen,
        State::ForcedOpen,
        State::Disabled,
        State::MetricsOnly,
    ];
    states.into_iter().map(State::as_str).find(|state| state.eq_ignore_ascii_case(words.trim()))
}

/// Reads a change from the span that tells of it.
pub(crate) fn change_of(transition: &str, reason: &str, trace: Option<Trace>) -> Option<Change> {
    let (from, to) = transition.split_once("->")?;
    let (from, to) = (state_of(from)?, state_of(to)?);
    let reason = text::shown(reason, text::NAME);
    Some(Change { at: text::now_millis(), from, to, reason, trace })
}
