//! `buttress checkpoints`, the real program over real stores.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use buttress::{
    CheckpointStore, FileStore, WorkflowId,
    checkpoint::{CheckpointKey, Namespace, Put, PutWrites, TaskWrite, WriteKind},
};
use buttress_stores::SqliteStore;
use serde_json::{Value as Json, json};
use support::{Ran, run};

/// An id that would clear the screen, turn the text around and end the line.
const BAD: &str = "a\u{1b}[2J\u{202e}\nb";

fn id(id: &str) -> WorkflowId {
    WorkflowId::new(id).unwrap()
}

/// Fills a store: "trades/7" has two checkpoints and a part with one, "bytes" has no JSON, and one
/// has a bad name.
async fn fill(store: &impl CheckpointStore) {
    let first = Put::new(id("trades/7"), None, br#"{"findings":[]}"#.to_vec()).phase("research");
    let first = store.put(first).await.unwrap();
    let second = Put::new(id("trades/7"), Some(first), br#"{"findings":["up"]}"#.to_vec())
        .phase("strategy")
        .metadata("ticker", "AAPL");
    let second = store.put(second).await.unwrap();
    let write = TaskWrite::new("gate", WriteKind::Result, 0, br#"{"ok":true}"#.to_vec());
    let key = CheckpointKey::new(id("trades/7"));
    store.put_writes(PutWrites::new(key.clone(), second, vec![write])).await.unwrap();
    let part = key.in_namespace(Namespace::new("swarm").unwrap());
    store.put(Put::new(part, None, b"[1]".to_vec()).phase("memo")).await.unwrap();
    store.put(Put::new(id("bytes"), None, vec![0xff, 0x00])).await.unwrap();
    let bad = Put::new(id(BAD), None, json!({ "said": BAD }).to_string().into_bytes());
    store.put(bad.phase("ph\u{1b}ase")).await.unwrap();
}

/// A folder and a file with the same checkpoints.
struct Stores {
    folder: tempfile::TempDir,
}

impl Stores {
    fn filled() -> Self {
        let stores = Self { folder: tempfile::tempdir().unwrap() };
        let (files, database) = (stores.path("files"), stores.path("checkpoints.db"));
        now(async {
            fill(&FileStore::open(&files).await.unwrap()).await;
            fill(&SqliteStore::open(&database).await.unwrap()).await;
        });
        stores
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn names(&self) -> [String; 2] {
        [
            format!("file:{}", self.path("files").display()),
            format!("sqlite:{}", self.path("checkpoints.db").display()),
        ]
    }
}

fn now<T>(work: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build().unwrap().block_on(work)
}

fn checkpoints(store: &str, args: &[&str]) -> Ran {
    let args = [&["checkpoints", "--store", store], args].concat();
    run(&args, &[])
}

fn documented(document: &Json) {
    let documented =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md")).unwrap();
    for key in document.as_object().unwrap().keys() {
        assert!(documented.contains(&format!("`{key}`")), "{key} is not in docs/cli.md");
    }
}

#[test]
fn a_list_has_the_newest_of_each_chain() {
    let stores = Stores::filled();
    for store in stores.names() {
        let ran = checkpoints(&store, &["list"]).code(0).fits();
        assert_eq!(ran.stdout.lines().count(), 5, "{}", ran.stdout);
        let head = ran.stdout.lines().next().unwrap();
        for column in ["WORKFLOW", "PART", "N", "PHASE", "SAVED (UTC)", "BYTES"] {
            assert!(head.contains(column), "{head}");
        }
        assert!(ran.stdout.contains(r"a\u{1b}[2J\u{202e}\nb"), "{}", ran.stdout);
        let document = checkpoints(&store, &["list", "--json"]).code(0).steers_nothing().json();
        let rows = document["checkpoints"].as_array().unwrap();
        assert_eq!((rows.len(), &document["store"]), (4, &json!(store)));
        assert!(rows.iter().any(|row| row["workflow_id"] == BAD), "{rows:?}");
        let head = rows.iter().find(|row| row["phase"] == "strategy").unwrap();
        assert_eq!((&head["state_bytes"], &head["writes"]), (&json!(19), &json!(1)));
        assert!(head.get("state").is_none());
        documented(&document);
        documented(head);
        let one = checkpoints(&store, &["list", "--workflow", "trades/7", "--json"]).code(0).json();
        assert_eq!(one["checkpoints"].as_array().unwrap().len(), 2);
        let limited = checkpoints(&store, &["list", "--limit", "1", "--json"]).code(0).json();
        assert_eq!(limited["checkpoints"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn a_list_goes_on_behind_a_page() {
    let stores = Stores { folder: tempfile::tempdir().unwrap() };
    let database = stores.path("checkpoints.db");
    now(async {
        let store = SqliteStore::open(&database).await.unwrap();
        for number in 0..70 {
            store.put(Put::new(id(&format!("w{number}")), None, b"{}".to_vec())).await.unwrap();
        }
    });
    let all = checkpoints(&stores.names()[1], &["list", "--json"]).code(0).json();
    assert_eq!(all["checkpoints"].as_array().unwrap().len(), 70);
}

#[test]
fn a_checkpoint_is_shown_with_its_state() {
    let stores = Stores::filled();
    for store in stores.names() {
        let shown = checkpoints(&store, &["show", "trades/7"]).code(0).fits().stdout;
        for line in ["workflow       trades/7\n", "phase          strategy\n", "\"findings\": [\n"]
        {
            assert!(shown.contains(line), "{line:?} is not in\n{shown}");
        }
        let document = checkpoints(&store, &["show", "trades/7", "--json"]).code(0).json();
        assert_eq!(document["state"], json!({"findings": ["up"]}));
        assert_eq!(document["metadata"]["ticker"], "AAPL");
        let write = json!([{"task": "gate", "kind": "result", "index": 0, "value": {"ok": true}}]);
        assert_eq!(document["writes"], write);
        documented(&document);
        documented(&document["writes"][0]);
        let parent = document["parent"].as_u64().unwrap().to_string();
        let before = ["show", "trades/7", "--sequence", &parent, "--json"];
        assert_eq!(checkpoints(&store, &before).code(0).json()["state"], json!({"findings": []}));
        let part = ["show", "trades/7", "--namespace", "swarm", "--json"];
        assert_eq!(checkpoints(&store, &part).code(0).json()["state"], json!([1]));
        let bad = checkpoints(&store, &["show", BAD]).code(0).steers_nothing().stdout;
        assert!(bad.contains(r"phase          ph\u{1b}ase"), "{bad}");
        checkpoints(&store, &["show", BAD, "--json"]).code(0).steers_nothing();
        let bytes = checkpoints(&store, &["show", "bytes", "--json"]).code(0).json();
        assert_eq!(bytes["state"], json!({"$hex": "ff00"}));
        let bytes = checkpoints(&store, &["show", "bytes"]).code(0).stdout;
        assert!(bytes.ends_with("\n0xff00\n"), "{bytes}");
    }
}

#[test]
fn a_history_is_there_the_newest_first() {
    let stores = Stores::filled();
    for store in stores.names() {
        let ran = checkpoints(&store, &["history", "trades/7"]).code(0).fits();
        assert_eq!(ran.stdout.lines().count(), 3, "{}", ran.stdout);
        let document = checkpoints(&store, &["history", "trades/7", "--json"]).code(0).json();
        let phases: Vec<_> = document["checkpoints"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["phase"].as_str().unwrap())
            .collect();
        assert_eq!(phases, ["strategy", "research"]);
        let one = ["history", "trades/7", "--limit", "1", "--json"];
        assert_eq!(
            checkpoints(&store, &one).code(0).json()["checkpoints"].as_array().unwrap().len(),
            1
        );
    }
}

#[test]
fn what_is_not_there_has_an_exit_code() {
    let stores = Stores::filled();
    for store in stores.names() {
        checkpoints(&store, &["show", "nobody\u{1b}"])
            .code(3)
            .steers_nothing()
            .said("no checkpoint");
        checkpoints(&store, &["show", "trades/7", "--sequence", "999"]).code(3).said("999");
        checkpoints(&store, &["history", "nobody"]).code(3).said("no checkpoints of the workflow");
        checkpoints(&store, &["delete", "nobody", "--yes"])
            .code(3)
            .said("no checkpoints of nobody");
        let none = ["list", "--workflow", "nobody", "--json"];
        assert_eq!(checkpoints(&store, &none).code(3).json()["checkpoints"], json!([]));
    }
}

#[test]
fn deleting_asks_unless_told_not_to() {
    let stores = Stores::filled();
    for store in stores.names() {
        checkpoints(&store, &["delete", "trades/7"]).code(2).said("--yes");
        checkpoints(&store, &["show", "trades/7"]).code(0);
        let done = checkpoints(&store, &["delete", "trades/7", "--yes", "--json"]).code(0).json();
        assert_eq!((&done["deleted"], &done["chains"]), (&json!(true), &json!(2)));
        documented(&done);
        checkpoints(&store, &["list", "--workflow", "trades/7"]).code(3);
        checkpoints(&store, &["show", "bytes"]).code(0);
        let bad = checkpoints(&store, &["delete", BAD, "--yes"]).code(0).steers_nothing();
        assert_eq!(bad.stdout, "deleted: a\\u{1b}[2J\\u{202e}\\nb\n");
    }
}

/// Runs the program on a terminal of its own, and types an answer.
fn on_a_terminal(store: &str, answer: &str) -> Ran {
    let terminal = "import os, pty, subprocess, sys\n\
        typed, seen = pty.openpty()\n\
        os.write(typed, sys.argv[1].encode())\n\
        pipe = subprocess.PIPE\n\
        ran = subprocess.run(sys.argv[2:], stdin=seen, stdout=pipe, stderr=pipe, timeout=60)\n\
        sys.stdout.buffer.write(ran.stdout)\n\
        sys.stderr.buffer.write(ran.stderr)\n\
        sys.exit(ran.returncode)\n";
    let mut python = Command::new("python3");
    python.args(["-c", terminal, answer, env!("CARGO_BIN_EXE_buttress")]);
    python.args(["checkpoints", "--store", store, "delete", "trades/7"]);
    Ran::of(&python.stdin(Stdio::null()).output().unwrap())
}

#[test]
fn on_a_terminal_the_answer_decides() {
    let stores = Stores::filled();
    for store in stores.names() {
        let asked =
            on_a_terminal(&store, "n\n").code(0).said("Delete all checkpoints of trades/7 in ");
        assert_eq!(asked.stdout, "nothing deleted: trades/7\n");
        checkpoints(&store, &["show", "trades/7"]).code(0);
        assert_eq!(on_a_terminal(&store, "y\n").code(0).stdout, "deleted: trades/7\n");
        checkpoints(&store, &["show", "trades/7"]).code(3);
    }
}

#[test]
fn what_somebody_works_on_is_not_deleted() {
    let stores = Stores::filled();
    let (files, database) = (stores.path("files"), stores.path("checkpoints.db"));
    now(async {
        let key = CheckpointKey::new(id("trades/7"));
        let minute = Duration::from_secs(60);
        let file = FileStore::open(&files).await.unwrap();
        file.acquire(&key, "worker", minute).await.unwrap();
        let sqlite = SqliteStore::open(&database).await.unwrap();
        sqlite.acquire(&key, "worker", minute).await.unwrap();
    });
    for store in stores.names() {
        checkpoints(&store, &["delete", "trades/7", "--yes"])
            .code(1)
            .said("\"worker\" holds the lease");
        checkpoints(&store, &["show", "trades/7"]).code(0);
    }
}

#[test]
fn a_database_is_read_while_a_service_writes_to_it() {
    let stores = Stores::filled();
    let (database, [_, name]) = (stores.path("checkpoints.db"), stores.names());
    now(async {
        let service = SqliteStore::open(&database).await.unwrap();
        let stop = tokio::sync::watch::Sender::new(false);
        let writing = tokio::spawn({
            let (service, stop) = (service.clone(), stop.subscribe());
            async move {
                let mut parent = None;
                let mut puts = 0;
                while !*stop.borrow() {
                    parent = Some(
                        service.put(Put::new(id("busy"), parent, b"{}".to_vec())).await.unwrap(),
                    );
                    puts += 1;
                }
                puts
            }
        });
        let reading = tokio::task::spawn_blocking(move || {
            for _ in 0..10 {
                checkpoints(&name, &["show", "trades/7"]).code(0);
                checkpoints(&name, &["list"]).code(0);
            }
        });
        reading.await.unwrap();
        stop.send_replace(true);
        assert!(writing.await.unwrap() > 0);
    });
}

#[test]
fn a_database_is_read_while_somebody_holds_its_lock() {
    let stores = Stores::filled();
    let hold = "import sqlite3, sys\n\
        held = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
        held.execute('BEGIN IMMEDIATE')\n\
        print('held', flush=True)\n\
        sys.stdin.read()\n";
    let mut python = Command::new("python3");
    python.args(["-c", hold]).arg(stores.path("checkpoints.db"));
    let mut holder = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "held\n");
    let store = &stores.names()[1];
    checkpoints(store, &["list"]).code(0);
    checkpoints(store, &["show", "trades/7"]).code(0);
    // Writing has to wait, and says so in the end.
    checkpoints(store, &["delete", "trades/7", "--yes"]).code(1).said("check --store");
    drop(holder.stdin.take());
    holder.wait().unwrap();
    checkpoints(store, &["delete", "trades/7", "--yes"]).code(0);
}

#[test]
fn a_store_is_named_by_flag_or_variable() {
    let stores = Stores::filled();
    let name = &stores.names()[0];
    let vars = [("BUTTRESS_STORE", name.as_str())];
    run(&["checkpoints", "list"], &vars).code(0);
    // The flag may stand behind the command, and wins.
    let other = &stores.names()[1];
    let ran = run(&["checkpoints", "list", "--json", "--store", other], &vars).code(0);
    assert_eq!(ran.json()["store"], json!(other));
    run(&["checkpoints", "list"], &[])
        .code(4)
        .said("--store or BUTTRESS_STORE must be file:FOLDER");
    let secret = "ftp://me:secret@host/x";
    let flag =
        run(&["checkpoints", "--store", secret, "list"], &[]).code(2).said("--store must be");
    let variable = run(&["checkpoints", "list"], &[("BUTTRESS_STORE", secret)]).code(4);
    assert!(!format!("{}{}", flag.stderr, variable.stderr).contains("secret"));
    variable.said("BUTTRESS_STORE must be");
}

#[test]
fn a_store_that_cannot_be_used_is_named_and_none_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    for (store, missing) in [("file", "folder"), ("sqlite", "file")] {
        let gone = path("gone");
        checkpoints(&format!("{store}:{gone}"), &["list"])
            .code(4)
            .said(&format!("there is no {missing} {gone}; check --store"));
        assert!(!Path::new(&gone).exists());
    }
    std::fs::write(path("other"), "not a database, whatever its length may be, and it is long")
        .unwrap();
    checkpoints(&format!("sqlite:{}", path("other")), &["list"]).code(1).said("no SQLite file");
    checkpoints(&format!("sqlite:{}", folder.path().display()), &["list"])
        .code(4)
        .said("check --store");
    checkpoints(&format!("file:{}", path("other")), &["list"]).code(4).said("there is no folder");
    let empty = path("empty");
    std::fs::create_dir(&empty).unwrap();
    checkpoints(&format!("file:{empty}"), &["list"]).code(3).said("no checkpoints in file:");
}

#[cfg(not(all(feature = "postgres", feature = "redis")))]
#[test]
fn a_store_that_was_not_built_in_is_named_with_its_feature() {
    #[cfg(not(feature = "postgres"))]
    checkpoints("postgres://localhost/x", &["list"]).code(2).said("without the feature postgres");
    #[cfg(not(feature = "redis"))]
    checkpoints("redis://localhost", &["list"]).code(2).said("without the feature redis");
}

#[cfg(feature = "postgres")]
#[test]
fn postgres_is_read_and_one_that_is_away_is_told_without_its_password() {
    use buttress_stores::PostgresStore;
    use buttress_test_servers::Postgres;

    let server = Postgres::start();
    now(async { fill(&PostgresStore::builder(server.url()).connect().await.unwrap()).await });
    everything(&server.url());
    let wrong = server.url().replace(Postgres::PASSWORD, "wrong-secret");
    let refused = checkpoints(&wrong, &["list"]).code(4).said("check --store");
    assert!(!refused.stderr.contains("wrong-secret"), "{}", refused.stderr);
    server.stop();
    let away = checkpoints(&server.url(), &["list"]).code(1).said("check --store");
    assert!(!away.stderr.contains(Postgres::PASSWORD), "{}", away.stderr);
}

#[cfg(feature = "redis")]
#[test]
fn redis_is_read_and_one_that_is_away_is_told() {
    use buttress_stores::RedisStore;
    use buttress_test_servers::Redis;

    let server = Redis::start();
    now(async { fill(&RedisStore::builder(server.url()).connect().await.unwrap()).await });
    everything(&server.url());
    server.stop();
    checkpoints(&server.url(), &["list"]).code(1).said("check --store");
}

/// Uses every command on a filled server.
#[cfg(any(feature = "postgres", feature = "redis"))]
fn everything(url: &str) {
    let list = checkpoints(url, &["list", "--json"]).code(0).json();
    assert_eq!(list["checkpoints"].as_array().unwrap().len(), 4);
    assert!(!list["store"].as_str().unwrap().contains('@'), "{list}");
    let shown = checkpoints(url, &["show", "trades/7", "--json"]).code(0).json();
    assert_eq!(shown["state"], json!({"findings": ["up"]}));
    let history = checkpoints(url, &["history", "trades/7", "--json"]).code(0).json();
    assert_eq!(history["checkpoints"].as_array().unwrap().len(), 2);
    checkpoints(url, &["delete", "trades/7", "--yes"]).code(0);
    checkpoints(url, &["show", "trades/7"]).code(3);
}
