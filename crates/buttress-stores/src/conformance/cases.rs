use std::{future::poll_fn, panic::AssertUnwindSafe, pin::pin, time::Duration};

use super::{
    Harness, Outcome, Report, Rounds, Verdict,
    check::{Checked, Stop},
    concurrency, delete, errors,
    fixture::Fixture,
    ids, lease, list, parent, put, writes,
};

/// A case of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Case {
    /// Its number in the contract.
    pub number: u32,
    /// Which stores it is for.
    pub class: Class,
    /// What it is about.
    pub title: &'static str,
}

/// Which stores a case is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Class {
    /// Every store.
    Base,
    /// Stores that say so.
    Declared,
    /// Stores that outlive the process.
    Durable,
    /// Stores that several processes use.
    Shared,
}

/// Every case of the contract that is about a store, by number.
pub const CASES: &[Case] = &[
    base(1, "a chain that is not there is no error and no entry"),
    base(2, "a put comes back byte for byte"),
    base(3, "timestamps come back to the millisecond, and order nothing"),
    base(4, "the latest wins, and each older one is still found"),
    base(5, "sequences of a chain grow, and each is used once"),
    base(6, "a put answers the address that get takes"),
    base(7, "workflows are apart, also where one's name begins another's"),
    base(8, "namespaces are apart, and the empty one is the default"),
    base(9, "every name is kept apart, or refused before any IO"),
    base(10, "metadata comes back equal, whatever it holds"),
    base(11, "a state over the limit is TooLarge, and nothing is stored"),
    base(12, "bytes that are changed after a put are not changed in the store"),
    base(13, "a put behind an old head is a Conflict that names the head"),
    base(14, "a put behind nothing is a Conflict where something is"),
    base(15, "a repeat of a put is stored once; another state is a Conflict"),
    base(16, "of tasks that race for a place one wins"),
    shared(17, "of two handles that race for a place one wins"),
    base(18, "tokens of leases grow for ever"),
    base(19, "an old token is Fenced, and none is Held"),
    base(20, "a zombie past its lease is Fenced"),
    base(21, "a clock that jumps frees a lease once, and not early"),
    declared(22, "renew prolongs a lease, and is Fenced after a takeover"),
    base(23, "writes of tasks come back in order"),
    base(24, "of results the first stands, of other writes the last"),
    base(25, "writes of tasks side by side are all there"),
    base(26, "writes belong to their checkpoint only"),
    base(27, "writes to a checkpoint that is not there are NotFound"),
    durable(28, "writes of tasks outlive the handle"),
    base(29, "a failed task is kept beside the results of others"),
    base(30, "where a task goes next is kept apart from its result"),
    base(31, "history is newest first and pages by limit and before"),
    base(32, "list finds by workflow, by namespace and by metadata"),
    base(33, "list pages in an order that deletions do not change"),
    declared(34, "a fork begins a chain of its own"),
    declared(35, "a copy of a workflow"),
    declared(36, "a branch behind an older checkpoint"),
    base(37, "delete takes all of a workflow, and nothing else"),
    base(38, "a chain that begins anew goes on with its sequences"),
    declared(39, "prune leaves the newest"),
    declared(40, "prune takes nothing that another one needs"),
    declared(41, "prune with readers and a writer beside it"),
    declared(42, "workflows that run out"),
    declared(43, "retention is bounded, and hides nothing acknowledged"),
    durable(44, "what is acknowledged outlives SIGKILL"),
    durable(45, "what is found after SIGKILL is whole"),
    durable(46, "loss of power"),
    durable(47, "IO that fails at each step"),
    durable(48, "an fsync that fails"),
    durable(49, "a flipped bit is never a wrong state"),
    durable(50, "a file that is cut is never a wrong state"),
    durable(51, "temporary files of dead writers"),
    durable(52, "opening again changes nothing"),
    durable(53, "a folder that cannot be used is a typed error with the path"),
    durable(54, "a full disk loses nothing"),
    durable(55, "a crash while opening after a crash"),
    base(56, "a call that is dropped leaves old or new, whole"),
    base(57, "64 workflows side by side are not slower than one after another"),
    base(58, "a put does not stall its thread"),
    base(59, "readers do not wait for a slow writer"),
    base(60, "behind BoxStore it is the same store; its end loses nothing"),
    durable(61, "two handles on one place keep one chain"),
    shared(62, "a connection that is lost during a put"),
    shared(63, "a connection that was idle too long"),
    shared(64, "a server that restarts under load"),
    base(65, "schema versions and migrations"),
    base(66, "a store of a newer format is not opened"),
    base(67, "stores of every release still open"),
    declared(68, "encryption"),
    declared(69, "compression"),
    base(70, "every error says what, where, and whether a repeat helps"),
    base(71, "nothing shows a state or a password"),
    base(72, "durability of a graph's steps"),
    base(73, "a store that is away during a run"),
    base(75, "a finished workflow"),
    base(76, "interrupts"),
    base(77, "a step that kills its process"),
    base(78, "two resumers of a workflow"),
];

/// How long a case may take before it counts as hanging.
const LONGEST: [Duration; 2] = [Duration::from_secs(120), Duration::from_secs(1800)];

/// Runs every case.
pub async fn run<H: Harness>(harness: &H, rounds: Rounds) -> Report {
    let mut outcomes = Vec::new();
    for case in CASES {
        let verdict = run_case(harness, case.number, rounds).await;
        outcomes.push(Outcome { case: *case, verdict });
    }
    Report::new(outcomes)
}

/// Runs one case, by its number.
///
/// # Panics
///
/// If there is no case of that number.
#[track_caller]
pub fn run_case<H: Harness>(
    harness: &H,
    number: u32,
    rounds: Rounds,
) -> impl Future<Output = Verdict> {
    assert!(CASES.iter().any(|case| case.number == number), "there is no case {number}");
    async move {
        let fixture = Fixture::new(harness, rounds);
        // Boxed: the future of a case is as large as the largest of the cases.
        let case = Box::pin(dispatch(number, &fixture));
        let longest = LONGEST[usize::from(rounds == Rounds::Full)];
        match tokio::time::timeout(longest, guarded(case)).await {
            Ok(verdict) => verdict,
            Err(_) => Verdict::Failed(format!("not done after {longest:?}")),
        }
    }
}

/// Makes a panic of a store a failure of the case.
async fn guarded(case: impl Future<Output = Result<Checked, &'static str>>) -> Verdict {
    let mut case = pin!(case);
    let answer = poll_fn(|cx| {
        let poll = AssertUnwindSafe(|| case.as_mut().poll(cx));
        match std::panic::catch_unwind(poll) {
            Ok(poll) => poll,
            Err(_) => Ok(Err(Stop::Failed("it panicked".to_owned()))).into(),
        }
    });
    match answer.await {
        Ok(Ok(())) => Verdict::Passed,
        Ok(Err(Stop::Skipped(reason))) => Verdict::Skipped(reason),
        Ok(Err(Stop::Failed(what))) => Verdict::Failed(what),
        Err(elsewhere) => Verdict::Elsewhere(elsewhere),
    }
}

const NO_OPERATION: &str = "stores have no such operation";
const OWN_TESTS: &str = "the tests of each store";
const CHECKPOINTER: &str = "not a store's: the tests of Checkpointer";
const GRAPH: &str = "not a store's: the tests of graphs";

async fn dispatch<H: Harness>(number: u32, fx: &Fixture<'_, H>) -> Result<Checked, &'static str> {
    Ok(match number {
        1 => put::missing(fx).await,
        2 => put::round_trip(fx).await,
        3 => put::timestamps(fx).await,
        4 => put::latest_wins(fx).await,
        5 => put::sequences_grow(fx).await,
        6 => put::address(fx).await,
        7 => ids::workflows(fx).await,
        8 => ids::namespaces(fx).await,
        9 => ids::odd_names(fx).await,
        10 => put::metadata(fx).await,
        11 => put::size_limit(fx).await,
        12 => put::no_aliasing(fx).await,
        13 => parent::old_parent(fx).await,
        14 => parent::create_only(fx).await,
        15 => parent::repeat(fx).await,
        16 => parent::race_of_tasks(fx).await,
        17 => parent::race_of_handles(fx).await,
        18 => lease::tokens_grow(fx).await,
        19 => lease::old_token(fx).await,
        20 => lease::zombie(fx).await,
        21 => lease::clock_jumps(fx).await,
        22 => lease::renew(fx).await,
        23 => writes::in_order(fx).await,
        24 => writes::which_stands(fx).await,
        25 => writes::side_by_side(fx).await,
        26 => writes::belong_to_their_checkpoint(fx).await,
        27 => writes::to_nothing(fx).await,
        28 => writes::outlive_the_handle(fx).await,
        29 => writes::failed_task(fx).await,
        30 => writes::route(fx).await,
        31 => list::history_pages(fx).await,
        32 => list::finds(fx).await,
        33 => list::pages(fx).await,
        37 => delete::all_of_a_workflow(fx).await,
        38 => delete::begins_anew(fx).await,
        39 => delete::prune(fx).await,
        40 => delete::prune_keeps_whole(fx).await,
        41 => delete::prune_beside_others(fx).await,
        43 => delete::retention(fx).await,
        52 => concurrency::opening_again(fx).await,
        56 => concurrency::dropped_calls(fx).await,
        57 => concurrency::many_workflows(fx).await,
        58 => concurrency::no_stall(fx).await,
        59 => concurrency::readers(fx).await,
        60 => concurrency::boxed(fx).await,
        61 => concurrency::two_handles(fx).await,
        70 => errors::all_say_enough(fx).await,
        71 => errors::nothing_shows(fx).await,
        34..=36 | 42 | 68 | 69 => return Err(NO_OPERATION),
        65 | 73 => return Err(CHECKPOINTER),
        72 | 75..=78 => return Err(GRAPH),
        _ => return Err(OWN_TESTS),
    })
}

// ===== impl Class =====

impl Class {
    /// Returns the letter it has in the contract.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Base => "B",
            Self::Declared => "X",
            Self::Durable => "D",
            Self::Shared => "M",
        }
    }
}

const fn base(number: u32, title: &'static str) -> Case {
    Case { number, class: Class::Base, title }
}

const fn declared(number: u32, title: &'static str) -> Case {
    Case { number, class: Class::Declared, title }
}

const fn durable(number: u32, title: &'static str) -> Case {
    Case { number, class: Class::Durable, title }
}

const fn shared(number: u32, title: &'static str) -> Case {
    Case { number, class: Class::Shared, title }
}
