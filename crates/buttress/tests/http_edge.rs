//! The HTTP edge over real sockets: bodies of failed answers, and errors as answers.
#![cfg(all(feature = "full", feature = "test-util"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{convert::Infallible, time::Duration};

use axum::{Router, body::Body, response::IntoResponse, routing::get};
use buttress::{
    BudgetLimit, CallBudget, CircuitBreakerLayer, Error, ErrorBodyLayer, ErrorKind, Failure,
    FailureKind, FindCallBudget, InExtensions, TimeoutLayer,
    test_util::{Answer, Scripted},
};
use bytes::Bytes;
use http::{Response, StatusCode, header::RETRY_AFTER};
use http_body_util::BodyExt;
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
