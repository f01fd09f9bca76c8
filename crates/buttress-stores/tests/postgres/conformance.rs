//! The conformance suite, with the server's clock and an injected one.

use std::sync::Mutex;

use buttress_stores::{
    PostgresStore,
    conformance::{self, Harness, Options, Rounds},
    postgres::PostgresBuilder,
};
use buttress_test_servers::Postgres;

use crate::servers::{BOUNCER, POSTGRES, fresh_prefix};

/// Stores at one address, each with tables of its own.
struct Server {
    url: String,
    injected: bool,
    /// The prefix of the tables that were opened last.
    prefix: Mutex<String>,
}

impl Server {
    fn builder(&self, options: &Options) -> PostgresBuilder {
        let prefix = self.prefix.lock().unwrap().clone();
        let builder = PostgresStore::builder(&self.url)
            .table_prefix(prefix)
            .pool_size(4)
            .max_state(options.max_state);
        let builder = match options.keep {
            Some(keep) => builder.keep(keep.get()),
            None => builder.keep_all(),
        };
        if self.injected { builder.clock(options.clock.clone()) } else { builder }
    }
}

impl Harness for Server {
    type Store = PostgresStore;

    async fn open(&self, options: &Options) -> PostgresStore {
        *self.prefix.lock().unwrap() = fresh_prefix();
        self.builder(options).connect().await.unwrap()
    }

    async fn reopen(&self, _: &PostgresStore, options: &Options) -> Option<PostgresStore> {
        Some(self.builder(options).connect().await.unwrap())
    }

    fn clock_is_injected(&self) -> bool {
        self.injected
    }

    fn secrets(&self) -> Vec<String> {
        vec![Postgres::PASSWORD.to_owned()]
    }

    fn debug(&self, store: &PostgresStore) -> String {
        format!("{store:?}")
    }
}

async fn passes(url: String, injected: bool) {
    let server = Server { url, injected, prefix: Mutex::default() };
    let report = conformance::run(&server, Rounds::from_env()).await;
    println!("{report}");
    report.assert_passed();
    if injected {
        crate::documented::compare("Postgres", &report);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_on_a_server_keeps_every_promise() {
    passes(POSTGRES.url(), true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_by_the_clock_of_the_server_keeps_every_promise() {
    passes(POSTGRES.url(), false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_behind_a_pooler_keeps_every_promise() {
    passes(BOUNCER.url(), true).await;
}
