//! tonic's client and server with our layers between them, over sockets: which code each failure is,
//! and what a circuit learns of statuses in headers and in trailers.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use buttress::{
    BodyTimeoutLayer, CallBudget, CatchPanicLayer, Circuit, CircuitBreaker, CircuitBreakerLayer,
    FailureKind, FaultTolerantAgent, FirstFrameLayer, GrpcClassifier, InExtensions, RetryLayer,
    TimeoutLayer,
    circuit_breaker::{AtBodyEnd, State},
    grpc::{GrpcDeadlineLayer, GrpcStatusLayer},
    stream::BodyTimeout,
    test_util::{Answer, Scripted},
};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use http::{Request, Response, uri::PathAndQuery};
use tonic::{
    Code, Status,
    body::Body,
    client::GrpcService,
    server::NamedService,
    transport::{Channel, Server, server::TcpIncoming},
};
use tonic_prost::ProstCodec;
use tower::{
    Layer as _, Service, ServiceBuilder,
    load_shed::{LoadShedLayer, error::Overloaded},
    service_fn,
};

type Texts = ProstCodec<String, String>;

/// A server whose answer is what it is asked for: `ok`, `fail`, `cut`, `stall`, `hang`, `panic`.
#[derive(Clone, Default)]
struct Analyst {
    calls: Arc<AtomicUsize>,
}

impl NamedService for Analyst {
    const NAME: &'static str = "buttress.test.Analyst";
}

impl Service<Request<Body>> for Analyst {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let ask = service_fn(async |request: tonic::Request<String>| {
            let (_, extensions, asked) = request.into_parts();
            match &*asked {
                "fail" => return Err(Status::unavailable("the agent's own words")),
                "hang" => std::future::pending::<()>().await,
                "panic" => panic!("the agent panics"),
                "agent" => {
                    // Retries that would go on for an hour, but for the caller's deadline.
                    let agent = FaultTolerantAgent::builder("research")
                        .retry(RetryLayer::new(9).backoff([Duration::from_secs(3_600); 8]))
                        .call_budget(InExtensions)
                        .service(Scripted::<String>::new([Answer::error("reset")]));
                    let mut asked = Request::new("AAPL");
                    *asked.extensions_mut() = extensions;
                    agent.invoke(asked).await?;
                }
                _ => {}
            }
            let mut items = vec![Ok(asked.clone())];
            if asked == "cut" {
                items.push(Err(Status::unavailable("in the middle")));
            }
            // The head and an item come, and then no more.
            let rest = if asked == "stall" {
                stream::pending().left_stream()
            } else {
                stream::empty().right_stream()
            };
            Ok(tonic::Response::new(stream::iter(items).chain(rest)))
        });
        async move {
            Ok(tonic::server::Grpc::new(Texts::default()).server_streaming(ask, request).await)
        }
        .boxed()
    }
}

/// Starts a server; returns a channel to it.
fn serve<S, B>(service: S) -> Channel
where
    B: http_body::Body<Data = bytes::Bytes, Error: Into<tower::BoxError>> + Send + 'static,
    S: Service<Request<Body>, Response = Response<B>, Error = Infallible, Future: Send>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
{
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

/// Asks, and reads the answer to its end.
async fn ask<T>(channel: T, what: &str, timeout: Option<&str>) -> Result<Vec<String>, Status>
where
    T: GrpcService<Body>,
    T::ResponseBody:
        http_body::Body<Data = bytes::Bytes, Error: Into<tower::BoxError>> + Send + 'static,
{
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let mut request = tonic::Request::new(stream::iter([what.to_owned()]));
    if let Some(timeout) = timeout {
        request.metadata_mut().insert("grpc-timeout", timeout.parse().unwrap());
    }
    let path = PathAndQuery::from_static("/buttress.test.Analyst/Ask");
    let mut answer = grpc.streaming(request, path, Texts::default()).await?.into_inner();
    let mut texts = Vec::new();
    while let Some(text) = answer.next().await {
        texts.push(text?);
    }
    Ok(texts)
}

fn breaker() -> (Circuit, CircuitBreakerLayer<GrpcClassifier>) {
    let layer = CircuitBreakerLayer::new("analyst").consecutive_failures(1);
    (layer.circuit(), layer.classify(GrpcClassifier::new()))
}

#[tokio::test]
async fn a_status_in_the_headers_opens_a_circuit_and_its_rejection_is_unavailable() {
    let analyst = Analyst::default();
    let channel = serve(analyst.clone());
    let (circuit, layer) = breaker();
    let mut client = layer.layer(channel);
    assert_eq!(ask(&mut client, "ok", None).await.unwrap(), ["ok"]);
    let status = ask(&mut client, "fail", None).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "the agent's own words"));
    assert_eq!(circuit.state(), State::Open);
    let status = ask(&mut client, "ok", None).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "circuit_open"));
    let wait = status.metadata().get("grpc-retry-pushback-ms").unwrap().to_str().unwrap();
    assert!((29_000..=30_000).contains(&wait.parse::<u32>().unwrap()), "{wait}");
    // The error itself is there too.
    let ours = std::error::Error::source(&status).unwrap().downcast_ref::<buttress::Error>();
    assert!(ours.unwrap().is_circuit_open());
    assert_eq!(analyst.calls.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_status_in_the_trailers_is_heard_of_where_the_circuit_settles_at_the_end() {
    let channel = serve(Analyst::default());
    let (early, layer) = breaker();
    let status = ask(layer.layer(channel.clone()), "cut", None).await.unwrap_err();
    assert_eq!((status.code(), early.state()), (Code::Unavailable, State::Closed));

    let (circuit, layer) = breaker();
    let mut client = layer.settle_at_body_end().layer(channel);
    assert_eq!(ask(&mut client, "ok", None).await.unwrap(), ["ok"]);
    assert_eq!(circuit.state(), State::Closed);
    let status = ask(&mut client, "cut", None).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "in the middle"));
    assert_eq!(circuit.state(), State::Open);
}

#[tokio::test]
async fn a_clients_timeout_is_deadline_exceeded() {
    let channel = serve(Analyst::default());
    let client = TimeoutLayer::new(Duration::from_millis(50)).layer(channel);
    let status = ask(client, "hang", None).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "timeout"));
}

/// tonic's own limits, which both sides set by the same header, would answer `CANCELLED`. The clock is
/// paused, so that what ends first is no matter of luck.
#[tokio::test(start_paused = true)]
async fn a_callers_deadline_is_kept_by_the_server_and_by_its_retries() {
    let guarded = ServiceBuilder::new()
        .layer(GrpcStatusLayer::new())
        .layer(GrpcDeadlineLayer::new())
        .service(Analyst::default());
    let channel = serve(guarded);
    let status = ask(channel.clone(), "hang", Some("100m")).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    // A retry that would begin behind the deadline is not waited for.
    let status = ask(channel.clone(), "agent", Some("30M")).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    // Nor is a body that has begun.
    let status = ask(channel.clone(), "stall", Some("100m")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "timeout"));
    assert_eq!(ask(channel, "ok", Some("1H")).await.unwrap(), ["ok"]);
}

/// Layers around a server that make errors of bodies: the caller gets them as trailers.
#[tokio::test(start_paused = true)]
async fn a_body_that_layers_cut_ends_with_the_status_in_trailers() {
    let (circuit, layer) = breaker();
    let guarded = ServiceBuilder::new()
        .layer(GrpcStatusLayer::new())
        .layer(layer.settle_at_body_end())
        .layer(BodyTimeoutLayer::new().idle(Duration::from_secs(5)))
        .service(Analyst::default());
    let channel = serve(guarded);
    assert_eq!(ask(channel.clone(), "ok", None).await.unwrap(), ["ok"]);
    // What the server itself says stays as it is.
    let status = ask(channel.clone(), "cut", None).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "in the middle"));
    assert_eq!(circuit.state(), State::Open);
    circuit.reset();
    let status = ask(channel.clone(), "stall", None).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "timeout"));
    // Part of the answer was there, so another try is none of the client's.
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "-1");
    assert_eq!(circuit.state(), State::Open);
}

#[tokio::test]
async fn errors_of_towers_layers_are_answers_too() {
    let gone = service_fn(|_: Request<Body>| {
        std::future::ready(Err::<Response<Body>, _>(Overloaded::new()))
    });
    let answer = ServiceBuilder::new().layer(GrpcStatusLayer::new()).service(gone);
    let answer = tower::ServiceExt::oneshot(answer, Request::new(Body::empty())).await.unwrap();
    assert_eq!(answer.headers()["grpc-status"], "14");
    assert!(http_body::Body::is_end_stream(answer.body()));
}

#[tokio::test(start_paused = true)]
async fn a_time_limit_of_tonics_channel_is_deadline_exceeded_behind_our_layers() {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    tokio::spawn(Server::builder().add_service(Analyst::default()).serve_with_incoming(incoming));
    let channel = Channel::from_shared(format!("http://{address}")).unwrap();
    let channel = channel.timeout(Duration::from_secs(2)).connect_lazy();
    let status = ask(channel.clone(), "hang", None).await.unwrap_err();
    assert_eq!(status.code(), Code::Cancelled, "tonic has changed its mind");
    let (_, layer) = breaker();
    let status = ask(layer.layer(channel), "hang", None).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "timeout"));
}

#[tokio::test]
async fn a_server_behind_our_layers_keeps_its_name_and_answers_panics_and_open_circuits() {
    let (circuit, layer) = breaker();
    let guarded = ServiceBuilder::new()
        .layer(GrpcStatusLayer::new())
        .layer(layer)
        .layer(CatchPanicLayer::new())
        .service(Analyst::default());
    let channel = serve(guarded);
    assert_eq!(ask(channel.clone(), "ok", None).await.unwrap(), ["ok"]);
    let status = ask(channel.clone(), "panic", None).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Internal, "panicked"));
    assert_eq!(circuit.state(), State::Open);
    let status = ask(channel, "ok", None).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "circuit_open"));
}

#[tokio::test]
async fn nobody_there_is_unavailable_and_the_retry_of_a_client_asks_again() {
    let channel = Channel::from_static("http://127.0.0.1:1").connect_lazy();
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    let client = ServiceBuilder::new()
        .layer(TimeoutLayer::new(Duration::from_secs(60)))
        .map_request(move |request: Request<Body>| {
            counted.fetch_add(1, Ordering::Relaxed);
            request
        })
        .service(channel);
    // Not even a call that must not be made twice is lost: it has reached nobody.
    let retry = RetryLayer::new(3).backoff([Duration::ZERO; 2]).idempotent(false);
    let agent = retry.layer(service_fn(move |()| {
        let client = client.clone();
        async move { ask(client, "ok", None).await }
    }));
    let status = tower::ServiceExt::oneshot(agent, ()).await.unwrap_err();
    assert_eq!((status.code(), attempts.load(Ordering::Relaxed)), (Code::Unavailable, 3));
}

#[test]
fn a_budget_of_the_caller_is_bounded_by_its_deadline_and_never_widened() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let left = |given: Option<Duration>, header: &str| {
        let server =
            GrpcDeadlineLayer::new().layer(service_fn(|request: Request<()>| async move {
                let budget = request.extensions().get::<CallBudget>().cloned();
                let mut answer = Response::new(String::new());
                answer.extensions_mut().insert(budget.unwrap().deadline_at().unwrap());
                Ok::<_, Infallible>(answer)
            }));
        let mut request = Request::builder().header("grpc-timeout", header).body(()).unwrap();
        if let Some(given) = given {
            request.extensions_mut().insert(CallBudget::new().deadline(given));
        }
        let answer = runtime.block_on(tower::ServiceExt::oneshot(server, request)).unwrap();
        let deadline = answer.extensions().get::<tokio::time::Instant>().unwrap();
        deadline.saturating_duration_since(tokio::time::Instant::now()).as_secs()
    };
    assert_eq!(left(None, "100S"), 99);
    assert_eq!(left(Some(Duration::from_secs(10)), "100S"), 9);
    assert_eq!(left(Some(Duration::from_secs(1_000)), "100S"), 99);
}

/// The retry of a client stands around its calls: a request of tonic's is no `Clone`.
#[tokio::test]
async fn a_retry_around_calls_knows_an_open_circuit_and_an_answer_that_has_begun() {
    let calls = Arc::new(AtomicUsize::new(0));
    let asked = async |client: Guarded, what: &'static str| {
        calls.store(0, Ordering::Relaxed);
        let counted = Arc::clone(&calls);
        let retry = RetryLayer::new(3).backoff([Duration::ZERO; 2]);
        let agent = retry.layer(service_fn(move |()| {
            counted.fetch_add(1, Ordering::Relaxed);
            let client = client.clone();
            async move { ask(client, what, None).await }
        }));
        let status = tower::ServiceExt::oneshot(agent, ()).await.unwrap_err();
        (status.code(), calls.load(Ordering::Relaxed))
    };
    let channel = serve(Analyst::default());
    let layer = CircuitBreakerLayer::new("analyst").classify(GrpcClassifier::new());
    let circuit = layer.circuit();
    let client = layer
        .settle_at_body_end()
        .layer(BodyTimeoutLayer::new().idle(Duration::from_millis(50)).layer(channel));
    // What the server says is tried again, what comes after a part of an answer is not.
    assert_eq!(asked(client.clone(), "fail").await, (Code::Unavailable, 3));
    assert_eq!(asked(client.clone(), "stall").await, (Code::DeadlineExceeded, 1));
    circuit.force_open();
    assert_eq!(asked(client, "ok").await, (Code::Unavailable, 1));
}

type Guarded = CircuitBreaker<BodyTimeout<Channel>, GrpcClassifier, AtBodyEnd>;

#[tokio::test]
async fn what_a_channel_says_is_known_to_the_layers_around_it() {
    let nobody = Channel::from_static("http://127.0.0.1:1").connect_lazy();
    let (_, layer) = breaker();
    let status = ask(layer.layer(nobody), "ok", None).await.unwrap_err();
    let ours = std::error::Error::source(&status).unwrap().downcast_ref::<buttress::Error>();
    assert!(ours.unwrap().failure().unprocessed(), "{status:?}");

    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = incoming.local_addr().unwrap();
    tokio::spawn(Server::builder().add_service(Analyst::default()).serve_with_incoming(incoming));
    let channel = Channel::from_shared(format!("http://{address}")).unwrap();
    let channel = channel.timeout(Duration::from_millis(50)).connect_lazy();
    let (_, layer) = breaker();
    let status = ask(layer.layer(channel), "hang", None).await.unwrap_err();
    let ours = std::error::Error::source(&status).unwrap().downcast_ref::<buttress::Error>();
    assert_eq!(ours.unwrap().failure().kind(), FailureKind::Timeout, "{status:?}");
}

/// Answers with this head, and no body.
#[derive(Clone)]
struct Raw {
    status: u16,
    code: Option<&'static str>,
}

impl NamedService for Raw {
    const NAME: &'static str = Analyst::NAME;
}

impl Service<Request<Body>> for Raw {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        let mut answer = Response::builder().status(self.status);
        answer = answer.header("content-type", "application/grpc");
        if let Some(code) = self.code {
            answer = answer.header("grpc-status", code);
        }
        std::future::ready(Ok(answer.body(Body::empty()).unwrap()))
    }
}

#[tokio::test]
async fn heads_of_proxies_and_servers_are_read_as_clients_read_them() {
    for (status, code, expected, state) in [
        (200, Some("14"), Code::Unavailable, State::Open),
        // A proxy, which has no status of its own, and one that has.
        (503, None, Code::Unavailable, State::Open),
        (503, Some("5"), Code::NotFound, State::Closed),
        (200, Some("99"), Code::Unknown, State::Open),
        (200, Some("00"), Code::Unknown, State::Open),
        // The request is at the wrong place: not a fault of the service.
        (404, None, Code::Unimplemented, State::Closed),
        (401, None, Code::Unauthenticated, State::Open),
        // No trailers, and so no end.
        (200, None, Code::Unknown, State::Open),
    ] {
        let (circuit, layer) = breaker();
        let client = layer.settle_at_body_end().layer(serve(Raw { status, code }));
        let told = ask(client, "ok", None).await.unwrap_err();
        assert_eq!((told.code(), circuit.state()), (expected, state), "{status} {code:?} {told}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_ready_answers_so() {
    #[derive(Clone)]
    struct Unready;
    impl Service<Request<Body>> for Unready {
        type Response = Response<Body>;
        type Error = buttress::Error;
        type Future = std::future::Pending<Result<Response<Body>, buttress::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), buttress::Error>> {
            let kind = buttress::ErrorKind::timeout(Duration::from_secs(1));
            Poll::Ready(Err(buttress::Error::new(kind)))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            panic!("it is not ready")
        }
    }
    impl NamedService for Unready {
        const NAME: &'static str = Analyst::NAME;
    }
    let guarded = ServiceBuilder::new()
        .layer(GrpcStatusLayer::new())
        .layer(GrpcDeadlineLayer::new())
        .layer(breaker().1.settle_at_body_end())
        .service(Unready);
    let channel = serve(guarded);
    // That it was not ready is a failure of its own, which opens the circuit.
    for told in [(Code::DeadlineExceeded, "timeout"), (Code::Unavailable, "circuit_open")] {
        let status = ask(channel.clone(), "ok", None).await.unwrap_err();
        assert_eq!((status.code(), status.message()), told);
    }
}

/// Every message goes on before the next one is sent, through all layers of both sides.
#[tokio::test]
async fn streams_both_ways_pass_through_every_layer() {
    #[derive(Clone)]
    struct Echo;
    impl NamedService for Echo {
        const NAME: &'static str = "buttress.test.Echo";
    }
    impl Service<Request<Body>> for Echo {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            let echo = service_fn(async |request: tonic::Request<tonic::Streaming<String>>| {
                Ok(tonic::Response::new(request.into_inner()))
            });
            async move {
                Ok(tonic::server::Grpc::new(Texts::default()).streaming(echo, request).await)
            }
            .boxed()
        }
    }
    let (server_circuit, layer) = breaker();
    let guarded = ServiceBuilder::new()
        .layer(GrpcStatusLayer::new())
        .layer(GrpcDeadlineLayer::new())
        .layer(layer.settle_at_body_end())
        .layer(BodyTimeoutLayer::new())
        .layer(CatchPanicLayer::new())
        .service(Echo);
    // With a rate it counts its calls.
    let layer = CircuitBreakerLayer::new("analyst").failure_rate(1.0);
    let circuit = layer.circuit();
    let client = ServiceBuilder::new()
        .layer(layer.classify(GrpcClassifier::new()).settle_at_body_end())
        .layer(TimeoutLayer::new(Duration::from_secs(60)))
        .layer(BodyTimeoutLayer::new())
        .layer(FirstFrameLayer::new().classify(GrpcClassifier::new()))
        .service(serve(guarded));
    let mut grpc = tonic::client::Grpc::new(client);
    grpc.ready().await.unwrap();
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<String>();
    let sent = stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|text| (text, receiver))
    });
    let mut request = tonic::Request::new(sent);
    request.set_timeout(Duration::from_secs(60));
    let path = PathAndQuery::from_static("/buttress.test.Echo/Echo");
    // The head comes with the first message, for which the first frame is waited for.
    sender.send("0".to_owned()).unwrap();
    let mut answer = grpc.streaming(request, path, Texts::default()).await.unwrap().into_inner();
    for number in 0..3 {
        assert_eq!(answer.next().await.unwrap().unwrap(), number.to_string());
        sender.send((number + 1).to_string()).unwrap();
    }
    assert_eq!(answer.next().await.unwrap().unwrap(), "3");
    assert_eq!(circuit.snapshot().calls, 0, "the call is not at its end");
    drop(sender);
    assert!(answer.next().await.is_none());
    assert_eq!(circuit.snapshot().calls, 1);
    assert_eq!((circuit.state(), server_circuit.state()), (State::Closed, State::Closed));
}

/// tower's own errors have no code of tonic's.
#[tokio::test]
async fn an_error_of_towers_in_a_client_has_its_code_where_it_is_made_a_status() {
    let shed = || {
        let full = tower::limit::ConcurrencyLimitLayer::new(0).layer(serve(Analyst::default()));
        TimeoutLayer::new(Duration::from_secs(60)).layer(LoadShedLayer::new().layer(full))
    };
    let status = ask(shed(), "ok", None).await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown);
    let client = ServiceBuilder::new().map_err(Status::from).service(shed());
    let status = ask(client, "ok", None).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "transient"));
    let ours = std::error::Error::source(&status).unwrap().downcast_ref::<buttress::Error>();
    assert!(ours.unwrap().downcast_ref::<Overloaded>().is_some());
}
