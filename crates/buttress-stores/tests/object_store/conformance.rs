//! The conformance suite over backends.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU32, Ordering},
};

use buttress_stores::{
    ObjectStore,
    conformance::{self, Harness, Options, Rounds},
};
use object_store::{ObjectStore as Backend, local::LocalFileSystem, memory::InMemory};

/// Stores on one backend, each with a prefix of its own.
pub(crate) struct On {
    backend: Arc<dyn Backend>,
    next: AtomicU32,
    /// The prefix that was opened last.
    prefix: Mutex<String>,
}

impl On {
    pub(crate) fn new(backend: impl Backend) -> Self {
        Self { backend: Arc::new(backend), next: AtomicU32::new(0), prefix: Mutex::default() }
    }

    async fn open_last(&self, options: &Options) -> ObjectStore {
        let prefix = self.prefix.lock().unwrap().clone();
        let builder = ObjectStore::builder(Arc::clone(&self.backend))
            .prefix(&prefix)
            .clock(options.clock.clone())
            .max_state(options.max_state);
        let builder = match options.keep {
            Some(keep) => builder.keep(keep.get()),
            None => builder.keep_all(),
        };
        builder.open().await.unwrap()
    }
}

impl Harness for On {
    type Store = ObjectStore;

    async fn open(&self, options: &Options) -> ObjectStore {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        *self.prefix.lock().unwrap() = format!("case {next}/of");
        self.open_last(options).await
    }

    async fn reopen(&self, _: &ObjectStore, options: &Options) -> Option<ObjectStore> {
        Some(self.open_last(options).await)
    }

    fn debug(&self, store: &ObjectStore) -> String {
        format!("{store:?}")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_in_memory_keeps_every_promise() {
    let report = conformance::run(&On::new(InMemory::new()), Rounds::from_env()).await;
    println!("{report}");
    report.assert_passed();
    crate::documented::compare("object store", &report);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_in_a_folder_keeps_every_promise() {
    let folder = tempfile::tempdir().unwrap();
    let backend = LocalFileSystem::new_with_prefix(folder.path()).unwrap().with_fsync(true);
    let report = conformance::run(&On::new(backend), Rounds::from_env()).await;
    println!("{report}");
    report.assert_passed();
    crate::documented::compare("object store", &report);
}
