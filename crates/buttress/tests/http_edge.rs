//! The HTTP edge over real sockets: bodies of failed answers, and errors as answers.
#![cfg(all(feature = "full", feature = "test-util"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{convert::Infallible, time::Duration};

use axum::{Router, body::Body, response::IntoResponse, routing::get};
use buttress::{
    BudgetLimit, CallBudget, CircuitBreakerLayer, Classify, Error, ErrorBodyLayer, ErrorKind,
    Failure, FailureKind, FindCallBudget, InExtensions, LlmClassifier, Outcome, RetryLayer,
    TimeoutLayer,
    error_body::MaybeBuffered,
    test_util::{Answer, Scripted},
};
use bytes::Bytes;
use http::{Response, StatusCode, header::RETRY_AFTER};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};

async fn answer_of(status: u16, chunks: Vec<&'static str>, limit: usize) -> (String, String) {
    let service = service_fn(move |()| {
        let chunks = chunks.clone();
        async move {
            let stream = chunks.into_iter().map(|chunk| Ok::<_, Infallible>(Bytes::from(chunk)));
            let body = Body::from_stream(Chunks(stream.collect()));
            Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
        }
    });
    let response = ErrorBodyLayer::new().limit(limit).layer(service).oneshot(()).await.unwrap();
    let seen = String::from_utf8(response.body().as_ref().to_vec()).unwrap();
    let all = response.into_body().collect().await.unwrap().to_bytes();
    (seen, String::from_utf8(all.to_vec()).unwrap())
}

/// A stream of ready chunks.
struct Chunks(std::collections::VecDeque<Result<Bytes, Infallible>>);

impl futures_core::Stream for Chunks {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.0.pop_front())
    }
}

#[tokio::test]
async fn bodies_of_failed_answers_are_there_and_nothing_is_lost() {
    let (seen, all) = answer_of(429, vec!["{\"error\":", "1}"], 64).await;
    assert_eq!((seen.as_str(), all.as_str()), ("{\"error\":1}", "{\"error\":1}"));
    let (seen, all) = answer_of(500, vec!["abcdef", "ghi", "jkl"], 8).await;
    assert_eq!((seen.as_str(), all.as_str()), ("abcdefgh", "abcdefghijkl"));
    let (seen, all) = answer_of(200, vec!["fine"], 64).await;
    assert_eq!((seen.as_str(), all.as_str()), ("", "fine"));
}

/// A body of frames, with a pause before each.
struct Paced {
    frames: std::collections::VecDeque<Frame<Bytes>>,
    paused: bool,
    hint: SizeHint,
}

impl Paced {
    fn new(frames: impl IntoIterator<Item = Frame<Bytes>>) -> Self {
        Self { frames: frames.into_iter().collect(), paused: false, hint: SizeHint::default() }
    }

    fn bytes(&self) -> u64 {
        self.frames.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum()
    }
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.paused = !self.paused;
        if self.paused {
            cx.waker().wake_by_ref();
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(self.frames.pop_front().map(Ok))
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.hint;
        if hint.upper().is_none() && hint.lower() == 0 {
            hint.set_exact(self.bytes());
        }
        hint
    }
}

async fn buffered(status: u16, limit: usize, body: Paced) -> Response<MaybeBuffered<Paced>> {
    let body = std::sync::Mutex::new(Some(body));
    let service = service_fn(move |()| {
        let body = body.lock().unwrap().take().unwrap();
        async move { Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap()) }
    });
    ErrorBodyLayer::new().limit(limit).layer(service).oneshot(()).await.unwrap()
}

#[tokio::test]
async fn the_size_of_a_body_counts_what_is_buffered() {
    let chunks = || [60, 40].map(|size| Frame::data(Bytes::from(vec![b'x'; size])));
    for limit in [50, 64, 100, 1_000] {
        let answer = buffered(500, limit, Paced::new(chunks())).await;
        assert_eq!(answer.body().size_hint().exact(), Some(100), "{limit}");
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), 100);
    }
    let mut body = Paced::new(chunks());
    body.hint.set_lower(1);
    let answer = buffered(500, 50, body).await;
    assert_eq!(answer.body().size_hint().lower(), 61);
    assert_eq!(answer.body().size_hint().upper(), None);
    let answer = buffered(500, 50, Paced::new([])).await;
    assert!(answer.body().is_end_stream());
}

#[tokio::test]
async fn trailers_of_a_failed_answer_come_through() {
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "14".parse().unwrap());
    let frames = [Frame::data(Bytes::from_static(b"late")), Frame::trailers(trailers.clone())];
    let answer = buffered(503, 64, Paced::new(frames)).await;
    assert_eq!(answer.body().as_ref(), b"late");
    let all = answer.into_body().collect().await.unwrap();
    assert_eq!(all.trailers(), Some(&trailers));
    assert_eq!(all.to_bytes(), "late");
}

/// Calls a provider through a retry and a breaker that read answers behind an error body layer;
/// says how the call ended, how often it was tried, and how many failures the circuit counted.
async fn ask(status: u16, kind: &'static str, body: &'static str) -> (Outcome, u32, u32) {
    let tries = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = tries.clone();
    let provider = service_fn(move |()| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let answer = Response::builder().status(status).header("content-type", kind);
        let answer = answer.body(Full::new(Bytes::from_static(body.as_bytes()))).unwrap();
        async move { Ok::<_, Infallible>(answer) }
    });
    let llm = LlmClassifier::new();
    let breaker = CircuitBreakerLayer::new("model").classify(llm).consecutive_failures(10);
    let circuit = breaker.circuit();
    let retry = RetryLayer::new(3).backoff([Duration::ZERO; 2]).classify(llm);
    let stack = retry.layer(breaker.layer(ErrorBodyLayer::new().layer(provider)));
    let answer = stack.oneshot(()).await.unwrap();
    let result: Result<_, &Infallible> = Ok(&answer);
    let outcome = llm.classify(result);
    let all = answer.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(all, body, "the caller gets the whole body");
    let tries = tries.load(std::sync::atomic::Ordering::Relaxed);
    (outcome, tries, circuit.snapshot().consecutive_failures)
}

#[tokio::test(start_paused = true)]
async fn a_good_answer_behind_the_error_body_layer_is_a_success() {
    let json = "application/json";
    for (status, kind, body) in [
        (200, json, r#"{"choices":[{"message":{"content":"fine"}}]}"#),
        (200, "application/json; charset=utf-8", r#"[{"candidates":[]}]"#),
        (200, "text/event-stream", "data: {\"choices\":[]}\n\n"),
        (204, json, ""),
    ] {
        assert_eq!(ask(status, kind, body).await, (Outcome::Success, 1, 0), "{status} {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_answer_behind_the_error_body_layer_is_read() {
    let json = "application/json";
    for (status, body, kind, tries, counted) in [
        (529, r#"{"error":{"type":"overloaded_error"}}"#, FailureKind::Overloaded, 3, 3),
        (429, r#"{"error":{"code":"insufficient_quota"}}"#, FailureKind::QuotaExhausted, 1, 1),
        (
            400,
            r#"{"error":{"message":"prompt is too long"}}"#,
            FailureKind::ContextWindowExceeded,
            1,
            0,
        ),
        (401, r#"{"error":{"code":"invalid_api_key"}}"#, FailureKind::Unauthorized, 1, 1),
    ] {
        let (outcome, tried, failures) = ask(status, json, body).await;
        let Outcome::Failure(failure) = outcome else { panic!("{body} is {outcome:?}") };
        assert_eq!((failure.kind(), tried, failures), (kind, tries, counted), "{body}");
    }
}

async fn respond(error: Error) -> (StatusCode, Option<String>, String) {
    let response = error.into_response();
    let wait = response.headers().get(RETRY_AFTER).map(|wait| wait.to_str().unwrap().to_owned());
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, wait, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn errors_answer_as_a_gateway_does() {
    let hang =
        TimeoutLayer::new(Duration::from_secs(1)).layer(Scripted::new([Answer::<()>::hang()]));
    let (status, _, body) = respond(hang.oneshot("AAPL").await.unwrap_err()).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(body, r#"{"error":{"type":"timeout","message":"Gateway Timeout"}}"#);

    let layer = CircuitBreakerLayer::new("secret-name");
    layer.circuit().trip_for(Duration::from_millis(1_500));
    let open = layer.layer(Scripted::new([Answer::ok(())]));
    let (status, wait, body) = respond(open.oneshot("AAPL").await.unwrap_err()).await;
    assert_eq!((status, wait.as_deref()), (StatusCode::SERVICE_UNAVAILABLE, Some("2")));
    assert!(!body.contains("secret"));

    for (kind, expected) in [
        (FailureKind::Transient, 502),
        (FailureKind::Timeout, 504),
        (FailureKind::RateLimited, 429),
        (FailureKind::Overloaded, 503),
        (FailureKind::QuotaExhausted, 503),
        (FailureKind::ContextWindowExceeded, 413),
        (FailureKind::ContentPolicy, 422),
        (FailureKind::Unauthorized, 502),
        (FailureKind::NotFound, 502),
        (FailureKind::InvalidRequest, 400),
        (FailureKind::CircuitOpen, 503),
        (FailureKind::Cancelled, 503),
        (FailureKind::Panicked, 500),
        (FailureKind::Permanent, 502),
    ] {
        let failure = Failure::new(kind).with_message("secret");
        let error = Error::new(ErrorKind::Service).with_failure(failure.clone());
        let (status, _, body) = respond(error.with_source(failure)).await;
        assert_eq!(status.as_u16(), expected, "{kind}");
        assert!(!body.contains("secret"), "{body}");
    }
}

#[tokio::test]
async fn an_axum_route_answers_with_the_error_over_a_socket() {
    let layer = CircuitBreakerLayer::new("model");
    layer.circuit().force_open();
    let agent = layer.layer(Scripted::new([Answer::ok("fine")]));
    let app = Router::new().route("/", get(move || agent.clone().oneshot(())));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    socket.write_all(request).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains(r#""type":"circuit_open""#), "{answer}");
    server.abort();
}

#[test]
fn a_call_budget_is_found_in_the_extensions() {
    let mut request = http::Request::new(());
    assert!(InExtensions.call_budget(&request).is_none());
    request.extensions_mut().insert(CallBudget::new().tokens(10));
    let budget = InExtensions.call_budget(&request.clone()).unwrap();
    budget.spend_tokens(10);
    let found = InExtensions.call_budget(&request).unwrap();
    assert_eq!(found.take_attempt(), Err(BudgetLimit::Tokens));
}
