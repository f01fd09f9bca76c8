//! The workflow: the seed's graph, from the swarm over the strategy to the quality gate.
//!
//! ```text
//! START -> research_swarm -> strategy_dev -> quality_gate -> END
//! ```
//!
//! The swarm is run again where it may help, and a strategy is sent back once.

use std::{io, sync::Arc, time::Duration};

use buttress::{
    BoxError, BoxStore, Error, Failure, FailureKind, InWorkflow, checkpoint::WhenUnavailable,
};
use buttress_graph::{
    CompiledGraph, END, Node, NodeOptions, NodeRequest, Route, START, State, StateGraph,
};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::{
    cli::Nesting,
    llm::{Faults, Source},
    prices::Prices,
    quality::{self, Verdict},
    strategy::Strategy,
    swarm::{Survey, Swarm},
};

/// How long a lease lasts, and so how long a killed run keeps others waiting.
pub(crate) const LEASE: Duration = Duration::from_secs(5);

/// What a run was asked; one that goes on asks the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) ticker: String,
    /// What the embedded server does, where it plays the model.
    pub(crate) embedded: Option<Faults>,
    pub(crate) order: Nesting,
}

/// What the workflow works on; a checkpoint holds it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Case {
    pub(crate) asked: Asked,
    pub(crate) survey: Option<Survey>,
    /// Who phrased the survey.
    pub(crate) source: Option<Source>,
    pub(crate) strategy: Option<Strategy>,
    /// One for each time at the gate.
    pub(crate) verdicts: Vec<Verdict>,
}

/// What a node adds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Update {
    Surveyed(Survey, Source),
    Developed(Strategy),
    Judged(Verdict),
}

/// The nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Step {
    /// The analysts look at the stock.
    ResearchSwarm,
    /// A strategy is made of what they found.
    StrategyDev,
    /// The strategy is checked.
    QualityGate,
}

/// Who does the research: the swarm, and the model behind it.
#[derive(Debug)]
pub(crate) struct Team {
    pub(crate) swarm: Swarm,
    pub(crate) source: Source,
}

// ===== impl Case =====

impl Case {
    pub(crate) const fn new(asked: Asked) -> Self {
        Self { asked, survey: None, source: None, strategy: None, verdicts: Vec::new() }
    }
}

impl State for Case {
    type Update = Update;

    fn apply(&mut self, update: Update) {
        match update {
            Update::Surveyed(survey, source) => {
                self.survey = Some(survey);
                self.source = Some(source);
            }
            Update::Developed(strategy) => self.strategy = Some(strategy),
            Update::Judged(verdict) => self.verdicts.push(verdict),
        }
    }
}

// ===== impl Step =====

impl Step {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ResearchSwarm => "research_swarm",
            Self::StrategyDev => "strategy_dev",
            Self::QualityGate => "quality_gate",
        }
    }
}

// ===== The graph =====

/// Builds the graph; without a team it can be looked at, and cannot do research.
pub(crate) fn graph(
    team: Option<Arc<Team>>,
    store: Option<&BoxStore>,
    owner: &str,
) -> CompiledGraph<Case> {
    let [research, strategy, gate] =
        [Step::ResearchSwarm, Step::StrategyDev, Step::QualityGate].map(Step::name);
    let patience = team.as_ref().map(|team| team.swarm.patience());
    let options = NodeOptions::new();
    // The agents have breakers of their own, and each failure of a swarm is one of many agents.
    let options = match patience {
        Some(patience) => options.retry(patience.retry()).no_circuit_breaker(),
        None => options,
    };
    let graph = StateGraph::new("trading")
        .add_node_with(
            research,
            Node::request_fn(move |asked| survey(team.clone(), asked)),
            options,
        )
        .add_node(strategy, develop)
        .add_node(gate, judge)
        .add_edge(START, research)
        .add_conditional_edges(
            research,
            move |_, result| match result {
                Ok(()) => Route::SUCCESS.into(),
                Err(failure)
                    if failure.is_retryable()
                        && patience.is_some_and(|p| p.waits(failure.retry_after())) =>
                {
                    Route::RETRY.into()
                }
                Err(_) => Route::FAIL.into(),
            },
            [(Route::SUCCESS, strategy), (Route::RETRY, research), (Route::FAIL, END)],
        )
        .add_edge(strategy, gate)
        .add_conditional_edges(
            gate,
            |case: &Case, result| match (result, case.verdicts.last()) {
                (Err(_), _) => Route::FAIL.into(),
                (Ok(()), Some(verdict)) if verdict.passed() => "approved".into(),
                (Ok(()), _) if case.verdicts.len() <= quality::REVISIONS => "revise".into(),
                (Ok(()), _) => "rejected".into(),
            },
            [("approved", END), ("revise", strategy), ("rejected", END), (Route::FAIL, END)],
        )
        .lease(owner, LEASE)
        // A report without checkpoints is better than none.
        .when_unavailable(WhenUnavailable::GO_ON);
    let graph = match store {
        Some(store) => graph.store(store.clone()),
        None => graph,
    };
    graph.compile().expect("a test compiles the same graph")
}

async fn survey(team: Option<Arc<Team>>, asked: NodeRequest<Case>) -> Result<Update, BoxError> {
    let team = team.ok_or_else(|| io::Error::other("there is nobody to ask"))?;
    let prices = Prices::of(&asked.state.asked.ticker)?;
    let asked = InWorkflow::new(asked.workflow_id, Arc::new(prices));
    let survey = team.swarm.survey(asked).await.map_err(worth_a_wait)?;
    Ok(Update::Surveyed(survey, team.source.clone()))
}

/// Lets a swarm be asked again whose circuits are open, once they are not: no retry asks a circuit
/// that is open, but the node behind it only has too much to do for a while.
fn worth_a_wait(error: Error) -> Error {
    match (error.failure().kind(), error.failure().retry_after()) {
        (FailureKind::CircuitOpen, Some(wait)) => {
            let failure = Failure::new(FailureKind::Overloaded).with_retry_after(wait);
            error.with_failure(failure.with_message("the circuits of the models are open"))
        }
        _ => error,
    }
}

async fn develop(case: Case) -> Result<Update, BoxError> {
    let survey = case.survey.as_ref().ok_or_else(|| io::Error::other("there is no survey"))?;
    let prices = Prices::of(&case.asked.ticker)?;
    Ok(Update::Developed(Strategy::develop(survey, &prices, &case.verdicts)))
}

async fn judge(case: Case) -> Result<Update, io::Error> {
    let strategy =
        case.strategy.as_ref().ok_or_else(|| io::Error::other("there is no strategy"))?;
    Ok(Update::Judged(Verdict::of(strategy)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also proves that the graph compiles.
    #[test]
    fn the_picture_in_the_readme_is_that_of_the_graph() {
        let readme = include_str!("../../README.md");
        let picture = format!("```mermaid\n{}```\n", graph(None, None, "test").to_mermaid());
        assert!(readme.contains(&picture), "the README needs\n{picture}");
    }
}
