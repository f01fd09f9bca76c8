//! Several processes on one server: some are killed (cases 44 and 45), some race (17).

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use buttress::checkpoint::{CheckpointKey, CheckpointStore, Page, Put, WorkflowId};
use buttress_stores::{PostgresStore, conformance::Rounds};

use crate::servers::{POSTGRES, fresh_prefix};

const SIZES: [usize; 3] = [16, 1 << 10, 64 << 10];

fn key(name: &str) -> CheckpointKey {
    CheckpointKey::new(WorkflowId::new(name).unwrap())
}

/// A state that says its number all over.
fn state(number: u64, size: usize) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take(size).collect()
}

fn number(state: &[u8]) -> u64 {
    let number = u64::from_le_bytes(state[..8].try_into().unwrap());
    assert!(SIZES.contains(&state.len()));
    assert_eq!(state, self::state(number, state.len()), "the state is not whole");
    number
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// Runs a test of this file in a process of its own.
fn spawn(test: &str, prefix: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("processes::{test}"), "--nocapture"])
        .env("BUTTRESS_CHILD_URL", POSTGRES.url())
        .env("BUTTRESS_CHILD_PREFIX", prefix)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Returns the words of each line that a child means for us.
fn said(output: ChildStdout) -> impl Iterator<Item = Vec<String>> {
    let lines = BufReader::new(output).lines().map_while(Result::ok);
    lines.filter_map(|line| {
        let words = line.strip_prefix("ack ")?.split(' ').map(str::to_owned).collect();
        Some(words)
    })
}

/// In a process that is told so, opens the store that is meant.
async fn of_child() -> Option<PostgresStore> {
    let url = std::env::var("BUTTRESS_CHILD_URL").ok()?;
    let prefix = std::env::var("BUTTRESS_CHILD_PREFIX").unwrap();
    println!();
    Some(PostgresStore::builder(url).table_prefix(prefix).keep_all().connect().await.unwrap())
}

/// Writes numbers for several workflows until it is killed.
#[test]
fn a_child_that_is_killed() {
    block_on(async {
        let Some(store) = of_child().await else { return };
        let writers = SIZES.map(|size| tokio::spawn(write_for_ever(store.clone(), size)));
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

async fn write_for_ever(store: PostgresStore, size: usize) {
    let key = key(&format!("size {size}"));
    loop {
        let head = store.latest(&key).await.unwrap();
        let mut next = head.as_ref().map_or(0, |head| number(&head.state) + 1);
        let mut parent = head.map(|head| head.sequence);
        loop {
            match store.put(Put::new(key.clone(), parent, state(next, size))).await {
                Ok(sequence) => {
                    println!("ack {size} {next} {sequence}");
                    parent = Some(sequence);
                    next += 1;
                }
                // The last words of the one that was killed before have come in.
                Err(error) if error.is_conflict() => break,
                Err(error) => panic!("{error:?}"),
            }
        }
    }
}

#[test]
fn what_is_acknowledged_outlives_sigkill() {
    let rounds = std::env::var("BUTTRESS_KILLS").map_or(20, |kills| kills.parse().unwrap());
    let prefix = fresh_prefix();
    let (mut acknowledged, mut ahead) = (0, 0);
    let mut last = BTreeMap::new();
    let mut random = fastrand::Rng::with_seed(64);
    for _ in 0..rounds {
        let mut child = spawn("a_child_that_is_killed", &prefix);
        let (send, receive) = mpsc::channel();
        let output = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            said(output).for_each(|words| drop(send.send(words)));
        });
        let first = receive.recv_timeout(Duration::from_secs(60)).expect("the child writes");
        // At any moment of its work, by the time that its puts take here.
        std::thread::park_timeout(Duration::from_micros(random.u64(0..150_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        reader.join().unwrap();
        for words in [first].into_iter().chain(receive.try_iter()) {
            let words: Vec<u64> = words.iter().map(|word| word.parse().unwrap()).collect();
            last.insert(usize::try_from(words[0]).unwrap(), (words[1], words[2]));
            acknowledged += 1;
        }
        ahead += block_on(check(&prefix, &last));
    }
    println!(
        "{rounds} kills, {acknowledged} acknowledged puts, none lost; \
         {ahead} heads were one ahead of the last acknowledgement"
    );
}

/// Looks whether every acknowledged put is there and whether the store takes another one.
async fn check(prefix: &str, last: &BTreeMap<usize, (u64, u64)>) -> usize {
    let store = PostgresStore::builder(POSTGRES.url()).table_prefix(prefix).keep_all();
    let store = store.connect().await.unwrap();
    let mut ahead = 0;
    for (size, (acknowledged, sequence)) in last {
        let key = key(&format!("size {size}"));
        let stored = store.get(&key, *sequence).await.unwrap().expect("it was acknowledged");
        assert_eq!(number(&stored.state), *acknowledged);
        let head = store.latest(&key).await.unwrap().expect("there is a head");
        let newest = number(&head.state);
        assert!((*acknowledged..=acknowledged + 1).contains(&newest), "{newest} {acknowledged}");
        ahead += usize::from(newest > *acknowledged);
    }
    let probe = key("probe");
    let head = store.latest(&probe).await.unwrap().map(|head| head.sequence);
    store.put(Put::new(probe, head, state(1, 16))).await.unwrap();
    ahead
}

/// Writes behind the head as often as it can, and says which places it won.
#[test]
fn a_child_that_races() {
    block_on(async {
        let Some(store) = of_child().await else { return };
        let key = key("race");
        let rounds = u64::try_from(Rounds::from_env().of_thousand()).unwrap();
        loop {
            let head = store.latest(&key).await.unwrap();
            let done = head.as_ref().map_or(0, |head| number(&head.state));
            if done == rounds {
                return;
            }
            let parent = head.map(|head| head.sequence);
            let put = Put::new(key.clone(), parent, state(done + 1, 16));
            match store.put(put).await {
                Ok(sequence) => println!("ack {} {sequence}", done + 1),
                Err(error) => assert!(error.is_conflict(), "{error:?}"),
            }
        }
    });
}

#[test]
fn of_two_processes_one_wins_each_place() {
    let prefix = fresh_prefix();
    let children = [(); 2].map(|()| spawn("a_child_that_races", &prefix));
    let mut won = BTreeMap::new();
    let mut each = Vec::new();
    for mut child in children {
        let places = said(child.stdout.take().unwrap());
        let mut count = 0;
        for words in places {
            let [place, sequence] = [0, 1].map(|at| words[at].parse::<u64>().unwrap());
            assert!(won.insert(place, sequence).is_none(), "place {place} was won twice");
            count += 1;
        }
        assert!(child.wait().unwrap().success());
        each.push(count);
    }
    let rounds = Rounds::from_env().of_thousand();
    assert_eq!(won.len(), rounds);
    let stored = block_on(async {
        let store = PostgresStore::builder(POSTGRES.url()).table_prefix(&prefix).keep_all();
        let store = store.connect().await.unwrap();
        store.history(&key("race"), Page::newest(usize::MAX)).await.unwrap()
    });
    let places = stored.iter().rev().map(|stored| (number(&stored.state), stored.sequence));
    assert!(places.eq(won), "the chain holds what was won, in order");
    assert!(stored.windows(2).all(|pair| pair[0].parent == Some(pair[1].sequence)));
    println!("{rounds} places, won {each:?} times by the two");
}
