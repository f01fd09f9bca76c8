//! What the docs of graphs promise, one test a promise.

use std::{collections::BTreeMap, num::NonZeroU32, sync::Mutex, time::SystemTime};

use buttress::{
    CheckpointKey, CheckpointLayer, CheckpointStore, StoreError,
    checkpoint::{Capabilities, Checkpoint, Clock, Lease, Page, Put, PutWrites, Query},
};
use futures_util::StreamExt as _;

use super::*;

/// Polls a future once, and drops it.
async fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match future.as_mut().poll(cx) {
            std::task::Poll::Ready(done) => Some(done),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

/// What a state of its own told of itself, call by call.
type Seen = Arc<Mutex<Vec<u32>>>;

fn fan_out(
    prices: std::ops::Range<u32>,
    one: Node<Log>,
    options: NodeOptions<Log>,
) -> CompiledGraph<Log> {
    let list = Node::request_fn(move |_| {
        let states = prices.clone().map(|price| Log { price, ..Log::default() });
        let command = Command::new().send_all("one", states);
        async move { Ok::<_, io::Error>(command) }
    });
    StateGraph::new("fan")
        .add_node("list", list)
        .add_node_with("one", one, options)
        .add_edge(START, "list")
        .add_edge("list", "one")
        .add_conditional_edges(
            "one",
            |_, result| if result.is_ok() { "success".into() } else { "retry".into() },
            [("success", END), ("retry", "one")],
        )
        .compile()
        .unwrap()
}

/// "`Send`-like fan-out over a list decided at run time": of an empty list nothing is called.
#[tokio::test]
async fn a_fan_out_over_an_empty_list_calls_nothing() {
    let seen = Seen::default();
    let kept = Arc::clone(&seen);
    let one = Node::request_fn(move |request: NodeRequest<Log>| {
        kept.lock().unwrap().push(request.state.price);
        async { Ok::<_, io::Error>(visit("one")) }
    });
    let graph = fan_out(0..0, one, NodeOptions::none());
    graph.run(&id(), Log { price: 77, ..Log::default() }).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [0_u32; 0], "called with the shared state");
}

/// "a node that failed is run again by the label `retry`": a call that was sent, with what it was
/// sent with.
#[tokio::test]
async fn a_call_that_was_sent_is_retried_with_its_own_state() {
    let seen = Seen::default();
    let kept = Arc::clone(&seen);
    let one = Node::request_fn(move |request: NodeRequest<Log>| {
        let price = request.state.price;
        let first = !kept.lock().unwrap().contains(&2);
        kept.lock().unwrap().push(price);
        async move {
            if price == 2 && first {
                Err(io::Error::other("busy"))
            } else {
                Ok(visit(&price.to_string()))
            }
        }
    });
    let graph = fan_out(1..4, one, NodeOptions::none());
    let log = graph.run(&id(), Log { price: 77, ..Log::default() }).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [1, 2, 3, 2]);
    assert_eq!(log.visits, ["1", "3", "2"]);
}

/// "at most twice in a row": of calls side by side each has failed once only.
#[tokio::test]
async fn calls_that_fail_side_by_side_are_not_retries_of_each_other() {
    let one = Node::request_fn(move |request: NodeRequest<Log>| async move {
        if request.step == 2 { Err(io::Error::other("busy")) } else { Ok(visit("one")) }
    });
    let done = run(&fan_out(1..4, one, NodeOptions::none())).await;
    assert!(done.is_ok(), "none was retried: {done:?}");
}

/// "Killed at any point and resumed, a workflow ends with the same state": the update is any serde
/// type, also one whose JSON is null.
#[tokio::test]
async fn an_update_whose_json_is_null_is_not_lost_when_resumed() {
    #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
    struct Ticks(u32);
    impl State for Ticks {
        type Update = ();
        fn apply(&mut self, (): ()) {
            self.0 += 1;
        }
    }
    let store = MemoryStore::new();
    let graph = |hangs: bool| {
        let other = Node::request_fn(move |_: NodeRequest<Ticks>| async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            Ok::<_, io::Error>(Command::<Ticks>::new())
        });
        StateGraph::<Ticks>::new("ticks")
            .add_node("tick", |_: Ticks| async { Ok::<_, io::Error>(()) })
            .add_node("other", other)
            .add_edge(START, "tick")
            .add_edge(START, "other")
            .add_edge("tick", END)
            .add_edge("other", END)
            .store(store.clone())
            .lease("worker", Duration::from_secs(30))
            .compile()
            .unwrap()
    };
    let undisturbed = graph(false).run(&WorkflowId::new("undisturbed").unwrap(), Ticks(0)).await;
    let undisturbed = undisturbed.unwrap();
    assert!(poll_once(graph(true).run(&id(), Ticks(0))).await.is_none());
    assert_eq!(graph(false).resume(&id()).await.unwrap(), undisturbed);
}

/// A store whose first answer to `latest` comes late.
#[derive(Debug, Clone)]
struct Late {
    inner: MemoryStore,
    /// What the answer waits for.
    gate: Arc<tokio::sync::Semaphore>,
    asked: Arc<AtomicU32>,
}

impl CheckpointStore for Late {
    async fn put(&self, put: Put) -> Result<u64, StoreError> {
        self.inner.put(put).await
    }
    async fn latest(&self, key: &CheckpointKey) -> Result<Option<Checkpoint>, StoreError> {
        let found = self.inner.latest(key).await;
        if self.asked.fetch_add(1, Ordering::SeqCst) == 0 {
            drop(self.gate.acquire().await);
        }
        found
    }
    async fn get(&self, key: &CheckpointKey, at: u64) -> Result<Option<Checkpoint>, StoreError> {
        self.inner.get(key, at).await
    }
    async fn history(
        &self,
        key: &CheckpointKey,
        page: Page,
    ) -> Result<Vec<Checkpoint>, StoreError> {
        self.inner.history(key, page).await
    }
    async fn list(&self, query: Query) -> Result<Vec<Checkpoint>, StoreError> {
        self.inner.list(query).await
    }
    async fn put_writes(&self, writes: PutWrites) -> Result<(), StoreError> {
        self.inner.put_writes(writes).await
    }
    async fn acquire(
        &self,
        key: &CheckpointKey,
        owner: &str,
        time: Duration,
    ) -> Result<Lease, StoreError> {
        self.inner.acquire(key, owner, time).await
    }
    async fn renew(&self, lease: &Lease, time: Duration) -> Result<Lease, StoreError> {
        self.inner.renew(lease, time).await
    }
    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        self.inner.release(lease).await
    }
    async fn delete(&self, id: &WorkflowId, lease: Option<&Lease>) -> Result<(), StoreError> {
        self.inner.delete(id, lease).await
    }
    async fn prune(&self, key: &CheckpointKey, keep: NonZeroU32) -> Result<u64, StoreError> {
        self.inner.prune(key, keep).await
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

/// "`Unfinished` where a run of the workflow has not ended", also where that began a moment ago in
/// another process; and an idempotency key is that of no other call.
#[tokio::test]
async fn of_two_that_begin_a_workflow_at_once_one_does() {
    let inner = MemoryStore::new();
    let keys = Arc::new(Mutex::new(Vec::new()));
    let gate = Arc::new(tokio::sync::Semaphore::new(0));
    let late = Late { inner: inner.clone(), gate: Arc::clone(&gate), asked: Arc::default() };
    fn graph(store: impl CheckpointStore, keys: &Arc<Mutex<Vec<String>>>) -> CompiledGraph<Log> {
        let keys = Arc::clone(keys);
        let pays = Node::request_fn(move |request: NodeRequest<Log>| {
            keys.lock()
                .unwrap()
                .push(format!("{} {}", request.idempotency_key, request.state.price));
            async { Ok::<_, io::Error>(visit("pays")) }
        });
        let asks = Node::request_fn(|_| async { Ok::<_, io::Error>(Command::interrupt("sure?")) });
        StateGraph::<Log>::new("pays")
            .add_node("pays", pays)
            .add_node("asks", asks)
            .add_edge(START, "pays")
            .add_edge("pays", "asks")
            .add_edge("asks", END)
            .store(store)
            .compile()
            .unwrap()
    }
    let (slow, quick) = (graph(late, &keys), graph(inner.clone(), &keys));
    let workflow = id();
    let of_slow = slow.run(&workflow, Log { price: 2, ..Log::default() });
    let of_quick = async {
        let done = quick.run(&workflow, Log { price: 1, ..Log::default() }).await;
        gate.add_permits(1);
        done
    };
    let (slow, quick) = tokio::join!(of_slow, of_quick);
    assert_eq!(quick.unwrap_err().interrupts().len(), 1);
    // The question of the first is open, so that it has not ended.
    let keys = keys.lock().unwrap().clone();
    assert_eq!(keys, ["trade/7/1:1:pays:1 1"], "{slow:?}");
    assert_eq!(*slow.unwrap_err().kind(), GraphErrorKind::Unfinished);
}

/// Asks, and once it has its answer kills its process.
fn asks_and_kills(store: &MemoryStore) -> CompiledGraph<Log> {
    let pill = Node::request_fn(|request: NodeRequest<Log>| async move {
        if request.resume.is_empty() {
            return Ok::<_, io::Error>(Command::interrupt("sure?"));
        }
        std::future::pending().await
    });
    StateGraph::<Log>::new("pill")
        .add_node("pill", pill)
        .add_edge(START, "pill")
        .add_edge("pill", END)
        .store(store.clone())
        .lease("worker", Duration::from_secs(30))
        .max_recoveries(2)
        .compile()
        .unwrap()
}

/// The poison pill, "dead (after `max_recoveries`)", where somebody was asked before.
#[tokio::test]
async fn a_workflow_that_kills_its_process_once_it_was_answered_is_left_alone() {
    let store = MemoryStore::new();
    let graph = asks_and_kills(&store);
    let asked = run(&graph).await.unwrap_err().interrupts().to_vec();
    assert!(poll_once(graph.resume_with(&id(), &asked[0].id, "yes")).await.is_none());
    for _ in 0..9 {
        if let Some(done) = poll_once(graph.resume(&id())).await {
            assert!(matches!(done.unwrap_err().kind(), GraphErrorKind::Dead { .. }));
            return;
        }
    }
    panic!("nine times resumed without getting on, with two allowed");
}

/// "`NoInterrupt` where nobody asks under this id", and "the answer to one is kept".
#[tokio::test]
async fn a_question_is_answered_once() {
    let asks = Node::request_fn(|request: NodeRequest<Log>| async move {
        Ok::<_, io::Error>(match &request.resume[..] {
            [] => Command::interrupt("how many?"),
            [_] => Command::interrupt("sure?"),
            [many, sure, ..] => Command::update(visit(&format!("{many} {sure}"))),
        })
    });
    let graph = StateGraph::<Log>::new("asks")
        .add_node("asks", asks)
        .add_edge(START, "asks")
        .add_edge("asks", END)
        .store(MemoryStore::new())
        .compile()
        .unwrap();
    let first = run(&graph).await.unwrap_err().interrupts()[0].id.clone();
    let error = graph.resume_with(&id(), &first, 1).await.unwrap_err();
    let second = error.interrupts()[0].id.clone();
    // A web form that is sent twice, or another person.
    let again = graph.resume_with(&id(), &first, 1_000_000).await.unwrap_err();
    let log = graph.resume_with(&id(), &second, true).await.unwrap();
    assert_eq!(log.visits, ["1 true"], "who said yes had been told of 1");
    assert_eq!(*again.kind(), GraphErrorKind::NoInterrupt { id: first });
}

/// "`NoInterrupt` where nobody asks under this id", also where nobody asks any more.
#[tokio::test]
async fn a_workflow_that_has_finished_asks_nobody() {
    let graph = StateGraph::new("done")
        .add_node("node", node("node"))
        .add_edge(START, "node")
        .add_edge("node", END)
        .store(MemoryStore::new())
        .compile()
        .unwrap();
    run(&graph).await.unwrap();
    let answered = graph.resume_with(&id(), "no such question", "yes").await;
    let error = answered.expect_err("the answer went nowhere, and nobody was told");
    assert!(matches!(error.kind(), GraphErrorKind::NoInterrupt { .. }), "{error:?}");
}

/// "the node that asked is run again, with the answer", also one behind a memo, which the design
/// puts around nodes with effects.
#[tokio::test]
async fn a_node_behind_a_memo_gets_its_answer() {
    let store = MemoryStore::new();
    let asks = Node::request_fn(|request: NodeRequest<Log>| async move {
        Ok::<_, io::Error>(match &request.resume[..] {
            [] => Command::<Log>::interrupt("sure?"),
            _ => Command::update(visit("sold")),
        })
    });
    let graph = StateGraph::<Log>::new("asks")
        .add_node("asks", asks.layer(CheckpointLayer::new(store.clone(), "sell").memo()))
        .add_edge(START, "asks")
        .add_edge("asks", END)
        .store(store)
        .compile()
        .unwrap();
    let asked = run(&graph).await.unwrap_err().interrupts().to_vec();
    let done = graph.resume_with(&id(), &asked[0].id, "yes").await;
    assert_eq!(done.unwrap().visits, ["sold"]);
}

fn with_subgraph(
    store: &MemoryStore,
    inner: Node<Log>,
    options: NodeOptions<Log>,
) -> CompiledGraph<Log> {
    let inner = StateGraph::new("inner")
        .add_node_with("inner", inner, NodeOptions::none())
        .add_edge(START, "inner")
        .add_edge("inner", END)
        .store(store.clone())
        .compile()
        .unwrap();
    let output = |log: Log| visit(&log.visits.join("+"));
    StateGraph::new("outer")
        .add_node_with("sub", Node::subgraph(inner, |_: &Log| Log::default(), output), options)
        .add_edge(START, "sub")
        .add_edge("sub", END)
        .store(store.clone())
        .compile()
        .unwrap()
}

/// "Goes on with a workflow one of whose nodes has failed for good, and runs that again", also where
/// that is a subgraph.
#[tokio::test]
async fn a_subgraph_that_failed_is_run_again_when_it_is_asked_for() {
    let store = MemoryStore::new();
    let fails = Node::request_fn(|_| async { Err::<Visit, _>(io::Error::other("no quota")) });
    let error = run(&with_subgraph(&store, fails, NodeOptions::none())).await.unwrap_err();
    assert_eq!(*error.kind(), GraphErrorKind::NodeFailed { node: "sub".to_owned() });
    let mended = with_subgraph(&store, node("inner"), NodeOptions::none());
    assert_eq!(mended.retry_failed(&id()).await.unwrap().visits, ["inner"]);
}

/// "fault tolerance (.., 3 attempts, ..)", also of a subgraph: its attempts run.
#[tokio::test(start_paused = true)]
async fn each_attempt_of_a_subgraph_runs_it() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let inner = Node::request_fn(move |_| {
        let call = counted.fetch_add(1, Ordering::SeqCst);
        async move { if call == 0 { Err(io::Error::other("busy")) } else { Ok(visit("inner")) } }
    });
    let graph = with_subgraph(&MemoryStore::new(), inner, NodeOptions::new());
    let done = run(&graph).await;
    assert_eq!(calls.load(Ordering::SeqCst), 2, "{done:?}");
    assert_eq!(done.unwrap().visits, ["inner"]);
}

/// The same where the first attempt hung and was given up: what is left of it does not keep out the
/// second.
#[tokio::test(start_paused = true)]
async fn an_attempt_of_a_subgraph_that_timed_out_does_not_keep_out_the_next() {
    let (began, started) = (SystemTime::now(), tokio::time::Instant::now());
    let store = MemoryStore::new().clock(Clock::new(move || began + started.elapsed()));
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let inner = Node::request_fn(move |_| {
        let call = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            if call == 0 {
                std::future::pending::<()>().await;
            }
            Ok::<_, io::Error>(visit("inner"))
        }
    });
    let options = NodeOptions::new().timeout(Duration::from_secs(5));
    let done = run(&with_subgraph(&store, inner, options)).await;
    assert_eq!(calls.load(Ordering::SeqCst), 2, "{done:?}");
    assert_eq!(done.unwrap().visits, ["inner"]);
}

/// "The run goes on only while the stream is polled, so that a slow reader slows it down; dropped,
/// it drops the run."
#[tokio::test]
async fn a_reader_that_reads_one_event_is_not_told_by_a_run_that_is_over() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let step = Node::request_fn(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, io::Error>(Command::<Log>::new()) }
    });
    let graph = StateGraph::<Log>::new("long")
        .add_node("step", step)
        .add_edge(START, "step")
        .add_edge("step", "step")
        .recursion_limit(10_000)
        .compile()
        .unwrap();
    let mut events = graph.stream(&id(), Log::default());
    assert!(events.next().await.is_some());
    drop(events);
    let calls = calls.load(Ordering::SeqCst);
    assert!(calls < 1_000, "{calls} steps before the first event was read");
}

/// "fail with the error kept in the workflow's record": also where another branch asks somebody.
#[tokio::test]
async fn a_failure_beside_a_question_is_kept() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let fails = Node::request_fn(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Err::<Visit, _>(Failure::new(FailureKind::Permanent)) }
    });
    let asks = Node::request_fn(|_| async { Ok::<_, io::Error>(Command::interrupt("sure?")) });
    let graph = StateGraph::<Log>::new("both")
        .add_node_with("pays", fails, NodeOptions::none())
        .add_node("asks", asks)
        .add_edge(START, "pays")
        .add_edge(START, "asks")
        .add_edge("pays", END)
        .add_edge("asks", END)
        .store(MemoryStore::new())
        .compile()
        .unwrap();
    run(&graph).await.unwrap_err();
    for _ in 0..3 {
        drop(graph.resume(&id()).await);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1, "it has failed for good, and is called again");
}

/// "retry (only when `is_retryable`, and bounded)".
#[tokio::test]
async fn what_is_not_retryable_is_not_retried() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let fails = Node::request_fn(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Err::<Visit, _>(Failure::new(FailureKind::Permanent)) }
    });
    let graph = StateGraph::new("retry")
        .add_node_with("fails", fails, NodeOptions::none())
        .add_edge(START, "fails")
        .add_conditional_edges("fails", |_, _| Route::to(Route::RETRY), [("retry", "fails")])
        .compile()
        .unwrap();
    run(&graph).await.unwrap_err();
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

/// `Route::RETRY`: "The label of running the node again, at most twice in a row." The seed's router
/// asks for it by what the state says, without an error.
#[tokio::test]
async fn a_retry_that_the_state_asks_for_is_bounded_too() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let poor = Node::request_fn(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, io::Error>(visit("poor")) }
    });
    let graph = StateGraph::new("retry")
        .add_node_with("poor", poor, NodeOptions::none())
        .add_edge(START, "poor")
        .add_conditional_edges("poor", |_, _| Route::to(Route::RETRY), [("retry", "poor")])
        .compile()
        .unwrap();
    run(&graph).await.unwrap_err();
    assert_eq!(calls.load(Ordering::SeqCst), 3);
}

/// A run that does not begin holds nothing: each time its error is the same.
#[tokio::test]
async fn a_router_that_panics_before_the_first_node_does_not_keep_the_lease() {
    let graph = StateGraph::new("start")
        .add_node("node", node("node"))
        .add_conditional_edges(START, |_: &Log, _| panic!("no"), [("on", "node")])
        .add_edge("node", END)
        .store(MemoryStore::new())
        .compile()
        .unwrap();
    let first = run(&graph).await.unwrap_err();
    assert!(matches!(first.kind(), GraphErrorKind::Routing { .. }), "{first:?}");
    let second = run(&graph).await.unwrap_err();
    assert_eq!(first.kind(), second.kind(), "{second:?}");
}

/// "What a graph works on: any serde type", and branches: "A field .. that one of them has changed
/// is taken from it."
#[tokio::test]
async fn branches_may_change_a_state_from_an_object_to_a_text() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    enum Phase {
        Trading { ticker: String },
        Idle,
    }
    impl State for Phase {
        type Update = Self;
        fn apply(&mut self, update: Self) {
            *self = update;
        }
    }
    let graph = StateGraph::<Phase>::new("phases")
        .add_node("ends", |_: Phase| async { Ok::<_, io::Error>(Phase::Idle) })
        .add_node("looks", |phase: Phase| async { Ok::<_, io::Error>(phase) })
        .add_edge(START, "ends")
        .add_edge(START, "looks")
        .add_edge("ends", END)
        .add_edge("looks", END)
        .compile()
        .unwrap();
    let done = graph.run(&id(), Phase::Trading { ticker: "AAPL".to_owned() }).await;
    assert_eq!(done.map_err(|error| error.to_string()), Ok(Phase::Idle));
}

/// "graph nodes apply [`CatchPanicLayer`]": a handler is part of its node, so that its panic is the
/// node's failure.
#[tokio::test]
async fn a_handler_that_panics_is_its_nodes_failure() {
    let fails = Node::request_fn(|_| async { Err::<Visit, _>(io::Error::other("no")) });
    let panics =
        NodeOptions::none().on_error(|_, _| async { panic!("no") as Result<Visit, Error> });
    let graph = StateGraph::new("handled")
        .add_node_with("fails", fails, panics)
        .add_edge(START, "fails")
        .add_edge("fails", END)
        .compile()
        .unwrap();
    let done = tokio::spawn(async move { run(&graph).await }).await;
    let error = done.expect("the run itself panicked").unwrap_err();
    assert_eq!(*error.kind(), GraphErrorKind::NodeFailed { node: "fails".to_owned() });
}

/// "What is the same for every attempt of this call, .. and for no other call": a compensation is
/// not the payment that it takes back.
#[tokio::test]
async fn a_handler_has_an_idempotency_key_of_its_own() {
    let keys = Arc::new(Mutex::new(Vec::new()));
    let (of_node, of_handler) = (Arc::clone(&keys), Arc::clone(&keys));
    let pays = Node::request_fn(move |request: NodeRequest<Log>| {
        of_node.lock().unwrap().push(request.idempotency_key);
        async { Err::<Visit, _>(io::Error::other("no answer")) }
    });
    let pays_back = NodeOptions::none().on_error(move |request: NodeRequest<Log>, _| {
        of_handler.lock().unwrap().push(request.idempotency_key);
        async { Ok::<_, Error>(visit("paid back")) }
    });
    let graph = StateGraph::new("pays")
        .add_node_with("pays", pays, pays_back)
        .add_edge(START, "pays")
        .add_edge("pays", END)
        .compile()
        .unwrap();
    run(&graph).await.unwrap();
    let keys = keys.lock().unwrap();
    assert_ne!(keys[0], keys[1], "who pays takes the second for a repeat of the first");
}

/// `GraphErrorKind::State`: "The state cannot be written as JSON, or read." The store has not failed.
#[tokio::test]
async fn a_state_that_is_no_json_is_not_the_stores_fault() {
    #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
    struct Pairs(BTreeMap<(u8, u8), u8>);
    impl State for Pairs {
        type Update = Self;
        fn apply(&mut self, update: Self) {
            *self = update;
        }
    }
    let graph = StateGraph::<Pairs>::new("pairs")
        .add_node("node", |pairs: Pairs| async { Ok::<_, io::Error>(pairs) })
        .add_edge(START, "node")
        .add_edge("node", END)
        .store(MemoryStore::new())
        .compile()
        .unwrap();
    let error = graph.run(&id(), Pairs(BTreeMap::from([((1, 2), 3)]))).await.unwrap_err();
    assert_eq!(*error.kind(), GraphErrorKind::State, "{error:?}");
}

/// "`recursion_limit` .. with the typed error naming the cycle".
#[tokio::test]
async fn the_limit_names_the_whole_cycle() {
    const NAMES: [&str; 12] =
        ["n0", "n1", "n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9", "n10", "n11"];
    let mut graph = StateGraph::new("cycle").add_edge(START, NAMES[0]);
    for (place, name) in NAMES.into_iter().enumerate() {
        graph = graph.add_node(name, node(name)).add_edge(name, NAMES[(place + 1) % NAMES.len()]);
    }
    let error = run(&graph.compile().unwrap()).await.unwrap_err();
    let GraphErrorKind::RecursionLimit { last, .. } = error.kind() else { panic!("{error:?}") };
    let missing: Vec<_> =
        NAMES.iter().filter(|name| !last.iter().any(|own| own == *name)).collect();
    assert!(missing.is_empty(), "{missing:?} are on the cycle too");
}

/// "Router returns an unknown route, ..: typed errors, nothing lost": a reducer that panics as well.
#[tokio::test]
async fn a_reducer_that_panics_ends_the_run_with_an_error() {
    #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
    struct Picky(u32);
    impl State for Picky {
        type Update = u32;
        fn apply(&mut self, update: u32) {
            assert!(update < 10, "too many");
            self.0 += update;
        }
    }
    let graph = StateGraph::<Picky>::new("picky")
        .add_node("node", |_: Picky| async { Ok::<_, io::Error>(11_u32) })
        .add_edge(START, "node")
        .add_edge("node", END)
        .compile()
        .unwrap();
    let done = tokio::spawn(async move { graph.run(&id(), Picky(0)).await }).await;
    assert!(done.expect("the run itself panicked").is_err());
}

/// Graceful drain: a subgraph that was drained at its step's end has not failed, and goes on after
/// the restart.
#[tokio::test(start_paused = true)]
async fn a_subgraph_that_was_drained_goes_on_after_the_restart() {
    let store = MemoryStore::new();
    let graphs = |drains: bool| {
        let own = Arc::new(Mutex::new(None::<CompiledGraph<Log>>));
        let handle = Arc::clone(&own);
        let first = Node::request_fn(move |_| {
            if drains {
                handle.lock().unwrap().as_ref().unwrap().drain();
            }
            async { Ok::<_, io::Error>(visit("first")) }
        });
        let inner = StateGraph::new("inner")
            .add_node("first", first)
            .add_node("last", node("last"))
            .add_edge(START, "first")
            .add_edge("first", "last")
            .add_edge("last", END)
            .store(store.clone())
            .compile()
            .unwrap();
        *own.lock().unwrap() = Some(inner.clone());
        let output = |log: Log| visit(&log.visits.join("+"));
        StateGraph::new("outer")
            .add_node("sub", Node::subgraph(inner, |_: &Log| Log::default(), output))
            .add_edge(START, "sub")
            .add_edge("sub", END)
            .store(store.clone())
            .compile()
            .unwrap()
    };
    run(&graphs(true)).await.unwrap_err();
    let done = graphs(false).resume(&id()).await;
    assert_eq!(done.unwrap().visits, ["first+last"]);
}

/// "At most twice in a row": what succeeds between two failures ends the row, in each of three rounds.
#[tokio::test]
async fn a_row_of_retries_ends_with_a_success() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let moody = Node::request_fn(move |_| {
        let call = counted.fetch_add(1, Ordering::SeqCst);
        async move { if call % 3 < 2 { Err(io::Error::other("busy")) } else { Ok(visit("moody")) } }
    });
    let route = |log: &Log, result: Result<(), &Failure>| match result {
        Err(_) => Route::to(Route::RETRY),
        Ok(()) if log.visits.len() < 6 => "again".into(),
        Ok(()) => "done".into(),
    };
    let graph = StateGraph::new("rounds")
        .add_node_with("moody", moody, NodeOptions::none())
        .add_node("between", node("between"))
        .add_edge(START, "moody")
        .add_conditional_edges(
            "moody",
            route,
            [("retry", "moody"), ("again", "between"), ("done", END)],
        )
        .add_edge("between", "moody")
        .compile()
        .unwrap();
    let log = run(&graph).await.unwrap();
    assert_eq!((log.visits.len(), calls.load(Ordering::SeqCst)), (7, 12));
}
