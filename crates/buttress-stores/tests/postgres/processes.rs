//! Several processes on one server: some are killed (cases 44 and 45), some race (17).

use std::collections::BTreeMap;

use buttress::checkpoint::{CheckpointKey, CheckpointStore, Page, Put, WorkflowId};
use buttress_stores::{PostgresStore, conformance::Rounds};

use crate::{
    servers::{POSTGRES, until},
    support::{self, KillLoop, Writer},
};

/// Opens the store that has a database to itself.
async fn open(url: &str) -> PostgresStore {
    PostgresStore::builder(url).keep(100).connect().await.unwrap()
}

/// Writes until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_is_killed() {
    if let Some(url) = support::place() {
        support::write_until_killed(&open(&url).await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_outlives_sigkill() {
    let url = POSTGRES.create_database("kills");
    let kills = KillLoop::new("processes::a_child_that_is_killed", url);
    let tally = kills
        .run(async |url| {
            // The last words of a client that was killed may still be on their way.
            let clients = "select count(*) from pg_stat_activity
                where datname = 'kills' and application_name = 'buttress'";
            until(&POSTGRES, clients, "0").await;
            open(url).await
        })
        .await;
    println!("Postgres: {tally}");
}

/// Writes behind the head as often as it can, and says which places it won.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_races() {
    let Some(url) = support::place() else { return };
    let store = PostgresStore::builder(url).keep_all().connect().await.unwrap();
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
    WorkflowId::new("race").unwrap().into()
}

fn rounds() -> u64 {
    u64::try_from(Rounds::from_env().of_thousand()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_one_wins_each_place() {
    let url = POSTGRES.create_database("race");
    let racers = [(); 2].map(|()| Writer::start("processes::a_child_that_races", &url));
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
    let store = open(&url).await;
    let stored = store.history(&race(), Page::newest(usize::MAX)).await.unwrap();
    let places = stored.iter().rev().map(|stored| (stored.phase.parse().unwrap(), stored.sequence));
    assert!(places.eq(won), "the chain holds what was won, in order");
    assert!(stored.windows(2).all(|pair| pair[0].parent == Some(pair[1].sequence)));
    println!("{} places, won {racers:?} times by the two", rounds());
}
