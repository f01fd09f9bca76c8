//! The disk fails at every step, and what is damaged is passed over.

mod disks;
mod ends;
mod power;
mod seed;

use std::{fs, io, path::Path, sync::atomic::Ordering};

use self::disks::{Faulty, Meddling};
use super::*;
use crate::checkpoint::{
    StoreErrorKind::{self, Conflict, TooNew},
    TaskWrite, WriteKind,
};

/// A folder that goes with its test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let name = format!("buttress-file-{}-{:x}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn key() -> CheckpointKey {
    CheckpointKey::new(WorkflowId::new("Trade 7").unwrap())
}

fn put(parent: Option<u64>, state: &str) -> Put {
    Put::new(key(), parent, state.as_bytes()).phase("research")
}

fn text(checkpoint: &Checkpoint) -> &str {
    std::str::from_utf8(&checkpoint.state).unwrap()
}

fn records(store: &FileStore) -> Vec<PathBuf> {
    let folder = names::chain_folder(store.path(), &key());
    let sequences = store.folder.sequences(&key()).unwrap();
    sequences.into_iter().map(|sequence| folder.join(names::record(sequence))).collect()
}

fn temporaries(folder: &Path) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let is_temporary = entry.file_name().to_str().unwrap().starts_with(names::TEMPORARY);
        count += usize::from(is_temporary);
        if entry.file_type().unwrap().is_dir() {
            count += temporaries(&entry.path());
        }
    }
    count
}

/// Opens a store whose disk then fails.
async fn open_on(root: &Path, disk: &Arc<Faulty>) -> FileStore {
    let left = disk.left.swap(i64::MAX, Ordering::Relaxed);
    let disk_of_store: Arc<dyn Disk> = Arc::clone(disk) as _;
    let store = FileStore::open(root).keep(3).open_on(disk_of_store).await.unwrap();
    disk.left.store(left, Ordering::Relaxed);
    disk.calls.store(0, Ordering::Relaxed);
    store
}

/// Waits until the cleaning up after the last put is over.
async fn settle(store: &FileStore) {
    drop(store.writer(&key()).lock_owned().await);
}

/// Counts the calls of a put after others, with the cleaning up that follows it.
async fn calls_of_a_put(puts_before: u64) -> i64 {
    let scratch = Scratch::new();
    let disk = Faulty::new(i64::MAX, io::ErrorKind::Other, false, None);
    let store = open_on(&scratch.0, &disk).await;
    let mut head = None;
    for _ in 0..puts_before {
        head = Some(store.put(put(head, "{}")).await.unwrap());
        settle(&store).await;
    }
    disk.calls.store(0, Ordering::Relaxed);
    store.put(put(head, "{}")).await.unwrap();
    settle(&store).await;
    i64::try_from(disk.calls.load(Ordering::Relaxed)).unwrap()
}

#[tokio::test]
async fn a_disk_that_fails_at_any_step_leaves_the_old_or_the_new() {
    for puts_before in [0, 1, 4] {
        let steps = calls_of_a_put(puts_before).await;
        assert!(steps >= 6, "{steps}");
        for is_dead in [false, true] {
            for error in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
                for step in 0..steps {
                    fail_at(step, puts_before, error, is_dead, None).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn a_write_that_is_cut_at_any_byte_leaves_the_old() {
    let scratch = Scratch::new();
    let store = FileStore::open(&scratch.0).await.unwrap();
    store.put(put(None, "{\"n\":0}")).await.unwrap();
    let length = fs::metadata(&records(&store)[0]).unwrap().len();
    for cut in 0..=usize::try_from(length).unwrap() {
        fail_at(0, 1, io::ErrorKind::Other, true, Some(cut)).await;
    }
}

/// Fails one call of a put and looks at what a new process finds.
async fn fail_at(
    step: i64,
    puts_before: u64,
    error: io::ErrorKind,
    is_dead: bool,
    cut: Option<usize>,
) {
    let case = format!("step {step} after {puts_before} puts, {error:?}, dead {is_dead}, {cut:?}");
    let scratch = Scratch::new();
    let disk = Faulty::new(i64::MAX, error, is_dead, cut);
    let store = open_on(&scratch.0, &disk).await;
    let mut head = None;
    for n in 0..puts_before {
        head = Some(store.put(put(head, &format!("{{\"n\":{n}}}"))).await.unwrap());
        settle(&store).await;
    }
    disk.left.store(step, Ordering::Relaxed);
    let next = put(head, "{\"n\":\"new\"}");
    let answer = store.put(next.clone()).await;
    settle(&store).await;
    assert!(cut.is_none() || answer.is_err(), "{case}");
    if !is_dead {
        // The same store goes on: a repeat is stored once.
        disk.left.store(i64::MAX, Ordering::Relaxed);
        let again = store.put(next.clone()).await.unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(*answer.as_ref().unwrap_or(&again), again, "{case}");
        settle(&store).await;
    }

    let store = FileStore::open(&scratch.0).keep(3).await.unwrap();
    let found = store.latest(&key()).await.unwrap_or_else(|error| panic!("{case}: {error}"));
    let old = head.map(|_| format!("{{\"n\":{}}}", puts_before - 1));
    let found = found.as_ref().map(|found| (found.sequence, text(found).to_owned()));
    match (&answer, found) {
        (Ok(sequence), found) => {
            assert_eq!(found, Some((*sequence, "{\"n\":\"new\"}".to_owned())), "{case}");
        }
        (Err(failed), found) => {
            assert!(failed.is_retryable(), "{case}: {failed}");
            assert!(failed.place().is_some_and(|place| !place.is_empty()), "{case}: {failed}");
            let state = found.map(|(_, state)| state);
            assert!(state == old || state.as_deref() == Some("{\"n\":\"new\"}"), "{case}");
        }
    }
    // A repeat by the next process stores it once and is answered.
    let sequence = store.put(next.clone()).await.unwrap_or_else(|error| panic!("{case}: {error}"));
    settle(&store).await;
    let head = store.latest(&key()).await.unwrap().unwrap();
    assert_eq!((head.sequence, text(&head)), (sequence, "{\"n\":\"new\"}"), "{case}");
    let history = store.history(&key(), Page::newest(100)).await.unwrap();
    let expected = usize::try_from(puts_before + 1).unwrap();
    assert!(history.len() <= expected, "{case}");
    assert_eq!(history.iter().filter(|found| text(found).contains("new")).count(), 1, "{case}");
}

#[tokio::test]
async fn a_record_that_is_cut_or_flipped_is_passed_over() {
    let scratch = Scratch::new();
    let store = FileStore::open(&scratch.0).await.unwrap();
    let first = store.put(put(None, "{\"n\":1}")).await.unwrap();
    let second = store.put(put(Some(first), "{\"n\":2}")).await.unwrap();
    settle(&store).await;
    let newest = records(&store).pop().unwrap();
    let whole = fs::read(&newest).unwrap();
    for length in 0..whole.len() {
        fs::write(&newest, &whole[..length]).unwrap();
        let head = store.latest(&key()).await.unwrap().unwrap();
        assert_eq!((head.sequence, text(&head)), (first, "{\"n\":1}"), "{length} bytes");
    }
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&newest, &flipped).unwrap();
        let head = store.latest(&key()).await.unwrap().unwrap();
        assert_eq!((head.sequence, text(&head)), (first, "{\"n\":1}"), "bit {bit}");
        let error = store.get(&key(), second).await.unwrap_err();
        assert!(matches!(error.kind(), StoreErrorKind::Corrupt { .. }), "bit {bit}: {error}");
    }
    // The next put goes behind what is damaged, which stays for people.
    let third = store.put(put(Some(first), "{\"n\":3}")).await.unwrap();
    settle(&store).await;
    assert!(third > second);
    assert!(newest.exists());
}

#[tokio::test]
async fn where_no_record_can_be_read_that_is_an_error() {
    let scratch = Scratch::new();
    let store = FileStore::open(&scratch.0).await.unwrap();
    store.put(put(None, "{}")).await.unwrap();
    settle(&store).await;
    let only = records(&store).pop().unwrap();
    fs::write(&only, "{").unwrap();
    let store = FileStore::open(&scratch.0).await.unwrap();
    let error = store.latest(&key()).await.unwrap_err();
    assert!(matches!(error.kind(), StoreErrorKind::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains(only.to_str().unwrap()), "{error}");
    let error = store.put(put(None, "{}")).await.unwrap_err();
    assert!(matches!(error.kind(), StoreErrorKind::Corrupt { .. }), "{error}");
    assert_eq!(fs::read(&only).unwrap(), b"{");
}

#[tokio::test]
async fn a_record_of_a_newer_format_is_refused_untouched() {
    let scratch = Scratch::new();
    let store = FileStore::open(&scratch.0).await.unwrap();
    store.put(put(None, "{}")).await.unwrap();
    settle(&store).await;
    let only = records(&store).pop().unwrap();
    let text = fs::read_to_string(&only).unwrap().replace("\"format\":1", "\"format\":2");
    let body = &text[..text.find(",\"checksum\"").unwrap()];
    let checksum = twox_hash::XxHash3_128::oneshot(body.as_bytes());
    let newer = format!("{body},\"checksum\":\"{checksum:032x}\"}}\n");
    fs::write(&only, &newer).unwrap();
    let store = FileStore::open(&scratch.0).await.unwrap();
    for error in [
        store.latest(&key()).await.unwrap_err(),
        store.put(put(None, "{}")).await.unwrap_err(),
        store.put(put(Some(1), "{}")).await.unwrap_err(),
    ] {
        let TooNew { found: 2, supported: 1 } = error.kind() else { panic!("{error}") };
    }
    assert_eq!(fs::read_to_string(&only).unwrap(), newer);
}

#[tokio::test]
async fn a_lease_that_cannot_be_read_fences_everybody() {
    let scratch = Scratch::new();
    let store = FileStore::open(&scratch.0).await.unwrap();
    let hour = Duration::from_secs(3600);
    let first = store.acquire(&key(), "one", hour).await.unwrap();
    let head = store.put(put(None, "{}").under(&first)).await.unwrap();
    store.release(&first).await.unwrap();
    let second = store.acquire(&key(), "two", hour).await.unwrap();
    settle(&store).await;
    fs::write(records(&store).pop().unwrap(), "").unwrap();
    let store = FileStore::open(&scratch.0).await.unwrap();
    for lease in [&first, &second] {
        let error = store.put(put(Some(head), "{}").under(lease)).await.unwrap_err();
        assert!(matches!(error.kind(), StoreErrorKind::Fenced { .. }), "{error}");
    }
    let third = store.acquire(&key(), "three", hour).await.unwrap();
    assert!(third.token > second.token);
    store.put(put(Some(head), "{}").under(&third)).await.unwrap();
    settle(&store).await;
}

#[tokio::test]
async fn a_late_writer_hides_nothing_though_its_place_was_pruned() {
    let scratch = Scratch::new();
    let store = FileStore::open(&scratch.0).await.unwrap();
    let mut head = None;
    for n in 1..=3 {
        head = Some(store.put(put(head, &n.to_string())).await.unwrap());
    }
    // Its store still knows the chain as it was.
    let late = FileStore::open(&scratch.0).await.unwrap();
    late.put(put(head, "\"late\"")).await.unwrap();
    for n in 5..=20 {
        let at = store.latest(&key()).await.unwrap().map(|head| head.sequence);
        store.put(put(at, &n.to_string())).await.unwrap();
    }
    settle(&store).await;
    assert_eq!(store.history(&key(), Page::newest(100)).await.unwrap().len(), 10);
    for parent in [3, 4] {
        let error = late.put(put(Some(parent), "\"later\"")).await.unwrap_err();
        let Conflict { expected, found } = error.kind() else { panic!("{error}") };
        assert_eq!((*expected, *found), (Some(parent), Some(20)));
    }
    let head = late.latest(&key()).await.unwrap().unwrap();
    assert_eq!((head.sequence, text(&head)), (20, "20"));
    assert_eq!(records(&late).len(), 10);
}

/// Puts `count` checkpoints behind whatever is there, as another process does.
fn others_put(root: &Path, count: u64) {
    let root = root.to_owned();
    let puts = async move {
        let store = FileStore::open(root).keep(3).await.unwrap();
        for n in 0..count {
            let head = store.latest(&key()).await.unwrap().map(|head| head.sequence);
            store.put(put(head, &format!("\"other {n}\""))).await.unwrap();
            settle(&store).await;
        }
    };
    let run = || tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(puts);
    std::thread::spawn(run).join().unwrap();
}

#[tokio::test]
async fn a_record_that_others_follow_before_it_is_looked_behind_is_stored() {
    for others in [1, 2, 3, 7, 15] {
        let scratch = Scratch::new();
        others_put(&scratch.0, 2);
        let disk = Arc::new(Meddling::default());
        let disk_of_store: Arc<dyn Disk> = Arc::clone(&disk) as _;
        let store = FileStore::open(&scratch.0).keep(3).open_on(disk_of_store).await.unwrap();
        let root = scratch.0.clone();
        *disk.behind_publish.lock().unwrap() = Some(Box::new(move || others_put(&root, others)));
        let own = put(Some(2), "\"own\"");
        assert_eq!(store.put(own.clone()).await.unwrap(), 3, "{others} others");
        settle(&store).await;
        let head = store.latest(&key()).await.unwrap().unwrap();
        assert_eq!(head.sequence, 3 + others);
        if others < 3 {
            assert_eq!(store.put(own).await.unwrap(), 3, "a repeat is stored once");
            let history = store.history(&key(), Page::newest(9)).await.unwrap();
            assert!(history.windows(2).all(|pair| pair[0].parent == Some(pair[1].sequence)));
        }
        settle(&store).await;
    }
}

#[tokio::test]
async fn a_repeat_is_known_however_often_the_lease_was_prolonged_since() {
    let scratch = Scratch::new();
    let store = FileStore::open(&scratch.0).await.unwrap();
    let own = put(None, "{}");
    let first = store.put(own.clone()).await.unwrap();
    let hour = Duration::from_secs(3600);
    let mut lease = store.acquire(&key(), "one", hour).await.unwrap();
    for _ in 0..40 {
        lease = store.renew(&lease, hour).await.unwrap();
    }
    store.release(&lease).await.unwrap();
    assert_eq!(store.put(own).await.unwrap(), first);
    settle(&store).await;
    assert_eq!(records(&store).len(), 2, "leases that others replace are pruned");
}

#[tokio::test]
async fn two_that_find_what_python_wrote_import_it_once() {
    for _ in 0..20 {
        let scratch = Scratch::new();
        let file = scratch.0.join("Trade 7_latest.json");
        let written = r#"{"workflow_id": "Trade 7", "timestamp": "2999-01-01T00:00:00", "phase": "py",
            "state": {"by": "python"}}"#;
        fs::write(file, written).unwrap();
        let (one, two) = (
            FileStore::open(&scratch.0).await.unwrap(),
            FileStore::open(&scratch.0).await.unwrap(),
        );
        let reader = tokio::spawn(async move {
            two.latest(&key()).await.unwrap();
            settle(&two).await;
        });
        let head = one.latest(&key()).await.unwrap().unwrap();
        let own = one.put(put(Some(head.sequence), "\"own\"")).await.unwrap();
        reader.await.unwrap();
        settle(&one).await;
        // Its clock is far ahead, and the file may still be there for who comes next.
        fs::write(scratch.0.join("Trade 7_latest.json"), written).unwrap();
        let third = FileStore::open(&scratch.0).await.unwrap();
        let head = third.latest(&key()).await.unwrap().unwrap();
        assert_eq!((head.sequence, self::text(&head)), (own, "\"own\""));
        let history = third.history(&key(), Page::newest(9)).await.unwrap();
        assert_eq!(history.len(), 2);
        settle(&third).await;
    }
}

#[tokio::test]
async fn what_was_deleted_stays_gone_though_its_files_are_there() {
    let scratch = Scratch::new();
    let store = FileStore::open(&scratch.0).await.unwrap();
    let mut head = None;
    for _ in 0..3 {
        head = Some(store.put(put(head, "\"secret\"")).await.unwrap());
    }
    settle(&store).await;
    let kept = records(&store);
    let copies: Vec<_> = kept.iter().map(|path| fs::read(path).unwrap()).collect();
    store.delete(&key().workflow_id, None).await.unwrap();
    settle(&store).await;
    // As a process leaves them that is killed before it has removed them.
    let bring_back =
        || kept.iter().zip(&copies).for_each(|(path, text)| fs::write(path, text).unwrap());
    bring_back();
    assert_eq!(store.history(&key(), Page::newest(9)).await.unwrap(), []);
    assert_eq!(store.get(&key(), 3).await.unwrap(), None);
    let new = store.put(put(None, "\"new\"")).await.unwrap();
    settle(&store).await;
    fs::remove_file(names::chain_folder(&scratch.0, &key()).join(names::record(new - 1))).ok();
    bring_back();
    let history = store.history(&key(), Page::newest(9)).await.unwrap();
    assert_eq!(history.iter().map(|found| found.sequence).collect::<Vec<_>>(), [new]);
}

#[tokio::test]
async fn the_seeds_file_shows_the_head_though_others_of_us_write_it_late() {
    for is_python in [false, true] {
        let scratch = Scratch::new();
        others_put(&scratch.0, 1);
        let disk = Arc::new(Meddling::default());
        let disk_of_store: Arc<dyn Disk> = Arc::clone(&disk) as _;
        let store = FileStore::open(&scratch.0).open_on(disk_of_store).await.unwrap();
        let path = store.seed_file(&key().workflow_id).unwrap();
        let mut text = fs::read_to_string(&path).unwrap();
        if is_python {
            text = text.replace("\"sequence\"", "\"other\"");
        }
        let (late, text) = (path.clone(), text + "\n");
        let written = text.clone();
        *disk.behind_publish.lock().unwrap() =
            Some(Box::new(move || fs::write(late, text).unwrap()));
        store.put(put(Some(1), "\"own\"")).await.unwrap();
        settle(&store).await;
        let shown = fs::read_to_string(&path).unwrap();
        // What Python has written stays until it is imported.
        assert_eq!(shown == written, is_python);
        assert_eq!(shown.contains("\"own\""), !is_python);
    }
}

#[tokio::test]
async fn an_orphan_in_a_pruned_place_is_no_repeat() {
    let scratch = Scratch::new();
    others_put(&scratch.0, 2);
    let late = FileStore::open(&scratch.0).keep(3).await.unwrap();
    let own = put(Some(2), "\"own\"");
    others_put(&scratch.0, 10);
    // What a writer leaves that died before it looked behind its record.
    let mut record = format::Record {
        sequence: 3,
        id: 0,
        trail: format::Trail::default(),
        chain: ChainState { last: 3, head: Some(3), ..ChainState::default() },
        entry: Entry::Checkpoint(own.write_id, Box::new(own.clone().into_checkpoint(3))),
    };
    let bytes = record.encode(&key(), SystemTime::now());
    let place = names::chain_folder(&scratch.0, &key()).join(names::record(3));
    fs::write(&place, bytes).unwrap();
    let error = late.put(own).await.unwrap_err();
    assert!(error.is_conflict(), "{error}");
    let head = late.latest(&key()).await.unwrap().unwrap();
    assert_eq!((head.sequence, text(&head)), (12, "\"other 9\""));
}

#[tokio::test]
async fn what_dead_writers_left_is_removed_and_what_the_living_write_is_not() {
    let scratch = Scratch::new();
    let disk = Faulty::new(i64::MAX, io::ErrorKind::Other, true, Some(3));
    let store = open_on(&scratch.0, &disk).await;
    store.put(put(None, "{}")).await.unwrap();
    settle(&store).await;
    // A put that dies before its temporary file is published or removed.
    disk.left.store(0, Ordering::Relaxed);
    store.put(put(Some(1), "{}")).await.unwrap_err();
    assert_eq!(temporaries(&scratch.0), 1);
    let store = FileStore::open(&scratch.0).await.unwrap();
    store.put(put(Some(1), "{}")).await.unwrap();
    settle(&store).await;
    assert_eq!(temporaries(&scratch.0), 1, "its process lives");

    let folder = names::chain_folder(&scratch.0, &key());
    let own = writers::temporary_name();
    let dead = own.replacen(&format!("-{}-", std::process::id()), "-4194305-", 1);
    fs::write(folder.join(&dead), "").unwrap();
    fs::write(scratch.0.join(&dead), "").unwrap();
    let store = FileStore::open(&scratch.0).await.unwrap();
    store.put(put(Some(2), "{}")).await.unwrap();
    settle(&store).await;
    assert_eq!(temporaries(&scratch.0), 1);
}

#[tokio::test]
async fn states_that_are_no_json_come_back_as_they_were() {
    let scratch = Scratch::new();
    let store = FileStore::open(&scratch.0).await.unwrap();
    let states: [&[u8]; 12] = [
        b"",
        b" ",
        b"{}",
        b" {}",
        b"{ \"a\" : [1, 2.50, \"\\u00e9\"] }\n",
        b"{\"$base64\":\"AA==\"}",
        b"{ \"$base64\" : \"no base64\" }",
        b"{\"\\u0024base64\":\"AA==\"}",
        b"{\"$base64\":1}",
        b"\xff\x00",
        b"\"\xed\xa0\x80\"",
        b"null",
    ];
    let mut head = None;
    for state in states {
        head = Some(store.put(Put::new(key(), head, state)).await.unwrap());
        let found = store.latest(&key()).await.unwrap().unwrap();
        assert_eq!(&*found.state, state);
    }
    settle(&store).await;
    let value = |bytes: &[u8]| TaskWrite::new("t", WriteKind::Result, 0, bytes);
    let writes = PutWrites::new(key(), head.unwrap(), vec![value(b"\xfe")]);
    store.put_writes(writes).await.unwrap();
    assert_eq!(store.latest(&key()).await.unwrap().unwrap().writes, [value(b"\xfe")]);
}

#[tokio::test]
async fn folders_that_cannot_be_used_are_named() {
    let scratch = Scratch::new();
    let file = scratch.0.join("file");
    fs::write(&file, "").unwrap();
    let error = FileStore::open(&file).await.unwrap_err();
    assert!(matches!(error.kind(), StoreErrorKind::Setup { .. }), "{error}");
    assert_eq!(error.place(), file.to_str());
    let missing = scratch.0.join("a/b");
    let error = FileStore::open(&missing).await.unwrap_err();
    assert!(error.is_retryable() && error.place() == missing.to_str(), "{error}");

    // One that vanishes is not an empty one.
    let root = scratch.0.join("root");
    let store = FileStore::open(&root).await.unwrap();
    store.put(put(None, "{}")).await.unwrap();
    settle(&store).await;
    let moved = scratch.0.join("moved");
    fs::rename(&root, &moved).unwrap();
    for error in [
        store.latest(&key()).await.unwrap_err(),
        store.put(put(Some(1), "{}")).await.unwrap_err(),
        store.put(put(None, "{}")).await.unwrap_err(),
        store.list(Query::first(1)).await.unwrap_err(),
        store.history(&key(), Page::newest(1)).await.unwrap_err(),
    ] {
        assert!(error.is_retryable(), "{error}");
        assert!(error.to_string().contains(root.to_str().unwrap()), "{error}");
    }
    assert!(!root.exists());
    fs::rename(&moved, &root).unwrap();
    store.put(put(Some(1), "{}")).await.unwrap();
    settle(&store).await;
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_else_may_read_what_is_stored() {
    use std::os::unix::fs::PermissionsExt as _;

    let scratch = Scratch::new();
    let root = scratch.0.join("root");
    let store = FileStore::open(&root).await.unwrap();
    let id = WorkflowId::new("7").unwrap();
    store.put(Put::new(id.clone(), None, *b"{}")).await.unwrap();
    drop(store.writer(&CheckpointKey::new(id.clone())).lock_owned().await);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut seen = 0;
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                assert_eq!(mode(&entry.path()), 0o600, "{}", entry.path().display());
                seen += 1;
            }
        }
    }
    assert_eq!(seen, 2);
    assert!(store.seed_file(&id).unwrap().exists());
}
