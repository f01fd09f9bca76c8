//! `SqliteStore`: the conformance suite, and what only a file on a disk can meet.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use buttress_stores::{
    SqliteStore,
    conformance::{self, Harness, Options, Rounds},
};

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
}
