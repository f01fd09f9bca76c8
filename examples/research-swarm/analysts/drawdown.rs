//! How far the price fell, and for how long.

use serde_json::Value;

use super::{Facts, Percent};
use crate::prices::{Month, Prices};

/// The deepest fall from a peak, and where the price stands now.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Drawdown {
    /// The deepest fall, -0.5 for half of the value; 0 where the price never fell.
    deepest: f64,
    peak: Month,
    trough: Month,
    /// The first month that closed at the peak's price or above.
    recovered: Option<Month>,
    /// The last close against the highest.
    current: f64,
}

impl Drawdown {
    /// Walks the prices once: the deepest fall ends at some month and starts at the highest close
    /// before it.
    pub(super) fn of(prices: &Prices) -> Self {
        let (months, closes) = (prices.months(), prices.closes());
        let (mut highest, mut deepest) = (0, 0.0);
        let (mut peak, mut trough) = (0, 0);
        for (here, close) in closes.iter().enumerate() {
            if *close > closes[highest] {
                highest = here;
            }
            let fall = close / closes[highest] - 1.0;
            if fall < deepest {
                (deepest, peak, trough) = (fall, highest, here);
            }
        }
        let recovered = (trough..closes.len()).find(|here| closes[*here] >= closes[peak]);
        Self {
            deepest,
            peak: months[peak],
            trough: months[trough],
            recovered: recovered.map(|here| months[here]),
            current: closes[closes.len() - 1] / closes[highest] - 1.0,
        }
    }

    pub(super) fn facts(&self) -> Facts {
        let recovery = match self.recovered {
            Some(month) => format!(
                "the peak was reached again in {month}, {} months after the trough",
                month.since(self.trough)
            ),
            None => "the peak has not been reached again".to_owned(),
        };
        let now = if self.current < 0.0 {
            format!("the last close stands {:.1} % below the highest", -self.current * 100.0)
        } else {
            "the last close is the highest of all".to_owned()
        };
        let months_to_recover = self.recovered.map(|month| month.since(self.trough));
        Facts::new()
            .number("max_drawdown", self.deepest)
            .number("peak", self.peak.to_string())
            .number("trough", self.trough.to_string())
            .number("recovered", self.recovered.map_or(Value::Null, |m| m.to_string().into()))
            .number("months_to_recover", months_to_recover)
            .number("current_drawdown", self.current)
            .sentence(format!(
                "the deepest fall was {} from {} to {}",
                Percent(self.deepest),
                self.peak,
                self.trough
            ))
            .sentence(recovery)
            .sentence(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysts::assert_close;

    /// The numbers are Python's, which compares every pair of months:
    /// `min((p[j] / p[i] - 1, i, j) for i in range(n) for j in range(i, n))`.
    #[test]
    fn agrees_with_python() {
        let apple = Drawdown::of(&Prices::of("AAPL").unwrap());
        assert_close(apple.deepest, -0.791_752_577_319_587_7);
        assert_eq!(apple.peak.to_string(), "Mar 2000");
        assert_eq!(apple.trough.to_string(), "Mar 2003");
        assert_eq!(apple.recovered.unwrap().to_string(), "Jan 2005");
        assert_close(apple.current, 0.0);
        assert_eq!(apple.facts().numbers()["months_to_recover"], 22);

        let microsoft = Drawdown::of(&Prices::of("MSFT").unwrap());
        assert_close(microsoft.deepest, -0.634_197_130_957_889_8);
        assert_eq!(microsoft.peak.to_string(), "Mar 2000");
        assert_eq!(microsoft.trough.to_string(), "Feb 2009");
        assert_eq!(microsoft.recovered, None);
        assert_close(microsoft.current, -0.333_641_832_484_960_6);

        let amazon = Drawdown::of(&Prices::of("AMZN").unwrap());
        assert_close(amazon.deepest, -0.913_314_941_193_553);
        assert_eq!(amazon.recovered.unwrap().to_string(), "May 2007");
    }
}
