//! The conformance suite passes a store that keeps its promises, and no other.

use buttress::MemoryStore;
use buttress_stores::conformance::{self, Harness, Options, Rounds};

struct Memory;

impl Harness for Memory {
    type Store = MemoryStore;

    async fn open(&self, options: &Options) -> MemoryStore {
        let store = MemoryStore::new().clock(options.clock.clone()).max_state(options.max_state);
        match options.keep {
            Some(keep) => store.keep(keep.get()),
            None => store,
        }
    }

    async fn reopen(&self, store: &MemoryStore, _: &Options) -> Option<MemoryStore> {
        Some(store.clone())
    }

    fn debug(&self, store: &MemoryStore) -> String {
        format!("{store:?}")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_store_keeps_every_promise() {
    let report = conformance::run(&Memory, Rounds::from_env()).await;
    println!("{report}");
    report.assert_passed();
}
