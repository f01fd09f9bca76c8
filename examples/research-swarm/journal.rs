//! What is kept of a run, so that another can go on where it ended.
//!
//! The graph saves each step. Its lease lets one process work on a workflow at a time, and a
//! heartbeat renews the lease: of a process that was killed it runs out within seconds.

use std::{
    env,
    time::{Duration, SystemTime},
};

use buttress::{
    BoxStore, CheckpointKey, CheckpointStore as _, StoreError, StoreErrorKind, WorkflowId,
    checkpoint::Page, telemetry,
};
use buttress_graph::{CompiledGraph, Event, Events, GraphError, GraphErrorKind, Snapshot};
use futures_util::StreamExt as _;
use tokio::time::Instant;

use crate::{
    cli::Cli,
    problem::Problem,
    store::Store,
    terminal::tell,
    workflow::{self, Asked, Case, LEASE, Step},
};

/// How often somebody who waits for a lease looks.
const LOOK: Duration = Duration::from_millis(200);

/// How long the end of a run waits for a store that does not answer.
const FAREWELL: Duration = Duration::from_secs(2);

/// The checkpoints of one run; of one that keeps none, only what it is about.
#[derive(Debug)]
pub(crate) struct Journal {
    id: WorkflowId,
    /// Names this process among all that use the store.
    owner: String,
    kept: Option<Kept>,
    /// The phase that it goes on from.
    resumed_from: Option<String>,
    /// Why it may not be possible to go on from here.
    warnings: Vec<String>,
}

#[derive(Debug)]
struct Kept {
    place: Store,
    store: BoxStore,
}

// ===== impl Journal =====

impl Journal {
    /// Opens the store for a new run.
    ///
    /// A default store that cannot be used is told and gone on without: nobody asked for it.
    pub(crate) async fn start(
        cli: &Cli,
        asked: &Asked,
        store: Option<Store>,
    ) -> Result<Self, Problem> {
        let id = match &cli.workflow {
            Some(id) => workflow_id(id)?,
            None => new_id(&asked.ticker),
        };
        let needs_it = match (&cli.workflow, cli.kill_after) {
            (Some(_), _) => Some("--workflow"),
            (None, Some(_)) => Some("--kill-after"),
            (None, None) => None,
        };
        let is_wanted = needs_it.is_some() || store.as_ref().is_some_and(|s| !s.is_default());
        let mut journal = Self::new(id);
        match (store, needs_it) {
            (Some(store), _) => match journal.open_for_a_new_run(store).await {
                Err(Problem::Store(reason)) if !is_wanted => {
                    journal.kept = None;
                    tell(format_args!("no checkpoints: {reason}"));
                }
                opened => opened?,
            },
            (None, Some(option)) => return Err(no_store(option)),
            (None, None) => {}
        }
        if let Some(kept) = &journal.kept {
            tell(format_args!("workflow {}, kept in {}", journal.id, kept.place));
        }
        Ok(journal)
    }

    async fn open_for_a_new_run(&mut self, place: Store) -> Result<(), Problem> {
        let store = self.kept.insert(Kept::open(place).await?).store.clone();
        if self.newest().await?.is_some() {
            return Err(self.is_there_already());
        }
        // So that it is known whether the store can be written to; the run takes it anew.
        match store.acquire(&self.key(), &self.owner, LEASE).await {
            Err(error) if !is_taken(&error) => Err((&error).into()),
            _ => Ok(()),
        }
    }

    /// Opens the store for a run that goes on, and reads how far it has come.
    pub(crate) async fn reopen(id: &str, store: Option<Store>) -> Result<(Self, Case), Problem> {
        let store = store.ok_or_else(|| no_store("--resume"))?;
        let mut journal = Self::new(workflow_id(id)?);
        journal.kept = Some(Kept::open(store).await?);
        let place = journal.place().unwrap_or_default();
        let id = &journal.id;
        let Some(newest) = journal.newest().await? else {
            return Err(Problem::WrongUse(format!("there is no workflow {id} in {place}")));
        };
        let phase = match &newest.next[..] {
            [] => "done".to_owned(),
            next => next.join(","),
        };
        let age = SystemTime::now().duration_since(newest.timestamp).unwrap_or_default();
        let seconds = age.as_secs();
        tell(format_args!("workflow {id}, kept in {place}, as of {seconds} s ago: phase {phase}"));
        journal.resumed_from = Some(phase);
        Ok((journal, newest.state))
    }

    fn new(id: WorkflowId) -> Self {
        Self { id, owner: owner(), kept: None, resumed_from: None, warnings: Vec::new() }
    }

    async fn newest(&self) -> Result<Option<Snapshot<Case>>, Problem> {
        let graph = workflow::graph(None, self.store(), &self.owner);
        let newest = graph.history(&self.id, Page::newest(1)).await;
        Ok(newest.map_err(|error| self.problem(error))?.pop())
    }

    fn key(&self) -> CheckpointKey {
        CheckpointKey::new(self.id.clone())
    }

    pub(crate) fn owner(&self) -> &str {
        &self.owner
    }

    /// Returns the store, where checkpoints are kept.
    pub(crate) fn store(&self) -> Option<&BoxStore> {
        self.kept.as_ref().map(|kept| &kept.store)
    }

    /// Returns where the store is, without a password.
    pub(crate) fn place(&self) -> Option<String> {
        self.kept.as_ref().map(|kept| kept.place.to_string())
    }

    /// Returns what the run is kept under, where it is.
    pub(crate) fn id(&self) -> Option<&WorkflowId> {
        self.kept.as_ref().map(|_| &self.id)
    }

    pub(crate) fn resumed_from(&self) -> Option<&str> {
        self.resumed_from.as_deref()
    }

    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Runs the graph from its beginning, or from where it is kept, to its end.
    ///
    /// Waits for the lease of a run that was killed.
    pub(crate) async fn run(
        &mut self,
        graph: &CompiledGraph<Case>,
        case: Case,
        kill_after: Option<Step>,
    ) -> Result<Result<Case, GraphError>, Problem> {
        self.wait().await?;
        let events = match self.resumed_from {
            None => graph.stream(&self.id, case),
            Some(_) => graph.retry_failed_stream(&self.id),
        };
        let done = self.follow(events, kill_after).await;
        match done {
            Err(error) if !matches!(error.kind(), GraphErrorKind::NodeFailed { .. }) => {
                Err(self.problem(error))
            }
            done => Ok(done),
        }
    }

    /// Waits for the lease of a run that was killed, and not for that of one that goes on; takes
    /// it, and the run takes it anew.
    async fn wait(&self) -> Result<(), Problem> {
        let Some(store) = self.store() else { return Ok(()) };
        let (id, started, seconds) = (&self.id, Instant::now(), LEASE.as_secs());
        let mut seen: Option<(String, SystemTime)> = None;
        loop {
            let Err(error) = store.acquire(&self.key(), &self.owner, LEASE).await else {
                return Ok(());
            };
            let StoreErrorKind::Held { owner, until, .. } = error.kind() else {
                return Err((&error).into());
            };
            let now = (owner.clone(), *until);
            match &seen {
                None => tell(format_args!(
                    "workflow {id} is held by {owner}: waiting at most {seconds} s for a sign of life"
                )),
                // It was renewed, or is one that lasts longer than ours do.
                Some(before) if *before != now || started.elapsed() > 2 * LEASE => {
                    return Err(Problem::Store(format!(
                        "{owner} is working on workflow {id}, which is free {seconds} s after its last sign of life"
                    )));
                }
                Some(_) => {}
            }
            seen = Some(now);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Sees a run to its end, notes when it could not be saved, and kills it where that was asked.
    async fn follow(
        &mut self,
        mut events: Events<Case>,
        kill_after: Option<Step>,
    ) -> Result<Case, GraphError> {
        let mut is_due = false;
        while let Some(event) = events.next().await {
            match event {
                Event::NodeFinished { node, .. } => {
                    is_due |= kill_after.is_some_and(|step| step.name() == node);
                }
                Event::CheckpointSaved { .. } if is_due => self.kill(),
                Event::SaveSkipped { error } => {
                    let reason = Problem::from(error).sentence();
                    self.warn(&reason);
                }
                Event::Ended(done) => return done,
                _ => {}
            }
        }
        unreachable!("the last event of a run is its end")
    }

    /// Ends this process as `kill -9` does: nothing is flushed, dropped or given back.
    fn kill(&self) {
        let id = &self.id;
        tell(format_args!("killed, as --kill-after asks for; --resume {id} goes on"));
        #[cfg(unix)]
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
            .ok();
        std::process::abort();
    }

    /// Gives the lease of an interrupted run back, so that nobody has to wait for its end.
    pub(crate) async fn release(&self) {
        let Some(store) = self.store() else { return };
        let release = async {
            // Who holds a lease may take it anew.
            let lease = store.acquire(&self.key(), &self.owner, LEASE).await?;
            store.release(&lease).await
        };
        // Whatever keeps it from being given back, it runs out by itself.
        drop(tokio::time::timeout(FAREWELL, release).await);
    }

    /// Notes why the run can no longer be gone on with; what follows is mostly the same once more.
    fn warn(&mut self, reason: &str) {
        if self.warnings.is_empty() {
            let warning = format!("the store was away, a resumed run may ask again: {reason}");
            tracing::warn!(target: telemetry::LOG_TARGET, "{warning}");
            self.warnings.push(warning);
        }
    }

    fn problem(&self, error: GraphError) -> Problem {
        let (id, place) = (&self.id, self.place().unwrap_or_default());
        match error.kind() {
            GraphErrorKind::Unfinished => self.is_there_already(),
            GraphErrorKind::NotFound => {
                Problem::WrongUse(format!("there is no workflow {id} in {place}"))
            }
            _ => match store_error(&error) {
                Some(store) if is_taken(store) => {
                    Problem::Store(format!("somebody else has taken over workflow {id}"))
                }
                Some(store) => store.into(),
                None => Problem::Unexpected(error.into()),
            },
        }
    }

    fn is_there_already(&self) -> Problem {
        let id = &self.id;
        Problem::WrongUse(format!("workflow {id} is there already; --resume {id} goes on with it"))
    }
}

fn store_error(error: &GraphError) -> Option<&StoreError> {
    error.cause()?.downcast_ref()
}

fn is_taken(error: &StoreError) -> bool {
    matches!(
        error.kind(),
        StoreErrorKind::Fenced { .. }
            | StoreErrorKind::Held { .. }
            | StoreErrorKind::Conflict { .. }
    )
}

// ===== impl Kept =====

impl Kept {
    async fn open(place: Store) -> Result<Self, Problem> {
        let store = place.open().await?;
        Ok(Self { place, store })
    }
}

fn owner() -> String {
    let host = ["HOSTNAME", "COMPUTERNAME"].iter().find_map(|name| env::var(name).ok());
    let host = host.map(|host| format!(" on {host}")).unwrap_or_default();
    format!("process {}{host} ({})", std::process::id(), random())
}

fn new_id(ticker: &str) -> WorkflowId {
    let id = format!("{}-{}", ticker.to_ascii_lowercase(), random());
    WorkflowId::new(id).expect("a few letters make an id")
}

/// Eight letters and digits.
fn random() -> String {
    std::iter::repeat_with(|| fastrand::char('0'..='z'))
        .filter(|char| char.is_ascii_digit() || char.is_ascii_lowercase())
        .take(8)
        .collect()
}

fn workflow_id(id: &str) -> Result<WorkflowId, Problem> {
    WorkflowId::new(id).map_err(|error| Problem::WrongUse(error.to_string()))
}

fn no_store(option: &str) -> Problem {
    Problem::WrongUse(format!("{option} needs a store: --store file:PATH"))
}
