//! Records that somebody has damaged (case 49).

use buttress::checkpoint::{
    CheckpointKey, CheckpointStore, Page, Put, PutWrites, Query, StoreError, StoreErrorKind,
    TaskWrite, WriteKind,
};
use buttress_stores::RedisStore;
use redis::{Value, aio::MultiplexedConnection};

use crate::servers::{REDIS, fresh, key};

/// A chain of two checkpoints, the second with a write, and a connection beside the store.
struct Damaged {
    store: RedisStore,
    connection: MultiplexedConnection,
    prefix: String,
    key: CheckpointKey,
    first: u64,
    second: u64,
}

impl Damaged {
    async fn new() -> Self {
        let (builder, prefix) = fresh();
        let store = builder.connect().await.unwrap();
        let key = key("w");
        let first = store.put(Put::new(key.clone(), None, *b"first")).await.unwrap();
        let put = Put::new(key.clone(), Some(first), *b"second").phase("two");
        let second = store.put(put).await.unwrap();
        let write = TaskWrite::new("task", WriteKind::Result, 0, *b"value");
        store.put_writes(PutWrites::new(key.clone(), second, vec![write])).await.unwrap();
        let client = redis::Client::open(REDIS.url()).unwrap();
        let connection = client.get_multiplexed_async_connection().await.unwrap();
        Self { store, connection, prefix, key, first, second }
    }

    fn data(&self) -> String {
        format!("{}:{{w}}:data:", self.prefix)
    }

    async fn get(&mut self, field: &str) -> Vec<u8> {
        let data = self.data();
        redis::cmd("HGET").arg(data).arg(field).query_async(&mut self.connection).await.unwrap()
    }

    async fn set(&mut self, field: &str, value: &[u8]) {
        let mut command = redis::cmd("HSET");
        command.arg(self.data()).arg(field).arg(value);
        command.query_async::<Value>(&mut self.connection).await.unwrap();
    }

    /// Looks whether the second checkpoint is passed over, and nothing wrong is shown.
    async fn is_passed_over(&self, what: &str) {
        let latest = self.store.latest(&self.key).await.unwrap().unwrap();
        assert_eq!(latest.state[..], *b"first", "{what}");
        let error = self.store.get(&self.key, self.second).await.unwrap_err();
        assert!(is_corrupt(&error), "{what}: {error:?}");
        assert_eq!(error.sequence(), Some(self.second));
        let history = self.store.history(&self.key, Page::newest(1)).await.unwrap();
        assert_eq!(history[0].sequence, self.first, "{what}");
        let listed = self.store.list(Query::first(10)).await.unwrap();
        assert_eq!(listed[0].sequence, self.first, "{what}");
    }
}

fn is_corrupt(error: &StoreError) -> bool {
    matches!(error.kind(), StoreErrorKind::Corrupt { .. })
}

#[tokio::test]
async fn a_flipped_bit_is_never_a_wrong_state() {
    let mut damaged = Damaged::new().await;
    let at = format!("c{:020}", damaged.second);
    let write = format!("w{:020}/result/0/task", damaged.second);
    for field in [&at, &write] {
        let whole = damaged.get(field).await;
        for byte in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[byte] ^= 1 << (byte % 8);
            damaged.set(field, &flipped).await;
            damaged.is_passed_over(&format!("byte {byte} of {field}")).await;
        }
        for length in [0, 1, whole.len() / 2, whole.len() - 1] {
            damaged.set(field, &whole[..length]).await;
            damaged.is_passed_over(&format!("{field} cut at {length}")).await;
        }
        damaged.set(field, &whole).await;
        let latest = damaged.store.latest(&damaged.key).await.unwrap().unwrap();
        assert_eq!((latest.sequence, latest.writes.len()), (damaged.second, 1));
    }
    let other = damaged.get(&format!("c{:020}", damaged.first)).await;
    damaged.set(&at, &other).await;
    damaged.is_passed_over("the record of another place").await;
}

#[tokio::test]
async fn behind_a_damaged_head_the_chain_goes_on() {
    let mut damaged = Damaged::new().await;
    damaged.set(&format!("c{:020}", damaged.second), b"").await;
    let Damaged { store, key, first, second, .. } = &damaged;
    let write = TaskWrite::new("task", WriteKind::Result, 0, *b"value");
    store.put_writes(PutWrites::new(key.clone(), *first, vec![write])).await.unwrap();
    assert_eq!(store.latest(key).await.unwrap().unwrap().writes.len(), 1);
    let third = store.put(Put::new(key.clone(), Some(*first), *b"third")).await.unwrap();
    assert!(third > *second);
    assert_eq!(store.latest(key).await.unwrap().unwrap().state[..], *b"third");
}

#[tokio::test]
async fn with_none_that_can_be_read_the_answer_is_not_that_there_is_none() {
    let mut damaged = Damaged::new().await;
    for sequence in [damaged.first, damaged.second] {
        damaged.set(&format!("c{sequence:020}"), b"").await;
    }
    let error = damaged.store.latest(&damaged.key).await.unwrap_err();
    assert!(is_corrupt(&error), "{error:?}");
    let put = Put::new(damaged.key.clone(), None, *b"new");
    assert!(damaged.store.put(put).await.unwrap_err().is_conflict());
    // Evicted, or deleted by somebody.
    let index = format!("{}:{{w}}:index:", damaged.prefix);
    REDIS.ask(&["DEL", &damaged.data(), &index]).unwrap();
    let error = damaged.store.latest(&damaged.key).await.unwrap_err();
    assert!(is_corrupt(&error), "{error:?}");
}

#[tokio::test]
async fn a_damaged_state_is_written_by_nobody() {
    let damaged = Damaged::new().await;
    let chains = format!("{}:{{w}}", damaged.prefix);
    REDIS.ask(&["HSET", &chains, "", "{}"]).unwrap();
    let put = Put::new(damaged.key.clone(), Some(damaged.second), *b"third");
    assert!(is_corrupt(&damaged.store.put(put).await.unwrap_err()));
    let latest = damaged.store.latest(&damaged.key).await.unwrap().unwrap();
    assert_eq!(latest.sequence, damaged.second, "it can still be read");
}
