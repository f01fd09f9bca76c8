//! An agent behind gRPC, and a client with our layers on its channel.
//!
//! ```text
//! cargo run --release --bin tonic-agent               # a server, and calls that meet each kind of fault
//! cargo run --release --bin tonic-agent -- --serve 127.0.0.1:50051
//! cargo run --release --bin tonic-agent -- --ask http://127.0.0.1:50051 "AAPL [503x2]"
//! ```
//!
//! The server (`server.rs`) keeps its callers' deadlines (`grpc-timeout`): a retry that would end later
//! does not start. What fails has the code that gRPC has for it, and says when to try again. With SIGTERM or
//! ctrl-c it ends the calls that are under way (for 10 s at most) and delivers its traces, which wait on disk
//! while Langfuse is away. The client's breaker and retry (`client.rs`) see statuses as failures, in headers
//! and in trailers. The agent asks an embedded model, which fails as the prompt says (see `embedded.rs`).

mod client;
mod server;
mod service;

use std::{process::ExitCode, time::Duration};

use buttress::BoxError;
use buttress_examples::{EmbeddedModel, Ending, complain, deliver};
use buttress_langfuse::Langfuse;
use tokio::net::TcpListener;
use tonic::{
    Status,
    transport::{Channel, server::TcpIncoming},
};
use tracing_subscriber::layer::SubscriberExt as _;

use self::client::{Client, Question};

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
        ["--ask", address, prompt] => ask(address, prompt).await,
        _ => Err("usage: tonic-agent [--serve ADDRESS | --ask URL PROMPT]".into()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            complain("tonic-agent", error);
            ExitCode::from(2)
        }
    }
}

/// Serves until the program is asked to end, and ends the calls that are under way.
async fn serve(address: &str) -> Result<bool, BoxError> {
    let ending = Ending::listen()?;
    let langfuse = observe()?;
    let model = EmbeddedModel::start().await?;
    let listener =
        TcpListener::bind(address).await.map_err(|error| format!("{address}: {error}"))?;
    let incoming = TcpIncoming::from(listener);
    say(&format!("listening on {}", incoming.local_addr()?));
    let begun = ending.clone().begun();
    let server = server::router(&model).serve_with_incoming_shutdown(incoming, begun);
    say(if ending.drain(server).await? {
        "every call has ended"
    } else {
        "calls that did not end were given up"
    });
    deliver(langfuse).await?;
    Ok(true)
}

/// Asks a server one thing; returns whether it answered.
async fn ask(address: &str, prompt: &str) -> Result<bool, BoxError> {
    let langfuse = observe()?;
    let channel = Channel::from_shared(address.to_owned())?;
    if channel.uri().scheme_str() != Some("http") {
        return Err(format!("{address}: not of the form http://HOST:PORT").into());
    }
    let client = Client::new(channel.connect_lazy());
    let result = client.ask(Question::new(prompt)).await;
    let is_answered = result.is_ok();
    tell(prompt, result);
    deliver(langfuse).await?;
    Ok(is_answered)
}

/// Starts a server and makes calls.
async fn demonstrate() -> Result<bool, BoxError> {
    let langfuse = observe()?;
    let model = EmbeddedModel::start().await?;
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?;
    let address = format!("http://{}", incoming.local_addr()?);
    let server = tokio::spawn(server::router(&model).serve_with_incoming(incoming));
    let client = Client::new(Channel::from_shared(address)?.connect_lazy());
    for (prompt, patience) in CALLS {
        tell(prompt, client.ask(Question::new(prompt).within(patience)).await);
    }
    say(&format!("the client's circuit is {}", client.circuit().state()));
    server.abort();
    deliver(langfuse).await?;
    Ok(true)
}

fn observe() -> Result<Langfuse, BoxError> {
    let langfuse = Langfuse::from_env()?.service_name("tonic-agent").start()?;
    let subscriber = tracing_subscriber::registry().with(langfuse.layer());
    tracing::subscriber::set_global_default(subscriber)?;
    Ok(langfuse)
}

fn tell(prompt: &str, result: Result<String, Status>) {
    match result {
        Ok(text) => say(&format!("{prompt:<18} {text}")),
        Err(status) => {
            let wait = status.metadata().get("grpc-retry-pushback-ms");
            let wait = match wait.and_then(|wait| wait.to_str().ok()) {
                None => String::new(),
                Some("-1") => ", not again".to_owned(),
                Some(wait) => format!(", again in {wait} ms"),
            };
            say(&format!("{prompt:<18} {:?}: {}{wait}", status.code(), status.message()));
        }
    }
}

#[expect(clippy::print_stdout, reason = "a program shows what it saw")]
fn say(text: &str) {
    println!("{text}");
}
