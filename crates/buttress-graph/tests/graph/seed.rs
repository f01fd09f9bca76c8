//! The seed's graph ("Integration with LangGraph"), with the edges that it leaves out: from the
//! strategy to the quality gate, and from there to the end.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use buttress::{
    CheckpointKey, CheckpointStore as _, Failure, FailureKind, MemoryStore, checkpoint::Page,
};
use buttress_graph::{
    CompiledGraph, END, GraphErrorKind, NodeRequest, Route, START, State, StateGraph, Status,
};
use serde::{Deserialize, Serialize};

use crate::id;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct WorkflowState {
    ticker: String,
    findings: Vec<String>,
    strategy: Option<String>,
    is_approved: bool,
}

impl State for WorkflowState {
    type Update = Self;

    fn apply(&mut self, update: Self) {
        *self = update;
    }
}

fn route_with_error_handling(_: &WorkflowState, result: Result<(), &Failure>) -> Route {
    match result {
        Ok(()) => Route::to(Route::SUCCESS),
        Err(failure) if failure.is_retryable() => Route::to(Route::RETRY),
        Err(_) => Route::to(Route::FAIL),
    }
}

/// What goes wrong with the swarm, call by call; then it answers. And how often it was called.
#[derive(Clone, Default)]
struct Swarm(Arc<Mutex<(VecDeque<FailureKind>, u32)>>);

impl Swarm {
    fn failing(failures: &[FailureKind]) -> Self {
        Self(Arc::new(Mutex::new((failures.iter().copied().collect(), 0))))
    }

    fn call(&self) -> Result<(), Failure> {
        let mut swarm = self.0.lock().unwrap();
        swarm.1 += 1;
        swarm.0.pop_front().map_or(Ok(()), |kind| Err(Failure::new(kind)))
    }

    fn calls(&self) -> u32 {
        self.0.lock().unwrap().1
    }
}

/// Every node as the seed wraps it: a checkpoint before, 300 s, three attempts, a breaker.
fn fault_tolerant_graph(swarm: &Swarm, store: &MemoryStore) -> CompiledGraph<WorkflowState> {
    let swarm = swarm.clone();
    let research_swarm = move |state: WorkflowState| {
        let answer = swarm.call();
        async move {
            answer?;
            let findings = vec![format!("{} trends up", state.ticker)];
            Ok::<_, Failure>(WorkflowState { findings, ..state })
        }
    };
    let strategy_dev = |state: WorkflowState| async move {
        let strategy = Some(format!("hold, since {}", state.findings.join(", ")));
        Ok::<_, Failure>(WorkflowState { strategy, ..state })
    };
    let quality_gate = |state: WorkflowState| async move {
        let is_approved = state.strategy.is_some();
        Ok::<_, Failure>(WorkflowState { is_approved, ..state })
    };
    StateGraph::new("seed")
        .add_node("research_swarm", research_swarm)
        .add_node("strategy_dev", strategy_dev)
        .add_node("quality_gate", quality_gate)
        .add_edge(START, "research_swarm")
        .add_conditional_edges(
            "research_swarm",
            route_with_error_handling,
            [("success", "strategy_dev"), ("retry", "research_swarm"), ("fail", END)],
        )
        .add_edge("strategy_dev", "quality_gate")
        .add_edge("quality_gate", END)
        .store(store.clone())
        .compile()
        .unwrap()
}

fn trade() -> WorkflowState {
    WorkflowState { ticker: "AAPL".to_owned(), ..WorkflowState::default() }
}

fn approved() -> WorkflowState {
    WorkflowState {
        ticker: "AAPL".to_owned(),
        findings: vec!["AAPL trends up".to_owned()],
        strategy: Some("hold, since AAPL trends up".to_owned()),
        is_approved: true,
    }
}

async fn phases(store: &MemoryStore) -> Vec<String> {
    let history = store.history(&CheckpointKey::new(id()), Page::newest(99)).await.unwrap();
    history.into_iter().rev().map(|checkpoint| checkpoint.phase).collect()
}

#[tokio::test(start_paused = true)]
async fn success_leads_through_strategy_and_gate_with_a_checkpoint_before_each_node() {
    let (swarm, store) = (Swarm::default(), MemoryStore::new());
    let graph = fault_tolerant_graph(&swarm, &store);
    assert_eq!(graph.run(&id(), trade()).await.unwrap(), approved());
    assert_eq!(phases(&store).await, ["research_swarm", "strategy_dev", "quality_gate", END]);
}

/// Three attempts are the node's, then the router sends it there again; the breaker counts on.
#[tokio::test(start_paused = true)]
async fn retry_leads_back_to_the_swarm_when_its_attempts_are_spent() {
    let (swarm, store) = (Swarm::failing(&[FailureKind::Overloaded; 4]), MemoryStore::new());
    let graph = fault_tolerant_graph(&swarm, &store);
    assert_eq!(graph.run(&id(), trade()).await.unwrap(), approved());
    assert_eq!(swarm.calls(), 5);
    let expected = ["research_swarm", "research_swarm", "strategy_dev", "quality_gate", END];
    assert_eq!(phases(&store).await, expected);
}

#[tokio::test(start_paused = true)]
async fn fail_leads_to_the_end_with_the_error_in_the_record_and_nothing_lost() {
    let (swarm, store) = (Swarm::failing(&[FailureKind::Permanent]), MemoryStore::new());
    let graph = fault_tolerant_graph(&swarm, &store);
    let error = graph.run(&id(), trade()).await.unwrap_err();
    let node = "research_swarm".to_owned();
    assert_eq!(*error.kind(), GraphErrorKind::NodeFailed { node });
    assert_eq!(error.cause().unwrap().failure().kind(), FailureKind::Permanent);
    assert_eq!(swarm.calls(), 1);
    // Whoever comes later is told the same, and the agent is not asked for it.
    let again = graph.resume(&id()).await.unwrap_err();
    assert_eq!(again.kind(), error.kind());
    assert_eq!(swarm.calls(), 1);
    let newest = graph.history(&id(), Page::newest(1)).await.unwrap();
    assert_eq!((&newest[0].state, newest[0].status), (&trade(), Status::Running));
    // Mended, it goes on from there.
    assert_eq!(graph.retry_failed(&id()).await.unwrap(), approved());
    assert_eq!(swarm.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_swarm_that_hangs_fails_after_all_its_time_and_retries() {
    let store = MemoryStore::new();
    let hangs =
        |_: NodeRequest<WorkflowState>| std::future::pending::<Result<WorkflowState, Failure>>();
    let graph = StateGraph::new("seed")
        .add_node("research_swarm", buttress_graph::Node::request_fn(hangs))
        .add_edge(START, "research_swarm")
        .add_conditional_edges(
            "research_swarm",
            route_with_error_handling,
            [("success", END), ("retry", "research_swarm"), ("fail", END)],
        )
        .store(store)
        .compile()
        .unwrap();
    let started = tokio::time::Instant::now();
    let error = graph.run(&id(), trade()).await.unwrap_err();
    assert!(matches!(error.kind(), GraphErrorKind::NodeFailed { .. }), "{error:?}");
    // Five attempts of 300 s, then the breaker is open.
    let waited = started.elapsed().as_secs();
    assert!((1500..1900).contains(&waited), "{waited} s");
}
