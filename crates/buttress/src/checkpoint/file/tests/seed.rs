//! What Python has written is taken up or kept, whatever it is.

use std::time::Duration;

use super::*;

fn python(text: &str) -> String {
    python_at(text, "2100-01-02T03:04:05.678901")
}

fn python_at(state: &str, timestamp: &str) -> String {
    format!(
        r#"{{"workflow_id": "Trade 7", "timestamp": "{timestamp}", "phase": "p", "state": {state}}}"#
    )
}

/// Makes a file one that was written a while ago.
fn age(path: &Path, age: Duration) {
    let changed = SystemTime::now() - age;
    fs::File::options().append(true).open(path).unwrap().set_modified(changed).unwrap();
}

async fn open(root: &Path) -> FileStore {
    FileStore::open(root).await.unwrap()
}

async fn head(store: &FileStore) -> (u64, String) {
    let head = store.latest(&key()).await.unwrap().unwrap();
    (head.sequence, text(&head).to_owned())
}

#[tokio::test]
async fn what_nobody_can_read_is_kept_aside_and_never_written_over() {
    let scratch = Scratch::new();
    let store = FileStore::open(&scratch.0).max_state(100).await.unwrap();
    let path = store.seed_file(&key().workflow_id).unwrap();
    let mut parent = Some(store.put(put(None, "{}")).await.unwrap());
    settle(&store).await;
    let large = python(&format!("{:?}", "x".repeat(100)));
    for unreadable in [python("NaN"), python("[1, 2"), large, "{".to_owned()] {
        fs::write(&path, &unreadable).unwrap();
        // Somebody may be writing it.
        assert_eq!(head(&store).await.0, parent.unwrap());
        parent = Some(store.put(put(parent, "{}")).await.unwrap());
        settle(&store).await;
        assert_eq!(fs::read_to_string(&path).unwrap(), unreadable);
        // Nobody is.
        age(&path, Duration::from_secs(61));
        parent = Some(store.put(put(parent, "{}")).await.unwrap());
        settle(&store).await;
        let aside = format!("{}.unreadable-{}", path.display(), parent.unwrap());
        assert_eq!(fs::read_to_string(aside).unwrap(), unreadable);
        assert!(fs::read_to_string(&path).unwrap().contains("\"sequence\""));
    }
    store.delete(&key().workflow_id, None).await.unwrap();
    let left = fs::read_dir(&scratch.0).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.filter(|name| name.to_str().unwrap().contains("Trade")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Another zone, or the hour that comes twice: its own time seems old, its file is new.
#[tokio::test]
async fn what_seems_old_by_its_own_time_is_newer_by_its_file() {
    let scratch = Scratch::new();
    let store = open(&scratch.0).await;
    let path = store.seed_file(&key().workflow_id).unwrap();
    let first = store.put(put(None, "{}").timestamp(SystemTime::now())).await.unwrap();
    settle(&store).await;
    let python = python_at("{\"by\": 1}", "2020-01-02T03:04:05");
    fs::write(&path, &python).unwrap();
    age(&path, Duration::from_secs(3600));
    assert_eq!(head(&store).await.0, first, "older by both");
    fs::write(&path, &python).unwrap();
    fs::File::options()
        .append(true)
        .open(&path)
        .unwrap()
        .set_modified(SystemTime::now() + Duration::from_secs(1))
        .unwrap();
    assert_eq!(head(&store).await, (first + 1, "{\"by\": 1}".to_owned()));
    assert_eq!(head(&open(&scratch.0).await).await.0, first + 1, "imported once");
}

/// A clock that is ahead and is set right, or a zone: what is in the file was written later.
#[tokio::test]
async fn what_python_saves_behind_an_import_is_newer_whatever_its_clock_says() {
    let scratch = Scratch::new();
    let store = open(&scratch.0).await;
    let path = store.seed_file(&key().workflow_id).unwrap();
    fs::write(&path, python("1")).unwrap();
    assert_eq!(head(&store).await, (1, "1".to_owned()));
    fs::write(&path, python_at("\"later\"", "2020-01-02T03:04:05")).unwrap();
    for store in [store, open(&scratch.0).await] {
        assert_eq!(head(&store).await, (2, "\"later\"".to_owned()));
    }
}

/// Saves of Python's between our rename and the end of our put.
#[tokio::test]
async fn what_python_writes_right_behind_a_put_is_taken_up() {
    let scratch = Scratch::new();
    let path = scratch.0.join("Trade 7_latest.json");
    let at = path.clone();
    let disk = Arc::new(Meddling::default());
    let meddle = move || fs::write(at, python("{\"by\": 2}")).unwrap();
    *disk.behind_replace.lock().unwrap() = Some(Box::new(meddle));
    let store = FileStore::open(&scratch.0).open_on(disk).await.unwrap();
    let first = store.put(put(None, "{}")).await.unwrap();
    settle(&store).await;
    assert_eq!(head(&store).await, (first + 1, "{\"by\": 2}".to_owned()));
}

#[tokio::test]
async fn a_reader_is_answered_where_nothing_can_be_taken_up_and_a_writer_is_not() {
    let scratch = Scratch::new();
    let disk = Faulty::new(i64::MAX, io::ErrorKind::StorageFull, false, Some(0));
    let store = open_on(&scratch.0, &disk).await;
    let path = store.seed_file(&key().workflow_id).unwrap();
    let first = store.put(put(None, "{}")).await.unwrap();
    settle(&store).await;
    fs::write(&path, python("1")).unwrap();
    let next_write_fails = || disk.left.store(0, Ordering::Relaxed);
    next_write_fails();
    assert_eq!(head(&store).await, (first, "{}".to_owned()));
    next_write_fails();
    assert_eq!(store.history(&key(), Page::newest(9)).await.unwrap().len(), 1);
    next_write_fails();
    assert_eq!(store.list(Query::first(9)).await.unwrap().len(), 1);
    next_write_fails();
    let error = store.put(put(Some(first), "{}")).await.unwrap_err();
    assert_eq!(*error.kind(), StoreErrorKind::Unavailable, "{error:?}");
    disk.left.store(i64::MAX, Ordering::Relaxed);
    assert_eq!(head(&store).await, (first + 1, "1".to_owned()));

    // A file that is none.
    let folder = store.seed_file(&WorkflowId::new("odd").unwrap()).unwrap();
    fs::create_dir(&folder).unwrap();
    let odd = CheckpointKey::new(WorkflowId::new("odd").unwrap());
    assert_eq!(store.latest(&odd).await.unwrap(), None);
    assert_eq!(store.list(Query::first(9)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_list_reads_only_the_seeds_files_that_were_written_since() {
    let scratch = Scratch::new();
    let store = open(&scratch.0).await;
    let write = |id: &str, state: &str, changed: SystemTime| {
        let path = scratch.0.join(format!("{id}_latest.json"));
        let text = python_at(state, "2020-01-02T03:04:05").replace("Trade 7", id);
        fs::write(&path, text).unwrap();
        fs::File::options().append(true).open(path).unwrap().set_modified(changed).unwrap();
    };
    let states = async || {
        let heads = store.list(Query::first(9)).await.unwrap();
        let states = heads.iter().map(|head| (head.key.workflow_id.to_string(), text(head)));
        states.map(|(id, state)| (id, state.to_owned())).collect::<HashMap<_, _>>()
    };
    let expected = |a: &str, b: &str| {
        HashMap::from([("a".to_owned(), a.to_owned()), ("b".to_owned(), b.to_owned())])
    };
    let changed = SystemTime::now();
    write("a", "1", changed);
    write("b", "1", changed);
    assert_eq!(states().await, expected("1", "1"));
    // Both have another text now, and one of them seems to be what it was.
    write("a", "2", changed);
    write("b", "2", changed + Duration::from_secs(1));
    assert_eq!(states().await, expected("1", "2"));
}

/// However many workflows there are, more than there are locks too.
#[tokio::test]
async fn a_list_of_many_workflows_reads_no_file_twice() {
    let scratch = Scratch::new();
    let store = open(&scratch.0).await;
    let changed = SystemTime::now();
    let write = |n: usize, text: &str| {
        let path = scratch.0.join(format!("{n}_latest.json"));
        fs::write(&path, format!("{text:200}")).unwrap();
        fs::File::options().append(true).open(path).unwrap().set_modified(changed).unwrap();
    };
    let ours = python("1").replace('}', ", \"sequence\": 1}");
    for n in 0..LOCKS + 2 {
        write(n, &ours);
    }
    assert_eq!(store.list(Query::first(9)).await.unwrap(), []);
    // It seems to be what it was: whoever reads it again takes it up.
    for n in 0..LOCKS + 2 {
        write(n, &python("2").replace("Trade 7", &n.to_string()));
    }
    assert_eq!(store.list(Query::first(9)).await.unwrap(), []);
    let other = open(&scratch.0).await;
    assert!(other.latest(&WorkflowId::new("7").unwrap().into()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_warning_shows_no_value() {
    let wrong = br#"{"workflow_id": "Trade 7", "timestamp": {"secret": 1}, "phase": "p"}"#;
    let Err(format::Unreadable::Corrupt(what)) = format::decode_foreign(wrong, &key()) else {
        panic!("it is read");
    };
    assert!(what.ends_with("at line 1, column 40") && !what.contains("secret"), "{what}");
}
