//! Runs whose store is slow, or away for a while.

use std::{num::NonZeroU32, sync::Mutex, sync::atomic::AtomicBool};

use buttress::{
    CheckpointKey, CheckpointStore, StoreError,
    checkpoint::{Capabilities, Checkpoint, Lease, Page, Put, PutWrites, Query, WhenUnavailable},
};
use buttress_graph::{Event, Status};
use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::*;

/// A store on the other end of a cable.
#[derive(Debug, Clone, Default)]
struct Remote {
    inner: MemoryStore,
    /// How long the writes of a task take.
    delay: Duration,
    away: Arc<AtomicBool>,
}

impl Remote {
    fn reach(&self) -> Result<&MemoryStore, StoreError> {
        match self.away.load(Ordering::SeqCst) {
            true => Err(StoreError::unavailable("the cable is cut")),
            false => Ok(&self.inner),
        }
    }
}

impl CheckpointStore for Remote {
    async fn put(&self, put: Put) -> Result<u64, StoreError> {
        self.reach()?.put(put).await
    }

    async fn latest(&self, key: &CheckpointKey) -> Result<Option<Checkpoint>, StoreError> {
        self.reach()?.latest(key).await
    }

    async fn get(&self, key: &CheckpointKey, at: u64) -> Result<Option<Checkpoint>, StoreError> {
        self.reach()?.get(key, at).await
    }

    async fn history(
        &self,
        key: &CheckpointKey,
        page: Page,
    ) -> Result<Vec<Checkpoint>, StoreError> {
        self.reach()?.history(key, page).await
    }

    async fn list(&self, query: Query) -> Result<Vec<Checkpoint>, StoreError> {
        self.reach()?.list(query).await
    }

    async fn put_writes(&self, writes: PutWrites) -> Result<(), StoreError> {
        tokio::time::sleep(self.delay).await;
        self.reach()?.put_writes(writes).await
    }

    async fn acquire(
        &self,
        key: &CheckpointKey,
        owner: &str,
        time: Duration,
    ) -> Result<Lease, StoreError> {
        self.reach()?.acquire(key, owner, time).await
    }

    async fn renew(&self, lease: &Lease, time: Duration) -> Result<Lease, StoreError> {
        self.reach()?.renew(lease, time).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        self.reach()?.release(lease).await
    }

    async fn delete(&self, id: &WorkflowId, lease: Option<&Lease>) -> Result<(), StoreError> {
        self.reach()?.delete(id, lease).await
    }

    async fn prune(&self, key: &CheckpointKey, keep: NonZeroU32) -> Result<u64, StoreError> {
        self.reach()?.prune(key, keep).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_goes_on_while_the_answer_of_another_is_saved() {
    let store = Remote { delay: Duration::from_secs(2), ..Remote::default() };
    let many_steps = Node::request_fn(|_| async {
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        Ok::<_, io::Error>(visit("slow"))
    });
    let graph = StateGraph::new("slow store")
        .add_node("quick", node("quick"))
        .add_node("slow", many_steps)
        .add_edge(START, "quick")
        .add_edge(START, "slow")
        .add_edge("quick", END)
        .add_edge("slow", END)
        .store(store)
        .compile()
        .unwrap();
    let started = Instant::now();
    assert_eq!(run(&graph).await.unwrap().visits, ["quick", "slow"]);
    // The save of the first answer lies within the three seconds of the other node.
    assert_eq!(started.elapsed(), Duration::from_secs(5));
}

/// Three nodes; the cable is cut while the second runs, and mended in the third where that is asked.
fn cut_in_the_middle(
    store: &Remote,
    calls: &Arc<Mutex<Vec<String>>>,
    mended: bool,
) -> CompiledGraph<Log> {
    let at = |name: &'static str| {
        let (away, calls) = (Arc::clone(&store.away), Arc::clone(calls));
        Node::request_fn(move |request: NodeRequest<Log>| {
            calls.lock().unwrap().push(request.idempotency_key);
            match name {
                "second" => away.store(true, Ordering::SeqCst),
                "third" if mended => away.store(false, Ordering::SeqCst),
                _ => {}
            }
            async move {
                // Longer than the lease.
                tokio::time::sleep(Duration::from_secs(60)).await;
                Ok::<_, io::Error>(visit(name))
            }
        })
    };
    StateGraph::new("cut")
        .add_node_with("first", at("first"), NodeOptions::none())
        .add_node_with("second", at("second"), NodeOptions::none())
        .add_node_with("third", at("third"), NodeOptions::none())
        .add_edge(START, "first")
        .add_edge("first", "second")
        .add_edge("second", "third")
        .add_edge("third", END)
        .store(store.clone())
        .lease("worker", Duration::from_secs(30))
        .when_unavailable(WhenUnavailable::GO_ON)
        .compile()
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_on_without_its_store_and_saves_when_that_is_back() {
    let (store, calls) = (Remote::default(), Arc::default());
    let graph = cut_in_the_middle(&store, &calls, true);
    let mut skipped = 0;
    let mut events = graph.stream(&id(), Log::default());
    let mut ended = None;
    while let Some(event) = events.next().await {
        match event {
            Event::SaveSkipped { error } => {
                assert!(error.downcast_ref::<StoreError>().unwrap().is_unavailable());
                skipped += 1;
            }
            Event::Ended(done) => ended = Some(done),
            _ => {}
        }
    }
    assert_eq!(ended.unwrap().unwrap().visits, ["first", "second", "third"]);
    // Heartbeats, the answer of the second node, and its superstep.
    assert!(skipped >= 3, "{skipped}");
    let newest = graph.history(&id(), Page::newest(1)).await.unwrap();
    assert_eq!((newest[0].status, newest[0].step), (Status::Finished, 3));
}

#[tokio::test(start_paused = true)]
async fn what_ran_while_the_store_was_away_runs_again_under_the_same_keys() {
    let (store, calls) = (Remote::default(), Arc::default());
    let graph = cut_in_the_middle(&store, &calls, false);
    // Its end could not be saved, and is answered all the same.
    assert_eq!(run(&graph).await.unwrap().visits, ["first", "second", "third"]);
    store.away.store(false, Ordering::SeqCst);
    let graph = cut_in_the_middle(&store, &calls, true);
    assert_eq!(graph.resume(&id()).await.unwrap().visits, ["first", "second", "third"]);
    let calls = calls.lock().unwrap();
    assert_eq!(calls.len(), 5, "{calls:?}");
    assert_eq!(calls[1..3], calls[3..], "{calls:?}");
}

#[tokio::test]
async fn without_its_store_no_run_begins() {
    let (store, calls) = (Remote::default(), Arc::default());
    let graph = cut_in_the_middle(&store, &calls, true);
    store.away.store(true, Ordering::SeqCst);
    let error = run(&graph).await.unwrap_err();
    assert_eq!(*error.kind(), GraphErrorKind::Store);
    assert!(error.is_retryable());
    assert!(calls.lock().unwrap().is_empty());
}
