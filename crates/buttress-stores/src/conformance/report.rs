use std::fmt;

use super::Case;

/// What the suite found of a store; prints as a table.
#[derive(Debug, Clone)]
pub struct Report(Vec<Outcome>);

/// What the suite found in one case.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Outcome {
    /// The case.
    pub case: Case,
    /// What came of it.
    pub verdict: Verdict,
}

/// What came of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// The store keeps the promise.
    Passed,
    /// The store says that it does not make the promise, or cannot be asked for it.
    Skipped(String),
    /// The store breaks the promise.
    Failed(String),
    /// The promise is not one that can be seen through a store's trait: who tests it.
    Elsewhere(&'static str),
}

// ===== impl Report =====

impl Report {
    pub(super) const fn new(outcomes: Vec<Outcome>) -> Self {
        Self(outcomes)
    }

    /// Returns what was found, by number of case.
    #[must_use]
    pub fn outcomes(&self) -> &[Outcome] {
        &self.0
    }

    /// Returns the cases in which the store breaks its promise.
    pub fn failed(&self) -> impl Iterator<Item = &Outcome> {
        self.0.iter().filter(|outcome| outcome.verdict.is_failed())
    }

    /// Panics where a case has failed.
    ///
    /// # Panics
    ///
    /// With the table.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(self.failed().next().is_none(), "the store breaks promises:\n{self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for outcome in &self.0 {
            writeln!(f, "{outcome}")?;
        }
        let count = |is: fn(&Verdict) -> bool| self.0.iter().filter(|o| is(&o.verdict)).count();
        let passed = count(Verdict::is_passed);
        let failed = count(Verdict::is_failed);
        write!(f, "{passed} passed, {failed} failed, {} not run", self.0.len() - passed - failed)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case, verdict } = self;
        write!(f, "{:>3} {} {:<58} {verdict}", case.number, case.class.as_str(), case.title)
    }
}

// ===== impl Verdict =====

impl Verdict {
    /// Returns whether the store keeps the promise.
    #[must_use]
    pub const fn is_passed(&self) -> bool {
        matches!(self, Self::Passed)
    }

    /// Returns whether the store breaks the promise.
    #[must_use]
    pub const fn is_failed(&self) -> bool {
        matches!(self, Self::Failed(_))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Skipped(reason) => write!(f, "skipped: {reason}"),
            Self::Failed(what) => write!(f, "FAILED: {what}"),
            Self::Elsewhere(by) => write!(f, "not run: {by}"),
        }
    }
}
