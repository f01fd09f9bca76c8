//! Where the price has been going.

use super::{Facts, Percent, statistics};
use crate::prices::Prices;

const MONTHS_OF_AVERAGE: usize = 12;

/// The direction over the whole period and against the last year.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Trend {
    /// Growth a year along the line of least squares through the logarithms.
    growth: f64,
    /// How much of the movement that line explains, 0 to 1.
    r_squared: f64,
    /// Growth a year from the first close to the last, compounded.
    cagr: f64,
    /// The last close against the mean of the last twelve.
    over_average: f64,
}

impl Trend {
    pub(super) fn of(prices: &Prices) -> Self {
        let closes = prices.closes();
        let logarithms: Vec<f64> = closes.iter().map(|close| close.ln()).collect();
        let line = statistics::fit(&logarithms);
        let (first, last) = (closes[0], closes[closes.len() - 1]);
        let years = (closes.len() - 1) as f64 / 12.0;
        let average = statistics::mean(&closes[closes.len().saturating_sub(MONTHS_OF_AVERAGE)..]);
        Self {
            growth: (line.slope * 12.0).exp() - 1.0,
            r_squared: line.r_squared,
            cagr: if years > 0.0 { (last / first).powf(1.0 / years) - 1.0 } else { 0.0 },
            over_average: last / average - 1.0,
        }
    }

    pub(super) fn facts(&self) -> Facts {
        Facts::new()
            .number("growth_per_year", self.growth)
            .number("r_squared", self.r_squared)
            .number("cagr", self.cagr)
            .number("over_12_month_average", self.over_average)
            .sentence(format!("compound growth of {} a year", Percent(self.cagr)))
            .sentence(format!(
                "the fitted trend grows {} a year and explains {:.0} % of the movement",
                Percent(self.growth),
                self.r_squared * 100.0
            ))
            .sentence(format!(
                "the last close stands {} against its 12-month average",
                Percent(self.over_average)
            ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysts::assert_close;

    /// The numbers are Python's: `statistics.linear_regression(range(n), logs)` and
    /// `statistics.correlation`, `(p[-1] / p[0]) ** (12 / (n - 1))`, `statistics.fmean(p[-12:])`.
    #[test]
    fn agrees_with_python() {
        let apple = Trend::of(&Prices::of("AAPL").unwrap());
        assert_close(apple.growth, 0.407_490_696_123_512_3);
        assert_close(apple.r_squared, 0.768_450_144_229_684_8);
        assert_close(apple.cagr, 0.235_678_879_212_934_5);
        assert_close(apple.over_average, 0.250_661_258_213_154);

        let google = Trend::of(&Prices::of("GOOG").unwrap());
        assert_close(google.growth, 0.172_568_518_507_931_1);
        assert_close(google.r_squared, 0.440_728_533_049_665_6);
        assert_close(google.cagr, 0.355_839_354_560_680_6);
        assert_close(google.over_average, 0.121_990_055_729_972_46);
    }
}
