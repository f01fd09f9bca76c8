//! Times, and tables of what was measured.

use std::{fmt, time::Instant};

use serde_json::{Map, Value};

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    Full,
    Quick,
}

/// What was measured along one axis.
#[derive(Debug)]
pub(crate) struct Table {
    axis: &'static str,
    columns: &'static [&'static str],
    rows: Vec<(usize, Vec<f64>)>,
}

// ===== impl Effort =====

impl Effort {
    /// Returns the places on an axis that are measured: all, or those up to a limit.
    pub(crate) fn of(self, places: &[usize], quick: usize) -> Vec<usize> {
        let is_measured = |place: &&usize| self == Self::Full || **place <= quick;
        places.iter().filter(is_measured).copied().collect()
    }

    const fn rounds(self) -> usize {
        match self {
            Self::Full => 15,
            Self::Quick => 2,
        }
    }

    /// Returns the least time of one call in nanoseconds, over some rounds of so many calls.
    pub(crate) fn nanos(self, calls: usize, mut one: impl FnMut()) -> f64 {
        let rounds = (0..=self.rounds()).map(|_| nanos_once(calls, &mut one));
        rounds.fold(f64::INFINITY, f64::min)
    }
}

/// Returns the time of one of so many calls in nanoseconds.
pub(crate) fn nanos_once(calls: usize, mut one: impl FnMut()) -> f64 {
    let start = now();
    (0..calls).for_each(|_| one());
    start.elapsed().as_secs_f64() * 1e9 / count(calls)
}

// ===== impl Table =====

impl Table {
    pub(crate) const fn new(axis: &'static str, columns: &'static [&'static str]) -> Self {
        Self { axis, columns, rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, place: usize, values: impl Into<Vec<f64>>) {
        self.rows.push((place, values.into()));
    }

    /// Returns each row for programs.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Value> {
        self.rows.iter().map(|(place, values)| {
            let named = self.columns.iter().zip(values);
            let mut row: Map<String, Value> = named
                .map(|(column, value)| {
                    ((*column).to_owned(), ((value * 10.0).round() / 10.0).into())
                })
                .collect();
            row.insert(self.axis.to_owned(), (*place).into());
            row.into()
        })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>20}", self.axis)?;
        self.columns.iter().try_for_each(|column| write!(f, " {column:>24}"))?;
        writeln!(f)?;
        for (place, values) in &self.rows {
            write!(f, "{place:>20}")?;
            values.iter().try_for_each(|value| write!(f, " {value:>24.1}"))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "a measurement runs on real time")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
pub(crate) const fn count(number: usize) -> f64 {
    number as f64
}
