//! Which months of the year are kind to the price.

use serde_json::{Value, json};

use super::{Facts, Percent, statistics};
use crate::prices::{Month, Prices};

/// A t of about 2 is what chance gives one time in twenty, and there are twelve months.
const NOTEWORTHY: f64 = 3.0;

/// The mean return of each calendar month.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Seasonality {
    /// January first; a month without a return is left out of `best` and `worst`.
    months: [CalendarMonth; 12],
    best: usize,
    worst: usize,
}

/// One month of the calendar, over all years.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct CalendarMonth {
    years: usize,
    mean: f64,
    /// The mean in units of its standard error: how far from chance it is.
    t: f64,
}

// ===== impl CalendarMonth =====

impl CalendarMonth {
    fn of(returns: &[f64]) -> Self {
        let mean = statistics::mean(returns);
        let error = statistics::deviation(returns) / (returns.len() as f64).sqrt();
        Self { years: returns.len(), mean, t: if error > 0.0 { mean / error } else { 0.0 } }
    }
}

// ===== impl Seasonality =====

impl Seasonality {
    pub(super) fn of(prices: &Prices) -> Self {
        let mut returns: [Vec<f64>; 12] = Default::default();
        for (month, gain) in prices.returns() {
            returns[month.index()].push(gain);
        }
        let months = returns.map(|returns| CalendarMonth::of(&returns));
        let known = || (0..12).filter(|month| months[*month].years > 0);
        let by_mean = |a: &usize, b: &usize| months[*a].mean.total_cmp(&months[*b].mean);
        Self {
            best: known().max_by(by_mean).unwrap_or(0),
            worst: known().min_by(by_mean).unwrap_or(0),
            months,
        }
    }

    pub(super) fn facts(&self) -> Facts {
        let (best, worst) = (self.months[self.best], self.months[self.worst]);
        let strength = best.t.abs().max(worst.t.abs());
        let verdict = if strength >= NOTEWORTHY {
            "stronger than chance would explain among twelve months"
        } else {
            "within what chance gives among twelve months"
        };
        let name = |month: usize| Month::FULL_NAMES[month];
        Facts::new()
            .number("best_month", name(self.best))
            .number("best_mean_return", best.mean)
            .number("best_t", best.t)
            .number("worst_month", name(self.worst))
            .number("worst_mean_return", worst.mean)
            .number("worst_t", worst.t)
            .number("mean_return_by_month", self.by_month())
            .sentence(format!(
                "{} is the best month with {} on average (t = {:.1}, {} years)",
                name(self.best),
                Percent(best.mean),
                best.t,
                best.years
            ))
            .sentence(format!(
                "{} is the worst with {} (t = {:.1}, {} years)",
                name(self.worst),
                Percent(worst.mean),
                worst.t,
                worst.years
            ))
            .sentence(format!("the pattern is {verdict}"))
    }

    fn by_month(&self) -> Value {
        let months = Month::FULL_NAMES.iter().zip(&self.months);
        months.map(|(name, month)| ((*name).to_owned(), json!(month.mean))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysts::assert_close;

    /// The numbers are Python's: `statistics.fmean(v)` and
    /// `fmean(v) / (statistics.stdev(v) / len(v) ** .5)` for the returns of each month.
    #[test]
    fn agrees_with_python() {
        let apple = Seasonality::of(&Prices::of("AAPL").unwrap());
        let years: Vec<_> = apple.months.iter().map(|month| month.years).collect();
        assert_eq!(years, [10, 11, 11, 10, 10, 10, 10, 10, 10, 10, 10, 10]);
        assert_eq!((apple.best, apple.worst), (2, 8));
        assert_close(apple.months[2].mean, 0.083_145_658_685_283);
        assert_close(apple.months[2].t, 2.586_090_517_742_649);
        assert_close(apple.months[8].mean, -0.055_985_296_265_785_87);
        assert_close(apple.months[8].t, -0.736_238_124_532_772_4);
        assert_close(apple.months[0].mean, 0.054_542_176_129_740_81);

        let google = Seasonality::of(&Prices::of("GOOG").unwrap());
        assert_eq!((google.best, google.worst), (9, 1));
        assert_close(google.months[9].t, 2.282_373_273_680_006);
        assert_close(google.months[1].mean, -0.079_535_678_904_930_62);
    }
}
