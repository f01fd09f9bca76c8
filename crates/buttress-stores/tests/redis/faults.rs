//! Connections that are lost before, during and after a write (cases 62 and 63).

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use buttress::checkpoint::{
    CheckpointKey, CheckpointStore, Put, PutWrites, Query, StoreErrorKind, TaskWrite, WriteId,
    WriteKind,
};
use buttress_stores::RedisStore;
use tokio::time::Instant;

use crate::{
    proxy::Proxy,
    servers::{REDIS, ask, fresh_prefix, key, own, sequences, until_alone},
};

/// What is in every command that is to be lost.
const WORD: &str = "a state that is lost on its way";
const KILL: &[&str] = &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"];

async fn behind_a_proxy() -> (RedisStore, Proxy, CheckpointKey) {
    let proxy = Proxy::to(REDIS.port(), WORD.as_bytes()).await;
    let url = format!("redis://127.0.0.1:{}/", proxy.port);
    let store = RedisStore::builder(url).prefix(fresh_prefix()).connect().await.unwrap();
    (store, proxy, key("lost"))
}

fn set(left: &AtomicU32, count: u32) {
    left.store(count, Ordering::SeqCst);
}

fn lost(left: &AtomicU32) {
    assert_eq!(left.load(Ordering::SeqCst), 0, "nothing was lost");
}

/// Has a server hear of all scripts, so that the first attempt of a call is the one that counts.
async fn teach(store: &RedisStore) {
    let key = key("taught");
    let lease = store.acquire(&key, "me", Duration::from_secs(60)).await.unwrap();
    let first = store.put(Put::new(key.clone(), None, *b"").under(&lease)).await.unwrap();
    store.put_writes(PutWrites::new(key.clone(), first, Vec::new()).under(&lease)).await.unwrap();
    store.delete(&key.workflow_id, Some(&lease)).await.unwrap();
}

#[tokio::test]
async fn connections_that_are_ended_between_two_puts_do_not_show() {
    let server = own(&[]);
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let key = key("between");
    let mut head = None;
    for _ in 0..5 {
        head = Some(store.put(Put::new(key.clone(), head, *b"state")).await.unwrap());
        assert_eq!(ask(server, KILL).await, ":1");
    }
    assert_eq!(store.latest(&key).await.unwrap().map(|found| found.sequence), head);
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_ended_under_a_put_does_not_show() {
    let server = own(&[]);
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let key = key("under");
    let first = store.put(Put::new(key.clone(), None, *b"state")).await.unwrap();
    ask(server, &["CLIENT", "PAUSE", "60000", "WRITE"]).await;
    let putting = tokio::spawn({
        let (store, put) = (store.clone(), Put::new(key.clone(), Some(first), *b"more"));
        async move { store.put(put).await }
    });
    let start = Instant::now();
    while !ask(server, &["CLIENT", "LIST"]).await.contains("flags=b") {
        assert!(start.elapsed() < Duration::from_secs(30), "the put does not wait");
    }
    assert_eq!(ask(server, KILL).await, ":1");
    ask(server, &["CLIENT", "UNPAUSE"]).await;
    let second = putting.await.unwrap().unwrap();
    assert_eq!(sequences(&store, &key).await, [first, second]);
    server.stop();
}

#[tokio::test]
async fn a_put_that_is_lost_on_its_way_is_stored_once() {
    let (store, proxy, key) = behind_a_proxy().await;
    set(&proxy.before, 1);
    let first = store.put(Put::new(key.clone(), None, WORD.as_bytes())).await.unwrap();
    lost(&proxy.before);
    set(&proxy.after, 1);
    let put = Put::new(key.clone(), Some(first), WORD.as_bytes());
    let second = store.put(put).await.unwrap();
    lost(&proxy.after);
    assert_eq!(sequences(&store, &key).await, [first, second]);
}

#[tokio::test]
async fn writes_and_leases_whose_answers_are_lost_are_what_they_say() {
    let (store, proxy, key) = behind_a_proxy().await;
    let first = store.put(Put::new(key.clone(), None, *b"state")).await.unwrap();
    teach(&store).await;
    set(&proxy.after, 1);
    let write = TaskWrite::new("task", WriteKind::Result, 0, WORD.as_bytes());
    store.put_writes(PutWrites::new(key.clone(), first, vec![write.clone()])).await.unwrap();
    lost(&proxy.after);
    assert_eq!(store.latest(&key).await.unwrap().unwrap().writes, [write]);

    set(&proxy.after, 1);
    let lease = store.acquire(&key, WORD, Duration::from_secs(60)).await.unwrap();
    lost(&proxy.after);
    assert_eq!(lease.token, 2, "the first one was given out to nobody");
    store.put(Put::new(key.clone(), Some(first), *b"more").under(&lease)).await.unwrap();

    // The state of the chain, which a deletion compares, names the owner.
    set(&proxy.after, 1);
    let error = store.delete(&key.workflow_id, Some(&lease)).await.unwrap_err();
    assert_eq!(*error.kind(), StoreErrorKind::Unavailable);
    assert!(store.latest(&key).await.unwrap().is_none(), "it was deleted all the same");
    store.delete(&key.workflow_id, None).await.unwrap();
}

#[tokio::test]
async fn a_put_that_stays_without_an_answer_can_be_repeated() {
    let (store, proxy, key) = behind_a_proxy().await;
    let put = Put::new(key.clone(), None, WORD.as_bytes()).write_id(WriteId::random());
    set(&proxy.before, u32::MAX);
    let error = store.put(put.clone()).await.unwrap_err();
    assert_eq!(*error.kind(), StoreErrorKind::Unavailable);
    assert!(error.is_retryable());
    set(&proxy.before, 0);
    let first = store.put(put.clone()).await.unwrap();
    // It is there, whatever becomes of the answers: the store finds its own.
    set(&proxy.after, u32::MAX);
    let next = Put::new(key.clone(), Some(first), WORD.as_bytes());
    let second = store.put(next.clone()).await.unwrap();
    assert_eq!(store.put(next).await.unwrap(), second);
    assert_eq!(store.put(put).await.unwrap(), first);
    assert_eq!(sequences(&store, &key).await, [first, second]);
}

#[tokio::test]
async fn a_chain_whose_first_put_never_came_is_listed_when_one_does() {
    let (store, proxy, key) = behind_a_proxy().await;
    set(&proxy.before, u32::MAX);
    store.put(Put::new(key.clone(), None, WORD.as_bytes())).await.unwrap_err();
    // The index has it already: the crash between the two.
    assert!(store.list(Query::first(10)).await.unwrap().is_empty());
    set(&proxy.before, 0);
    store.put(Put::new(key.clone(), None, WORD.as_bytes())).await.unwrap();
    assert_eq!(store.list(Query::first(10)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_connection_that_the_server_ends_when_idle_is_replaced() {
    let server = own(&[("timeout", "1")]);
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let key = key("idle");
    let mut head = None;
    for _ in 0..2 {
        head = Some(store.put(Put::new(key.clone(), head, *b"state")).await.unwrap());
        until_alone(server).await;
    }
    assert_eq!(store.latest(&key).await.unwrap().map(|found| found.sequence), head);
    server.stop();
}

#[tokio::test]
async fn a_call_ends_in_time_when_nobody_answers() {
    let server = own(&[]);
    let store = RedisStore::builder(server.url())
        .response_timeout(Duration::from_millis(200))
        .connect()
        .await
        .unwrap();
    let hasty = RedisStore::builder(server.url())
        .call_timeout(Duration::from_millis(300))
        .connect()
        .await
        .unwrap();
    let key = key("slow");
    ask(server, &["CLIENT", "PAUSE", "60000", "WRITE"]).await;
    let put = Put::new(key.clone(), None, *b"state");
    for store in [&store, &hasty] {
        let start = Instant::now();
        let error = store.put(put.clone()).await.unwrap_err();
        assert_eq!(*error.kind(), StoreErrorKind::Unavailable, "{error:?}");
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    ask(server, &["CLIENT", "UNPAUSE"]).await;
    let sequence = store.put(put.clone()).await.unwrap();
    assert_eq!(hasty.put(put).await.unwrap(), sequence);
    assert_eq!(sequences(&store, &key).await, [sequence]);
    server.stop();
}

#[tokio::test]
async fn a_server_that_forgets_its_scripts_is_told_them_again() {
    let server = own(&[]);
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let key = key("scripts");
    let mut head = None;
    for _ in 0..3 {
        head = Some(store.put(Put::new(key.clone(), head, *b"state")).await.unwrap());
        ask(server, &["SCRIPT", "FLUSH"]).await;
    }
    assert_eq!(sequences(&store, &key).await.len(), 3);
    server.stop();
}
