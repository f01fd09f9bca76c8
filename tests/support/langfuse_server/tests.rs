//! Tests of the server itself, over its real socket.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{
    AnyValue, InstrumentationScope, KeyValue, any_value::Value,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;
use serde_json::json;
use tokio::net::TcpStream;

use super::{Fault, LangfuseServer, RetryAfter};

const SOON: Duration = Duration::from_secs(10);
const PATH: &str = "/api/public/otel/v1/traces";

/// An answer with its whole body.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

async fn send(
    server: &LangfuseServer,
    request: Request<Full<Bytes>>,
) -> Result<Answer, hyper::Error> {
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await;
    drop(sender);
    let (parts, body) = response?.into_parts();
    let body = body.collect().await?.to_bytes();
    driver.await.unwrap()?;
    Ok(Answer {
        status: parts.status,
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    })
}

fn post(server: &LangfuseServer, content_type: &str, body: Vec<u8>) -> Request<Full<Bytes>> {
    Request::post(PATH)
        .header(header::HOST, server.address().to_string())
        .header(header::AUTHORIZATION, server.authorization())
        .header(header::CONTENT_TYPE, content_type)
        .header("x-langfuse-ingestion-version", "4")
        .body(Full::from(body))
        .unwrap()
}

async fn get(server: &LangfuseServer, path: &str) -> Answer {
    let request = Request::get(path)
        .header(header::HOST, server.address().to_string())
        .header(header::AUTHORIZATION, server.authorization())
        .body(Full::default())
        .unwrap();
    send(server, request).await.unwrap()
}

fn text(key: &str, value: &str) -> KeyValue {
    value_of(key, Value::StringValue(value.to_owned()))
}

fn value_of(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn span(id: u8, name: &str, attributes: Vec<KeyValue>) -> Span {
    Span {
        trace_id: vec![0xAB; 16],
        span_id: vec![id; 8],
        parent_span_id: if id == 1 { Vec::new() } else { vec![1; 8] },
        name: name.to_owned(),
        kind: 1,
        start_time_unix_nano: 1_767_225_600_000_000_000 + u64::from(id) * 1_000_000,
        end_time_unix_nano: 1_767_225_600_250_000_000,
        attributes,
        status: Some(Status { message: "down".to_owned(), code: 2 }),
        ..Span::default()
    }
}

fn batch(spans: Vec<Span>) -> Vec<u8> {
    let scope =
        InstrumentationScope { name: "buttress".to_owned(), ..InstrumentationScope::default() };
    let resource =
        Resource { attributes: vec![text("service.name", "demo")], ..Resource::default() };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
    let resource_spans =
        ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec()
}

async fn export(server: &LangfuseServer, spans: Vec<Span>) -> Result<Answer, hyper::Error> {
    send(server, post(server, "application/x-protobuf", batch(spans))).await
}

#[tokio::test]
async fn protobuf_becomes_the_rows_of_the_same_json() {
    let server = LangfuseServer::start().await;
    let attributes = vec![
        text("langfuse.observation.level", "warn"),
        value_of("langfuse.observation.metadata.attempt", Value::IntValue(3)),
        value_of("big", Value::IntValue(i64::MAX)),
        value_of("nan", Value::DoubleValue(f64::NAN)),
        value_of("bytes", Value::BytesValue(vec![1, 2])),
    ];
    let answer = export(&server, vec![span(2, "retry", attributes)]).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.json()["name"], "otel-ingestion-job");
    let rows = server.wait_for(1, SOON).await;
    let row = &rows[0];
    assert_eq!(row.id(), "0202020202020202");
    assert_eq!(row.trace_id(), "abababababababababababababababab");
    assert_eq!(row.parent_id(), Some("0101010101010101"));
    assert_eq!((row.name(), row.kind(), row.level()), ("retry", "SPAN", "WARNING"));
    assert_eq!(row.status_message(), Some("down"));
    assert_eq!(*row.metadata("attempt"), json!(3));
    assert_eq!(row.stored_metadata("attempt"), Some("3"));
    assert_eq!(row.stored_metadata("attributes.big"), Some("9223372036854776000"));
    assert_eq!(row.stored_metadata("attributes.nan"), Some("null"));
    assert_eq!(
        row.stored_metadata("attributes.bytes"),
        Some(r#"{"bytesValue":{"type":"Buffer","data":[1,2]}}"#)
    );
    assert_eq!(*row.field("startTimeISO"), json!("2026-01-01T00:00:00.002Z"));
}

#[tokio::test]
async fn keys_are_checked_with_the_words_of_the_server() {
    let server = LangfuseServer::start().await;
    let with = |authorization: Option<&str>| {
        let mut request =
            post(&server, "application/x-protobuf", batch(vec![span(1, "root", vec![])]));
        request.headers_mut().remove(header::AUTHORIZATION);
        if let Some(authorization) = authorization {
            request.headers_mut().insert(header::AUTHORIZATION, authorization.parse().unwrap());
        }
        request
    };
    // pk-lf-1:wrong
    let wrong = "Basic cGstbGYtMTp3cm9uZw==";
    for (authorization, status, message) in [
        (None, 401, "No authorization header"),
        (Some(wrong), 401, "Invalid credentials. Confirm that you've configured the correct host."),
        (Some("Digest x"), 401, "Invalid authorization header"),
        (Some("Bearer pk-lf-1"), 403, "Access denied - insufficient permissions for this endpoint"),
    ] {
        let answer = send(&server, with(authorization)).await.unwrap();
        assert_eq!(answer.status, status);
        assert_eq!(answer.json(), json!({"message": message}));
    }
    assert!(server.observations().is_empty());
    assert!(server.requests().iter().all(|request| !request.is_stored));
}

#[tokio::test]
async fn only_gzip_is_unpacked() {
    let server = LangfuseServer::start().await;
    let plain = batch(vec![span(1, "root", vec![])]);
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(&plain).unwrap();
    let packed = packer.finish().unwrap();
    let encoded = |encoding: &str, body: &[u8]| {
        let mut request = post(&server, "application/x-protobuf", body.to_vec());
        request.headers_mut().insert(header::CONTENT_ENCODING, encoding.parse().unwrap());
        request
    };
    assert_eq!(send(&server, encoded("gzip", &packed)).await.unwrap().status, StatusCode::OK);
    let request = &server.requests()[0];
    assert_eq!((request.wire_bytes, request.body_bytes), (Some(packed.len()), Some(plain.len())));
    assert_eq!(request.span_ids, ["0101010101010101"]);

    let broken = send(&server, encoded("gzip", b"no gzip")).await.unwrap();
    assert_eq!(broken.json(), json!({"error": "Failed to decompress request body"}));
    let other = send(&server, encoded("deflate", &packed)).await.unwrap();
    assert_eq!(other.json(), json!({"error": "Failed to parse OTel Protobuf Trace"}));
}

#[tokio::test]
async fn one_bad_span_refuses_the_batch() {
    let server = LangfuseServer::start().await;
    let headless = Span { trace_id: Vec::new(), ..span(2, "headless", vec![]) };
    let answer = export(&server, vec![span(1, "root", vec![]), headless]).await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        answer.json()["error"],
        "Invalid OTLP trace export: 1 of 2 span(s) cannot be processed (traceId:absent). traceId and spanId are \
         required on every span, and each must be a string or a byte array. The entire export was rejected and no \
         spans were ingested. Instrumentation scopes: buttress. This endpoint accepts OpenTelemetry traces only — \
         if you are exporting OpenTelemetry logs, point your log exporter elsewhere."
    );
    server.refuse_span("poison");
    let answer =
        export(&server, vec![span(1, "root", vec![]), span(3, "poison", vec![])]).await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.body.contains("1 of 2 span(s) cannot be processed"), "{}", answer.body);
    assert!(server.observations().is_empty());
    server.heal();
    assert_eq!(
        export(&server, vec![span(3, "poison", vec![])]).await.unwrap().status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn bodies_are_judged_in_the_order_of_the_server() {
    let server = LangfuseServer::start().await;
    for (content_type, body, status, expected) in [
        ("text/plain", "{}", 400, json!({"error": "Invalid content type"})),
        ("application/json", "{x", 400, json!({"error": "Failed to parse OTel JSON Trace"})),
        (
            "application/x-protobuf",
            "\u{7f}",
            400,
            json!({"error": "Failed to parse OTel Protobuf Trace"}),
        ),
        ("Application/JSON; charset=utf-8", "{}", 200, json!({})),
        ("application/json", r#"{"resourceSpans":[]}"#, 200, json!({})),
        ("application/x-protobuf", "", 200, json!({})),
    ] {
        let answer = send(&server, post(&server, content_type, body.into())).await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), answer.json()),
            (status, expected),
            "{content_type} {body}"
        );
    }
    for (version, status) in [("5", 400), ("x", 400), ("3", 200), ("4", 200)] {
        let mut request =
            post(&server, "application/x-protobuf", batch(vec![span(1, "root", vec![])]));
        request.headers_mut().insert("x-langfuse-ingestion-version", version.parse().unwrap());
        assert_eq!(send(&server, request).await.unwrap().status, status, "version {version}");
    }
}

#[tokio::test]
async fn a_valueless_attribute_loses_the_batch_behind_a_200() {
    let server = LangfuseServer::start().await;
    let bare = KeyValue { key: "bare".to_owned(), ..KeyValue::default() };
    let answer =
        export(&server, vec![span(1, "root", vec![]), span(2, "child", vec![bare])]).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    assert!(server.observations().is_empty());
    assert_eq!(server.lost_batches(), 1);
}

#[tokio::test]
async fn planned_faults_answer_in_order_and_store_nothing() {
    let server = LangfuseServer::start().await;
    server.fail_with([
        Some(Fault::TooManyRequests(RetryAfter::Seconds(7))),
        Some(Fault::ServiceUnavailable(RetryAfter::Date(784_111_777))),
        Some(Fault::InternalServerError),
        None,
        Some(Fault::Status(502)),
    ]);
    server.fail_next(Fault::InvalidCredentials);
    let mut statuses = Vec::new();
    let mut retry_after = Vec::new();
    for id in 1..=7 {
        let answer = export(&server, vec![span(id, "root", vec![])]).await.unwrap();
        statuses.push(answer.status.as_u16());
        retry_after.extend(
            answer.headers.get(header::RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned()),
        );
    }
    assert_eq!(statuses, [429, 503, 500, 200, 502, 401, 200]);
    assert_eq!(retry_after, ["7", "Sun, 06 Nov 1994 08:49:37 GMT"]);
    let ids: Vec<_> = server.observations().iter().map(|row| row.id().to_owned()).collect();
    assert_eq!(ids, ["0404040404040404", "0707070707070707"]);
}

#[tokio::test]
async fn chance_follows_its_seed_and_its_rates() {
    let mut runs = Vec::new();
    for _ in 0..2 {
        let server = LangfuseServer::start().await;
        server.random_faults(7, [(Fault::InternalServerError, 0.3), (Fault::Status(429), 0.3)]);
        let mut statuses = Vec::new();
        for _ in 0..40 {
            statuses.push(
                export(&server, vec![span(1, "root", vec![])]).await.unwrap().status.as_u16(),
            );
        }
        runs.push(statuses);
    }
    assert_eq!(runs[0], runs[1]);
    for status in [200, 429, 500] {
        let count = runs[0].iter().filter(|other| **other == status).count();
        assert!((5..=25).contains(&count), "{status} came {count} times");
    }
}

#[tokio::test]
async fn bodies_over_the_limit_are_refused() {
    let server = LangfuseServer::start().await;
    server.refuse_larger_than(batch(vec![span(1, "root", vec![])]).len());
    let statuses = [
        export(&server, vec![span(1, "root", vec![])]).await.unwrap().status.as_u16(),
        export(&server, vec![span(1, "root", vec![]), span(2, "child", vec![])])
            .await
            .unwrap()
            .status
            .as_u16(),
    ];
    assert_eq!(statuses, [200, 413]);
    assert_eq!(server.requests()[1].status, Some(413));
}

#[tokio::test]
async fn a_reset_before_the_body_stores_nothing() {
    let server = LangfuseServer::start().await;
    server.fail_next(Fault::ResetBeforeBody);
    assert!(export(&server, vec![span(1, "root", vec![])]).await.is_err());
    let request = &server.requests()[0];
    assert_eq!((request.wire_bytes, request.status, request.is_stored), (None, None, false));
    assert!(server.observations().is_empty());
}

#[tokio::test]
async fn a_lost_answer_makes_the_repeat_a_duplicate() {
    let server = LangfuseServer::start().await;
    server.fail_next(Fault::ResetAfterStoring);
    let error = export(&server, vec![span(1, "root", vec![])]).await.unwrap_err();
    assert!(format!("{error:?}").contains("ConnectionReset"), "{error:?}");
    assert_eq!(server.wait_for(1, SOON).await.len(), 1);
    assert_eq!(
        export(&server, vec![span(1, "root", vec![])]).await.unwrap().status,
        StatusCode::OK
    );
    assert_eq!(server.observations().len(), 1);
    assert_eq!(server.deliveries("0101010101010101"), 2);
    assert_eq!(server.duplicates(), 1);
}

#[tokio::test]
async fn a_hanging_request_goes_on_when_released() {
    let server = LangfuseServer::start().await;
    server.fail_next(Fault::Hang);
    let exported = export(&server, vec![span(1, "root", vec![])]);
    let release = async {
        server
            .wait_until(SOON, |received| {
                received.requests().iter().any(|request| request.wire_bytes.is_some())
            })
            .await;
        assert!(server.observations().is_empty());
        server.release();
    };
    let (answer, ()) = tokio::join!(exported, release);
    assert_eq!(answer.unwrap().status, StatusCode::OK);
    assert_eq!(server.observations().len(), 1);
}

#[tokio::test]
async fn waiting_ends_with_a_summary_when_nothing_comes() {
    let server = LangfuseServer::start().await;
    export(&server, vec![span(1, "root", vec![])]).await.unwrap();
    let waiting = tokio::spawn(async move {
        server.wait_for(2, Duration::from_millis(1)).await;
    });
    let panic = waiting.await.unwrap_err().into_panic();
    let message = panic.downcast_ref::<String>().unwrap();
    assert_eq!(message, r#"not in time: 1 observations ["root"], 1 requests answered [Some(200)]"#);
}

#[tokio::test]
async fn a_restart_keeps_the_port_and_what_was_received() {
    let server = LangfuseServer::start().await;
    export(&server, vec![span(1, "root", vec![])]).await.unwrap();
    server.stop().await;
    assert!(TcpStream::connect(server.address()).await.is_err());
    server.restart().await;
    export(&server, vec![span(2, "child", vec![])]).await.unwrap();
    assert_eq!(server.trace("abababababababababababababababab").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_paused_clock_does_not_stop_a_server_with_its_own_thread() {
    let server = LangfuseServer::start_blocking();
    server.fail_next(Fault::Slow(Duration::from_millis(20)));
    let exported = export(&server, vec![span(1, "root", vec![])]);
    let before = tokio::time::Instant::now();
    let (answer, rows) = tokio::join!(exported, server.wait_for(1, SOON));
    assert_eq!(answer.unwrap().status, StatusCode::OK);
    assert_eq!(rows.len(), 1);
    assert_eq!(before.elapsed(), Duration::ZERO, "waiting must not move the clock");
}

#[test]
fn a_server_with_its_own_thread_outlives_the_runtimes_of_its_clients() {
    let server = LangfuseServer::start_blocking();
    for id in 1..=2 {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(export(&server, vec![span(id, "span", vec![])])).unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        drop(runtime);
        server.restart_blocking();
    }
    server.wait_until_blocking(SOON, |received| received.named("span").count() == 2);
    server.stop_blocking();
    assert!(std::net::TcpStream::connect(server.address()).is_err());
}

#[tokio::test]
async fn observations_are_read_back_in_pages_newest_first() {
    let server = LangfuseServer::start().await;
    let attempt = || vec![value_of("langfuse.observation.metadata.attempt", Value::IntValue(2))];
    let spans =
        vec![span(1, "root", vec![]), span(2, "attempt", attempt()), span(3, "attempt", attempt())];
    export(&server, spans).await.unwrap();

    let path = "/api/public/v2/observations?traceId=abababababababababababababababab&limit=2&fields=basic,metadata";
    let first = get(&server, path).await.json();
    let ids = |page: &serde_json::Value| -> Vec<String> {
        page["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids(&first), ["0303030303030303", "0202020202020202"]);
    assert_eq!(first["data"][0]["metadata"]["attempt"], 2);
    assert_eq!(first["data"][0]["metadata"]["scope.name"], "buttress");
    let cursor = first["meta"]["cursor"].as_str().unwrap().replace('=', "%3D");
    let second = get(&server, &format!("{path}&cursor={cursor}")).await.json();
    assert_eq!(ids(&second), ["0101010101010101"]);
    assert_eq!(second["meta"], json!({}));
    assert_eq!(second["data"][0]["isRootObservation"], true);

    let roots =
        get(&server, "/api/public/v2/observations?isRootObservation=true&level=ERROR").await.json();
    assert_eq!(ids(&roots), ["0101010101010101"]);
    let none = get(&server, "/api/public/v2/observations?name=root&type=EVENT").await.json();
    assert_eq!(none["data"], json!([]));
    assert_eq!(
        get(&server, "/api/public/v2/observations?limit=1001").await.status,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn health_is_answered_and_the_readers_of_version_3_are_gone() {
    let server = LangfuseServer::start().await;
    let request =
        Request::get("/api/public/health").header(header::HOST, "x").body(Full::default()).unwrap();
    assert_eq!(
        send(&server, request).await.unwrap().json(),
        json!({"status": "OK", "version": "4.16.0"})
    );
    let gone = get(&server, "/api/public/traces/1").await;
    assert_eq!(gone.status, StatusCode::NOT_FOUND);
    assert!(gone.body.contains("events_only mode"), "{}", gone.body);
    assert_eq!(get(&server, PATH).await.status, StatusCode::METHOD_NOT_ALLOWED);
}
