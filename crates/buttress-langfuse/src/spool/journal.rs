//! The folder of one process: segments of records, and beside each what of it is settled.
//!
//! | file | what |
//! |---|---|
//! | `lock` | locked for as long as the process lives |
//! | `eventful-<number>.seg` | records from that number on, of traces in which something went wrong |
//! | `uneventful-<number>.seg` | records of the others |
//! | `<segment>.settled` | the numbers that need not be delivered any more |
//!
//! A segment goes when all of it is settled. Where there is no room whole segments go, uneventful
//! ones first, the oldest first.

mod reading;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

pub(super) use self::reading::{Content, Read, Reading};
use super::{
    folder,
    lock::{self, LOCK},
    record::{self, Kind},
};
use crate::{encode, notice::notice};

/// How the names of segments end, and of what is settled of them.
const SEGMENT: &str = ".seg";
const SETTLED: &str = ".settled";

/// Whether a record is of a trace in which something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Eventful,
    Uneventful,
}

/// Which record of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) class: Class,
    pub(super) number: u64,
}

/// What was written.
pub(super) struct Appended {
    /// Where the last record is.
    pub(super) place: Place,
    /// Whether it is in memory too.
    pub(super) is_kept: bool,
    /// The file that is to be synced.
    pub(super) file: Arc<File>,
    /// The folder in which the file is new.
    pub(super) new_in: Option<PathBuf>,
}

/// One process's folder.
pub(super) struct Journal {
    folder: PathBuf,
    /// Locked until this is dropped.
    _lock: File,
    streams: [Stream; 2],
    next: u64,
    /// Of a process that has ended: which of its starts came to their end, and are not delivered.
    over: HashSet<u64>,
    /// When that process wrote last.
    last_write: Option<SystemTime>,
    /// Whether a segment of it cannot be read: it stays, since another time it may be.
    has_unreadable: bool,
}

/// The segments of one class, the oldest first.
struct Stream {
    class: Class,
    segments: VecDeque<Segment>,
    /// The newest segment, while it is written to.
    open: Option<Arc<File>>,
    /// What is read next: the segment by its first number, and the byte in it.
    cursor: (u64, u64),
}

struct Segment {
    first: u64,
    bytes: u64,
    /// How long the list of what is settled of it is.
    settled_bytes: u64,
    /// Records that are not settled.
    left: u32,
    /// Of them, starts that came to their end.
    over: u32,
    /// Records that are nowhere else, and have still to be read.
    unread: u32,
}

// ===== impl Class =====

impl Class {
    pub(super) const ALL: [Self; 2] = [Self::Eventful, Self::Uneventful];

    const fn prefix(self) -> &'static str {
        match self {
            Self::Eventful => "eventful-",
            Self::Uneventful => "uneventful-",
        }
    }

    fn path(self, folder: &Path, first: u64) -> PathBuf {
        folder.join(format!("{}{first:020}{SEGMENT}", self.prefix()))
    }

    /// Returns the first number of a segment by its name.
    pub(super) fn first_of(self, name: &str) -> Option<u64> {
        name.strip_prefix(self.prefix())?.strip_suffix(SEGMENT)?.parse().ok()
    }
}

// ===== impl Journal =====

impl Journal {
    /// Creates the folder of this process, whose first record has this number.
    ///
    /// It gets its name when it is locked, so that nobody takes it for one of a dead process.
    pub(super) fn create(spool: &Path, next: u64) -> io::Result<Self> {
        let name = format!("{:08x}{:016x}", std::process::id(), fastrand::u64(..));
        let (hidden, folder) = (spool.join(format!(".{name}")), spool.join(name));
        folder::create(&hidden)?;
        let lock = folder::append_to(&hidden.join(LOCK))?;
        let locked = lock.try_lock().map_err(io::Error::from);
        if let Err(error) = locked.and_then(|()| fs::rename(&hidden, &folder)) {
            drop(fs::remove_dir_all(&hidden));
            return Err(error);
        }
        Ok(Self {
            folder,
            _lock: lock,
            streams: Class::ALL.map(Stream::new),
            next,
            over: HashSet::new(),
            last_write: None,
            has_unreadable: false,
        })
    }

    /// Takes over the folder of a process that has ended; none where it lives.
    pub(super) fn take_over(folder: &Path) -> io::Result<Option<(Self, u64)>> {
        let lock = match File::options().read(true).write(true).open(folder.join(LOCK)) {
            Ok(lock) => lock,
            // Somebody else is done with it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if !lock::take(&lock)? {
            return Ok(None);
        }
        let mut journal = Self {
            folder: folder.to_owned(),
            _lock: lock,
            streams: Class::ALL.map(Stream::new),
            next: 1,
            over: HashSet::new(),
            last_write: None,
            has_unreadable: false,
        };
        let damaged = journal.load()?;
        Ok(Some((journal, damaged)))
    }

    /// Reads what is there; returns how many places are damaged.
    fn load(&mut self) -> io::Result<u64> {
        let mut damaged = 0;
        let names = folder::names(&self.folder)?;
        for class in Class::ALL {
            let mut open_starts: HashMap<[u8; 8], (u64, u64)> = HashMap::new();
            for first in names.iter().filter_map(|name| class.first_of(name)) {
                let read = Reading::whole(&self.folder, class, first)
                    .and_then(|(reading, status)| Ok((reading.read()?, reading, status)));
                let (content, reading, status) = match read {
                    Ok(read) => read,
                    Err(error) => {
                        let path = class.path(&self.folder, first);
                        notice(format_args!("{} cannot be read: {error}", path.display()));
                        self.has_unreadable = true;
                        damaged += 1;
                        continue;
                    }
                };
                self.last_write = self.last_write.max(status.modified().ok());
                damaged += content.damaged;
                let left = u32::try_from(content.records.len()).unwrap_or(u32::MAX);
                let bytes = reading.to;
                let settled_bytes = fs::metadata(&reading.settled).map_or(0, |status| status.len());
                let stream = self.stream(class);
                stream.segments.push_back(Segment {
                    first,
                    bytes,
                    settled_bytes,
                    left,
                    over: 0,
                    unread: left,
                });
                for read in content.records {
                    let Some(id) = encode::span_id(&read.payload) else { continue };
                    let ended = match read.kind {
                        Kind::Start => open_starts.insert(id, (first, read.place.number)),
                        _ => open_starts.remove(&id),
                    };
                    if let Some((first, number)) = ended {
                        self.over.insert(number);
                        self.stream(class).note_over(first);
                    }
                }
            }
            let folder = &self.folder;
            let stream = &mut self.streams[class as usize];
            stream.remove_empty(folder);
            stream.cursor = (stream.segments.front().map_or(0, |segment| segment.first), 0);
        }
        Ok(damaged)
    }

    /// When the process wrote last that had this folder.
    pub(super) fn last_write(&self) -> SystemTime {
        self.last_write.unwrap_or_else(SystemTime::now)
    }

    /// Returns whether a start is one that never came to its end, in a process that is no more.
    pub(super) fn is_unended(&self, number: u64) -> bool {
        !self.over.contains(&number)
    }

    /// Writes records to the end, in one piece.
    ///
    /// `is_kept` says that who calls keeps the last one in memory, if nothing before it has still
    /// to be read; so does the answer.
    pub(super) fn append(
        &mut self,
        class: Class,
        records: &[(Kind, &[u8])],
        is_kept: bool,
        segment_bytes: u64,
    ) -> io::Result<Appended> {
        let mut bytes = Vec::with_capacity(
            records.iter().map(|(_, payload)| record::HEAD + payload.len()).sum(),
        );
        let first = self.next;
        for (number, (kind, payload)) in (first..).zip(records) {
            if !record::write(*kind, number, payload, &mut bytes) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a record is too long"));
            }
        }
        let folder = &self.folder;
        let stream = &mut self.streams[class as usize];
        let is_kept = is_kept && !stream.has_unread();
        let file = stream.write(folder, first, &bytes, segment_bytes)?;
        let is_new = stream.segments.back().is_some_and(|segment| segment.first == first);
        // Starts are not read by the process that wrote them.
        let starts = records.iter().filter(|(kind, _)| *kind == Kind::Start).count();
        if let Some(segment) = stream.segments.back_mut() {
            let count = |records: usize| u32::try_from(records).unwrap_or(u32::MAX);
            segment.left += count(records.len());
            if is_kept {
                stream.cursor = (segment.first, segment.bytes);
            } else {
                segment.unread += count(records.len() - starts);
            }
        }
        self.next += records.len() as u64;
        let place = Place { class, number: self.next - 1 };
        let new_in = is_new.then(|| self.folder.clone());
        Ok(Appended { place, is_kept, file, new_in })
    }

    /// Returns a part that has still to be read, of about so many bytes at most; none where all is
    /// in memory.
    pub(super) fn to_read(&self, most: u64) -> Option<Reading> {
        let stream = self.streams.iter().find(|stream| stream.has_unread())?;
        let (first, from) = stream.cursor;
        let segment =
            stream.segments.iter().find(|segment| segment.first >= first && segment.unread > 0)?;
        let from = if segment.first == first { from } else { 0 };
        let path = stream.path(&self.folder, segment.first);
        let settled = path.with_extension(&SETTLED[1..]);
        let (class, first, unread) = (stream.class, segment.first, segment.unread);
        Some(Reading { class, path, settled, first, from, to: segment.bytes, most, unread })
    }

    /// Notes that a part was read, or cannot be; returns whether it is still there.
    pub(super) fn has_read(&mut self, reading: &Reading, content: Option<&Content>) -> bool {
        let is_own = self.last_write.is_none();
        let stream = self.stream(reading.class);
        let found = stream.segments.iter_mut().find(|segment| segment.first == reading.first);
        let Some(segment) = found else { return false };
        // What was written meanwhile is still to be read.
        match content.filter(|content| content.end < reading.to) {
            Some(content) => {
                let counts = |read: &&Read| !is_own || read.kind != Kind::Start;
                let read = content.records.iter().filter(counts).count();
                segment.unread -= u32::try_from(read).unwrap_or(u32::MAX).min(segment.unread);
                stream.cursor = (reading.first, content.end);
            }
            None => {
                segment.unread = segment.unread.saturating_sub(reading.unread);
                stream.cursor = (reading.first, reading.to);
            }
        }
        true
    }

    /// Notes that records need not be delivered any more, and makes that outlive the process.
    ///
    /// The files that it adds to `to_sync` are to be synced, or a loss of power would deliver the
    /// records again.
    pub(super) fn settle(
        &mut self,
        places: &mut [Place],
        to_sync: &mut Vec<File>,
    ) -> io::Result<()> {
        places.sort_unstable_by_key(|place| (place.class as usize, place.number));
        let mut result = Ok(());
        for class in Class::ALL {
            let folder = &self.folder;
            let stream = &mut self.streams[class as usize];
            let mut numbers =
                places.iter().filter(|place| place.class == class).map(|place| place.number);
            let mut next = numbers.next();
            let mut at = 0;
            while let Some(first) = stream.segments.get(at).map(|segment| segment.first) {
                let end = stream.segments.get(at + 1).map_or(u64::MAX, |segment| segment.first);
                let mut settled = Vec::new();
                while let Some(number) = next.filter(|number| *number < end) {
                    if number >= first {
                        settled.push(number);
                    }
                    next = numbers.next();
                }
                if !settled.is_empty() {
                    let over = settled.iter().filter(|number| self.over.remove(*number)).count();
                    let segment = &mut stream.segments[at];
                    let over = u32::try_from(over).unwrap_or(u32::MAX);
                    segment.over = segment.over.saturating_sub(over);
                    result = result.and(stream.settle(folder, at, &settled, to_sync));
                }
                if stream.segments.get(at).is_some_and(|segment| segment.left == 0) {
                    stream.remove(folder, at);
                } else {
                    at += 1;
                }
            }
        }
        result
    }

    /// Gives up the oldest segment of a class; returns how many records go that are nowhere else.
    pub(super) fn give_up(&mut self, class: Class) -> Option<u64> {
        let folder = &self.folder;
        let stream = &mut self.streams[class as usize];
        let unread = stream.segments.front()?.unread;
        stream.remove(folder, 0);
        Some(unread.into())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.streams
            .iter()
            .flat_map(|stream| &stream.segments)
            .map(|segment| segment.bytes + segment.settled_bytes)
            .sum()
    }

    /// Returns the number of the next record.
    pub(super) const fn next(&self) -> u64 {
        self.next
    }

    /// Returns how many records wait that are nowhere else.
    pub(super) fn unread(&self) -> u64 {
        Class::ALL.into_iter().map(|class| self.unread_of(class)).sum()
    }

    /// Returns how many of a class wait that are nowhere else.
    pub(super) fn unread_of(&self, class: Class) -> u64 {
        let segments = self.streams[class as usize].segments.iter();
        segments.map(|segment| u64::from(segment.unread)).sum()
    }

    /// Returns how many records wait for delivery.
    pub(super) fn waiting(&self) -> u64 {
        let segments = self.streams.iter().flat_map(|stream| &stream.segments);
        segments.map(|segment| u64::from(segment.left.saturating_sub(segment.over))).sum()
    }

    pub(super) fn has_unread_of(&self, class: Class) -> bool {
        self.streams[class as usize].has_unread()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.streams.iter().all(|stream| stream.segments.is_empty())
    }

    /// Removes the folder, in which nothing is left that can be read.
    pub(super) fn remove(self) {
        if !self.has_unreadable {
            drop(fs::remove_dir_all(&self.folder));
        }
    }

    fn stream(&mut self, class: Class) -> &mut Stream {
        &mut self.streams[class as usize]
    }
}

// ===== impl Stream =====

impl Stream {
    const fn new(class: Class) -> Self {
        Self { class, segments: VecDeque::new(), open: None, cursor: (0, 0) }
    }

    fn path(&self, folder: &Path, first: u64) -> PathBuf {
        self.class.path(folder, first)
    }

    /// Notes that a start in a segment came to its end.
    fn note_over(&mut self, first: u64) {
        if let Some(segment) = self.segments.iter_mut().find(|segment| segment.first == first) {
            segment.over += 1;
        }
    }

    /// Removes the segments in which nothing can be read: no reading would come to their end.
    fn remove_empty(&mut self, folder: &Path) {
        while let Some(at) = self.segments.iter().position(|segment| segment.left == 0) {
            self.remove(folder, at);
        }
    }

    fn has_unread(&self) -> bool {
        self.segments.iter().any(|segment| segment.unread > 0)
    }

    fn write(
        &mut self,
        folder: &Path,
        first: u64,
        bytes: &[u8],
        segment_bytes: u64,
    ) -> io::Result<Arc<File>> {
        let is_full = |segment: &Segment| {
            segment.bytes > 0 && segment.bytes + bytes.len() as u64 > segment_bytes
        };
        if self.segments.back().is_none_or(is_full) {
            self.open = None;
        }
        let file = match &self.open {
            Some(file) => Arc::clone(file),
            None => {
                let file = Arc::new(folder::append_to(&self.path(folder, first))?);
                let segment =
                    Segment { first, bytes: 0, settled_bytes: 0, left: 0, over: 0, unread: 0 };
                self.segments.push_back(segment);
                Arc::clone(self.open.insert(file))
            }
        };
        let written = (&*file).write_all(bytes);
        let Some(segment) = self.segments.back_mut() else { return Ok(file) };
        if let Err(error) = written {
            // What was written of it is passed over by who reads; nothing is written behind it.
            self.open = None;
            drop(file.set_len(segment.bytes));
            if segment.left == 0 {
                drop(fs::remove_file(self.path(folder, first)));
                self.segments.pop_back();
            }
            return Err(error);
        }
        segment.bytes += bytes.len() as u64;
        Ok(file)
    }

    /// Notes that records of a segment are settled.
    fn settle(
        &mut self,
        folder: &Path,
        at: usize,
        numbers: &[u64],
        to_sync: &mut Vec<File>,
    ) -> io::Result<()> {
        let segment = &mut self.segments[at];
        segment.left =
            segment.left.saturating_sub(u32::try_from(numbers.len()).unwrap_or(u32::MAX));
        if segment.left == 0 {
            // It goes.
            return Ok(());
        }
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for &number in numbers {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == number => *last = number,
                _ => ranges.push((number, number)),
            }
        }
        let payload: Vec<u8> = ranges
            .iter()
            .flat_map(|(from, to)| [from.to_le_bytes(), to.to_le_bytes()])
            .flatten()
            .collect();
        let mut bytes = Vec::new();
        record::write(Kind::Settled, 0, &payload, &mut bytes);
        let first = segment.first;
        let path = self.path(folder, first).with_extension(&SETTLED[1..]);
        let mut file = folder::append_to(&path)?;
        file.write_all(&bytes)?;
        self.segments[at].settled_bytes += bytes.len() as u64;
        to_sync.push(file);
        Ok(())
    }

    fn remove(&mut self, folder: &Path, at: usize) {
        let Some(segment) = self.segments.remove(at) else { return };
        if at == self.segments.len() {
            self.open = None;
        }
        let path = self.path(folder, segment.first);
        drop(fs::remove_file(&path));
        drop(fs::remove_file(path.with_extension(&SETTLED[1..])));
    }
}
