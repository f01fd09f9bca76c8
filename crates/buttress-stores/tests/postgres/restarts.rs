//! A server that goes away and comes back under load (case 64).

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use buttress::checkpoint::{CheckpointKey, CheckpointStore, Page, Put, WorkflowId};
use buttress_stores::PostgresStore;
use buttress_test_servers::{PgBouncer, Postgres};

use crate::servers::{POSTGRES, fresh_prefix};

/// What a writer was told.
struct Written {
    key: CheckpointKey,
    /// Sequence and state of every put that was acknowledged.
    acknowledged: Vec<(u64, u64)>,
    unavailable: usize,
}

/// Writes numbers until told to stop, and repeats a put with its write id where the server is away.
async fn write(
    store: PostgresStore,
    name: String,
    stop: Arc<AtomicBool>,
    acks: Arc<AtomicUsize>,
) -> Written {
    let key = CheckpointKey::new(WorkflowId::new(name).unwrap());
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
                    tokio::task::yield_now().await;
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

/// Writes to a server while somebody disturbs it, and looks whether all is there that it said.
async fn under_load(url: String, disturb: impl Fn(u32) + Send + Sync + 'static) {
    let store = PostgresStore::builder(url).keep_all().table_prefix(fresh_prefix());
    let store = store.connect().await.unwrap();
    let disturb = Arc::new(disturb);
    let stop = Arc::new(AtomicBool::new(false));
    let acks = Arc::new(AtomicUsize::new(0));
    let writers: Vec<_> = (0..4)
        .map(|number| {
            let name = format!("writer {number}");
            tokio::spawn(write(store.clone(), name, stop.clone(), acks.clone()))
        })
        .collect();
    for round in 0..4 {
        // Each time in the middle of a stream of acknowledgements.
        let enough = acks.load(Ordering::Relaxed) + 100;
        while acks.load(Ordering::Relaxed) < enough {
            tokio::task::yield_now().await;
        }
        let disturb = disturb.clone();
        tokio::task::spawn_blocking(move || disturb(round)).await.unwrap();
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
}

async fn assert_all_there(store: &PostgresStore, written: Written) {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_restarts_under_load_loses_nothing() {
    let server = Postgres::start();
    let url = server.url();
    let restart = move |round| {
        if round % 2 == 0 {
            server.stop()
        } else {
            server.kill()
        }
        server.start_again();
    };
    under_load(url, restart).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_that_restarts_under_load_loses_nothing() {
    let bouncer = PgBouncer::start(&POSTGRES);
    under_load(bouncer.url(), move |_| bouncer.restart()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_ended_under_load_lose_nothing() {
    let server = Postgres::start();
    let end = "select pg_terminate_backend(pid) from pg_stat_activity
        where application_name = 'buttress'";
    under_load(server.url(), move |_| {
        for _ in 0..5 {
            server.sql(end);
        }
    })
    .await;
}
