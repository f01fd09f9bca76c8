//! How much the price moves with those of the other stocks.

use super::{Facts, statistics};
use crate::prices::{Prices, tickers};

/// The correlations of the monthly returns with each other stock, over the months of both.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Correlation {
    /// In alphabetical order.
    with: Vec<(&'static str, f64)>,
}

impl Correlation {
    pub(super) fn of(prices: &Prices) -> Self {
        let others = tickers().into_iter().filter(|ticker| *ticker != prices.ticker());
        let others = others.filter_map(|ticker| Prices::of(ticker).ok());
        let with = others.map(|other| (other.ticker(), between(prices, &other))).collect();
        Self { with }
    }

    fn mean(&self) -> f64 {
        statistics::mean(&self.with.iter().map(|(_, correlation)| *correlation).collect::<Vec<_>>())
    }

    pub(super) fn facts(&self) -> Facts {
        let by_size = |a: &&(_, f64), b: &&(_, f64)| a.1.total_cmp(&b.1);
        let mut facts = Facts::new().number("mean_correlation", self.mean()).sentence(format!(
            "the mean correlation with {} other stocks is {:.2}",
            self.with.len(),
            self.mean()
        ));
        for (ticker, correlation) in &self.with {
            facts = facts.number(&format!("with_{ticker}"), *correlation);
        }
        let (most, least) = (self.with.iter().max_by(by_size), self.with.iter().min_by(by_size));
        match (most, least) {
            (Some((most, high)), Some((least, low))) => facts.sentence(format!(
                "it moves most with {most} ({high:.2}) and least with {least} ({low:.2})"
            )),
            _ => facts,
        }
    }
}

/// Correlates the returns of the months that both have.
fn between(one: &Prices, other: &Prices) -> f64 {
    let others: Vec<_> = other.returns().collect();
    let same = |month| others.iter().find(|(other, _)| *other == month).map(|(_, gain)| *gain);
    let pairs = one.returns().filter_map(|(month, gain)| Some((gain, same(month)?)));
    let (ours, theirs): (Vec<_>, Vec<_>) = pairs.unzip();
    statistics::correlation(&ours, &theirs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysts::assert_close;

    /// The numbers are Python's: `statistics.correlation` of the returns `b / a - 1` of the months
    /// that both stocks have.
    #[test]
    fn agrees_with_python() {
        let apple = Correlation::of(&Prices::of("AAPL").unwrap());
        let names: Vec<_> = apple.with.iter().map(|(ticker, _)| *ticker).collect();
        assert_eq!(names, ["AMZN", "GOOG", "IBM", "MSFT"]);
        assert_close(apple.with[0].1, 0.386_320_287_697_023_7);
        assert_close(apple.with[1].1, 0.551_043_932_524_949_5);
        assert_close(apple.with[2].1, 0.493_624_677_570_994_9);
        assert_close(apple.with[3].1, 0.486_552_718_261_406_84);
    }
}
