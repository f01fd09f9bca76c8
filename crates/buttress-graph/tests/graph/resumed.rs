//! Runs that stop and go on, each in a process that has not seen the one before.

use std::{sync::Mutex, time::SystemTime};

use buttress::{
    CheckpointKey, CheckpointStore, FileStore, StoreError, StoreErrorKind,
    checkpoint::{Clock, Page, Put},
};
use buttress_graph::{Durability, Event, Status};

use super::*;

/// Counts the calls of nodes, by name.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<String>>>);

impl Calls {
    fn node(&self, name: &'static str) -> Node<Log> {
        let calls = self.clone();
        Node::request_fn(move |_| {
            calls.0.lock().unwrap().push(name.to_owned());
            async move { Ok::<_, io::Error>(visit(name)) }
        })
    }

    fn of(&self, name: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|call| *call == name).count()
    }
}

fn fork_and_join(store: &MemoryStore, calls: &Calls, second: Node<Log>) -> CompiledGraph<Log> {
    StateGraph::new("fork")
        .add_node("first", calls.node("first"))
        .add_node_with("second", second, NodeOptions::none())
        .add_node("join", calls.node("join"))
        .add_edge(START, "first")
        .add_edge(START, "second")
        .add_edge("first", "join")
        .add_edge("second", "join")
        .add_edge("join", END)
        .store(store.clone())
        .lease("worker", Duration::from_secs(30))
        .compile()
        .unwrap()
}

/// langgraph#8115: results of the nodes beside the one that failed are not lost.
#[tokio::test]
async fn what_had_answered_in_the_broken_superstep_does_not_run_again() {
    let (store, calls) = (MemoryStore::new(), Calls::default());
    let hangs = Node::request_fn(|_| std::future::pending::<Result<Visit, io::Error>>());
    let graph = fork_and_join(&store, &calls, hangs);
    // Dropped, as by a crash, while the second node runs.
    let done = tokio::time::timeout(Duration::from_millis(50), run(&graph)).await;
    assert!(done.is_err());
    assert_eq!(calls.of("first"), 1);
    let graph = fork_and_join(&store, &calls, calls.node("second"));
    let error = run(&graph).await.unwrap_err();
    assert_eq!(*error.kind(), GraphErrorKind::Unfinished);
    let log = graph.resume(&id()).await.unwrap();
    assert_eq!(log.visits, ["first", "second", "join"]);
    assert_eq!((calls.of("first"), calls.of("second")), (1, 1));
    // Finished is a state: resumed again it answers, and runs nothing.
    assert_eq!(graph.resume(&id()).await.unwrap(), log);
    assert_eq!(calls.of("join"), 1);
    let error = graph.resume(&WorkflowId::new("other").unwrap()).await.unwrap_err();
    assert_eq!(*error.kind(), GraphErrorKind::NotFound);
}

/// lionagi#3235: a failed node is not taken for one that is done.
#[tokio::test]
async fn a_failed_workflow_is_not_resumed_unless_it_is_asked_for() {
    let (store, calls) = (MemoryStore::new(), Calls::default());
    let fails = Node::request_fn(|_| async { Err::<Visit, _>(io::Error::other("no quota")) });
    let graph = fork_and_join(&store, &calls, fails);
    let error = run(&graph).await.unwrap_err();
    let failed = GraphErrorKind::NodeFailed { node: "second".to_owned() };
    assert_eq!(*error.kind(), failed);
    let graph = fork_and_join(&store, &calls, calls.node("second"));
    let error = graph.resume(&id()).await.unwrap_err();
    assert_eq!(*error.kind(), failed);
    assert_eq!(calls.of("second"), 0);
    assert_eq!(graph.retry_failed(&id()).await.unwrap().visits, ["first", "second", "join"]);
    assert_eq!((calls.of("first"), calls.of("second")), (1, 1));
}

/// langgraph#8834: a router that raises is asked again, and its node does not run again.
#[tokio::test]
async fn a_router_that_panicked_is_asked_again() {
    let (store, calls) = (MemoryStore::new(), Calls::default());
    let graph = |panics: bool| {
        StateGraph::new("router")
            .add_node("node", calls.node("node"))
            .add_node("next", calls.node("next"))
            .add_edge(START, "node")
            .add_conditional_edges(
                "node",
                move |_, _| if panics { panic!("no") } else { "on".into() },
                [("on", "next")],
            )
            .add_edge("next", END)
            .store(store.clone())
            .compile()
            .unwrap()
    };
    let error = run(&graph(true)).await.unwrap_err();
    assert!(matches!(error.kind(), GraphErrorKind::Routing { .. }), "{error:?}");
    assert_eq!(graph(false).resume(&id()).await.unwrap().visits, ["node", "next"]);
    assert_eq!((calls.of("node"), calls.of("next")), (1, 1));
}

/// langgraph#9002: a handler whose answer was saved does not run again.
#[tokio::test]
async fn a_handler_runs_once() {
    let (store, handled) = (MemoryStore::new(), Arc::new(AtomicU32::new(0)));
    let graph = |hangs: bool| {
        let counted = Arc::clone(&handled);
        let options = NodeOptions::none().on_error(move |_, _| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, Error>(visit("handled")) }
        });
        let fails = Node::request_fn(|_| async { Err::<Visit, _>(io::Error::other("no")) });
        let other = Node::request_fn(move |_| async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            Ok::<_, io::Error>(visit("other"))
        });
        StateGraph::new("handler")
            .add_node_with("fails", fails, options)
            .add_node("other", other)
            .add_edge(START, "fails")
            .add_edge(START, "other")
            .add_edge("fails", END)
            .add_edge("other", END)
            .store(store.clone())
            .lease("worker", Duration::from_secs(30))
            .compile()
            .unwrap()
    };
    assert!(tokio::time::timeout(Duration::from_millis(50), run(&graph(true))).await.is_err());
    assert_eq!(graph(false).resume(&id()).await.unwrap().visits, ["handled", "other"]);
    assert_eq!(handled.load(Ordering::SeqCst), 1);
}

/// langgraph#8796: of two resumers one runs.
#[tokio::test]
async fn of_two_resumers_one_runs() {
    let (store, calls) = (MemoryStore::new(), Calls::default());
    let graph = |node: Node<Log>| {
        StateGraph::new("one")
            .add_node("node", node)
            .add_edge(START, "node")
            .add_edge("node", END)
            .store(store.clone())
            .compile()
            .unwrap()
    };
    let hangs = graph(Node::request_fn(|_| std::future::pending::<Result<Visit, io::Error>>()));
    let first = tokio::spawn(async move { run(&hangs).await });
    while store.latest(&id().into()).await.unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    let second = graph(calls.node("node"));
    let error = second.resume(&id()).await.unwrap_err();
    assert_eq!(*error.kind(), GraphErrorKind::Store, "{error:?}");
    assert!(error.is_retryable(), "the lease runs out: {error:?}");
    assert_eq!(calls.of("node"), 0);
    first.abort();
}

/// langgraph#8764: the run is saved before its first node starts.
/// A heartbeat that begins anew with each node would never come.
#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_however_short_its_nodes_are() {
    let (began, started) = (SystemTime::now(), tokio::time::Instant::now());
    let store = MemoryStore::new().clock(Clock::new(move || began + started.elapsed()));
    let graph = |owner| {
        let short = Node::request_fn(|_| async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            Ok::<_, io::Error>(visit("short"))
        });
        StateGraph::new("short")
            .add_node("short", short)
            .add_edge(START, "short")
            .add_conditional_edges(
                "short",
                |log: &Log, _| if log.visits.len() < 20 { "on".into() } else { "end".into() },
                [("on", "short"), ("end", END)],
            )
            .store(store.clone())
            .lease(owner, Duration::from_secs(1))
            .compile()
            .unwrap()
    };
    let (graph, other) = (graph("worker"), graph("other"));
    let looks = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        other.resume(&id()).await
    };
    let (done, looked) = tokio::join!(run(&graph), looks);
    let error = looked.unwrap_err();
    let cause = error.cause().unwrap().downcast_ref::<StoreError>().unwrap();
    assert!(matches!(cause.kind(), StoreErrorKind::Held { .. }), "{error:?}");
    assert_eq!(done.unwrap().visits.len(), 20);
}

#[tokio::test]
async fn a_run_is_there_before_its_first_node() {
    let store = MemoryStore::new();
    let seen = store.clone();
    let looks = Node::request_fn(move |request: NodeRequest<Log>| {
        let store = seen.clone();
        async move {
            let head = store.latest(&request.workflow_id.clone().into()).await?.unwrap();
            Ok::<_, StoreError>(visit(&head.phase))
        }
    });
    let graph = StateGraph::new("admitted")
        .add_node("looks", looks)
        .add_edge(START, "looks")
        .add_edge("looks", END)
        .store(store)
        .compile()
        .unwrap();
    assert_eq!(run(&graph).await.unwrap().visits, ["looks"]);
}

/// DBOS's poison pill: what never gets on is left alone.
#[tokio::test]
async fn a_workflow_that_kills_its_process_is_left_alone() {
    let store = MemoryStore::new();
    let graph = StateGraph::new("pill")
        .add_node("pill", Node::request_fn(|_| std::future::pending::<Result<Visit, io::Error>>()))
        .add_edge(START, "pill")
        .add_edge("pill", END)
        .store(store)
        .lease("worker", Duration::from_secs(30))
        .max_recoveries(2)
        .compile()
        .unwrap();
    let moment = Duration::from_millis(20);
    assert!(tokio::time::timeout(moment, run(&graph)).await.is_err());
    for _ in 0..2 {
        assert!(tokio::time::timeout(moment, graph.resume(&id())).await.is_err());
    }
    let error = graph.resume(&id()).await.unwrap_err();
    assert_eq!(*error.kind(), GraphErrorKind::Dead { recoveries: 2 });
}

#[tokio::test]
async fn nodes_ask_people_and_go_on_with_their_answers() {
    let store = MemoryStore::new();
    let asks = |question: &'static str| {
        Node::request_fn(move |request: NodeRequest<Log>| async move {
            Ok::<_, io::Error>(match &request.resume[..] {
                [] => Command::interrupt(question),
                [answer] => Command::update(visit(&format!("{question} {answer}"))),
                more => panic!("{more:?}"),
            })
        })
    };
    let graph = StateGraph::new("asks")
        .add_node("buy", asks("buy?"))
        .add_node("sell", asks("sell?"))
        .add_edge(START, "buy")
        .add_edge(START, "sell")
        .add_edge("buy", END)
        .add_edge("sell", END)
        .store(store)
        .compile()
        .unwrap();
    let error = run(&graph).await.unwrap_err();
    let asked = error.interrupts().to_vec();
    assert_eq!(asked.iter().map(|ask| &*ask.node).collect::<Vec<_>>(), ["buy", "sell"]);
    // Resumed without an answer they wait on.
    assert_eq!(graph.resume(&id()).await.unwrap_err().interrupts(), asked);
    let error = graph.resume_with(&id(), "1:1:buy:1#7", "yes").await.unwrap_err();
    assert!(matches!(error.kind(), GraphErrorKind::NoInterrupt { .. }), "{error:?}");
    let error = graph.resume_with(&id(), &asked[0].id, "yes").await.unwrap_err();
    assert_eq!(error.interrupts(), &asked[1..]);
    let log = graph.resume_with(&id(), &asked[1].id, "no").await.unwrap();
    assert_eq!(log.visits, [r#"buy? "yes""#, r#"sell? "no""#]);
}

#[tokio::test]
async fn a_checkpoint_of_the_past_is_a_new_workflow() {
    let (store, calls) = (MemoryStore::new(), Calls::default());
    let graph = fork_and_join(&store, &calls, calls.node("second"));
    let log = run(&graph).await.unwrap();
    let history = graph.history(&id(), Page::newest(9)).await.unwrap();
    let steps: Vec<_> = history.iter().map(|snapshot| (snapshot.step, snapshot.status)).collect();
    assert_eq!(steps, [(2, Status::Finished), (1, Status::Running), (0, Status::Running)]);
    assert_eq!(history[1].next, ["join"]);
    let other = WorkflowId::new("other").unwrap();
    graph.fork(&id(), history[1].sequence, &other).await.unwrap();
    assert_eq!(graph.resume(&other).await.unwrap(), log);
    assert_eq!((calls.of("first"), calls.of("join")), (1, 2));
    let error = graph.fork(&id(), 99, &WorkflowId::new("third").unwrap()).await.unwrap_err();
    assert_eq!(*error.kind(), GraphErrorKind::NotFound);
    // Run again, a finished workflow begins anew behind what is saved.
    assert_eq!(run(&graph).await.unwrap(), log);
    assert_eq!(graph.history(&id(), Page::newest(9)).await.unwrap().len(), 6);
}

#[tokio::test]
async fn a_drained_graph_stops_between_two_steps() {
    let (store, calls) = (MemoryStore::new(), Calls::default());
    let graph = Arc::new(Mutex::new(None::<CompiledGraph<Log>>));
    let own = Arc::clone(&graph);
    let drains = Node::request_fn(move |_| {
        own.lock().unwrap().as_ref().unwrap().drain();
        async { Ok::<_, io::Error>(visit("second")) }
    });
    let compiled = fork_and_join(&store, &calls, drains);
    *graph.lock().unwrap() = Some(compiled.clone());
    let error = run(&compiled).await.unwrap_err();
    assert_eq!(*error.kind(), GraphErrorKind::Drained);
    let graph = fork_and_join(&store, &calls, calls.node("second"));
    assert_eq!(graph.resume(&id()).await.unwrap().visits, ["first", "second", "join"]);
    assert_eq!(calls.of("second"), 0);
}

#[tokio::test]
async fn a_store_that_is_away_stops_the_run_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = FileStore::open(&path).await.unwrap();
    let calls = Calls::default();
    let graph = |node: Node<Log>| {
        StateGraph::new("away")
            .add_node("first", calls.node("first"))
            .add_node_with("second", node, NodeOptions::none())
            .add_edge(START, "first")
            .add_edge("first", "second")
            .add_edge("second", END)
            .store(store.clone())
            .lease("worker", Duration::from_secs(30))
            .compile()
            .unwrap()
    };
    let (from, to) = (path.clone(), folder.path().join("away"));
    let loses = Node::request_fn(move |_| {
        std::fs::rename(&from, &to).unwrap();
        async { Ok::<_, io::Error>(visit("lost")) }
    });
    let error = run(&graph(loses)).await.unwrap_err();
    assert_eq!(*error.kind(), GraphErrorKind::Store, "{error:?}");
    // Away before the first node as well.
    assert_eq!(*run(&graph(calls.node("second"))).await.unwrap_err().kind(), GraphErrorKind::Store);
    assert_eq!(calls.of("second"), 0);
    std::fs::rename(folder.path().join("away"), &path).unwrap();
    let log = graph(calls.node("second")).resume(&id()).await.unwrap();
    assert_eq!(log.visits, ["first", "second"]);
    assert_eq!(calls.of("first"), 1);
}

#[tokio::test]
async fn a_state_that_is_too_large_is_an_error_and_the_one_before_stays() {
    let store = MemoryStore::new().max_state(2000);
    let grows = Node::request_fn(|_| async { Ok::<_, io::Error>(visit(&"x".repeat(3000))) });
    let graph = StateGraph::new("large")
        .add_node("grows", grows)
        .add_edge(START, "grows")
        .add_edge("grows", END)
        .store(store.clone())
        .compile()
        .unwrap();
    let error = run(&graph).await.unwrap_err();
    assert_eq!(*error.kind(), GraphErrorKind::Store);
    let source = error.cause().unwrap().downcast_ref::<StoreError>().unwrap();
    assert!(source.to_string().contains("bytes, and the store takes 2000"), "{source}");
    let key = CheckpointKey::new(id());
    assert_eq!(store.latest(&key).await.unwrap().unwrap().phase, "grows");
    assert!(store.put(Put::new(key, None, *b"{}")).await.is_err());
}

#[tokio::test]
async fn a_subgraph_is_a_workflow_of_its_own_that_goes_on() {
    let (store, calls) = (MemoryStore::new(), Calls::default());
    let graph = |hangs: bool| {
        let last = if hangs {
            Node::request_fn(|_| std::future::pending::<Result<Visit, io::Error>>())
        } else {
            calls.node("inner last")
        };
        let inner = StateGraph::new("inner")
            .add_node("first", calls.node("inner first"))
            .add_node("last", last)
            .add_edge(START, "first")
            .add_edge("first", "last")
            .add_edge("last", END)
            .store(store.clone())
            .lease("worker", Duration::from_secs(30))
            .compile()
            .unwrap();
        let output = |log: Log| visit(&log.visits.join("+"));
        StateGraph::new("outer")
            .add_node("sub", Node::subgraph(inner, |_: &Log| Log::default(), output))
            .add_edge(START, "sub")
            .add_edge("sub", END)
            .store(store.clone())
            .lease("worker", Duration::from_secs(30))
            .compile()
            .unwrap()
    };
    assert!(tokio::time::timeout(Duration::from_millis(50), run(&graph(true))).await.is_err());
    let log = graph(false).resume(&id()).await.unwrap();
    assert_eq!(log.visits, ["inner first+inner last"]);
    assert_eq!((calls.of("inner first"), calls.of("inner last")), (1, 1));
}

fn around(inner: &CompiledGraph<Log>, options: NodeOptions<Log>) -> CompiledGraph<Log> {
    let sub = Node::subgraph(inner.clone(), |_: &Log| Log::default(), |_| visit("sub"));
    StateGraph::new("outer")
        .add_node_with("sub", sub, options)
        .add_edge(START, "sub")
        .add_edge("sub", END)
        .compile()
        .unwrap()
}

#[tokio::test]
async fn a_subgraph_fails_as_its_node() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let fails = Node::request_fn(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Err::<Visit, _>(Failure::new(FailureKind::InvalidRequest)) }
    });
    let inner = StateGraph::new("inner")
        .add_node("fails", fails)
        .add_edge(START, "fails")
        .add_edge("fails", END)
        .store(MemoryStore::new())
        .compile()
        .unwrap();
    let error = run(&around(&inner, NodeOptions::new())).await.unwrap_err();
    assert_eq!(error.cause().unwrap().failure().kind(), FailureKind::InvalidRequest);
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_drained_subgraph_is_no_failure_for_a_handler() {
    let inner = StateGraph::new("inner")
        .add_node("node", node("node"))
        .add_edge(START, "node")
        .add_edge("node", END)
        .compile()
        .unwrap();
    inner.drain();
    let handled = NodeOptions::new().on_error(|_, _| async { Ok::<_, Error>(visit("handled")) });
    let error = run(&around(&inner, handled)).await.unwrap_err();
    assert_eq!(*error.kind(), GraphErrorKind::Drained);
}

#[tokio::test]
async fn a_stream_tells_what_happens_in_its_order() {
    use futures_util::StreamExt as _;

    let calls = Arc::new(AtomicU32::new(0));
    let second = Node::request_fn(move |_| {
        let call = calls.fetch_add(1, Ordering::SeqCst);
        async move { if call == 0 { Err(io::Error::other("no")) } else { Ok(visit("second")) } }
    });
    let graph = StateGraph::new("told")
        .add_node("first", node("first"))
        .add_node_with("second", second, NodeOptions::new().backoff([Duration::ZERO; 2]))
        .add_edge(START, "first")
        .add_edge("first", "second")
        .add_edge("second", END)
        .store(MemoryStore::new())
        .compile()
        .unwrap();
    let events = graph.stream(&id(), Log::default());
    let told: Vec<_> = events.map(|event| short(&event)).collect().await;
    let expected = [
        "saved 0",
        "start first",
        "try first 1",
        "done first",
        "first -> second",
        "saved 1",
        "start second",
        "try second 1",
        "try second 2",
        "done second",
        "second -> __end__",
        "saved 2",
        "ended first,second",
    ];
    assert_eq!(told, expected);
    let told: Vec<_> = graph.resume_stream(&id()).map(|event| short(&event)).collect().await;
    assert_eq!(told, ["ended first,second"]);
}

fn short(event: &Event<Log>) -> String {
    match event {
        Event::NodeStarted { node, .. } => format!("start {node}"),
        Event::Attempt { node, attempt } => format!("try {node} {attempt}"),
        Event::NodeFinished { node, .. } => format!("done {node}"),
        Event::RouteTaken { node, to } => format!("{node} -> {}", to.join(",")),
        Event::CheckpointSaved { step, .. } => format!("saved {step}"),
        Event::Ended(done) => format!("ended {}", done.as_ref().unwrap().visits.join(",")),
        other => format!("{other:?}"),
    }
}

/// langgraph#7112: in async mode one save at most is on its way, and its error is not dropped.
#[tokio::test]
async fn saved_beside_the_nodes_a_run_is_one_step_behind_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let store = FileStore::open(&path).await.unwrap();
    let saved = Arc::new(Mutex::new(Vec::new()));
    let graph = |loses: bool| {
        let (seen, store, path) = (Arc::clone(&saved), store.clone(), path.clone());
        let looks = store.clone();
        let node = Node::request_fn(move |request: NodeRequest<Log>| {
            let (seen, looks, path) = (Arc::clone(&seen), looks.clone(), path.clone());
            async move {
                if loses && request.step == 5 {
                    std::fs::rename(&path, path.with_extension("away")).unwrap();
                    return Ok(visit("lost"));
                }
                let head = looks.latest(&request.workflow_id.into()).await?.unwrap();
                let record: serde_json::Value = serde_json::from_slice(&head.state).unwrap();
                seen.lock().unwrap().push(request.step - record["step"].as_u64().unwrap());
                Ok::<_, StoreError>(visit("node"))
            }
        });
        StateGraph::new("async")
            .add_node_with("node", node, NodeOptions::none())
            .add_edge(START, "node")
            .add_conditional_edges(
                "node",
                |log: &Log, _| if log.visits.len() < 10 { "on".into() } else { "end".into() },
                [("on", "node"), ("end", END)],
            )
            .store(store)
            .durability(Durability::Async)
            .lease("worker", Duration::from_secs(30))
            .compile()
            .unwrap()
    };
    let error = run(&graph(true)).await.unwrap_err();
    assert_eq!(*error.kind(), GraphErrorKind::Store, "{error:?}");
    std::fs::rename(path.with_extension("away"), &path).unwrap();
    let log = graph(false).resume(&id()).await.unwrap();
    assert_eq!(log.visits.len(), 10);
    assert!(!log.visits.contains(&"lost".to_owned()), "{:?}", log.visits);
    // How far the store was behind when a node began: one step, or two while it was saved.
    let saved = saved.lock().unwrap().clone();
    assert!(saved.iter().all(|behind| (1..=2).contains(behind)), "{saved:?}");
    let newest = graph(false).history(&id(), Page::newest(1)).await.unwrap();
    assert_eq!((newest[0].status, newest[0].step), (Status::Finished, 10));
}

/// `Durability::Exit`: saved before the first node and when the run ends, in whatever way.
#[tokio::test(start_paused = true)]
async fn a_run_that_is_saved_at_its_exit_goes_on_from_there_and_from_its_start_after_a_crash() {
    let graph = |store: &MemoryStore, calls: &Calls, last: Node<Log>| {
        StateGraph::new("exit")
            .add_node("first", calls.node("first"))
            .add_node("second", calls.node("second"))
            .add_node_with("last", last, NodeOptions::none())
            .add_edge(START, "first")
            .add_edge("first", "second")
            .add_edge("second", "last")
            .add_edge("last", END)
            .store(store.clone())
            .durability(Durability::Exit)
            .lease("worker", Duration::from_secs(30))
            .compile()
            .unwrap()
    };
    let steps = async |graph: &CompiledGraph<Log>| {
        let history = graph.history(&id(), Page::newest(9)).await.unwrap();
        history.iter().map(|snapshot| snapshot.step).collect::<Vec<_>>()
    };
    // To its end.
    let (store, calls) = (MemoryStore::new(), Calls::default());
    let whole = graph(&store, &calls, calls.node("last"));
    let log = run(&whole).await.unwrap();
    assert_eq!((log.visits.len(), steps(&whole).await), (3, vec![3, 0]));
    // To a failure, which is kept; whoever retries runs the failed node alone.
    let (store, calls) = (MemoryStore::new(), Calls::default());
    let fails = Node::request_fn(|_| async { Err::<Visit, _>(io::Error::other("no")) });
    let broken = graph(&store, &calls, fails);
    let node = "last".to_owned();
    let failed = GraphErrorKind::NodeFailed { node };
    assert_eq!(*run(&broken).await.unwrap_err().kind(), failed);
    assert_eq!(steps(&broken).await, [2, 0]);
    assert_eq!(*broken.resume(&id()).await.unwrap_err().kind(), failed);
    let mended = graph(&store, &calls, calls.node("last"));
    assert_eq!(mended.retry_failed(&id()).await.unwrap(), log);
    assert_eq!((calls.of("first"), calls.of("second"), calls.of("last")), (1, 1, 1));
    // To a question.
    let (store, calls) = (MemoryStore::new(), Calls::default());
    let asks = Node::request_fn(|request: NodeRequest<Log>| async move {
        Ok::<_, io::Error>(match request.resume.first() {
            Some(_) => Command::update(visit("last")),
            None => Command::interrupt("go on?"),
        })
    });
    let asking = graph(&store, &calls, asks);
    let error = run(&asking).await.unwrap_err();
    let question = error.interrupts()[0].id.clone();
    assert_eq!(steps(&asking).await, [2, 0]);
    assert_eq!(asking.resume_with(&id(), &question, true).await.unwrap(), log);
    assert_eq!((calls.of("first"), calls.of("second")), (1, 1));
    // Not to its end: all of it is repeated.
    let (store, calls) = (MemoryStore::new(), Calls::default());
    let hangs = Node::request_fn(|_| std::future::pending::<Result<Visit, io::Error>>());
    let stuck = graph(&store, &calls, hangs);
    let done = tokio::time::timeout(Duration::from_millis(50), run(&stuck)).await;
    assert!(done.is_err());
    let again = graph(&store, &calls, calls.node("last"));
    assert_eq!(steps(&again).await, [0]);
    assert_eq!(again.resume(&id()).await.unwrap(), log);
    assert_eq!((calls.of("first"), calls.of("second"), calls.of("last")), (2, 2, 1));
}
