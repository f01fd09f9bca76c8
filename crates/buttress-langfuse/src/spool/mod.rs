//! The spool: what is not delivered yet, on disk.
//!
//! A folder for each destination holds one folder for each process that writes ([`journal`]).
//! Whoever starts takes over those of processes that have ended. What is of a trace in which
//! something went wrong is written before the call returns; the rest only where memory has no room
//! for it, or delivery ends before it is sent.

#[cfg(feature = "client")]
pub mod backlog;
mod folder;
mod journal;
mod lock;
mod peer;
mod record;

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use serde_json::json;
use tokio::time::Instant;

use self::journal::{Appended, Journal, Place, Reading};
pub(crate) use self::{
    journal::Class,
    peer::{Peer, default_folder},
    record::Kind,
};
use crate::{
    clock,
    encode::{self, Encoded},
    notice::notice,
};

/// How large a segment becomes, where the whole spool has room for some.
const SEGMENT_BYTES: u64 = 1 << 20;
/// After how long a spool that could not be written is tried again.
const PAUSE: Duration = Duration::from_secs(5);
/// How many spans that were refused are kept.
const REFUSED: usize = 1_000;
/// Which part of the spool's bytes they take beside it.
const REFUSED_PART: u64 = 8;
const REFUSED_FOLDER: &str = "refused";

/// What outlives what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// Spans wait in memory: what is not delivered when the process ends is lost.
    Memory,
    /// What is of a trace in which something went wrong is written before the call returns, and
    /// outlives the process, however it ends.
    #[default]
    Process,
    /// It outlives a loss of power too: the call waits until the disk has it.
    Disk,
}

/// Where a span that waits for delivery is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Position {
    /// Which journal: 0 is this process's own.
    journal: usize,
    place: Place,
}

/// A span or a score that waits for delivery.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) kind: Kind,
    pub(crate) bytes: Bytes,
    /// Whether it is of a trace in which something went wrong, where that decides what is kept.
    pub(crate) is_eventful: bool,
    /// None where it is in memory only.
    pub(crate) position: Option<Position>,
}

impl Waiting {
    pub(crate) const fn span(bytes: Bytes) -> Self {
        Self { kind: Kind::Span, bytes, is_eventful: false, position: None }
    }

    pub(crate) const fn score(bytes: Bytes) -> Self {
        Self { kind: Kind::Score, bytes, is_eventful: false, position: None }
    }

    pub(crate) fn is_score(&self) -> bool {
        self.kind == Kind::Score
    }

    /// Returns whether it is of a process that has ended.
    pub(crate) fn is_taken_over(&self) -> bool {
        self.position.is_some_and(|position| position.journal > 0)
    }
}

/// What became of a span that was to be written.
#[derive(Debug)]
pub(crate) enum Written {
    /// It waits in memory, and where it is on disk.
    Kept(Waiting),
    /// It waits on disk only.
    Stored,
    /// The disk does not take it.
    Failed(Waiting),
}

/// Counts of what is or was on disk.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    /// Given up for want of room, of traces in which something went wrong.
    pub(crate) dropped_eventful: u64,
    /// Given up for want of room, of the others.
    pub(crate) dropped_uneventful: u64,
    /// Places that are damaged.
    pub(crate) damaged: u64,
}

/// What is not delivered yet, on disk.
pub(crate) struct Spool {
    folder: PathBuf,
    peer: Peer,
    bytes: u64,
    durability: Durability,
    /// Whether a span may be one to write that is not eventful itself.
    has_more: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The first is this process's own, the others were taken over; none where they are done.
    journals: Vec<Option<Journal>>,
    /// Where the starts of open spans are.
    starts: HashMap<[u8; 8], Place>,
    counts: Counts,
    /// What was given up since somebody asked.
    given_up: u64,
    /// The disk is not asked before.
    paused_until: Option<Instant>,
    has_warned: bool,
    has_told_of_length: bool,
}

// ===== impl Spool =====

impl Spool {
    /// Makes the spool of one peer in the folder of all, which is created at the first write.
    pub(crate) fn new(folder: &Path, peer: Peer, bytes: u64, durability: Durability) -> Self {
        let inner = Inner { journals: vec![None], ..Inner::default() };
        let folder = folder.join(peer.name());
        Self {
            folder,
            peer,
            bytes,
            durability,
            has_more: AtomicBool::new(false),
            inner: Mutex::new(inner),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn segment_bytes(&self) -> u64 {
        SEGMENT_BYTES.min(self.bytes / 8).max(1)
    }

    // ===== for who hands over =====

    /// Returns whether a span is to be written though memory has room for it.
    pub(crate) fn wants(&self, span: &[u8], class: Class) -> bool {
        if class == Class::Eventful || !self.has_more.load(Ordering::Relaxed) {
            return class == Class::Eventful;
        }
        let inner = self.inner();
        // What waits on disk goes first, so that spans stay in their order.
        let own = inner.journals[0].as_ref();
        inner.has_started(span) || own.is_some_and(|own| own.has_unread_of(class))
    }

    /// Notes whether the next span has to ask.
    fn note(&self, inner: &Inner) {
        let own = inner.journals[0].as_ref();
        let has_more =
            !inner.starts.is_empty() || own.is_some_and(|own| own.has_unread_of(Class::Uneventful));
        self.has_more.store(has_more, Ordering::Relaxed);
    }

    /// Writes a span, and before it the starts of the open spans above it.
    ///
    /// With `has_room` it waits in memory too, unless others wait on disk only.
    pub(crate) fn append(
        &self,
        starts: &[Encoded],
        waiting: Waiting,
        class: Class,
        has_room: bool,
    ) -> Written {
        let mut inner = self.inner();
        if inner.paused_until.is_some_and(|until| Instant::now() < until) {
            return Written::Failed(waiting);
        }
        let class = if inner.has_started(&waiting.bytes) { Class::Eventful } else { class };
        let mut records: Vec<_> = starts.iter().map(|start| (Kind::Start, &*start.0)).collect();
        records.push((waiting.kind, &*waiting.bytes));
        let bytes = records.iter().map(|(_, payload)| record::HEAD + payload.len()).sum::<usize>();
        let longest = records.iter().map(|(_, payload)| payload.len()).max().unwrap_or(0);
        // It would drive out all that is there, and be written all the same, or not at all.
        if bytes as u64 > self.bytes || longest > record::LONGEST {
            inner.tell_of_length(longest);
            return Written::Failed(waiting);
        }
        if !inner.make_room(class, bytes as u64, self.bytes) {
            return Written::Failed(waiting);
        }
        let appended =
            inner.append(&self.folder, &self.peer, class, &records, has_room, self.segment_bytes());
        let Appended { place, is_kept, file, new_in } = match appended {
            Ok(appended) => appended,
            Err(error) => {
                inner.fail(&self.folder, &error);
                return Written::Failed(waiting);
            }
        };
        inner.paused_until = None;
        let before = place.number - starts.len() as u64;
        for (start, number) in starts.iter().zip(before..) {
            if let Some(id) = encode::span_id(&start.0) {
                inner.starts.insert(id, Place { number, ..place });
            }
        }
        self.note(&inner);
        drop(inner);
        if self.durability == Durability::Disk
            && let Err(error) = self.sync(&file, new_in.as_deref())
        {
            self.inner().fail(&self.folder, &error);
        }
        if is_kept {
            Written::Kept(Waiting { position: Some(Position { journal: 0, place }), ..waiting })
        } else {
            Written::Stored
        }
    }

    fn sync(&self, file: &File, new_in: Option<&Path>) -> io::Result<()> {
        folder::sync_data(file)?;
        if let Some(folder) = new_in {
            folder::sync(folder)?;
            folder::sync(&self.folder)?;
        }
        Ok(())
    }

    /// Takes how many spans were given up for want of room since this was asked last.
    pub(crate) fn take_given_up(&self) -> u64 {
        std::mem::take(&mut self.inner().given_up)
    }

    pub(crate) fn counts(&self) -> Counts {
        self.inner().counts
    }

    /// Returns how many spans of this process wait on disk only.
    pub(crate) fn unread_of_own(&self) -> u64 {
        self.inner().journals[0].as_ref().map_or(0, Journal::unread)
    }

    /// Returns how much of processes that have ended waits for delivery.
    pub(crate) fn to_recover(&self) -> u64 {
        self.inner().journals[1..].iter().flatten().map(Journal::waiting).sum()
    }

    // ===== for the thread =====

    /// Takes over what processes that have ended left; returns how many there were.
    pub(crate) fn take_over(&self) -> usize {
        let names = folder::names(&self.folder).unwrap_or_default();
        let mut taken = 0;
        for name in names.iter().filter(|name| !name.starts_with('.') && *name != REFUSED_FOLDER) {
            let folder = self.folder.join(name);
            if !folder.is_dir() {
                continue;
            }
            match Journal::take_over(&folder) {
                Ok(Some((journal, damaged))) => {
                    let mut inner = self.inner();
                    inner.counts.damaged += damaged;
                    if journal.is_empty() {
                        journal.remove();
                    } else {
                        inner.journals.push(Some(journal));
                        taken += 1;
                    }
                }
                Ok(None) => {}
                Err(error) => notice(format_args!(
                    "what a process before has left in {} cannot be read: {error}",
                    folder.display()
                )),
            }
        }
        taken
    }

    /// Reads what waits on disk only, a part of it: a segment at most, and about so many bytes.
    pub(crate) fn read(&self, most: u64) -> Vec<Waiting> {
        loop {
            let Some((at, reading)) = self.inner().to_read(most) else { return Vec::new() };
            let waiting = self.read_part(at, &reading);
            if !waiting.is_empty() {
                return waiting;
            }
        }
    }

    fn read_part(&self, at: usize, reading: &Reading) -> Vec<Waiting> {
        let content = reading.read();
        let mut inner = self.inner();
        let Some(journal) = inner.journals[at].as_mut() else { return Vec::new() };
        // A segment that was given up meanwhile is counted already.
        if !journal.has_read(reading, content.as_ref().ok()) {
            return Vec::new();
        }
        let content = match content {
            Ok(content) => content,
            Err(error) => {
                inner.counts.damaged += 1;
                inner.fail(&self.folder, &error);
                return Vec::new();
            }
        };
        let (mut waiting, mut over) = (Vec::new(), Vec::new());
        for read in content.records {
            let position = Some(Position { journal: at, place: read.place });
            match read.kind {
                Kind::Start if at == 0 => {}
                Kind::Start if journal.is_unended(read.place.number) => {
                    let bytes = ended(&read.payload, journal.last_write());
                    waiting.push(Waiting { position, ..Waiting::span(bytes) });
                }
                kind @ (Kind::Span | Kind::Score) => {
                    waiting.push(Waiting { kind, position, ..Waiting::span(read.payload) });
                }
                _ => over.push(read.place),
            }
        }
        if at == 0 {
            inner.counts.damaged += content.damaged;
        }
        let mut to_sync = Vec::new();
        inner.settle(at, &mut over, &self.folder, &mut to_sync);
        self.note(&inner);
        drop(inner);
        self.make_sure(&to_sync);
        waiting
    }

    /// Notes that spans need not be delivered any more.
    pub(crate) fn settle(&self, spans: &[Waiting]) {
        let mut inner = self.inner();
        let mut places: Vec<Vec<Place>> = vec![Vec::new(); inner.journals.len()];
        for span in spans {
            if let Some(position) = span.position {
                places[position.journal].push(position.place);
            }
            // Also of one that the disk did not take when it ended.
            if !span.is_taken_over()
                && !inner.starts.is_empty()
                && let Some(id) = encode::span_id(&span.bytes)
            {
                places[0].extend(inner.starts.remove(&id));
            }
        }
        let mut to_sync = Vec::new();
        for (at, mut places) in places.into_iter().enumerate() {
            inner.settle(at, &mut places, &self.folder, &mut to_sync);
        }
        self.note(&inner);
        drop(inner);
        self.make_sure(&to_sync);
    }

    /// Makes what was settled outlive a loss of power, while no call that fails waits for it.
    fn make_sure(&self, files: &[File]) {
        for file in files {
            if let Err(error) = folder::sync_data(file) {
                self.inner().fail(&self.folder, &error);
            }
        }
    }

    /// Keeps a span that the server refuses for good, with its words; the oldest go.
    pub(crate) fn set_aside(&self, span: &Bytes, words: &str) {
        let kept = self.try_to_set_aside(span, words);
        if let Err(error) = kept {
            self.inner().fail(&self.folder, &error);
        }
    }

    fn try_to_set_aside(&self, span: &Bytes, words: &str) -> io::Result<()> {
        let refused = self.folder.join(REFUSED_FOLDER);
        folder::create(&refused)?;
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let id = encode::span_id(span).map_or(0, u64::from_be_bytes);
        let name = format!("{:020}-{id:016x}.json", since.as_nanos());
        let span = Encoded(span.clone()).decode();
        let text = json!({ "words": words, "span": span.ok().as_ref().map(encode::to_json) });
        let text = text.to_string();
        self.make_room_aside(&refused, text.len() as u64)?;
        let mut file = folder::append_to(&refused.join(name))?;
        file.write_all(text.as_bytes())
    }

    /// Removes the oldest of what was refused, until one more has room or is alone.
    fn make_room_aside(&self, refused: &Path, new: u64) -> io::Result<()> {
        let (mut left, mut bytes) = (Vec::new(), new);
        for name in folder::names(refused)? {
            let path = refused.join(name);
            let length = fs::metadata(&path).map_or(0, |status| status.len());
            bytes += length;
            left.push((path, length));
        }
        let mut count = left.len() + 1;
        for (path, length) in left {
            if count <= REFUSED && bytes <= self.bytes / REFUSED_PART {
                break;
            }
            fs::remove_file(path)?;
            count -= 1;
            bytes -= length;
        }
        Ok(())
    }

    /// Ends the delivery: what is left stays for the next process.
    pub(crate) fn close(&self) {
        let mut inner = self.inner();
        // What was taken over is free again for others; what ends late is still written.
        inner.journals[1..].fill_with(|| None);
        if inner.journals[0].as_ref().is_some_and(Journal::is_empty)
            && let Some(own) = inner.journals[0].take()
        {
            own.remove();
        }
    }
}

// ===== impl Inner =====

impl Inner {
    /// Returns whether the start of a span was written.
    fn has_started(&self, span: &[u8]) -> bool {
        !self.starts.is_empty()
            && encode::span_id(span).is_some_and(|id| self.starts.contains_key(&id))
    }

    fn append(
        &mut self,
        folder: &Path,
        peer: &Peer,
        class: Class,
        records: &[(Kind, &[u8])],
        has_room: bool,
        segment_bytes: u64,
    ) -> io::Result<Appended> {
        let mut next = 1;
        if let Some(own) = &mut self.journals[0] {
            match own.append(class, records, has_room, segment_bytes) {
                // Somebody has removed the folder.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => return result,
            }
            next = own.next();
            let gone = self.journals[0].take();
            self.is_gone(gone.as_ref());
        }
        folder::create(folder)?;
        peer.write(folder)?;
        let own = self.journals[0].insert(Journal::create(folder, next)?);
        own.append(class, records, has_room, segment_bytes)
    }

    /// Counts what was in a journal that is no more, and nowhere else.
    fn is_gone(&mut self, journal: Option<&Journal>) {
        let unread = |class| journal.map_or(0, |journal| journal.unread_of(class));
        let (eventful, uneventful) = (unread(Class::Eventful), unread(Class::Uneventful));
        self.counts.dropped_eventful += eventful;
        self.counts.dropped_uneventful += uneventful;
        self.given_up += eventful + uneventful;
        self.starts.clear();
    }

    /// Gives up what has to go: uneventful spans first, then the oldest; returns whether there is
    /// room then. What is uneventful itself takes the place of nothing else.
    fn make_room(&mut self, new: Class, bytes: u64, most: u64) -> bool {
        while self.journals.iter().flatten().map(Journal::bytes).sum::<u64>() + bytes > most {
            // What was taken over is older.
            let mut oldest = self.journals.iter_mut().rev().flatten();
            let uneventful = oldest.find_map(|journal| journal.give_up(Class::Uneventful));
            let (class, unread) = match uneventful {
                Some(unread) => (Class::Uneventful, unread),
                None if new == Class::Uneventful => return false,
                None => {
                    let mut oldest = self.journals.iter_mut().rev().flatten();
                    match oldest.find_map(|journal| journal.give_up(Class::Eventful)) {
                        Some(unread) => (Class::Eventful, unread),
                        None => return false,
                    }
                }
            };
            match class {
                Class::Eventful => self.counts.dropped_eventful += unread,
                Class::Uneventful => self.counts.dropped_uneventful += unread,
            }
            self.given_up += unread;
        }
        true
    }

    fn to_read(&self, most: u64) -> Option<(usize, Reading)> {
        let journals = self.journals.iter().enumerate();
        journals.filter_map(|(at, journal)| Some((at, journal.as_ref()?.to_read(most)?))).next()
    }

    fn settle(&mut self, at: usize, places: &mut [Place], folder: &Path, to_sync: &mut Vec<File>) {
        if places.is_empty() {
            return;
        }
        let Some(journal) = &mut self.journals[at] else { return };
        let result = journal.settle(places, to_sync);
        if at > 0
            && journal.is_empty()
            && let Some(journal) = self.journals[at].take()
        {
            journal.remove();
        }
        if let Err(error) = result {
            self.fail(folder, &error);
        }
    }

    /// Says once that something is too long to be written.
    fn tell_of_length(&mut self, bytes: usize) {
        if !std::mem::replace(&mut self.has_told_of_length, true) {
            notice(format_args!(
                "a span of {bytes} bytes is too long for the spool, and waits in memory"
            ));
        }
    }

    /// Notes that the disk does not do what it is asked, and says so once.
    fn fail(&mut self, folder: &Path, error: &io::Error) {
        self.paused_until = Instant::now().checked_add(PAUSE);
        if !std::mem::replace(&mut self.has_warned, true) {
            notice(format_args!(
                "{} cannot be used, spans wait in memory: {error}",
                folder.display()
            ));
        }
    }
}

/// Writes the end of a span whose process has ended before it.
fn ended(start: &Bytes, at: SystemTime) -> Bytes {
    let mut bytes = start.to_vec();
    let began = Encoded(start.clone()).decode().map_or(0, |span| span.start_time_unix_nano);
    // A clock that was set back would show as a negative latency.
    encode::end(&mut bytes, clock::nanos(at).max(began), "process ended");
    bytes.into()
}

#[cfg(test)]
mod tests;
