//! What was made good and what was not: retries, fallback chains and swarms by name.

use buttress::{
    observe::Observed,
    telemetry::{outcome, span},
};
use serde::Serialize;

use super::section::{Section, Versions};
use crate::text;

/// How many names of each kind have a row of their own; the others share one.
const MOST: usize = 100;
/// The name of the row that others share.
const OTHERS: &str = "(others)";
/// How many minutes are kept one by one.
const MINUTES: usize = 15;
/// How many failed agents of a swarm are named.
const MOST_AGENTS: usize = 8;

/// The calls through one retry, fallback chain or swarm.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    kind: Kind,
    name: String,
    totals: Counts,
    /// How many attempts all series took together; of retries only.
    attempts: u64,
    /// The last minutes, the newest last.
    minutes: [Counts; MINUTES],
    /// The newest of them, in minutes since 1970.
    minute: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<Last>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Retry,
    Fallback,
    Swarm,
}

/// How calls ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Counts {
    /// Well at once.
    fine: u64,
    /// Well after a retry, by a fallback, or without some of the agents.
    rescued: u64,
    failed: u64,
}

/// The last call that did not end well at once.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Last {
    at: u64,
    is_rescued: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    level: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    success_rate: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    failed_agents: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Fine,
    Rescued,
    Failed,
}

/// Counts a span, if it is one that is counted; returns whether a call did not end well at once.
pub(crate) fn count(rows: &mut Section<Row>, seen: &Observed, at: u64, ids: &mut Versions) -> bool {
    let Some((kind, end)) = end_of(seen) else { return false };
    let name = name_of(kind, seen);
    let add = |row: &mut Row| row.add(seen, end, at);
    if !rows.change(|row| row.is(kind, &name), add, ids) {
        let name = if rows.len() < MOST { name } else { OTHERS.to_owned() };
        if !rows.change(|row| row.is(kind, &name), add, ids) {
            let mut row = Row::new(kind, name, at);
            row.add(seen, end, at);
            let id = ids.next();
            rows.add(id, row, ids);
        }
    }
    end != End::Fine
}

fn end_of(seen: &Observed) -> Option<(Kind, End)> {
    let kind = match seen.name() {
        span::RETRY => Kind::Retry,
        span::FALLBACK => Kind::Fallback,
        span::SWARM => Kind::Swarm,
        _ => return None,
    };
    let end = match seen.str("outcome") {
        Some(outcome::SUCCESS) => {
            let (of, least) = match kind {
                Kind::Retry => (seen.i64("attempts_needed"), 1),
                Kind::Fallback => (seen.i64("fallback_level"), 0),
                Kind::Swarm => (seen.i64("degradation_level"), 0),
            };
            if of.unwrap_or(least) > least { End::Rescued } else { End::Fine }
        }
        // Nobody knows how it would have ended.
        Some(outcome::CANCELLED) | None => return None,
        Some(_) => End::Failed,
    };
    Some((kind, end))
}

fn name_of(kind: Kind, seen: &Observed) -> String {
    let name = match kind {
        Kind::Swarm => {
            let name = seen.otel_name();
            Some(name.strip_suffix("_with_degradation").unwrap_or(name))
        }
        Kind::Retry | Kind::Fallback => seen.agent_id(),
    };
    text::shown(name.unwrap_or("(no name)"), text::NAME)
}

// ===== impl Row =====

impl Row {
    fn new(kind: Kind, name: String, at: u64) -> Self {
        Self {
            kind,
            name,
            totals: Counts::default(),
            attempts: 0,
            minutes: [Counts::default(); MINUTES],
            minute: minute(at),
            last: None,
        }
    }

    fn is(&self, kind: Kind, name: &str) -> bool {
        self.kind == kind && self.name == name
    }

    fn add(&mut self, seen: &Observed, end: End, at: u64) {
        // A clock that is set back counts into the newest minute.
        let passed = minute(at).saturating_sub(self.minute);
        let shift = usize::try_from(passed).unwrap_or(MINUTES).min(MINUTES);
        self.minutes.rotate_left(shift % MINUTES);
        self.minutes[MINUTES - shift..].fill(Counts::default());
        self.minute += passed;

        self.totals.add(end);
        self.minutes[MINUTES - 1].add(end);
        if self.kind == Kind::Retry {
            self.attempts += seen.i64("attempts_needed").unwrap_or(0).unsigned_abs();
        }
        if end != End::Fine {
            self.last = Some(Last::new(seen, end, at));
        }
    }
}

const fn minute(at: u64) -> u64 {
    at / 60_000
}

// ===== impl Counts =====

impl Counts {
    const fn add(&mut self, end: End) {
        match end {
            End::Fine => self.fine += 1,
            End::Rescued => self.rescued += 1,
            End::Failed => self.failed += 1,
        }
    }
}

// ===== impl Last =====

impl Last {
    fn new(seen: &Observed, end: End, at: u64) -> Self {
        let failed_agents = seen
            .str("failed_agents")
            .and_then(|json| serde_json::from_str::<Vec<String>>(json).ok())
            .unwrap_or_default();
        Self {
            at,
            is_rescued: end == End::Rescued,
            attempts: seen.i64("attempts_needed"),
            stop: seen.str("stop").map(|stop| text::shown(stop, text::NAME)),
            level: seen.i64("degradation_level").or_else(|| seen.i64("fallback_level")),
            success_rate: seen.f64("success_rate").filter(|rate| rate.is_finite()),
            failed_agents: failed_agents
                .iter()
                .take(MOST_AGENTS)
                .map(|agent| text::shown(agent, text::NAME))
                .collect(),
        }
    }
}
