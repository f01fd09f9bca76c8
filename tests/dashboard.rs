//! The dashboard beside Langfuse and metrics in one subscriber, as a service has them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use axum::{body::Body, http::Request};
use buttress::{AgentLayer, CircuitBreakerLayer, observe::MetricsLayer};
use buttress_dashboard::Dashboard;
use buttress_langfuse::{Langfuse, TerminalTree};
use http_body_util::BodyExt as _;
use opentelemetry::trace::TraceContextExt as _;
use serde_json::Value;
use tower::{Layer as _, ServiceExt as _, service_fn};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::layer::SubscriberExt as _;

/// Returns what a page that opens now is told.
async fn snapshot(dashboard: &Dashboard) -> Value {
    let request = Request::get("/events").body(Body::empty()).unwrap();
    let mut answer = dashboard.router().oneshot(request).await.unwrap();
    let event = answer.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    let event = String::from_utf8(event.to_vec()).unwrap();
    let data = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    serde_json::from_str(data).unwrap()
}

#[tokio::test]
async fn a_failure_links_to_the_trace_that_langfuse_gets() {
    let langfuse = Langfuse::to_terminal(TerminalTree::new());
    let breaker = CircuitBreakerLayer::new("gpt-large").consecutive_failures(1);
    let dashboard = Dashboard::new()
        .circuit(breaker.circuit())
        .langfuse("https://langfuse.example", "research");
    let subscriber = tracing_subscriber::registry()
        .with(langfuse.layer())
        .with(MetricsLayer::new())
        .with(dashboard.layer());
    let _guard = tracing::subscriber::set_default(subscriber);

    let (sink, trace) = std::sync::mpsc::channel();
    let service = service_fn(move |_: ()| {
        let context = tracing::Span::current().context();
        sink.send(context.span().span_context().trace_id().to_string()).unwrap();
        async { Err::<(), _>(std::io::Error::other("reset")) }
    });
    let agent = AgentLayer::new("research").layer(breaker.layer(service));
    agent.oneshot(()).await.unwrap_err();

    let trace = trace.recv().unwrap();
    assert_ne!(trace, "0".repeat(32), "there is a trace");
    let link = format!("https://langfuse.example/project/research/traces/{trace}");
    let told = snapshot(&dashboard).await;
    assert_eq!(told["failures"]["items"][0]["trace"]["url"], *link, "{told:#}");
    assert_eq!(told["timelines"]["items"][0]["changes"][0]["trace"]["url"], *link, "{told:#}");
}
