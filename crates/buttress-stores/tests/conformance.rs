//! The conformance suite passes a store that keeps its promises, and no other.

mod broken;
#[path = "support/documented.rs"]
mod documented;

use buttress::MemoryStore;
use buttress_stores::conformance::{self, Harness, Options, Rounds};

use self::broken::{Breaking, Fault};

struct Memory;

impl Harness for Memory {
    type Store = MemoryStore;

    async fn open(&self, options: &Options) -> MemoryStore {
        let store = MemoryStore::new().clock(options.clock.clone()).max_state(options.max_state);
        match options.keep {
            Some(keep) => store.keep(keep.get()),
            None => store,
        }
    }

    async fn reopen(&self, store: &MemoryStore, _: &Options) -> Option<MemoryStore> {
        Some(store.clone())
    }

    fn debug(&self, store: &MemoryStore) -> String {
        format!("{store:?}")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_store_keeps_every_promise() {
    let report = conformance::run(&Memory, Rounds::from_env()).await;
    println!("{report}");
    report.assert_passed();
    documented::compare("memory", &report);
}

/// Which cases have to see which fault.
const SEEN: &[(Fault, &[u32])] = &[
    (Fault::MakesChainsByReading, &[1]),
    (Fault::CutsLargeStates, &[2, 56, 59]),
    (Fault::CutsTimestamps, &[3]),
    (Fault::OrdersByTimestamp, &[3]),
    (Fault::AnswersOneTooMuch, &[2, 4, 6]),
    (Fault::FindsTheHeadOnly, &[4, 6]),
    (Fault::LatestIsOneBehind, &[2, 4, 5, 56]),
    (Fault::FoldsCase, &[9]),
    (Fault::DeletesByPrefix, &[7, 37]),
    (Fault::ForgetsNamespaces, &[8, 9]),
    (Fault::RoundsFloats, &[10]),
    (Fault::TakesAnySize, &[11]),
    (Fault::SharesMutableState, &[12]),
    (Fault::IgnoresParent, &[13, 14, 16, 17, 43]),
    (Fault::UpsertsByWriteId, &[15]),
    (Fault::RefusesRepeats, &[15]),
    (Fault::ChecksThenActs, &[16, 17]),
    (Fault::ForgetsTokensAtDelete, &[18]),
    (Fault::TakesAnyToken, &[19, 20]),
    (Fault::TakesNoTokenAlways, &[18, 19]),
    (Fault::FreesLeasesEarly, &[21]),
    (Fault::NeverFreesLeases, &[18, 20]),
    (Fault::RenewsNothing, &[22]),
    (Fault::SortsWritesByValue, &[23]),
    (Fault::LastResultStands, &[24]),
    (Fault::FirstOfAllKindsStands, &[24]),
    (Fault::LosesEighthWrite, &[25]),
    (Fault::MovesWritesOn, &[26]),
    (Fault::TakesWritesToNothing, &[27]),
    (Fault::ForgetsKinds, &[24, 29, 30]),
    (Fault::PagesInclusively, &[31]),
    (Fault::ListsByAge, &[33]),
    (Fault::ListsWithoutMetadata, &[32]),
    (Fault::ListsWithoutWrites, &[23]),
    (Fault::DeletesRootOnly, &[37]),
    (Fault::StartsAnew, &[38]),
    (Fault::PrunesOneTooMany, &[39, 40]),
    (Fault::PruneBreaksOthers, &[39, 40, 41]),
    (Fault::PruneTakesHead, &[39, 41]),
    (Fault::KeepsAll, &[43]),
    (Fault::ReopensEmpty, &[17, 18, 28, 52, 60, 61]),
    (Fault::ReopensReadOnly, &[28, 60, 61]),
    (Fault::StaysLockedWhenDropped, &[56]),
    (Fault::WritesHalfWhenDropped, &[56]),
    (Fault::OneAtATimeSlowly, &[57]),
    (Fault::BlocksItsThread, &[58]),
    (Fault::ReadersWaitForWriters, &[59]),
    (Fault::AnonymousErrors, &[70]),
    (Fault::SaysRetryAlways, &[13, 70]),
    (Fault::ShowsStates, &[71]),
    (Fault::Panics, &[2, 70]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_fails_its_cases() {
    let mut missed = Vec::new();
    for (fault, cases) in SEEN {
        for number in *cases {
            let verdict = conformance::run_case(&Breaking(*fault), *number, Rounds::Short).await;
            println!("{fault:?} {number}: {verdict}");
            if !verdict.is_failed() {
                missed.push((fault, number, verdict));
            }
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

/// A case that no fault fails may be one that cannot fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_case_is_failed_by_a_fault() {
    let report = conformance::run(&Memory, Rounds::Short).await;
    let run = report.outcomes().iter().filter(|outcome| outcome.verdict.is_passed());
    let unseen: Vec<_> = run
        .map(|outcome| outcome.case.number)
        .filter(|number| !SEEN.iter().any(|(_, cases)| cases.contains(number)))
        .collect();
    assert!(unseen.is_empty(), "{unseen:?}");
}
