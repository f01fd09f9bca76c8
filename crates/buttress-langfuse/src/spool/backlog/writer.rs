//! What one process has left, or still writes.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::SystemTime,
};

use bytes::Bytes;
use serde_json::Value as Json;

use super::{BacklogError, is_gone, span, time};
use crate::{
    Observation,
    client::lenient,
    encode::{self, Encoded},
    spool::{
        Kind, ended, folder,
        journal::{Class, Read, Reading},
        lock,
    },
};

/// What one process has left, or still writes.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Writer {
    /// Its folder.
    pub folder: PathBuf,
    /// The number of the process, on the machine and in the container in which it ran.
    pub pid: Option<u32>,
    /// Whether a living process has it: that which writes, or one that took it over and delivers.
    pub is_alive: bool,
    /// What is of traces in which something went wrong.
    pub eventful: Waiting,
    /// What is of the others.
    pub uneventful: Waiting,
    /// Places that cannot be read.
    pub damaged: u64,
    /// When the oldest record was made, or the files where no record says it.
    pub oldest: Option<SystemTime>,
    /// When the newest record was made, or the files where no record says it.
    pub newest: Option<SystemTime>,
}

/// How much waits for delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Waiting {
    /// Spans that have ended.
    pub spans: u64,
    /// Scores.
    pub scores: u64,
    /// Spans that have begun and not ended; they are delivered where their process has ended.
    pub starts: u64,
    /// How many bytes the files take, with what of them is settled.
    pub bytes: u64,
}

/// What was seen of the files.
#[derive(Debug, Default)]
struct Seen {
    damaged: u64,
    first_write: Option<SystemTime>,
    last_write: Option<SystemTime>,
}

// ===== impl Waiting =====

impl Waiting {
    /// Returns whether nothing waits, however many bytes the files take.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.spans + self.scores + self.starts == 0
    }

    /// Returns the sum of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            spans: self.spans + other.spans,
            scores: self.scores + other.scores,
            starts: self.starts + other.starts,
            bytes: self.bytes + other.bytes,
        }
    }
}

// ===== impl Writer =====

impl Writer {
    /// Reads the folder of a process; none where it is gone.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>, BacklogError> {
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let mut writer = Self {
            folder: folder.to_owned(),
            pid: name.get(..8).and_then(|pid| u32::from_str_radix(pid, 16).ok()),
            is_alive: is_alive(folder)?,
            eventful: Waiting::default(),
            uneventful: Waiting::default(),
            damaged: 0,
            oldest: None,
            newest: None,
        };
        let mut open: HashMap<[u8; 8], (Class, Option<SystemTime>)> = HashMap::new();
        let seen = writer.walk(|writer, class, bytes, records| {
            writer.of(class).bytes += bytes;
            for record in records {
                let id = encode::span_id(&record.payload);
                match (record.kind, id) {
                    (Kind::Start, Some(id)) => drop(open.insert(id, (class, began(&record)))),
                    (Kind::Span, id) => {
                        writer.of(class).spans += 1;
                        writer.note(span::ended(&record.payload));
                        id.and_then(|id| open.remove(&id));
                    }
                    (Kind::Score, _) => {
                        writer.of(class).scores += 1;
                        writer.note(scored(&record));
                    }
                    _ => {}
                }
            }
        })?;
        for (class, began) in open.into_values() {
            writer.of(class).starts += 1;
            writer.note(began);
        }
        writer.damaged = seen.damaged;
        if writer.oldest.is_none() {
            (writer.oldest, writer.newest) = (seen.first_write, seen.last_write);
        }
        Ok(folder.is_dir().then_some(writer))
    }

    /// Returns how much waits, of either class.
    #[must_use]
    pub const fn waiting(&self) -> Waiting {
        self.eventful.and(self.uneventful)
    }

    /// Reads the spans that wait.
    pub(super) fn read_observations(
        &self,
        into: &mut Vec<Observation>,
    ) -> Result<(), BacklogError> {
        // It may have ended, or been taken over, since the first look.
        let is_alive = is_alive(&self.folder)?;
        let mut open: HashMap<[u8; 8], Bytes> = HashMap::new();
        let mut looks = Self { is_alive, ..self.clone() };
        let seen = looks.walk(|_, _, _, records| {
            for record in records {
                let id = encode::span_id(&record.payload);
                match (record.kind, id) {
                    (Kind::Start, Some(id)) => drop(open.insert(id, record.payload)),
                    (Kind::Span, id) => {
                        id.and_then(|id| open.remove(&id));
                        into.extend(read(record.payload));
                    }
                    _ => {}
                }
            }
        })?;
        if !is_alive {
            let at = seen.last_write.unwrap_or(SystemTime::UNIX_EPOCH);
            into.extend(open.into_values().filter_map(|start| read(ended(&start, at))));
        }
        Ok(())
    }

    /// Hands over what is not settled, segment by segment, with the bytes of each.
    fn walk(
        &mut self,
        mut each: impl FnMut(&mut Self, Class, u64, Vec<Read>),
    ) -> Result<Seen, BacklogError> {
        let folder = self.folder.clone();
        let mut seen = Seen::default();
        let names =
            folder::names(&folder).map_err(|error| BacklogError::unreadable(&folder, error))?;
        for class in Class::ALL {
            for first in names.iter().filter_map(|name| class.first_of(name)) {
                let (reading, status) = match Reading::whole(&folder, class, first) {
                    Err(error) if is_gone(&error) => continue,
                    whole => whole.map_err(|error| BacklogError::unreadable(&folder, error))?,
                };
                let content = match reading.read() {
                    Err(error) if is_gone(&error) => continue,
                    read => read.map_err(|e| BacklogError::unreadable(reading.path(), e))?,
                };
                // Where it went meanwhile, so did the note of what of it is settled.
                if !reading.path().exists() {
                    continue;
                }
                // What a living process is just writing is not damaged.
                seen.damaged += content.damaged - u64::from(self.is_alive && content.is_torn);
                let written = status.modified().ok();
                seen.first_write = earliest(seen.first_write, written);
                seen.last_write = seen.last_write.max(written);
                each(self, class, status.len(), content.records);
            }
        }
        Ok(seen)
    }

    const fn of(&mut self, class: Class) -> &mut Waiting {
        match class {
            Class::Eventful => &mut self.eventful,
            Class::Uneventful => &mut self.uneventful,
        }
    }

    /// Notes when a record was made.
    fn note(&mut self, at: Option<SystemTime>) {
        self.oldest = earliest(self.oldest, at);
        self.newest = self.newest.max(at);
    }
}

fn is_alive(folder: &Path) -> Result<bool, BacklogError> {
    lock::is_taken(folder)
        .map_err(|error| BacklogError::unreadable(&folder.join(lock::LOCK), error))
}

fn earliest(one: Option<SystemTime>, other: Option<SystemTime>) -> Option<SystemTime> {
    one.into_iter().chain(other).min()
}

/// Returns when a span began.
fn began(start: &Read) -> Option<SystemTime> {
    let span = Encoded(start.payload.clone()).decode().ok()?;
    Some(time(span.start_time_unix_nano))
}

/// Returns when a score was made.
fn scored(score: &Read) -> Option<SystemTime> {
    let score: Json = serde_json::from_slice(&score.payload).ok()?;
    lenient::time(&score["timestamp"])
}

fn read(span: Bytes) -> Option<Observation> {
    Encoded(span).decode().ok().map(|span| span::observation(&span))
}
