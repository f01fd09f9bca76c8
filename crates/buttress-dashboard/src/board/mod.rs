//! What the page shows, and since when each part of it is as it is.
//!
//! Everything is bounded and changes in place. A reader asks for what has changed since it last
//! read, so that none needs a queue: who reads slowly gets fewer and larger steps.

mod circuits;
mod failures;
mod log;
mod rows;
mod section;

use std::time::Duration;

use buttress::{observe::Observed, telemetry::span};
use serde::Serialize;
use tokio::time::Instant;

pub(crate) use self::circuits::{Circuits, Source, choose};
use self::{
    circuits::change_of,
    failures::{Group, Look, Waiting},
    rows::Row,
    section::{Changes, Section, Versions},
};
use crate::text;

/// The trace of something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Trace {
    pub(crate) id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) url: Option<String>,
}

/// All that is shown, under one lock.
#[derive(Debug, Default)]
pub(crate) struct Board {
    pub(crate) versions: Versions,
    pub(crate) circuits: Circuits,
    rows: Section<Row>,
    failures: Section<Group>,
    waiting: Waiting,
    /// When somebody last looked at the circuits, and after how many beats.
    looked: Option<(u64, Instant)>,
}

/// How long what was seen of circuits is taken for new, and how long if something has happened since:
/// however many read, circuits are not looked at more often.
const FRESH: Duration = Duration::from_millis(500);
const FRESH_AFTER_NEWS: Duration = Duration::from_millis(100);

/// How far a reader has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    version: u64,
    more: usize,
    under_way: usize,
}

/// What a reader is told.
#[derive(Debug, Serialize)]
struct Update<'a> {
    /// The time of the server, in milliseconds since 1970.
    now: u64,
    /// Since when it watches.
    started: u64,
    circuits: Changes<'a, circuits::View>,
    timelines: Changes<'a, log::Timeline>,
    rows: Changes<'a, Row>,
    failures: Changes<'a, Group>,
    /// How many further circuits there are, which are not shown.
    more: usize,
    /// How many calls go on although something in them has failed.
    under_way: usize,
}

// ===== impl Board =====

impl Board {
    /// Returns whether it is time to look at the circuits again; who asks will do it.
    pub(crate) fn is_due(&mut self, (beats, now): (u64, Instant)) -> bool {
        let is_due = self.looked.is_none_or(|(seen, at)| {
            let fresh = if seen == beats { FRESH } else { FRESH_AFTER_NEWS };
            now.saturating_duration_since(at) >= fresh
        });
        if is_due {
            self.looked = Some((beats, now));
        }
        is_due
    }

    /// Gives up waiting for what becomes of old failures.
    pub(crate) fn forget(&mut self) {
        let Self { waiting, failures, versions, .. } = self;
        waiting.forget(text::now_millis(), failures, versions);
    }

    /// Has the circuits looked at when somebody asks next.
    pub(crate) const fn look_again(&mut self) {
        self.looked = None;
    }

    /// Takes in a span that has ended; returns whether readers should hear of it at once.
    pub(crate) fn take_in(
        &mut self,
        seen: &Observed,
        trace: Option<Trace>,
        with_texts: bool,
    ) -> bool {
        if let span::CIRCUIT_OPENED | span::CIRCUIT_HALF_OPENED | span::CIRCUIT_CLOSED = seen.name()
        {
            let change = seen
                .str("state_transition")
                .and_then(|words| change_of(words, seen.str("reason").unwrap_or_default(), trace));
            if let (Some(circuit), Some(change)) = (seen.str("circuit_key"), change) {
                self.circuits.told(circuit, change);
            }
            return true;
        }
        let at = text::now_millis();
        let counted = rows::count(&mut self.rows, seen, at, &mut self.versions);
        let look = Look { seen, trace, at, with_texts };
        let failed = self.waiting.take_in(look, &mut self.failures, &mut self.versions);
        counted || failed
    }

    /// Returns what a reader does not know yet, and how far it has read then.
    ///
    /// One that has read nothing gets everything; one that knows all of it nothing, unless that is
    /// to be said.
    pub(crate) fn news(
        &self,
        read: Option<Cursor>,
        say_nothing: bool,
        started: u64,
    ) -> Option<(Cursor, String)> {
        let cursor = Cursor {
            version: self.versions.current(),
            more: self.circuits.more,
            under_way: self.waiting.len(),
        };
        if read == Some(cursor) && !say_nothing {
            return None;
        }
        let since = read.map(|cursor| cursor.version);
        let update = Update {
            now: text::now_millis(),
            started,
            circuits: self.circuits.views.since(since),
            timelines: self.circuits.timelines.since(since),
            rows: self.rows.since(since),
            failures: self.failures.since(since),
            more: cursor.more,
            under_way: cursor.under_way,
        };
        let json = serde_json::to_string(&update).expect("texts and numbers are always JSON");
        Some((cursor, json))
    }
}
