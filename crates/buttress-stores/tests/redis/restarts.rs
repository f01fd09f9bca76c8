//! A server that goes away and comes back under load (case 64).

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use buttress::checkpoint::{CheckpointKey, CheckpointStore, Page, Put};
use buttress_stores::RedisStore;

use crate::servers::{ask, key, own};

/// What a writer was told.
struct Written {
    key: CheckpointKey,
    /// Sequence and state of every put that was acknowledged.
    acknowledged: Vec<(u64, u64)>,
    unavailable: usize,
}

/// Writes numbers until told to stop, and repeats a put with its write id where the server is away.
async fn write(
    store: RedisStore,
    name: String,
    stop: Arc<AtomicBool>,
    acks: Arc<AtomicUsize>,
) -> Written {
    let key = key(&name);
    let mut written = Written { key: key.clone(), acknowledged: Vec::new(), unavailable: 0 };
    let mut head = None;
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let put = Put::new(key.clone(), head, number.to_le_bytes().to_vec());
        let sequence = loop {
            match store.put(put.clone()).await {
                Ok(sequence) => break sequence,
                Err(error) => {
                    assert!(error.is_retryable(), "{error:?}");
                    written.unavailable += 1;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        };
        written.acknowledged.push((sequence, number));
        acks.fetch_add(1, Ordering::Relaxed);
        head = Some(sequence);
        number += 1;
    }
    written
}

async fn assert_all_there(store: &RedisStore, written: Written) {
    let mut stored = store.history(&written.key, Page::newest(usize::MAX)).await.unwrap();
    stored.reverse();
    let distinct: HashSet<_> = stored.iter().map(|stored| stored.sequence).collect();
    assert_eq!(distinct.len(), stored.len(), "a sequence is there twice");
    let numbers = stored
        .iter()
        .map(|stored| (stored.sequence, u64::from_le_bytes(stored.state[..].try_into().unwrap())));
    assert_eq!(numbers.collect::<Vec<_>>(), written.acknowledged);
    assert!(stored.windows(2).all(|pair| pair[1].parent == Some(pair[0].sequence)));
}

/// Writes to a server while somebody disturbs it, and looks whether all is there that it said.
async fn under_load(disturb: impl AsyncFn(&'static buttress_test_servers::Redis, u32)) {
    let server = own(&[]);
    let store = RedisStore::builder(server.url()).keep_all().connect().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let acks = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..4)
        .map(|number| {
            let name = format!("writer {number}");
            tokio::spawn(write(store.clone(), name, stop.clone(), acks.clone()))
        })
        .collect();
    for round in 0..6 {
        // Each time in the middle of a stream of acknowledgements.
        let enough = acks.load(Ordering::Relaxed) + 100;
        while acks.load(Ordering::Relaxed) < enough {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        disturb(server, round).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut failures = 0;
    for writer in writers {
        let written = writer.await.unwrap();
        failures += written.unavailable;
        assert_all_there(&store, written).await;
    }
    let acks = acks.load(Ordering::Relaxed);
    println!("{acks} puts acknowledged, {failures} answers of Unavailable, none lost");
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_under_load_loses_nothing() {
    under_load(async |server, round| {
        let restart = move || {
            if round % 3 == 0 {
                server.stop()
            } else {
                server.kill()
            }
            server.start_again();
        };
        tokio::task::spawn_blocking(restart).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_ended_under_load_lose_nothing() {
    under_load(async |server, _| {
        for _ in 0..5 {
            ask(server, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        }
    })
    .await;
}
