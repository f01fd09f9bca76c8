//! What is kept of a run, so that another can go on where it ended.
//!
//! A [`Workflow`] saves each phase. Its lease lets one process work on it at a time, and a
//! heartbeat renews the lease: of a process that was killed it runs out within seconds.

use std::{
    env,
    time::{Duration, SystemTime},
};

use buttress::{
    BoxStore, CheckpointStore as _, Checkpointer, StoreError, StoreErrorKind, WorkflowId,
    checkpoint::{WhenUnavailable, Workflow},
    telemetry,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::{
    cli::{Cli, Nesting},
    llm::{Faults, Source},
    problem::Problem,
    store::Store,
    swarm::Survey,
    terminal::tell,
};

/// How long a lease lasts, and so how long a killed run keeps others waiting.
const LEASE: Duration = Duration::from_secs(5);
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How often somebody who waits for a lease looks.
const LOOK: Duration = Duration::from_millis(200);

/// How long the end of a run waits for a store that does not answer.
const FAREWELL: Duration = Duration::from_secs(2);

/// What a run was asked; one that goes on asks the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) ticker: String,
    /// What the embedded server does, where it plays the model.
    pub(crate) embedded: Option<Faults>,
    pub(crate) order: Nesting,
}

/// What a run came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) survey: Survey,
    pub(crate) source: Source,
}

/// How far a run has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The analysts are asked.
    Research,
    /// All have answered or failed.
    Report,
    /// The report was written.
    Done,
}

/// What a checkpoint holds.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    asked: Asked,
    outcome: Option<Outcome>,
}

/// The checkpoints of one run; of one that keeps none, only what it is about.
#[derive(Debug)]
pub(crate) struct Journal {
    id: WorkflowId,
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
    workflow: Workflow<State>,
}

// ===== impl Journal =====

impl Journal {
    /// Opens the store for a new run and takes the lease.
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
        let is_wanted = cli.workflow.is_some() || store.as_ref().is_some_and(|s| !s.is_default());
        let kept = match store {
            Some(store) => match Kept::open(store, &id, false).await {
                Err(Problem::Store(reason)) if !is_wanted => {
                    tell(format_args!("no checkpoints: {reason}"));
                    None
                }
                kept => Some(kept?),
            },
            None if is_wanted => return Err(no_store("--workflow")),
            None => None,
        };
        if let Some(kept) = &kept {
            tell(format_args!("workflow {id}, kept in {}", kept.place));
        }
        Ok(Self { id, kept, resumed_from: None, warnings: Vec::new() })
    }

    /// Opens the store for a run that goes on and takes the lease.
    pub(crate) async fn reopen(id: &str, store: Option<Store>) -> Result<Self, Problem> {
        let store = store.ok_or_else(|| no_store("--resume"))?;
        let id = workflow_id(id)?;
        let kept = Some(Kept::open(store, &id, true).await?);
        Ok(Self { id, kept, resumed_from: None, warnings: Vec::new() })
    }

    /// Reads what a run that goes on was asked, and what it came to where it did.
    pub(crate) async fn resume(&mut self) -> Result<(Asked, Option<Outcome>), Problem> {
        let kept = self.kept.as_mut().expect("a journal without a store is not reopened");
        let resumed = kept.workflow.resume().await?;
        let (checkpoint, seconds) = (resumed.checkpoint, resumed.age.as_secs());
        let (id, phase) = (&self.id, checkpoint.phase);
        let place = &kept.place;
        tell(format_args!("workflow {id}, kept in {place}, as of {seconds} s ago: phase {phase}"));
        self.resumed_from = Some(phase);
        let State { asked, outcome } = checkpoint.state;
        Ok((asked, outcome))
    }

    pub(crate) const fn id(&self) -> &WorkflowId {
        &self.id
    }

    /// Returns the store, where checkpoints are kept.
    pub(crate) fn store(&self) -> Option<&BoxStore> {
        self.kept.as_ref().map(|kept| &kept.store)
    }

    /// Returns where the store is, without a password.
    pub(crate) fn place(&self) -> Option<String> {
        self.kept.as_ref().map(|kept| kept.place.to_string())
    }

    pub(crate) fn resumed_from(&self) -> Option<&str> {
        self.resumed_from.as_deref()
    }

    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Saves how far the run has come; goes on without where the store is away.
    pub(crate) async fn save(
        &mut self,
        phase: Phase,
        asked: &Asked,
        outcome: Option<&Outcome>,
    ) -> Result<(), Problem> {
        let Some(kept) = &mut self.kept else { return Ok(()) };
        let state = State { asked: asked.clone(), outcome: outcome.cloned() };
        let saved = kept.workflow.save(phase.as_str(), &state).await;
        match saved.map(|saved| saved.skipped) {
            Ok(None) => Ok(()),
            Ok(Some(error)) => self.endure(error.into()),
            Err(error) => self.endure(error),
        }
    }

    /// Keeps the lease while something is being done.
    pub(crate) async fn during<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Problem> {
        tokio::select! {
            done = work => Ok(done),
            problem = self.heartbeat() => Err(problem),
        }
    }

    /// Returns only when somebody else has taken over.
    async fn heartbeat(&mut self) -> Problem {
        loop {
            tokio::time::sleep(HEARTBEAT).await;
            let Some(kept) = &mut self.kept else { return std::future::pending().await };
            let renewed = kept.workflow.renew(LEASE).await.map(drop);
            if let Err(problem) = renewed.or_else(|error| self.endure(error)) {
                return problem;
            }
        }
    }

    /// Gives the lease back, so that nobody has to wait for its end.
    pub(crate) async fn release(&mut self) {
        if let Some(kept) = &mut self.kept {
            // Whatever keeps it from being given back, it runs out by itself.
            tokio::time::timeout(FAREWELL, kept.workflow.release()).await.ok();
        }
    }

    /// Notes why the run can no longer be gone on with; ends it where somebody else has.
    fn endure(&mut self, error: buttress::Error) -> Result<(), Problem> {
        let (is_taken, problem) = match error.downcast_ref::<StoreError>() {
            Some(store) => (is_taken(store), store.into()),
            None => (false, Problem::from(error)),
        };
        if is_taken {
            let taken = format!("somebody else has taken over workflow {}", self.id);
            return Err(Problem::Store(taken));
        }
        // What goes wrong after that is mostly the same once more.
        if self.warnings.is_empty() {
            let reason = problem.sentence();
            let warning = format!("the store was away, a resumed run may ask again: {reason}");
            tracing::warn!(target: telemetry::LOG_TARGET, "{warning}");
            self.warnings.push(warning);
        }
        Ok(())
    }
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
    async fn open(place: Store, id: &WorkflowId, exists: bool) -> Result<Self, Problem> {
        let store = place.open().await?;
        let checkpointer = Checkpointer::new(store.clone());
        let workflow = checkpointer.when_unavailable(WhenUnavailable::GO_ON).workflow(id);
        let mut kept = Self { place, store, workflow };
        // Before, so that nobody waits for what cannot be; and after, since others write too.
        kept.expect(exists).await?;
        kept.take().await?;
        if let Err(problem) = kept.expect(exists).await {
            tokio::time::timeout(FAREWELL, kept.workflow.release()).await.ok();
            return Err(problem);
        }
        Ok(kept)
    }

    /// Checks that the workflow is there, or that it is not.
    async fn expect(&self, exists: bool) -> Result<(), Problem> {
        let id = self.workflow.id();
        let head = self.store.latest(&id.clone().into()).await;
        match (head.map_err(|error| Problem::from(&error))?, exists) {
            (None, true) => {
                Err(Problem::WrongUse(format!("there is no workflow {id} in {}", self.place)))
            }
            (Some(_), false) => {
                let go_on =
                    format!("workflow {id} is there already; --resume {id} goes on with it");
                Err(Problem::WrongUse(go_on))
            }
            _ => Ok(()),
        }
    }

    /// Takes the lease; waits for that of a run that was killed, and not for one that goes on.
    async fn take(&mut self) -> Result<(), Problem> {
        let (owner, started) = (owner(), Instant::now());
        let mut seen: Option<(String, SystemTime)> = None;
        loop {
            let Err(error) = self.workflow.acquire(&owner, LEASE).await else { return Ok(()) };
            let Some((holder, until)) = holder(&error) else { return Err(error.into()) };
            let (id, seconds) = (self.workflow.id(), LEASE.as_secs());
            match &seen {
                None => tell(format_args!(
                    "workflow {id} is held by {holder}: waiting at most {seconds} s for a sign of life"
                )),
                // It was renewed, or is one that lasts longer than ours do.
                Some(before)
                    if *before != (holder.clone(), until) || started.elapsed() > 2 * LEASE =>
                {
                    return Err(Problem::Store(format!(
                        "{holder} is working on workflow {id}, which is free {seconds} s after its last sign of life"
                    )));
                }
                Some(_) => {}
            }
            seen = Some((holder, until));
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Finds out who has the lease, and until when unless it is renewed.
fn holder(error: &buttress::Error) -> Option<(String, SystemTime)> {
    match error.downcast_ref::<StoreError>()?.kind() {
        StoreErrorKind::Held { owner, until, .. } => Some((owner.clone(), *until)),
        _ => None,
    }
}

/// Names this process among all that use the store.
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

// ===== impl Phase =====

impl Phase {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Research => "research",
            Self::Report => "report",
            Self::Done => "done",
        }
    }
}
