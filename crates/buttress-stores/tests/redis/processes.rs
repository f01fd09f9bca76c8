//! Several processes on one server: some are killed (cases 44 and 45), some race (17 and 78).

use std::collections::BTreeMap;

use buttress::checkpoint::{CheckpointKey, CheckpointStore, Page, Put};
use buttress_stores::{RedisStore, conformance::Rounds};

use crate::{
    servers::{REDIS, fresh_prefix, key, own, until_alone},
    support::{self, KillLoop, Writer},
};

/// Writes until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_is_killed() {
    if let Some(url) = support::place() {
        let store = RedisStore::builder(url).keep(100).connect().await.unwrap();
        support::write_until_killed(&store).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_outlives_sigkill() {
    let server = own(&[]);
    let kills = KillLoop::new("processes::a_child_that_is_killed", server.url());
    let tally = kills
        .run(async |url| {
            // The last words of a client that was killed may still be on their way.
            until_alone(server).await;
            RedisStore::builder(url).keep(100).connect().await.unwrap()
        })
        .await;
    println!("Redis: {tally}");
    server.stop();
}

/// Writes behind the head as often as it can, and says which places it won.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_races() {
    let Some(prefix) = support::place() else { return };
    let (url, prefix) = prefix.split_once(' ').unwrap();
    let store = RedisStore::builder(url).prefix(prefix).keep_all().connect().await.unwrap();
    let key = race();
    loop {
        let head = store.latest(&key).await.unwrap();
        let place = head.as_ref().map_or(0, |head| head.phase.parse().unwrap()) + 1;
        if place > rounds() {
            return;
        }
        let parent = head.map(|head| head.sequence);
        let put = Put::new(key.clone(), parent, Vec::new()).phase(place.to_string());
        match store.put(put).await {
            Ok(sequence) => support::acknowledge("race", sequence, place),
            Err(error) => assert!(error.is_conflict(), "{error:?}"),
        }
    }
}

fn race() -> CheckpointKey {
    key("race")
}

fn rounds() -> u64 {
    u64::try_from(Rounds::from_env().of_thousand()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_one_wins_each_place() {
    let prefix = fresh_prefix();
    let place = format!("{} {prefix}", REDIS.url());
    let racers = [(); 2].map(|()| Writer::start("processes::a_child_that_races", &place));
    let mut won = BTreeMap::new();
    let racers = racers.map(|racer| {
        let places = racer.finish();
        for place in &places {
            let before = won.insert(place.number, place.sequence);
            assert!(before.is_none(), "place {} was won twice", place.number);
        }
        places.len()
    });
    assert_eq!(u64::try_from(won.len()).unwrap(), rounds());
    let store = RedisStore::builder(REDIS.url()).prefix(prefix).connect().await.unwrap();
    let stored = store.history(&race(), Page::newest(usize::MAX)).await.unwrap();
    let places = stored.iter().rev().map(|stored| (stored.phase.parse().unwrap(), stored.sequence));
    assert!(places.eq(won), "the chain holds what was won, in order");
    assert!(stored.windows(2).all(|pair| pair[0].parent == Some(pair[1].sequence)));
    println!("{} places, won {racers:?} times by the two", rounds());
}
