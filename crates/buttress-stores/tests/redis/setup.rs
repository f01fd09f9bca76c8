//! Addresses, passwords, rights, servers that are full or not the first, and clocks.

use std::time::{Duration, SystemTime};

use buttress::checkpoint::{CheckpointStore, Clock, Place, Put, StoreError, StoreErrorKind};
use buttress_stores::RedisStore;
use buttress_test_servers::Redis;
use tokio::time::Instant;

use crate::servers::{REDIS, ask, fresh, fresh_prefix, key, own, sequences};

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
    let error = RedisStore::connect(url).await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(5), "{error} took {:?}", start.elapsed());
    assert!(!shown(&error).contains("hunter2"), "{}", shown(&error));
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_set_up_wrong_is_told_at_once_and_without_secrets() {
    let server = own(&[("requirepass", "hunter2")]);
    let port = server.port();
    for wrong in [
        format!("redis://127.0.0.1:{port}/"),
        format!("redis://:hunter2-but-wrong@127.0.0.1:{port}/"),
        format!("redis://nobody:hunter2@127.0.0.1:{port}/"),
        format!("redis://:hunter2@127.0.0.1:{port}/99"),
        "redis://:hunter2@127.0.0.1:x/".to_owned(),
        "hunter2".to_owned(),
    ] {
        let error = refused(&wrong).await;
        println!("{error}");
        assert!(is_setup(&error), "{wrong}: {error:?}");
        assert!(!error.is_retryable());
    }
    let url = format!("redis://:hunter2@127.0.0.1:{port}/");
    let builder = RedisStore::builder(&url).prefix("a}");
    assert!(!format!("{builder:?}").contains("hunter2"));
    assert!(is_setup(&builder.connect().await.unwrap_err()));
    let store = RedisStore::connect(&url).await.unwrap();
    assert!(!format!("{store:?}").contains("hunter2"));
    let Place::Uri(place) = store.place(&key("w"), 7) else { panic!("an address") };
    assert_eq!(
        place,
        format!("redis://127.0.0.1:{port}/0#buttress:{{w}}:data::c00000000000000000007")
    );

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("redis://:hunter2@127.0.0.1:{}/", free.local_addr().unwrap().port());
    drop(free);
    let error = refused(&nobody).await;
    println!("{error}");
    assert_eq!(*error.kind(), StoreErrorKind::Unavailable);
    assert!(error.place().unwrap().starts_with("redis://127.0.0.1:"), "{error}");
    server.stop();
}

#[cfg(not(feature = "redis-rustls"))]
#[tokio::test]
async fn an_address_that_asks_for_tls_is_refused_without_it() {
    assert!(is_setup(&refused("rediss://:hunter2@127.0.0.1/").await));
}

#[cfg(feature = "redis-rustls")]
#[tokio::test]
async fn an_address_that_asks_for_tls_does_not_speak_without_it() {
    let url = REDIS.url().replace("redis://", "rediss://:hunter2@");
    // Neither side says a word that the other understands.
    let connecting = RedisStore::builder(&url).connect_timeout(Duration::from_millis(500));
    let error = connecting.connect().await.unwrap_err();
    assert_eq!(*error.kind(), StoreErrorKind::Unavailable, "{error:?}");
    assert!(!shown(&error).contains("hunter2"), "{}", shown(&error));
}

#[tokio::test]
async fn a_user_needs_no_more_rights_than_the_docs_say() {
    let server = own(&[]);
    ask(server, &["ACL", "SETUSER", "agent", "on", ">hunter2", "~buttress:*", "+ping"]).await;
    let url = server.url().replace("redis://", "redis://agent:hunter2@");
    let error = refused(&url).await;
    println!("{error}");
    assert!(is_setup(&error), "{error:?}");
    let rights =
        &["ACL", "SETUSER", "agent", "+@read", "+@write", "+@scripting", "+@connection", "+time"];
    assert_eq!(ask(server, rights).await, "+OK");
    let store = RedisStore::connect(&url).await.unwrap();
    let key = key("rights");
    let first = store.put(Put::new(key.clone(), None, *b"state")).await.unwrap();
    let lease = store.acquire(&key, "me", Duration::from_secs(9)).await.unwrap();
    assert_eq!(sequences(&store, &key).await, [first]);
    store.delete(&key.workflow_id, Some(&lease)).await.unwrap();
    let error = RedisStore::builder(&url).prefix("other").connect().await.unwrap_err();
    assert!(is_setup(&error), "{error:?}");
    server.stop();
}

async fn away(store: &RedisStore, put: &Put, why: &str) {
    let error = store.put(put.clone()).await.unwrap_err();
    assert_eq!(*error.kind(), StoreErrorKind::Unavailable, "{error:?}");
    let said = std::error::Error::source(&error).unwrap().to_string();
    println!("{error}: {said}");
    assert!(said.contains(why), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_full_or_not_the_first_is_away() {
    let server: &'static Redis = own(&[("lua-time-limit", "10")]);
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let key = key("full");
    let first = store.put(Put::new(key.clone(), None, *b"state")).await.unwrap();
    let put = Put::new(key.clone(), Some(first), *b"more");
    ask(server, &["CONFIG", "SET", "maxmemory", "1"]).await;
    away(&store, &put, "OOM").await;
    assert_eq!(sequences(&store, &key).await, [first], "it can still be read");
    ask(server, &["CONFIG", "SET", "maxmemory", "0"]).await;
    ask(server, &["REPLICAOF", "127.0.0.1", "1"]).await;
    away(&store, &put, "READONLY").await;
    ask(server, &["REPLICAOF", "NO", "ONE"]).await;
    let endless = tokio::task::spawn_blocking(move || {
        server.ask(&["EVAL", "while true do end", "0"]).unwrap()
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    away(&store, &put, "BUSY").await;
    ask(server, &["SCRIPT", "KILL"]).await;
    endless.await.unwrap();
    let second = store.put(put).await.unwrap();
    assert_eq!(sequences(&store, &key).await, [first, second]);
    server.stop();
}

#[tokio::test]
async fn keys_of_a_newer_program_are_left_alone() {
    let (builder, prefix) = fresh();
    drop(builder.connect().await.unwrap());
    let mark = format!("{prefix}:version");
    REDIS.ask(&["SET", &mark, "2"]).unwrap();
    let again = RedisStore::builder(REDIS.url()).prefix(&prefix);
    let error = again.connect().await.unwrap_err();
    assert_eq!(error.kind(), StoreError::too_new(2, 1).kind());
    assert_eq!(REDIS.ask(&["GET", &mark]).unwrap(), "2");
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
    let ahead = Clock::new(|| SystemTime::now() + Duration::from_secs(3601));
    let other = RedisStore::builder(REDIS.url()).prefix(&prefix).clock(ahead);
    let next = other.connect().await.unwrap().acquire(&key, "b", Duration::from_secs(1)).await;
    assert_eq!(next.unwrap().token, lease.token + 1);
}

#[tokio::test]
async fn two_prefixes_share_nothing() {
    let (one, two) = (fresh().0, fresh().0);
    let (one, two) = (one.connect().await.unwrap(), two.connect().await.unwrap());
    let key = key("shared");
    one.put(Put::new(key.clone(), None, *b"state")).await.unwrap();
    assert!(two.latest(&key).await.unwrap().is_none());
    assert!(!fresh_prefix().is_empty());
}
