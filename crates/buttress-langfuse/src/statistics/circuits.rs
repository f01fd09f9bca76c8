//! Circuits: where they were, and for how long.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use buttress::telemetry::{key, outcome, span};

use crate::Observation;

/// What one circuit did.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct CircuitFigures {
    /// Calls that came to it.
    pub calls: f64,
    /// Calls that it did not let through.
    pub rejected: f64,
    /// How often it went from one state to another, such as `closed -> open`.
    pub transitions: BTreeMap<String, f64>,
    /// How long it was in each state, such as `half_open`.
    pub time_in: BTreeMap<String, Duration>,
    /// The last state that was seen.
    pub state: Option<String>,
    /// Since when, as far as was read.
    pub since: Option<SystemTime>,
    /// Until when the times are counted.
    seen: Option<SystemTime>,
}

/// What an observation says of a circuit.
#[derive(Debug)]
pub(super) struct Sign {
    pub(super) circuit: String,
    at: SystemTime,
    weight: f64,
    what: What,
}

#[derive(Debug)]
enum What {
    /// A call began while it was in a state, and was let through or not.
    Call { state: Option<String>, is_rejected: bool },
    /// A call ended.
    End { state: Option<String> },
    /// It went from a state to another.
    Transition { from: String, to: String },
}

// ===== impl Sign =====

impl Sign {
    /// Reads what an observation says; a call is two signs, its begin and its end.
    pub(super) fn of(one: &Observation, weight: f64) -> Vec<Self> {
        let Some(circuit) = one.text("circuit_key") else { return Vec::new() };
        let state = |key: &str| one.text(key).map(|state| state.to_lowercase());
        if one.name == span::CIRCUIT_BREAKER {
            let is_rejected = one.text(key::OUTCOME).as_deref() == Some(outcome::REJECTED);
            let begin = What::Call { state: state("circuit_state_at_start"), is_rejected };
            let end = What::End { state: state("circuit_state") };
            let after = one.end.unwrap_or(one.start);
            return vec![
                Self { circuit: circuit.clone(), at: one.start, weight, what: begin },
                Self { circuit, at: after, weight, what: end },
            ];
        }
        if one.kind != "EVENT" {
            return Vec::new();
        }
        let transition = one.text("state_transition").unwrap_or_default().to_lowercase();
        let Some((from, to)) = transition.split_once("->") else { return Vec::new() };
        let (from, to) = (from.trim().to_owned(), to.trim().to_owned());
        vec![Self { circuit, at: one.start, weight, what: What::Transition { from, to } }]
    }

    /// Returns what signs are ordered by: in one millisecond a call begins first and ends last.
    pub(super) const fn order(&self) -> (SystemTime, u8) {
        let place = match self.what {
            What::Call { .. } => 0,
            What::Transition { .. } => 1,
            What::End { .. } => 2,
        };
        (self.at, place)
    }
}

// ===== impl CircuitFigures =====

impl CircuitFigures {
    /// Returns how often it opened.
    #[must_use]
    pub fn opened(&self) -> f64 {
        let to_open = self.transitions.iter().filter(|(name, _)| name.ends_with("-> open"));
        // A sum of nothing would be minus zero.
        to_open.fold(0.0, |sum, (_, times)| sum + times)
    }

    /// Counts a sign; they come in their order.
    pub(super) fn count(&mut self, sign: &Sign) {
        match &sign.what {
            What::Call { state, is_rejected } => {
                self.calls += sign.weight;
                if *is_rejected {
                    self.rejected += sign.weight;
                }
                self.is_in(sign.at, state.as_deref());
            }
            What::End { state } => self.is_in(sign.at, state.as_deref()),
            What::Transition { from, to } => {
                *self.transitions.entry(format!("{from} -> {to}")).or_default() += sign.weight;
                // What was before is known only now, where this is the first sign.
                self.is_in(sign.at, self.state.is_none().then_some(from.as_str()));
                self.go_to(sign.at, to);
            }
        }
    }

    /// Adds the time since the last sign; a state is taken only where none is known, since calls
    /// side by side tell of states that are over.
    fn is_in(&mut self, at: SystemTime, state: Option<&str>) {
        if self.state.is_none()
            && let Some(state) = state
        {
            self.state = Some(state.to_owned());
            self.since = Some(at);
        }
        if let Some(state) = &self.state {
            let last = self.seen.unwrap_or(at);
            let passed = at.duration_since(last).unwrap_or_default();
            *self.time_in.entry(state.clone()).or_default() += passed;
            self.seen = self.seen.max(Some(at));
        }
    }

    fn go_to(&mut self, at: SystemTime, state: &str) {
        self.time_in.entry(state.to_owned()).or_default();
        self.state = Some(state.to_owned());
        self.since = Some(at);
    }
}
