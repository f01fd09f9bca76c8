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

mod analysts;
mod cli;
mod diagnosis;
mod llm;
mod observe;
mod prices;
mod problem;
mod progress;
mod report;
mod signals;
mod style;
mod swarm;
mod terminal;
mod text;

use std::{io, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser as _;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use self::{
    cli::Cli,
    llm::{EmbeddedServer, Endpoint, Faults, Settings},
    observe::Observer,
    prices::Prices,
    problem::Problem,
    progress::Progress,
    report::Report,
    signals::Signals,
    style::Style,
    swarm::{Patience, Survey, Swarm},
    terminal::{print, tell},
};

/// How long the end of the program waits for Langfuse.
const DELIVERY: Duration = Duration::from_secs(10);

/// How long it waits after an interruption.
const BRIEF_DELIVERY: Duration = Duration::from_secs(2);

/// What `--json` prints, beside what went wrong.
#[derive(Debug, Default)]
struct Document {
    report: Value,
    trace: Value,
    links: Vec<String>,
}

/// What a run came to that was not interrupted.
#[derive(Debug)]
struct Found {
    endpoint: Arc<Endpoint>,
    survey: Survey,
    /// What the embedded server did, where it played the model.
    faults: Option<Faults>,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(help_or_error) => {
            help_or_error.print().ok();
            let code = if help_or_error.use_stderr() { problem::WRONG_USE } else { 0 };
            return ExitCode::from(code);
        }
    };
    let mut document = Document::default();
    let mut result = run(&cli, &mut document);
    if cli.json {
        let printed = print(&document.to_text(result.as_ref().err()));
        result = result.and(printed);
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            tell(&problem);
            ExitCode::from(problem.exit_code())
        }
    }
}

/// Checks what was asked before anything starts, then lets the swarm run and shows the result.
fn run(cli: &Cli, document: &mut Document) -> Result<(), Problem> {
    let prices = Prices::of(&cli.ticker)?;
    let configured = match cli.wants_embedded_server() {
        true => None,
        false => Settings::from_env().endpoint()?,
    };
    let runtime = runtime()?;
    // The signals and the clock of the progress are tokio's.
    let (mut signals, observer) = {
        let _entered = runtime.enter();
        (Signals::listen()?, Observer::start()?)
    };
    let result = runtime.block_on(async {
        tokio::select! {
            survey = investigate(cli, &prices, configured, observer.progress()) => survey,
            () = signals.next() => Err(Problem::Interrupted),
        }
    });
    // Drops what an interruption left running, so that its spans end before they are sent. A look
    // for the address of a host cannot be dropped, and is not waited for.
    runtime.shutdown_background();
    let result = result.and_then(|found| show(cli, &prices, &found, &observer, document));
    let delivered = deliver(&observer, &mut signals, matches!(result, Err(Problem::Interrupted)));

    document.trace = observer.to_json();
    document.links = observer.links();
    let result = result.and(delivered);
    if cli.json {
        return result;
    }
    let links = document.links.iter().map(|link| format!("In Langfuse: {link}\n"));
    let printed = print(&links.collect::<String>());
    result.and(printed)
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Asks the endpoint that was configured, or else the embedded server.
async fn investigate(
    cli: &Cli,
    prices: &Prices,
    configured: Option<Endpoint>,
    progress: &Progress,
) -> Result<Found, Problem> {
    let faults = configured.is_none().then(|| cli.faults());
    let (endpoint, patience, _server) = match configured {
        Some(endpoint) => {
            connect(&endpoint).await?;
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
    Ok(Found { endpoint, survey, faults })
}

/// Finds out whether anybody listens there, before agents with all their patience do.
async fn connect(endpoint: &Endpoint) -> Result<(), Problem> {
    let problem = |why: &dyn std::fmt::Display| {
        Problem::Endpoint(format!("cannot connect to {}: {why}", endpoint.base_url()))
    };
    let uri = endpoint.chat();
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let connect = tokio::net::TcpStream::connect((host, uri.port_u16().unwrap_or(default)));
    match tokio::time::timeout(Duration::from_secs(10), connect).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(problem(&error)),
        Err(_) => Err(problem(&"no answer in 10 seconds")),
    }
}

/// Shows the report and the trace: to people at once, to programs when all is known.
fn show(
    cli: &Cli,
    prices: &Prices,
    found: &Found,
    observer: &Observer,
    document: &mut Document,
) -> Result<(), Problem> {
    let Found { endpoint, survey, faults } = found;
    let report = Report { prices, survey, endpoint, faults: *faults };
    document.report = report.to_json();
    let nothing_found = survey.findings.is_empty();
    if !cli.json {
        if !nothing_found {
            print(&format!("{}\n", report.to_text(Style::of(&io::stdout()))))?;
        }
        print(&observer.to_text())?;
    }
    if nothing_found {
        return Err(Problem::Endpoint(diagnosis::of_total_failure(&survey.failures, endpoint)));
    }
    Ok(())
}

/// Waits for Langfuse, as long as nobody interrupts that too.
fn deliver(observer: &Observer, signals: &mut Signals, is_hasty: bool) -> Result<(), Problem> {
    let patience = if is_hasty { BRIEF_DELIVERY } else { DELIVERY };
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        tokio::select! {
            delivered = observer.deliver(patience) => {
                if let Err(error) = delivered {
                    tell(format_args!("the trace is not complete in Langfuse: {error}"));
                }
                Ok(())
            }
            () = signals.next() => Err(Problem::Interrupted),
        }
    });
    runtime.shutdown_background();
    result
}

// ===== impl Document =====

impl Document {
    fn to_text(&self, problem: Option<&Problem>) -> String {
        let document = json!({
            "report": self.report,
            "trace": self.trace.as_array().cloned().unwrap_or_default(),
            "links": self.links,
            "error": problem.map(Problem::to_json),
        });
        format!("{document:#}\n")
    }
}
