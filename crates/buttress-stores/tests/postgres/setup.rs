//! Tables, rights, passwords, and rows that somebody has damaged.

use std::{
    num::NonZeroU32,
    time::{Duration, SystemTime},
};

use buttress::checkpoint::{
    CheckpointKey, CheckpointStore, Clock, Page, Put, PutWrites, Query, StoreError, StoreErrorKind,
    TaskWrite, WorkflowId, WriteKind,
};
use buttress_stores::PostgresStore;
use buttress_test_servers::Postgres;
use tokio::time::Instant;

use crate::servers::{BOUNCER, POSTGRES, fresh, fresh_prefix};

fn key(name: &str) -> CheckpointKey {
    CheckpointKey::new(WorkflowId::new(name).unwrap())
}

fn is_setup(error: &StoreError) -> bool {
    matches!(error.kind(), StoreErrorKind::Setup { .. })
}

/// Everything that an error shows, with its sources.
fn shown(error: &StoreError) -> String {
    let mut shown = format!("{error} {error:?}");
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        shown.push_str(&format!(" {error} {error:?}"));
        source = error.source();
    }
    shown
}

async fn refused(url: &str) -> StoreError {
    let start = Instant::now();
    let error = PostgresStore::connect(url).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5), "{error} took {:?}", start.elapsed());
    assert!(!shown(&error).contains("hunter2"), "{}", shown(&error));
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_set_up_wrong_is_told_at_once_and_without_secrets() {
    let url = POSTGRES.url();
    for wrong in [
        url.replace(Postgres::PASSWORD, "hunter2-but-wrong"),
        url.replace("buttress:", "nobody:"),
        POSTGRES.url_of("no_such_database"),
        url.clone() + "?sslmode=require",
        url.clone() + "?hunter2=1",
        "postgres://user:hunter2@:x".to_owned(),
        url.replace(Postgres::PASSWORD, ""),
    ] {
        let error = refused(&wrong).await;
        assert!(is_setup(&error), "{wrong}: {error:?}");
        assert!(!error.is_retryable());
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody =
        url.replace(&POSTGRES.port().to_string(), &free.local_addr().unwrap().port().to_string());
    drop(free);
    let error = refused(&nobody).await;
    assert_eq!(*error.kind(), StoreErrorKind::Unavailable);
    assert!(error.place().unwrap().starts_with("postgres://127.0.0.1:"), "{error}");
    let error = refused(&BOUNCER.url().replace(Postgres::PASSWORD, "hunter2-but-wrong")).await;
    assert!(is_setup(&error), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_may_connect_at_once_to_a_database_without_tables() {
    let prefix = fresh_prefix();
    let connecting: Vec<_> = (0..8)
        .map(|_| {
            let builder = PostgresStore::builder(POSTGRES.url())
                .schema("made \"by\" 'us'\\")
                .table_prefix(&prefix)
                .pool_size(1);
            tokio::spawn(builder.connect())
        })
        .collect();
    for connecting in connecting {
        let store = connecting.await.unwrap().unwrap();
        assert!(store.latest(&key("nobody")).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn tables_of_a_newer_program_are_left_alone() {
    let (builder, prefix) = fresh();
    let store = builder.connect().await.unwrap();
    store.put(Put::new(key("kept"), None, &b"state"[..])).await.unwrap();
    POSTGRES.sql(&format!("update {prefix}version set version = 2"));
    let again = PostgresStore::builder(POSTGRES.url()).table_prefix(&prefix);
    let error = again.connect().await.unwrap_err();
    let too_new = StoreError::too_new(2, 1);
    assert_eq!(error.kind(), too_new.kind());
    assert_eq!(POSTGRES.sql(&format!("select version from {prefix}version")), "2");
    assert_eq!(POSTGRES.sql(&format!("select count(*) from {prefix}checkpoints")), "1");
}

#[tokio::test]
async fn a_role_needs_no_more_rights_than_those_on_rows() {
    let (builder, prefix) = fresh();
    let owner = builder.connect().await.unwrap();
    let role = format!("{prefix}role");
    POSTGRES.sql(&format!(
        "create role {role} login password 'hunter2';
         revoke create on schema public from public, {role};
         alter role {role} set synchronous_commit = off;
         alter role {role} set default_transaction_isolation = serializable"
    ));
    let url = POSTGRES.url().replace("buttress:", &format!("{role}:"));
    let url = url.replace(Postgres::PASSWORD, "hunter2");
    let builder = || PostgresStore::builder(&url).table_prefix(&prefix);
    let error = builder().connect().await.unwrap_err();
    assert!(is_setup(&error), "{error:?}");
    let error = PostgresStore::builder(&url).table_prefix(fresh_prefix()).connect().await;
    assert!(is_setup(&error.unwrap_err()));
    POSTGRES.sql(&format!(
        "grant select, insert, update, delete
         on {prefix}chains, {prefix}checkpoints, {prefix}writes to {role};
         grant select on {prefix}version to {role};
         create table {prefix}seen (what text);
         grant insert on {prefix}seen to {role};
         create function {prefix}see() returns trigger language plpgsql as $$ begin
         insert into {prefix}seen values (current_setting('synchronous_commit') || ' '
         || current_setting('transaction_isolation') || ' ' || current_setting('lock_timeout'));
         return null; end $$;
         create trigger see after insert on {prefix}checkpoints
         for each row execute function {prefix}see()"
    ));
    let store = builder().connect().await.unwrap();
    store.put(Put::new(key("rights"), None, &b"state"[..])).await.unwrap();
    assert_eq!(POSTGRES.sql(&format!("select what from {prefix}seen")), "on read committed 10s");
    assert!(owner.latest(&key("rights")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_flipped_bit_is_never_a_wrong_state() {
    let (builder, prefix) = fresh();
    let store = builder.connect().await.unwrap();
    let key = key("damaged");
    let first = store.put(Put::new(key.clone(), None, &b"first"[..])).await.unwrap();
    let second =
        store.put(Put::new(key.clone(), Some(first), &b"second"[..]).phase("two")).await.unwrap();
    let write = TaskWrite::new("task", WriteKind::Result, 0, &b"value"[..]);
    store.put_writes(PutWrites::new(key.clone(), second, vec![write])).await.unwrap();
    for damage in [
        "checkpoints set state = set_bit(state, 3, 1 - get_bit(state, 3))",
        "checkpoints set header = replace(header, 'two', 'too')",
        "checkpoints set header = '{'",
        "checkpoints set checksum = ''",
        "checkpoints set sequence = 7",
        "writes set value = set_bit(value, 3, 1 - get_bit(value, 3))",
        "writes set task = '\\xff'",
        "writes set place = -1",
    ] {
        let table = damage.split_once(' ').unwrap().0;
        let sql = format!(
            "create table {prefix}kept as table {prefix}{table};
             set session_replication_role = replica;
             update {prefix}{damage} where sequence = {second}"
        );
        POSTGRES.sql(&sql);
        let latest = store.latest(&key).await.unwrap().unwrap();
        assert_eq!(latest.state[..], b"first"[..], "{damage}");
        if !damage.contains("sequence = 7") {
            let error = store.get(&key, second).await.unwrap_err();
            assert!(matches!(error.kind(), StoreErrorKind::Corrupt { .. }), "{error:?}");
            assert_eq!(error.sequence(), Some(second));
        }
        let history = store.history(&key, Page::newest(1)).await.unwrap();
        assert_eq!(history[0].sequence, first, "{damage}");
        let listed = store.list(Query::first(10)).await.unwrap();
        assert_eq!(listed[0].sequence, first, "{damage}");
        POSTGRES.sql(&format!(
            "set session_replication_role = replica; delete from {prefix}{table};
             insert into {prefix}{table} select * from {prefix}kept; drop table {prefix}kept"
        ));
        assert_eq!(store.latest(&key).await.unwrap().unwrap().sequence, second);
    }
    // Behind one that is damaged the chain goes on.
    POSTGRES
        .sql(&format!("update {prefix}checkpoints set checksum = '' where sequence = {second}"));
    let write = TaskWrite::new("task", WriteKind::Result, 0, &b"value"[..]);
    store.put_writes(PutWrites::new(key.clone(), first, vec![write])).await.unwrap();
    let third = store.put(Put::new(key.clone(), Some(first), &b"third"[..])).await.unwrap();
    assert!(third > second);
    assert_eq!(store.latest(&key).await.unwrap().unwrap().state[..], b"third"[..]);
    // With none that can be read the answer is never that there is none.
    POSTGRES.sql(&format!("update {prefix}checkpoints set checksum = ''"));
    let error = store.latest(&key).await.unwrap_err();
    assert!(matches!(error.kind(), StoreErrorKind::Corrupt { .. }), "{error:?}");
    assert!(store.put(Put::new(key.clone(), None, &b"new"[..])).await.unwrap_err().is_conflict());
    POSTGRES.sql(&format!("truncate {prefix}checkpoints cascade"));
    let error = store.latest(&key).await.unwrap_err();
    assert!(matches!(error.kind(), StoreErrorKind::Corrupt { .. }), "{error:?}");
}

#[tokio::test]
async fn the_clock_of_the_server_measures_leases() {
    let (builder, prefix) = fresh();
    let store = builder.connect().await.unwrap();
    let key = key("clock");
    let lease = store.acquire(&key, "a", Duration::from_secs(3600)).await.unwrap();
    let left = lease.until.duration_since(SystemTime::now()).unwrap();
    assert!(left > Duration::from_secs(3500), "{left:?}");
    let error = store.acquire(&key, "b", Duration::from_secs(1)).await.unwrap_err();
    assert!(matches!(error.kind(), StoreErrorKind::Held { .. }), "{error:?}");
    POSTGRES.sql(&format!("update {prefix}chains set until = until - 3600000"));
    let next = store.acquire(&key, "b", Duration::from_secs(1)).await.unwrap();
    assert_eq!(next.token, lease.token + 1);
    let ahead = Clock::new(|| SystemTime::now() + Duration::from_secs(10));
    let other = PostgresStore::builder(POSTGRES.url()).table_prefix(&prefix).clock(ahead);
    other.connect().await.unwrap().acquire(&key, "c", Duration::from_secs(1)).await.unwrap();
}

#[tokio::test]
async fn names_and_phases_with_odd_characters_come_back() {
    let (builder, _) = fresh();
    let store = builder.keep(2).connect().await.unwrap();
    let key = key("odd");
    let odd = "\0 \u{1f600} \" \\ ' \u{7f}";
    let put = Put::new(key.clone(), None, &b""[..]).phase(odd).metadata(odd, odd);
    let first = store.put(put).await.unwrap();
    let task = "t\0".repeat(20_000);
    let write = TaskWrite::new(&task, WriteKind::Route, u32::MAX, &b"\0"[..]);
    store.put_writes(PutWrites::new(key.clone(), first, vec![write.clone()])).await.unwrap();
    let found = store.latest(&key).await.unwrap().unwrap();
    assert_eq!(found.phase, odd);
    assert_eq!(found.metadata[odd], odd);
    assert_eq!(found.writes, [write]);
    let lease = store.acquire(&key, odd, Duration::from_secs(9)).await.unwrap();
    let error = store.acquire(&key, "other", Duration::from_secs(9)).await.unwrap_err();
    assert!(matches!(error.kind(), StoreErrorKind::Held { owner, .. } if owner == odd));
    store.release(&lease).await.unwrap();
    let mut head = first;
    for _ in 0..5 {
        head = store.put(Put::new(key.clone(), Some(head), &b""[..])).await.unwrap();
    }
    assert_eq!(store.history(&key, Page::newest(10)).await.unwrap().len(), 2);
    assert_eq!(store.prune(&key, NonZeroU32::MIN).await.unwrap(), 1);
}

#[tokio::test]
async fn a_write_id_that_was_used_for_something_else_is_a_conflict() {
    let (builder, _) = fresh();
    let store = builder.connect().await.unwrap();
    let key = key("write id");
    let put = Put::new(key.clone(), None, &b"first"[..]);
    let first = store.put(put.clone()).await.unwrap();
    let other = Put::new(key.clone(), Some(first), &b"second"[..]).write_id(put.write_id);
    let error = store.put(other).await.unwrap_err();
    assert!(error.is_conflict(), "{error:?}");
    assert_eq!(store.put(put).await.unwrap(), first);
    assert_eq!(store.latest(&key).await.unwrap().unwrap().sequence, first);
}

#[tokio::test]
async fn names_of_tables_that_cannot_be_are_refused() {
    for builder in [
        PostgresStore::builder(POSTGRES.url()).schema(""),
        PostgresStore::builder(POSTGRES.url()).schema("a\0b"),
        PostgresStore::builder(POSTGRES.url()).table_prefix("x".repeat(60)),
    ] {
        assert!(is_setup(&builder.connect().await.unwrap_err()));
    }
    POSTGRES.sql("create database latin encoding 'LATIN1' template template0");
    let error = PostgresStore::connect(&POSTGRES.url_of("latin")).await.unwrap_err();
    assert!(is_setup(&error) && error.to_string().contains("LATIN1"), "{error}");
}
