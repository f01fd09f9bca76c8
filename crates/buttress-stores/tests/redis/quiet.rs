//! Connections that go quiet: nobody answers, and nobody ends them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use buttress::checkpoint::{CheckpointStore, Put};
use buttress_stores::RedisStore;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};

use crate::servers::{REDIS, fresh_prefix, key};

/// Passes on every connection until it is told to go quiet; those that come later are passed on.
async fn quiet_proxy(server: u16) -> (u16, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let quiet = Arc::new(AtomicBool::new(false));
    let of_proxy = Arc::clone(&quiet);
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
            let quiet = Arc::clone(&of_proxy);
            let is_new = quiet.load(Ordering::SeqCst);
            tokio::spawn(async move {
                let until_quiet = async {
                    while is_new || !quiet.load(Ordering::SeqCst) {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                tokio::select! {
                    _ = copy_bidirectional(&mut client, &mut server) => {},
                    () = until_quiet => {
                        // As behind a firewall that has forgotten it: nobody answers, nobody ends it.
                        std::future::pending::<()>().await;
                    },
                }
            });
        }
    });
    (port, quiet)
}

/// Module docs: "All calls share one connection. One that was lost is replaced".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_goes_quiet_is_replaced_whatever_a_call_may_take() {
    let (port, quiet) = quiet_proxy(REDIS.port()).await;
    let url = format!("redis://127.0.0.1:{port}/");
    let store = RedisStore::builder(url)
        .prefix(fresh_prefix())
        .call_timeout(Duration::from_secs(2))
        .connect()
        .await
        .unwrap();
    let key = key("quiet");
    let first = store.put(Put::new(key.clone(), None, *b"state")).await.unwrap();
    quiet.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let put = Put::new(key.clone(), Some(first), *b"more");
    let mut answers = Vec::new();
    // Half a minute of a caller that does what `is_retryable` says.
    for _ in 0..15 {
        match store.put(put.clone()).await {
            Ok(_) => return,
            Err(error) => answers.push(error.to_string()),
        }
    }
    panic!("a new connection would have been answered at once: {answers:#?}");
}

/// The same with the store's defaults, where the caller has a timeout of its own: a dropped call
/// leaves the store usable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_goes_quiet_is_replaced_though_callers_do_not_wait() {
    let (port, quiet) = quiet_proxy(REDIS.port()).await;
    let url = format!("redis://127.0.0.1:{port}/");
    let store = RedisStore::builder(url).prefix(fresh_prefix()).connect().await.unwrap();
    let key = key("quiet");
    let first = store.put(Put::new(key.clone(), None, *b"state")).await.unwrap();
    quiet.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let put = Put::new(key.clone(), Some(first), *b"more");
    for _ in 0..15 {
        if tokio::time::timeout(Duration::from_secs(2), store.put(put.clone())).await.is_ok() {
            return;
        }
    }
    panic!("a new connection would have been answered at once");
}
