//! One trace through several processes: a client here and servers in processes of their own, over
//! real sockets, and what Langfuse makes of it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::HashSet,
    convert::Infallible,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, Command, Stdio},
    task::Poll,
    time::Duration,
};

use axum::{Router, extract::Path, routing::get};
use buttress::{
    FaultTolerantAgent, RetryLayer,
    test_util::{Answer, Scripted},
};
use buttress_langfuse::{
    Durability, ExtractLayer, InTrace as _, InjectLayer, Langfuse, LangfuseBuilder, Propagate,
    inject, spawn, trace_id_from_seed,
};
use buttress_tests::langfuse_server::{LangfuseServer, Observation};
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::json;
use tonic::transport::server::TcpIncoming;
use tonic_prost::ProstCodec;
use tower::{ServiceBuilder, ServiceExt as _, service_fn};
use tracing::{Instrument as _, info_span};
use tracing_subscriber::layer::SubscriberExt as _;

const PATIENCE: Duration = Duration::from_secs(60);
/// Where the Langfuse of a child is.
const CHILD: &str = "BUTTRESS_TEST_CONTEXT";

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn builder(base_url: &str) -> LangfuseBuilder {
    Langfuse::builder()
        .public_key("pk-lf-1")
        .secret_key("sk-lf-1")
        .base_url(base_url)
        .durability(Durability::Memory)
        .flush_interval(Duration::from_millis(20))
}

// ===== the server, in a process of its own =====

/// The server's part of a test; nothing in the test itself.
#[test]
fn child() {
    let Ok(base_url) = std::env::var(CHILD) else { return };
    let langfuse = builder(&base_url).start().unwrap();
    let subscriber = tracing_subscriber::registry().with(langfuse.layer());
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(serve());
    langfuse.shutdown(PATIENCE).unwrap();
}

/// Serves until nobody holds the other end of stdin.
async fn serve() {
    let routes = Router::new()
        .route("/agent", get(async || agent("served", 0).await))
        .route("/flaky", get(async || agent("served", 1).await))
        .route("/tasks", get(tasks))
        .route("/relay/{port}", get(relay))
        .route("/behind", get(async || agent("served", 0).instrument(info_span!("handler")).await))
        .layer(ExtractLayer::new());
    // As the layers of others do, which know nothing of the caller.
    let traced = axum::middleware::from_fn(async |request, next: axum::middleware::Next| {
        next.run(request).instrument(info_span!("http_server")).await
    });
    let routes = Router::new().nest("/outside", routes.clone().layer(traced)).merge(routes);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let grpc_port = incoming.local_addr().unwrap().port();
    let mut stdout = std::io::stdout();
    writeln!(stdout, "\nport {port}\ngrpc {grpc_port}").unwrap();
    let over = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    let over = async { drop(over.await) }.shared();
    let analyst =
        ServiceBuilder::new().layer(ExtractLayer::new()).layer(InjectLayer::new()).service(Analyst);
    let grpc = tonic::transport::Server::builder().add_service(analyst);
    let grpc = grpc.serve_with_incoming_shutdown(incoming, over.clone());
    let http = axum::serve(listener, routes).with_graceful_shutdown(over);
    let (http, grpc) = futures_util::join!(http.into_future(), grpc);
    http.unwrap();
    grpc.unwrap();
}

/// An agent behind gRPC; a text is a message as `google.protobuf.StringValue` is one.
#[derive(Clone)]
struct Analyst;

const ASK: &str = "/buttress.test.Analyst/Ask";

impl tonic::server::NamedService for Analyst {
    const NAME: &'static str = "buttress.test.Analyst";
}

impl tower::Service<Request<tonic::body::Body>> for Analyst {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = futures_util::future::BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let ask = service_fn(async |_: tonic::Request<String>| {
            Ok(tonic::Response::new(agent("served", 0).await.to_owned()))
        });
        async move {
            let mut grpc = tonic::server::Grpc::new(ProstCodec::<String, String>::default());
            Ok(grpc.unary(ask, request).await)
        }
        .boxed()
    }
}

/// One call of an agent that fails so often before it answers.
async fn agent(name: &'static str, failures: usize) -> &'static str {
    let answers = (0..failures).map(|_| Answer::error("reset")).chain([Answer::ok("fine")]);
    let agent = FaultTolerantAgent::builder(name)
        .retry(RetryLayer::new(failures + 1).backoff([Duration::ZERO]))
        .service(Scripted::new(answers.collect::<Vec<_>>()));
    agent.invoke("AAPL").await.unwrap();
    "fine"
}

/// An agent whose work goes on in other tasks.
async fn tasks() -> &'static str {
    let work = service_fn(async |_: &str| {
        let ours = spawn(agent("spawned", 0));
        let tokios = tokio::spawn(agent("carried", 0).in_trace());
        ours.await.unwrap();
        tokios.await.unwrap();
        Ok::<_, Infallible>("fine")
    });
    let agent = FaultTolerantAgent::builder("served").service(work);
    Propagate::new().tag("server").scope(agent.invoke("AAPL")).await.unwrap()
}

/// An agent that asks the next server.
async fn relay(Path(port): Path<u16>) -> String {
    let http = http_client();
    call(&http, "relayed", format!("http://127.0.0.1:{port}/agent")).await
}

// ===== the client =====

type Http = Client<HttpConnector, Full<Bytes>>;

fn http_client() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

async fn ask(http: &Http, uri: String, headers: HeaderMap) -> String {
    let mut request = Request::get(uri).body(Full::default()).unwrap();
    *request.headers_mut() = headers;
    text(http.request(request).await.unwrap()).await
}

async fn text(answer: Response<Incoming>) -> String {
    assert_eq!(answer.status(), StatusCode::OK);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// One call of an agent that is behind a URL.
async fn call(http: &Http, name: &'static str, uri: String) -> String {
    let client = ServiceBuilder::new().layer(InjectLayer::new()).service(http.clone());
    let over_http = service_fn(move |uri: String| {
        let client = client.clone();
        // As the clients of others do: nobody gets this span.
        let request = async move {
            let request = Request::get(uri).body(Full::default()).unwrap();
            Ok::<_, Infallible>(text(client.oneshot(request).await.unwrap()).await)
        };
        request.instrument(info_span!("http_client"))
    });
    FaultTolerantAgent::builder(name).service(over_http).invoke(uri).await.unwrap()
}

/// A server in a process of its own.
struct Server {
    child: Child,
    port: u16,
    grpc_port: u16,
}

impl Server {
    fn start(langfuse: &LangfuseServer) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["child", "--exact", "--nocapture"]).env(CHILD, langfuse.base_url());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let port = lines.find_map(|line| line.strip_prefix("port ")?.parse().ok()).unwrap();
        let grpc_port = lines.find_map(|line| line.strip_prefix("grpc ")?.parse().ok()).unwrap();
        // It writes no more, but what it runs in may, and fails where nobody listens.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, port, grpc_port }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// Ends the process, which delivers what it has.
    fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.child.wait().unwrap().success());
    }
}

/// Runs a client beside a server, and returns what Langfuse got of both.
fn observed(client: impl AsyncFnOnce(Http, &Server)) -> Vec<Observation> {
    let collected = LangfuseServer::start_blocking();
    let server = Server::start(&collected);
    let langfuse = builder(&collected.base_url()).start().unwrap();
    let subscriber = tracing_subscriber::registry().with(langfuse.layer());
    tracing::subscriber::with_default(subscriber, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(client(http_client(), &server));
    });
    langfuse.shutdown(PATIENCE).unwrap();
    server.end();
    collected.observations()
}

// ===== what is looked at =====

#[track_caller]
fn named<'a>(observations: &'a [Observation], name: &str) -> &'a Observation {
    let mut found = observations.iter().filter(|one| one.name() == name);
    let one = found.next().unwrap_or_else(|| panic!("no {name} in {:?}", names(observations)));
    assert!(found.next().is_none(), "two {name}");
    one
}

fn names(observations: &[Observation]) -> Vec<&str> {
    observations.iter().map(Observation::name).collect()
}

fn roots(observations: &[Observation]) -> Vec<&str> {
    observations.iter().filter(|one| one.is_root()).map(Observation::name).collect()
}

/// One trace, in which each span hangs below another or below `outside`.
#[track_caller]
fn check_tree(observations: &[Observation], outside: Option<&str>) {
    let traces: HashSet<_> = observations.iter().map(Observation::trace_id).collect();
    assert_eq!(traces.len(), 1, "{observations:?}");
    let ids: HashSet<_> = observations.iter().map(Observation::id).collect();
    let lost: Vec<_> = observations
        .iter()
        .filter(|one| !one.parent_id().is_none_or(|id| ids.contains(id) || Some(id) == outside))
        .map(Observation::name)
        .collect();
    assert!(lost.is_empty(), "without their parents: {lost:?}");
}

/// Whether a span is below another, at any depth.
fn is_below(observations: &[Observation], one: &Observation, above: &Observation) -> bool {
    let mut parent = one.parent_id();
    while let Some(id) = parent {
        if id == above.id() {
            return true;
        }
        parent = observations.iter().find(|one| one.id() == id).and_then(Observation::parent_id);
    }
    false
}

fn header(traceparent: &str) -> HeaderMap {
    HeaderMap::from_iter([("traceparent".parse().unwrap(), traceparent.parse().unwrap())])
}

// ===== the tests =====

#[test]
fn a_call_through_two_processes_is_one_trace_that_says_the_same_everywhere() {
    let observations = observed(async |http, server| {
        let all = Propagate::new().session("chat 7").user("ada+1@example.org").tags(["a", "b,c"]);
        let all = all.trace_name("order").version("2").metadata("ticker", "AAPL").as_baggage();
        let call = call(&http, "calling", server.url("/agent"));
        assert_eq!(all.scope(call).await, "fine");
    });
    check_tree(&observations, None);
    assert_eq!(roots(&observations), ["agent_calling"]);
    let (calling, served) =
        (named(&observations, "agent_calling"), named(&observations, "agent_served"));
    assert!(is_below(&observations, served, calling));
    for one in &observations {
        assert_eq!(one.field("sessionId"), "chat 7", "{}", one.name());
        assert_eq!(one.field("userId"), "ada+1@example.org", "{}", one.name());
        assert_eq!(*one.field("tags"), json!(["a", "b,c"]), "{}", one.name());
        assert_eq!(one.field("traceName"), "order", "{}", one.name());
        assert_eq!(one.field("version"), "2", "{}", one.name());
        assert_eq!(one.metadata("ticker"), "AAPL", "{}", one.name());
    }
}

/// What each way into another process has to carry along.
#[track_caller]
fn check_that_all_is_carried(observations: &[Observation]) {
    check_tree(observations, None);
    assert_eq!(roots(observations), ["agent_calling"]);
    let served = named(observations, "agent_served");
    assert!(is_below(observations, served, named(observations, "agent_calling")));
    for one in observations {
        assert_eq!(one.field("sessionId"), "chat 7", "{}", one.name());
        assert_eq!(one.field("userId"), "ada", "{}", one.name());
        assert_eq!(*one.field("tags"), json!(["a"]), "{}", one.name());
    }
}

fn carried() -> Propagate {
    Propagate::new().session("chat 7").user("ada").tag("a").trace_name("order").as_baggage()
}

#[test]
fn a_tonic_client_and_server_carry_the_trace_over_grpc() {
    let observations = observed(async |_, server| {
        let address = format!("http://127.0.0.1:{}", server.grpc_port);
        let channel = tonic::transport::Channel::from_shared(address).unwrap().connect_lazy();
        let channel = ServiceBuilder::new().layer(InjectLayer::new()).service(channel);
        let over_grpc = service_fn(move |ticker: String| {
            let mut grpc = tonic::client::Grpc::new(channel.clone());
            async move {
                grpc.ready().await.unwrap();
                let codec = ProstCodec::<String, String>::default();
                let path = http::uri::PathAndQuery::from_static(ASK);
                grpc.unary(tonic::Request::new(ticker), path, codec).await
            }
        });
        let agent = FaultTolerantAgent::builder("calling").service(over_grpc);
        let answer = carried().scope(agent.invoke("AAPL".to_owned())).await.unwrap();
        assert_eq!(answer.into_inner(), "fine");
    });
    check_that_all_is_carried(&observations);
}

#[test]
fn a_reqwest_client_carries_the_trace() {
    let observations = observed(async |_, server| {
        let client = ServiceBuilder::new()
            .layer(InjectLayer::new())
            .map_request(|request: Request<String>| reqwest::Request::try_from(request).unwrap())
            .service(reqwest::Client::new());
        let over_http = service_fn(move |uri: String| {
            let request = Request::get(uri).body(String::new()).unwrap();
            let answer = client.clone().oneshot(request);
            async move { answer.await?.text().await }
        });
        let agent = FaultTolerantAgent::builder("calling").service(over_http);
        let answer = carried().scope(agent.invoke(server.url("/agent"))).await.unwrap();
        assert_eq!(answer, "fine");
    });
    check_that_all_is_carried(&observations);
}

#[test]
fn without_baggage_the_process_that_joins_has_a_root_of_its_own_and_names_nothing() {
    let observations = observed(async |http, server| {
        let call = call(&http, "calling", server.url("/agent"));
        Propagate::new().session("s").scope(call).await;
    });
    check_tree(&observations, None);
    assert_eq!(roots(&observations).len(), 2);
    let (calling, served) =
        (named(&observations, "agent_calling"), named(&observations, "agent_served"));
    assert!(calling.is_root() && served.is_root() && is_below(&observations, served, calling));
    assert_eq!(
        (calling.field("sessionId"), calling.field("traceName")),
        (&json!("s"), &json!("agent_calling"))
    );
    assert!(served.field("sessionId").is_null() && served.field("traceName").is_null());
}

#[test]
fn below_a_caller_whom_langfuse_does_not_know_the_outermost_span_is_the_root() {
    // With a span of the server between that is not sent, too, inside of the layer or outside.
    for path in ["/agent", "/behind", "/outside/agent", "/outside/behind"] {
        let observations = observed(async |http, server| {
            let headers = header(&format!("00-{TRACE}-{SPAN}-01"));
            ask(&http, server.url(path), headers).await;
        });
        check_tree(&observations, Some(SPAN));
        assert_eq!(roots(&observations), ["agent_served"], "{path}");
        let root = named(&observations, "agent_served");
        assert_eq!((root.trace_id(), root.parent_id()), (TRACE, Some(SPAN)), "{path}");
        assert!(observations.iter().all(|one| one.field("traceName").is_null()), "{path}");
    }
}

#[test]
fn a_root_that_another_process_claims_is_the_only_one() {
    for (claimed, roots_here) in [(TRACE, 0), ("00000000000000000000000000000001", 1)] {
        let observations = observed(async |http, server| {
            let mut headers = header(&format!("00-{TRACE}-{SPAN}-01"));
            let baggage = format!("langfuse_trace_id={claimed},langfuse_trace_name=theirs");
            headers.insert("baggage", baggage.parse().unwrap());
            ask(&http, server.url("/behind"), headers).await;
        });
        check_tree(&observations, Some(SPAN));
        assert_eq!(roots(&observations).len(), roots_here);
        assert!(observations.iter().all(|one| one.field("traceName") == "theirs"));
    }
}

#[test]
fn without_a_caller_the_trace_begins_in_the_server() {
    for headers in
        [HeaderMap::new(), header("00-nonsense-01"), header(&format!("ff-{TRACE}-{SPAN}-01"))]
    {
        for (path, has_parent) in [("/agent", false), ("/behind", true)] {
            let observations = observed(async |http, server| {
                ask(&http, server.url(path), headers.clone()).await;
            });
            assert_eq!(roots(&observations), ["agent_served"], "{path}");
            let root = named(&observations, "agent_served");
            assert_eq!(root.parent_id().is_some(), has_parent, "{path}");
            assert!(root.trace_id() != TRACE, "{path}");
            assert!(observations.iter().all(|one| one.field("traceName") == "agent_served"));
        }
    }
}

#[test]
fn tasks_that_are_spawned_belong_to_the_trace_and_its_scopes() {
    let observations = observed(async |http, server| {
        let all = Propagate::new().session("s").tag("client").as_baggage();
        all.scope(async {
            let call = call(&http, "calling", server.url("/tasks"));
            spawn(async { agent("beside", 0).await }).await.unwrap();
            call.await;
        })
        .await;
    });
    let beside = named(&observations, "agent_beside").trace_id();
    let (beside, observations): (Vec<_>, Vec<_>) =
        observations.iter().cloned().partition(|one| one.trace_id() == beside);
    assert!(beside.iter().all(|one| one.field("sessionId") == "s"));
    check_tree(&observations, None);
    assert_eq!(roots(&observations), ["agent_calling"]);
    let served = named(&observations, "agent_served");
    for name in ["agent_spawned", "agent_carried"] {
        let one = named(&observations, name);
        assert!(is_below(&observations, one, served), "{name}");
        assert_eq!(*one.field("tags"), json!(["client", "server"]), "{name}");
        assert_eq!(one.field("sessionId"), "s", "{name}");
    }
    assert_eq!(*named(&observations, "agent_calling").field("tags"), json!(["client"]));
}

#[test]
fn a_chain_of_processes_is_one_trace_with_one_root() {
    let collected = LangfuseServer::start_blocking();
    let last = Server::start(&collected);
    let first = Server::start(&collected);
    let langfuse = builder(&collected.base_url()).start().unwrap();
    let subscriber = tracing_subscriber::registry().with(langfuse.layer());
    tracing::subscriber::with_default(subscriber, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let uri = first.url(&format!("/relay/{}", last.port));
        let all = Propagate::new().trace_seed("order-7").user("ada").as_baggage();
        let http = http_client();
        assert_eq!(runtime.block_on(all.scope(call(&http, "calling", uri))), "fine");
    });
    langfuse.shutdown(PATIENCE).unwrap();
    first.end();
    last.end();
    let observations = collected.observations();
    check_tree(&observations, None);
    assert_eq!(roots(&observations), ["agent_calling"]);
    let agents = ["agent_calling", "agent_relayed", "agent_served"];
    let [calling, relayed, served] = agents.map(|name| named(&observations, name));
    assert!(is_below(&observations, served, relayed) && is_below(&observations, relayed, calling));
    assert_eq!(calling.trace_id(), trace_id_from_seed("order-7"));
    assert!(observations.iter().all(|one| one.field("userId") == "ada"));
}

#[test]
fn a_caller_that_does_not_sample_is_obeyed_unless_something_goes_wrong() {
    for (path, is_sent) in [("/agent", false), ("/behind", false), ("/flaky", true)] {
        let observations = observed(async |http, server| {
            let headers = header(&format!("00-{TRACE}-{SPAN}-00"));
            ask(&http, server.url(path), headers).await;
        });
        assert_eq!(!observations.is_empty(), is_sent, "{path}");
        if is_sent {
            check_tree(&observations, Some(SPAN));
            assert_eq!(roots(&observations), ["agent_served"]);
            assert!(names(&observations).contains(&"retry_attempt"));
        }
    }
}

#[test]
fn headers_that_are_injected_by_hand_do_the_same() {
    let observations = observed(async |http, server| {
        let agent = FaultTolerantAgent::builder("calling").service(service_fn(async |uri| {
            let mut headers = HeaderMap::new();
            inject(&mut headers);
            Ok::<_, Infallible>(ask(&http, uri, headers).await)
        }));
        agent.invoke(server.url("/agent")).await.unwrap();
    });
    check_tree(&observations, None);
    assert_eq!(roots(&observations).len(), 2);
}
