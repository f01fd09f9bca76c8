//! What the docs of stores, checkpointers and memos promise, one test a promise.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use buttress::{
    CheckpointKey, CheckpointLayer, CheckpointStore, Checkpointer, FileStore, InWorkflow,
    MemoryStore, StoreError, StoreErrorKind, WorkflowId,
    checkpoint::{Clock, Put},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tower::{Layer, ServiceExt, service_fn};

fn id() -> WorkflowId {
    WorkflowId::new("trades-1").expect("the id is valid")
}

fn key() -> CheckpointKey {
    id().into()
}

fn kind(error: &buttress::Error) -> StoreErrorKind {
    error.downcast_ref::<StoreError>().unwrap_or_else(|| panic!("{error:?}")).kind().clone()
}

/// An agent that takes a while; how often it was called.
async fn calls_of_two(
    one: impl CheckpointStore,
    other: impl CheckpointStore,
) -> (u32, Vec<String>) {
    let calls = Arc::new(AtomicU32::new(0));
    let agent = |calls: Arc<AtomicU32>| {
        service_fn(move |_: InWorkflow<()>| {
            let call = calls.fetch_add(1, Ordering::SeqCst);
            async move {
                tokio::time::sleep(Duration::from_millis(300)).await;
                Ok::<_, std::io::Error>(format!("call {call}"))
            }
        })
    };
    let one = CheckpointLayer::new(one, "research").memo().layer(agent(Arc::clone(&calls)));
    let other = CheckpointLayer::new(other, "research").memo().layer(agent(Arc::clone(&calls)));
    let ask = || InWorkflow::new(id(), ()).idempotency_key("1");
    let (one, other) = tokio::join!(one.oneshot(ask()), other.oneshot(ask()));
    (calls.load(Ordering::SeqCst), vec![one.expect("it answers"), other.expect("it answers")])
}

fn record(root: &Path, sequence: u64) -> std::path::PathBuf {
    let [shard, workflow] = id().path_segments();
    root.join(shard).join(workflow).join("n-").join(format!("{sequence:020}.json"))
}

fn python(path: &Path, phase: &str) {
    let now = jiff_now();
    let text = format!(
        r#"{{"workflow_id": "trades-1", "timestamp": "{now}", "phase": "{phase}", "state": {{"by": "python"}}}}"#
    );
    fs::write(path, text).expect("the file is written");
}

/// The local time as Python's `datetime.now().isoformat()` writes it.
fn jiff_now() -> String {
    let shown = std::process::Command::new("date")
        .arg("+%Y-%m-%dT%H:%M:%S.%6N")
        .output()
        .expect("date runs");
    String::from_utf8(shown.stdout).expect("date writes text").trim().to_owned()
}

async fn until_shown(store: &FileStore, phase: &str) {
    let path = store.seed_file(&id()).expect("the id is a file's name");
    let shown = || fs::read_to_string(&path).is_ok_and(|text| text.contains(phase));
    while !shown() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Issue: "Seed compatibility both ways, with Python saving after us"; checkpoints are never ordered
/// by the clock.
#[tokio::test]
async fn what_python_saves_after_us_is_newer_though_our_clock_was_ahead() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(folder.path()).await.unwrap();
    let ahead = Clock::new(|| SystemTime::now() + Duration::from_secs(3600));
    let checkpointer = Checkpointer::<serde_json::Value>::new(store.clone()).clock(ahead);
    let _saved = checkpointer.save(&id(), "ours", &json!({"by": "us"})).await.unwrap();
    until_shown(&store, "ours").await;
    let path = store.seed_file(&id()).expect("the id is a file's name");
    python(&path, "pythons");
    let loaded = checkpointer.load(&id()).await.unwrap();
    let _saved = checkpointer.save(&id(), "again", &json!({"by": "us"})).await.unwrap();
    until_shown(&store, "again").await;
    let kept: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(loaded.phase, "pythons", "and nothing is kept of it: {kept:?}");
}

/// What is acknowledged can be loaded, or the save is an error (`Encode`), as it is for a memo.
#[tokio::test]
async fn a_state_that_cannot_be_read_again_is_not_acknowledged() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Analysis {
        volatility: f64,
    }
    let checkpointer = Checkpointer::<Analysis>::new(MemoryStore::new());
    let _first = checkpointer.save(&id(), "one", &Analysis { volatility: 0.2 }).await.unwrap();
    let saved = checkpointer.save(&id(), "two", &Analysis { volatility: f64::NAN }).await;
    let loaded = checkpointer.load(&id()).await;
    assert!(loaded.is_ok(), "saved: {saved:?}, loaded: {loaded:?}");
}

#[tokio::test]
async fn a_state_that_is_nested_too_deep_to_be_read_is_not_acknowledged() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Plan {
        then: Option<Box<Self>>,
    }
    let checkpointer = Checkpointer::<Plan>::new(MemoryStore::new());
    let _first = checkpointer.save(&id(), "one", &Plan { then: None }).await.unwrap();
    let deep = (0..200).fold(Plan { then: None }, |plan, _| Plan { then: Some(Box::new(plan)) });
    let saved = checkpointer.save(&id(), "two", &deep).await;
    let loaded = checkpointer.load(&id()).await;
    assert!(loaded.is_ok(), "saved: {saved:?}, loaded: {:?}", loaded.map(|found| found.phase));
}

/// `Workflow`: "Another writer in between makes the next save a `Conflict`".
#[tokio::test]
async fn another_writer_before_the_lease_makes_the_next_save_a_conflict() {
    let checkpointer = Checkpointer::<u32>::new(MemoryStore::new());
    let _first = checkpointer.save(&id(), "one", &1).await.unwrap();
    let mut workflow = checkpointer.workflow(&id());
    assert_eq!(workflow.resume().await.unwrap().checkpoint.state, 1);
    let _other = checkpointer.save(&id(), "other", &100).await.unwrap();
    workflow.acquire("me", Duration::from_secs(60)).await.unwrap();
    let saved = workflow.save("two", &2).await;
    let error = saved.expect_err("what the other has written is hidden");
    assert!(matches!(kind(&error), StoreErrorKind::Conflict { .. }), "{error:?}");
}

/// `CheckpointLayer`: "`before` and `after` go behind whatever the workflow has saved, from any
/// layer"; `Checkpointer::save`: "both succeed, one after the other".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_save_at_once_all_succeed() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(folder.path()).await.unwrap();
    let checkpointer = Checkpointer::<u32>::new(store);
    let saves: Vec<_> = (0..200)
        .map(|number| {
            let checkpointer = checkpointer.clone();
            tokio::spawn(async move { checkpointer.save(&id(), "p", &number).await.map(drop) })
        })
        .collect();
    let mut failed = Vec::new();
    for save in saves {
        failed.extend(save.await.unwrap().err().map(|error| kind(&error)));
    }
    assert!(failed.is_empty(), "{} of 200: {:?}", failed.len(), failed[0]);
}

/// `latest`: "`Corrupt` where there are checkpoints and none can be read: never an empty answer".
#[tokio::test]
async fn a_head_whose_file_is_gone_is_no_empty_answer() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(folder.path()).await.unwrap();
    let first = store.put(Put::new(id(), None, *b"{}")).await.unwrap();
    let lease = store.acquire(&key(), "me", Duration::from_secs(60)).await.unwrap();
    fs::remove_file(record(folder.path(), first)).unwrap();
    let store = FileStore::open(folder.path()).await.unwrap();
    let latest = store.latest(&key()).await;
    let begun_anew = store.put(Put::new(id(), None, *b"{}").under(&lease)).await;
    assert!(latest.is_err(), "latest: {latest:?}, begun anew: {begun_anew:?}");
}

/// Issue: "`upcast` lets an old checkpoint load".
#[tokio::test]
async fn a_step_of_a_memo_is_given_the_response() {
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Old {
        ticker: String,
    }
    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct New {
        ticker: String,
        price: u32,
    }
    let store = MemoryStore::new();
    let ask = || InWorkflow::new(id(), ()).idempotency_key("1");
    let old = service_fn(|_: InWorkflow<()>| async {
        Ok::<_, std::io::Error>(Old { ticker: "AAPL".to_owned() })
    });
    CheckpointLayer::new(store.clone(), "p").memo().layer(old).oneshot(ask()).await.unwrap();
    let new = service_fn(|_: InWorkflow<()>| async {
        Err::<New, _>(std::io::Error::other("called again"))
    });
    let memo = CheckpointLayer::new(store, "p").memo().schema_version(2).upcast(1, |mut value| {
        value["price"] = json!(7);
        Ok(value)
    });
    let answer = memo.layer(new).oneshot(ask()).await.unwrap();
    assert_eq!(answer, New { ticker: "AAPL".to_owned(), price: 7 });
}

#[tokio::test]
async fn repeats_wait_for_the_first_however_the_folder_is_spelled() {
    let above = tempfile::tempdir().unwrap();
    let folder = above.path().join("store");
    let one = FileStore::open(&folder).await.unwrap();
    let other = FileStore::open(above.path().join("store/../store")).await.unwrap();
    assert_eq!(calls_of_two(one, other).await.0, 1);
}

/// Issue: "concurrent repeats wait for the first (one call in flight per key and process) or are
/// told `Conflict`".
#[tokio::test]
async fn repeats_wait_for_the_first_through_two_layers_over_one_memory_store() {
    let store = MemoryStore::new();
    assert_eq!(calls_of_two(store.clone(), store).await.0, 1);
}

/// A store stays where it was opened, as `SqliteStore` does.
#[tokio::test]
async fn a_store_stays_in_its_folder_when_the_process_changes_its_own() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::env::set_current_dir(one.path()).unwrap();
    let store = FileStore::open("checkpoints").await.unwrap();
    let first = store.put(Put::new(id(), None, *b"{}")).await.unwrap();
    std::env::set_current_dir(other.path()).unwrap();
    let second = store.put(Put::new(id(), Some(first), *b"{}")).await;
    assert!(second.is_ok(), "{second:?}");
}

/// `OpenFileStore`: "what a dead writer has left in it is removed"; case 51: "by open or gc".
#[tokio::test]
async fn what_a_dead_writer_has_left_is_removed_by_the_first_put_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(folder.path()).await.unwrap();
    let first = store.put(Put::new(id(), None, *b"{}")).await.unwrap();
    until_shown(&store, "\"sequence\":1").await;
    drop(store);
    // What a process that was killed in a write leaves: one that is no more.
    let left = record(folder.path(), first).with_file_name(".tmp-0-1-1-00000000-0");
    fs::write(&left, vec![0; 1 << 20]).unwrap();
    let old = SystemTime::now() - Duration::from_secs(7200);
    fs::File::options().append(true).open(&left).unwrap().set_modified(old).unwrap();
    let store = FileStore::open(folder.path()).await.unwrap();
    store.put(Put::new(id(), Some(first), *b"{}")).await.unwrap();
    // The chain is tidied behind the put; that it never is ends the test by its time limit.
    while left.exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Case 65: "newer than us -> TooNew (fail closed, record untouched)".
#[tokio::test]
async fn an_older_program_does_not_take_away_what_a_newer_one_has_saved() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(folder.path()).await.unwrap();
    let newer = Checkpointer::<u32>::new(store.clone()).schema_version(2);
    let saved = newer.save(&id(), "newer", &2).await.unwrap().sequence.unwrap();
    let older = Checkpointer::<u32>::new(store.clone());
    let error = older.load(&id()).await.unwrap_err();
    assert!(matches!(kind(&error), StoreErrorKind::TooNew { .. }), "{error:?}");
    let mut answers = Vec::new();
    for _ in 0..11 {
        answers.push(older.save(&id(), "older", &1).await.map(|saved| saved.sequence));
    }
    let kept = store.get(&key(), saved).await.unwrap();
    assert!(kept.is_some(), "{answers:?}");
}

/// `is_retryable`: "whether the same request may succeed later".
#[tokio::test]
async fn a_name_that_no_file_system_takes_is_not_worth_a_repeat() {
    let folder = tempfile::tempdir().unwrap();
    let error = FileStore::open(folder.path().join("x".repeat(300))).await.unwrap_err();
    assert!(!error.is_retryable(), "{error:?}");
}

/// `put`: "`Fenced` where the token is not the newest of the chain".
#[tokio::test]
async fn a_lease_of_another_chain_is_no_right_to_write() {
    let store = MemoryStore::new();
    let minute = Duration::from_secs(60);
    let own = store.acquire(&key(), "me", minute).await.unwrap();
    let part = key().in_namespace(buttress::Namespace::new("part").unwrap());
    store.acquire(&part, "somebody else", minute).await.unwrap();
    let put = store.put(Put::new(part, None, *b"{}").under(&own)).await;
    assert!(put.is_err(), "{put:?}, though somebody else holds the lease");
}

/// Where a file system folds case, as that of macOS and Windows does, Python's file of "TRADES-1" is
/// the one that "trades-1" would have. What Python wrote is never written over.
#[tokio::test]
async fn what_python_wrote_of_a_workflow_that_differs_in_case_is_not_written_over() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(folder.path()).await.unwrap();
    let path = store.seed_file(&id()).expect("the id is a file's name");
    let python = r#"{"workflow_id": "TRADES-1", "timestamp": "2026-01-02T03:04:05", "phase": "p", "state": {"by": "python"}}"#;
    fs::write(&path, python).unwrap();
    store.put(Put::new(id(), None, *b"{}").phase("ours")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), python);
}

/// Issue: "Python saving after us and we after it", with a state of our second schema that Python
/// has loaded and saved again.
#[tokio::test]
async fn what_python_saves_of_our_state_is_not_brought_up_twice() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(folder.path()).await.unwrap();
    // Version 1 had dollars, version 2 has cents.
    let checkpointer = Checkpointer::<serde_json::Value>::new(store.clone())
        .schema_version(2)
        .upcast(1, |state| Ok(json!({ "price": state["price"].as_u64().unwrap() * 100 })));
    let _saved = checkpointer.save(&id(), "ours", &json!({ "price": 500 })).await.unwrap();
    until_shown(&store, "ours").await;
    let path = store.seed_file(&id()).expect("the id is a file's name");
    // As the seed does: the state that it has loaded, under another phase.
    let loaded: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let text = json!({
        "workflow_id": "trades-1",
        "timestamp": jiff_now(),
        "phase": "pythons",
        "state": loaded["state"],
    });
    fs::write(&path, text.to_string()).unwrap();
    let found = checkpointer.load(&id()).await.unwrap();
    assert_eq!(found.phase, "pythons");
    assert_eq!(found.state, json!({ "price": 500 }));
}

/// `CheckpointLayer`: "A response that is larger than the store takes .. is an error, and so is
/// every repeat: the agent is not called for it again".
#[tokio::test]
async fn a_response_that_does_not_fit_into_a_small_store_is_not_asked_for_again() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let agent = service_fn(move |_: InWorkflow<()>| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Ok::<_, std::io::Error>("x".repeat(100)) }
    });
    let store = MemoryStore::new().max_state(32);
    let memo = CheckpointLayer::new(store, "p").memo().layer(agent);
    for _ in 0..3 {
        let asked = InWorkflow::new(id(), ()).idempotency_key("1");
        let error = memo.clone().oneshot(asked).await.unwrap_err();
        assert!(matches!(kind(&error), StoreErrorKind::TooLarge { .. }), "{error:?}");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}
