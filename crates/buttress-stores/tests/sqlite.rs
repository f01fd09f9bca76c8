//! `SqliteStore`: the conformance suite, and what only a file on a disk can meet.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/documented.rs"]
mod documented;
mod support;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use buttress::{
    CheckpointStore, WorkflowId,
    checkpoint::{Clock, Page, Put},
};
use buttress_stores::{
    SqliteStore,
    conformance::{self, Harness, Options, Rounds},
};

use self::support::{KillLoop, Writer};

/// Opens stores in files of one folder.
struct InFolder {
    folder: tempfile::TempDir,
    count: AtomicUsize,
}

impl InFolder {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), count: AtomicUsize::new(0) }
    }

    async fn open_at(path: PathBuf, options: &Options) -> SqliteStore {
        let store =
            SqliteStore::open(path).clock(options.clock.clone()).max_state(options.max_state);
        match options.keep {
            Some(keep) => store.keep(keep.get()),
            None => store.keep_all(),
        }
        .await
        .unwrap()
    }
}

impl Harness for InFolder {
    type Store = SqliteStore;

    async fn open(&self, options: &Options) -> SqliteStore {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        Self::open_at(self.folder.path().join(format!("{number}.db")), options).await
    }

    async fn reopen(&self, store: &SqliteStore, options: &Options) -> Option<SqliteStore> {
        Some(Self::open_at(store.path().to_owned(), options).await)
    }

    fn debug(&self, store: &SqliteStore) -> String {
        format!("{store:?}")
    }

    async fn inspect(&self, _: &SqliteStore) -> Result<(), String> {
        for entry in std::fs::read_dir(self.folder.path()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let known = [".db", ".db-wal", ".db-shm"].iter().any(|end| name.ends_with(end));
            if !known || !name.starts_with(|first: char| first.is_ascii_digit()) {
                return Err(format!("{name:?} lies around"));
            }
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_store_keeps_every_promise() {
    let report = conformance::run(&InFolder::new(), Rounds::from_env()).await;
    println!("{report}");
    report.assert_passed();
    documented::compare("SQLite", &report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_child() {
    if let Some(place) = support::place() {
        let store = SqliteStore::open(place).await.unwrap();
        support::write_until_killed(&store).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_outlives_sigkill() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("killed.db").into_os_string().into_string().unwrap();
    let open = async |place: &str| SqliteStore::open(place).await.unwrap();
    let tally = KillLoop::new("killed_child", place).run(open).await;
    println!("{tally}");
    assert!(tally.acknowledged > u64::from(tally.kills), "{tally}");
}

/// How many puts each of two processes makes on one chain.
const PUTS: u64 = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_child() {
    let Some(place) = support::place() else { return };
    let store = SqliteStore::open(place).keep_all().await.unwrap();
    let key = support::key(0);
    let mut made = 0;
    while made < PUTS {
        let parent = store.latest(&key).await.unwrap().map(|head| head.sequence);
        match store.put(support::numbered(&key, parent, 1)).await {
            Ok(sequence) => {
                made += 1;
                support::acknowledge("race", sequence, parent.unwrap_or_default());
            }
            Err(error) => assert!(error.is_conflict(), "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_keep_one_chain() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shared.db");
    // Both make the file, as they start together.
    let children = [0, 1].map(|_| Writer::start("racing_child", path.to_str().unwrap()));
    let mut said: Vec<_> = children.map(Writer::finish).into_iter().flatten().collect();
    said.sort_by_key(|one| one.sequence);
    assert_eq!(said.len() as u64, 2 * PUTS);
    let store = SqliteStore::open(path).keep_all().await.unwrap();
    let mut chain = store.history(&support::key(0), Page::newest(1000)).await.unwrap();
    chain.reverse();
    assert_eq!(chain.len(), said.len());
    for (found, one) in chain.iter().zip(&said) {
        assert_eq!((found.sequence, found.parent.unwrap_or(0)), (one.sequence, one.number));
    }
}

/// What one finds while the other makes the tables is not a file of another program.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn all_who_open_a_new_file_at_once_find_it_theirs() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..50 {
        let path = folder.path().join(format!("{round}.db"));
        let opened = [(); 4].map(|()| {
            let path = path.clone();
            tokio::spawn(async move { SqliteStore::open(path).await.map(drop) })
        });
        for store in opened {
            store.await.unwrap().unwrap();
        }
    }
}

/// `Unavailable` says that a repeat may help; a panic of the user's clock must not end the store.
#[tokio::test]
async fn a_store_whose_clock_panics_once_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let panics = Arc::new(AtomicU32::new(1));
    let clock = Clock::new(move || {
        let left = panics.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        assert!(left.is_err(), "the clock is broken");
        SystemTime::now()
    });
    let store = SqliteStore::open(folder.path().join("store.db")).clock(clock).await.unwrap();
    let id = WorkflowId::new("w").unwrap();
    let error = store.put(Put::new(id.clone(), None, *b"{}")).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    let again = store.put(Put::new(id, None, *b"{}")).await;
    assert!(again.is_ok(), "{again:?}");
}
