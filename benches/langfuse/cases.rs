//! The cases: five spans for a call that succeeds, eight for one that fails once and is retried.

use std::{
    fmt,
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use buttress::{Error, telemetry::key};
use buttress_benches::{
    drive::{Answers, FailsOnce, call, discard},
    listen::{Listening, count_spans},
    measure::{Case, Taken},
    stacks::five_spans,
};
use tower::Service;
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span::{Id, Record},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt as _},
};

use super::{
    listener::{DISK, Listener, Listeners},
    sdk::Sdk,
};

/// Calls that succeed.
pub(crate) const SUCCEEDS: &str = "succeeds";
/// Calls of which the first attempt fails.
pub(crate) const RETRIED: &str = "fails once and is retried";
pub(crate) const SDK: &str = "Python with the Langfuse SDK";
const PYTHON: &str = "Python without it";

/// So many of a round that what is around it counts for little.
const CALLS: usize = 2_000;
/// After so many all is delivered, outside of what is timed: no queue is ever full, that of the stock
/// exporter for 2,048 spans included, which drops what does not fit.
const BATCH: usize = 200;
/// So many of a round where each waits for the disk.
const CALLS_ON_DISK: usize = 20;
/// So many of a round, and a batch, in Python.
const CALLS_IN_PYTHON: usize = 100;

pub(crate) fn cases(listeners: &Listeners, sdk: Option<&Sdk>) -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, listener) in &listeners.0 {
        cases.push(case(SUCCEEDS, name, listener, five_spans(Answers)).calls(CALLS));
    }
    for (name, listener) in &listeners.0 {
        let calls = if *name == DISK { CALLS_ON_DISK } else { CALLS };
        cases.push(case(RETRIED, name, listener, five_spans(FailsOnce::default())).calls(calls));
    }
    // Behind their groups, which stay together.
    for (at, group, fails) in [(cases.len(), RETRIED, true), (listeners.0.len(), SUCCEEDS, false)] {
        let Some(sdk) = sdk else { continue };
        let spans = if fails { 7 } else { 5 };
        let named = |name, traced: bool| {
            let spans = if traced { spans } else { 0 };
            sdk.case(group, name, traced, fails).calls(CALLS_IN_PYTHON).spans(spans)
        };
        cases.splice(at..at, [named(PYTHON, false), named(SDK, true)]);
    }
    cases
}

fn case<S>(group: &'static str, name: &'static str, listener: &Listener, mut service: S) -> Case
where
    S: Service<u64, Response = u64, Error = Error> + 'static,
{
    let spans = count_spans(|| discard(call(&mut service, 35)));
    let (around, listener) = (listener.clone(), listener.clone());
    let case = Case::metered(group, name, move |calls, meter| {
        let batch = calls.min(BATCH);
        let batches = (0..calls.div_ceil(batch)).map(|_| {
            let taken = meter.of(batch, || {
                for _ in 0..batch {
                    discard(call(&mut service, black_box(35)));
                }
            });
            listener.deliver();
            taken
        });
        Taken::mean(batches)
    });
    case.spans(spans).around(move || around.listen())
}

/// Returns how many spans of a call that is retried are journalled: each from the first on that says
/// that something went wrong.
pub(crate) fn journalled() -> usize {
    let counts = Arc::<Counts>::default();
    let subscriber = tracing_subscriber::registry().with(Journal(Arc::clone(&counts)));
    let listening = Listening::to(Some(subscriber.into()), || ());
    discard(call(&mut five_spans(FailsOnce::default()), 35));
    drop(listening);
    counts.spans.load(Ordering::Relaxed)
}

#[derive(Debug, Default)]
struct Counts {
    has_trouble: AtomicBool,
    spans: AtomicUsize,
}

/// Counts the spans that end after something went wrong.
struct Journal(Arc<Counts>);

impl<S: Subscriber> Layer<S> for Journal {
    fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, S>) {
        values.record(&mut Trouble(&self.0.has_trouble));
    }

    fn on_close(&self, _: Id, _: Context<'_, S>) {
        if self.0.has_trouble.load(Ordering::Relaxed) {
            self.0.spans.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Finds a level, which only spans have that are not well.
struct Trouble<'a>(&'a AtomicBool);

impl Visit for Trouble<'_> {
    fn record_debug(&mut self, field: &Field, _: &dyn fmt::Debug) {
        if field.name() == key::LEVEL {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}
