//! What a graph tells: a run that ends, one that fails, one that is resumed, one that is dropped.

use std::{io, time::Duration};

use buttress::{Failure, FailureKind, MemoryStore, WorkflowId};
use buttress_graph::{CompiledGraph, END, Node, NodeOptions, Route, START, State, StateGraph};
use serde::{Deserialize, Serialize};

use super::seen::{Seen, observe};

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Trade {
    findings: u32,
}

impl State for Trade {
    type Update = Self;

    fn apply(&mut self, update: Self) {
        *self = update;
    }
}

fn id() -> WorkflowId {
    WorkflowId::new("trade/7").unwrap()
}

fn trading(research: Node<Trade>, store: Option<MemoryStore>) -> CompiledGraph<Trade> {
    let route = |trade: &Trade, result: Result<(), &Failure>| match result {
        Ok(()) if trade.findings > 0 => Route::to(Route::SUCCESS),
        _ => Route::to(Route::FAIL),
    };
    let mut graph = StateGraph::new("trading")
        .add_node_with("research", research, NodeOptions::none())
        .add_node_with("gate", finds(1), NodeOptions::none())
        .add_edge(START, "research")
        .add_conditional_edges("research", route, [("success", "gate"), ("fail", END)])
        .add_edge("gate", END)
        .lease("worker", Duration::from_secs(30));
    if let Some(store) = store {
        graph = graph.store(store);
    }
    graph.compile().unwrap()
}

fn finds(findings: u32) -> Node<Trade> {
    Node::request_fn(move |_| async move { Ok::<_, io::Error>(Trade { findings }) })
}

fn fails() -> Node<Trade> {
    Node::request_fn(|_| async {
        Err::<Trade, _>(Failure::new(FailureKind::QuotaExhausted).with_message("no credit"))
    })
}

fn hangs() -> Node<Trade> {
    Node::request_fn(|_| std::future::pending::<Result<Trade, io::Error>>())
}

fn finished() -> Seen {
    observe(async || {
        trading(finds(2), None).run(&id(), Trade::default()).await.unwrap();
    })
}

fn failed() -> Seen {
    observe(async || {
        trading(fails(), None).run(&id(), Trade::default()).await.unwrap_err();
    })
}

fn resumed() -> Seen {
    let store = MemoryStore::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    // Before anybody listens.
    runtime.block_on(async {
        let graph = trading(hangs(), Some(store.clone()));
        let id = id();
        let run = graph.run(&id, Trade::default());
        tokio::time::timeout(Duration::from_millis(20), run).await.unwrap_err();
    });
    observe(async || {
        let graph = trading(finds(2), Some(store));
        graph.resume(&id()).await.unwrap();
    })
}

fn dropped() -> Seen {
    observe(async || {
        let graph = trading(hangs(), None);
        let id = id();
        let run = graph.run(&id, Trade::default());
        tokio::time::timeout(Duration::from_secs(1), run).await.unwrap_err();
    })
}

scenarios![finished, failed, resumed, dropped];

#[test]
fn a_run_is_told() {
    finished().check(
        r#"
graph_trading CHAIN DEFAULT
  {"outcome":"success","steps":2,"workflow_id":"trade/7"}
  node_research CHAIN DEFAULT
    {"outcome":"success","phase":"research","route":"gate","step":1,"workflow_id":"trade/7"}
  node_gate CHAIN DEFAULT
    {"outcome":"success","phase":"gate","route":"__end__","step":2,"workflow_id":"trade/7"}
"#,
        &[],
    );
}

#[test]
fn a_failed_run_is_told() {
    failed().check(
        r#"
graph_trading CHAIN ERROR: node "research" failed: no credit
  {"error":"node \"research\" failed: no credit","error_type":"quota_exhausted","failure_kind":"quota_exhausted","outcome":"failure","steps":0,"workflow_id":"trade/7"}
  node_research CHAIN ERROR: Node research failed: no credit
    {"error":"no credit","error_type":"quota_exhausted","failure_kind":"quota_exhausted","outcome":"failure","phase":"research","step":1,"workflow_id":"trade/7"}
"#,
        &[],
    );
}

#[test]
fn a_resumed_run_says_from_where() {
    let seen = resumed();
    let root = seen.observations.iter().find(|one| one.name() == "graph_trading").unwrap();
    assert!(super::keys(root).contains_key("resumed_from"), "{:?}", super::keys(root));
    assert!(seen.observations.iter().any(|one| one.name() == "save_checkpoint"));
    super::check_rows(&seen.observations);
}

#[test]
fn a_dropped_run_is_told() {
    dropped().check(
        r#"
graph_trading CHAIN DEFAULT
  {"outcome":"cancelled","workflow_id":"trade/7"}
  node_research CHAIN DEFAULT
    {"outcome":"cancelled","phase":"research","step":1,"workflow_id":"trade/7"}
"#,
        &[],
    );
}
