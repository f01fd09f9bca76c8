//! The server's endpoints, and the connections they answer on.

use std::io::Read as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header, request::Parts};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};
use tower::ServiceExt as _;

use super::faults::{Fault, RetryAfter};
use super::js::Js;
use super::mapping::{self, Sender};
use super::{PROJECT_ID, Shared, dates, otlp, read_api, refusal, score_api};

/// Answers connections until `stop` turns true, then closes them all. Dropping `_ended` tells
/// that nothing listens any more.
pub(super) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    mut stop: watch::Receiver<bool>,
    _ended: watch::Sender<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            Ok((stream, _)) = listener.accept() => {
                connections.spawn(answer_connection(stream, Arc::clone(&shared)));
            },
            Some(_) = connections.join_next() => {},
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn answer_connection(stream: TcpStream, shared: Arc<Shared>) {
    let connection = Connection { shared, reset: Arc::default() };
    let reset = Arc::clone(&connection.reset);
    let router =
        routes(connection).map_request(|request: http::Request<Incoming>| request.map(Body::new));
    let mut connection = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let is_reset = tokio::select! {
        _ = &mut connection => false,
        () = reset.notified() => true,
    };
    if is_reset {
        // Without lingering, closing a socket resets the connection.
        let stream = connection.into_parts().io.into_inner();
        stream.set_zero_linger().expect("the socket is open");
    }
}

/// What the endpoints share, and how they reset the connection they answer on.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    reset: Arc<Notify>,
}

impl Connection {
    /// Closes the connection without an answer.
    pub(super) async fn reset(&self) -> Response {
        self.reset.notify_one();
        std::future::pending().await
    }
}

fn routes(connection: Connection) -> Router {
    Router::new()
        .route("/api/public/otel/v1/traces", post(ingest))
        .route("/api/public/scores", post(score_api::scores))
        .route("/api/public/ingestion", post(score_api::ingestion))
        .route("/api/public/v2/observations", get(read_api::observations_v2))
        .route("/api/public/v2/metrics", get(read_api::metrics_v2))
        .route("/api/public/v3/scores", get(read_api::scores_v3))
        .route("/api/public/observations", get(read_api::observations_v1))
        .route("/api/public/metrics", get(read_api::metrics_v1))
        .route("/api/public/v2/scores", get(read_api::scores_v2))
        .route("/api/public/traces", get(read_api::gone))
        .route("/api/public/traces/{id}", get(read_api::gone))
        .route("/api/public/health", get(read_api::health))
        .route("/api/public/ready", get(read_api::health))
        .method_not_allowed_fallback(async || {
            answer(StatusCode::METHOD_NOT_ALLOWED, &json!({"message": "Method not allowed"}))
        })
        .with_state(connection)
}

pub(super) fn answer(status: StatusCode, body: &Value) -> Response {
    let body = Body::from(body.to_string());
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json; charset=utf-8"),
    );
    response
}

async fn ingest(State(connection): State<Connection>, request: axum::extract::Request) -> Response {
    let (parts, body) = request.into_parts();
    let shared = &connection.shared;
    let fault = shared.faults().next();
    // From before the request can be seen, so that no release is missed.
    let mut released = shared.released.subscribe();
    let number = shared.begin(&parts, fault.clone());
    if fault == Some(Fault::ResetBeforeBody) {
        return connection.reset().await;
    }
    let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
        return finish(shared, number, refuse("Failed to read request body").response());
    };
    shared.update(number, |request| request.wire_bytes = Some(body.len()));
    if fault == Some(Fault::Hang) {
        released.changed().await.expect("the sender lives as long as the server");
    }
    let shown = match fault.as_ref().and_then(shown_answer) {
        None if shared.faults().is_too_large(body.len()) => shown_answer(&Fault::PayloadTooLarge),
        shown => shown,
    };
    if let Some(response) = shown {
        return finish(shared, number, response);
    }
    let response = match accept(shared, number, &parts, &body) {
        Ok(job) => answer(StatusCode::OK, &job),
        Err(refusal) => refusal.response(),
    };
    match fault {
        Some(Fault::ResetAfterStoring) => return connection.reset().await,
        Some(Fault::Slow(time)) => tokio::time::sleep(time).await,
        _ => {}
    }
    let response = match fault {
        Some(Fault::SilentBody) => response.map(|_| Body::new(Unending { pause: None })),
        Some(Fault::TricklingBody) => {
            let pause = Some(Box::pin(tokio::time::sleep(TRICKLE)));
            response.map(|_| Body::new(Unending { pause }))
        }
        _ => response,
    };
    finish(shared, number, response)
}

fn finish(shared: &Shared, number: usize, response: Response) -> Response {
    shared.update(number, |request| request.status = Some(response.status().as_u16()));
    response
}

/// The answer that a fault gives in place of the real one, if it gives one.
pub(super) fn shown_answer(fault: &Fault) -> Option<Response> {
    let message = |status: StatusCode, text: &str| answer(status, &json!({"message": text}));
    let later = |mut response: Response, retry_after: &RetryAfter| {
        let value = match retry_after {
            RetryAfter::Missing => return response,
            RetryAfter::Seconds(seconds) => seconds.to_string(),
            RetryAfter::Date(seconds) => dates::http_date(*seconds),
        };
        let value = value.parse().expect("digits and dates fit a header");
        response.headers_mut().insert(header::RETRY_AFTER, value);
        response
    };
    Some(match fault {
        Fault::TooManyRequests(retry_after) => {
            let seconds = if let RetryAfter::Seconds(seconds) = retry_after { *seconds } else { 0 };
            let details = json!({"retryAfterSeconds": seconds, "limit": 1000, "remaining": 0});
            let body = json!({"message": "Rate limit exceeded", "code": "rate_limited", "details": details});
            later(answer(StatusCode::TOO_MANY_REQUESTS, &body), retry_after)
        }
        Fault::InternalServerError => answer(
            StatusCode::INTERNAL_SERVER_ERROR,
            &json!({"message": "Internal Server Error", "error": "Failed to upload JSON to S3"}),
        ),
        Fault::ServiceUnavailable(retry_after) => {
            later(message(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable"), retry_after)
        }
        Fault::InvalidCredentials => message(StatusCode::UNAUTHORIZED, INVALID_CREDENTIALS),
        Fault::IngestionSuspended => answer(
            StatusCode::FORBIDDEN,
            &json!({
                "message": "Ingestion suspended: Usage threshold exceeded. Please upgrade your plan.",
                "error": "ForbiddenError",
            }),
        ),
        Fault::PayloadTooLarge => {
            let mut response =
                Response::new(Body::from("<html><h1>413 Request Entity Too Large</h1></html>"));
            *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
            response
        }
        Fault::Status(status) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() =
                StatusCode::from_u16(*status).expect("the test names a status of HTTP");
            response
        }
        Fault::BadRequest(error) => refuse(error).response(),
        Fault::Redirect(location) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            let location = header::HeaderValue::from_static(location);
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
        Fault::Hang
        | Fault::EveryOtherEvent(_)
        | Fault::ResetBeforeBody
        | Fault::ResetAfterStoring
        | Fault::Slow(_)
        | Fault::SilentBody
        | Fault::TricklingBody => return None,
    })
}

/// The time between two bytes of a body that trickles.
const TRICKLE: Duration = Duration::from_millis(10);

/// A body without end, of which nothing comes or a byte at a time.
struct Unending {
    pause: Option<Pin<Box<Sleep>>>,
}

impl hyper::body::Body for Unending {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(pause) = &mut self.pause else { return Poll::Pending };
        ready!(pause.as_mut().poll(cx));
        pause.as_mut().reset(Instant::now() + TRICKLE);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b" ")))))
    }
}

const INVALID_CREDENTIALS: &str =
    "Invalid credentials. Confirm that you've configured the correct host.";

/// A refusal in the server's words.
pub(super) struct Refusal(StatusCode, Value);

impl Refusal {
    pub(super) fn response(&self) -> Response {
        answer(self.0, &self.1)
    }
}

fn refuse(error: &str) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, json!({"error": error}))
}

/// Checks the header `Authorization`; answers the public key.
pub(super) fn authorize(shared: &Shared, headers: &HeaderMap) -> Result<String, Refusal> {
    let refuse = |status, message: &str| Err(Refusal(status, json!({"message": message})));
    let Some(authorization) =
        headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok())
    else {
        return refuse(StatusCode::UNAUTHORIZED, "No authorization header");
    };
    if let Some(public_key) = authorization.strip_prefix("Bearer ") {
        return if public_key == shared.public_key {
            refuse(
                StatusCode::FORBIDDEN,
                "Access denied - insufficient permissions for this endpoint",
            )
        } else {
            refuse(
                StatusCode::UNAUTHORIZED,
                "Invalid public key. Confirm that you've configured the correct host.",
            )
        };
    }
    let Some(encoded) = authorization.strip_prefix("Basic ") else {
        return refuse(StatusCode::UNAUTHORIZED, "Invalid authorization header");
    };
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded).ok();
    let decoded = decoded.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    match decoded.split_once(':') {
        // The key is found by its secret half; the public one is not compared.
        Some((public_key, secret_key))
            if !public_key.is_empty() && secret_key == shared.secret_key =>
        {
            Ok(public_key.to_owned())
        }
        Some((public_key, secret_key)) if !public_key.is_empty() && !secret_key.is_empty() => {
            refuse(StatusCode::UNAUTHORIZED, INVALID_CREDENTIALS)
        }
        _ => refuse(
            StatusCode::UNAUTHORIZED,
            "Invalid authorization header. Confirm that you've configured the correct host.",
        ),
    }
}

/// Does what the endpoint does, in its order; answers the job that it queues.
fn accept(shared: &Shared, number: usize, parts: &Parts, body: &Bytes) -> Result<Value, Refusal> {
    authorize(shared, &parts.headers)?;
    let resource_spans = decode(shared, number, &parts.headers, body)?;
    let is_empty = match &resource_spans {
        Js::Arr(items) => items.is_empty(),
        other => !other.is_truthy(),
    };
    if is_empty {
        return Ok(json!({}));
    }
    shared.update(number, |request| request.span_ids = otlp::span_ids(&resource_spans));
    shared.change(|received| {
        if let Some(said) = &mut received.said {
            said.push(resource_spans.clone());
        }
    });
    otlp::check(&resource_spans).map_err(|error| refuse(&error))?;
    check_refused_spans(shared, &resource_spans)?;
    check_ingestion_version(&parts.headers)?;

    let mut sender = Sender::new(PROJECT_ID, &shared.public_key);
    let sdk = |name| header_text(&parts.headers, name).unwrap_or_else(|| "unknown".to_owned());
    sender.sdk_name = sdk("x-langfuse-sdk-name");
    sender.sdk_version = sdk("x-langfuse-sdk-version");
    match mapping::events(&resource_spans, &sender) {
        Ok(events) => shared.change(|received| {
            received.store(events);
            received.requests[number].is_stored = true;
        }),
        // The real server answers before its worker finds out.
        Err(_) => shared.change(super::store::Received::lose_batch),
    }
    Ok(json!({
        "name": "otel-ingestion-job",
        "id": number.to_string(),
        "data": {"name": "otel-ingestion-job", "payload": {"data": {"publicKey": shared.public_key}}},
        "opts": {"attempts": 6},
    }))
}

fn decode(
    shared: &Shared,
    number: usize,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Js, Refusal> {
    let is_gzip =
        header_text(headers, "content-encoding").is_some_and(|encoding| encoding.contains("gzip"));
    let mut unpacked = Vec::new();
    let body: &[u8] = if is_gzip {
        flate2::read::MultiGzDecoder::new(&body[..])
            .read_to_end(&mut unpacked)
            .map_err(|_| refuse("Failed to decompress request body"))?;
        &unpacked
    } else {
        body
    };
    shared.update(number, |request| request.body_bytes = Some(body.len()));
    let content_type = header_text(headers, "content-type").unwrap_or_default().to_lowercase();
    if content_type.contains("application/json") {
        otlp::from_json(body).map_err(|_| refuse("Failed to parse OTel JSON Trace"))
    } else if content_type.contains("application/x-protobuf") {
        otlp::from_protobuf(body).map_err(|_| refuse("Failed to parse OTel Protobuf Trace"))
    } else {
        Err(refuse("Invalid content type"))
    }
}

fn check_refused_spans(shared: &Shared, resource_spans: &Js) -> Result<(), Refusal> {
    let faults = shared.faults();
    let is_refused = |span: &Js| {
        let id = otlp::id(span.get("spanId")).unwrap_or_default();
        faults.is_refused(&span.get("name").to_text(), &id)
    };
    refusal::refuse_if(resource_spans, is_refused).map_err(|error| refuse(&error))
}

fn check_ingestion_version(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(version) = header_text(headers, "x-langfuse-ingestion-version") else { return Ok(()) };
    match super::numbers::parse_int(&version) {
        Some(number) if number <= 4.0 => Ok(()),
        _ => Err(refuse(&format!(
            "Unsupported x-langfuse-ingestion-version: \"{version}\". Maximum supported: \"4\"."
        ))),
    }
}

/// Reads a header, in the form with hyphens or with underscores; empty ones do not count.
fn header_text(headers: &HeaderMap, name: &str) -> Option<String> {
    [name.to_owned(), name.replace('-', "_")]
        .iter()
        .find_map(|name| headers.get(name.as_str())?.to_str().ok())
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}
