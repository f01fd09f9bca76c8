//! The quality gate: checks of a strategy that can send it back.

use serde::{Deserialize, Serialize};

use crate::strategy::Strategy;

/// The deepest fall from a peak that a back-test may have.
const WORST_DRAWDOWN: f64 = -0.25;

/// A back-test over fewer months says little.
const FEWEST_MONTHS: usize = 36;

/// How often a strategy is sent back before it is rejected.
pub(crate) const REVISIONS: usize = 1;

/// What the gate thinks of a strategy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    pub(crate) checks: Vec<Check>,
    /// The deepest fall of the back-test.
    worst_drawdown: f64,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Check {
    pub(crate) name: String,
    pub(crate) passed: bool,
    /// What was measured, and the limit.
    pub(crate) measured: String,
}

// ===== impl Verdict =====

impl Verdict {
    pub(crate) fn of(strategy: &Strategy) -> Self {
        let back_test = &strategy.back_test;
        let course = back_test.strategy;
        let check =
            |name: &str, passed, measured| Check { name: name.to_owned(), passed, measured };
        let checks = vec![
            check(
                "worst drawdown",
                course.worst_drawdown >= WORST_DRAWDOWN,
                format!(
                    "{:.1} %, at most {:.0} %",
                    -course.worst_drawdown * 100.0,
                    -WORST_DRAWDOWN * 100.0
                ),
            ),
            check(
                "return",
                course.total_return > 0.0,
                format!("{:+.1} % in all, more than nothing", course.total_return * 100.0),
            ),
            check(
                "length of the back-test",
                back_test.months >= FEWEST_MONTHS,
                format!("{} months, at least {FEWEST_MONTHS}", back_test.months),
            ),
        ];
        Self { checks, worst_drawdown: course.worst_drawdown }
    }

    pub(crate) fn passed(&self) -> bool {
        self.checks.iter().all(|check| check.passed)
    }

    /// Returns how much of the share would have passed, with a tenth to spare; none where it had not
    /// fallen too deep.
    pub(crate) fn cut(&self) -> Option<f64> {
        let is_too_deep = self.worst_drawdown < WORST_DRAWDOWN;
        is_too_deep.then(|| 0.9 * WORST_DRAWDOWN / self.worst_drawdown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::{BackTest, Course};

    fn strategy(worst_drawdown: f64, total_return: f64, months: usize) -> Strategy {
        let strategy = Course { total_return, return_per_year: 0.0, worst_drawdown };
        let back_test = BackTest { months, strategy, stock: strategy };
        Strategy { share: 0.4, share_below: 0.1, sits_out: None, reasons: Vec::new(), back_test }
    }

    #[test]
    fn each_check_can_fail_alone() {
        assert!(Verdict::of(&strategy(-0.25, 0.1, 36)).passed());
        for (strategy, failed) in [
            (strategy(-0.26, 0.1, 36), "worst drawdown"),
            (strategy(-0.25, 0.0, 36), "return"),
            (strategy(-0.25, 0.1, 35), "length of the back-test"),
        ] {
            let verdict = Verdict::of(&strategy);
            assert!(!verdict.passed());
            let mut names = verdict.checks.iter().filter(|check| !check.passed);
            assert_eq!(names.next().map(|check| &*check.name), Some(failed));
            assert_eq!(names.next(), None);
        }
    }

    #[test]
    fn what_fell_too_deep_gets_a_smaller_share_and_nothing_else_does() {
        assert_eq!(Verdict::of(&strategy(-0.25, 0.0, 1)).cut(), None);
        let cut = Verdict::of(&strategy(-0.5, 0.1, 36)).cut().unwrap();
        assert!((cut - 0.45).abs() < 1e-12, "{cut}");
    }
}
