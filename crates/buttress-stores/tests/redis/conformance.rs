//! The conformance suite, with the server's clock and an injected one.

use std::sync::{LazyLock, Mutex};

use buttress_stores::{
    RedisStore,
    conformance::{self, Harness, Options, Rounds},
    redis::RedisBuilder,
};
use buttress_test_servers::Redis;

use crate::servers::fresh_prefix;

const PASSWORD: &str = "hunter2-of-the-suite";

/// A server that asks for a password, so that the suite can look for it where it must not be.
static GUARDED: LazyLock<Redis> = LazyLock::new(|| Redis::start_with(&[("requirepass", PASSWORD)]));

/// Stores on one server, each with keys of its own.
struct Server {
    injected: bool,
    /// The prefix of the keys that were opened last.
    prefix: Mutex<String>,
}

impl Server {
    fn builder(&self, options: &Options) -> RedisBuilder {
        let url = GUARDED.url().replace("redis://", &format!("redis://:{PASSWORD}@"));
        let prefix = self.prefix.lock().unwrap().clone();
        let builder = RedisStore::builder(url).prefix(prefix).max_state(options.max_state);
        let builder = match options.keep {
            Some(keep) => builder.keep(keep.get()),
            None => builder.keep_all(),
        };
        if self.injected { builder.clock(options.clock.clone()) } else { builder }
    }
}

impl Harness for Server {
    type Store = RedisStore;

    async fn open(&self, options: &Options) -> RedisStore {
        *self.prefix.lock().unwrap() = fresh_prefix();
        self.builder(options).connect().await.unwrap()
    }

    async fn reopen(&self, _: &RedisStore, options: &Options) -> Option<RedisStore> {
        Some(self.builder(options).connect().await.unwrap())
    }

    fn clock_is_injected(&self) -> bool {
        self.injected
    }

    fn secrets(&self) -> Vec<String> {
        vec![PASSWORD.to_owned()]
    }

    fn debug(&self, store: &RedisStore) -> String {
        format!("{store:?}")
    }
}

async fn passes(injected: bool) {
    let server = Server { injected, prefix: Mutex::default() };
    let report = conformance::run(&server, Rounds::from_env()).await;
    println!("{report}");
    report.assert_passed();
    if injected {
        crate::documented::compare("Redis", &report);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_on_a_server_keeps_every_promise() {
    passes(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_by_the_clock_of_the_server_keeps_every_promise() {
    passes(false).await;
}
