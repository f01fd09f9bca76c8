//! Five analysts, each a fault-tolerant agent, ask a language model over HTTP about a stock; a
//! strategy is made of what they found, and checked.
//!
//! ```sh
//! cargo run --release --bin research-swarm
//! cargo run --release --bin research-swarm -- --faults storm --seed 7
//! cargo run --release --bin research-swarm -- --kill-after research_swarm --workflow aapl
//! cargo run --release --bin research-swarm -- --resume aapl
//! ```
//!
//! Three files hold what buttress is about. `swarm.rs`: an agent for each analyst with retries, a
//! timeout, a circuit breaker shared by all who ask the same model, a weaker model to fall back to,
//! and a memo of its answer; and the swarm that does without some of them. `workflow.rs`: the graph
//! of nodes, saved after each step, so that another run goes on where one has ended. `observe.rs`
//! sends what happens to Langfuse and shows it here.

mod analysts;
mod cli;
mod diagnosis;
mod journal;
mod llm;
mod observe;
mod prices;
mod problem;
mod progress;
mod quality;
mod report;
mod signals;
mod store;
mod strategy;
mod style;
mod swarm;
mod terminal;
mod text;
mod workflow;

use std::{io, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser as _;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use self::{
    cli::Cli,
    journal::Journal,
    llm::{EmbeddedServer, Endpoint, Settings, Source},
    observe::Observer,
    prices::Prices,
    problem::Problem,
    progress::Progress,
    report::Report,
    signals::Signals,
    store::Store,
    style::Style,
    swarm::{Missing, Patience, Swarm},
    terminal::{print, tell},
    workflow::{Asked, Case, Team},
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
    case: Case,
    /// Where the swarm has failed: who has no answer, and why.
    failure: Option<(Vec<Missing>, String)>,
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
        if let Some(journal) = &journal {
            if matches!(result, Err(Problem::Interrupted)) {
                journal.release().await;
            }
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
    let (journal, case, mut model) = match (asked, &cli.resume) {
        (None, Some(id)) => {
            let (reopened, case) = Journal::reopen(id, store).await?;
            cli.agrees_with(&case.asked)?;
            (journal.insert(reopened), case, None)
        }
        (None, None) => unreachable!("a run is new or goes on"),
        (Some(asked), _) => {
            // First, so that nothing is kept of a run that cannot begin.
            let model = Model::connect(&asked).await?;
            let started = Journal::start(cli, &asked, store).await?;
            (journal.insert(started), Case::new(asked), Some(model))
        }
    };
    // One whose research is done asks nobody.
    if case.survey.is_none() && model.is_none() {
        model = Some(Model::connect(&case.asked).await?);
    }
    let team = model.as_ref().map(|model| model.team(&case.asked, journal, progress));
    let graph = workflow::graph(team.clone(), journal.store(), journal.owner());
    let found = match (journal.run(&graph, case.clone(), cli.kill_after).await?, team, &model) {
        (Ok(case), ..) => Found { case, failure: None },
        (Err(error), Some(team), Some(model)) => {
            let missing = Missing::of(&error);
            let failures = team.swarm.failures();
            let why = diagnosis::of_a_failed_swarm(&missing, &failures, &model.endpoint);
            Found { case, failure: Some((missing, why)) }
        }
        (Err(error), ..) => return Err(Problem::Unexpected(error.into())),
    };
    if found.failure.is_none() && !cli.json {
        let report = found.report(journal.warnings())?;
        print(&format!("{}\n", report.to_text(Style::of(&io::stdout()))))?;
    }
    Ok(found)
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
    found.failure.map_or(Ok(()), |(_, why)| Err(Problem::Endpoint(why)))
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

    fn team(&self, asked: &Asked, journal: &Journal, progress: &Progress) -> Arc<Team> {
        let (endpoint, order) = (&self.endpoint, asked.order.into());
        let store = journal.store();
        let swarm = Swarm::new(endpoint, self.patience, order, &asked.ticker, store, progress);
        Arc::new(Team { swarm, source: Source::from(&**endpoint) })
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
        let prices = Prices::of(&self.case.asked.ticker)?;
        let missing = self.failure.as_ref().map_or(&[][..], |(missing, _)| missing);
        Ok(Report { prices, case: &self.case, missing, warnings })
    }
}

// ===== impl Document =====

impl Document {
    fn note(&mut self, journal: &Journal) {
        self.store = journal.place();
        self.workflow_id = journal.id().map(ToString::to_string);
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
