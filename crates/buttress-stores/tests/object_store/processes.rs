//! Several processes on one folder: some are killed (cases 44 and 45), some race (17 and 78).

use std::{collections::BTreeMap, sync::Arc};

use buttress::checkpoint::{CheckpointStore, Page, Put};
use buttress_stores::{ObjectStore, conformance::Rounds};
use object_store::local::LocalFileSystem;

use crate::{
    key,
    support::{self, KillLoop, Writer},
};

async fn in_folder(folder: &str) -> ObjectStore {
    let backend = LocalFileSystem::new_with_prefix(folder).unwrap().with_fsync(true);
    ObjectStore::builder(Arc::new(backend)).keep(100).open().await.unwrap()
}

/// Writes until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_is_killed() {
    if let Some(folder) = support::place() {
        support::write_until_killed(&in_folder(&folder).await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_outlives_sigkill() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let kills = KillLoop::new("processes::a_child_that_is_killed", place);
    let tally = kills.run(async |folder| in_folder(folder).await).await;
    println!("LocalFileSystem: {tally}");
}

/// Writes behind the head as often as it can, and says which places it won.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_races() {
    let Some(folder) = support::place() else { return };
    let store = in_folder(&folder).await;
    let key = key("race");
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

fn rounds() -> u64 {
    u64::try_from(Rounds::from_env().of_thousand()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_one_wins_each_place() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().to_str().unwrap();
    let racers = [(); 2].map(|()| Writer::start("processes::a_child_that_races", place));
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
    let stored =
        in_folder(place).await.history(&key("race"), Page::newest(usize::MAX)).await.unwrap();
    let newest: Vec<_> = stored
        .iter()
        .map(|stored| (stored.phase.parse::<u64>().unwrap(), stored.sequence))
        .collect();
    let expected: Vec<_> = won.into_iter().rev().take(newest.len()).collect();
    assert_eq!(newest, expected, "the chain holds what was won, in order");
    assert!(stored.windows(2).all(|pair| pair[0].parent == Some(pair[1].sequence)));
    println!("{} places, won {racers:?} times by the two", rounds());
}
