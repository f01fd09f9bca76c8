//! The analysts: what each one computes from the prices, before a model phrases it.

mod correlation;
mod drawdown;
mod seasonality;
mod statistics;
mod trend;
mod volatility;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::{
    correlation::Correlation, drawdown::Drawdown, seasonality::Seasonality, trend::Trend,
    volatility::Volatility,
};
use crate::prices::Prices;

/// One analyst of the swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Analyst {
    /// Where the price has been going.
    Trend,
    /// How much it moves.
    Volatility,
    /// How far it fell, and for how long.
    Drawdown,
    /// Which months are kind to it.
    Seasonality,
    /// How much it moves with other stocks.
    Correlation,
}

/// What an analyst computed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Facts {
    numbers: Map<String, Value>,
    sentences: Vec<String>,
}

// ===== impl Analyst =====

impl Analyst {
    /// Every analyst, in the order of the report.
    pub(crate) const ALL: [Self; 5] =
        [Self::Trend, Self::Volatility, Self::Drawdown, Self::Seasonality, Self::Correlation];

    /// Returns the name, which is also the agent's id.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Trend => "trend",
            Self::Volatility => "volatility",
            Self::Drawdown => "drawdown",
            Self::Seasonality => "seasonality",
            Self::Correlation => "correlation",
        }
    }

    /// Returns whether no strategy can be made without it.
    pub(crate) const fn is_required(self) -> bool {
        matches!(self, Self::Trend | Self::Volatility | Self::Drawdown)
    }

    /// Computes what this analyst looks at.
    pub(crate) fn analyse(self, prices: &Prices) -> Facts {
        match self {
            Self::Trend => Trend::of(prices).facts(),
            Self::Volatility => Volatility::of(prices).facts(),
            Self::Drawdown => Drawdown::of(prices).facts(),
            Self::Seasonality => Seasonality::of(prices).facts(),
            Self::Correlation => Correlation::of(prices).facts(),
        }
    }
}

impl fmt::Display for Analyst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

// ===== impl Facts =====

impl Facts {
    fn new() -> Self {
        Self { numbers: Map::new(), sentences: Vec::new() }
    }

    /// Adds a value for programs.
    fn number(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.numbers.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a sentence for people and models.
    fn sentence(mut self, text: String) -> Self {
        self.sentences.push(text);
        self
    }

    /// Returns the values by name.
    pub(crate) const fn numbers(&self) -> &Map<String, Value> {
        &self.numbers
    }

    /// Returns the sentences, the most important one first.
    pub(crate) fn sentences(&self) -> &[String] {
        &self.sentences
    }
}

/// Shows a share as a percentage with one digit and its sign: 0.05 is `+5.0 %`.
struct Percent(f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:+.1} %", self.0 * 100.0)
    }
}

/// Compares with a number that was computed another way, in another order of additions.
#[cfg(test)]
#[track_caller]
pub(crate) fn assert_close(ours: f64, expected: f64) {
    assert!((ours - expected).abs() < 1e-9, "{ours} is not {expected}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_analyst_has_something_to_say_about_every_stock() {
        for ticker in crate::prices::tickers() {
            let prices = Prices::of(ticker).unwrap();
            for analyst in Analyst::ALL {
                let facts = analyst.analyse(&prices);
                assert!(facts.sentences().len() >= 2, "{ticker} {analyst}");
                // A number that is not finite would be null.
                assert!(
                    facts.numbers().iter().all(|(name, value)| name == "recovered"
                        || name == "months_to_recover"
                        || !value.is_null()),
                    "{ticker} {analyst}"
                );
            }
        }
    }
}
