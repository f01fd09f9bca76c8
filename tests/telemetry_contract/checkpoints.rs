//! What checkpoints tell.

use std::time::{Duration, SystemTime};

use buttress::{
    CheckpointKey, CheckpointLayer, CheckpointStore, Checkpointer, InWorkflow, MemoryStore,
    StoreError, WorkflowId,
    checkpoint::{
        Capabilities, Checkpoint, Clock, Durable, Lease, Page, Place, Put, PutWrites, Query,
        WhenUnavailable,
    },
};
use tower::{ServiceBuilder, ServiceExt as _};

use super::seen::{Seen, observe};

/// A store that says where it keeps things, and that may be away.
#[derive(Clone)]
struct Elsewhere {
    inner: MemoryStore,
    place: Place,
    is_away: bool,
}

impl Elsewhere {
    fn new(place: Place) -> Self {
        Self { inner: MemoryStore::new(), place, is_away: false }
    }
}

impl CheckpointStore for Elsewhere {
    async fn put(&self, put: Put) -> Result<u64, StoreError> {
        if self.is_away {
            return Err(StoreError::unavailable("the cable is cut"));
        }
        self.inner.put(put).await
    }

    async fn latest(&self, key: &CheckpointKey) -> Result<Option<Checkpoint>, StoreError> {
        if self.is_away {
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

    async fn prune(
        &self,
        key: &CheckpointKey,
        keep: std::num::NonZeroU32,
    ) -> Result<u64, StoreError> {
        self.inner.prune(key, keep).await
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new(Durable::No)
    }

    fn place(&self, _: &CheckpointKey, _: u64) -> Place {
        self.place.clone()
    }
}

fn id() -> WorkflowId {
    WorkflowId::new("trade-7").unwrap()
}

/// A clock that is read at ten past and then stands at twenty past.
fn clock(minutes: u64) -> Clock {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_000 + minutes * 60);
    Clock::new(move || time)
}

fn checkpointer(store: Elsewhere, minutes: u64) -> Checkpointer<String> {
    Checkpointer::new(store)
        .clock(clock(minutes))
        .agent_id("research")
        .metadata(r#"{"ticker":"AAPL"}"#)
}

fn saved_and_resumed() -> Seen {
    observe(async || {
        let store = Elsewhere::new(Place::File("/checkpoints/1.json".into()));
        let state = "bullish".to_owned();
        let _saved = checkpointer(store.clone(), 0).save(&id(), "research", &state).await.unwrap();
        checkpointer(store, 10).resume(&id()).await.unwrap();
    })
}

fn kept_by_a_layer() -> Seen {
    observe(async || {
        let store = Elsewhere::new(Place::Uri("redis://127.0.0.1/0".to_owned()));
        let layer = CheckpointLayer::new(store, "research").memo().clock(clock(0));
        let analyst =
            ServiceBuilder::new().layer(layer).service_fn(|asked: InWorkflow<String>| async move {
                Ok::<_, std::io::Error>(asked.request)
            });
        for _ in 0..2 {
            let request = InWorkflow::new(id(), "AAPL".to_owned()).idempotency_key("1");
            analyst.clone().oneshot(request).await.unwrap();
        }
    })
}

fn not_found() -> Seen {
    observe(async || {
        let checkpointer = checkpointer(Elsewhere::new(Place::Unknown), 0);
        checkpointer.resume(&id()).await.unwrap_err();
    })
}

fn gone_on_without() -> Seen {
    observe(async || {
        let store = Elsewhere { is_away: true, ..Elsewhere::new(Place::Unknown) };
        let checkpointer = checkpointer(store, 0);
        let state = "bullish".to_owned();
        checkpointer.save(&id(), "research", &state).await.unwrap_err();
        let checkpointer = checkpointer.when_unavailable(WhenUnavailable::GO_ON);
        let _saved = checkpointer.save(&id(), "research", &state).await.unwrap();
    })
}

scenarios![saved_and_resumed, kept_by_a_layer, not_found, gone_on_without];

#[test]
fn saved_and_resumed_is_told() {
    saved_and_resumed().check(
        r#"
save_checkpoint SPAN DEFAULT
  {"agent_id":"research","checkpoint_file":"/checkpoints/1.json","outcome":"success","phase":"research","ticker":"AAPL","workflow_id":"trade-7"}
resume_from_checkpoint SPAN DEFAULT
  {"agent_id":"research","checkpoint_age_seconds":600,"outcome":"success","resume_phase":"research","ticker":"AAPL","workflow_id":"trade-7"}
  load_checkpoint SPAN DEFAULT
    {"agent_id":"research","checkpoint_phase":"research","checkpoint_timestamp":"2025-11-24T16:00:00Z","outcome":"success","ticker":"AAPL","workflow_id":"trade-7"}
"#,
        &[
            "INFO Checkpoint saved for workflow trade-7 at phase research",
            "INFO Checkpoint loaded for workflow trade-7",
            "INFO Resuming workflow trade-7 from phase research",
        ],
    );
}

#[test]
fn kept_by_a_layer_is_told() {
    kept_by_a_layer().check(
        r#"
save_checkpoint SPAN DEFAULT
  {"checkpoint_uri":"redis://127.0.0.1/0","outcome":"success","phase":"research","workflow_id":"trade-7"}
load_checkpoint SPAN DEFAULT
  {"checkpoint_phase":"research","checkpoint_timestamp":"2025-11-24T16:00:00Z","outcome":"success","workflow_id":"trade-7"}
"#,
        &[
            "INFO Checkpoint saved for workflow trade-7 at phase research",
            "INFO Checkpoint loaded for workflow trade-7",
        ],
    );
}

#[test]
fn not_found_is_told() {
    not_found().check(
        r#"
resume_from_checkpoint SPAN ERROR: no checkpoint found for workflow "trade-7"
  {"agent_id":"research","error":"no checkpoint found for workflow \"trade-7\"","error_type":"permanent","failure_kind":"permanent","outcome":"failure","ticker":"AAPL","workflow_id":"trade-7"}
  load_checkpoint SPAN ERROR: No checkpoint found for workflow trade-7
    {"agent_id":"research","error":"no checkpoint found for workflow \"trade-7\"","error_type":"permanent","failure_kind":"permanent","outcome":"failure","ticker":"AAPL","workflow_id":"trade-7"}
"#,
        &[],
    );
}

#[test]
fn gone_on_without_is_told() {
    gone_on_without().check(
        r#"
save_checkpoint SPAN ERROR: the store is not available: the cable is cut
  {"agent_id":"research","error":"the store is not available: the cable is cut","error_type":"transient","failure_kind":"transient","outcome":"failure","phase":"research","ticker":"AAPL","workflow_id":"trade-7"}
save_checkpoint SPAN WARNING: Workflow trade-7 goes on without a checkpoint
  {"agent_id":"research","error":"the store is not available: the cable is cut","error_type":"transient","failure_kind":"transient","outcome":"failure","phase":"research","ticker":"AAPL","workflow_id":"trade-7"}
"#,
        &["WARN Workflow trade-7 goes on without a checkpoint: the store is not available: the cable is cut"],
    );
}
