//! What a call costs when its spans go to somebody: to Langfuse, to nobody, to the stock bridge.
//!
//! Every case is measured on the caller's thread; `cpu_ns` is the processor time of the whole process
//! for a call, from before the subscriber is made to where the last span is delivered. A subscriber is
//! this thread's default only while a round of its case runs.

use std::{hint::black_box, time::Duration};

use buttress::{AgentLayer, Error, FallbackLayer, TimeoutLayer};
use buttress_benches::{
    drive::{Answers, FailsOnce, call, discard},
    listen::{Listening, count_spans},
    measure::{BARE, Case},
    sink::Sink,
    stacks::{TIMEOUT, at_once, breaker, five_spans, full},
};
use buttress_langfuse::{Durability, Langfuse};
use opentelemetry::{Context, trace::TracerProvider as _};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SdkTracer, SdkTracerProvider, Span, SpanData, SpanProcessor},
};
use tower::{Service, ServiceBuilder};
use tracing::Subscriber;
use tracing_opentelemetry::OpenTelemetryLayer;
use tracing_subscriber::{Layer, Registry, layer::SubscriberExt as _};

pub(crate) const GROUP: &str = "traced";
/// So many that the queue of delivery is never full: what a round leaves in it is delivered before
/// the next one.
const CALLS: usize = 4_000;
/// How long the spans of a round may take to be delivered.
const PATIENCE: Duration = Duration::from_secs(60);

/// Langfuse, and the process that plays its server.
pub(crate) struct Traced {
    langfuse: Langfuse,
    /// Kept, since dropping it ends the server.
    _sink: Sink,
}

/// Who sees the spans.
#[derive(Clone)]
enum Listener {
    /// No subscriber at all.
    Nobody,
    /// A registry with a layer that does nothing.
    Registry,
    /// The stock bridge over a provider that drops each span.
    Bridge { lean: bool },
    /// The Langfuse layer, with delivery to a server.
    Langfuse(Langfuse),
}

// ===== impl Traced =====

impl Traced {
    pub(crate) fn start() -> Self {
        let sink = Sink::start().expect("the program can be started once more");
        let builder = Langfuse::builder().public_key("pk-lf-bench").secret_key("sk-lf-bench");
        let builder = builder.base_url(&sink.base_url).environment("bench").release("1");
        let builder = builder.durability(Durability::Memory);
        let langfuse = builder.start().expect("delivery needs no more than a thread");
        Self { langfuse, _sink: sink }
    }

    pub(crate) fn cases(&self) -> Vec<Case> {
        let listeners = [
            ("no subscriber", Listener::Nobody),
            ("registry alone", Listener::Registry),
            ("tracing-opentelemetry, spans dropped", Listener::Bridge { lean: false }),
            ("the same without location, threads, idle", Listener::Bridge { lean: true }),
            ("langfuse, delivery on", Listener::Langfuse(self.langfuse.clone())),
        ];
        let bare = Case::new(GROUP, BARE, || discard(call(&mut Answers, black_box(35_u64))));
        let mut cases = vec![bare.calls(CALLS).spans(0)];
        for (name, listener) in &listeners {
            cases.push(calls(format!("five spans, {name}"), listener, five_spans(Answers)));
        }
        for (name, listener) in &listeners {
            cases.push(calls(format!("full stack, {name}"), listener, agent()));
        }
        for (name, listener) in &listeners {
            cases.push(calls(format!("full stack retried once, {name}"), listener, retried()));
        }
        cases
    }

    /// Says whether delivery kept up.
    pub(crate) fn delivered(&self) -> String {
        let stats = self.langfuse.stats();
        let (accepted, delivered, dropped) = (stats.accepted, stats.delivered, stats.dropped);
        format!("delivery: {accepted} spans taken, {delivered} delivered, {dropped} dropped")
    }
}

/// The four patterns inside of an agent.
fn agent() -> impl Service<u64, Response = u64, Error = Error> {
    ServiceBuilder::new().layer(AgentLayer::new("research")).service(full(Answers))
}

/// The same, of which the first attempt fails.
fn retried() -> impl Service<u64, Response = u64, Error = Error> {
    ServiceBuilder::new()
        .layer(AgentLayer::new("research"))
        .layer(FallbackLayer::new().or("backup", Answers))
        .layer(at_once())
        .layer(breaker().consecutive_failures(u32::MAX))
        .layer(TimeoutLayer::new(TIMEOUT))
        .service(FailsOnce::default())
}

fn calls<S>(name: String, listener: &Listener, mut service: S) -> Case
where
    S: Service<u64, Response = u64, Error = Error> + 'static,
{
    let spans = count_spans(|| discard(call(&mut service, 35)));
    let case = Case::new(GROUP, name, move || {
        discard(call(&mut service, black_box(35)));
    });
    let listener = listener.clone();
    case.calls(CALLS).spans(spans).around(move || listener.listen())
}

// ===== impl Listener =====

impl Listener {
    /// Listens until the round is over.
    fn listen(&self) -> Listening {
        let dispatch = match self {
            Self::Nobody => None,
            Self::Registry => Some(tracing_subscriber::registry().with(Idle).into()),
            Self::Bridge { lean } => {
                Some(tracing_subscriber::registry().with(bridge(*lean)).into())
            }
            Self::Langfuse(langfuse) => {
                Some(tracing_subscriber::registry().with(langfuse.layer()).into())
            }
        };
        let langfuse = match self {
            Self::Langfuse(langfuse) => Some(langfuse.clone()),
            _ => None,
        };
        Listening::to(dispatch, move || {
            if let Some(langfuse) = langfuse {
                langfuse.flush(PATIENCE).expect("the server takes every span");
            }
        })
    }
}

fn bridge(lean: bool) -> OpenTelemetryLayer<Registry, SdkTracer> {
    let provider = SdkTracerProvider::builder().with_span_processor(Drops).build();
    let bridge = tracing_opentelemetry::layer().with_tracer(provider.tracer("bench"));
    if !lean {
        return bridge;
    }
    bridge.with_location(false).with_threads(false).with_tracked_inactivity(false)
}

/// Drops each span.
#[derive(Debug)]
struct Drops;

impl SpanProcessor for Drops {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, _: SpanData) {}

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Does nothing.
#[derive(Debug)]
struct Idle;

impl<S: Subscriber> Layer<S> for Idle {}
