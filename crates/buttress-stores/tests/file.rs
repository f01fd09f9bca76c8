//! FileStore keeps every promise of the conformance suite, gets on with the seed's Python, and asks
//! the system for things in the right order.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/documented.rs"]
mod documented;
mod support;

use std::{
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use buttress::{
    Checkpointer, FileStore, StoreError, WorkflowId,
    checkpoint::{CheckpointStore, Page, Put},
};
use buttress_stores::conformance::{self, Harness, Options, Rounds};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::support::KillLoop;

struct Files(TempDir);

async fn open(path: &Path, options: &Options) -> Result<FileStore, StoreError> {
    let keep = options.keep.map_or(u32::MAX, std::num::NonZeroU32::get);
    FileStore::open(path).clock(options.clock.clone()).max_state(options.max_state).keep(keep).await
}

impl Harness for Files {
    type Store = FileStore;

    async fn open(&self, options: &Options) -> FileStore {
        let folder = tempfile::Builder::new().tempdir_in(&self.0).expect("a folder").keep();
        open(&folder, options).await.expect("a store")
    }

    async fn reopen(&self, store: &FileStore, options: &Options) -> Option<FileStore> {
        Some(open(store.path(), options).await.expect("a store"))
    }

    fn debug(&self, store: &FileStore) -> String {
        format!("{store:?}")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_store_keeps_every_promise() {
    let report =
        conformance::run(&Files(TempDir::new().expect("a folder")), Rounds::from_env()).await;
    println!("{report}");
    report.assert_passed();
    documented::compare("file", &report);
}

// ===== SIGKILL =====

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_child() {
    if let Some(place) = support::place() {
        support::write_until_killed(&FileStore::open(place).await.unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_outlives_sigkill() {
    let folder = TempDir::new().unwrap();
    let place = folder.path().join("store");
    let kills = KillLoop::new("killed_child", place.to_str().unwrap());
    let tally = kills.run(async |place: &str| FileStore::open(place).await.unwrap()).await;
    println!("{tally}");
    // What the dead left is swept by the next that writes; four chains of ten are what stays.
    for workflow in support::WORKFLOWS {
        let store = FileStore::open(&place).await.unwrap();
        let head = store.latest(&support::key(workflow)).await.unwrap().unwrap();
        let number: u64 = head.phase.parse().unwrap();
        let put = support::numbered(&support::key(workflow), Some(head.sequence), number + 1);
        store.put(put).await.unwrap();
        until_shown(&store, &head.key.workflow_id, &(number + 1).to_string()).await;
    }
    let files = files_in(&place);
    let temporary = files.iter().filter(|path| path.contains(".tmp-")).count();
    assert_eq!(temporary, 0, "{files:#?}");
    assert_eq!(files.len(), 4 * 10 + 4, "{files:#?}");
}

fn files_in(folder: &Path) -> Vec<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(files_in(&entry.path())),
            false => files.push(entry.path().display().to_string()),
        }
    }
    files
}

// ===== The seed's Python =====

/// Runs the seed's save, load or resume.
fn python(arguments: &[&str]) -> Output {
    let script = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap()).join("tests/seed.py");
    Command::new("python3").arg(script).args(arguments).output().expect("python3 runs")
}

fn answer(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Waits until the seed's file of a workflow holds a phase: it is written behind the answer.
async fn until_shown(store: &FileStore, id: &WorkflowId, phase: &str) {
    let path = store.seed_file(id).unwrap();
    let shows = || {
        let text = std::fs::read(&path).ok()?;
        let record: Value = serde_json::from_slice(&text).ok()?;
        (record["phase"] == phase).then_some(())
    };
    for _ in 0..10_000 {
        if shows().is_some() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{} never showed {phase}", path.display());
}

#[tokio::test]
async fn python_goes_on_after_us_and_we_after_python() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().to_str().unwrap();
    for id in ["trade-7", "TRADE-7", "Trade 7 é 🚀", "..", "-x", "a.b"] {
        let store = FileStore::open(folder.path()).await.unwrap();
        let checkpointer = Checkpointer::<Value>::new(store.clone());
        let workflow = WorkflowId::new(id).unwrap();

        // Python after us.
        let ours = json!({ "ticker": "AAPL", "prices": [1.5, 2], "note": "é\n" });
        let _saved = checkpointer.save(&workflow, "research", &ours).await.unwrap();
        until_shown(&store, &workflow, "research").await;
        let loaded = answer(&python(&["load", root, id]));
        assert_eq!(loaded, json!({ "phase": "research", "state": ours }), "{id}");
        let resumed = answer(&python(&["resume", root, id]));
        let age = resumed["age"].as_f64().unwrap();
        assert!((0.0..60.0).contains(&age), "{id}: {age}");

        // We after Python, in a store that has seen the workflow and in a new one.
        for (phase, is_new) in [("strategy", false), ("trade", true)] {
            let state = json!({ "by": "python", "phase": phase });
            let saved = python(&["save", root, id, phase, &state.to_string()]);
            assert!(saved.status.success(), "{id}: {saved:?}");
            let checkpointer = match is_new {
                true => Checkpointer::new(FileStore::open(folder.path()).await.unwrap()),
                false => checkpointer.clone(),
            };
            let resumed = checkpointer.resume(&workflow).await.unwrap();
            assert_eq!(resumed.checkpoint.phase, phase, "{id}");
            assert_eq!(resumed.checkpoint.state, state, "{id}");
            assert!(resumed.age < Duration::from_secs(60), "{id}: {:?}", resumed.age);
            until_shown(&store, &workflow, phase).await;
        }

        // Nothing of it is lost, and a writer that has not seen it is told.
        let key = workflow.clone().into();
        let history = store.history(&key, Page::newest(10)).await.unwrap();
        let phases: Vec<_> = history.iter().map(|found| found.phase.as_str()).collect();
        assert_eq!(phases, ["trade", "strategy", "research"], "{id}");
        let stale = store.put(Put::new(workflow.clone(), Some(1), *b"{}")).await.unwrap_err();
        assert!(stale.is_conflict(), "{id}: {stale}");
        let head = history[0].sequence;
        let put = Put::new(workflow.clone(), Some(head), *b"{}").phase("done");
        store.put(put).await.unwrap();
        until_shown(&store, &workflow, "done").await;
        assert_eq!(answer(&python(&["load", root, id]))["phase"], "done", "{id}");
    }
}

/// A naive time is right only where both read it in the same zone.
#[test]
fn python_and_we_agree_in_every_time_zone() {
    for zone in ["IST-5:30", "NST3:30NDT,M3.2.0,M11.1.0"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "python_goes_on_after_us_and_we_after_python"])
            .env("TZ", zone)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{zone}: {text}");
    }
}

#[tokio::test]
async fn a_workflow_that_only_python_knows_is_found_and_half_a_file_is_left_alone() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().to_str().unwrap();
    assert!(python(&["save", root, "Only Python", "research", "{\"n\": 1}"]).status.success());
    let store = FileStore::open(folder.path()).await.unwrap();
    let heads = store.list(buttress::checkpoint::Query::first(10)).await.unwrap();
    let found: Vec<_> = heads.iter().map(|head| head.key.workflow_id.as_str()).collect();
    assert_eq!(found, ["Only Python"]);
    assert_eq!(heads[0].metadata["imported_from"], "Only Python_latest.json");

    // As Python leaves it when it is killed while it writes.
    let id = WorkflowId::new("Only Python").unwrap();
    let path = store.seed_file(&id).unwrap();
    for half in ["", "{\n  \"workflow_id\": \"Only Python\",\n  \"timest"] {
        std::fs::write(&path, half).unwrap();
        let store = FileStore::open(folder.path()).await.unwrap();
        let head = store.latest(&id.clone().into()).await.unwrap().unwrap();
        let state: Value = serde_json::from_slice(&head.state).unwrap();
        assert_eq!((head.phase.as_str(), state), ("research", json!({ "n": 1 })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), half);
    }
    // An id that is no file name has no such file, and is a workflow all the same.
    let odd = WorkflowId::new("a/b").unwrap();
    assert_eq!(store.seed_file(&odd), None);
    store.put(Put::new(odd.clone(), None, *b"{}")).await.unwrap();
    assert!(store.latest(&odd.into()).await.unwrap().is_some());
}

// ===== The order of system calls =====

const STRACED: &str = "BUTTRESS_STRACED";

#[tokio::test]
async fn straced_child() {
    let Ok(folder) = std::env::var(STRACED) else { return };
    let store = FileStore::open(folder).await.unwrap();
    let id = WorkflowId::new("traced").unwrap();
    let first = store.put(Put::new(id.clone(), None, *b"{}")).await.unwrap();
    store.put(Put::new(id, Some(first), *b"{\"second\":true}")).await.unwrap();
    // A call that is seen in the trace and is nothing else's: the put has been answered.
    drop(std::fs::metadata("/acknowledged"));
}

#[test]
fn a_put_is_written_synced_published_and_synced_before_it_is_answered() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("store");
    let trace = folder.path().join("trace");
    let mut strace = Command::new("strace");
    strace
        .args(["-f", "-y", "-e", "trace=openat,write,fsync,link,linkat,unlink,getdents64,statx"])
        .arg("-o")
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "straced_child", "--test-threads=1"])
        .env(STRACED, &root);
    let is_traced = strace.output().is_ok_and(|output| output.status.success());
    let trace = std::fs::read_to_string(trace).unwrap_or_default();
    if !is_traced || !trace.contains("fsync(") {
        println!("skipped: strace is not there, or may not trace here");
        return;
    }
    // The second put, whose folders are there: found by the name that it publishes.
    let record = "/00000000000000000002.json";
    let publish =
        trace.lines().find(|line| line.contains("link") && line.contains(record)).unwrap();
    let temporary = publish.split('"').nth(1).unwrap();
    let folder = temporary.rsplit_once('/').unwrap().0;
    let steps = [
        ("creates it new", format!("\"{temporary}\", O_WRONLY|O_CREAT|O_EXCL")),
        ("writes it", format!("<{temporary}>, \"{{")),
        ("syncs it", format!("<{temporary}>)")),
        ("publishes it", publish.to_owned()),
        ("looks for later ones", format!("<{folder}>, ")),
        ("syncs the folder", format!("<{folder}>)")),
        ("answers", "\"/acknowledged\"".to_owned()),
    ];
    let mut rest = trace.as_str();
    for (what, call) in steps {
        let at = rest.find(&call).unwrap_or_else(|| panic!("it never {what}, {call}:\n{trace}"));
        rest = &rest[at + call.len()..];
    }
}
