//! An agent behind axum: guarded, limited, drained at the end, and seen by Prometheus and Langfuse.
//!
//! ```text
//! cargo run --release --bin axum-agent -- 127.0.0.1:3000
//! curl -i localhost:3000/agent -H 'content-type: application/json' -d '{"prompt":"AAPL [503x2]"}'
//! ```
//!
//! `POST /agent` answers errors by themselves (feature `axum`), `POST /agent/guarded` those of layers around
//! the route by a `HandleErrorLayer`; `GET /health`, `/ready`, `/metrics` and the page `/dashboard` tell how it
//! is, and `DASHBOARD_TOKEN` lets who knows it steer the circuits there. It asks an embedded model, which
//! fails as the prompt says (see `embedded.rs`). With SIGTERM or ctrl-c it takes no further connection, ends
//! the calls that are under way (for 10 s at most: a caller may never send the rest of its request), and
//! delivers its traces, which wait on disk while Langfuse is away.

mod app;

use std::process::ExitCode;

use buttress::{BoxError, Circuit, observe::MetricsLayer};
use buttress_dashboard::Dashboard;
use buttress_examples::{EmbeddedModel, Ending, agent, complain, deliver};
use buttress_langfuse::Langfuse;
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::TcpListener;
use tracing_subscriber::layer::SubscriberExt as _;

/// The buckets of latencies, in seconds: a model takes from a tenth of one to a minute.
const SECONDS: [f64; 10] = [0.005, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let address = match &arguments[..] {
        [] => "127.0.0.1:3000",
        [address] if !address.starts_with('-') => address,
        _ => {
            complain("axum-agent", "usage: axum-agent [ADDRESS]");
            return ExitCode::from(2);
        }
    };
    match serve(address).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain("axum-agent", error);
            ExitCode::FAILURE
        }
    }
}

async fn serve(address: &str) -> Result<(), BoxError> {
    let ending = Ending::listen()?;
    // The recorder first: the layer describes its instruments to it.
    let recorder = PrometheusBuilder::new().set_buckets(&SECONDS)?.build_recorder();
    let metrics = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    let langfuse = Langfuse::from_env()?.service_name("axum-agent").start()?;
    let model = EmbeddedModel::start().await?;
    let (agent, circuits) = agent::agent(&model.base_url());
    let dashboard = dashboard(&circuits, langfuse.clone())?;
    let subscriber = tracing_subscriber::registry()
        .with(langfuse.layer())
        .with(MetricsLayer::new())
        .with(dashboard.layer());
    tracing::subscriber::set_global_default(subscriber)?;

    let app = app::App { agent, circuits: circuits.into(), langfuse: langfuse.clone(), metrics };
    // With and without a slash at the end.
    let router = app::router(app).nest_service("/dashboard", dashboard.router());
    let listener =
        TcpListener::bind(address).await.map_err(|error| format!("{address}: {error}"))?;
    say(&format!("listening on {}", listener.local_addr()?));
    let begun = ending.clone().begun();
    let ended = async move {
        begun.await;
        // Its pages are answers that go on for ever.
        dashboard.close();
    };
    let server = axum::serve(listener, router).with_graceful_shutdown(ended);
    say(if ending.drain(server.into_future()).await? {
        "every call has ended"
    } else {
        "calls that did not end were given up"
    });
    deliver(langfuse).await
}

/// The live page; who knows the token in `DASHBOARD_TOKEN` may open and reset circuits.
fn dashboard(circuits: &[Circuit], langfuse: Langfuse) -> Result<Dashboard, BoxError> {
    let dashboard =
        Dashboard::new().title("axum-agent").trace_url(move |trace| langfuse.trace_url(trace));
    let dashboard = circuits.iter().cloned().fold(dashboard, Dashboard::circuit);
    match std::env::var("DASHBOARD_TOKEN") {
        Ok(token) => Ok(dashboard.allow_control(&token)?),
        Err(_) => Ok(dashboard),
    }
}

#[expect(clippy::print_stdout, reason = "a program says where it listens")]
fn say(text: &str) {
    println!("{text}");
}
