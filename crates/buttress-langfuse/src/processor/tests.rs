use opentelemetry::{
    Context, TraceId,
    trace::{
        SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceState, TracerProvider as _,
    },
};
use opentelemetry_proto::tonic::trace::v1::Span as Sent;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde_json::{Value as Json, json};
use tracing::{info_span, subscriber::with_default};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{layer::SubscriberExt as _, registry};

use crate::{
    Langfuse, Level, current,
    sink::TraceDefaults,
    testing::{get, langfuse, langfuse_with, metadata},
};

const APP_ROOT: &str = "langfuse.internal.is_app_root";
const AS_ROOT: &str = "langfuse.internal.as_root";
const TRACE_NAME: &str = "langfuse.trace.name";

fn within(langfuse: &Langfuse, f: impl FnOnce()) {
    with_default(registry().with(langfuse.layer()), f);
}

fn remote(flags: TraceFlags) -> Context {
    let (trace, span) = (TraceId::from(1_u128), SpanId::from(2_u64));
    let caller = SpanContext::new(trace, span, flags, true, TraceState::NONE);
    Context::new().with_remote_span_context(caller)
}

fn is_root(span: &Sent) -> Json {
    get(span, APP_ROOT)
}

#[test]
fn a_root_without_parent_needs_no_mark_and_names_its_trace() {
    let (langfuse, sink) = langfuse();
    within(&langfuse, || {
        let root = info_span!(target: "buttress", "static", otel.name = "agent_research");
        root.in_scope(|| info_span!(target: "buttress", "retry_execution"));
    });
    // The child ends first.
    assert_eq!(sink.spans()[0].name, "retry_execution");
    for name in ["agent_research", "retry_execution"] {
        let span = sink.span(name);
        assert_eq!(get(&span, TRACE_NAME), "agent_research");
        assert_eq!(is_root(&span), Json::Null);
    }
    assert_eq!(sink.spans()[0].parent_span_id, sink.spans()[1].span_id);
}

#[test]
fn below_a_span_that_is_not_sent_the_outermost_is_the_app_root() {
    let (langfuse, sink) = langfuse();
    within(&langfuse, || {
        let request = info_span!("http_request");
        request.in_scope(|| {
            info_span!(target: "buttress", "fallback_chain")
                .in_scope(|| info_span!(target: "buttress", "fallback_attempt"));
        });
    });
    assert_eq!(sink.spans().len(), 2);
    let root = sink.span("fallback_chain");
    assert_eq!((is_root(&root), get(&root, AS_ROOT)), (json!(true), Json::Null));
    assert_eq!(get(&root, TRACE_NAME), "fallback_chain");
    assert_eq!(is_root(&sink.span("fallback_attempt")), Json::Null);
}

#[test]
fn a_span_that_is_not_sent_does_not_cut_the_tree() {
    let (langfuse, sink) = langfuse();
    within(&langfuse, || {
        info_span!(target: "buttress", "fallback_chain").in_scope(|| {
            info_span!("between").in_scope(|| info_span!(target: "buttress", "llm_call"));
        });
    });
    let call = sink.span("llm_call");
    assert_eq!(call.parent_span_id, sink.span("fallback_chain").span_id);
    assert_eq!(is_root(&call), Json::Null);
}

#[test]
fn below_a_remote_parent_the_outermost_is_the_app_root_and_does_not_rename_the_trace() {
    for as_root in [false, true] {
        let (langfuse, sink) = langfuse_with(TraceDefaults { as_root, ..TraceDefaults::default() });
        within(&langfuse, || {
            let root = info_span!(target: "buttress", "retry_execution");
            root.set_parent(remote(TraceFlags::SAMPLED)).unwrap();
            root.in_scope(|| info_span!(target: "buttress", "retry_attempt"));
        });
        let root = sink.span("retry_execution");
        assert_eq!(is_root(&root), true);
        assert_eq!(get(&root, AS_ROOT), if as_root { json!(true) } else { Json::Null });
        assert_eq!(get(&root, TRACE_NAME), Json::Null);
        assert_eq!(root.trace_id, 1_u128.to_be_bytes());
        assert_eq!(is_root(&sink.span("retry_attempt")), Json::Null);
    }
}

#[test]
fn a_caller_that_does_not_sample_is_obeyed_unless_something_goes_wrong() {
    for (failed, sent) in [(false, 0), (true, 2)] {
        let (langfuse, sink) = langfuse();
        within(&langfuse, || {
            let root = info_span!(target: "buttress", "retry_execution");
            root.set_parent(remote(TraceFlags::NOT_SAMPLED)).unwrap();
            let flags = root.in_scope(|| root.context().span().span_context().trace_flags());
            assert!(!flags.is_sampled(), "what the caller decided is passed on");
            let attempt = info_span!(target: "buttress", parent: &root, "retry_attempt", level = tracing::field::Empty);
            if failed {
                attempt.record("level", "WARNING");
            }
        });
        assert_eq!(sink.spans().len(), sent);
    }
}

#[test]
fn an_error_log_line_does_not_turn_the_span_red() {
    let (langfuse, sink) = langfuse();
    within(&langfuse, || {
        let span = info_span!(target: "buttress", "retry_execution", level = "WARNING");
        span.in_scope(|| tracing::error!(target: "buttress::log", "Attempt 1 failed"));
    });
    let span = sink.span("retry_execution");
    assert_eq!((span.status.clone(), span.events.len()), (None, 0));
    assert_eq!(get(&span, "langfuse.observation.level"), "WARNING");
}

#[test]
fn only_ours_and_gen_ai_and_named_targets_are_sent() {
    let targets = vec!["app::agents".to_owned()];
    let (langfuse, sink) = langfuse_with(TraceDefaults { targets, ..TraceDefaults::default() });
    within(&langfuse, || {
        info_span!(target: "app::agents", "named").in_scope(|| ());
        info_span!(target: "app::agents::inner", "inside").in_scope(|| ());
        info_span!(target: "app::agents_other", "beside").in_scope(|| ());
        info_span!(target: "rig", "chat", gen_ai.request.model = "m").in_scope(|| ());
        info_span!(target: "hyper", "http").in_scope(|| ());
    });
    let names: Vec<_> = sink.spans().into_iter().map(|span| span.name).collect();
    assert_eq!(names, ["named", "inside", "chat"]);
}

#[test]
fn a_span_that_becomes_one_of_gen_ai_too_late_leaves_its_place_to_the_one_below() {
    use tracing::field::Empty;

    let (langfuse, sink) = langfuse();
    within(&langfuse, || {
        let late = info_span!("chat", gen_ai.usage.input_tokens = Empty);
        late.in_scope(|| info_span!(target: "buttress", "retry_execution").in_scope(|| ()));
        late.record("gen_ai.usage.input_tokens", 7_i64);
    });
    let spans = sink.spans();
    assert_eq!(spans.len(), 1, "{spans:?}");
    assert_eq!(
        (is_root(&spans[0]), get(&spans[0], TRACE_NAME)),
        (json!(true), json!("retry_execution"))
    );
}

#[test]
fn a_span_that_becomes_one_of_gen_ai_late_is_sent_where_nothing_took_its_place() {
    use tracing::field::Empty;

    let (langfuse, sink) = langfuse();
    within(&langfuse, || {
        info_span!("request").in_scope(|| {
            let late = info_span!("chat", gen_ai.usage.input_tokens = Empty);
            late.in_scope(|| info_span!("helper").in_scope(|| ()));
            late.record("gen_ai.usage.input_tokens", 7_i64);
        });
    });
    within(&langfuse, || {
        info_span!(target: "buttress", "agent").in_scope(|| {
            let late = info_span!("below", gen_ai.usage.input_tokens = Empty);
            late.in_scope(|| ());
            late.record("gen_ai.usage.input_tokens", 7_i64);
        });
    });
    let root = sink.span("chat");
    assert_eq!((is_root(&root), get(&root, TRACE_NAME)), (json!(true), json!("chat")));
    let below = sink.span("below");
    assert_eq!((is_root(&below), get(&below, TRACE_NAME)), (Json::Null, json!("agent")));
    assert_eq!(below.parent_span_id, sink.span("agent").span_id);
}

#[test]
fn the_configuration_stands_on_every_span() {
    let defaults = TraceDefaults {
        environment: Some("Prod".to_owned()),
        release: Some("1.2".to_owned()),
        version: Some("3".to_owned()),
        ..TraceDefaults::default()
    };
    let (langfuse, sink) = langfuse_with(defaults);
    within(&langfuse, || {
        info_span!(target: "buttress", "a").in_scope(|| info_span!(target: "buttress", "b"));
    });
    for span in [sink.span("a"), sink.span("b")] {
        assert_eq!(get(&span, "langfuse.environment"), "prod");
        assert_eq!(get(&span, "langfuse.release"), "1.2");
        assert_eq!(get(&span, "langfuse.version"), "3");
    }
}

#[test]
fn sampling_drops_good_traces_and_keeps_what_failed() {
    let (langfuse, sink) =
        langfuse_with(TraceDefaults { sample_rate: 0.0, ..TraceDefaults::default() });
    within(&langfuse, || {
        info_span!(target: "buttress", "good").in_scope(|| ());
        info_span!(target: "buttress", "chain")
            .in_scope(|| info_span!(target: "buttress", "attempt", level = "ERROR"));
    });
    let names: Vec<_> = sink.spans().into_iter().map(|span| span.name).collect();
    assert_eq!(names, ["attempt", "chain"]);
}

#[test]
fn current_speaks_for_the_innermost_span_that_is_sent() {
    let (langfuse, sink) = langfuse();
    within(&langfuse, || {
        info_span!(target: "buttress", "outer").in_scope(|| {
            info_span!(target: "buttress", "inner", level = "WARNING", attempt = 1_i64).in_scope(
                || {
                    info_span!("helper").in_scope(|| {
                        current()
                            .name("renamed")
                            .level(Level::Error)
                            .status_message("no prices")
                            .metadata("attempt", 2)
                            .metadata("deep", json!({ "a": 1 }))
                            .input("question")
                            .output(json!({ "answer": 42 }));
                    });
                },
            );
        });
    });
    let span = sink.span("renamed");
    assert_eq!(get(&span, "langfuse.observation.level"), "ERROR");
    assert_eq!(span.status.clone().unwrap().message, "no prices");
    assert_eq!(
        (metadata(&span, "attempt"), metadata(&span, "deep")),
        (json!(2), json!({ "a": 1 }))
    );
    assert_eq!(get(&span, "langfuse.observation.input"), "question");
    assert_eq!(get(&span, "langfuse.observation.output"), json!({ "answer": 42 }));
    assert_eq!(get(&sink.span("outer"), "langfuse.observation.level"), Json::Null);
}

#[test]
fn what_current_says_of_the_trace_stands_on_later_spans() {
    let (langfuse, sink) = langfuse();
    within(&langfuse, || {
        info_span!(target: "buttress", "root").in_scope(|| {
            info_span!(target: "buttress", "before").in_scope(|| ());
            current().session("s").user("u").tag("a").tags(["a", "b"]).trace_name("t");
            current().trace_metadata("ticker", "AAPL");
            info_span!(target: "buttress", "after").in_scope(|| ());
        });
    });
    assert_eq!(get(&sink.span("before"), "session.id"), Json::Null);
    for span in [sink.span("after"), sink.span("root")] {
        assert_eq!((get(&span, "session.id"), get(&span, "user.id")), (json!("s"), json!("u")));
        assert_eq!(get(&span, "langfuse.trace.tags"), json!(["a", "b"]));
        assert_eq!(get(&span, TRACE_NAME), "t");
        assert_eq!(get(&span, "langfuse.trace.metadata.ticker"), "AAPL");
    }
}

#[test]
fn a_session_recorded_by_a_child_stands_on_its_parents() {
    let (langfuse, sink) = langfuse();
    within(&langfuse, || {
        info_span!(target: "buttress", "root")
            .in_scope(|| info_span!(target: "buttress", "child", session.id = "s"));
    });
    assert_eq!(get(&sink.span("root"), "session.id"), "s");
}

#[test]
fn current_outside_of_any_span_does_nothing() {
    let (langfuse, sink) = langfuse();
    current().session("nobody");
    within(&langfuse, || {
        current().session("nobody");
        let late = info_span!(target: "buttress", "over").in_scope(current);
        late.session("nobody").level(Level::Error);
        info_span!(target: "buttress", "next").in_scope(|| ());
    });
    assert_eq!(get(&sink.span("next"), "session.id"), Json::Null);
}

#[tokio::test]
async fn current_works_in_spawned_code() {
    use tracing::Instrument as _;

    let (langfuse, sink) = langfuse();
    let guard = tracing::subscriber::set_default(registry().with(langfuse.layer()));
    let root = info_span!(target: "buttress", "root");
    let task = async {
        tokio::task::yield_now().await;
        current().user("u").metadata("spawned", true);
    };
    tokio::spawn(task.instrument(root)).await.unwrap();
    drop(guard);
    let span = sink.span("root");
    assert_eq!((get(&span, "user.id"), metadata(&span, "spawned")), (json!("u"), json!(true)));
}

#[test]
fn the_span_processor_joins_a_provider_that_exists() {
    let (langfuse, sink) = langfuse();
    let provider =
        SdkTracerProvider::builder().with_span_processor(langfuse.span_processor()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("app"));
    with_default(registry().with(layer), || {
        info_span!("request").in_scope(|| {
            info_span!(target: "buttress", "retry_execution", attempt = 1_i64)
                .in_scope(|| _ = current().session("s"));
        });
    });
    provider.shutdown().unwrap();
    let span = sink.span("retry_execution");
    assert_eq!((is_root(&span), metadata(&span, "attempt")), (json!(true), json!(1)));
    assert_eq!(get(&span, "session.id"), "s");
    let noise = span.attributes.iter().find(|known| known.key.contains("code."));
    assert_eq!(noise, None);
    // Delivery belongs to the handle, not to the provider.
    assert!(sink.shutdowns.lock().unwrap().is_empty());
}
