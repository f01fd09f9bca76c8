//! Answers that stall, break off and lie, over real sockets: what retries, fallbacks and circuits make
//! of them.
//!
//! Server and client share a runtime whose clock is paused, so that limits are exact.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use buttress::{
    BodyTimeoutLayer, Circuit, CircuitBreakerLayer, Error, ErrorBodyLayer, ErrorKind, FailureKind,
    FallbackService, FirstFrameLayer, HalfOpen, LlmClassifier, RetryLayer, TimeLimit,
    circuit_breaker::State,
};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tower::{BoxError, Layer as _, Service, ServiceBuilder, ServiceExt as _};

/// What the server does next in its answer to one request.
#[derive(Debug, Clone)]
enum Step {
    /// Writes as it is.
    Raw(&'static str),
    /// Writes the head of a stream of events, in chunks.
    Head,
    /// Writes a chunk.
    Chunk(String),
    /// Ends the body as HTTP does.
    End,
    /// Closes the connection in the middle.
    Cut,
    /// Does nothing more, and keeps the connection.
    Stall,
}

use Step::{Cut, End, Head, Raw, Stall};

fn chunk(text: impl Into<String>) -> Step {
    Step::Chunk(text.into())
}

/// A chunk with an event of OpenAI's chat.
fn delta(text: &str) -> Step {
    chunk(event(text))
}

fn event(text: &str) -> String {
    let delta = serde_json::json!({ "choices": [{ "index": 0, "delta": { "content": text } }] });
    format!("data: {delta}\n\n")
}

fn done() -> Step {
    chunk("data: [DONE]\n\n")
}

fn good(text: &str) -> Vec<Step> {
    vec![Head, delta(text), done(), End]
}

/// A server that answers one request after the other as it is told.
#[derive(Clone)]
struct Server {
    address: std::net::SocketAddr,
    requests: Arc<AtomicUsize>,
    closed_by_client: Arc<AtomicUsize>,
}

impl Server {
    async fn start(scripts: impl IntoIterator<Item = Vec<Step>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            requests: Arc::default(),
            closed_by_client: Arc::default(),
        };
        let mut scripts: Vec<_> = scripts.into_iter().collect();
        scripts.reverse();
        let scripts = Arc::new(Mutex::new(scripts));
        let (requests, closed) =
            (Arc::clone(&server.requests), Arc::clone(&server.closed_by_client));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                // The paused clock does not wait for the kernel.
                stream.set_nodelay(true).unwrap();
                let (requests, closed) = (Arc::clone(&requests), Arc::clone(&closed));
                tokio::spawn(answer_all(stream, Arc::clone(&scripts), requests, closed));
            }
        });
        server
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn answer_all(
    mut stream: TcpStream,
    scripts: Arc<Mutex<Vec<Vec<Step>>>>,
    requests: Arc<AtomicUsize>,
    closed: Arc<AtomicUsize>,
) {
    while read_head(&mut stream).await {
        requests.fetch_add(1, Ordering::Relaxed);
        let script = scripts.lock().unwrap().pop().expect("the server is asked too often");
        for step in script {
            let text = match step {
                Raw(text) => text.to_owned(),
                Head => "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                         transfer-encoding: chunked\r\n\r\n"
                    .to_owned(),
                Step::Chunk(text) => format!("{:x}\r\n{text}\r\n", text.len()),
                End => "0\r\n\r\n".to_owned(),
                Cut => return,
                Stall => {
                    // Until the client has enough of it.
                    let mut rest = [0; 64];
                    while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
                    closed.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            };
            if stream.write_all(text.as_bytes()).await.is_err() {
                return;
            }
            // Each step is a read of its own for the client.
            tokio::task::yield_now().await;
        }
    }
}

/// Reads the head of a request; false where there is none any more.
async fn read_head(stream: &mut TcpStream) -> bool {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte).await {
            Ok(1) => head.push(byte[0]),
            _ => return false,
        }
    }
    true
}

/// A client of one server, as a service of its paths.
fn client(
    server: &Server,
) -> impl Service<
    (),
    Response = Response<hyper::body::Incoming>,
    Error = hyper_util::client::legacy::Error,
    Future: Send,
>
+ Clone
+ Send
+ Sync
+ 'static
+ use<> {
    let client: Client<HttpConnector, Empty<Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    let uri = format!("http://{}/", server.address);
    ServiceBuilder::new()
        .map_request(move |()| Request::post(&uri).body(Empty::new()).unwrap())
        .service(client)
}

const FIRST: Duration = Duration::from_secs(20);
const IDLE: Duration = Duration::from_secs(5);

/// A model with limits whose answers have begun.
macro_rules! model {
    ($server:expr) => {
        ServiceBuilder::new()
            .layer(BodyTimeoutLayer::new().first_frame(FIRST).idle(IDLE))
            .layer(FirstFrameLayer::new().classify(LlmClassifier::new()))
            .layer(ErrorBodyLayer::new())
            .service(client($server))
    };
}

/// Reads a body to its end, or until it fails.
async fn read<B>(response: Response<B>) -> (String, Option<B::Error>)
where
    B: http_body::Body<Data = Bytes>,
{
    let mut body = std::pin::pin!(response.into_body());
    let mut text = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => text.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Err(error) => return (String::from_utf8(text).unwrap(), Some(error)),
        }
    }
    (String::from_utf8(text).unwrap(), None)
}

fn retries() -> RetryLayer<LlmClassifier, [Duration; 4]> {
    RetryLayer::new(5).backoff([Duration::ZERO; 4]).classify(LlmClassifier::new())
}

fn interrupted(error: &Error) -> u64 {
    let ErrorKind::Interrupted { items, .. } = error.kind() else { panic!("{error:?}") };
    *items
}

fn limit(error: &Error) -> TimeLimit {
    let mut next = Some(error as &(dyn std::error::Error + 'static));
    while let Some(error) = next {
        let kind = error.downcast_ref::<Error>().map(Error::kind);
        if let Some(ErrorKind::Timeout { limit, .. }) = kind {
            return *limit;
        }
        next = error.source();
    }
    panic!("{error:?}")
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stalls_before_the_first_byte_is_asked_again() {
    let server = Server::start([
        vec![Stall],
        vec![Head, Stall],
        vec![Raw("HTTP/1.1 20"), Stall],
        good("up"),
    ])
    .await;
    let started = Instant::now();
    let model = ServiceBuilder::new().layer(retries()).service(model!(&server));
    let (text, error) = read(model.oneshot(()).await.unwrap()).await;
    assert!(text.contains("up") && error.is_none(), "{text} {error:?}");
    assert_eq!((server.requests(), started.elapsed().as_secs()), (4, 60));
}

#[tokio::test(start_paused = true)]
async fn every_lie_before_the_answer_begins_is_retried_silently() {
    let preamble = concat!(
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{}}\n\n",
        ": keep-alive\n\n",
        "event: ping\ndata: {\"type\":\"ping\"}\n\n",
    );
    let overloaded = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\
                      \"overloaded_error\",\"message\":\"Overloaded\"}}\n\n";
    let server = Server::start([
        // An error inside a 200, behind events that only announce an answer.
        vec![Head, chunk(preamble), chunk(overloaded), End],
        // The connection is cut before anything came.
        vec![Head, Cut],
        // What is no JSON.
        vec![Head, chunk("data: <html>oops</html>\n\n"), End],
        // An event stream without an event.
        vec![Head, End],
        good("up"),
    ])
    .await;
    let model = ServiceBuilder::new().layer(retries()).service(model!(&server));
    let (text, error) = read(model.oneshot(()).await.unwrap()).await;
    assert!(text.contains("up") && !text.contains("Overloaded"), "{text}");
    assert!(error.is_none() && server.requests() == 5, "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_http_is_an_error_of_the_call() {
    let server = Server::start([vec![Raw("SSH-2.0-OpenSSH_9.2\r\n"), Cut], good("up")]).await;
    let model = ServiceBuilder::new().layer(retries()).service(model!(&server));
    let (text, error) = read(model.oneshot(()).await.unwrap()).await;
    assert!(text.contains("up") && error.is_none() && server.requests() == 2);
}

#[tokio::test(start_paused = true)]
async fn a_fallback_takes_over_before_the_answer_begins_and_not_after_it() {
    let primary = Server::start([vec![Head, Cut], vec![Head, delta("half"), Cut]]).await;
    let backup = Server::start([good("whole")]).await;
    let mut chain = FallbackService::new(model!(&primary)).or("backup", model!(&backup));
    let (text, error) = read(chain.ready().await.unwrap().call(()).await.unwrap()).await;
    assert!(text.contains("whole") && error.is_none(), "{text} {error:?}");

    let (text, error) = read(chain.ready().await.unwrap().call(()).await.unwrap()).await;
    let error = error.unwrap();
    assert!(text.contains("half") && interrupted(&error) == 1, "{text} {error:?}");
    assert!(error.downcast_ref::<hyper::Error>().is_some(), "{error:?}");
    assert!(!error.failure().is_retryable() && error.failure().after_output());
    assert_eq!((primary.requests(), backup.requests()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn an_error_inside_a_stream_ends_it_behind_what_was_good() {
    let overloaded = "event: error\ndata: {\"error\":{\"type\":\"overloaded_error\"}}\n\n";
    let together = format!("{}{}{overloaded}", event("a"), event("b"));
    let server = Server::start([vec![Head, chunk(&together), delta("never"), done(), End]]).await;
    let (text, error) = read(model!(&server).oneshot(()).await.unwrap()).await;
    assert_eq!(text, format!("{}{}", event("a"), event("b")));
    let error = error.unwrap();
    assert_eq!((interrupted(&error), error.failure().kind()), (1, FailureKind::Overloaded));
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_its_mark_is_cut() {
    let server = Server::start([
        vec![Head, delta("half"), End],
        vec![Head, delta("half"), chunk("data: [DONE]\n"), End],
        vec![Head, delta("half"), chunk("data: {\"choices\":"), End],
    ])
    .await;
    let mut model = model!(&server);
    let mut messages = Vec::new();
    for _ in 0..3 {
        let (text, error) = read(model.ready().await.unwrap().call(()).await.unwrap()).await;
        assert!(text.starts_with(&event("half")), "{text}");
        messages.push(error.map(|error| error.failure().message().unwrap().to_owned()));
    }
    assert_eq!(messages[0].as_deref(), Some("the stream ends without its mark"));
    assert_eq!(messages[1], None);
    assert_eq!(messages[2].as_deref(), Some("the stream ends in the middle of an event"));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stalls_between_two_items_is_cut_and_its_connection_closed() {
    let server = Server::start([vec![Head, delta("half"), Stall]]).await;
    let started = Instant::now();
    let (text, error) = read(model!(&server).oneshot(()).await.unwrap()).await;
    let error = error.unwrap();
    assert!(text.contains("half") && error.is_timeout());
    assert_eq!((interrupted(&error), limit(&error)), (1, TimeLimit::Idle));
    assert_eq!(started.elapsed().as_secs(), 5);
    while server.closed_by_client.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
}

// ===== a circuit =====

/// A circuit that opens with the first failure, and the layer for it.
fn breaker() -> (Circuit, CircuitBreakerLayer<LlmClassifier, buttress::circuit_breaker::AtBodyEnd>)
{
    let layer = CircuitBreakerLayer::new("model")
        .consecutive_failures(1)
        .half_open(HalfOpen::consecutive(1, 1))
        .open_for(Duration::from_secs(10));
    (layer.circuit(), layer.classify(LlmClassifier::new()).settle_at_body_end())
}

#[tokio::test(start_paused = true)]
async fn a_circuit_learns_how_a_body_ends() {
    let error = "data: {\"error\":{\"type\":\"server_error\",\"message\":\"sorry\"}}\n\n";
    let failures = [
        vec![Head, delta("half"), Cut],
        vec![Head, delta("half"), chunk(error), done(), End],
        vec![Head, delta("half"), chunk("data: <html>\n\n"), done(), End],
        vec![Head, delta("half"), End],
    ];
    let server = Server::start(failures.clone()).await;
    for failure in failures {
        let (circuit, layer) = breaker();
        let model = ServiceBuilder::new()
            .layer(layer)
            .layer(ErrorBodyLayer::new())
            .service(client(&server));
        let response = model.oneshot(()).await.unwrap();
        assert_eq!(circuit.state(), State::Closed);
        let (text, _) = read(response).await;
        // What it is the caller decides: nothing is held back.
        assert!(text.contains("half"), "{text}");
        assert_eq!(circuit.state(), State::Open, "{failure:?}");
        assert_eq!(circuit.snapshot().late, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_circuit_hears_of_an_idle_gap_and_of_a_first_byte_that_never_comes() {
    for script in [vec![Head, delta("half"), Stall], vec![Head, Stall], vec![Stall]] {
        let server = Server::start([script]).await;
        let (circuit, layer) = breaker();
        let model = ServiceBuilder::new().layer(layer).service(model!(&server));
        if let Ok(response) = model.oneshot(()).await {
            let (_, error) = read(response).await;
            assert_eq!(interrupted(&error.unwrap()), 1);
        }
        assert_eq!(circuit.state(), State::Open);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_dropped_gives_its_permit_back() {
    let server =
        Server::start([vec![Head, delta("half"), Stall], vec![Head, Stall], good("up")]).await;
    let (circuit, layer) = breaker();
    let mut model =
        ServiceBuilder::new().layer(layer).layer(ErrorBodyLayer::new()).service(client(&server));
    let half_open = async || {
        circuit.trip();
        tokio::time::sleep(Duration::from_secs(10)).await;
    };
    // After a frame: clients stop at the mark of the end.
    half_open().await;
    let mut response = model.ready().await.unwrap().call(()).await.unwrap();
    response.body_mut().frame().await.unwrap().unwrap();
    let rejected = model.ready().await.unwrap().call(()).await.unwrap_err();
    assert!(rejected.is_circuit_open());
    drop(response);
    assert_eq!(circuit.state(), State::Closed);
    // Before one: nobody knows.
    half_open().await;
    let response = model.ready().await.unwrap().call(()).await.unwrap();
    drop(response);
    assert_eq!((circuit.state(), circuit.snapshot().cancelled), (State::HalfOpen, 1));
    let response = model.ready().await.unwrap().call(()).await.unwrap();
    read(response).await;
    assert_eq!(circuit.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn an_empty_body_and_one_of_known_length_settle_though_nobody_asks_for_their_end() {
    let empty = "HTTP/1.1 204 No Content\r\n\r\n";
    let short = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let server = Server::start([vec![Raw(empty)], vec![Raw(short)]]).await;
    for frames in [0, 1] {
        let layer = CircuitBreakerLayer::new("model").half_open(HalfOpen::consecutive(1, 1));
        let (circuit, layer) = (layer.circuit(), layer.settle_at_body_end());
        let model = ServiceBuilder::new()
            .layer(layer)
            .layer(BodyTimeoutLayer::new())
            .layer(FirstFrameLayer::new())
            .service(client(&server));
        circuit.trip();
        tokio::time::sleep(Duration::from_secs(30)).await;
        let response = model.oneshot(()).await.unwrap();
        let mut body = std::pin::pin!(response.into_body());
        for _ in 0..frames {
            body.frame().await.unwrap().unwrap();
        }
        assert!(http_body::Body::is_end_stream(&*body));
        assert_eq!(circuit.state(), State::Closed, "{frames}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_answer_waits_for_nothing_and_keeps_its_body() {
    let busy = "HTTP/1.1 529 Overloaded\r\ncontent-type: application/json\r\ncontent-length: 40\r\n\
                \r\n{\"error\":{\"type\":\"overloaded_error\"}}    ";
    let server = Server::start([vec![Raw(busy)]]).await;
    let response = model!(&server).oneshot(()).await.unwrap();
    assert_eq!(response.status().as_u16(), 529);
    let (text, error) = read(response).await;
    assert!(text.contains("overloaded_error") && error.is_none());
}

// ===== a server in between =====

/// Asks an address for its answer, reads until there is `wanted`, and goes away.
async fn ask_and_leave(address: std::net::SocketAddr, wanted: &str) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut text = Vec::new();
    while !String::from_utf8_lossy(&text).contains(wanted) {
        assert!(stream.read_buf(&mut text).await.unwrap() > 0, "{text:?}");
    }
}

/// Waits until something is so; a test that waits for ever is ended from outside.
async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A server that hands a stream on: its client's leaving reaches the model, and the circuit.
#[tokio::test]
async fn a_client_that_goes_away_gives_the_permit_of_its_stream_back() {
    use axum::{body::Body, response::IntoResponse as _};

    let upstream =
        Server::start([vec![Head, delta("half"), Stall], vec![Head, Stall], good("up")]).await;
    let layer = CircuitBreakerLayer::new("model")
        .half_open(HalfOpen::consecutive(1, 1))
        .open_for(Duration::from_millis(1));
    let circuit = layer.circuit();
    let model = ServiceBuilder::new()
        .layer(retries())
        .layer(layer.classify(LlmClassifier::new()).settle_at_body_end())
        .service(model!(&upstream));
    let app = axum::Router::new().fallback(move || {
        let model = model.clone();
        async move {
            let answer = model.oneshot(()).await;
            answer.map_or_else(|error| error.into_response(), |answer| answer.map(Body::new))
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let left = || upstream.closed_by_client.load(Ordering::Relaxed);
    let half_open = async || {
        circuit.trip();
        until(|| circuit.state() == State::HalfOpen).await;
    };

    // In the middle of the answer.
    half_open().await;
    ask_and_leave(address, "half").await;
    until(|| left() == 1).await;
    until(|| circuit.state() == State::Closed).await;
    assert_eq!((circuit.snapshot().late, circuit.snapshot().cancelled), (0, 0));

    // Before it begins: its call waits, and nobody is left to try again for.
    half_open().await;
    let client = tokio::spawn(async move { ask_and_leave(address, "half").await });
    until(|| upstream.requests() == 2).await;
    client.abort();
    until(|| left() == 2).await;
    until(|| circuit.snapshot().cancelled == 1).await;
    assert_eq!((circuit.state(), upstream.requests()), (State::HalfOpen, 2));

    // The one permit is there for the next.
    ask_and_leave(address, "[DONE]").await;
    until(|| circuit.state() == State::Closed).await;
}

/// Whatever boxed error tower's own layers make in between is passed on.
#[tokio::test(start_paused = true)]
async fn a_body_can_be_boxed_on_the_way() {
    let server = Server::start([vec![Head, delta("half"), Cut]]).await;
    let boxed = ServiceBuilder::new()
        .layer(BodyTimeoutLayer::new())
        .map_response(|response: Response<buttress::stream::BegunBody<_, _>>| {
            response.map(|body| body.map_err(BoxError::from).boxed_unsync())
        })
        .service(FirstFrameLayer::new().layer(client(&server)));
    let (_, error) = read(boxed.oneshot(()).await.unwrap()).await;
    assert_eq!(interrupted(&error.unwrap()), 1);
}
