//! Connections that are lost before, during and after a commit (cases 62 and 63).

use std::{sync::atomic::Ordering, time::Duration};

use buttress::checkpoint::{
    CheckpointKey, CheckpointStore, Page, Put, StoreErrorKind, WorkflowId, WriteId,
};
use buttress_stores::{PostgresStore, postgres::PostgresBuilder};
use buttress_test_servers::{PgBouncer, Postgres};

use crate::{
    proxy::Proxy,
    servers::{POSTGRES, fresh, fresh_prefix, until},
};

fn key(name: &str) -> CheckpointKey {
    CheckpointKey::new(WorkflowId::new(name).unwrap())
}

/// Makes writers of a store's checkpoints wait while somebody holds the lock of this number.
fn gate(prefix: &str, lock: u32, when: &str) {
    POSTGRES.sql(&format!(
        "create function {prefix}gate() returns trigger language plpgsql as $$
         begin perform pg_advisory_xact_lock_shared({lock}); return null; end $$;
         create constraint trigger gate after insert on {prefix}checkpoints
         deferrable initially {when} for each row execute function {prefix}gate()"
    ));
}

/// Ends the connection of a put that waits at a gate, and returns what the put answers.
async fn terminated(when: &str, lock: u32) -> (PostgresStore, CheckpointKey, u64) {
    let (builder, prefix) = fresh();
    let store = builder.connect().await.unwrap();
    gate(&prefix, lock, when);
    let (client, connection) =
        tokio_postgres::connect(&POSTGRES.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(&format!("select pg_advisory_lock({lock})")).await.unwrap();

    let key = key("terminated");
    let put = Put::new(key.clone(), None, &b"state"[..]);
    let putting = tokio::spawn({
        let store = store.clone();
        async move { store.put(put).await }
    });
    let waits =
        format!("from pg_locks where locktype = 'advisory' and objid = {lock} and not granted");
    until(&POSTGRES, &format!("select count(*) {waits}"), "1").await;
    POSTGRES.sql(&format!("select pg_terminate_backend(pid) {waits}"));
    client.batch_execute(&format!("select pg_advisory_unlock({lock})")).await.unwrap();
    let sequence = putting.await.unwrap().unwrap();
    (store, key, sequence)
}

async fn assert_one(store: &PostgresStore, key: &CheckpointKey, sequence: u64) {
    let stored = store.history(key, Page::newest(10)).await.unwrap();
    let sequences: Vec<_> = stored.iter().map(|stored| stored.sequence).collect();
    assert_eq!(sequences, [sequence]);
}

#[tokio::test]
async fn connections_that_are_ended_between_two_puts_do_not_show() {
    // A database of its own: whoever else is on the server keeps their connections.
    let url = POSTGRES.create_database("between");
    let store = PostgresStore::connect(&url).await.unwrap();
    let key = key("between");
    let mut head = None;
    for _ in 0..5 {
        head = Some(store.put(Put::new(key.clone(), head, &b"state"[..])).await.unwrap());
        tokio::task::spawn_blocking(|| {
            POSTGRES.sql(
                "select pg_terminate_backend(pid) from pg_stat_activity
                 where datname = 'between' and state = 'idle'",
            )
        })
        .await
        .unwrap();
    }
    assert_eq!(store.latest(&key).await.unwrap().map(|found| found.sequence), head);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_ended_before_the_commit_does_not_show() {
    let (store, key, sequence) = terminated("immediate", 7001).await;
    assert_one(&store, &key, sequence).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_ended_within_the_commit_does_not_show() {
    let (store, key, sequence) = terminated("deferred", 7002).await;
    assert_one(&store, &key, sequence).await;
}

async fn behind_a_proxy() -> (PostgresStore, Proxy) {
    let (builder, proxy) = builder_behind_a_proxy().await;
    (builder.connect().await.unwrap(), proxy)
}

async fn builder_behind_a_proxy() -> (PostgresBuilder, Proxy) {
    let proxy = Proxy::before(POSTGRES.port()).await;
    let url = POSTGRES.url().replace(&POSTGRES.port().to_string(), &proxy.port.to_string());
    (PostgresStore::builder(url).table_prefix(fresh_prefix()), proxy)
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_stored_once() {
    let (store, proxy) = behind_a_proxy().await;
    let key = key("lost");
    proxy.to_lose.store(1, Ordering::SeqCst);
    let first = store.put(Put::new(key.clone(), None, &b"state"[..])).await.unwrap();
    assert_eq!(proxy.to_lose.load(Ordering::SeqCst), 0, "an answer was lost");
    assert_one(&store, &key, first).await;

    // Leases and deletions too: the caller hears of what is true.
    proxy.to_lose.store(1, Ordering::SeqCst);
    let lease = store.acquire(&key, "planner", Duration::from_secs(60)).await.unwrap();
    assert_eq!(lease.token, 2, "the first one was given out to nobody");
    store.put(Put::new(key.clone(), Some(first), &b"more"[..]).under(&lease)).await.unwrap();
    proxy.to_lose.store(1, Ordering::SeqCst);
    let error = store.delete(&key.workflow_id, Some(&lease)).await.unwrap_err();
    assert_eq!(*error.kind(), StoreErrorKind::Unavailable);
    assert!(store.latest(&key).await.unwrap().is_none(), "it was deleted all the same");
}

#[tokio::test]
async fn a_put_that_stays_without_an_answer_can_be_repeated() {
    let (store, proxy) = behind_a_proxy().await;
    let key = key("repeat");
    let put = Put::new(key.clone(), None, &b"state"[..]).write_id(WriteId::random());
    proxy.to_lose.store(u32::MAX, Ordering::SeqCst);
    let error = store.put(put.clone()).await.unwrap_err();
    assert_eq!(*error.kind(), StoreErrorKind::Unavailable);
    assert!(error.is_retryable());
    proxy.to_lose.store(0, Ordering::SeqCst);
    let sequence = store.put(put).await.unwrap();
    assert_one(&store, &key, sequence).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_a_server_or_a_pooler_ends_when_idle_is_replaced() {
    let server = Postgres::start_with(&[("idle_session_timeout", "100")]);
    let bouncer = PgBouncer::start_with(&server, &[("client_idle_timeout", "1")]);
    for url in [server.url(), bouncer.url()] {
        let store =
            PostgresStore::builder(url).table_prefix(fresh_prefix()).connect().await.unwrap();
        let key = key("idle");
        let mut head = None;
        for _ in 0..3 {
            head = Some(store.put(Put::new(key.clone(), head, &b"state"[..])).await.unwrap());
            let idle = "select count(*) from pg_stat_activity where application_name = 'buttress'";
            until(&server, idle, "0").await;
        }
        assert_eq!(store.latest(&key).await.unwrap().map(|found| found.sequence), head);
    }
}

#[tokio::test]
async fn a_connection_that_a_firewall_drops_in_silence_is_replaced() {
    let (builder, proxy) = builder_behind_a_proxy().await;
    let builder = builder.idle_check(Duration::ZERO).call_timeout(Duration::from_secs(8));
    let store = builder.connect().await.unwrap();
    let key = key("silence");
    let first = store.put(Put::new(key.clone(), None, &b"state"[..])).await.unwrap();
    proxy.drop_in_silence();
    let second = store.put(Put::new(key.clone(), Some(first), &b"state"[..])).await.unwrap();
    assert_eq!(store.latest(&key).await.unwrap().map(|found| found.sequence), Some(second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_ends_in_time_when_nobody_answers() {
    let (builder, prefix) = fresh();
    let store = builder.statement_timeout(Duration::from_secs(1)).connect().await.unwrap();
    let other = PostgresStore::builder(POSTGRES.url()).table_prefix(&prefix);
    gate(&prefix, 7003, "immediate");
    let (client, connection) =
        tokio_postgres::connect(&POSTGRES.url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("select pg_advisory_lock(7003)").await.unwrap();
    let key = key("slow");
    // By the server's clock, with the connection intact.
    let error = store.put(Put::new(key.clone(), None, &b"state"[..])).await.unwrap_err();
    assert_eq!(*error.kind(), StoreErrorKind::Unavailable, "{error:?}");
    // By the client's.
    let hasty = other.call_timeout(Duration::from_secs(3)).connect().await.unwrap();
    let error = hasty.put(Put::new(key.clone(), None, &b"state"[..])).await.unwrap_err();
    assert_eq!(*error.kind(), StoreErrorKind::Unavailable, "{error:?}");
    client.batch_execute("select pg_advisory_unlock(7003)").await.unwrap();
    PostgresStore::builder(POSTGRES.url())
        .table_prefix(&prefix)
        .connect()
        .await
        .unwrap()
        .put(Put::new(key, None, &b"state"[..]))
        .await
        .unwrap();
}
