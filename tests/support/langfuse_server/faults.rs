//! Faults that the server shows on request.

use std::collections::VecDeque;
use std::time::Duration;

/// One way in which a request goes wrong.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// Answers 429, as the rate limit of Langfuse Cloud does.
    TooManyRequests(RetryAfter),
    /// Answers 500, as when the server cannot reach its storage.
    InternalServerError,
    /// Answers 503, as a proxy before the server does.
    ServiceUnavailable(RetryAfter),
    /// Answers 401, as for keys of another region.
    InvalidCredentials,
    /// Answers 403, as after the usage limit of a plan.
    IngestionSuspended,
    /// Answers 413, as a proxy before the server does.
    PayloadTooLarge,
    /// Answers a bare status.
    Status(u16),
    /// Takes every other event of a batch of scores, and answers 207 with this status for the rest.
    EveryOtherEvent(u16),
    /// Answers 400 with this error, in the form of the server's own refusals.
    BadRequest(&'static str),
    /// Answers 301 with this header `Location`, as a proxy that wants TLS does.
    Redirect(&'static str),
    /// Takes the request and does not answer until [`release`](super::LangfuseServer::release);
    /// then goes on as if nothing had happened.
    Hang,
    /// Resets the connection after the head of the request, before its body is read.
    ResetBeforeBody,
    /// Stores the spans, then resets the connection: the answer is lost.
    ResetAfterStoring,
    /// Stores the spans and answers after this time.
    Slow(Duration),
    /// Stores the spans and answers 200 with a body of which nothing ever comes.
    SilentBody,
    /// Stores the spans and answers 200 with a body that comes byte by byte, without end.
    TricklingBody,
}

/// When to come back, by the header `Retry-After`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RetryAfter {
    /// Sends no such header.
    Missing,
    /// Sends a number of seconds.
    Seconds(u64),
    /// Sends the date that is so many seconds after 1970.
    Date(u64),
}

/// The faults that are waiting, and the standing rules.
#[derive(Debug, Default)]
pub(super) struct Faults {
    planned: VecDeque<Option<Fault>>,
    random: Option<RandomFaults>,
    largest_body: Option<usize>,
    refused_spans: Vec<String>,
}

impl Faults {
    /// Appends to the schedule; `None` lets a request pass.
    pub(super) fn plan(&mut self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.planned.extend(faults);
    }

    pub(super) fn set_random(&mut self, seed: u64, rates: Vec<(Fault, f64)>) {
        self.random = Some(RandomFaults { state: seed, rates });
    }

    pub(super) fn refuse_larger_than(&mut self, bytes: usize) {
        self.largest_body = Some(bytes);
    }

    pub(super) fn refuse_span(&mut self, name_or_id: String) {
        self.refused_spans.push(name_or_id);
    }

    /// The fault of the next request: the schedule first, then chance.
    pub(super) fn next(&mut self) -> Option<Fault> {
        match self.planned.pop_front() {
            Some(planned) => planned,
            None => self.random.as_mut().and_then(RandomFaults::next),
        }
    }

    pub(super) fn is_too_large(&self, bytes: usize) -> bool {
        self.largest_body.is_some_and(|largest| bytes > largest)
    }

    pub(super) fn is_refused(&self, name: &str, id: &str) -> bool {
        self.refused_spans.iter().any(|refused| refused == name || refused == id)
    }
}

/// Faults by chance. The same seed gives the same faults in the same order.
#[derive(Debug)]
struct RandomFaults {
    state: u64,
    rates: Vec<(Fault, f64)>,
}

impl RandomFaults {
    fn next(&mut self) -> Option<Fault> {
        let mut chance = self.number();
        for (fault, rate) in &self.rates {
            if chance < *rate {
                return Some(fault.clone());
            }
            chance -= rate;
        }
        None
    }

    /// A number from 0 to 1, by SplitMix64.
    fn number(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        // The upper 53 bits are what a double holds exactly.
        (mixed >> 11) as f64 / (1_u64 << 53) as f64
    }
}
