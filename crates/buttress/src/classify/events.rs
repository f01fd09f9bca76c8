//! Streams of a language model, judged event by event as they pass.

use http::{HeaderMap, StatusCode};

use super::{
    LlmClassifier,
    answer::{NOT_JSON, judge_event},
    body::{ClassifyBody, ReadBody},
    llm::content_type,
};
use crate::{Failure, FailureKind};

/// A longer event is passed on unread.
const LONGEST_EVENT: usize = 1024 * 1024;
/// What is kept of a line: that of the longest event, with the name of its field, and something more
/// of a longer one.
const LONGEST_LINE: usize = LONGEST_EVENT + 16;

/// Reads the body of a model's answer: the events of a `text/event-stream`, nothing of others.
///
/// The events are those of the HTML standard (section 9.2, server-sent events). A failure is
///
/// - an event named `error`, or one that holds an error or a blocked prompt as [`LlmClassifier`]
///   describes;
/// - an event that is not JSON, but for `[DONE]` and events without data;
/// - a body that ends without an event, in the middle of one, or before the mark that ends streams
///   of its kind: `[DONE]` (OpenAI's chat and who speaks its protocol), `message_stop` (Anthropic),
///   `response.completed` or `response.incomplete` (OpenAI's Responses), a `finishReason` (Google).
///
/// The line feeds behind the last event may be missing. What comes after `[DONE]` and its kin is not
/// read. Neither are events above 1 MiB, of which the last may be the mark, and bodies with a
/// `Content-Encoding`.
#[derive(Debug, Default)]
pub struct LlmBody {
    /// None for what is no stream of events.
    events: Option<Events>,
    has_begun: bool,
}

#[derive(Debug, Clone, Default)]
struct Events {
    /// The line that is not at its end yet.
    line: Vec<u8>,
    /// The data of the event that is not at its end yet.
    data: Vec<u8>,
    has_data: bool,
    is_named_error: bool,
    is_too_long: bool,
    /// The last line ended with a carriage return: a line feed now belongs to it.
    ended_with_return: bool,
    /// Whether the first line was read, which may begin with a byte order mark.
    has_lines: bool,
    has_events: bool,
    has_begun: bool,
    promises_end: bool,
    has_ended: bool,
    /// An end came that others may follow.
    may_have_ended: bool,
    /// What came last was not read: it may have been the end.
    ends_unread: bool,
}

// ===== impl LlmClassifier =====

impl ClassifyBody for LlmClassifier {
    type Reader = LlmBody;

    fn reader(&self, status: StatusCode, headers: &HeaderMap) -> LlmBody {
        let is_stream = status.as_u16() < 400 && is_event_stream(headers);
        LlmBody { events: is_stream.then(Events::default), has_begun: false }
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    content_type(headers).is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/event-stream"))
}

// ===== impl LlmBody =====

impl ReadBody for LlmBody {
    fn data(&mut self, chunk: &[u8]) -> Option<(usize, Failure)> {
        self.has_begun |= !chunk.is_empty();
        self.events.as_mut()?.read(chunk)
    }

    fn trailers(&mut self, _: &HeaderMap) -> Option<Failure> {
        None
    }

    fn end(&self) -> Option<Failure> {
        self.events.as_ref()?.end()
    }

    fn has_begun(&self) -> bool {
        self.events.as_ref().map_or(self.has_begun, |events| events.has_begun)
    }
}

// ===== impl Events =====

impl Events {
    fn read(&mut self, chunk: &[u8]) -> Option<(usize, Failure)> {
        // Where the event begins that is being read, as far as it is in this chunk.
        let mut event = 0;
        let mut at = 0;
        while let Some(rest) = chunk.get(at..).filter(|rest| !rest.is_empty()) {
            if std::mem::take(&mut self.ended_with_return) && rest[0] == b'\n' {
                at += 1;
                if !self.is_in_event() {
                    event = at;
                }
                continue;
            }
            let Some(length) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) else {
                self.keep(rest);
                return None;
            };
            self.ended_with_return = rest[length] == b'\r';
            at += length + 1;
            match self.end_line(&rest[..length]) {
                Some(failure) => return Some((event, failure)),
                None if !self.is_in_event() => event = at,
                None => {}
            }
        }
        None
    }

    fn is_in_event(&self) -> bool {
        self.has_data || self.is_named_error || !self.line.is_empty() || self.is_too_long
    }

    /// Keeps a part of a line, as far as an event may be long.
    fn keep(&mut self, part: &[u8]) {
        let room = LONGEST_LINE.saturating_sub(self.line.len());
        self.line.extend_from_slice(&part[..part.len().min(room)]);
    }

    /// Reads a line of which `rest` is the last part.
    fn end_line(&mut self, rest: &[u8]) -> Option<Failure> {
        if self.line.is_empty() {
            return self.read_line(rest);
        }
        self.keep(rest);
        let line = std::mem::take(&mut self.line);
        let failure = self.read_line(&line);
        // The room is used again.
        self.line = line;
        self.line.clear();
        failure
    }

    fn read_line(&mut self, line: &[u8]) -> Option<Failure> {
        let is_first = !std::mem::replace(&mut self.has_lines, true);
        let line = line.strip_prefix(b"\xef\xbb\xbf").filter(|_| is_first).unwrap_or(line);
        if line.is_empty() {
            return self.end_event();
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (field, value) = match colon {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"event" => self.is_named_error = value == b"error",
            b"data" if self.data.len() + value.len() > LONGEST_EVENT => {
                self.is_too_long = true;
                self.data.clear();
            }
            b"data" if !self.is_too_long => {
                if self.has_data {
                    self.data.push(b'\n');
                }
                self.has_data = true;
                self.data.extend_from_slice(value);
            }
            // A comment, a field of no interest, or one that nobody knows.
            _ => {}
        }
        None
    }

    fn end_event(&mut self) -> Option<Failure> {
        let has_data = std::mem::take(&mut self.has_data);
        let is_named_error = std::mem::take(&mut self.is_named_error);
        let says_nothing = !is_named_error && self.data.trim_ascii().is_empty();
        let mut failure = None;
        if std::mem::take(&mut self.is_too_long) {
            (self.has_events, self.has_begun, self.ends_unread) = (true, true, true);
        } else if has_data && !says_nothing && !self.has_ended {
            self.has_events = true;
            match judge_event(is_named_error, &self.data, !self.has_begun) {
                Ok(event) => {
                    self.has_begun |= !event.is_preamble;
                    self.promises_end |= event.promises_end;
                    self.has_ended = event.is_end;
                    self.may_have_ended |= event.may_be_end;
                    self.ends_unread &= !event.promises_end;
                }
                Err(found) => failure = Some(found),
            }
        }
        self.data.clear();
        failure
    }

    fn end(&self) -> Option<Failure> {
        if self.has_ended {
            return None;
        }
        if self.is_in_event() {
            return self.end_inside();
        }
        let message = if !self.has_events {
            "the stream holds no event"
        } else if self.promises_end && !self.may_have_ended && !self.ends_unread {
            "the stream ends without its mark"
        } else {
            return None;
        };
        Some(Failure::new(FailureKind::Transient).with_message(message))
    }

    /// Returns the failure of a stream that ends before the empty line behind its last event: some
    /// leave it out.
    #[cold]
    fn end_inside(&self) -> Option<Failure> {
        let middle = || {
            let failure = Failure::new(FailureKind::Transient);
            Some(failure.with_message("the stream ends in the middle of an event"))
        };
        let mut whole = self.clone();
        let is_comment = whole.line.starts_with(b":");
        if !whole.line.is_empty() {
            whole.end_line(&[]);
        }
        if is_comment {
            return whole.end();
        }
        if !whole.has_data || whole.is_too_long {
            return middle();
        }
        match whole.end_event() {
            None => whole.end(),
            Some(failure) if failure.message() == Some(NOT_JSON) => middle(),
            failure => failure,
        }
    }
}
