//! What the page is told of retries, fallbacks, swarms and failures, from the spans of the layers.

use std::{future::pending, io, time::Duration};

use buttress::{
    AgentLayer, CatchPanicLayer, CircuitBreakerLayer, FallbackLayer, RetryLayer, Swarm,
    TimeoutLayer,
};
use buttress_dashboard::Dashboard;
use serde_json::{Value, json};
use tower::{Layer as _, Service, ServiceBuilder, ServiceExt as _, service_fn};
use tracing_subscriber::layer::SubscriberExt as _;

use crate::support::{items, snapshot};

const NO_WAIT: [Duration; 4] = [Duration::ZERO; 4];

/// Watches this thread until the guard is dropped.
fn watched(dashboard: &Dashboard) -> tracing::subscriber::DefaultGuard {
    tracing::subscriber::set_default(tracing_subscriber::registry().with(dashboard.layer()))
}

/// Fails so many times in a row with a text, and answers then.
fn fails(
    times: usize,
    text: &'static str,
) -> impl Service<&'static str, Response = &'static str, Error = io::Error, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    let left = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(times));
    service_fn(move |_| {
        let less = |left: usize| left.checked_sub(1);
        let order = std::sync::atomic::Ordering::Relaxed;
        let fails = left.fetch_update(order, order, less).is_ok();
        async move { if fails { Err(io::Error::other(text)) } else { Ok("COMPLETION") } }
    })
}

/// Returns the only failure that is shown.
fn only(event: &Value) -> &Value {
    let [failure] = items(event, "failures") else { panic!("{event:#}") };
    failure
}

fn row<'a>(event: &'a Value, kind: &str, name: &str) -> &'a Value {
    let is_it = |row: &&Value| row["kind"] == kind && row["name"] == name;
    items(event, "rows").iter().find(is_it).unwrap_or_else(|| panic!("{event:#}"))
}

fn totals(fine: u64, rescued: u64, failed: u64) -> Value {
    json!({ "fine": fine, "rescued": rescued, "failed": failed })
}

#[tokio::test]
async fn a_failure_that_a_retry_makes_good_is_told_once_with_what_became_of_it() {
    let dashboard = Dashboard::new();
    let _guard = watched(&dashboard);
    let agent = ServiceBuilder::new()
        .layer(AgentLayer::new("research"))
        .layer(RetryLayer::new(3).backoff(NO_WAIT))
        .layer(CircuitBreakerLayer::new("gpt-large"))
        .layer(TimeoutLayer::new(Duration::from_secs(1)))
        .service(fails(2, "connection reset"));
    agent.clone().oneshot("PROMPT").await.unwrap();
    agent.clone().oneshot("PROMPT").await.unwrap();

    let event = snapshot(&dashboard).await;
    let failure = only(&event);
    for (key, value) in [
        ("fate", json!("retried")),
        ("agent", json!("research")),
        ("circuit", json!("gpt-large")),
        ("kind", json!("transient")),
        ("error", json!("connection reset")),
        ("place", json!("timeout_protected_call")),
        ("count", json!(1)),
    ] {
        assert_eq!(failure[key], value, "{key}");
    }
    let row = row(&event, "retry", "research");
    assert_eq!(row["totals"], totals(1, 1, 0));
    assert_eq!(row["minutes"].as_array().unwrap().last().unwrap(), &totals(1, 1, 0));
    assert_eq!((&row["attempts"], &row["last"]["attempts"]), (&json!(4), &json!(3)));
    assert_eq!(event["under_way"], 0);
}

#[tokio::test]
async fn a_failure_that_a_fallback_makes_good_is_told_so() {
    let dashboard = Dashboard::new();
    let _guard = watched(&dashboard);
    let agent = ServiceBuilder::new()
        .layer(AgentLayer::new("research"))
        .layer(FallbackLayer::new().or("small", fails(0, "")))
        .layer(RetryLayer::new(2).backoff(NO_WAIT))
        .service(fails(usize::MAX, "connection reset"));
    agent.oneshot("PROMPT").await.unwrap();
    let event = snapshot(&dashboard).await;
    assert_eq!(only(&event)["fate"], "fell_back");
    assert_eq!(row(&event, "retry", "research")["totals"], totals(0, 0, 1));
    let fallback = row(&event, "fallback", "research");
    assert_eq!(fallback["totals"], totals(0, 1, 0));
    assert_eq!(fallback["last"]["level"], 1);
}

#[tokio::test]
async fn what_nothing_made_good_has_reached_the_caller() {
    let dashboard = Dashboard::new();
    let _guard = watched(&dashboard);
    let agent = ServiceBuilder::new()
        .layer(AgentLayer::new("research"))
        .layer(FallbackLayer::new().or("small", fails(usize::MAX, "small is away")))
        .layer(RetryLayer::new(2).backoff(NO_WAIT))
        .service(fails(usize::MAX, "large is away"));
    agent.oneshot("PROMPT").await.unwrap_err();
    let event = snapshot(&dashboard).await;
    let failure = only(&event);
    assert_eq!((&failure["fate"], &failure["count"]), (&json!("reached_caller"), &json!(1)));
    let error = failure["error"].as_str().unwrap();
    assert!(error.contains("large is away") && error.contains("small is away"), "{error}");
}

#[tokio::test]
async fn rejections_of_an_open_circuit_are_one_line_however_many() {
    let dashboard = Dashboard::new();
    let _guard = watched(&dashboard);
    let breaker = CircuitBreakerLayer::new("gpt-large");
    breaker.circuit().trip_for(Duration::from_secs(60));
    let agent = AgentLayer::new("research").layer(breaker.layer(fails(0, "")));
    for _ in 0..20 {
        agent.clone().oneshot("PROMPT").await.unwrap_err();
    }
    let event = snapshot(&dashboard).await;
    let failure = only(&event);
    assert_eq!((&failure["kind"], &failure["count"]), (&json!("circuit_open"), &json!(20)));
}

#[tokio::test]
async fn failures_are_alike_but_for_numbers_and_never_across_names() {
    let dashboard = Dashboard::new();
    let _guard = watched(&dashboard);
    for name in ["tenant-1", "tenant-2"] {
        for text in ["request 17 failed", "request 2048 failed", "reset by peer"] {
            let agent = AgentLayer::new(name).layer(fails(1, text));
            agent.oneshot("PROMPT").await.unwrap_err();
        }
    }
    let event = snapshot(&dashboard).await;
    let mut told: Vec<_> = items(&event, "failures")
        .iter()
        .map(|one| (one["agent"].as_str().unwrap(), one["error"].as_str().unwrap(), &one["count"]))
        .collect();
    told.sort_by_key(|(agent, error, _)| (*agent, *error));
    let (once, twice) = (json!(1), json!(2));
    let expected = [
        ("tenant-1", "request 2048 failed", &twice),
        ("tenant-1", "reset by peer", &once),
        ("tenant-2", "request 2048 failed", &twice),
        ("tenant-2", "reset by peer", &once),
    ];
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_swarm_says_how_far_it_is_degraded_and_without_whom() {
    let dashboard = Dashboard::new();
    let _guard = watched(&dashboard);
    let swarm = Swarm::builder("research_swarm")
        .required("technical", fails(0, ""))
        .optional("sentiment", fails(usize::MAX, "no feed"))
        .build()
        .unwrap();
    swarm.invoke("PROMPT").await.unwrap();
    let event = snapshot(&dashboard).await;
    let row = row(&event, "swarm", "research_swarm");
    assert_eq!(row["totals"], totals(0, 1, 0));
    let last = &row["last"];
    assert_eq!((&last["level"], &last["success_rate"]), (&json!(1), &json!(0.5)));
    assert_eq!(last["failed_agents"], json!(["sentiment"]));
    let failure = only(&event);
    assert_eq!(
        (&failure["fate"], &failure["agent"]),
        (&json!("went_without"), &json!("sentiment"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_goes_on_after_a_failure_is_counted_and_so_is_one_that_is_given_up() {
    let dashboard = Dashboard::new();
    let _guard = watched(&dashboard);
    let agent = ServiceBuilder::new()
        .layer(AgentLayer::new("research"))
        .layer(RetryLayer::new(2).backoff([Duration::from_secs(60)]))
        .service(fails(usize::MAX, "connection reset"));
    let mut call = Box::pin(agent.oneshot("PROMPT"));
    assert!(futures_util::poll!(call.as_mut()).is_pending());
    let event = snapshot(&dashboard).await;
    assert_eq!((&event["under_way"], items(&event, "failures").len()), (&json!(1), 0));
    drop(call);
    let event = snapshot(&dashboard).await;
    assert_eq!((&event["under_way"], &only(&event)["fate"]), (&json!(0), &json!("abandoned")));
}

#[tokio::test]
async fn a_panic_is_a_failure_that_shows_nothing_of_the_request() {
    let dashboard = Dashboard::new();
    let _guard = watched(&dashboard);
    let agent = ServiceBuilder::new()
        .layer(AgentLayer::new("research"))
        .layer(CatchPanicLayer::new())
        .service(service_fn(|prompt: &'static str| async move {
            if prompt.len() > 1 {
                panic!("no answer to {prompt}");
            }
            Ok::<_, io::Error>("COMPLETION")
        }));
    agent.oneshot("PROMPT").await.unwrap_err();
    let event = snapshot(&dashboard).await;
    assert_eq!(only(&event)["kind"], "panicked");
    assert!(!event.to_string().contains("PROMPT"), "{event}");
}

#[tokio::test]
async fn prompts_answers_and_metadata_are_never_told() {
    let dashboard = Dashboard::new();
    let _guard = watched(&dashboard);
    let agent = ServiceBuilder::new()
        .layer(AgentLayer::new("research").metadata(r#"{"ticker":"METADATA"}"#))
        .layer(RetryLayer::new(3).backoff(NO_WAIT).metadata(r#"{"ticker":"METADATA"}"#))
        .layer(CircuitBreakerLayer::new("gpt-large").metadata(r#"{"ticker":"METADATA"}"#))
        .service(fails(1, "connection reset"));
    agent.oneshot("PROMPT").await.unwrap();
    let event = snapshot(&dashboard).await.to_string();
    for secret in ["PROMPT", "COMPLETION", "METADATA"] {
        assert!(!event.contains(secret), "{secret} in {event}");
    }
}

#[tokio::test]
async fn texts_of_errors_are_cut_and_can_be_left_out() {
    const LONG: &str = "</script><script>alert(1)</script>\u{202e}\r\n";
    let long: &'static str = LONG.repeat(1_000).leak();
    for (dashboard, is_shown) in
        [(Dashboard::new(), true), (Dashboard::new().without_error_texts(), false)]
    {
        let _guard = watched(&dashboard);
        let agent = AgentLayer::new("research").layer(fails(1, long));
        agent.oneshot("PROMPT").await.unwrap_err();
        let event = snapshot(&dashboard).await;
        let failure = only(&event);
        assert_eq!(
            (&failure["agent"], &failure["kind"]),
            (&json!("research"), &json!("transient"))
        );
        assert_eq!(failure.get("error").is_some(), is_shown);
        if let Some(error) = failure.get("error").and_then(Value::as_str) {
            assert_eq!(error.chars().count(), 400);
            assert!(!error.contains(['\u{202e}', '\r', '\n']), "{error:?}");
        }
    }
}

#[tokio::test]
async fn whatever_comes_what_is_shown_is_bounded() {
    let dashboard = Dashboard::new();
    let _guard = watched(&dashboard);
    for number in 0..300 {
        let name = format!("agent-{number}");
        let agent = ServiceBuilder::new()
            .layer(AgentLayer::new(name.clone()))
            .layer(RetryLayer::new(2).backoff(NO_WAIT))
            .service(fails(usize::MAX, "connection reset"));
        agent.oneshot("PROMPT").await.unwrap_err();
    }
    let event = snapshot(&dashboard).await;
    assert_eq!(items(&event, "failures").len(), 50);
    // The last ones are kept, and the names that have no row share one.
    assert!(items(&event, "failures").iter().any(|failure| failure["agent"] == "agent-299"));
    assert!(items(&event, "rows").len() <= 101);
    assert_eq!(row(&event, "retry", "(others)")["totals"], totals(0, 0, 200));
}

#[tokio::test]
async fn of_a_circuit_by_key_changes_are_known_before_a_page_looks() {
    let layer = CircuitBreakerLayer::keyed("tenant", |prompt: &&'static str| *prompt)
        .like(&CircuitBreakerLayer::new("rules").consecutive_failures(1));
    let dashboard = Dashboard::new().circuits(layer.circuits());
    let _guard = watched(&dashboard);
    layer.layer(fails(1, "connection reset")).oneshot("acme").await.unwrap_err();
    let event = snapshot(&dashboard).await;
    let changes = items(&event, "timelines")[0]["changes"].as_array().unwrap();
    let [change] = &changes[..] else { panic!("{event:#}") };
    assert_eq!(
        (&change["to"], &change["reason"]),
        (&json!("open"), &json!("consecutive_failures"))
    );
}

#[tokio::test]
async fn a_hang_in_a_span_of_the_users_is_no_failure_of_two() {
    use tracing::Instrument as _;
    let dashboard = Dashboard::new();
    let _guard = watched(&dashboard);
    let timed = TimeoutLayer::new(Duration::from_millis(1))
        .layer(service_fn(|_: &'static str| pending::<Result<&'static str, io::Error>>()));
    let agent = AgentLayer::new("research").layer(service_fn(move |prompt: &'static str| {
        timed.clone().oneshot(prompt).instrument(tracing::info_span!("of_the_user"))
    }));
    agent.oneshot("PROMPT").await.unwrap_err();
    let event = snapshot(&dashboard).await;
    let failure = only(&event);
    assert_eq!((&failure["kind"], &failure["fate"]), (&json!("timeout"), &json!("reached_caller")));
}

#[cfg(feature = "opentelemetry")]
mod traces {
    use std::sync::{Arc, Mutex};

    use buttress::circuit_breaker::State;
    use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_opentelemetry::OpenTelemetrySpanExt as _;

    use super::*;

    /// Runs a call that fails and opens a circuit; returns the trace that it ran in.
    async fn failing(breaker: CircuitBreakerLayer) -> String {
        let trace = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&trace);
        let service = service_fn(move |_: &'static str| {
            let context = tracing::Span::current().context();
            *sink.lock().unwrap() = context.span().span_context().trace_id().to_string();
            async { Err::<&'static str, _>(io::Error::other("connection reset")) }
        });
        let agent = AgentLayer::new("research").layer(breaker.layer(service));
        agent.oneshot("PROMPT").await.unwrap_err();
        let trace = trace.lock().unwrap().clone();
        assert_eq!(trace.len(), 32, "there is a trace");
        trace
    }

    #[tokio::test]
    async fn failures_and_changes_link_to_their_traces_in_either_order_of_layers() {
        let tracer = || SdkTracerProvider::builder().build().tracer("test");
        for is_first in [true, false] {
            let breaker = CircuitBreakerLayer::new("gpt-large").consecutive_failures(1);
            let circuit = breaker.circuit();
            let dashboard = Dashboard::new()
                .circuit(circuit.clone())
                .langfuse("https://langfuse.example/", "research");
            let bridge = tracing_opentelemetry::layer().with_tracer(tracer());
            let registry = tracing_subscriber::registry();
            let _guard = if is_first {
                tracing::subscriber::set_default(registry.with(dashboard.layer()).with(bridge))
            } else {
                let bridge = tracing_opentelemetry::layer().with_tracer(tracer());
                tracing::subscriber::set_default(registry.with(bridge).with(dashboard.layer()))
            };
            let trace = failing(breaker).await;
            assert_eq!(circuit.state(), State::Open);
            let link = json!({
                "id": trace,
                "url": format!("https://langfuse.example/project/research/traces/{trace}"),
            });
            let event = snapshot(&dashboard).await;
            assert_eq!(only(&event)["trace"], link, "layer first: {is_first}");
            let change = &items(&event, "timelines")[0]["changes"][0];
            assert_eq!(change["trace"], link, "layer first: {is_first}");
        }
    }

    #[tokio::test]
    async fn an_address_that_is_none_of_the_web_is_no_link() {
        let dashboard = Dashboard::new().trace_url(|id| Some(format!("javascript:alert('{id}')")));
        let tracer = SdkTracerProvider::builder().build().tracer("test");
        let bridge = tracing_opentelemetry::layer().with_tracer(tracer);
        let subscriber = tracing_subscriber::registry().with(bridge).with(dashboard.layer());
        let _guard = tracing::subscriber::set_default(subscriber);
        let trace = failing(CircuitBreakerLayer::new("gpt-large")).await;
        let event = snapshot(&dashboard).await;
        assert_eq!(only(&event)["trace"], json!({ "id": trace }));
    }
}
