//! Connections that go quiet, and how much goes over one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use buttress::checkpoint::{CheckpointKey, CheckpointStore, Put, Query, WorkflowId};
use buttress_stores::PostgresStore;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::servers::{POSTGRES, fresh_prefix};

fn key(name: &str) -> CheckpointKey {
    CheckpointKey::new(WorkflowId::new(name).unwrap())
}

/// Passes on every connection until it is told to go quiet; those that come later are passed on.
/// Counts what the server says.
async fn quiet_proxy(server: u16) -> (u16, Arc<AtomicBool>, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (quiet, said) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (of_proxy, counted) = (Arc::clone(&quiet), Arc::clone(&said));
    tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(("127.0.0.1", server)).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let (quiet, said) = (Arc::clone(&of_proxy), Arc::clone(&counted));
            let is_new = quiet.load(Ordering::SeqCst);
            let is_quiet = move || !is_new && quiet.load(Ordering::SeqCst);
            let of_client = is_quiet.clone();
            tokio::spawn(async move {
                let mut piece = vec![0; 64 << 10];
                while let Ok(length @ 1..) = from_client.read(&mut piece).await {
                    if of_client() || to_server.write_all(&piece[..length]).await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            });
            tokio::spawn(async move {
                let mut piece = vec![0; 64 << 10];
                while let Ok(length @ 1..) = from_server.read(&mut piece).await {
                    said.fetch_add(length, Ordering::SeqCst);
                    if is_quiet() || to_client.write_all(&piece[..length]).await.is_err() {
                        std::future::pending::<()>().await;
                    }
                }
            });
        }
    });
    (port, quiet, said)
}

async fn behind_a_proxy() -> (PostgresStore, Arc<AtomicBool>, Arc<AtomicUsize>) {
    let url = POSTGRES.url();
    let at = url.rfind(':').unwrap() + 1;
    let rest = url[at..].find('/').unwrap() + at;
    let (port, quiet, said) = quiet_proxy(url[at..rest].parse().unwrap()).await;
    let url = format!("{}{port}{}", &url[..at], &url[rest..]);
    let store = PostgresStore::builder(url).table_prefix(fresh_prefix()).connect().await.unwrap();
    (store, quiet, said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_goes_quiet_is_replaced_though_callers_do_not_wait() {
    let (store, quiet, _) = behind_a_proxy().await;
    let key = key("quiet");
    let first = store.put(Put::new(key.clone(), None, *b"state")).await.unwrap();
    quiet.store(true, Ordering::SeqCst);
    let put = Put::new(key.clone(), Some(first), *b"more");
    for _ in 0..15 {
        if tokio::time::timeout(Duration::from_secs(2), store.put(put.clone())).await.is_ok() {
            return;
        }
    }
    panic!("a new connection would have been answered at once");
}

/// A list of one chain does not fetch the states of 32.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_one_reads_about_one() {
    let (store, _, said) = behind_a_proxy().await;
    for number in 0..32 {
        let state = vec![b'x'; 1 << 20];
        store.put(Put::new(key(&format!("chain-{number}")), None, state)).await.unwrap();
    }
    said.store(0, Ordering::SeqCst);
    assert_eq!(store.list(Query::first(1)).await.unwrap().len(), 1);
    let said = said.load(Ordering::SeqCst);
    assert!(said < 4 << 20, "{said} bytes for one chain of 1 MiB");
}
