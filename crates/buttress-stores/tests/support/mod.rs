//! A process that writes until it is killed, and what must be found after it.
//!
//! A test binary starts itself again: the parent calls [`KillLoop::run`], and a test of the same
//! binary, whose name the parent is given, calls [`write_until_killed`] where [`place`] answers
//! that it is the child.
//!
//! ```text
//! #[tokio::test(flavor = "multi_thread")]
//! async fn child() {
//!     if let Some(place) = support::place() {
//!         support::write_until_killed(&open(&place).await).await;
//!     }
//! }
//!
//! #[tokio::test(flavor = "multi_thread")]
//! async fn what_is_acknowledged_outlives_sigkill() {
//!     let tally = KillLoop::new("child", "/a/place").run(open).await;
//!     println!("{tally}");
//! }
//! ```
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that cannot go on fails")]
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    collections::BTreeMap,
    fmt,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use buttress::{
    CheckpointKey, CheckpointStore, WorkflowId,
    checkpoint::{Page, Put},
};

/// The variable that makes a test the child, and says where its store is.
const PLACE: &str = "BUTTRESS_CHILD_PLACE";

/// How many workflows the child writes side by side.
pub(crate) const WORKFLOWS: [u64; 4] = [0, 1, 2, 3];

/// A loop of starting a writer, killing it and looking at what it left.
pub(crate) struct KillLoop {
    test: &'static str,
    place: String,
    kills: u32,
    longest: Duration,
}

/// What a loop has seen.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) kills: u32,
    pub(crate) acknowledged: u64,
    /// How often a checkpoint was found that was written and not yet acknowledged.
    pub(crate) ahead: u64,
}

/// A child that runs one test of this binary; it is killed when it is dropped.
pub(crate) struct Writer {
    child: Child,
    lines: mpsc::Receiver<String>,
}

/// What a child has said of one put.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Acknowledged {
    pub(crate) workflow: String,
    pub(crate) sequence: u64,
    pub(crate) number: u64,
}

// ===== in the child =====

/// Returns where the child's store is; none in the parent, where the test has nothing to do.
pub(crate) fn place() -> Option<String> {
    std::env::var(PLACE).ok()
}

/// Writes numbered checkpoints of several workflows as fast as it can, and prints each when it is
/// acknowledged; never returns.
pub(crate) async fn write_until_killed(store: &impl CheckpointStore) {
    let mut chains = WORKFLOWS.map(|workflow| Box::pin(write_chain(store, workflow)));
    std::future::poll_fn(|cx| {
        for chain in &mut chains {
            _ = chain.as_mut().poll(cx);
        }
        std::task::Poll::<()>::Pending
    })
    .await;
}

async fn write_chain(store: &impl CheckpointStore, workflow: u64) {
    let key = key(workflow);
    let head = store.latest(&key).await.unwrap();
    let mut parent = head.as_ref().map(|head| head.sequence);
    let mut number = head.map_or(0, |head| head.phase.parse().unwrap());
    loop {
        number += 1;
        let put = numbered(&key, parent, number);
        let sequence = store.put(put).await.unwrap();
        acknowledge(key.workflow_id.as_str(), sequence, number);
        parent = Some(sequence);
    }
}

/// Tells the parent of a put.
pub(crate) fn acknowledge(workflow: &str, sequence: u64, number: u64) {
    let line = format!("ack {workflow} {sequence} {number}\n");
    // Not println, which a test's runner may keep to itself; one write is never mixed up.
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
    std::io::stdout().flush().unwrap();
}

/// The chain of a workflow of the loop.
pub(crate) fn key(workflow: u64) -> CheckpointKey {
    WorkflowId::new(format!("workflow-{workflow}")).unwrap().into()
}

/// A put whose state tells its number; sizes are 1 KiB, 64 KiB and now and then 4 MiB.
pub(crate) fn numbered(key: &CheckpointKey, parent: Option<u64>, number: u64) -> Put {
    let put = Put::new(key.clone(), parent, state(number)).phase(number.to_string());
    put.metadata("number", number)
}

pub(crate) fn state(number: u64) -> Vec<u8> {
    let size = match number % 100 {
        50 => 4 << 20,
        at if at % 5 == 0 => 64 << 10,
        _ => 1 << 10,
    };
    let seed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    seed.iter().copied().cycle().take(size).collect()
}

// ===== in the parent =====

impl Writer {
    /// Starts a test of this binary as a child.
    pub(crate) fn start(test: &str, place: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(PLACE, place)
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    /// Waits until the child has said something.
    pub(crate) fn first(&self) -> Acknowledged {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(60));
            let line = line.expect("the child acknowledges something within a minute");
            if let Some(found) = parse(&line) {
                return found;
            }
        }
    }

    /// Kills the child with SIGKILL and returns what it has said until then.
    pub(crate) fn kill(mut self) -> Vec<Acknowledged> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        // The other end is closed: this ends with what was still under way. A line that was cut
        // was not said whole, and does not count.
        self.lines.iter().filter_map(|line| parse(&line)).collect()
    }

    /// Waits until the child ends by itself and returns what it has said.
    pub(crate) fn finish(mut self) -> Vec<Acknowledged> {
        let said = self.lines.iter().filter_map(|line| parse(&line)).collect();
        assert!(self.child.wait().unwrap().success(), "the child failed");
        said
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It may have ended before.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn parse(line: &str) -> Option<Acknowledged> {
    // The runner of tests begins a line with the test's name and does not end it.
    let mut words = line[line.find("ack ")?..].split(' ').skip(1);
    let (workflow, sequence, number) = (words.next()?, words.next()?, words.next()?);
    Some(Acknowledged {
        workflow: workflow.to_owned(),
        sequence: sequence.parse().ok()?,
        number: number.parse().ok()?,
    })
}

impl KillLoop {
    /// A loop over a test of this binary; `BUTTRESS_KILLS` says how often, or else 20 times.
    pub(crate) fn new(test: &'static str, place: impl Into<String>) -> Self {
        let kills = std::env::var("BUTTRESS_KILLS").ok().and_then(|kills| kills.parse().ok());
        let longest = Duration::from_millis(150);
        Self { test, place: place.into(), kills: kills.unwrap_or(20), longest }
    }

    /// Starts, kills and looks, again and again.
    pub(crate) async fn run<S: CheckpointStore>(&self, open: impl AsyncFn(&str) -> S) -> Tally {
        let mut tally = Tally::default();
        let mut last = BTreeMap::new();
        for round in 0..self.kills {
            let writer = Writer::start(self.test, &self.place);
            // Every fifth is killed whenever it comes: also while it opens what the last one left.
            let first = (round % 5 != 4).then(|| writer.first());
            let longest = u64::try_from(self.longest.as_micros()).unwrap();
            let pause = Duration::from_micros(fastrand::u64(..longest));
            tokio::time::sleep(pause).await;
            let said = writer.kill();
            tally.kills += 1;
            for one in first.into_iter().chain(said) {
                tally.acknowledged += 1;
                let newest = last.entry(one.workflow.clone()).or_insert_with(|| one.clone());
                assert!(one.number >= newest.number, "round {round}: {one:?} after {newest:?}");
                *newest = one;
            }
            let store = open(&self.place).await;
            for workflow in WORKFLOWS {
                let name = key(workflow).workflow_id.as_str().to_owned();
                let (ahead, own) = look(&store, workflow, last.get(&name), round).await;
                tally.ahead += u64::from(ahead);
                last.insert(name, own);
            }
        }
        tally
    }
}

/// Looks at one chain after a kill: nothing acknowledged is lost, everything is whole, and it
/// goes on. Returns whether there is one more than was acknowledged, and a put of its own.
async fn look(
    store: &impl CheckpointStore,
    workflow: u64,
    last: Option<&Acknowledged>,
    round: u32,
) -> (bool, Acknowledged) {
    let key = key(workflow);
    let head = store.latest(&key).await.unwrap();
    let parent = head.as_ref().map(|head| head.sequence);
    let number = head.map_or(0, |head| head.phase.parse().unwrap());
    if let Some(last) = last {
        assert!(parent >= Some(last.sequence), "round {round}: {last:?}, found {parent:?}");
        let begun = last.number..=last.number + 1;
        assert!(begun.contains(&number), "round {round}: {number} after {last:?}");
    }
    for found in store.history(&key, Page::newest(100)).await.unwrap() {
        let number: u64 = found.phase.parse().unwrap();
        assert!(found.state[..] == state(number)[..], "round {round}: {number} is not whole");
        assert_eq!(found.metadata["number"], number, "round {round}");
    }
    let sequence = store.put(numbered(&key, parent, number + 1)).await.unwrap();
    assert!(Some(sequence) > parent, "round {round}");
    let workflow = key.workflow_id.as_str().to_owned();
    let ahead = last.is_some_and(|last| number > last.number);
    (ahead, Acknowledged { workflow, sequence, number: number + 1 })
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kills, acknowledged, ahead } = self;
        write!(
            f,
            "{kills} kills, {acknowledged} puts acknowledged, none lost; \
            {ahead} chains were one ahead of what was acknowledged"
        )
    }
}
