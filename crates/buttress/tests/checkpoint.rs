//! Checkpointers, workflows and the layer, over stores that fail where a test wants it.

use std::{
    num::NonZeroU32,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use buttress::{
    CheckpointKey, CheckpointLayer, CheckpointStore, Checkpointer, Error, ErrorKind, Failure,
    FailureKind, FileStore, InWorkflow, MemoryStore, StoreError, StoreErrorKind, WorkflowId,
    checkpoint::{
        Capabilities, Checkpoint, Clock, Lease, MemoisedFailure, Page, Put, PutWrites, Query,
        WhenUnavailable,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tower::{Layer, Service, ServiceExt};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    ticker: String,
    prices: Vec<u32>,
}

fn state(price: u32) -> State {
    State { ticker: "AAPL".to_owned(), prices: vec![price] }
}

fn id() -> WorkflowId {
    WorkflowId::new("trades/1").expect("the id is valid")
}

fn kind(error: &Error) -> StoreErrorKind {
    error.downcast_ref::<StoreError>().unwrap_or_else(|| panic!("{error:?}")).kind().clone()
}

/// A memory store that is away for its next calls, before or after it has done what was asked.
#[derive(Clone, Debug)]
struct Flaky {
    inner: MemoryStore,
    away: Arc<AtomicU32>,
    /// Whether what fails has been done all the same.
    loses_answers: bool,
    puts: Arc<AtomicU32>,
}

impl Flaky {
    fn new(loses_answers: bool) -> Self {
        let inner = MemoryStore::new();
        Self { inner, away: Arc::default(), loses_answers, puts: Arc::default() }
    }

    fn is_away(&self) -> bool {
        let left = |left: u32| left.checked_sub(1);
        self.away.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left).is_ok()
    }
}

impl CheckpointStore for Flaky {
    async fn put(&self, put: Put) -> Result<u64, StoreError> {
        self.puts.fetch_add(1, Ordering::SeqCst);
        if self.is_away() {
            if self.loses_answers {
                self.inner.put(put).await?;
            }
            return Err(StoreError::unavailable("the cable is cut"));
        }
        self.inner.put(put).await
    }

    async fn latest(&self, key: &CheckpointKey) -> Result<Option<Checkpoint>, StoreError> {
        if self.is_away() {
            return Err(StoreError::unavailable("the cable is cut"));
        }
        self.inner.latest(key).await
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

#[tokio::test]
async fn a_workflow_is_saved_loaded_and_resumed_with_its_age() {
    let saved_at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let now = Arc::new(Mutex::new(saved_at));
    let clock = Clock::new({
        let now = Arc::clone(&now);
        move || *now.lock().unwrap()
    });
    let checkpointer = Checkpointer::<State>::new(MemoryStore::new()).clock(clock);
    let error = checkpointer.load(&id()).await.unwrap_err();
    assert!(error.is_checkpoint_not_found());
    assert_eq!(error.to_string(), r#"no checkpoint found for workflow "trades/1""#);
    assert!(!error.failure().is_retryable());
    assert!(!error.failure().trips());

    let saved = checkpointer.save(&id(), "research", &state(1)).await.unwrap();
    assert_eq!(saved.sequence, Some(1));
    *now.lock().unwrap() = saved_at + Duration::from_secs(90);
    let resumed = checkpointer.resume(&id()).await.unwrap();
    assert_eq!(resumed.age, Duration::from_secs(90));
    assert_eq!(resumed.checkpoint.phase, "research");
    assert_eq!(resumed.checkpoint.state, state(1));
    assert_eq!(resumed.checkpoint.timestamp, saved_at);
    // A clock that runs behind does not make an age that is none.
    *now.lock().unwrap() = SystemTime::UNIX_EPOCH;
    assert_eq!(checkpointer.resume(&id()).await.unwrap().age, Duration::ZERO);
}

#[tokio::test]
async fn of_two_that_resume_one_workflow_one_goes_on() {
    let checkpointer = Checkpointer::<State>::new(MemoryStore::new());
    let _saved = checkpointer.save(&id(), "research", &state(1)).await.unwrap();
    let (mut one, mut two) = (checkpointer.workflow(&id()), checkpointer.workflow(&id()));
    one.resume().await.unwrap();
    two.resume().await.unwrap();
    let _saved = one.save("trade", &state(2)).await.unwrap();
    let error = two.save("trade", &state(3)).await.unwrap_err();
    let StoreErrorKind::Conflict { expected: Some(1), found: Some(2), .. } = kind(&error) else {
        panic!("{error:?}")
    };
    assert!(!error.failure().is_retryable());
    // It goes on where the other one is.
    assert_eq!(two.load().await.unwrap().state, state(2));
    assert_eq!(two.save("trade", &state(3)).await.unwrap().sequence, Some(3));
}

#[tokio::test]
async fn who_has_lost_the_lease_writes_no_more() {
    let checkpointer = Checkpointer::<State>::new(MemoryStore::new());
    let (mut one, mut two) = (checkpointer.workflow(&id()), checkpointer.workflow(&id()));
    one.acquire("one", Duration::ZERO).await.unwrap();
    let _saved = one.save("research", &state(1)).await.unwrap();
    two.acquire("two", Duration::from_secs(60)).await.unwrap();
    let error = one.save("research", &state(2)).await.unwrap_err();
    assert!(matches!(kind(&error), StoreErrorKind::Fenced { .. }), "{error:?}");
    let error = one.renew(Duration::from_secs(60)).await.unwrap_err();
    assert!(matches!(kind(&error), StoreErrorKind::Fenced { .. }), "{error:?}");
    let error = checkpointer.workflow(&id()).acquire("three", Duration::ZERO).await.unwrap_err();
    assert!(matches!(kind(&error), StoreErrorKind::Held { .. }), "{error:?}");
    assert!(error.retry_after().is_some_and(|after| after > Duration::from_secs(50)));
    let _saved = two.save("trade", &state(3)).await.unwrap();
    two.release().await.unwrap();
    assert_eq!(checkpointer.load(&id()).await.unwrap().state, state(3));
}

#[tokio::test(start_paused = true)]
async fn a_save_whose_answer_was_lost_is_stored_once() {
    let store = Flaky::new(true);
    let checkpointer = Checkpointer::<State>::new(store.clone());
    let mut workflow = checkpointer.workflow(&id());
    let _saved = workflow.save("research", &state(1)).await.unwrap();
    store.away.store(1, Ordering::SeqCst);
    let error = workflow.save("research", &state(2)).await.unwrap_err();
    assert!(error.failure().is_retryable());
    // The next save finds out that the one before was stored.
    let _saved = workflow.save("trade", &state(3)).await.unwrap();
    let key = CheckpointKey::new(id());
    let history = store.inner.history(&key, Page::newest(10)).await.unwrap();
    let sequences: Vec<_> = history.iter().map(|found| (found.sequence, found.parent)).collect();
    assert_eq!(sequences, [(3, Some(2)), (2, Some(1)), (1, None)]);

    let checkpointer = checkpointer.when_unavailable(WhenUnavailable::retry(2));
    store.away.store(2, Ordering::SeqCst);
    let started = tokio::time::Instant::now();
    let _saved = checkpointer.workflow(&id()).save("trade", &state(4)).await.unwrap();
    assert_eq!(started.elapsed(), Duration::from_millis(300));
    assert_eq!(store.inner.history(&key, Page::newest(10)).await.unwrap().len(), 4);
    store.away.store(3, Ordering::SeqCst);
    assert!(checkpointer.load(&id()).await.unwrap_err().failure().is_retryable());
    assert_eq!(store.away.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn who_takes_the_lease_after_a_lost_answer_goes_on() {
    let store = Flaky::new(false);
    let checkpointer = Checkpointer::<State>::new(store.clone());
    let mut workflow = checkpointer.workflow(&id());
    let _saved = workflow.save("research", &state(1)).await.unwrap();
    store.away.store(1, Ordering::SeqCst);
    workflow.save("research", &state(2)).await.unwrap_err();
    workflow.acquire("me", Duration::from_secs(60)).await.unwrap();
    let saved = workflow.save("trade", &state(3)).await.unwrap();
    assert_eq!(saved.sequence, Some(2));
}

#[tokio::test]
async fn a_response_that_cannot_be_read_again_is_an_error_at_once() {
    let calls = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&calls);
    let price = tower::service_fn(move |_: InWorkflow<String>| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, Failure>(f64::NAN) }
    });
    let agent = CheckpointLayer::new(MemoryStore::new(), "price").memo().layer(price);
    for _ in 0..2 {
        let error = agent.clone().oneshot(ask("1")).await.unwrap_err();
        assert!(matches!(kind(&error), StoreErrorKind::Encode { .. }), "{error:?}");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn without_its_store_a_workflow_goes_on_where_it_is_told_to() {
    let store = Flaky::new(false);
    let checkpointer =
        Checkpointer::<State>::new(store.clone()).when_unavailable(WhenUnavailable::GO_ON);
    let mut workflow = checkpointer.workflow(&id());
    store.away.store(1, Ordering::SeqCst);
    let saved = workflow.save("research", &state(1)).await.unwrap();
    assert_eq!(saved.sequence, None);
    assert!(saved.skipped.is_some_and(|error| error.is_unavailable()));
    // Once it is back, what was gone on without is made good as far as it is known.
    let saved = workflow.save("trade", &state(2)).await.unwrap();
    assert!(saved.sequence.is_some());
    assert_eq!(checkpointer.load(&id()).await.unwrap().state, state(2));
}

#[tokio::test]
async fn older_states_are_brought_up_and_newer_ones_are_left_alone() {
    let store = MemoryStore::new();
    let key = CheckpointKey::new(id());
    let put = |parent, version, state: Value| {
        let bytes = serde_json::to_vec(&state).unwrap();
        Put::new(key.clone(), parent, bytes).schema_version(version)
    };
    store.put(put(None, 1, json!({ "symbol": "AAPL" }))).await.unwrap();
    let plain = Checkpointer::<State>::new(store.clone()).schema_version(3);
    let error = plain.load(&id()).await.unwrap_err();
    let StoreErrorKind::NoMigration { from: 1, to: 3, .. } = kind(&error) else {
        panic!("{error:?}")
    };
    let steps = plain
        .clone()
        .upcast(1, |mut state| {
            state["ticker"] = state["symbol"].take();
            Ok(state)
        })
        .upcast(2, |mut state| {
            state["prices"] = json!([7]);
            Ok(state)
        });
    assert_eq!(steps.load(&id()).await.unwrap().state, state(7));
    // What is stored stays as it is.
    assert_eq!(store.latest(&key).await.unwrap().unwrap().schema_version, 1);
    let failing = plain.clone().upcast(1, |_| Err("no symbol".into()));
    let error = failing.load(&id()).await.unwrap_err();
    assert!(matches!(kind(&error), StoreErrorKind::Corrupt { .. }), "{error:?}");

    store.put(put(Some(1), 4, json!({}))).await.unwrap();
    let error = steps.load(&id()).await.unwrap_err();
    let StoreErrorKind::TooNew { found: 4, supported: 3, .. } = kind(&error) else {
        panic!("{error:?}")
    };
    assert!(!error.failure().is_retryable());
}

#[tokio::test]
async fn a_state_that_does_not_fit_says_where_and_shows_nothing() {
    let store = MemoryStore::new();
    let key = CheckpointKey::new(id());
    let checkpointer = Checkpointer::<State>::new(store.clone()).schema_version(2).upcast(1, Ok);
    let mut parent = None;
    for (state, version, what) in [
        (r#"{"ticker":"A","prices":[1,"secret"]}"#, 2, "the state does not fit at `prices[1]`"),
        (r#"{"ticker":"A","prices":[1,"secret"]}"#, 1, "the state does not fit at `prices[1]`"),
        (r#"{"prices":[]}"#, 2, "the state does not fit at `.`: missing field `ticker`"),
        ("secret", 2, "the state does not fit at `.`"),
        ("secret", 1, "the state is not JSON"),
        (r#"{"ticker":"A","prices":[]} secret"#, 2, "something stands behind the state"),
    ] {
        let put = Put::new(key.clone(), parent, state.as_bytes()).schema_version(version);
        parent = Some(store.put(put).await.unwrap());
        let error = checkpointer.load(&id()).await.unwrap_err();
        let StoreErrorKind::Corrupt { what: found, .. } = kind(&error) else { panic!("{error:?}") };
        assert_eq!(found, what);
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        assert_eq!(&*store.latest(&key).await.unwrap().unwrap().state, state.as_bytes());
    }
}

#[tokio::test]
async fn parallel_saves_of_one_workflow_are_all_there_one_behind_the_other() {
    let store = MemoryStore::new();
    let checkpointer = Checkpointer::<u32>::new(store.clone());
    let saves = (0..8).map(|n| {
        let checkpointer = checkpointer.clone();
        tokio::spawn(async move { checkpointer.save(&id(), "fan-out", &n).await.unwrap().sequence })
    });
    for save in saves.collect::<Vec<_>>() {
        assert!(save.await.unwrap().is_some());
    }
    let history = store.history(&CheckpointKey::new(id()), Page::newest(10)).await.unwrap();
    let parents: Vec<_> = history.iter().map(|found| found.parent).collect();
    assert_eq!(parents, [Some(7), Some(6), Some(5), Some(4), Some(3), Some(2), Some(1), None]);
}

// ===== The layer =====

/// An analyst that counts its calls.
#[derive(Clone, Default)]
struct Analyst {
    calls: Arc<AtomicU32>,
    /// Waits for it before it answers, where it is set.
    gate: Option<Arc<Notify>>,
    failure: Option<FailureKind>,
}

impl Service<InWorkflow<String>> for Analyst {
    type Response = String;
    type Error = Failure;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<String, Failure>> + Send>>;

    fn poll_ready(
        &mut self,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Result<(), Failure>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, asked: InWorkflow<String>) -> Self::Future {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let (gate, failure) = (self.gate.clone(), self.failure);
        Box::pin(async move {
            if let Some(gate) = gate {
                gate.notified().await;
            }
            match failure {
                Some(kind) => Err(Failure::new(kind).with_message("no")),
                None => Ok(format!("{} {call}", asked.request)),
            }
        })
    }
}

fn ask(key: &str) -> InWorkflow<String> {
    InWorkflow::new(id(), "AAPL".to_owned()).idempotency_key(key)
}

#[tokio::test]
async fn before_saves_the_request_and_after_the_response() {
    let store = MemoryStore::new();
    let analyst = Analyst::default();
    let before = CheckpointLayer::new(store.clone(), "research").layer(analyst.clone());
    assert_eq!(before.oneshot(ask("1")).await.unwrap(), "AAPL 1");
    let loaded = Checkpointer::<String>::new(store.clone()).load(&id()).await.unwrap();
    assert_eq!((loaded.phase.as_str(), loaded.state.as_str()), ("research", "AAPL"));

    let after = CheckpointLayer::new(store.clone(), "done").after().layer(analyst.clone());
    assert_eq!(after.oneshot(ask("1")).await.unwrap(), "AAPL 2");
    let loaded = Checkpointer::<String>::new(store.clone()).load(&id()).await.unwrap();
    assert_eq!((loaded.phase.as_str(), loaded.state.as_str()), ("done", "AAPL 2"));
    assert_eq!(loaded.parent, Some(1));

    let failing = Analyst { failure: Some(FailureKind::Overloaded), ..analyst };
    let after = CheckpointLayer::new(store.clone(), "done").after().layer(failing);
    let error = after.oneshot(ask("1")).await.unwrap_err();
    assert_eq!(error.failure().kind(), FailureKind::Overloaded);
    assert_eq!(Checkpointer::<String>::new(store).load(&id()).await.unwrap().sequence, 2);
}

#[tokio::test]
async fn a_call_does_not_begin_that_could_not_be_saved() {
    let store = Flaky::new(false);
    let analyst = Analyst::default();
    let layer = CheckpointLayer::new(store.clone(), "research");
    store.away.store(1, Ordering::SeqCst);
    let error = layer.layer(analyst.clone()).oneshot(ask("1")).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Checkpoint), "{error:?}");
    assert!(error.failure().is_retryable() && !error.failure().trips());
    assert_eq!(analyst.calls.load(Ordering::SeqCst), 0);
    let layer = layer.when_unavailable(WhenUnavailable::GO_ON);
    store.away.store(1, Ordering::SeqCst);
    assert_eq!(layer.layer(analyst).oneshot(ask("1")).await.unwrap(), "AAPL 1");
}

#[tokio::test]
async fn a_memo_answers_repeats_of_its_own_key_only() {
    let store = MemoryStore::new();
    let analyst = Analyst::default();
    let memo = CheckpointLayer::new(store.clone(), "research").memo();
    let agent = memo.layer(analyst.clone());
    assert_eq!(agent.clone().oneshot(ask("1")).await.unwrap(), "AAPL 1");
    assert_eq!(agent.clone().oneshot(ask("1")).await.unwrap(), "AAPL 1");
    assert_eq!(agent.clone().oneshot(ask("2")).await.unwrap(), "AAPL 2");
    // Another process, another phase, another workflow.
    let again = CheckpointLayer::new(store.clone(), "research").memo().layer(analyst.clone());
    assert_eq!(again.oneshot(ask("1")).await.unwrap(), "AAPL 1");
    let phase = CheckpointLayer::new(store.clone(), "trade").memo().layer(analyst.clone());
    assert_eq!(phase.oneshot(ask("1")).await.unwrap(), "AAPL 3");
    let mut other = ask("1");
    other.workflow_id = WorkflowId::new("trades/2").unwrap();
    assert_eq!(agent.clone().oneshot(other).await.unwrap(), "AAPL 4");
    // Names that hold the separator do not meet.
    let odd =
        |phase: &str| CheckpointLayer::new(store.clone(), phase).memo().layer(analyst.clone());
    assert_eq!(odd("a").oneshot(ask("b:c")).await.unwrap(), "AAPL 5");
    assert_eq!(odd("a:b").oneshot(ask("c")).await.unwrap(), "AAPL 6");

    let mut nameless = ask("1");
    nameless.idempotency_key = None;
    let error = agent.clone().oneshot(nameless).await.unwrap_err();
    assert!(matches!(kind(&error), StoreErrorKind::InvalidId { .. }), "{error:?}");
    let error = agent.oneshot(ask(&"k".repeat(2000))).await.unwrap_err();
    assert!(matches!(kind(&error), StoreErrorKind::InvalidId { .. }), "{error:?}");
    assert_eq!(analyst.calls.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn repeats_at_the_same_time_wait_for_the_first() {
    let gate = Arc::new(Notify::new());
    let analyst = Analyst { gate: Some(Arc::clone(&gate)), ..Analyst::default() };
    let memo = CheckpointLayer::new(MemoryStore::new(), "research").memo();
    let agent = memo.layer(analyst.clone());
    let calls: Vec<_> = (0..8).map(|_| tokio::spawn(agent.clone().oneshot(ask("1")))).collect();
    tokio::task::yield_now().await;
    gate.notify_one();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "AAPL 1");
    }
    // One that is given up lets the next go first.
    let first = tokio::spawn(agent.clone().oneshot(ask("2")));
    while analyst.calls.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    let second = tokio::spawn(agent.clone().oneshot(ask("2")));
    tokio::task::yield_now().await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    while analyst.calls.load(Ordering::SeqCst) < 3 {
        tokio::task::yield_now().await;
    }
    gate.notify_one();
    assert_eq!(second.await.unwrap().unwrap(), "AAPL 3");
}

#[tokio::test]
async fn repeats_wait_for_the_first_through_any_handle_of_one_store() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Arc::new(Notify::new());
    let analyst = Analyst { gate: Some(Arc::clone(&gate)), ..Analyst::default() };
    let mut calls = Vec::new();
    for _ in 0..8 {
        let store = FileStore::open(folder.path()).await.unwrap();
        let memo = CheckpointLayer::new(store, "research").memo();
        calls.push(tokio::spawn(memo.layer(analyst.clone()).oneshot(ask("1"))));
    }
    while analyst.calls.load(Ordering::SeqCst) < 1 {
        tokio::task::yield_now().await;
    }
    gate.notify_one();
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), "AAPL 1");
    }
    assert_eq!(analyst.calls.load(Ordering::SeqCst), 1);
    // A memo around a memo of the same name does not wait for itself.
    let store = FileStore::open(folder.path()).await.unwrap();
    let inner = CheckpointLayer::new(store.clone(), "research").memo().layer(Analyst::default());
    let outer = CheckpointLayer::new(store, "research").memo().layer(inner);
    assert_eq!(outer.oneshot(ask("2")).await.unwrap(), "AAPL 1");
}

#[tokio::test]
async fn two_processes_with_one_key_hand_on_one_response() {
    // It does not say where it is, so that its two layers share no lock, as two processes.
    let store = Flaky::new(false);
    let gate = Arc::new(Notify::new());
    let analyst = Analyst { gate: Some(Arc::clone(&gate)), ..Analyst::default() };
    let calls: Vec<_> = (0..2)
        .map(|_| {
            let memo = CheckpointLayer::new(store.clone(), "research").memo();
            tokio::spawn(memo.layer(analyst.clone()).oneshot(ask("1")))
        })
        .collect();
    while analyst.calls.load(Ordering::SeqCst) < 2 {
        tokio::task::yield_now().await;
    }
    gate.notify_waiters();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap().unwrap());
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn a_memo_keeps_failures_only_that_stay() {
    for (kind, is_kept) in [
        (FailureKind::Overloaded, false),
        (FailureKind::Timeout, false),
        (FailureKind::QuotaExhausted, false),
        (FailureKind::Unauthorized, false),
        (FailureKind::InvalidRequest, true),
        (FailureKind::ContentPolicy, true),
        (FailureKind::Permanent, true),
    ] {
        let analyst = Analyst { failure: Some(kind), ..Analyst::default() };
        let agent =
            CheckpointLayer::new(MemoryStore::new(), "research").memo().layer(analyst.clone());
        let first = agent.clone().oneshot(ask("1")).await.unwrap_err();
        assert!(first.downcast_ref::<Failure>().is_some(), "{first:?}");
        let second = agent.oneshot(ask("1")).await.unwrap_err();
        assert_eq!(second.failure().kind(), kind);
        assert_eq!(second.failure().is_retryable(), first.failure().is_retryable());
        assert_eq!(second.downcast_ref::<MemoisedFailure>().is_some(), is_kept, "{kind:?}");
        let calls = if is_kept { 1 } else { 2 };
        assert_eq!(analyst.calls.load(Ordering::SeqCst), calls, "{kind:?}");
    }
}

#[tokio::test]
async fn a_response_that_does_not_fit_is_an_error_and_stays_one() {
    let store = MemoryStore::new().max_state(80);
    let analyst = Analyst::default();
    let agent = CheckpointLayer::new(store, "research").memo().layer(analyst.clone());
    for _ in 0..2 {
        let mut long = ask("1");
        long.request = "x".repeat(100);
        let error = agent.clone().oneshot(long).await.unwrap_err();
        let StoreErrorKind::TooLarge { size, limit: 80, .. } = kind(&error) else {
            panic!("{error:?}")
        };
        assert!(size > 100);
        assert!(!error.failure().is_retryable());
    }
    assert_eq!(analyst.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_memo_whose_store_is_away_does_what_it_is_told() {
    let store = Flaky::new(false);
    let analyst = Analyst::default();
    let layer = CheckpointLayer::new(store.clone(), "research").memo();
    // Looking: the agent is not called.
    store.away.store(1, Ordering::SeqCst);
    let error = layer.layer(analyst.clone()).oneshot(ask("1")).await.unwrap_err();
    assert!(error.failure().is_retryable());
    assert_eq!(analyst.calls.load(Ordering::SeqCst), 0);
    // Tries again, looking and keeping.
    let retrying = layer.clone().when_unavailable(WhenUnavailable::retry(3));
    store.away.store(3, Ordering::SeqCst);
    assert_eq!(retrying.layer(analyst.clone()).oneshot(ask("1")).await.unwrap(), "AAPL 1");
    assert_eq!(layer.layer(analyst.clone()).oneshot(ask("1")).await.unwrap(), "AAPL 1");
    // Goes on without.
    let going_on = layer.when_unavailable(WhenUnavailable::GO_ON);
    store.away.store(2, Ordering::SeqCst);
    assert_eq!(going_on.layer(analyst.clone()).oneshot(ask("2")).await.unwrap(), "AAPL 2");
    assert_eq!(going_on.layer(analyst).oneshot(ask("2")).await.unwrap(), "AAPL 3");
}

/// README: "A memo makes that at most one call per phase and key", of a repeat behind a kill. Here
/// nobody is killed: the store does not take what each call came to, and the caller repeats, as
/// `is_retryable` advises.
#[tokio::test]
async fn a_memo_whose_store_is_away_when_it_saves_repeats_at_most_one_call() {
    let store = Flaky::new(false);
    let calls = Arc::new(AtomicU32::new(0));
    let (cut, count) = (store.clone(), Arc::clone(&calls));
    let agent = tower::service_fn(move |asked: InWorkflow<String>| {
        let call = count.fetch_add(1, Ordering::SeqCst) + 1;
        // The next that is asked of the store is to keep the response.
        cut.away.store(u32::from(call < 6), Ordering::SeqCst);
        async move { Ok::<_, Failure>(format!("{} {call}", asked.request)) }
    });
    let memo = CheckpointLayer::new(store, "research").memo().layer(agent);
    let mut answer = memo.clone().oneshot(ask("1")).await;
    while answer.as_ref().is_err_and(|error| error.failure().is_retryable()) {
        answer = memo.clone().oneshot(ask("1")).await;
    }
    let calls = calls.load(Ordering::SeqCst);
    assert!(calls <= 2, "{calls} calls, and {answer:?}");
}
