//! In which state each circuit is, by what spans tell, whatever the order they come in.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use metrics::gauge;

/// The circuits that were seen, by their names.
#[derive(Debug, Default)]
pub(super) struct Circuits(Mutex<HashMap<String, Newest>>);

/// The newest state that is known of a circuit.
///
/// Spans are told outside every lock, so that they overtake each other. Their places among all spans
/// that began tell more: who tells of a change has begun after it, and who tells at the end of a call
/// has looked at the circuit after the call began.
#[derive(Debug, Default)]
struct Newest {
    state: Option<f64>,
    /// The place of the last change that was taken over.
    changed: Option<u64>,
    /// The last place of a call that was taken over.
    called: Option<u64>,
}

/// What a span tells of a circuit.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sign {
    /// It has gone to a state.
    Change(f64),
    /// Where it was at the end of a call; none where nobody has looked.
    Call(Option<f64>),
}

// ===== impl Circuits =====

impl Circuits {
    /// Takes over what a span tells, where it is news, and tells the recorder the newest state.
    ///
    /// Returns false for a circuit that is one too many.
    pub(super) fn take_over(&self, name: &str, most: usize, place: u64, sign: Sign) -> bool {
        let Some(mut newest) = self.note(name, most, place, sign) else { return false };
        // The recorder is the program's own, so it is told outside the lock, and told again where the
        // state has changed meanwhile: whoever tells it last has then told the newest.
        while let Some(state) = newest {
            gauge!("buttress.circuit_breaker.state", "circuit" => Cow::from(name.to_owned()))
                .set(state);
            let then = self.known().get(name).and_then(|newest| newest.state);
            if then == newest {
                break;
            }
            newest = then;
        }
        true
    }

    /// Takes over what is news and returns the newest state; nothing for a circuit that is one too many.
    fn note(&self, name: &str, most: usize, place: u64, sign: Sign) -> Option<Option<f64>> {
        let mut known = self.known();
        if !known.contains_key(name) {
            if known.len() >= most {
                return None;
            }
            known.insert(name.to_owned(), Newest::default());
        }
        let newest = known.get_mut(name)?;
        newest.take_over(place, sign);
        Some(newest.state)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Newest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// ===== impl Newest =====

impl Newest {
    fn take_over(&mut self, place: u64, sign: Sign) {
        let place = Some(place);
        match sign {
            Sign::Change(state) if place > self.changed.max(self.called) => {
                (self.state, self.changed) = (Some(state), place);
            }
            Sign::Call(Some(state)) if place > self.changed => {
                (self.state, self.called) = (Some(state), self.called.max(place));
            }
            Sign::Change(_) | Sign::Call(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_that_overtake_each_other_come_to_the_newest_state() {
        use Sign::{Call, Change};
        let (closed, half_open, open) = (0.0, 1.0, 2.0);
        let cases: [(&str, &[(u64, Sign)], f64); 5] = [
            ("a late call", &[(3, Change(open)), (2, Call(Some(closed)))], open),
            ("a call that began behind it", &[(3, Change(open)), (4, Call(Some(closed)))], closed),
            ("a change that comes late", &[(4, Call(Some(closed))), (3, Change(open))], closed),
            (
                "behind two calls, of which the older ended last",
                &[(9, Call(Some(closed))), (5, Call(Some(closed))), (7, Change(open))],
                closed,
            ),
            ("changes in another order", &[(5, Change(half_open)), (3, Change(open))], half_open),
        ];
        for (name, signs, expected) in cases {
            let mut newest = Newest::default();
            for (place, sign) in signs {
                newest.take_over(*place, *sign);
            }
            newest.take_over(u64::MAX, Call(None));
            assert_eq!(newest.state, Some(expected), "{name}");
        }
    }
}
