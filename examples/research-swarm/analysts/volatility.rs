//! How much the price moves.

use super::{Facts, Percent, statistics};
use crate::prices::{Month, Prices};

/// The spread of the monthly returns.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Volatility {
    /// Standard deviation of the monthly log returns, times the root of 12.
    annualised: f64,
    worst: (Month, f64),
    best: (Month, f64),
}

impl Volatility {
    pub(super) fn of(prices: &Prices) -> Self {
        let logarithmic: Vec<f64> = prices.returns().map(|(_, gain)| gain.ln_1p()).collect();
        let by_gain = |a: &(Month, f64), b: &(Month, f64)| a.1.total_cmp(&b.1);
        let standstill = (prices.period().1, 0.0);
        Self {
            annualised: statistics::deviation(&logarithmic) * 12_f64.sqrt(),
            worst: prices.returns().min_by(by_gain).unwrap_or(standstill),
            best: prices.returns().max_by(by_gain).unwrap_or(standstill),
        }
    }

    pub(super) fn facts(&self) -> Facts {
        Facts::new()
            .number("annualised_volatility", self.annualised)
            .number("worst_month", self.worst.0.to_string())
            .number("worst_return", self.worst.1)
            .number("best_month", self.best.0.to_string())
            .number("best_return", self.best.1)
            .sentence(format!("annualised volatility of {:.1} %", self.annualised * 100.0))
            .sentence(format!(
                "the worst month was {} with {}",
                self.worst.0,
                Percent(self.worst.1)
            ))
            .sentence(format!("the best month was {} with {}", self.best.0, Percent(self.best.1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysts::assert_close;

    /// The numbers are Python's: `statistics.stdev([log(b / a) ..]) * 12 ** .5`, `min` and `max`
    /// of `b / a - 1`.
    #[test]
    fn agrees_with_python() {
        let apple = Volatility::of(&Prices::of("AAPL").unwrap());
        assert_close(apple.annualised, 0.546_832_826_866_064_8);
        assert_eq!(apple.worst.0.to_string(), "Sep 2000");
        assert_close(apple.worst.1, -0.577_289_136_855_923_9);
        assert_eq!(apple.best.0.to_string(), "Jan 2001");
        assert_close(apple.best.1, 0.452_956_989_247_311_76);

        let google = Volatility::of(&Prices::of("GOOG").unwrap());
        assert_close(google.annualised, 0.391_503_626_608_687_76);
        assert_eq!(google.worst.0.to_string(), "Nov 2008");
        assert_eq!(google.best.0.to_string(), "Oct 2004");
    }
}
