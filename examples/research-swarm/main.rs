//! Four analysts, each a fault-tolerant agent, ask a language model over HTTP about a stock.
//!
//! ```sh
//! cargo run --release --bin research-swarm
//! cargo run --release --bin research-swarm -- --faults storm --seed 7
//! cargo run --release --bin research-swarm -- --resume ID
//! ```
//!
//! `swarm.rs` holds what buttress is about: an agent for each analyst with retries, a timeout, a
//! circuit breaker shared by all who ask the same model, a weaker model to fall back to, and a memo
//! of its answer. `journal.rs` keeps how far a run has come, so that another goes on where it
//! ended. `observe.rs` sends what happens to Langfuse and shows it here.

mod analysts;
mod cli;
mod diagnosis;
mod journal;
mod llm;
mod observe;
mod prices;
mod problem;
mod progress;
mod report;
mod signals;
mod store;
mod style;
mod swarm;
mod terminal;
mod text;

use std::{io, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser as _;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tracing::Instrument as _;

use self::{
    cli::Cli,
    journal::{Asked, Journal, Outcome, Phase},
    llm::{EmbeddedServer, Endpoint, Settings, Source},
    observe::Observer,
    prices::Prices,
    problem::Problem,
    progress::Progress,
    report::Report,
    signals::Signals,
    store::Store,
    style::Style,
    swarm::{Patience, RunSpan, Swarm},
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
    workflow_id: Option<String>,
    store: Option<String>,
    resumed_from: Option<String>,
    warnings: Vec<String>,
}

/// What a run came to that was not interrupted.
#[derive(Debug)]
struct Found {
    asked: Asked,
    outcome: Outcome,
    /// Why nobody answered, where nobody did.
    failure: Option<String>,
}

/// A model to ask.
#[derive(Debug)]
struct Model {
    endpoint: Arc<Endpoint>,
    patience: Patience,
    /// Kept, since dropping it ends it.
    _server: Option<EmbeddedServer>,
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
    let asked = if cli.resume.is_some() { None } else { Some(cli.asked()?) };
    let store = Store::chosen(cli.store.as_deref())?;
    let runtime = runtime()?;
    // The signals and the clock of the progress are tokio's.
    let (mut signals, observer) = {
        let _entered = runtime.enter();
        (Signals::listen()?, Observer::start()?)
    };
    let result = runtime.block_on(async {
        let mut journal = None;
        let result = tokio::select! {
            found = investigate(cli, asked, store, &mut journal, observer.progress()) => found,
            () = signals.next() => Err(Problem::Interrupted),
        };
        if let Some(journal) = &mut journal {
            journal.release().await;
            document.note(journal);
        }
        result
    });
    // Drops what an interruption left running, so that its spans end before they are sent. A look
    // for the address of a host cannot be dropped, and is not waited for.
    runtime.shutdown_background();
    let result = result.and_then(|found| show(cli, found, &observer, document));
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

/// Begins a run, or opens one that is to go on where no `asked` is given, and sees it through.
async fn investigate(
    cli: &Cli,
    asked: Option<Asked>,
    store: Option<Store>,
    journal: &mut Option<Journal>,
    progress: &Progress,
) -> Result<Found, Problem> {
    let mut model = None;
    let journal = journal.insert(match (&asked, &cli.resume) {
        (None, Some(id)) => Journal::reopen(id, store).await?,
        (None, None) => unreachable!("a run is new or goes on"),
        (Some(asked), _) => {
            // First, so that nothing is kept of a run that cannot begin.
            model = Some(Model::connect(asked).await?);
            Journal::start(cli, asked, store).await?
        }
    });
    let run = RunSpan::open();
    let phases = go_on(cli, asked, model, journal, &run, progress);
    let result = phases.instrument(run.span().clone()).await;
    match &result {
        Ok(found) => run.end(&found.outcome.survey),
        Err(problem) => run.fail(&problem.sentence()),
    }
    result
}

/// Goes through the phases that are left, and keeps each.
async fn go_on(
    cli: &Cli,
    asked: Option<Asked>,
    model: Option<Model>,
    journal: &mut Journal,
    run: &RunSpan,
    progress: &Progress,
) -> Result<Found, Problem> {
    let (asked, outcome) = match asked {
        Some(asked) => (asked, None),
        None => journal.resume().await?,
    };
    cli.agrees_with(&asked)?;
    run.about(&asked.ticker);
    let found = match outcome {
        Some(outcome) => Found { asked, outcome, failure: None },
        None => research(asked, model, journal, progress).await?,
    };
    if found.failure.is_none() {
        if !cli.json {
            print(&format!(
                "{}\n",
                found.report(journal.warnings())?.to_text(Style::of(&io::stdout()))
            ))?;
        }
        journal.save(Phase::Done, &found.asked, Some(&found.outcome)).await?;
    }
    Ok(found)
}

/// Asks the analysts; where none has an answer, the next run asks again.
async fn research(
    asked: Asked,
    model: Option<Model>,
    journal: &mut Journal,
    progress: &Progress,
) -> Result<Found, Problem> {
    let prices = Prices::of(&asked.ticker)?;
    let Model { endpoint, patience, _server } = match model {
        Some(model) => model,
        None => Model::connect(&asked).await?,
    };
    journal.save(Phase::Research, &asked, None).await?;
    let swarm = Swarm::new(&endpoint, patience, asked.order.into(), journal.store(), progress);
    let workflow = journal.id().clone();
    let survey = journal.during(swarm.run(&prices, &workflow)).await?;
    let outcome = Outcome { survey, source: Source::from(&*endpoint) };
    if outcome.survey.findings.is_empty() {
        let failure = Some(diagnosis::of_total_failure(&outcome.survey, &endpoint));
        return Ok(Found { asked, outcome, failure });
    }
    journal.save(Phase::Report, &asked, Some(&outcome)).await?;
    Ok(Found { asked, outcome, failure: None })
}

/// Shows the trace and what there is of a report for programs; people have read theirs.
fn show(
    cli: &Cli,
    found: Found,
    observer: &Observer,
    document: &mut Document,
) -> Result<(), Problem> {
    document.report = found.report(&document.warnings)?.to_json();
    if !cli.json {
        print(&observer.to_text())?;
    }
    found.failure.map_or(Ok(()), |why| Err(Problem::Endpoint(why)))
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

// ===== impl Model =====

impl Model {
    /// Finds the model that is to be asked: the embedded one, or that of the environment.
    async fn connect(asked: &Asked) -> Result<Self, Problem> {
        if let Some(faults) = asked.embedded {
            let server = EmbeddedServer::start(faults).await?;
            let endpoint = Arc::new(server.endpoint());
            return Ok(Self { endpoint, patience: Patience::EMBEDDED, _server: Some(server) });
        }
        let endpoint = Settings::from_env().endpoint()?.ok_or_else(|| {
            Problem::WrongUse("the workflow asks an endpoint: set OPENAI_BASE_URL".to_owned())
        })?;
        reach(&endpoint).await?;
        Ok(Self { endpoint: Arc::new(endpoint), patience: Patience::REAL, _server: None })
    }
}

/// Finds out whether anybody listens there, before agents with all their patience do.
async fn reach(endpoint: &Endpoint) -> Result<(), Problem> {
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

// ===== impl Found =====

impl Found {
    fn report<'a>(&'a self, warnings: &'a [String]) -> Result<Report<'a>, Problem> {
        let Outcome { survey, source } = &self.outcome;
        let prices = Prices::of(&self.asked.ticker)?;
        Ok(Report { prices, survey, source, faults: self.asked.embedded, warnings })
    }
}

// ===== impl Document =====

impl Document {
    fn note(&mut self, journal: &Journal) {
        self.store = journal.place();
        self.workflow_id = self.store.is_some().then(|| journal.id().to_string());
        self.resumed_from = journal.resumed_from().map(str::to_owned);
        self.warnings = journal.warnings().to_vec();
    }

    fn to_text(&self, problem: Option<&Problem>) -> String {
        let document = json!({
            "report": self.report,
            "trace": self.trace.as_array().cloned().unwrap_or_default(),
            "links": self.links,
            "workflow_id": self.workflow_id,
            "store": self.store,
            "resumed_from": self.resumed_from,
            "warnings": self.warnings,
            "error": problem.map(Problem::to_json),
        });
        format!("{document:#}\n")
    }
}
