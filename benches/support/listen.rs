//! Subscribers that are there for a while, and what spans a call makes.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tracing::{
    Dispatch, Subscriber, callsite,
    dispatcher::{self, DefaultGuard},
    span::{Attributes, Id},
};
use tracing_subscriber::{Layer, layer, layer::SubscriberExt as _};

/// Holds a subscriber as this thread's default, until it is dropped.
///
/// It goes then: what stays of a subscriber would slow down the calls without one.
pub struct Listening {
    guard: Option<DefaultGuard>,
    then: Option<Box<dyn FnOnce()>>,
}

// ===== impl Listening =====

impl Listening {
    /// Makes a subscriber this thread's default; `then` runs when it has gone.
    pub fn to(dispatch: Option<Dispatch>, then: impl FnOnce() + 'static) -> Self {
        let guard = dispatch.as_ref().map(dispatcher::set_default);
        drop(dispatch);
        // Of a subscriber that has gone the highest level stays until it is asked for again.
        callsite::rebuild_interest_cache();
        Self { guard, then: Some(Box::new(then)) }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        drop(self.guard.take());
        callsite::rebuild_interest_cache();
        if let Some(then) = self.then.take() {
            then();
        }
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening").field("has_subscriber", &self.guard.is_some()).finish()
    }
}

/// Counts the spans that begin.
#[derive(Debug)]
struct Counts(Arc<AtomicUsize>);

impl<S: Subscriber> Layer<S> for Counts {
    fn on_new_span(&self, _: &Attributes<'_>, _: &Id, _: layer::Context<'_, S>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Returns how many spans begin while something runs.
pub fn count_spans(run: impl FnOnce()) -> usize {
    let spans = Arc::<AtomicUsize>::default();
    let subscriber = tracing_subscriber::registry().with(Counts(Arc::clone(&spans)));
    let listening = Listening::to(Some(subscriber.into()), || ());
    run();
    drop(listening);
    spans.load(Ordering::Relaxed)
}
