//! The last failures: one line for all that are alike, with what became of them.
//!
//! One failing call ends many spans: an attempt, its series, its chain, its agent. A failure waits
//! below the span above it, until that ends: well, and the failure was made good; badly, and it goes
//! on upwards, until no span of the contract is above it and the caller has it.

use std::collections::HashMap;

use buttress::{
    observe::Observed,
    telemetry::{key, outcome, span},
};
use serde::Serialize;

use super::{
    Trace,
    section::{Section, Versions},
};
use crate::text;

/// How many lines there are.
const MOST: usize = 50;
/// How many spans are waited for.
const MOST_WAITING: usize = 1_024;
/// How many failures wait for the same span.
const MOST_BELOW: usize = 8;
/// After so many milliseconds without one, alike failures are counted anew.
const QUIET: u64 = 10 * 60 * 1_000;
/// After so many milliseconds it is no longer waited for what becomes of a failure.
const LONGEST_WAIT: u64 = 10 * 60 * 1_000;

/// Failures that are alike.
#[derive(Debug, Serialize)]
pub(crate) struct Group {
    #[serde(flatten)]
    failure: Failed,
    fate: Fate,
    count: u64,
    /// When the first of them was.
    first: u64,
    /// What two failures have in common that are alike.
    #[serde(skip)]
    fingerprint: String,
}

/// What became of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Fate {
    /// The caller got it.
    ReachedCaller,
    /// A later attempt succeeded.
    Retried,
    /// A fallback answered.
    FellBack,
    /// A swarm went on without the agent.
    WentWithout,
    /// A layer further out did not take it as a failure.
    Absorbed,
    /// The caller did not wait for the end.
    Abandoned,
    /// The span above it has not ended, or had ended before.
    Unknown,
}

/// The last one of failures that are alike.
#[derive(Debug, Clone, Serialize)]
struct Failed {
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    circuit: Option<String>,
    /// The span that ended with it, the innermost one.
    place: &'static str,
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<Trace>,
    last: u64,
}

/// The failures whose end is not known yet, by the span above them.
#[derive(Debug, Default)]
pub(crate) struct Waiting(HashMap<u64, Vec<Failed>>);

/// What a span is looked at with.
pub(crate) struct Look<'a> {
    pub(crate) seen: &'a Observed,
    pub(crate) trace: Option<Trace>,
    pub(crate) at: u64,
    pub(crate) with_texts: bool,
}

// ===== impl Waiting =====

impl Waiting {
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes in a span; returns whether something failed, or what became of it is known now.
    pub(crate) fn take_in(
        &mut self,
        look: Look<'_>,
        groups: &mut Section<Group>,
        ids: &mut Versions,
    ) -> bool {
        let mut below = self.0.remove(&look.seen.id()).unwrap_or_default();
        match look.seen.str(key::OUTCOME) {
            Some(outcome::SUCCESS) => {
                let fate = match look.seen.name() {
                    span::RETRY => Fate::Retried,
                    span::FALLBACK => Fate::FellBack,
                    span::SWARM => Fate::WentWithout,
                    _ => Fate::Absorbed,
                };
                if matches!(fate, Fate::Retried | Fate::FellBack) {
                    // Of a series the last failure stands for all.
                    below.drain(..below.len().saturating_sub(1));
                }
                let is_news = !below.is_empty();
                below.into_iter().for_each(|failed| settle(groups, failed, fate, ids));
                is_news
            }
            Some(outcome::CANCELLED) | None => {
                let last = below.pop();
                let is_news = last.is_some();
                last.into_iter().for_each(|failed| settle(groups, failed, Fate::Abandoned, ids));
                is_news
            }
            Some(_) => {
                let parent = look.seen.parent();
                let failed = Failed::new(look, below.last());
                match parent {
                    Some(parent) => {
                        self.forget(failed.last, groups, ids);
                        self.wait(parent, failed);
                    }
                    None => settle(groups, failed, Fate::ReachedCaller, ids),
                }
                true
            }
        }
    }

    /// Gives up waiting for what has gone on for too long.
    pub(crate) fn forget(&mut self, now: u64, groups: &mut Section<Group>, ids: &mut Versions) {
        let oldest = now.saturating_sub(LONGEST_WAIT);
        let is_over = |below: &Vec<Failed>| below.last().is_none_or(|last| last.last < oldest);
        for (_, below) in self.0.extract_if(|_, below| is_over(below)) {
            below.into_iter().for_each(|failed| settle(groups, failed, Fate::Unknown, ids));
        }
    }

    fn wait(&mut self, parent: u64, failed: Failed) {
        if self.0.len() >= MOST_WAITING && !self.0.contains_key(&parent) {
            return;
        }
        let below = self.0.entry(parent).or_default();
        if below.len() == MOST_BELOW {
            below.remove(0);
        }
        below.push(failed);
    }
}

fn settle(groups: &mut Section<Group>, failed: Failed, fate: Fate, ids: &mut Versions) {
    let fingerprint = failed.fingerprint();
    let fits = |group: &Group| group.fate == fate && group.fingerprint == fingerprint;
    let mut new = Some(failed);
    let add = |group: &mut Group| {
        let Some(failed) = new.take() else { return };
        if failed.last.saturating_sub(group.failure.last) > QUIET {
            (group.count, group.first) = (0, failed.last);
        }
        group.count += 1;
        group.failure = failed;
    };
    if groups.change(fits, add, ids) {
        return;
    }
    if let Some(failure) = new {
        if groups.len() >= MOST {
            groups.remove_least(|group| group.failure.last, ids);
        }
        let first = failure.last;
        let id = ids.next();
        groups.add(id, Group { failure, fate, count: 1, first, fingerprint }, ids);
    }
}

// ===== impl Failed =====

impl Failed {
    /// Reads a failure from its span, and what the span does not say from the one below it.
    fn new(look: Look<'_>, below: Option<&Self>) -> Self {
        let Look { seen, trace, at, with_texts } = look;
        let name = |text: &str| text::shown(text, text::NAME);
        let error = seen.str(key::ERROR).filter(|_| with_texts);
        Self {
            agent: seen.agent_id().map(name).or_else(|| below?.agent.clone()),
            circuit: below
                .and_then(|below| below.circuit.clone())
                .or_else(|| seen.str("circuit_key").map(name)),
            place: below.map_or_else(|| seen.name(), |below| below.place),
            kind: seen
                .str(key::FAILURE_KIND)
                .map(name)
                .or_else(|| Some(below?.kind.clone()))
                .unwrap_or_else(|| "unknown".to_owned()),
            error: error
                .map(|text| text::shown(text, text::ERROR))
                .or_else(|| below?.error.clone()),
            trace: trace.or_else(|| below?.trace.clone()),
            last: at,
        }
    }

    /// What failures have in common that are alike: all but the digits of their texts, which are times,
    /// counts and ids.
    fn fingerprint(&self) -> String {
        let names = [self.agent.as_deref(), self.circuit.as_deref(), Some(&self.kind)];
        let mut fingerprint = String::new();
        for name in names {
            fingerprint.push_str(name.unwrap_or_default());
            fingerprint.push('\n');
        }
        // How long a circuit stays open changes with each call.
        let text = self.error.as_deref().filter(|_| self.kind != "circuit_open");
        fingerprint.extend(text.unwrap_or_default().chars().filter(|char| !char.is_ascii_digit()));
        fingerprint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(at: u64) -> Failed {
        Failed {
            agent: None,
            circuit: None,
            place: span::TIMEOUT,
            kind: "timeout".to_owned(),
            error: None,
            trace: None,
            last: at,
        }
    }

    #[test]
    fn what_is_never_heard_of_again_is_told_as_not_known() {
        let (mut waiting, mut groups) = (Waiting::default(), Section::default());
        let mut ids = Versions::default();
        waiting.wait(1, failed(1_000));
        waiting.wait(2, failed(2_000));
        waiting.forget(2_000 + LONGEST_WAIT, &mut groups, &mut ids);
        assert_eq!((waiting.len(), groups.len()), (1, 1));
        let told = serde_json::to_value(groups.since(None)).unwrap();
        assert_eq!(told["items"][0]["fate"], "unknown");
        assert_eq!(told["items"][0]["first"], 1_000);
    }

    #[test]
    fn what_is_waited_for_is_bounded() {
        let mut waiting = Waiting::default();
        for parent in 0..10 * MOST_WAITING as u64 {
            waiting.wait(parent, failed(0));
            (0..100).for_each(|_| waiting.wait(7, failed(0)));
        }
        assert_eq!(waiting.len(), MOST_WAITING);
        assert_eq!(waiting.0[&7].len(), MOST_BELOW);
    }

    #[test]
    fn after_a_quiet_time_alike_failures_are_counted_anew() {
        let (mut groups, mut ids) = (Section::default(), Versions::default());
        for at in [1_000, 2_000, 2_000 + QUIET + 1] {
            settle(&mut groups, failed(at), Fate::Retried, &mut ids);
        }
        let told = serde_json::to_value(groups.since(None)).unwrap();
        let group = &told["items"][0];
        assert_eq!((&group["count"], &group["first"]), (&1.into(), &(2_000 + QUIET + 1).into()));
    }
}
