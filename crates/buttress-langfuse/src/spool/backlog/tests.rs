use std::fs;

use bytes::Bytes;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{
    Langfuse, Level,
    encode::Encoded,
    spool::{self, Class, Durability, Peer, Spool, Written},
};

fn spool(folder: &TempDir) -> Spool {
    let peer =
        Peer { base_url: "https://lf.example".to_owned(), public_key: Some("pk-lf-1".to_owned()) };
    Spool::new(folder.path(), peer, 1 << 20, Durability::Process)
}

/// A span that began at so many seconds, and took one.
fn span(id: u64, ended: bool) -> Encoded {
    Encoded::new(|into| {
        into.bytes(1, &[1; 16]);
        into.bytes(2, &id.to_be_bytes());
        into.text(5, &id.to_string());
        into.fixed64(7, id * 1_000_000_000);
        if ended {
            into.fixed64(8, (id + 1) * 1_000_000_000);
        }
        into.metadata("attempt", &crate::value::Sent::integer(2));
    })
}

fn append(
    spool: &Spool,
    starts: &[Encoded],
    waiting: spool::Waiting,
    class: Class,
) -> spool::Waiting {
    match spool.append(starts, waiting, class, true) {
        Written::Kept(waiting) => waiting,
        other => panic!("{other:?}"),
    }
}

fn keep(spool: &Spool, id: u64, class: Class) -> spool::Waiting {
    append(spool, &[], spool::Waiting::span(span(id, true).0), class)
}

fn score(timestamp: &str) -> spool::Waiting {
    spool::Waiting::score(Bytes::from(json!({ "timestamp": timestamp }).to_string()))
}

fn at(seconds: u64) -> Option<SystemTime> {
    Some(time(seconds * 1_000_000_000))
}

fn names(backlog: &Backlog) -> Vec<String> {
    backlog.observations().unwrap().into_iter().map(|one| one.name).collect()
}

fn segment(folder: &TempDir) -> PathBuf {
    let writer = &Backlog::read(folder.path()).unwrap().destinations[0].writers[0].folder.clone();
    let names = folder::names(writer).unwrap();
    writer.join(names.iter().find(|name| name.ends_with(".seg")).unwrap())
}

#[test]
fn what_waits_is_counted_by_class_while_its_process_lives_and_after_it() {
    let folder = TempDir::new().unwrap();
    let first = spool(&folder);
    let starts = [span(10, false), span(20, false)];
    append(&first, &starts, spool::Waiting::span(span(30, true).0), Class::Eventful);
    // One of the two ends.
    keep(&first, 20, Class::Uneventful);
    let delivered = keep(&first, 1, Class::Uneventful);
    keep(&first, 2, Class::Uneventful);
    append(&first, &[], score("1970-01-01T00:01:40.000Z"), Class::Eventful);
    first.settle(&[delivered]);
    for is_alive in [true, false] {
        let backlog = Backlog::read(folder.path()).unwrap();
        assert!(!backlog.is_empty());
        let [destination] = &backlog.destinations[..] else { panic!("{backlog:?}") };
        assert_eq!(destination.base_url.as_deref(), Some("https://lf.example"));
        assert_eq!(destination.public_key.as_deref(), Some("pk-lf-1"));
        let [writer] = &destination.writers[..] else { panic!("{destination:?}") };
        assert_eq!((writer.is_alive, writer.pid), (is_alive, Some(std::process::id())));
        let (eventful, uneventful) = (writer.eventful, writer.uneventful);
        assert_eq!((eventful.spans, eventful.scores, eventful.starts), (2, 1, 1));
        assert_eq!((uneventful.spans, uneventful.scores, uneventful.starts), (1, 0, 0));
        assert!(eventful.bytes > 300 && uneventful.bytes > 100, "{writer:?}");
        assert_eq!((writer.oldest, writer.newest), (at(3), at(100)));
        assert_eq!(destination.left().is_empty(), is_alive);
        assert_eq!(destination.waiting(), eventful.and(uneventful));
        assert_eq!(names(&backlog).len(), if is_alive { 3 } else { 4 });
        if !is_alive {
            let observations = backlog.observations().unwrap();
            let named: Vec<_> = observations.iter().map(|one| one.name.as_str()).collect();
            assert_eq!(named, ["2", "10", "20", "30"]);
            let open = &observations[1];
            assert_eq!((open.level, open.count("attempt")), (Level::Error, Some(2)));
            assert_eq!(open.status_message.as_deref(), Some("process ended"));
            assert!(open.end > at(1_000_000_000), "{:?}", open.end);
            assert_eq!(observations[0].end, at(3));
        }
        if is_alive {
            // As it is where the process ends.
            first.inner().journals.clear();
        }
    }
}

#[test]
fn looking_changes_nothing_and_takes_nothing() {
    let folder = TempDir::new().unwrap();
    keep(&spool(&folder), 1, Class::Eventful);
    let before = fs::read(segment(&folder)).unwrap();
    for _ in 0..3 {
        assert_eq!(names(&Backlog::read(folder.path()).unwrap()), ["1"]);
    }
    assert_eq!(fs::read(segment(&folder)).unwrap(), before);
    let next = spool(&folder);
    assert_eq!((next.take_over(), next.to_recover()), (1, 1));
    // Who delivers has it now.
    let backlog = Backlog::read(folder.path()).unwrap();
    assert!(backlog.destinations[0].writers[0].is_alive);
    next.settle(&next.read(1 << 20));
    let backlog = Backlog::read(folder.path()).unwrap();
    assert!(backlog.is_empty() && backlog.destinations.len() == 1, "{backlog:?}");
}

#[test]
fn damage_is_counted_but_not_what_is_just_being_written() {
    let folder = TempDir::new().unwrap();
    let first = spool(&folder);
    for id in 1..=4 {
        keep(&first, id, Class::Eventful);
    }
    let path = segment(&folder);
    let mut bytes = fs::read(&path).unwrap();
    let second = bytes.len() * 3 / 8;
    bytes[second] ^= 1;
    bytes.truncate(bytes.len() - 3);
    fs::write(&path, bytes).unwrap();
    let damaged = || {
        let backlog = Backlog::read(folder.path()).unwrap();
        (backlog.destinations[0].damaged(), names(&backlog))
    };
    let whole = ["1", "3"].map(str::to_owned).to_vec();
    assert_eq!(damaged(), (1, whole.clone()));
    drop(first);
    assert_eq!(damaged(), (2, whole));
    // Nothing at all can be read, and the files say when that was.
    fs::write(&path, [7; 100]).unwrap();
    let writer = Backlog::read(folder.path()).unwrap().destinations[0].writers[0].clone();
    assert_eq!((writer.damaged, writer.waiting().is_empty()), (1, true));
    assert!(writer.oldest.is_some() && writer.oldest == writer.newest, "{writer:?}");
    assert!(!Backlog::read(folder.path()).unwrap().is_empty());
}

#[test]
fn what_was_refused_is_told_with_the_words() {
    let folder = TempDir::new().unwrap();
    let spool = spool(&folder);
    keep(&spool, 1, Class::Eventful);
    spool.set_aside(&span(7, true).0, "not a \"span\"");
    let destination = Backlog::read(folder.path()).unwrap().destinations[0].clone();
    let [refused] = &destination.refused[..] else { panic!("{destination:?}") };
    assert_eq!((refused.words.as_str(), refused.name.as_deref()), ("not a \"span\"", Some("7")));
    assert_eq!(refused.span_id.as_deref(), Some("0000000000000007"));
    assert!(refused.at > at(1_000_000_000), "{:?}", refused.at);
    assert!(!format!("{destination:?}").contains("not a"));
    fs::write(&refused.file, "{").unwrap();
    let destination = Backlog::read(folder.path()).unwrap().destinations[0].clone();
    assert_eq!(destination.refused[0].words, "");
    assert!(destination.refused[0].at > at(1_000_000_000));
}

#[test]
fn a_destination_is_found_by_its_settings() {
    let folder = TempDir::new().unwrap();
    keep(&spool(&folder), 1, Class::Eventful);
    let backlog = Backlog::read(folder.path()).unwrap();
    let builder = |key| Langfuse::builder().base_url("https://lf.example/").public_key(key);
    assert_eq!(backlog.destination_of(&builder("pk-lf-1")), Some(&backlog.destinations[0]));
    assert_eq!(backlog.destination_of(&builder("pk-lf-2")), None);
}

#[test]
fn a_folder_that_is_missing_empty_or_none_is_told_apart() {
    let folder = TempDir::new().unwrap();
    let missing = Backlog::read(folder.path().join("gone")).unwrap_err();
    assert!(missing.is_missing() && missing.path().ends_with("gone"), "{missing:?}");
    assert!(missing.to_string().starts_with("there is no spool at "), "{missing}");
    assert!(Backlog::read(folder.path()).unwrap().destinations.is_empty());
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Backlog::read(&file).unwrap_err();
    assert!(!error.is_missing() && error.path() == file, "{error:?}");
    assert_eq!(error.to_string(), format!("{} cannot be read", file.display()));
    assert!(std::error::Error::source(&error).is_some());
    // What is of others, or half made, is passed over.
    for name in ["others", ".hidden"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    assert!(Backlog::read(folder.path()).unwrap().destinations.is_empty());
    // A file that cannot be read is named.
    let spool = spool(&folder);
    keep(&spool, 1, Class::Eventful);
    let path = segment(&folder);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(Backlog::read(folder.path()).unwrap_err().path(), path);
}
