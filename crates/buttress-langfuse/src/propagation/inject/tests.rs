use std::{
    cell::Cell,
    convert::Infallible,
    future::{Ready, ready},
    rc::Rc,
};

use http::HeaderValue;
use opentelemetry::{
    KeyValue,
    trace::{TraceFlags, TraceId, TraceState, TracerProvider as _},
};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tower::ServiceBuilder;
use tracing::{info_span, subscriber::with_default};
use tracing_subscriber::{layer::SubscriberExt as _, registry};

use super::*;
use crate::{
    ExtractLayer, Langfuse, Propagate, current,
    propagation::traceparent::read,
    sink::TraceDefaults,
    testing::{MemorySink, get, langfuse, langfuse_with},
};

const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn within<T>(langfuse: &Langfuse, run: impl FnOnce() -> T) -> T {
    with_default(registry().with(langfuse.layer()), run)
}

fn injected() -> HeaderMap {
    let mut headers = HeaderMap::new();
    inject(&mut headers);
    headers
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

fn ours(name: &'static str) -> Span {
    info_span!(target: "buttress", "span", otel.name = name)
}

/// A service that is neither clonable nor `Send`, over a body that is neither.
struct Inner<F> {
    run: F,
    is_ready: bool,
}

impl<F: Fn(&HeaderMap)> Service<Request<Rc<()>>> for Inner<F> {
    type Response = ();
    type Error = Infallible;
    type Future = Ready<Result<(), Infallible>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        self.is_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Rc<()>>) -> Self::Future {
        assert!(std::mem::take(&mut self.is_ready), "the service was not asked");
        (self.run)(request.headers());
        ready(Ok(()))
    }
}

fn request(headers: &[(&'static str, &str)]) -> Request<Rc<()>> {
    let mut request = Request::new(Rc::new(()));
    for (name, value) in headers {
        request.headers_mut().append(*name, HeaderValue::from_str(value).unwrap());
    }
    request
}

/// Serves a request and runs something in it.
fn serve(layer: ExtractLayer, headers: &[(&'static str, &str)], run: impl Fn()) {
    let service = Inner { run: |_: &HeaderMap| run(), is_ready: false };
    let mut service = ServiceBuilder::new().layer(layer).layer(InjectLayer::new()).service(service);
    let mut cx = TaskContext::from_waker(std::task::Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let mut answer = std::pin::pin!(service.call(request(headers)));
    assert!(answer.as_mut().poll(&mut cx).is_ready());
}

fn root_marks(sink: &MemorySink, name: &str) -> (bool, bool) {
    let span = sink.span(name);
    let mark = get(&span, "langfuse.internal.is_app_root");
    (mark == true, !span.parent_span_id.is_empty())
}

#[test]
fn without_a_trace_nothing_is_written_and_nothing_changed() {
    assert!(injected().is_empty());
    let (langfuse, _) = langfuse();
    within(&langfuse, || assert!(injected().is_empty()));
    let mut headers = request(&[("traceparent", CALLER), ("baggage", "a=1")]).headers().clone();
    inject(&mut headers);
    assert_eq!((text(&headers, "traceparent"), text(&headers, "baggage")), (CALLER, "a=1"));
}

#[test]
fn the_parent_is_the_nearest_span_that_is_sent() {
    let (langfuse, sink) = langfuse();
    let headers = within(&langfuse, || {
        ours("agent").in_scope(|| info_span!("http_request").in_scope(injected))
    });
    let (agent, caller) = (sink.span("agent"), read(&headers).unwrap());
    assert_eq!(caller.trace_id().to_bytes(), *agent.trace_id);
    assert_eq!(caller.span_id().to_bytes(), *agent.span_id);
    assert!(caller.is_sampled() && headers.len() == 1);
}

#[test]
fn of_a_provider_of_the_users_the_parent_is_the_span_that_is_current() {
    let (langfuse, sink) = langfuse();
    let provider =
        SdkTracerProvider::builder().with_span_processor(langfuse.span_processor()).build();
    for activates in [true, false] {
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("app"));
        let layer = layer.with_context_activation(activates);
        let (headers, request) = with_default(registry().with(layer), || {
            let agent = info_span!(target: "buttress", "agent", activates);
            agent.in_scope(|| {
                let request = info_span!("http_request");
                let headers = request.in_scope(injected);
                (headers, request.context().span().span_context().span_id())
            })
        });
        assert_eq!(read(&headers).unwrap().span_id(), request, "{activates}");
    }
    assert_eq!(sink.spans().len(), 2);
}

#[test]
fn a_call_is_below_its_caller_and_passes_everything_on() {
    let (langfuse, sink) = langfuse();
    let baggage = "tenant=a%2Cb;p=1,langfuse_session_id=s%201,langfuse_metadata_my%20key=1";
    let headers = [("traceparent", CALLER), ("tracestate", "other=1"), ("baggage", baggage)];
    within(&langfuse, || {
        serve(ExtractLayer::new(), &headers, || {
            info_span!("http_server").in_scope(|| {
                ours("agent").in_scope(|| {
                    let out = injected();
                    let (caller, agent) = (read(&out).unwrap(), current_id());
                    assert_eq!(caller.span_id(), agent);
                    assert_eq!(text(&out, "tracestate"), "other=1");
                    let mut members: Vec<_> = text(&out, "baggage").split(',').collect();
                    members.sort_unstable();
                    let mut expected: Vec<_> = baggage.split(',').collect();
                    expected.sort_unstable();
                    assert_eq!(members, expected);
                    let known =
                        Context::map_current(|current| current.baggage().get("tenant").cloned());
                    assert_eq!(known.unwrap().as_str(), "a,b");
                });
            });
        });
    });
    let agent = sink.span("agent");
    // What stands between is not sent, so it is below the caller itself.
    let caller = read(request(&headers).headers()).unwrap();
    assert_eq!(*agent.parent_span_id, caller.span_id().to_bytes());
    assert_eq!(*agent.trace_id, caller.trace_id().to_bytes());
    assert_eq!(agent.trace_state, "other=1");
    assert_eq!(root_marks(&sink, "agent"), (true, true));
    assert_eq!(get(&agent, "session.id"), "s 1");
    assert_eq!(get(&agent, "langfuse.trace.metadata.my key"), "1");
    assert_eq!(get(&agent, "langfuse.trace.name"), serde_json::Value::Null);
}

fn current_id() -> SpanId {
    Span::current().context().span().span_context().span_id()
}

#[test]
fn a_trace_whose_root_is_claimed_gets_no_other_and_its_name_from_baggage() {
    let claim = "langfuse_trace_id=4BF92F3577B34DA6A3CE929D0E0E4736";
    let other = "langfuse_trace_id=00000000000000000000000000000001";
    for (baggage, is_root, name) in [
        (format!("{claim},langfuse_trace_name=order"), false, Some("order")),
        (other.to_owned(), true, None),
        ("langfuse_trace_id=nonsense,=,;".to_owned(), true, None),
    ] {
        for is_behind in [false, true] {
            let (langfuse, sink) = langfuse();
            let headers = [("traceparent", CALLER), ("baggage", baggage.as_str())];
            within(&langfuse, || {
                serve(ExtractLayer::new(), &headers, || {
                    if is_behind {
                        info_span!("http_server").in_scope(|| drop(ours("agent").entered()));
                    } else {
                        drop(ours("agent").entered());
                    }
                });
            });
            assert_eq!(root_marks(&sink, "agent"), (is_root, true), "{baggage}");
            let found = get(&sink.span("agent"), "langfuse.trace.name");
            assert_eq!(found.as_str(), name, "{baggage}");
        }
    }
}

#[test]
fn baggage_of_callers_who_are_not_trusted_is_not_read() {
    let (langfuse, sink) = langfuse();
    let headers = [("traceparent", CALLER), ("baggage", "langfuse_user_id=root,a=1")];
    within(&langfuse, || {
        serve(ExtractLayer::new().baggage(false), &headers, || {
            ours("agent").in_scope(|| assert_eq!(text(&injected(), "baggage"), ""));
        });
    });
    let agent = sink.span("agent");
    assert_eq!((get(&agent, "user.id"), agent.parent_span_id.len()), (serde_json::Value::Null, 8));
}

#[test]
fn a_call_without_headers_or_with_broken_ones_begins_its_own_trace() {
    let broken = [("traceparent", "00-zz"), ("baggage", "=,;,%"), ("tracestate", "\u{e4}")];
    for headers in [&[][..], &broken] {
        let (langfuse, sink) = langfuse();
        within(&langfuse, || {
            serve(ExtractLayer::new(), headers, || drop(ours("agent").entered()));
        });
        assert_eq!(root_marks(&sink, "agent"), (false, false));
        assert_eq!(get(&sink.span("agent"), "langfuse.trace.name"), "agent");
    }
}

#[test]
fn baggage_alone_speaks_for_a_trace_that_begins_here() {
    let (langfuse, sink) = langfuse();
    within(&langfuse, || {
        serve(ExtractLayer::new(), &[("baggage", "langfuse_user_id=u")], || {
            drop(ours("agent").entered());
        });
    });
    assert_eq!(root_marks(&sink, "agent"), (false, false));
    assert_eq!(get(&sink.span("agent"), "user.id"), "u");
}

#[test]
fn a_span_that_is_in_the_callers_trace_already_stays_the_parent() {
    let (langfuse, sink) = langfuse();
    within(&langfuse, || {
        let server = ours("server");
        let caller = read(request(&[("traceparent", CALLER)]).headers()).unwrap();
        server.set_parent(Context::new().with_remote_span_context(caller)).unwrap();
        server.in_scope(|| {
            serve(ExtractLayer::new(), &[("traceparent", CALLER)], || {
                drop(ours("agent").entered())
            });
        });
        // One of another trace does not.
        ours("stranger").in_scope(|| {
            serve(ExtractLayer::new(), &[("traceparent", CALLER)], || {
                drop(ours("other").entered())
            });
        });
    });
    let (server, agent, other) = (sink.span("server"), sink.span("agent"), sink.span("other"));
    assert_eq!(agent.parent_span_id, server.span_id);
    assert_eq!((other.trace_id, other.parent_span_id), (server.trace_id, server.parent_span_id));
}

#[test]
fn a_process_that_calls_itself_has_one_root() {
    let (langfuse, sink) = langfuse();
    within(&langfuse, || {
        let headers = ours("client").in_scope(|| {
            let headers = injected();
            let parent = text(&headers, "traceparent");
            // The task of the server knows nothing of the client's.
            let _detached = Context::new().attach();
            serve(ExtractLayer::new(), &[("traceparent", parent)], || {
                drop(ours("agent").entered())
            });
            headers
        });
        assert!(read(&headers).is_some());
    });
    assert_eq!(
        (root_marks(&sink, "client"), root_marks(&sink, "agent")),
        ((false, false), (false, true))
    );
    assert_eq!(get(&sink.span("agent"), "langfuse.trace.name"), "client");
}

#[test]
fn what_is_shared_goes_out_with_a_claim_on_the_root() {
    let (langfuse, sink) = langfuse();
    let out = within(&langfuse, || {
        Propagate::new().user("hidden").session("hidden").in_scope(|| {
            let shared = Propagate::new().session("s").tag("a").metadata("k", 1).as_baggage();
            let outside = shared.in_scope(|| {
                assert!(!text(&injected(), "baggage").contains("trace_id"), "there is no root yet");
                ours("agent").in_scope(|| info_span!("http_request").in_scope(injected))
            });
            // Here nobody shares.
            ours("alone").in_scope(|| assert!(injected().get("baggage").is_none()));
            outside
        })
    });
    let trace = read(&out).unwrap().trace_id();
    let mut members: Vec<_> = text(&out, "baggage").split(',').map(str::to_owned).collect();
    members.sort_unstable();
    let expected = [
        "langfuse_metadata_k=1".to_owned(),
        "langfuse_session_id=s".to_owned(),
        "langfuse_tags=a".to_owned(),
        format!("langfuse_trace_id={trace}"),
    ];
    assert_eq!(members, expected);
    assert_eq!(get(&sink.span("agent"), "user.id"), "hidden");
}

#[test]
fn a_root_that_is_not_sent_is_not_claimed() {
    let shared = || Propagate::new().session("s").as_baggage();
    let defaults = TraceDefaults { sample_rate: 0.0, ..TraceDefaults::default() };
    let (langfuse, _sink) = langfuse_with(defaults);
    let out = within(&langfuse, || {
        shared().in_scope(|| {
            info_span!("nobody's").in_scope(|| {
                assert_eq!(text(&injected(), "baggage"), "langfuse_session_id=s");
            });
            ours("agent").in_scope(injected)
        })
    });
    assert_eq!(text(&out, "baggage"), "langfuse_session_id=s");
}

#[test]
fn a_caller_that_does_not_sample_is_obeyed_until_something_goes_wrong() {
    let unsampled = CALLER.replace("-01", "-00");
    for (level, sent) in [("DEFAULT", 0), ("ERROR", 2)] {
        let (langfuse, sink) = langfuse();
        within(&langfuse, || {
            serve(ExtractLayer::new(), &[("traceparent", &unsampled)], || {
                // What ends last is not sent, and decides.
                info_span!("http_server").in_scope(|| {
                    ours("agent").in_scope(|| {
                        assert!(!read(&injected()).unwrap().is_sampled());
                        current().score("quality", 1.0);
                        info_span!(target: "buttress", "attempt", level).in_scope(|| ());
                    });
                });
            });
        });
        assert_eq!(sink.spans().len(), sent, "{level}");
    }
}

#[test]
fn baggage_that_somebody_else_has_read_counts_too() {
    let (langfuse, sink) = langfuse();
    within(&langfuse, || {
        let entries = [KeyValue::new("langfuse_user_id", "u"), KeyValue::new("tenant", "t")];
        let _guard = Context::current_with_baggage(entries).attach();
        ours("agent").in_scope(|| ());
        Propagate::new().tag("a").in_scope(|| ours("within").in_scope(|| ()));
    });
    for name in ["agent", "within"] {
        assert_eq!(get(&sink.span(name), "user.id"), "u", "{name}");
    }
}

#[test]
fn a_span_whose_context_went_out_is_not_left_out() {
    let defaults = TraceDefaults { is_compact: true, ..TraceDefaults::default() };
    let (langfuse, sink) = langfuse_with(defaults);
    let out = within(&langfuse, || {
        info_span!(target: "buttress", "agent").in_scope(|| {
            info_span!(target: "buttress", "retry_execution")
                .in_scope(|| info_span!(target: "buttress", "retry_attempt").in_scope(injected))
        })
    });
    let names: Vec<_> = sink.spans().into_iter().map(|span| span.name).collect();
    assert_eq!(names, ["retry_attempt", "agent"]);
    let attempt = sink.span("retry_attempt").span_id;
    assert_eq!(read(&out).unwrap().span_id().to_bytes(), *attempt);
}

#[test]
fn without_a_span_of_its_own_a_process_passes_its_caller_on() {
    let seen = Cell::new(false);
    serve(ExtractLayer::new(), &[("traceparent", CALLER)], || {
        assert_eq!(text(&injected(), "traceparent"), CALLER);
        seen.set(true);
    });
    assert!(seen.get());
    let caller = SpanContext::new(
        TraceId::from(1_u128),
        SpanId::from(2_u64),
        TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    );
    let (langfuse, _sink) = langfuse();
    // Nor does it name a span that nobody gets.
    let out = within(&langfuse, || {
        let _guard = Context::new().with_remote_span_context(caller.clone()).attach();
        info_span!("http_server").in_scope(injected)
    });
    assert_eq!(read(&out).unwrap(), caller);
}
