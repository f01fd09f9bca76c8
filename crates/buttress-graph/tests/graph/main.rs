//! Graphs by their public API.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "what was counted is to be read")]

mod away;
mod killed;
mod promises;
mod random;
mod resumed;
mod seed;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use buttress::{
    Error, ErrorKind, Failure, FailureKind, MemoryStore, RetryLayer, WorkflowId,
    test_util::PanicsOnDrop,
};
use buttress_graph::{
    Command, CompiledGraph, END, GraphError, GraphErrorKind, Node, NodeOptions, NodeRequest, Route,
    START, State, StateGraph,
};
use serde::{Deserialize, Serialize};
use tower::{ServiceExt as _, service_fn};

/// Names of nodes in the order of their updates, and a few fields.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Log {
    pub(crate) visits: Vec<String>,
    pub(crate) price: u32,
    pub(crate) advice: Option<String>,
}

/// Adds a visit, and sets what is there.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Visit {
    visit: String,
    price: Option<u32>,
    advice: Option<String>,
}

impl State for Log {
    type Update = Visit;

    fn apply(&mut self, update: Visit) {
        self.visits.push(update.visit);
        self.price = update.price.unwrap_or(self.price);
        self.advice = update.advice.or(self.advice.take());
    }
}

pub(crate) fn visit(name: &str) -> Visit {
    Visit { visit: name.to_owned(), ..Visit::default() }
}

/// A node that says it was there.
pub(crate) fn node(name: &'static str) -> Node<Log> {
    Node::request_fn(move |_| async move { Ok::<_, io::Error>(visit(name)) })
}

pub(crate) fn id() -> WorkflowId {
    WorkflowId::new("trade/7").unwrap()
}

async fn run(graph: &CompiledGraph<Log>) -> Result<Log, GraphError> {
    graph.run(&id(), Log::default()).await
}

#[tokio::test]
async fn branches_run_in_the_order_of_the_graph_and_are_joined() {
    let graph = StateGraph::new("research")
        .add_node("start", node("start"))
        // The slow one is applied first all the same.
        .add_node(
            "slow",
            Node::request_fn(|_| async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Ok::<_, io::Error>(visit("slow"))
            }),
        )
        .add_node("fast", node("fast"))
        .add_node("join", node("join"))
        .add_edge(START, "start")
        .add_edge("start", "fast")
        .add_edge("start", "slow")
        .add_edge("fast", "join")
        .add_edge("slow", "join")
        .add_edge("join", END)
        .compile()
        .unwrap();
    assert_eq!(run(&graph).await.unwrap().visits, ["start", "slow", "fast", "join"]);
    // As a service, with a fresh id.
    assert_eq!(graph.oneshot(Log::default()).await.unwrap().visits.len(), 4);
}

fn two(one: Visit, other: Visit) -> CompiledGraph<Log> {
    let answers = |visit: Visit| {
        Node::request_fn(move |_| {
            let visit = visit.clone();
            async move { Ok::<_, io::Error>(visit) }
        })
    };
    StateGraph::new("two")
        .add_node("one", answers(one))
        .add_node("other", answers(other))
        .add_edge(START, "one")
        .add_edge(START, "other")
        .add_edge("one", END)
        .add_edge("other", END)
        .compile()
        .unwrap()
}

#[tokio::test]
async fn branches_that_write_one_field_without_a_reducer_are_an_error_that_names_it() {
    let price = |price| Visit { price: Some(price), ..visit("v") };
    let error = run(&two(price(1), price(2))).await.unwrap_err();
    let nodes = ["one".to_owned(), "other".to_owned()];
    let expected = GraphErrorKind::FieldConflict { field: "price".to_owned(), nodes };
    assert_eq!(*error.kind(), expected);
    // Equal values, and other fields, are none; `visits` has a reducer.
    assert_eq!(run(&two(price(2), price(2))).await.unwrap().price, 2);
    let advice = Visit { advice: Some("buy".to_owned()), ..visit("a") };
    let log = run(&two(price(3), advice)).await.unwrap();
    assert_eq!((log.price, log.advice.as_deref(), log.visits.len()), (3, Some("buy"), 2));
}

/// The simple case: the update is the whole state, and branches change different fields of it.
#[tokio::test]
async fn whole_states_of_branches_are_joined_field_by_field() {
    #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
    struct Whole {
        one: u32,
        other: u32,
        state: u32,
    }
    impl State for Whole {
        type Update = Self;
        fn apply(&mut self, update: Self) {
            *self = update;
        }
    }
    let graph = StateGraph::<Whole>::new("whole")
        .add_node(
            "one",
            |whole: Whole| async move { Ok::<_, io::Error>(Whole { one: 1, ..whole }) },
        )
        .add_node("other", |whole: Whole| async move {
            Ok::<_, io::Error>(Whole { other: 2, state: 3, ..whole })
        })
        .add_edge(START, "one")
        .add_edge(START, "other")
        .add_edge("one", END)
        .add_edge("other", END)
        .compile()
        .unwrap();
    let whole = graph.run(&id(), Whole::default()).await.unwrap();
    assert_eq!(whole, Whole { one: 1, other: 2, state: 3 });
}

#[tokio::test]
async fn commands_go_to_nodes_and_fan_out_over_a_list() {
    let graph = StateGraph::new("fan")
        .add_node(
            "list",
            Node::request_fn(|request: NodeRequest<Log>| async move {
                let send = |command: Command<Log>, price| {
                    command.send("one", Log { price, ..request.state.clone() })
                };
                Ok::<_, io::Error>((1..=3).fold(Command::update(visit("list")), send))
            }),
        )
        .add_node(
            "one",
            Node::request_fn(|request: NodeRequest<Log>| async move {
                let name = format!("{}@{}", request.state.price, request.idempotency_key);
                Ok::<_, io::Error>(Command::update(visit(&name)).goto("last"))
            }),
        )
        .add_node("last", node("last"))
        .add_edge(START, "list")
        .add_edge("list", "one")
        .add_edge("one", END)
        .add_conditional_edges("one", |_, _| "end".into(), [("last", "last"), ("end", END)])
        .add_edge("last", END)
        .compile()
        .unwrap();
    let visits = run(&graph).await.unwrap().visits;
    let sent = |number| format!("{number}@trade/7/1:2:one:{number}");
    assert_eq!(visits, ["list".into(), sent(1), sent(2), sent(3), "last".into()]);
}

#[tokio::test]
async fn a_cycle_ends_at_the_limit_with_the_names_of_its_nodes() {
    let graph = StateGraph::new("cycle")
        .add_node("ask", node("ask"))
        .add_node("answer", node("answer"))
        .add_edge(START, "ask")
        .add_edge("ask", "answer")
        .add_edge("answer", "ask")
        .compile()
        .unwrap();
    let error = run(&graph).await.unwrap_err();
    let GraphErrorKind::RecursionLimit { limit: 25, last } = error.kind() else {
        panic!("{error:?}")
    };
    assert!(last.contains(&"ask".to_owned()) && last.contains(&"answer".to_owned()), "{last:?}");
}

fn routed(failures: u32, failure: FailureKind, calls: &Arc<AtomicU32>) -> CompiledGraph<Log> {
    let calls = Arc::clone(calls);
    let agent = service_fn(move |_: NodeRequest<Log>| {
        let call = calls.fetch_add(1, Ordering::SeqCst);
        async move { if call < failures { Err(Failure::new(failure)) } else { Ok(visit("agent")) } }
    });
    let route = |_: &Log, result: Result<(), &Failure>| match result {
        Ok(()) => Route::to(Route::SUCCESS),
        Err(failure) if failure.is_retryable() => Route::to(Route::RETRY),
        Err(_) => Route::to(Route::FAIL),
    };
    StateGraph::new("seed")
        .add_node_with("agent", Node::service(agent), NodeOptions::none())
        .add_node("next", node("next"))
        .add_edge(START, "agent")
        .add_conditional_edges(
            "agent",
            route,
            [("success", "next"), ("retry", "agent"), ("fail", END)],
        )
        .add_edge("next", END)
        .compile()
        .unwrap()
}

#[tokio::test]
async fn a_router_retries_twice_and_then_fails() {
    for (failures, kind, expected) in [
        (0, FailureKind::Transient, (true, 1)),
        (2, FailureKind::Transient, (true, 3)),
        (9, FailureKind::Transient, (false, 3)),
        (9, FailureKind::Permanent, (false, 1)),
    ] {
        let calls = Arc::default();
        let done = run(&routed(failures, kind, &calls)).await;
        assert_eq!((done.is_ok(), calls.load(Ordering::SeqCst)), expected, "{failures} {kind:?}");
        if let Err(error) = done {
            let node = "agent".to_owned();
            assert_eq!(*error.kind(), GraphErrorKind::NodeFailed { node });
            assert_eq!(error.cause().unwrap().failure().kind(), kind);
        }
    }
}

/// Retries set whole: whoever wants more patience than the layer has is not waited for.
#[tokio::test(start_paused = true)]
async fn retries_of_a_node_are_any_retry_layer() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let limited = Node::request_fn(move |_| {
        let wait =
            Duration::from_secs(if counted.fetch_add(1, Ordering::SeqCst) < 4 { 5 } else { 20 });
        let failure = Failure::new(FailureKind::RateLimited).with_retry_after(wait);
        async { Err::<Visit, _>(Error::new(ErrorKind::Service).with_failure(failure)) }
    });
    let retry = RetryLayer::new(9).max_retry_after(Duration::from_secs(10));
    let graph = StateGraph::new("limited")
        .add_node_with("limited", limited, NodeOptions::none().retry(retry))
        .add_edge(START, "limited")
        .add_edge("limited", END)
        .compile()
        .unwrap();
    let started = tokio::time::Instant::now();
    let error = run(&graph).await.unwrap_err();
    assert_eq!(error.cause().unwrap().failure().kind(), FailureKind::RateLimited);
    assert_eq!(calls.load(Ordering::SeqCst), 5);
    assert!((20..30).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_node_stands_behind_timeout_retries_and_a_breaker_of_its_own() {
    let attempts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&attempts);
    let hangs = Node::request_fn(move |request: NodeRequest<Log>| {
        let counted = Arc::clone(&counted);
        async move {
            assert_eq!(counted.fetch_add(1, Ordering::SeqCst) % 3 + 1, request.attempt);
            std::future::pending::<Result<Visit, io::Error>>().await
        }
    });
    // In parallel the policies hold too.
    let graph = StateGraph::new("hangs")
        .add_node("hangs", hangs)
        .add_node("other", node("other"))
        .add_edge(START, "hangs")
        .add_edge(START, "other")
        .add_edge("hangs", END)
        .add_edge("other", END)
        .compile()
        .unwrap();
    let started = tokio::time::Instant::now();
    let error = run(&graph).await.unwrap_err();
    assert!(error.cause().unwrap().is_timeout(), "{error:?}");
    assert_eq!(attempts.load(Ordering::SeqCst), 3);
    assert!(started.elapsed() >= Duration::from_secs(900));
    // The breaker outlives the run: two more failures open it.
    let error = run(&graph).await.unwrap_err();
    let kind = error.cause().unwrap().kind();
    assert!(matches!(kind, ErrorKind::CircuitOpen { .. } | ErrorKind::Timeout { .. }), "{kind:?}");
    let error = run(&graph).await.unwrap_err();
    assert!(error.cause().unwrap().is_circuit_open(), "{error:?}");
    assert_eq!(attempts.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn a_panic_is_the_nodes_failure_and_a_handler_deals_with_it() {
    let panics = |_: Log| async { panic!("out of cheese") as Result<Visit, io::Error> };
    let alone = StateGraph::new("panics")
        .add_node_with("panics", panics, NodeOptions::none())
        .add_edge(START, "panics")
        .add_edge("panics", END);
    let error = run(&alone.compile().unwrap()).await.unwrap_err();
    assert!(matches!(error.kind(), GraphErrorKind::NodeFailed { .. }), "{error:?}");

    let handled = NodeOptions::none().on_error(|request: NodeRequest<Log>, failure| async move {
        assert_eq!(&*request.node, "panics");
        Ok::<_, Error>(Command::update(visit(failure.kind().as_str())).goto("after"))
    });
    let graph = StateGraph::new("handled")
        .add_node_with("panics", panics, handled)
        .add_node("after", node("after"))
        .add_edge(START, "panics")
        .add_edge("panics", "after")
        .add_edge("after", END)
        .compile()
        .unwrap();
    let visits = run(&graph).await.unwrap().visits;
    assert_eq!(visits.len(), 2, "{visits:?}");
    assert_eq!(visits[1], "after");
}

#[tokio::test]
async fn what_a_handler_or_a_router_panics_with_goes_no_further() {
    let handler = NodeOptions::none()
        .on_error(|_, _| async { std::panic::panic_any(PanicsOnDrop(3)) as Result<Visit, Error> });
    let fails = |_: Log| async { Err::<Visit, _>(io::Error::other("reset")) };
    let handled = StateGraph::new("handled")
        .add_node_with("fails", fails, handler)
        .add_edge(START, "fails")
        .add_edge("fails", END)
        .compile()
        .unwrap();
    let error = run(&handled).await.unwrap_err();
    assert!(matches!(error.kind(), GraphErrorKind::NodeFailed { .. }), "{error:?}");
    let lost = StateGraph::new("lost")
        .add_node("node", node("node"))
        .add_edge(START, "node")
        .add_conditional_edges("node", |_, _| std::panic::panic_any(PanicsOnDrop(3)), [("on", END)])
        .compile()
        .unwrap();
    let error = run(&lost).await.unwrap_err();
    assert_eq!(error.to_string(), r#"behind node "node": the router panicked"#);
}

#[tokio::test]
async fn a_route_that_is_none_is_an_error_that_names_those_that_are() {
    let graph = |router: fn() -> Route| {
        StateGraph::new("lost")
            .add_node("node", node("node"))
            .add_edge(START, "node")
            .add_conditional_edges("node", move |_, _| router(), [("on", END), ("off", END)])
            .compile()
            .unwrap()
    };
    let error = run(&graph(|| "away".into())).await.unwrap_err();
    assert_eq!(error.to_string(), r#"behind node "node": no route "away"; there are: on, off"#);
    let error = run(&graph(|| panic!("no"))).await.unwrap_err();
    assert_eq!(error.to_string(), r#"behind node "node": the router panicked"#);
    let lost = Node::request_fn(|_| async { Ok::<_, io::Error>(Command::new().goto("nowhere")) });
    let graph = StateGraph::<Log>::new("lost")
        .add_node("node", lost)
        .add_edge(START, "node")
        .add_edge("node", END)
        .compile()
        .unwrap();
    let error = run(&graph).await.unwrap_err();
    assert!(error.to_string().contains(r#""nowhere", which is no node"#), "{error}");
}

#[test]
fn what_is_not_valid_is_named() {
    let one = || StateGraph::new("g").add_node("one", node("one"));
    let reasons = [
        (StateGraph::new("g"), "no edge leads from START"),
        (one().add_node("one", node("one")), r#"node "one" stands twice"#),
        (one().add_node(END, node("one")), r#"node "__end__": a name"#),
        (one().add_edge(START, "two"), r#"edge "__start__" -> "two": it leads to no node"#),
        (one().add_edge("two", "one"), r#"edge "two" -> "one": it comes from no node"#),
        (one().add_edge("one", START), r#"edge "one" -> "__start__": it leads to no node"#),
        (one().add_edge(END, "one"), r#"edge "__end__" -> "one": it comes from no node"#),
        (one().add_edge(START, "one"), r#"node "one" has no way on"#),
        (
            one()
                .add_edge(START, "one")
                .add_edge("one", END)
                .add_node("two", node("two"))
                .add_edge("two", END),
            r#"node "two": nothing leads to it"#,
        ),
        (
            one().add_edge(START, "one").add_conditional_edges(
                "one",
                |_, _| "".into(),
                [("a", END), ("a", "one")],
            ),
            r#"the router behind "one" has "a" twice"#,
        ),
    ];
    for (graph, reason) in reasons {
        let error = graph.compile().unwrap_err();
        assert!(matches!(error.kind(), GraphErrorKind::Invalid { .. }));
        let text = error.to_string();
        assert!(text.starts_with(&format!("the graph is not valid: {reason}")), "{text}");
    }
}

#[test]
fn a_graph_draws_itself() {
    let graph = routed(0, FailureKind::Transient, &Arc::default());
    let mermaid = graph.to_mermaid();
    for line in
        ["n0[\"__start__\"];", "n0 --> n1;", "n1 -. \"retry\" .-> n1;", "n1 -. \"fail\" .-> n3;"]
    {
        assert!(mermaid.contains(line), "{mermaid}");
    }
    let dot = graph.to_dot();
    assert!(dot.contains("n1 -> n2 [label=\"success\", style=dashed];"), "{dot}");
}

#[tokio::test]
async fn no_more_nodes_run_at_once_than_may() {
    let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let shared = (Arc::clone(&running), Arc::clone(&most));
    let graph = StateGraph::new("many")
        .add_node(
            "list",
            Node::request_fn(|_| async {
                let send = |command: Command<Log>, _| command.send("one", Log::default());
                Ok::<_, io::Error>((0..100).fold(Command::new(), send))
            }),
        )
        .add_node(
            "one",
            Node::request_fn(move |_| {
                let (running, most) = shared.clone();
                async move {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                    running.fetch_sub(1, Ordering::SeqCst);
                    Ok::<_, io::Error>(visit("one"))
                }
            }),
        )
        .add_edge(START, "list")
        .add_edge("list", "one")
        .add_edge("one", END)
        .max_parallelism(7)
        .store(MemoryStore::new())
        .compile()
        .unwrap();
    assert_eq!(run(&graph).await.unwrap().visits.len(), 100);
    assert_eq!(most.load(Ordering::SeqCst), 7);
}
