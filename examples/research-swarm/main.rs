//! Four analysts, each a fault-tolerant agent, ask a language model over HTTP about a stock.
//!
//! ```sh
//! cargo run --release --bin research-swarm
//! cargo run --release --bin research-swarm -- --faults storm --seed 7
//! ```
//!
//! `swarm.rs` holds what buttress is about: an agent for each analyst with retries, a timeout, a
//! circuit breaker shared by all who ask the same model, and a weaker model to fall back to.
//! `observe.rs` sends what happens to Langfuse and shows it here.
#![expect(clippy::print_stderr, reason = "a command line program talks to its terminal")]

mod analysts;
mod cli;
mod diagnosis;
mod llm;
mod observe;
mod prices;
mod problem;
mod progress;
mod report;
mod style;
mod swarm;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::Parser as _;

use self::{
    cli::Cli,
    llm::{EmbeddedServer, Endpoint, Settings},
    observe::Observer,
    prices::Prices,
    problem::Problem,
    progress::Progress,
    report::Report,
    style::Style,
    swarm::{Patience, Survey, Swarm},
};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(help_or_error) => {
            help_or_error.print().ok();
            let code = if help_or_error.use_stderr() { problem::WRONG_USE } else { 0 };
            return ExitCode::from(code);
        }
    };
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            problem.exit_code()
        }
    }
}

/// Checks what was asked before anything starts, then lets the swarm run and shows the result.
fn run(cli: &Cli) -> Result<(), Problem> {
    let prices = Prices::of(&cli.ticker)?;
    let configured = match cli.wants_embedded_server() {
        true => None,
        false => Settings::from_env().endpoint()?,
    };
    let faults = configured.is_none().then(|| cli.faults());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The clock of the progress is tokio's.
    let observer = {
        let _entered = runtime.enter();
        Observer::start()?
    };
    let result = runtime.block_on(investigate(cli, &prices, configured, observer.progress()));
    // Drops what an interruption left running, so that its spans end before they are sent.
    drop(runtime);
    let seen = observer.finish();

    let (endpoint, survey) = result?;
    let report = Report { prices: &prices, survey: &survey, endpoint: &endpoint, faults };
    if survey.findings.is_empty() {
        if !cli.json {
            print(&seen.to_text())?;
        }
        return Err(Problem::Endpoint(diagnosis::of_total_failure(&survey.missing, &endpoint)));
    }
    let output = if cli.json {
        let document = serde_json::json!({ "report": report.to_json(), "trace": seen.to_json() });
        format!("{document:#}\n")
    } else {
        format!("{}\n{}", report.to_text(Style::of(&io::stdout())), seen.to_text())
    };
    print(&output)
}

/// Runs the swarm until it is done or somebody presses Ctrl-C.
async fn investigate(
    cli: &Cli,
    prices: &Prices,
    configured: Option<Endpoint>,
    progress: &Progress,
) -> Result<(Endpoint, Survey), Problem> {
    let interrupted = tokio::signal::ctrl_c();
    let survey = async {
        let (endpoint, patience, _server) = match configured {
            Some(endpoint) => {
                connect(endpoint.base_url()).await?;
                (endpoint, Patience::REAL, None)
            }
            None => {
                let server = EmbeddedServer::start(cli.faults()).await?;
                (server.endpoint(), Patience::EMBEDDED, Some(server))
            }
        };
        let endpoint = Arc::new(endpoint);
        let swarm = Swarm::new(&endpoint, patience, cli.order.into(), progress);
        let survey = swarm.run(prices).await;
        Ok((Endpoint::clone(&endpoint), survey))
    };
    tokio::select! {
        survey = survey => survey,
        result = interrupted => Err(result.map_or_else(Problem::from, |()| Problem::Interrupted)),
    }
}

/// Finds out whether anybody listens there, before agents with all their patience do.
async fn connect(base_url: &str) -> Result<(), Problem> {
    let problem = |why: &dyn std::fmt::Display| {
        Problem::Endpoint(format!("cannot connect to {base_url}: {why}"))
    };
    let uri: http::Uri = base_url.parse().map_err(|error| problem(&error))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let connect = tokio::net::TcpStream::connect((host, uri.port_u16().unwrap_or(default)));
    match tokio::time::timeout(Duration::from_secs(10), connect).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(problem(&error)),
        Err(_) => Err(problem(&"no answer in 10 seconds")),
    }
}

/// Writes to stdout; a reader that has gone away, such as `head`, is no error.
fn print(text: &str) -> Result<(), Problem> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
