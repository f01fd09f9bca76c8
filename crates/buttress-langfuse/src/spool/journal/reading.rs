//! A part of a segment as it is read, outside of every lock.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use bytes::Bytes;

use super::{Class, Place, SETTLED};
use crate::spool::record::{Found, Kind, Reader};

/// A record that was read.
#[derive(Debug)]
pub(in crate::spool) struct Read {
    pub(in crate::spool) kind: Kind,
    pub(in crate::spool) place: Place,
    pub(in crate::spool) payload: Bytes,
}

/// A part of a segment that is to be read, which takes no lock.
pub(in crate::spool) struct Reading {
    pub(super) class: Class,
    pub(super) path: PathBuf,
    pub(super) settled: PathBuf,
    pub(super) first: u64,
    pub(super) from: u64,
    pub(super) to: u64,
    /// How many bytes of payloads, about.
    pub(super) most: u64,
    /// How many records of the segment are nowhere else.
    pub(super) unread: u32,
}

/// What a part of a segment holds.
#[derive(Debug, Default)]
pub(in crate::spool) struct Content {
    pub(in crate::spool) records: Vec<Read>,
    pub(in crate::spool) damaged: u64,
    /// Whether the last of these places is its end, as while something is being written.
    pub(in crate::spool) is_torn: bool,
    /// Where the next part begins.
    pub(super) end: u64,
}

// ===== impl Reading =====

impl Reading {
    /// Makes a reading of a whole segment, and tells of its file.
    pub(in crate::spool) fn whole(
        folder: &Path,
        class: Class,
        first: u64,
    ) -> io::Result<(Self, Metadata)> {
        let path = class.path(folder, first);
        let status = fs::metadata(&path)?;
        let settled = path.with_extension(&SETTLED[1..]);
        let to = status.len();
        let reading = Self { class, path, settled, first, from: 0, to, most: u64::MAX, unread: 0 };
        Ok((reading, status))
    }

    #[cfg(feature = "client")]
    pub(in crate::spool) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the records that are not settled.
    pub(in crate::spool) fn read(&self) -> io::Result<Content> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.from))?;
        let mut bytes = Vec::new();
        file.take(self.to.saturating_sub(self.from)).read_to_end(&mut bytes)?;
        let bytes = Bytes::from(bytes);
        let settled = self.settled();
        let mut content = Content::default();
        let mut payloads = 0;
        let mut reader = Reader::new(&bytes);
        while payloads < self.most
            && let Some(found) = reader.next()
        {
            content.is_torn = matches!(found, Found::Damaged(_));
            match found {
                Found::Damaged(_) => content.damaged += 1,
                Found::Record(record) => {
                    if settled.iter().any(|(from, to)| (*from..=*to).contains(&record.number)) {
                        continue;
                    }
                    payloads += record.payload.len() as u64;
                    content.records.push(Read {
                        kind: record.kind,
                        place: Place { class: self.class, number: record.number },
                        payload: bytes.slice(record.payload),
                    });
                }
            }
        }
        content.end = self.from + reader.at() as u64;
        Ok(content)
    }

    /// Reads what need not be delivered; where it cannot be read all is delivered again.
    fn settled(&self) -> Vec<(u64, u64)> {
        let Ok(bytes) = fs::read(&self.settled) else { return Vec::new() };
        let mut ranges = Vec::new();
        for found in Reader::new(&bytes) {
            let Found::Record(record) = found else { continue };
            for pair in bytes[record.payload].chunks_exact(16) {
                let number = |half: &[u8]| half.try_into().map(u64::from_le_bytes).unwrap_or(0);
                ranges.push((number(&pair[..8]), number(&pair[8..])));
            }
        }
        ranges.sort_unstable();
        ranges
    }
}
