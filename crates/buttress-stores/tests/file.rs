//! FileStore keeps every promise of the conformance suite.

use std::path::Path;

use buttress::{FileStore, checkpoint::StoreError};
use buttress_stores::conformance::{self, Harness, Options, Rounds};
use tempfile::TempDir;

struct Files(TempDir);

async fn open(path: &Path, options: &Options) -> Result<FileStore, StoreError> {
    let keep = options.keep.map_or(u32::MAX, std::num::NonZeroU32::get);
    FileStore::options()
        .clock(options.clock.clone())
        .max_state(options.max_state)
        .keep(keep)
        .open(path)
        .await
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
}
