//! The same spans to an OTLP endpoint of one's own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, response::IntoResponse};
use buttress::{
    FaultTolerantAgent, RetryLayer,
    test_util::{Answer, Scripted},
};
use buttress_langfuse::{Collector, Durability, Langfuse, LangfuseBuilder, StartError};
use buttress_tests::langfuse_server::{Fault, LangfuseServer, RetryAfter};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use prost::Message as _;
use serde_json::Value;
use tracing_subscriber::layer::SubscriberExt as _;

const PATIENCE: Duration = Duration::from_secs(20);
/// The spans of one call: agent, chain and its attempt, retry and its two attempts, and in each of
/// these breaker and timeout.
const SPANS: usize = 10;

/// A builder that takes its time for nothing.
fn hasty() -> LangfuseBuilder {
    Langfuse::builder()
        .service_name("research")
        .flush_interval(Duration::from_millis(20))
        .retry_backoff(Duration::from_millis(5), Duration::from_millis(50))
        .durability(Durability::Memory)
}

/// Sends to the path of the test server that takes OTLP, as a collector's exporter would.
fn through_collector(server: &LangfuseServer) -> Langfuse {
    let collector = Collector::new()
        .endpoint(format!("{}/api/public/otel/v1/traces", server.base_url()))
        .header("authorization", server.authorization());
    hasty().collector(collector).start().unwrap()
}

fn direct(server: &LangfuseServer) -> Langfuse {
    let keys = hasty().public_key(server.public_key()).secret_key(server.secret_key());
    keys.base_url(server.base_url()).start().unwrap()
}

/// Makes a call that fails once.
fn call(langfuse: &Langfuse) {
    let subscriber = tracing_subscriber::registry().with(langfuse.layer());
    tracing::subscriber::with_default(subscriber, || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let agent = FaultTolerantAgent::builder("research")
            .metadata(r#"{"ticker":"AAPL"}"#)
            .retry(RetryLayer::new(2).backoff([Duration::ZERO]))
            .service(Scripted::new([Answer::error("reset"), Answer::ok("fine")]));
        assert_eq!(runtime.block_on(agent.invoke("AAPL")).unwrap(), "fine");
    });
}

/// Returns what the server made of the spans, without what differs between two runs.
fn rows(server: &LangfuseServer) -> Vec<Value> {
    let rows = server.observations().into_iter().map(|observation| {
        let mut row = observation.row().clone();
        let fields = row.as_object_mut().unwrap();
        // Ids and times are those of another run, and the exporter names another SDK.
        let differs = ["Id", "Time", "timestamp", "Sdk", "metadataFlattened", "eventBytes"];
        fields.retain(|key, _| differs.iter().all(|part| !key.contains(part)));
        if let Some(metadata) = fields["metadata"].as_object_mut() {
            metadata.remove("resourceAttributes");
        }
        row
    });
    rows.collect()
}

#[test]
fn a_collector_gets_what_langfuse_would_get() {
    let (ours, theirs) = (LangfuseServer::start_blocking(), LangfuseServer::start_blocking());
    for (server, langfuse) in [(&ours, direct(&ours)), (&theirs, through_collector(&theirs))] {
        call(&langfuse);
        langfuse.shutdown(PATIENCE).unwrap();
        assert_eq!(server.observations().len(), SPANS);
    }
    for (ours, theirs) in rows(&ours).iter().zip(rows(&theirs)) {
        assert_eq!(*ours, theirs);
    }
}

#[test]
fn faults_of_the_collector_lose_no_span() {
    let server = LangfuseServer::start_blocking();
    server.fail_with([
        Some(Fault::InternalServerError),
        Some(Fault::TooManyRequests(RetryAfter::Missing)),
        Some(Fault::ResetBeforeBody),
        Some(Fault::ServiceUnavailable(RetryAfter::Missing)),
    ]);
    let langfuse = through_collector(&server);
    call(&langfuse);
    langfuse.flush(PATIENCE).unwrap();
    let stats = langfuse.stats();
    assert_eq!((stats.delivered, stats.refused, stats.dropped), (SPANS as u64, 0, 0));
    assert_eq!(server.observations().len(), SPANS);
}

#[test]
fn a_span_that_the_collector_refuses_is_given_up_and_counted() {
    let server = LangfuseServer::start_blocking();
    server.refuse_span("retry_execution");
    let langfuse = through_collector(&server);
    call(&langfuse);
    langfuse.flush(PATIENCE).unwrap();
    let stats = langfuse.stats();
    assert_eq!((stats.delivered, stats.refused), (SPANS as u64 - 1, 1));
    assert_eq!(server.observations().len(), SPANS - 1);
}

#[test]
fn a_batch_is_taken_although_the_collectors_answer_never_ends() {
    for fault in [Fault::SilentBody, Fault::TricklingBody] {
        let server = LangfuseServer::start_blocking();
        let collector = Collector::new()
            .endpoint(format!("{}/api/public/otel/v1/traces", server.base_url()))
            .header("authorization", server.authorization());
        let langfuse =
            hasty().timeout(Duration::from_millis(500)).collector(collector).start().unwrap();
        server.fail_next(fault);
        call(&langfuse);
        langfuse.shutdown(PATIENCE).unwrap();
        assert_eq!((server.observations().len(), server.duplicates()), (SPANS, 0));
        assert_eq!(langfuse.stats().delivered, SPANS as u64);
    }
}

/// A collector that takes all spans but two, and keeps the requests.
async fn partly(
    State(requests): State<Arc<Mutex<Vec<(HeaderMap, Bytes)>>>>,
    headers: HeaderMap,
    body: Bytes,
) -> impl IntoResponse {
    requests.lock().unwrap().push((headers, body));
    let said = ExportTracePartialSuccess {
        rejected_spans: 2,
        error_message: "two are too old".to_owned(),
    };
    ExportTraceServiceResponse { partial_success: Some(said) }.encode_to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_partial_success_is_counted_as_such() {
    let requests = Arc::default();
    let router = Router::new()
        .route("/v1/traces", axum::routing::post(partly))
        .with_state(Arc::clone(&requests));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });

    let endpoint = format!("http://{address}/v1/traces");
    let collector = Collector::new().endpoint(endpoint).header("x-token", "t-1");
    let langfuse = hasty().collector(collector).start().unwrap();
    tokio::task::spawn_blocking(move || {
        call(&langfuse);
        langfuse.flush(PATIENCE).unwrap();
        let stats = langfuse.stats();
        assert_eq!((stats.delivered, stats.refused), (SPANS as u64 - 2, 2));
    })
    .await
    .unwrap();
    server.abort();

    let requests = requests.lock().unwrap();
    let (headers, body) = &requests[0];
    assert_eq!(headers["content-type"], "application/x-protobuf");
    assert_eq!(headers["x-token"], "t-1");
    let request = ExportTraceServiceRequest::decode(body.clone()).unwrap();
    let resource = request.resource_spans[0].resource.as_ref().unwrap();
    let service = resource.attributes.iter().find(|known| known.key == "service.name").unwrap();
    assert!(format!("{service:?}").contains("research"), "{service:?}");
    let scope = request.resource_spans[0].scope_spans[0].scope.as_ref().unwrap();
    assert_eq!(scope.name, "buttress");
}

#[test]
fn a_wrong_address_is_told_at_the_start() {
    let collector = Collector::new().endpoint("http://[nonsense").header("x", "secret");
    assert!(!format!("{collector:?}").contains("secret"));
    let error = Langfuse::builder().collector(collector).start().unwrap_err();
    assert!(matches!(error, StartError::Collector(_)), "{error:?}");
    assert!(error.to_string().contains("invalid endpoint"), "{error}");
}

#[test]
fn an_address_with_a_password_is_refused_and_not_shown() {
    let collector = Collector::new().endpoint("http://me:secret@localhost:4318/v1/traces");
    assert!(!format!("{collector:?}").contains("secret"));
    let error = Langfuse::builder().collector(collector).start().unwrap_err();
    assert!(matches!(error, StartError::Collector(_)), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("secret"));
}
