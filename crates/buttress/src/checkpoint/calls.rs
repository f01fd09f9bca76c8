//! The calls of memos that are on their way in this process.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use super::{CheckpointKey, Payload, Place};
use crate::telemetry;

/// Which memo a call is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct CallId {
    /// Where the store keeps the chain: two handles of one store are told to be one by it.
    place: Place,
    /// What stands for a store that does not say: the layer and its clones.
    layer: usize,
    key: CheckpointKey,
}

/// Says that a call is the only one for its memo in this process, until it is dropped.
pub(super) type First = Option<OwnedMutexGuard<()>>;

type Calls = HashMap<CallId, Weak<AsyncMutex<()>>>;

/// What agents have answered and no store has taken yet: a repeat saves it instead of asking again.
static UNSAVED: LazyLock<Mutex<Unsaved>> = LazyLock::new(Mutex::default);

/// How many answers are held at most, and how many bytes of them; then the oldest go.
const MOST: usize = 1024;
const MOST_BYTES: usize = 64 << 20;

#[derive(Default)]
struct Unsaved {
    answers: HashMap<CallId, Payload>,
    /// The oldest first.
    order: VecDeque<CallId>,
    bytes: usize,
}

static CALLS: LazyLock<Mutex<Calls>> = LazyLock::new(Mutex::default);

tokio::task_local! {
    /// The memos that the calls around this one are for.
    static AROUND: Vec<CallId>;
}

// ===== impl CallId =====

impl CallId {
    pub(super) fn new(place: Place, layer: usize, key: CheckpointKey) -> Self {
        let layer = if place == Place::Unknown { layer } else { 0 };
        Self { place, layer, key }
    }

    /// Waits until no other call for this memo is on its way.
    ///
    /// A call within one for the same memo does not wait, since that would be for ever.
    pub(super) async fn first(&self) -> First {
        if AROUND.try_with(|around| around.contains(self)).unwrap_or(false) {
            return None;
        }
        Some(self.lock().lock_owned().await)
    }

    /// Runs a call, whose own calls for this memo then do not wait.
    pub(super) async fn around<F: Future>(&self, call: F) -> F::Output {
        let mut around = AROUND.try_with(Clone::clone).unwrap_or_default();
        around.push(self.clone());
        AROUND.scope(around, call).await
    }

    /// Holds what is to be saved, until it is or the process ends.
    pub(super) fn hold(&self, answer: Payload) {
        let mut unsaved = UNSAVED.lock().unwrap_or_else(PoisonError::into_inner);
        unsaved.remove(self);
        unsaved.bytes += answer.len();
        unsaved.answers.insert(self.clone(), answer);
        unsaved.order.push_back(self.clone());
        while unsaved.answers.len() > MOST || unsaved.bytes > MOST_BYTES {
            let Some(oldest) = unsaved.order.front().cloned() else { break };
            unsaved.remove(&oldest);
            tracing::warn!(
                target: telemetry::LOG_TARGET,
                "Too many answers wait for a store that is away: a repeat of {} calls its agent again",
                oldest.key
            );
        }
    }

    /// Returns what is held, if anything.
    pub(super) fn held(&self) -> Option<Payload> {
        let unsaved = UNSAVED.lock().unwrap_or_else(PoisonError::into_inner);
        unsaved.answers.get(self).cloned()
    }

    /// Lets go of what is saved now.
    pub(super) fn let_go(&self) {
        UNSAVED.lock().unwrap_or_else(PoisonError::into_inner).remove(self);
    }

    /// Returns the lock of the calls with one id, which goes with the last of them.
    fn lock(&self) -> Arc<AsyncMutex<()>> {
        let mut calls = CALLS.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(call) = calls.get(self).and_then(Weak::upgrade) {
            return call;
        }
        // Those that are over go when the table would grow.
        if calls.len() == calls.capacity() {
            calls.retain(|_, call| call.strong_count() > 0);
        }
        let call = Arc::default();
        calls.insert(self.clone(), Arc::downgrade(&call));
        call
    }
}

// ===== impl Unsaved =====

impl Unsaved {
    fn remove(&mut self, call: &CallId) {
        if let Some(answer) = self.answers.remove(call) {
            self.bytes -= answer.len();
            self.order.retain(|other| other != call);
        }
    }
}
