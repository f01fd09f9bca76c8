//! An agent behind gRPC, and a client with our layers on its channel.
//!
//! ```text
//! cargo run --release --bin tonic-agent               # a server, and calls that meet each kind of fault
//! cargo run --release --bin tonic-agent -- --serve 127.0.0.1:50051
//! ```
//!
//! The server keeps its callers' deadlines (`grpc-timeout`): a retry that would end later does not start.
//! What fails has the code that gRPC has for it, and says when to try again. The client's breaker and
//! retry see statuses as failures, in headers and in trailers. The agent asks an embedded model, which
//! fails as the prompt says (see `embedded.rs`).

mod service;

use std::{process::ExitCode, time::Duration};

use buttress::{
    BoxError, Circuit, CircuitBreakerLayer, Error, GrpcClassifier, TimeoutLayer,
    grpc::{GrpcDeadlineLayer, GrpcStatusLayer},
};
use buttress_examples::{EmbeddedModel, agent};
use buttress_langfuse::{ExtractLayer, InjectLayer, Langfuse};
use tonic::{
    Request, Status,
    transport::{Channel, Server, server::TcpIncoming},
};
use tower::ServiceBuilder;
use tracing_subscriber::layer::SubscriberExt as _;

use self::service::{Analyst, ask};

/// What the calls are about: the prompt, and how long the caller waits.
const CALLS: [(&str, Option<Duration>); 6] = [
    ("AAPL", None),
    ("AAPL [503x2]", None),
    ("MSFT [context]", None),
    ("AAPL [all:hang]", Some(Duration::from_millis(300))),
    ("AAPL [all:429]", None),
    ("AAPL [all:500]", None),
];

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        [] => demonstrate().await,
        ["--serve", address] => serve(address).await,
        _ => Err("usage: tonic-agent [--serve ADDRESS]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("tonic-agent: {error}"));
            ExitCode::from(2)
        }
    }
}

/// Serves until ctrl-c, and ends the calls that are under way.
async fn serve(address: &str) -> Result<(), BoxError> {
    let langfuse = observe()?;
    let model = EmbeddedModel::start().await?;
    let incoming = TcpIncoming::bind(address.parse()?)?;
    say(&format!("listening on {}", incoming.local_addr()?));
    let over = async { drop(tokio::signal::ctrl_c().await) };
    let server = Server::builder().layer(ExtractLayer::new()).add_service(guarded(&model));
    server.serve_with_incoming_shutdown(incoming, over).await?;
    tokio::task::spawn_blocking(move || langfuse.shutdown(Duration::from_secs(5))).await??;
    Ok(())
}

/// Starts a server and makes calls.
async fn demonstrate() -> Result<(), BoxError> {
    let langfuse = observe()?;
    let model = EmbeddedModel::start().await?;
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
    let address = format!("http://{}", incoming.local_addr()?);
    let server = Server::builder().layer(ExtractLayer::new()).add_service(guarded(&model));
    let server = tokio::spawn(server.serve_with_incoming(incoming));
    let (circuit, client) = client(Channel::from_shared(address)?.connect_lazy());
    for (prompt, patience) in CALLS {
        let mut request = Request::new(prompt.to_owned());
        if let Some(patience) = patience {
            request.set_timeout(patience);
        }
        tell(prompt, ask(client.clone(), request).await);
    }
    say(&format!("the client's circuit is {}", circuit.state()));
    server.abort();
    tokio::task::spawn_blocking(move || langfuse.shutdown(Duration::from_secs(5))).await??;
    Ok(())
}

fn observe() -> Result<Langfuse, BoxError> {
    let langfuse = Langfuse::from_env()?.service_name("tonic-agent").start()?;
    let subscriber = tracing_subscriber::registry().with(langfuse.layer());
    tracing::subscriber::set_global_default(subscriber)?;
    Ok(langfuse)
}

/// The server: in the caller's trace, within its deadline, and with an answer to everything.
fn guarded(
    model: &EmbeddedModel,
) -> impl tower::Service<
    http::Request<tonic::body::Body>,
    Response = http::Response<tonic::body::Body>,
    Error = std::convert::Infallible,
    Future: Send,
>
+ tonic::server::NamedService
+ Clone
+ Send
+ Sync
+ 'static
+ use<> {
    let (agent, _) = agent::agent(&model.base_url());
    ServiceBuilder::new()
        .layer(GrpcStatusLayer::new())
        .layer(GrpcDeadlineLayer::new())
        .service(Analyst { agent })
}

/// The client: its circuit opens on statuses of the server, and its own limit is the last resort.
fn client(
    channel: Channel,
) -> (
    Circuit,
    impl tower::Service<
        http::Request<tonic::body::Body>,
        Response = http::Response<
            impl http_body::Body<Data = bytes::Bytes, Error = Error> + Send + use<>,
        >,
        Error = Error,
        Future: Send,
    > + Clone
    + use<>,
) {
    let breaker = CircuitBreakerLayer::new("analyst").classify(GrpcClassifier::new());
    let circuit = breaker.circuit();
    let client = ServiceBuilder::new()
        .layer(breaker.settle_at_body_end())
        .layer(TimeoutLayer::new(Duration::from_secs(10)))
        .layer(InjectLayer::new())
        .service(channel);
    (circuit, client)
}

fn tell(prompt: &str, result: Result<String, Status>) {
    match result {
        Ok(text) => say(&format!("{prompt:<18} {text}")),
        Err(status) => {
            let wait = status.metadata().get("grpc-retry-pushback-ms");
            let wait = wait.and_then(|wait| wait.to_str().ok());
            let wait = wait.map_or_else(String::new, |wait| format!(", again in {wait} ms"));
            say(&format!("{prompt:<18} {:?}: {}{wait}", status.code(), status.message()));
        }
    }
}

#[expect(clippy::print_stdout, reason = "a program shows what it saw")]
fn say(text: &str) {
    println!("{text}");
}
