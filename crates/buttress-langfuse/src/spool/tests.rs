use std::{fs::OpenOptions, os::unix::fs::PermissionsExt as _, sync::Arc};

use tempfile::TempDir;

use super::*;
use crate::{level::Level, notice::captured};

const MOST: u64 = 1 << 20;

fn peer() -> Peer {
    Peer { base_url: "https://lf.example".to_owned(), public_key: Some("pk-lf-1".to_owned()) }
}

fn spool_of(folder: &TempDir, bytes: u64) -> Spool {
    Spool::new(folder.path(), peer(), bytes, Durability::Process)
}

fn spool(folder: &TempDir) -> Spool {
    spool_of(folder, MOST)
}

/// A span whose id is a number and whose name says it.
fn span(id: u64) -> Encoded {
    Encoded::new(|into| {
        into.bytes(1, &[1; 16]);
        into.bytes(2, &id.to_be_bytes());
        into.text(5, &id.to_string());
    })
}

fn append(spool: &Spool, id: u64, class: Class, has_room: bool) -> Written {
    spool.append(&[], Waiting::span(span(id).0), class, has_room)
}

fn keep(spool: &Spool, id: u64) -> Waiting {
    match append(spool, id, Class::Eventful, true) {
        Written::Kept(waiting) => waiting,
        other => panic!("{other:?}"),
    }
}

fn names(spans: &[Waiting]) -> Vec<String> {
    spans.iter().map(|span| Encoded(span.bytes.clone()).decode().unwrap().name).collect()
}

/// Reads all that waits on disk only, and settles it.
fn drain(spool: &Spool) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let part = spool.read(MOST);
        if part.is_empty() {
            return all;
        }
        all.extend(names(&part));
        spool.settle(&part);
    }
}

fn files(folder: &TempDir) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.path().to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn segments(folder: &TempDir) -> Vec<PathBuf> {
    files(folder)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "seg"))
        .collect()
}

#[test]
fn what_a_process_leaves_the_next_one_takes_over_once() {
    let folder = TempDir::new().unwrap();
    let first = spool(&folder);
    let settled = keep(&first, 1);
    keep(&first, 2);
    keep(&first, 3);
    first.settle(&[settled]);
    // While the first lives, nobody takes what is its own.
    let second = spool(&folder);
    assert_eq!(second.take_over(), 0);
    drop(first);
    assert_eq!(second.take_over(), 1);
    let left = second.read(MOST);
    assert_eq!(names(&left), ["2", "3"]);
    assert!(left.iter().all(Waiting::is_taken_over));
    // Whoever dies in the middle of it leaves the rest.
    second.settle(&left[..1]);
    drop(second);
    let third = spool(&folder);
    assert_eq!(third.take_over(), 1);
    assert_eq!(drain(&third), ["3"]);
    drop(third);
    assert_eq!(spool(&folder).take_over(), 0);
    assert!(segments(&folder).is_empty());
}

#[test]
fn another_langfuse_or_key_gets_nothing() {
    let folder = TempDir::new().unwrap();
    keep(&spool(&folder), 1);
    for (base_url, key) in [("https://other.example", "pk-lf-1"), ("https://lf.example", "pk-lf-2")]
    {
        let peer = Peer { base_url: base_url.to_owned(), public_key: Some(key.to_owned()) };
        let other = Spool::new(folder.path(), peer, MOST, Durability::Process);
        assert_eq!(other.take_over(), 0);
    }
    assert_eq!(spool(&folder).take_over(), 1);
}

#[test]
fn a_span_that_never_ended_is_delivered_by_the_next_process_with_the_end_of_its_own() {
    let folder = TempDir::new().unwrap();
    let first = spool(&folder);
    let starts = [span(1), span(2)];
    let Written::Kept(failed) =
        first.append(&starts, Waiting::span(span(3).0), Class::Eventful, true)
    else {
        panic!("it is kept")
    };
    // The second ends, though nothing went wrong in it.
    assert!(first.wants(&span(2).0, Class::Uneventful));
    assert!(!first.wants(&span(9).0, Class::Uneventful));
    let ended = append(&first, 2, Class::Uneventful, true);
    // What is read in the process itself has no starts in it.
    assert!(first.read(MOST).is_empty());
    first.settle(&[failed]);
    drop((first, ended));
    let second = spool(&folder);
    second.take_over();
    let left = second.read(MOST);
    assert_eq!(names(&left), ["1", "2"]);
    let open = Encoded(left[0].bytes.clone()).decode().unwrap();
    assert_eq!(open.status.as_ref().unwrap().message, "process ended");
    assert!(open.end_time_unix_nano > 0);
    let level = open.attributes.iter().find(|known| known.key == "langfuse.observation.level");
    let level = crate::value::as_text(level.unwrap().value.as_ref().unwrap()).map(str::to_owned);
    assert_eq!(level.as_deref(), Some(Level::Error.as_str()));
    // The other has come to its end.
    assert_eq!(Encoded(left[1].bytes.clone()).decode().unwrap().status, None);
    second.settle(&left);
    assert!(segments(&folder).is_empty());
}

#[test]
fn a_span_that_never_ended_ends_no_sooner_than_it_began_whatever_the_clock_did() {
    let folder = TempDir::new().unwrap();
    let first = spool(&folder);
    let tomorrow = crate::clock::nanos(SystemTime::now()) + 86_400_000_000_000;
    let start = Encoded::new(|into| {
        into.bytes(1, &[1; 16]);
        into.bytes(2, &1_u64.to_be_bytes());
        into.fixed64(7, tomorrow);
    });
    first.append(&[start], Waiting::span(span(2).0), Class::Eventful, true);
    drop(first);
    let second = spool(&folder);
    second.take_over();
    let open = Encoded(second.read(MOST)[0].bytes.clone()).decode().unwrap();
    assert_eq!(open.end_time_unix_nano, tomorrow);
}

#[test]
fn a_start_goes_with_the_span_that_it_is_of() {
    let folder = TempDir::new().unwrap();
    let spool = spool(&folder);
    let Written::Kept(failed) =
        spool.append(&[span(1)], Waiting::span(span(2).0), Class::Eventful, true)
    else {
        panic!("it is kept")
    };
    spool.settle(&[failed]);
    assert_eq!(segments(&folder).len(), 1);
    let Written::Kept(root) = append(&spool, 1, Class::Eventful, true) else { panic!("kept") };
    spool.settle(&[root]);
    assert!(segments(&folder).is_empty());
    assert!(!spool.wants(&span(1).0, Class::Uneventful));
}

#[test]
fn what_memory_has_no_room_for_waits_on_disk_and_keeps_its_order() {
    let folder = TempDir::new().unwrap();
    let spool = spool(&folder);
    let kept = keep(&spool, 1);
    for id in 2..=4 {
        assert!(matches!(append(&spool, id, Class::Eventful, false), Written::Stored));
    }
    // There is room again, but others come first.
    assert!(matches!(append(&spool, 5, Class::Eventful, true), Written::Stored));
    assert!(matches!(append(&spool, 6, Class::Uneventful, false), Written::Stored));
    assert!(spool.wants(&span(7).0, Class::Uneventful));
    assert_eq!(spool.unread_of_own(), 5);
    assert_eq!(drain(&spool), ["2", "3", "4", "5", "6"]);
    assert_eq!(spool.unread_of_own(), 0);
    assert!(!spool.wants(&span(7).0, Class::Uneventful));
    spool.settle(&[kept]);
    assert!(segments(&folder).is_empty());
    keep(&spool, 8);
}

#[test]
fn what_is_written_while_a_part_is_read_is_read_next() {
    let folder = TempDir::new().unwrap();
    let spool = spool(&folder);
    append(&spool, 1, Class::Eventful, false);
    let (at, reading) = spool.inner().to_read(MOST).unwrap();
    append(&spool, 2, Class::Eventful, false);
    assert_eq!(names(&spool.read_part(at, &reading)), ["1"]);
    assert_eq!(names(&spool.read(MOST)), ["2"]);
    assert!(spool.read(MOST).is_empty());
}

#[test]
fn what_is_read_in_small_parts_is_all_of_it() {
    let folder = TempDir::new().unwrap();
    let first = spool(&folder);
    for id in 1..=3 {
        let start = span(100 + id);
        first.append(&[start], Waiting::span(span(id).0), Class::Eventful, false);
    }
    // In the process itself, without the starts; and none is settled.
    assert_eq!((1..=3).map(|_| names(&first.read(1))).collect::<Vec<_>>(), [["1"], ["2"], ["3"]]);
    assert!(first.read(1).is_empty());
    drop(first);
    let second = spool(&folder);
    second.take_over();
    let mut all = Vec::new();
    for _ in 0..6 {
        let part = second.read(1);
        all.extend(names(&part));
        second.settle(&part);
    }
    assert_eq!(all, ["101", "1", "102", "2", "103", "3"]);
    assert!(segments(&folder).is_empty());
}

#[test]
fn uneventful_spans_go_first_and_then_the_oldest() {
    let folder = TempDir::new().unwrap();
    let spool = spool_of(&folder, 1 << 16);
    // As many as take most of the room by themselves.
    let most = 1024;
    for id in 0..most {
        append(&spool, id, Class::Eventful, false);
        append(&spool, id, Class::Uneventful, false);
    }
    let counts = spool.counts();
    assert_eq!(counts.dropped_eventful, 0);
    assert!(counts.dropped_uneventful > most / 2, "{counts:?}");
    let given_up = spool.take_given_up();
    assert_eq!(given_up, counts.dropped_uneventful);
    for id in most..3 * most {
        append(&spool, id, Class::Eventful, false);
    }
    let bytes: u64 = segments(&folder).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(bytes <= 1 << 16, "{bytes}");
    let counts = spool.counts();
    assert_eq!(counts.dropped_uneventful, most);
    let left = drain(&spool);
    assert_eq!(left.len() as u64 + counts.dropped_eventful, 3 * most);
    assert_eq!(left.last(), Some(&(3 * most - 1).to_string()));
    assert_eq!(left[0], counts.dropped_eventful.to_string());
    let all = counts.dropped_eventful + counts.dropped_uneventful;
    assert_eq!(given_up + spool.take_given_up(), all);
}

#[test]
fn damage_is_passed_over_and_counted() {
    let folder = TempDir::new().unwrap();
    let first = spool(&folder);
    for id in 1..=5 {
        keep(&first, id);
    }
    drop(first);
    let path = &segments(&folder)[0];
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes.truncate(bytes.len() - 3);
    fs::write(path, bytes).unwrap();
    let second = spool(&folder);
    assert_eq!(second.take_over(), 1);
    assert_eq!(drain(&second), ["1", "2", "4"]);
    assert_eq!(second.counts().damaged, 2);
    assert!(segments(&folder).is_empty());
}

#[test]
fn a_segment_in_which_nothing_can_be_read_goes_when_it_is_taken_over() {
    let folder = TempDir::new().unwrap();
    keep(&spool(&folder), 1);
    fs::write(&segments(&folder)[0], "no records").unwrap();
    let second = spool(&folder);
    assert_eq!((second.take_over(), second.counts().damaged), (0, 1));
    assert!(segments(&folder).is_empty());
}

#[test]
fn what_is_to_be_recovered_is_what_is_delivered() {
    let folder = TempDir::new().unwrap();
    let first = spool(&folder);
    // Two starts, of which one comes to its end.
    first.append(&[span(1), span(2)], Waiting::span(span(3).0), Class::Eventful, true);
    append(&first, 2, Class::Eventful, true);
    append(&first, 4, Class::Uneventful, true);
    first.append(&[], Waiting::score(Bytes::from_static(b"{}")), Class::Eventful, true);
    drop(first);
    let second = spool(&folder);
    assert_eq!(second.to_recover(), 0);
    second.take_over();
    assert_eq!(second.to_recover(), 5);
    keep(&second, 9);
    let mut left = 5;
    loop {
        let part = second.read(1);
        if part.is_empty() {
            break;
        }
        second.settle(&part);
        left -= part.len() as u64;
        assert_eq!(second.to_recover(), left);
    }
    assert_eq!(left, 0);
}

#[test]
fn a_spool_that_cannot_be_written_says_so_once_and_hands_the_span_back() {
    let folder = TempDir::new().unwrap();
    let taken = folder.path().join("taken");
    fs::write(&taken, "a file").unwrap();
    let spool = Spool::new(&taken, peer(), MOST, Durability::Process);
    for id in 0..3 {
        let Written::Failed(waiting) = append(&spool, id, Class::Eventful, true) else {
            panic!("it fails")
        };
        assert_eq!(waiting.bytes, span(id).0);
    }
    let said = captured::take();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("taken") && said[0].contains("spans wait in memory"), "{said:?}");
}

/// An fsync takes as long as the disk likes: a call that fails meanwhile does not wait for it.
#[test]
fn no_call_waits_while_the_disk_makes_sure_of_what_was_settled() {
    let folder = TempDir::new().unwrap();
    let spool = Arc::new(spool(&folder));
    let (one, _two) = (keep(&spool, 1), keep(&spool, 2));
    let writer = Arc::downgrade(&spool);
    folder::tests::on_sync(move || {
        let writer = writer.upgrade().unwrap();
        assert!(writer.inner.try_lock().is_ok(), "the spool is locked");
    });
    spool.settle(&[one]);
    assert_eq!(folder::tests::syncs(), 1);
    drop(spool);
    let second = self::spool(&folder);
    second.take_over();
    assert_eq!(drain(&second), ["2"]);
}

#[test]
fn a_segment_that_cannot_be_read_is_counted_and_stays_and_the_others_are_delivered() {
    let folder = TempDir::new().unwrap();
    let first = spool(&folder);
    (1..=2).for_each(|id| drop(keep(&first, id)));
    drop(first);
    let segment = segments(&folder).remove(0);
    let broken = segment.with_file_name("eventful-00000000000000000003.seg");
    fs::create_dir(&broken).unwrap();
    let second = spool(&folder);
    assert_eq!(second.take_over(), 1);
    assert_eq!(drain(&second), ["1", "2"]);
    assert_eq!(second.counts().damaged, 1);
    assert!(broken.exists());
    assert_eq!(captured::take().len(), 1);
}

#[test]
fn a_span_that_is_too_long_for_the_disk_costs_the_others_nothing() {
    let folder = TempDir::new().unwrap();
    let spool = spool_of(&folder, 1 << 30);
    let long = Bytes::from(vec![0; record::LONGEST + 1]);
    let written = spool.append(&[], Waiting::span(long), Class::Eventful, true);
    assert!(matches!(written, Written::Failed(_)));
    assert_eq!(names(&[keep(&spool, 1)]), ["1"]);
    let said = captured::take();
    assert!(said.len() == 1 && said[0].contains("67108865 bytes"), "{said:?}");
}

#[test]
fn a_span_beyond_the_quota_costs_nothing_that_is_there() {
    let folder = TempDir::new().unwrap();
    let spool = spool_of(&folder, 1 << 12);
    keep(&spool, 1);
    let long = Bytes::from(vec![0; 1 << 13]);
    let written = spool.append(&[], Waiting::span(long), Class::Uneventful, false);
    assert!(matches!(written, Written::Failed(_)), "{written:?}");
    assert_eq!(spool.counts().dropped_eventful, 0);
    drop(spool);
    let second = self::spool(&folder);
    second.take_over();
    assert_eq!(drain(&second), ["1"]);
}

/// As what cleans up temporary files does.
#[test]
fn a_folder_that_somebody_removes_is_made_again_for_what_comes() {
    let folder = TempDir::new().unwrap();
    let first = spool_of(&folder, 1 << 13);
    let early = keep(&first, 1);
    append(&first, 2, Class::Uneventful, false);
    fs::remove_dir_all(folder.path().join(peer().name())).unwrap();
    let mut id = 2;
    while segments(&folder).is_empty() {
        id += 1;
        keep(&first, id);
        assert!(id < 1_000);
    }
    // What was only there is counted, and what was in memory too settles nothing else.
    assert_eq!((first.counts().dropped_uneventful, first.take_given_up()), (1, 1));
    first.settle(&[early]);
    drop(first);
    let second = spool(&folder);
    second.take_over();
    assert_eq!(drain(&second), [id.to_string()]);
    assert_eq!(captured::take(), [""; 0]);
}

#[test]
fn what_went_well_never_takes_the_place_of_failures() {
    let folder = TempDir::new().unwrap();
    let spool = spool_of(&folder, 1 << 12);
    let mut id = 0;
    while spool.counts().dropped_eventful == 0 {
        id += 1;
        append(&spool, id, Class::Eventful, false);
    }
    let dropped = spool.counts().dropped_eventful;
    for more in 1..=1_000 {
        append(&spool, id + more, Class::Uneventful, false);
    }
    assert_eq!(spool.counts().dropped_eventful, dropped);
    let left = drain(&spool).iter().filter(|name| name.parse::<u64>().unwrap() <= id).count();
    assert_eq!(left as u64, id - dropped);
}

#[test]
fn what_is_refused_takes_an_eighth_of_the_bytes_more() {
    let folder = TempDir::new().unwrap();
    let spool = spool_of(&folder, 1 << 20);
    let large = |id: u64| {
        Encoded::new(|into| {
            into.bytes(2, &id.to_be_bytes());
            into.text(5, &"x".repeat(10_000));
        })
    };
    (0..30).for_each(|id| spool.set_aside(&large(id).0, "no"));
    let kept = files(&folder);
    let bytes: u64 = kept.iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(bytes <= 1 << 17, "{bytes}");
    assert!(kept.len() >= 11, "{}", kept.len());
    // The last one is there however long it is.
    let larger = Encoded::new(|into| into.text(5, &"x".repeat(1 << 18)));
    spool.set_aside(&larger.0, "no");
    assert_eq!(files(&folder).len(), 1);
}

#[test]
fn what_is_written_in_half_by_a_full_disk_hides_nothing() {
    let folder = TempDir::new().unwrap();
    let first = spool(&folder);
    keep(&first, 1);
    // As a write that came to its end in the middle, where the file cannot be cut either.
    let mut file = OpenOptions::new().append(true).open(&segments(&folder)[0]).unwrap();
    file.write_all(&span(2).0[..9]).unwrap();
    keep(&first, 3);
    drop(first);
    let second = spool(&folder);
    second.take_over();
    assert_eq!(drain(&second), ["1", "3"]);
    assert_eq!(second.counts().damaged, 1);
}

#[test]
fn only_their_owner_reads_the_files() {
    let folder = TempDir::new().unwrap();
    let spool = spool(&folder);
    keep(&spool, 1);
    let (one, _two) = (keep(&spool, 2), keep(&spool, 3));
    spool.settle(&[one]);
    spool.set_aside(&span(4).0, "no");
    for path in files(&folder) {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        assert_eq!(mode(path.parent().unwrap()), 0o700, "{}", path.display());
    }
}

#[test]
fn what_is_refused_is_kept_with_the_words_and_the_oldest_go() {
    let folder = TempDir::new().unwrap();
    let spool = spool_of(&folder, 16 * MOST);
    for id in 0..REFUSED as u64 + 2 {
        spool.set_aside(&span(id).0, "not a \"span\"");
    }
    let kept = files(&folder);
    assert_eq!(kept.len(), REFUSED);
    let last = fs::read_to_string(kept.last().unwrap()).unwrap();
    let last: serde_json::Value = serde_json::from_str(&last).unwrap();
    assert_eq!((&last["words"], &last["span"]["name"]), (&json!("not a \"span\""), &json!("1001")));
    let first: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(&kept[0]).unwrap()).unwrap();
    assert_eq!(first["span"]["name"], "2");
}

#[test]
fn the_default_is_where_the_system_keeps_state() {
    let on = |os: &str, set: &[(&str, &str)]| {
        let value = |name: &str| set.iter().find(|(known, _)| *known == name);
        peer::folder_on(os, |name| value(name).map(|(_, value)| value.into()))
    };
    let home = ("HOME", "/home/me");
    assert_eq!(on("linux", &[home]), Some("/home/me/.local/state/buttress/langfuse".into()));
    let xdg = ("XDG_STATE_HOME", "/state");
    assert_eq!(on("linux", &[home, xdg]), Some("/state/buttress/langfuse".into()));
    assert_eq!(on("linux", &[("XDG_STATE_HOME", "state")]), None);
    let mac = "/home/me/Library/Application Support/buttress/langfuse";
    assert_eq!(on("macos", &[home]), Some(mac.into()));
}
