//! `SqliteStore` on files that are damaged, gone, full or somebody else's.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use buttress::{
    CheckpointKey, CheckpointStore, StoreError, StoreErrorKind, WorkflowId,
    checkpoint::{Durable, Page, Put, PutWrites, Query, TaskWrite, WriteKind},
};
use buttress_stores::{SqliteStore, sqlite::Synchronous};
use tempfile::TempDir;

const CHAINS: u64 = 3;
const PUTS: u64 = 4;

fn key(number: u64) -> CheckpointKey {
    WorkflowId::new(format!("workflow-{number}")).unwrap().into()
}

fn state(chain: u64, number: u64) -> Vec<u8> {
    format!("state {number} of {chain} ")
        .into_bytes()
        .repeat(40 * usize::try_from(chain + 1).unwrap())
}

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    (folder, path)
}

/// Makes a file with a few chains, all of it in the file itself.
async fn filled(path: &Path) -> Vec<u8> {
    let store = SqliteStore::open(path).await.unwrap();
    for chain in 0..CHAINS {
        let mut parent = None;
        for number in 1..=PUTS {
            let put = Put::new(key(chain), parent, state(chain, number)).phase(number.to_string());
            let sequence = store.put(put).await.unwrap();
            let write = TaskWrite::new("task", WriteKind::Result, 0, state(chain, number));
            store.put_writes(PutWrites::new(key(chain), sequence, vec![write])).await.unwrap();
            parent = Some(sequence);
        }
    }
    closed(store).await;
    fs::read(path).unwrap()
}

/// Waits until a store's thread has copied the log into the file and ended, or cannot.
async fn closed(store: SqliteStore) {
    let log = format!("{}-wal", store.path().display());
    drop(store);
    for _ in 0..1000 {
        if !fs::exists(&log).unwrap() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

/// What a damaged file was seen to answer.
#[derive(Debug, Default)]
struct Seen {
    whole: u32,
    older: u32,
    refused: u32,
}

/// Opens a damaged file and expects of each chain its state, an older one, or `Corrupt`.
async fn look(path: &Path, seen: &mut Seen, damage: &str) {
    let store = match SqliteStore::open(path).await {
        Ok(store) => store,
        Err(error) => {
            typed(&error, path, damage);
            seen.refused += 1;
            return;
        }
    };
    for chain in 0..CHAINS {
        match store.latest(&key(chain)).await {
            Ok(Some(found)) => {
                let number: u64 = found.phase.parse().unwrap_or(0);
                assert!(found.state[..] == state(chain, number)[..], "{damage}: a wrong state");
                assert_eq!(found.sequence, number, "{damage}");
                assert!(found.writes.len() <= 1, "{damage}");
                *(if number == PUTS { &mut seen.whole } else { &mut seen.older }) += 1;
            }
            Ok(None) => panic!("{damage}: chain {chain} is said to be empty"),
            Err(error) => {
                typed(&error, path, damage);
                seen.refused += 1;
            }
        }
        for found in store.history(&key(chain), Page::newest(9)).await.unwrap_or_default() {
            let number: u64 = found.phase.parse().unwrap();
            assert!(found.state[..] == state(chain, number)[..], "{damage}: a wrong old state");
        }
        match store.get(&key(chain), 2).await {
            Ok(Some(found)) => assert!(found.state[..] == state(chain, 2)[..], "{damage}"),
            Ok(None) => panic!("{damage}: the second of chain {chain} is said to be pruned"),
            Err(error) => typed(&error, path, damage),
        }
    }
    // Whatever comes of it, it must not be a panic or a hang.
    drop(store.list(Query::first(10)).await);
    drop(store.put(Put::new(key(0), Some(PUTS), state(0, PUTS + 1))).await);
}

fn typed(error: &StoreError, path: &Path, damage: &str) {
    let name = path.display().to_string();
    assert!(error.to_string().contains(&name), "{damage}: {error}");
    let kind = error.kind();
    let fits = matches!(
        kind,
        StoreErrorKind::Corrupt { .. }
            | StoreErrorKind::Setup { .. }
            | StoreErrorKind::TooNew { .. }
    );
    assert!(fits, "{damage}: {error:?}");
}

#[tokio::test]
async fn a_flipped_bit_is_never_a_wrong_state() {
    let (_folder, path) = folder();
    let whole = filled(&path).await;
    let flips = if std::env::var("BUTTRESS_ROUNDS").is_ok_and(|rounds| rounds == "full") {
        5000
    } else {
        600
    };
    let (mut seen, mut random) = (Seen::default(), fastrand::Rng::with_seed(49));
    for flip in 0..flips {
        let mut damaged = whole.clone();
        // The first page tells what all others are: half of the flips are there.
        let end = if flip % 2 == 0 { 4096 } else { whole.len() };
        let (at, bit) = (random.usize(..end), random.u8(..8));
        damaged[at] ^= 1 << bit;
        let path = path.with_extension(format!("{flip}.db"));
        fs::write(&path, damaged).unwrap();
        look(&path, &mut seen, &format!("bit {bit} of byte {at}")).await;
    }
    println!("{flips} flipped bits: {seen:?}");
    assert!(seen.whole > 0 && seen.refused > 0 && seen.older > 0, "{seen:?}");
}

#[tokio::test]
async fn a_file_that_is_cut_is_never_a_wrong_state() {
    let (_folder, path) = folder();
    let whole = filled(&path).await;
    let mut seen = Seen::default();
    for cut in (1..whole.len()).step_by(509) {
        let path = path.with_extension(format!("{cut}.db"));
        fs::write(&path, &whole[..cut]).unwrap();
        look(&path, &mut seen, &format!("cut at byte {cut} of {}", whole.len())).await;
    }
    println!("{} bytes, cut every 509: {seen:?}", whole.len());
    assert!(seen.refused > 0, "{seen:?}");
}

#[tokio::test]
async fn a_damaged_head_answers_the_one_before_with_a_warning() {
    let (_folder, path) = folder();
    let mut damaged = filled(&path).await;
    let newest = state(1, PUTS);
    // The last of these bytes are the write's; the first the record's.
    let places: Vec<usize> =
        (0..damaged.len() - 300).filter(|at| damaged[*at..].starts_with(&newest[..300])).collect();
    for at in &places {
        damaged[at + 100] ^= 1;
    }
    fs::write(&path, damaged).unwrap();
    let warnings = support::Warnings::default();
    let _guard = warnings.listen();
    let store = SqliteStore::open(&path).await.unwrap();
    let found = store.latest(&key(1)).await.unwrap().unwrap();
    assert_eq!((found.sequence, &found.state[..]), (PUTS - 1, &state(1, PUTS - 1)[..]));
    let said = warnings.said();
    assert_eq!(said.len(), 1, "{said:?}");
    for part in ["WARN buttress::log", "workflow-1", "checkpoint 4", "store.db"] {
        assert!(said[0].contains(part), "{said:?}");
    }
    let error = store.get(&key(1), PUTS).await.unwrap_err();
    typed(&error, &path, "get of a damaged head");
    assert_eq!(error.sequence(), Some(PUTS));
    assert_eq!(store.history(&key(1), Page::newest(9)).await.unwrap().len(), 3);
    // The chain goes on behind its head, damaged or not.
    store.put(Put::new(key(1), Some(PUTS), state(1, PUTS + 1))).await.unwrap();
}

#[tokio::test]
async fn behind_a_damaged_head_the_chain_goes_on() {
    let (_folder, path) = folder();
    drop(filled(&path).await);
    let sqlite = rusqlite::Connection::open(&path).unwrap();
    let damage = "UPDATE records SET state = x'00' WHERE workflow = 'workflow-1' AND sequence = 4";
    sqlite.execute(damage, []).unwrap();
    let store = SqliteStore::open(&path).await.unwrap();
    let head = store.latest(&key(1)).await.unwrap().unwrap().sequence;
    assert_eq!(head, PUTS - 1);
    let write = TaskWrite::new("late", WriteKind::Result, 0, *b"late");
    store.put_writes(PutWrites::new(key(1), head, vec![write])).await.unwrap();
    let older = Put::new(key(1), Some(head - 1), state(1, 9));
    assert!(store.put(older).await.unwrap_err().is_conflict());
    let put = Put::new(key(1), Some(head), state(1, PUTS + 1));
    let next = store.put(put.clone()).await.unwrap();
    assert_eq!(next, PUTS + 1);
    assert_eq!(store.put(put).await.unwrap(), next, "the repeat");
    assert_eq!(store.latest(&key(1)).await.unwrap().unwrap().sequence, next);

    // Where none can be read nobody writes over it.
    sqlite.execute("UPDATE records SET state = x'00' WHERE workflow = 'workflow-2'", []).unwrap();
    for parent in [None, Some(PUTS - 1)] {
        let error = store.put(Put::new(key(2), parent, state(2, 9))).await.unwrap_err();
        assert!(error.is_conflict(), "{error:?}");
    }

    // Nor where the row of the chain, which has its tokens, is missing.
    sqlite.execute("DELETE FROM chains WHERE workflow = 'workflow-0'", []).unwrap();
    let put = Put::new(key(0), Some(PUTS), state(0, 9));
    typed(&store.put(put).await.unwrap_err(), &path, "a put without the row of its chain");
    let lease = store.acquire(&key(0), "worker", std::time::Duration::from_secs(9)).await;
    typed(&lease.unwrap_err(), &path, "a lease without the row of its chain");
    store.delete(&key(0).workflow_id, None).await.unwrap();
    assert_eq!(store.latest(&key(0)).await.unwrap(), None);
}

#[tokio::test]
async fn a_newer_file_is_refused_and_left_as_it_is() {
    let (_folder, path) = folder();
    drop(filled(&path).await);
    let sqlite = rusqlite::Connection::open(&path).unwrap();
    sqlite.pragma_update(None, "user_version", 2).unwrap();
    drop(sqlite);
    let before = fs::read(&path).unwrap();
    let error = SqliteStore::open(&path).await.unwrap_err();
    let StoreErrorKind::TooNew { found, supported, .. } = *error.kind() else { panic!("{error}") };
    assert_eq!((found, supported), (2, 1));
    typed(&error, &path, "newer");
    assert!(!error.is_retryable());
    assert!(fs::read(&path).unwrap() == before, "the file has changed");
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "files beside it");
}

#[tokio::test]
async fn a_file_of_another_program_is_refused_and_left_as_it_is() {
    let (folder, path) = folder();
    let sqlite = rusqlite::Connection::open(&path).unwrap();
    sqlite.execute_batch("CREATE TABLE records (x); INSERT INTO records VALUES (1)").unwrap();
    drop(sqlite);
    let text = folder.path().join("text.db");
    fs::write(&text, "no SQLite file, and longer than the 100 bytes of a header".repeat(9))
        .unwrap();
    let short = folder.path().join("short.db");
    fs::write(&short, "SQLite format 3\0").unwrap();
    for (path, kind) in [(&path, "Setup"), (&text, "Corrupt"), (&short, "Corrupt")] {
        let before = fs::read(path).unwrap();
        let error = SqliteStore::open(path).await.unwrap_err();
        typed(&error, path, "another program's");
        assert!(format!("{:?}", error.kind()).starts_with(kind), "{error:?}");
        assert!(fs::read(path).unwrap() == before, "{error:?}: the file has changed");
    }
}

#[tokio::test]
async fn what_cannot_be_used_is_setup_with_the_path() {
    let (folder, path) = folder();
    fs::create_dir(&path).unwrap();
    let below_a_file = folder.path().join("file").join("store.db");
    fs::write(folder.path().join("file"), "").unwrap();
    for path in [&path, &below_a_file, &PathBuf::from("/proc/store.db")] {
        let error = SqliteStore::open(path).await.unwrap_err();
        let setup = matches!(error.kind(), StoreErrorKind::Setup { .. });
        assert!(setup && error.to_string().contains(path.to_str().unwrap()), "{error:?}");
        assert!(!error.is_retryable(), "{error:?}");
    }
}

#[tokio::test]
async fn a_file_that_is_removed_or_replaced_acknowledges_nothing() {
    for replaced in [false, true] {
        let (_folder, path) = folder();
        let store = SqliteStore::open(&path).await.unwrap();
        let first = store.put(Put::new(key(0), None, state(0, 1))).await.unwrap();
        fs::remove_file(&path).unwrap();
        if replaced {
            drop(SqliteStore::open(&path).await.unwrap());
        }
        let error = store.put(Put::new(key(0), Some(first), state(0, 2))).await.unwrap_err();
        typed(&error, &path, "a put");
        let error = store.latest(&key(0)).await.unwrap_err();
        typed(&error, &path, "a read");
    }
    let (folder, path) = folder();
    let store = SqliteStore::open(&path).await.unwrap();
    folder.close().unwrap();
    let error = store.put(Put::new(key(0), None, state(0, 2))).await.unwrap_err();
    typed(&error, &path, "a put to a folder that is gone");
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_for_nobody_else() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, _) = folder();
    let path = folder.path().join("new/folder/store.db");
    let store = SqliteStore::open(&path).await.unwrap();
    store.put(Put::new(key(0), None, state(0, 1))).await.unwrap();
    let rights = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(rights(&folder.path().join("new")), 0o700);
    assert_eq!(rights(path.parent().unwrap()), 0o700);
    for entry in fs::read_dir(path.parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(rights(&path), 0o600, "{}", path.display());
    }
}

/// Mounts a small disk, which only root may.
fn small_disk(folder: &Path) -> Option<impl Drop> {
    struct Mounted(PathBuf);
    impl Drop for Mounted {
        fn drop(&mut self) {
            drop(Command::new("umount").arg("-l").arg(&self.0).status());
        }
    }
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=2m", "none"])
        .arg(folder)
        .output()
        .is_ok_and(|output| output.status.success());
    mounted.then(|| Mounted(folder.to_owned()))
}

#[tokio::test]
async fn a_full_disk_loses_nothing() {
    let (folder, path) = folder();
    let Some(_disk) = small_disk(folder.path()) else {
        println!("skipped: a small disk cannot be mounted here");
        return;
    };
    let other = folder.path().join("of somebody else");
    fs::write(&other, vec![0; 400_000]).unwrap();
    let store = SqliteStore::open(&path).keep_all().await.unwrap();
    let (mut parent, mut number, mut failed) = (None, 0, 0);
    while failed < 5 {
        number += 1;
        let put = Put::new(key(0), parent, vec![u8::try_from(number % 251).unwrap(); 100_000]);
        match store.put(put).await {
            Ok(sequence) => parent = Some(sequence),
            Err(error) => {
                assert_eq!(*error.kind(), StoreErrorKind::Unavailable, "{error:?}");
                assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
                assert_eq!(error.workflow_id(), Some(&key(0).workflow_id));
                failed += 1;
            }
        }
        assert!(number < 1000, "a disk of 2 MiB is never full");
    }
    assert!(parent.is_some());
    assert_eq!(store.latest(&key(0)).await.unwrap().map(|head| head.sequence), parent);
    // Pruning needs room too, for the log; where there is none it loses nothing.
    let pruned = store.prune(&key(0), std::num::NonZeroU32::MIN).await;
    println!("pruning on a full disk: {pruned:?}");
    assert_eq!(store.latest(&key(0)).await.unwrap().map(|head| head.sequence), parent);
    closed(store).await;
    let store = SqliteStore::open(&path).keep_all().await.unwrap();
    assert_eq!(store.latest(&key(0)).await.unwrap().map(|head| head.sequence), parent);
    fs::remove_file(other).unwrap();
    store.prune(&key(0), std::num::NonZeroU32::MIN).await.unwrap();
    store.put(Put::new(key(0), parent, state(0, 1))).await.unwrap();
}

/// Puts that are committed together fail together, and none of them is said to be stored.
#[tokio::test]
async fn a_full_disk_acknowledges_nothing_of_a_group_that_failed() {
    let (folder, path) = folder();
    let Some(_disk) = small_disk(folder.path()) else {
        println!("skipped: a small disk cannot be mounted here");
        return;
    };
    let store = SqliteStore::open(&path).keep_all().await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for chain in 0..16 {
        let store = store.clone();
        writers.spawn(async move {
            let mut parent = None;
            loop {
                match store.put(Put::new(key(chain), parent, vec![1; 20_000])).await {
                    Ok(sequence) => parent = Some(sequence),
                    Err(error) => return (chain, parent, error),
                }
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        let (chain, acknowledged, error) = done.unwrap();
        assert_eq!(*error.kind(), StoreErrorKind::Unavailable, "{error:?}");
        assert_eq!(error.workflow_id(), Some(&key(chain).workflow_id));
        let found = store.latest(&key(chain)).await.unwrap().map(|head| head.sequence);
        assert_eq!(found, acknowledged, "chain {chain}");
    }
}

#[tokio::test]
async fn the_log_does_not_grow_for_ever() {
    let (_folder, path) = folder();
    let store = SqliteStore::open(&path).keep(2).await.unwrap();
    let mut parent = None;
    for number in 0..200 {
        parent = Some(store.put(Put::new(key(0), parent, vec![number; 200_000])).await.unwrap());
    }
    let size = |path: &str| fs::metadata(path).unwrap().len();
    let (file, log) = (size(path.to_str().unwrap()), size(&format!("{}-wal", path.display())));
    println!("40 MB in 200 puts, 2 kept: file {file}, log {log} bytes");
    assert!(file < 2_000_000 && log < 10_000_000, "file {file}, log {log}");
}

#[tokio::test]
async fn durability_is_not_claimed_where_it_is_not_asked_for() {
    let (_folder, path) = folder();
    let full = SqliteStore::open(&path).await.unwrap();
    assert_eq!(full.capabilities().durable, Durable::Always);
    let normal = SqliteStore::open(&path).synchronous(Synchronous::Normal).await.unwrap();
    assert_eq!(normal.capabilities().durable, Durable::Configured);
    assert!(full.capabilities().shared);
}

/// A command line reads while a service writes, also in a transaction that takes long.
#[tokio::test]
async fn other_programs_read_beside_it() {
    let (_folder, path) = folder();
    let store = SqliteStore::open(&path).await.unwrap();
    let first = store.put(Put::new(key(0), None, state(0, 1)).phase("seen")).await.unwrap();
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let mut sqlite = rusqlite::Connection::open_with_flags(&path, flags).unwrap();
    let tx = sqlite.transaction().unwrap();
    let sql = "SELECT phase FROM records ORDER BY sequence DESC LIMIT 1";
    let phase: String = tx.query_row(sql, [], |row| row.get(0)).unwrap();
    store.put(Put::new(key(0), Some(first), state(0, 2)).phase("later")).await.unwrap();
    let again: String = tx.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!((&phase[..], &again[..]), ("seen", "seen"));
    drop(tx);
    let phase: String = sqlite.query_row(sql, [], |row| row.get(0)).unwrap();
    assert_eq!(phase, "later");
}

/// Somebody else's lock is waited for, and then is `Unavailable`.
#[tokio::test]
async fn a_lock_that_stays_is_unavailable() {
    let (_folder, path) = folder();
    let wait = std::time::Duration::from_millis(100);
    let store = SqliteStore::open(&path).busy_timeout(wait).await.unwrap();
    let sqlite = rusqlite::Connection::open(&path).unwrap();
    sqlite.execute_batch("BEGIN IMMEDIATE").unwrap();
    let put = Put::new(key(0), None, state(0, 1));
    let error = store.put(put.clone()).await.unwrap_err();
    assert_eq!(*error.kind(), StoreErrorKind::Unavailable, "{error:?}");
    assert!(store.latest(&key(0)).await.unwrap().is_none());
    sqlite.execute_batch("ROLLBACK").unwrap();
    store.put(put).await.unwrap();
}

mod support {
    //! Listens to warnings.
    use std::{
        fmt::{Debug, Write as _},
        sync::{Arc, Mutex},
    };

    use tracing::{
        Event, Metadata, Subscriber,
        field::{Field, Visit},
        span,
        subscriber::DefaultGuard,
    };

    #[derive(Debug, Clone, Default)]
    pub(super) struct Warnings(Arc<Mutex<Vec<String>>>);

    impl Warnings {
        pub(super) fn listen(&self) -> DefaultGuard {
            tracing::subscriber::set_default(self.clone())
        }

        pub(super) fn said(&self) -> Vec<String> {
            self.0.lock().unwrap().clone()
        }
    }

    struct Text(String);

    impl Visit for Text {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            write!(self.0, " {field}={value:?}").unwrap();
        }
    }

    impl Subscriber for Warnings {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &Event<'_>) {
            let mut text =
                Text(format!("{} {}", event.metadata().level(), event.metadata().target()));
            event.record(&mut text);
            self.0.lock().unwrap().push(text.0);
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }
}
