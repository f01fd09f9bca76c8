//! Records of a segment: each found again by itself, whatever is damaged around it.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | [`MARK`] |
//! | 4 | CRC-32 of all that follows |
//! | 4 | length of the payload, little-endian |
//! | 1 | [`Kind`] |
//! | 8 | number, little-endian |
//! | | payload |

use std::ops::Range;

/// How each record begins: what is damaged ends at the next one.
const MARK: [u8; 4] = [0xb7, b't', b'r', 0x01];
/// The bytes before the payload.
pub(super) const HEAD: usize = 21;
/// No payload is longer: what says so is damaged.
pub(super) const LONGEST: usize = 64 << 20;

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A span that has ended.
    Span,
    /// A span that was open when one below it was written: it is delivered only where its process
    /// ends before it does.
    Start,
    /// A score.
    Score,
    /// The numbers of records that need not be delivered any more, in pairs of first and last.
    Settled,
}

/// One whole record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) kind: Kind,
    pub(super) number: u64,
    pub(super) payload: Range<usize>,
}

/// What stands at a place of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Record(Record),
    /// So many bytes that are no record.
    Damaged(usize),
}

/// Reads a segment from front to back.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

// ===== impl Kind =====

impl Kind {
    const ALL: [(Self, u8); 4] =
        [(Self::Span, 1), (Self::Start, 2), (Self::Score, 3), (Self::Settled, 4)];

    fn byte(self) -> u8 {
        Self::ALL.into_iter().find(|(kind, _)| *kind == self).map_or(0, |(_, byte)| byte)
    }

    fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == byte).map(|(kind, _)| kind)
    }
}

/// Writes a record to the end of `into`; one that is too long is not written.
pub(super) fn write(kind: Kind, number: u64, payload: &[u8], into: &mut Vec<u8>) -> bool {
    let Ok(length) = u32::try_from(payload.len()) else { return false };
    if payload.len() > LONGEST {
        return false;
    }
    let start = into.len();
    into.extend_from_slice(&MARK);
    into.extend_from_slice(&[0; 4]);
    into.extend_from_slice(&length.to_le_bytes());
    into.push(kind.byte());
    into.extend_from_slice(&number.to_le_bytes());
    into.extend_from_slice(payload);
    let checksum = crc32fast::hash(&into[start + 8..]);
    into[start + 4..start + 8].copy_from_slice(&checksum.to_le_bytes());
    true
}

// ===== impl Reader =====

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Returns where what comes next begins.
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    fn record_at(&self, at: usize) -> Option<Record> {
        let head = self.bytes.get(at..at + HEAD)?;
        let (mark, rest) = head.split_first_chunk::<4>()?;
        let (checksum, rest) = rest.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (kind, number) = rest.split_first()?;
        let length = u32::from_le_bytes(*length) as usize;
        if *mark != MARK || length > LONGEST {
            return None;
        }
        let end = at + HEAD + length;
        let checked = self.bytes.get(at + 8..end)?;
        if crc32fast::hash(checked) != u32::from_le_bytes(*checksum) {
            return None;
        }
        let number = u64::from_le_bytes(number.try_into().ok()?);
        Some(Record { kind: Kind::of(*kind)?, number, payload: at + HEAD..end })
    }
}

impl Iterator for Reader<'_> {
    type Item = Found;

    fn next(&mut self) -> Option<Found> {
        if self.at >= self.bytes.len() {
            return None;
        }
        if let Some(record) = self.record_at(self.at) {
            self.at = record.payload.end;
            return Some(Found::Record(record));
        }
        let start = self.at;
        let mut next = start + 1;
        while next < self.bytes.len() && self.record_at(next).is_none() {
            next += 1;
        }
        self.at = next;
        Some(Found::Damaged(next - start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Vec<u8> {
        let mut bytes = Vec::new();
        for (number, payload) in [(7, &b"one"[..]), (8, b""), (9, &[0xb7; 300])] {
            assert!(write(Kind::Span, number, payload, &mut bytes));
        }
        bytes
    }

    fn numbers(bytes: &[u8]) -> Vec<u64> {
        Reader::new(bytes)
            .filter_map(|found| match found {
                Found::Record(record) => Some(record.number),
                Found::Damaged(_) => None,
            })
            .collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = three();
        let found: Vec<_> = Reader::new(&bytes).collect();
        assert_eq!(found.len(), 3);
        let Found::Record(first) = &found[0] else { panic!("{found:?}") };
        assert_eq!((first.kind, &bytes[first.payload.clone()]), (Kind::Span, &b"one"[..]));
        assert_eq!(numbers(&bytes), [7, 8, 9]);
        assert!(Reader::new(&[]).next().is_none());
    }

    /// Wherever it is cut or a byte is changed, the records that are whole are found.
    #[test]
    fn damage_costs_the_records_that_it_is_in() {
        let whole = three();
        for cut in 0..whole.len() {
            let expected = [24, 45, whole.len()].iter().filter(|end| cut >= **end).count();
            assert_eq!(numbers(&whole[..cut]).len(), expected, "cut at {cut}");
        }
        for place in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[place] ^= 0x55;
            let hit = if place < 24 {
                7
            } else if place < 45 {
                8
            } else {
                9
            };
            let expected: Vec<u64> =
                [7, 8, 9].into_iter().filter(|number| *number != hit).collect();
            assert_eq!(numbers(&bytes), expected, "changed at {place}");
        }
    }
}
