//! The strategy: how much of the money is in the stock, by rules, and what that would have earned.

use serde::{Deserialize, Serialize};

use crate::{
    analysts::Analyst,
    prices::{Month, Prices},
    quality::Verdict,
    swarm::Survey,
};

/// How much the money in the stock may move in a year.
const TARGET_VOLATILITY: f64 = 0.25;

/// The months that the average is of which tells a rising price from a falling one.
const MONTHS_OF_AVERAGE: usize = 12;

/// A stock that is so far below its peak gets less.
const DEEP: f64 = -0.2;

/// Stocks that move together so much leave no others to lean on.
const ALIKE: f64 = 0.5;

/// From this t on, a month of the calendar is worse by more than chance.
const NOTEWORTHY: f64 = -3.0;

/// What to do with the money: so much of it in the stock, the rest in cash.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Strategy {
    /// The share in the stock while its price is over its 12-month average.
    pub(crate) share: f64,
    /// The share while it is not.
    pub(crate) share_below: f64,
    /// The month of the calendar in which nothing is in the stock.
    pub(crate) sits_out: Option<String>,
    /// Why it is like this, the first rule first.
    pub(crate) reasons: Vec<String>,
    pub(crate) back_test: BackTest,
}

/// What a strategy would have earned on the real prices, beside the stock alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct BackTest {
    pub(crate) months: usize,
    pub(crate) strategy: Course,
    pub(crate) stock: Course,
}

/// How some money went.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct Course {
    /// 0.5 for half as much again.
    pub(crate) total_return: f64,
    /// The same for each year, compounded.
    pub(crate) return_per_year: f64,
    /// The deepest fall from a peak: -0.2 for a fifth.
    pub(crate) worst_drawdown: f64,
}

// ===== impl Strategy =====

impl Strategy {
    /// Develops one from what the analysts found, and more carefully for each verdict against it.
    pub(crate) fn develop(survey: &Survey, prices: &Prices, verdicts: &[Verdict]) -> Self {
        let mut reasons = Vec::new();
        let volatility = survey.number(Analyst::Volatility, "annualised_volatility").unwrap_or(1.0);
        let mut share = (TARGET_VOLATILITY / volatility).min(1.0);
        reasons.push(format!(
            "volatility of {:.0} % a year: {:.0} % in the stock",
            volatility * 100.0,
            share * 100.0
        ));
        if survey.number(Analyst::Drawdown, "current_drawdown").is_some_and(|now| now < DEEP) {
            share *= 0.75;
            reasons.push("far below its peak: a quarter less".to_owned());
        }
        if survey.number(Analyst::Correlation, "mean_correlation").is_some_and(|mean| mean > ALIKE)
        {
            share *= 0.9;
            reasons.push("it moves with the others: a tenth less".to_owned());
        }
        for cut in verdicts.iter().filter_map(Verdict::cut) {
            share *= cut;
            reasons.push(format!("fell too deep and was sent back: {:.0} % of that", cut * 100.0));
        }
        let sits_out = worst_month(survey);
        if let Some(month) = &sits_out {
            reasons.push(format!("nothing in {month}, its worst month by more than chance"));
        }
        let share_below = share / 4.0;
        let back_test = BackTest::of(prices, share, share_below, sits_out.as_deref());
        Self { share, share_below, sits_out, reasons, back_test }
    }
}

fn worst_month(survey: &Survey) -> Option<String> {
    survey.number(Analyst::Seasonality, "worst_t").filter(|t| *t <= NOTEWORTHY)?;
    let seasonality = survey.findings.iter().find(|f| f.analyst == Analyst::Seasonality)?;
    seasonality.facts.numbers().get("worst_month")?.as_str().map(str::to_owned)
}

// ===== impl BackTest =====

impl BackTest {
    /// Decides at the end of each month by the prices up to then, and earns by the next month's.
    fn of(prices: &Prices, share: f64, share_below: f64, sits_out: Option<&str>) -> Self {
        let closes = prices.closes();
        let last_of_average = MONTHS_OF_AVERAGE - 1;
        let months = (last_of_average..closes.len().saturating_sub(1)).map(|now| {
            let average: f64 = closes[now - last_of_average..=now].iter().sum();
            let is_over = closes[now] > average / MONTHS_OF_AVERAGE as f64;
            let sits_out = sits_out == Some(Month::FULL_NAMES[prices.months()[now + 1].index()]);
            let share = match (sits_out, is_over) {
                (true, _) => 0.0,
                (false, true) => share,
                (false, false) => share_below,
            };
            (share, closes[now + 1] / closes[now] - 1.0)
        });
        let months: Vec<_> = months.collect();
        Self {
            months: months.len(),
            strategy: Course::of(months.iter().map(|(share, gain)| share * gain)),
            stock: Course::of(months.iter().map(|(_, gain)| *gain)),
        }
    }
}

// ===== impl Course =====

impl Course {
    /// Goes through what each month has gained; cash earns nothing.
    fn of(gains: impl ExactSizeIterator<Item = f64>) -> Self {
        let years = gains.len() as f64 / 12.0;
        let (mut money, mut peak, mut worst) = (1.0_f64, 1.0_f64, 0.0_f64);
        for gain in gains {
            money *= 1.0 + gain;
            peak = peak.max(money);
            worst = worst.min(money / peak - 1.0);
        }
        let per_year = if years > 0.0 { money.powf(1.0 / years) - 1.0 } else { 0.0 };
        Self { total_return: money - 1.0, return_per_year: per_year, worst_drawdown: worst }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysts::assert_close;

    /// The numbers are a Python loop's over the same rule.
    #[test]
    fn a_back_test_agrees_with_python() {
        let back_test = BackTest::of(&Prices::of("AAPL").unwrap(), 0.4, 0.1, None);
        assert_eq!(back_test.months, 111);
        assert_close(back_test.strategy.total_return, 2.481_167_902_780_321_7);
        assert_close(back_test.strategy.return_per_year, 0.144_365_777_562_299_07);
        assert_close(back_test.strategy.worst_drawdown, -0.261_130_612_316_688_55);
        assert_close(back_test.stock.total_return, 28.975_806_451_612_918);
        let google = BackTest::of(&Prices::of("GOOG").unwrap(), 0.4, 0.1, Some("January"));
        assert_close(google.strategy.total_return, 0.473_352_151_496_671);
    }

    #[test]
    fn money_that_was_never_in_the_stock_stays_what_it_was() {
        let back_test = BackTest::of(&Prices::of("IBM").unwrap(), 0.0, 0.0, None);
        let still = Course { total_return: 0.0, return_per_year: 0.0, worst_drawdown: 0.0 };
        assert_eq!(back_test.strategy, still);
        assert_eq!(Course::of(std::iter::empty()), still);
    }
}
