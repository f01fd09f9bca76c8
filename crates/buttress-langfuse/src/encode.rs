//! Spans as bytes, field by field in OTLP's trace.proto: no message is built to be encoded.

use std::{cell::Cell, time::SystemTime};

use bytes::{Bytes, BytesMut};
use opentelemetry_proto::tonic::trace::v1::{Span, Status, status::StatusCode};
use prost::{Message, encoding};
use serde_json::{Value as Json, json};

use crate::{
    attribute, clock,
    level::Level,
    value::{self, Sent},
};

/// How much is allocated at a time for the spans of a thread.
const CHUNK: usize = 16 << 10;
/// How much a thread keeps for its next span.
const KEPT: usize = 64 << 10;

/// One encoded [`Span`] message, without tag and length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoded(pub Bytes);

/// Memory that each thread uses again: spans are freed elsewhere, which would make one allocation
/// for each dear.
#[derive(Debug, Default)]
struct Memory {
    /// The span that is being written.
    span: Vec<u8>,
    /// Where spans are put one after the other; it goes when the last of them is delivered.
    chunk: BytesMut,
}

thread_local! {
    static MEMORY: Cell<Memory> = Cell::default();
}

/// Writes the fields of one message, in the order of their numbers.
#[derive(Debug)]
pub(crate) struct Writer<'a>(&'a mut Vec<u8>);

// ===== impl Encoded =====

impl Encoded {
    /// Encodes a span; `write` writes its fields.
    pub(crate) fn new(write: impl FnOnce(&mut Writer<'_>)) -> Self {
        Self::within(CHUNK / 4, write)
    }

    /// Encodes a span that shares no memory: it may stay when those beside it are long gone.
    pub(crate) fn alone(write: impl FnOnce(&mut Writer<'_>)) -> Self {
        Self::within(0, write)
    }

    /// Encodes a span, in memory that it shares where it is not longer than this.
    fn within(longest: usize, write: impl FnOnce(&mut Writer<'_>)) -> Self {
        // A thread that is about to end has no memory to use again.
        let mut memory = MEMORY.try_with(Cell::take).unwrap_or_default();
        memory.span.clear();
        write(&mut Writer(&mut memory.span));
        let length = memory.span.len();
        let bytes = if length > longest {
            Bytes::copy_from_slice(&memory.span)
        } else {
            if memory.chunk.capacity() < length {
                memory.chunk.reserve(CHUNK);
            }
            memory.chunk.extend_from_slice(&memory.span);
            memory.chunk.split().freeze()
        };
        if memory.span.capacity() <= KEPT {
            _ = MEMORY.try_with(|place| place.set(memory));
        }
        Self(bytes)
    }

    /// Reads the span back.
    ///
    /// # Errors
    ///
    /// Fails when the bytes are not a span.
    pub(crate) fn decode(&self) -> Result<Span, prost::DecodeError> {
        Span::decode(self.0.clone())
    }
}

/// Returns the id of an encoded span.
pub(crate) fn span_id(span: &[u8]) -> Option<[u8; 8]> {
    // As they are written here: the trace's id is the first field, the span's the second.
    const TRACE_HEAD: &[u8] = &[0x0a, 16];
    const SPAN_HEAD: &[u8] = &[0x12, 8];
    let rest = span.strip_prefix(TRACE_HEAD)?.get(16..)?;
    rest.strip_prefix(SPAN_HEAD)?.first_chunk().copied()
}

/// Returns a span below another parent; below none, where there is none.
pub(crate) fn with_parent(span: &Encoded, parent: Option<[u8; 8]>) -> Encoded {
    const PARENT_HEAD: [u8; 2] = [0x22, 8];
    let mut bytes = Vec::with_capacity(span.0.len());
    // The trace's id and the span's, then maybe a state.
    let mut at = 18 + 10;
    if span.0.get(at) == Some(&0x1a) {
        let mut rest = &span.0[at + 1..];
        let before = rest.len();
        let length = encoding::decode_varint(&mut rest).unwrap_or_default();
        at += 1 + before - rest.len() + usize::try_from(length).unwrap_or_default();
    }
    let Some((head, mut rest)) = span.0.split_at_checked(at) else { return span.clone() };
    if let Some(behind) = rest.strip_prefix(&PARENT_HEAD) {
        rest = behind.get(8..).unwrap_or_default();
    }
    bytes.extend_from_slice(head);
    if let Some(parent) = parent {
        bytes.extend_from_slice(&PARENT_HEAD);
        bytes.extend_from_slice(&parent);
    }
    bytes.extend_from_slice(rest);
    Encoded(bytes.into())
}

/// Writes the end of a span that was written without one: of what is there twice the last counts,
/// for protobuf and for Langfuse.
pub(crate) fn end(span: &mut Vec<u8>, at: u64, message: &str) {
    let mut into = Writer::new(span);
    into.fixed64(8, at);
    into.attribute(attribute::LEVEL, &Sent::text(Level::Error.as_str()));
    into.attribute(attribute::STATUS_MESSAGE, &Sent::text(message));
    into.message(15, &Status { code: StatusCode::Error.into(), message: message.to_owned() });
}

/// Encodes an event in a trace of its own: what delivery has to say itself.
pub(crate) fn event(
    name: &str,
    level: Level,
    message: &str,
    metadata: &[(&str, Sent<'_>)],
) -> Encoded {
    let now = clock::nanos(SystemTime::now());
    // Neither id may be zero.
    let trace = fastrand::u128(1..).to_be_bytes();
    let span = fastrand::u64(1..).to_be_bytes();
    Encoded::new(|into| {
        into.bytes(1, &trace);
        into.bytes(2, &span);
        into.text(5, name);
        into.fixed64(7, now);
        into.fixed64(8, now);
        into.attribute(attribute::TYPE, &Sent::text("event"));
        into.attribute(attribute::LEVEL, &Sent::text(level.as_str()));
        into.attribute(attribute::STATUS_MESSAGE, &Sent::text(message));
        into.attribute(attribute::TRACE_NAME, &Sent::text(name));
        for (key, value) in metadata {
            into.metadata(key, value);
        }
    })
}

/// Shows a span as JSON, for people.
pub(crate) fn to_json(span: &Span) -> Json {
    let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let attributes = span.attributes.iter().filter_map(|attribute| {
        Some((attribute.key.clone(), value::to_json(attribute.value.as_ref()?)))
    });
    json!({
        "traceId": hex(&span.trace_id),
        "spanId": hex(&span.span_id),
        "parentSpanId": hex(&span.parent_span_id),
        "name": span.name,
        "startTime": clock::iso(span.start_time_unix_nano),
        "endTime": clock::iso(span.end_time_unix_nano),
        "attributes": attributes.collect::<serde_json::Map<_, _>>(),
    })
}

// ===== impl Writer =====

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const DELIMITED: u32 = 2;
const FIXED32: u32 = 5;

/// The field `attributes` of a span.
const ATTRIBUTES: u32 = 9;

impl<'a> Writer<'a> {
    /// Writes to the end of `into`.
    pub(crate) const fn new(into: &'a mut Vec<u8>) -> Self {
        Self(into)
    }

    /// Writes fields that were written before.
    pub(crate) fn written(&mut self, fields: &[u8]) {
        self.0.extend_from_slice(fields);
    }

    /// Writes bytes, unless there are none.
    pub(crate) fn bytes(&mut self, field: u32, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.delimited(field, bytes);
        }
    }

    /// Writes a text, unless it is empty.
    pub(crate) fn text(&mut self, field: u32, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    /// Writes an integer or the number of a variant, unless it is 0.
    pub(crate) fn integer(&mut self, field: u32, value: u32) {
        if value != 0 {
            self.key(field, VARINT);
            self.varint(value.into());
        }
    }

    /// Writes an integer of eight bytes, unless it is 0.
    pub(crate) fn fixed64(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.key(field, FIXED64);
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// Writes an integer of four bytes, unless it is 0.
    pub(crate) fn fixed32(&mut self, field: u32, value: u32) {
        if value != 0 {
            self.key(field, FIXED32);
            self.0.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// Writes a message within.
    pub(crate) fn message(&mut self, field: u32, message: &impl Message) {
        encoding::message::encode(field, message, self.0);
    }

    /// Writes an attribute of the span.
    pub(crate) fn attribute(&mut self, key: &str, value: &Sent<'_>) {
        self.prefixed("", key, value);
    }

    /// Writes an entry of the span's metadata.
    pub(crate) fn metadata(&mut self, key: &str, value: &Sent<'_>) {
        self.prefixed(attribute::METADATA_PREFIX, key, value);
    }

    /// Writes an entry of the trace's metadata.
    pub(crate) fn trace_metadata(&mut self, key: &str, value: &Sent<'_>) {
        self.prefixed(attribute::TRACE_METADATA_PREFIX, key, value);
    }

    /// Inlined, so that the prefix is copied as the constant that it is.
    #[inline(always)]
    fn prefixed(&mut self, prefix: &'static str, key: &str, value: &Sent<'_>) {
        let key_length = prefix.len() + key.len();
        let value_length = any_value_length(value);
        let length = delimited_length(key_length) + delimited_length(value_length);
        if length < 0x80 {
            // Nearly all: no length takes more than a byte.
            self.short_heads(ATTRIBUTES, length, 1, key_length);
        } else {
            self.key(ATTRIBUTES, DELIMITED);
            self.varint(length as u64);
            self.key(1, DELIMITED);
            self.varint(key_length as u64);
        }
        self.0.extend_from_slice(prefix.as_bytes());
        self.0.extend_from_slice(key.as_bytes());
        match value {
            Sent::Text(text) if length < 0x80 => {
                self.short_heads(2, value_length, 1, text.len());
                self.0.extend_from_slice(text.as_bytes());
            }
            value => {
                self.key(2, DELIMITED);
                self.varint(value_length as u64);
                self.any_value(value);
            }
        }
    }

    /// Writes the heads of a field and of the first one in it, both below 128 bytes long.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the caller has looked")]
    fn short_heads(&mut self, field: u32, length: usize, inner: u32, inner_length: usize) {
        let key = |field: u32| (field << 3 | DELIMITED) as u8;
        let heads = [key(field), length as u8, key(inner), inner_length as u8];
        self.0.extend_from_slice(&heads);
    }

    fn any_value(&mut self, value: &Sent<'_>) {
        match value {
            Sent::Text(text) => self.delimited(1, text.as_bytes()),
            Sent::Boolean(value) => {
                self.key(2, VARINT);
                self.varint((*value).into());
            }
            Sent::Integer(value) => {
                self.key(3, VARINT);
                self.varint(value.cast_unsigned());
            }
            Sent::Double(value) => {
                self.key(4, FIXED64);
                self.0.extend_from_slice(&value.to_le_bytes());
            }
            Sent::Any(value) => value.encode_raw(self.0),
        }
    }

    fn delimited(&mut self, field: u32, bytes: &[u8]) {
        self.key(field, DELIMITED);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    #[inline]
    fn key(&mut self, field: u32, wire_type: u32) {
        self.varint((field << 3 | wire_type).into());
    }

    #[inline]
    fn varint(&mut self, value: u64) {
        match u8::try_from(value) {
            Ok(small @ ..0x80) => self.0.push(small),
            _ => encoding::encode_varint(value, self.0),
        }
    }
}

/// The length of an `AnyValue`.
fn any_value_length(value: &Sent<'_>) -> usize {
    match value {
        Sent::Text(text) => delimited_length(text.len()),
        Sent::Boolean(_) => 2,
        Sent::Integer(value) => 1 + encoding::encoded_len_varint(value.cast_unsigned()),
        Sent::Double(_) => 9,
        Sent::Any(value) => value.encoded_len(),
    }
}

/// The length of what has a key of one byte and its own length in front of it.
fn delimited_length(length: usize) -> usize {
    1 + encoding::encoded_len_varint(length as u64) + length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Encoded {
        Encoded::new(|into| into.text(5, name))
    }

    #[test]
    fn spans_keep_their_bytes_whatever_is_written_after_them() {
        let names: Vec<String> = (0..200).map(|span| "x".repeat(span * span)).collect();
        let spans: Vec<Encoded> = names.iter().map(|name| named(name)).collect();
        let decoded = spans.iter().map(|span| span.decode().unwrap().name);
        assert!(decoded.eq(names.iter().cloned()));
    }

    #[test]
    fn a_span_that_is_written_within_another_does_not_disturb_it() {
        let mut inner = None;
        let outer = Encoded::new(|into| {
            into.text(3, "state");
            inner = Some(named("inner"));
            into.text(5, "outer");
        });
        assert_eq!(inner.unwrap().decode().unwrap().name, "inner");
        let outer = outer.decode().unwrap();
        assert_eq!((&*outer.trace_state, &*outer.name), ("state", "outer"));
    }
}
