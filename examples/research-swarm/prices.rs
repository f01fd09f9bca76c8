//! The prices: real monthly closes, built into the program.

use std::fmt;

/// Where they come from says `data/README.md`.
const CSV: &str = include_str!("data/stocks.csv");

/// A month of a year.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Month {
    year: u16,
    /// 1 is January.
    month: u8,
}

/// The monthly closes of one stock, oldest first, without gaps.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Prices {
    ticker: &'static str,
    months: Vec<Month>,
    closes: Vec<f64>,
}

/// Nothing is known about the ticker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnknownTicker {
    asked: String,
    known: Vec<&'static str>,
}

// ===== impl Month =====

impl Month {
    const NAMES: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

    /// The months of a year by their English names.
    pub(crate) const FULL_NAMES: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];

    /// Reads `Jan 1 2000`.
    fn parse(date: &str) -> Option<Self> {
        let mut words = date.split(' ');
        let name = words.next()?;
        let _day = words.next()?;
        let year = words.next()?.parse().ok()?;
        let month = (1..).zip(Self::NAMES).find(|(_, known)| *known == name)?.0;
        Some(Self { year, month })
    }

    /// Returns the place in the year: January is 0.
    pub(crate) fn index(self) -> usize {
        usize::from(self.month - 1)
    }

    /// Counts the months from `earlier` to this one.
    pub(crate) fn since(self, earlier: Self) -> i32 {
        let ordinal = |month: Self| i32::from(month.year) * 12 + i32::from(month.month);
        ordinal(self) - ordinal(earlier)
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", Self::NAMES[self.index()], self.year)
    }
}

// ===== impl Prices =====

impl Prices {
    /// Finds the prices of a ticker, in any case.
    pub(crate) fn of(ticker: &str) -> Result<Self, UnknownTicker> {
        let mut found: Option<Self> = None;
        for (symbol, month, close) in rows() {
            if symbol.eq_ignore_ascii_case(ticker) {
                let prices = found.get_or_insert_with(|| Self {
                    ticker: symbol,
                    months: Vec::new(),
                    closes: Vec::new(),
                });
                prices.months.push(month);
                prices.closes.push(close);
            }
        }
        found.ok_or_else(|| UnknownTicker { asked: ticker.to_owned(), known: tickers() })
    }

    /// Returns the ticker as the exchange writes it.
    pub(crate) const fn ticker(&self) -> &'static str {
        self.ticker
    }

    /// Returns the months, oldest first.
    pub(crate) fn months(&self) -> &[Month] {
        &self.months
    }

    /// Returns the closing price of each month, in US dollars.
    pub(crate) fn closes(&self) -> &[f64] {
        &self.closes
    }

    /// Returns the first and the last month.
    pub(crate) fn period(&self) -> (Month, Month) {
        let first = self.months.first().expect("a known ticker has a price");
        let last = self.months.last().expect("a known ticker has a price");
        (*first, *last)
    }

    /// Returns what each month after the first gained, 0.05 for 5 %.
    pub(crate) fn returns(&self) -> impl Iterator<Item = (Month, f64)> + '_ {
        let gains = self.closes.windows(2).map(|pair| pair[1] / pair[0] - 1.0);
        self.months.iter().copied().skip(1).zip(gains)
    }
}

/// Returns every known ticker, in alphabetical order.
pub(crate) fn tickers() -> Vec<&'static str> {
    let mut tickers: Vec<_> = rows().map(|(symbol, ..)| symbol).collect();
    tickers.sort_unstable();
    tickers.dedup();
    tickers
}

fn rows() -> impl Iterator<Item = (&'static str, Month, f64)> {
    CSV.lines().skip(1).map(|line| row(line).expect("a test reads every row of the built-in file"))
}

fn row(line: &str) -> Option<(&str, Month, f64)> {
    let mut cells = line.split(',');
    let symbol = cells.next()?;
    let month = Month::parse(cells.next()?)?;
    let close = cells.next()?.parse().ok()?;
    Some((symbol, month, close))
}

// ===== impl UnknownTicker =====

impl fmt::Display for UnknownTicker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no prices of {:?}; known are {}", self.asked, self.known.join(", "))
    }
}

impl std::error::Error for UnknownTicker {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_read_and_no_month_is_missing() {
        assert_eq!(CSV.lines().count(), 561);
        assert_eq!(rows().count(), 560);
        assert_eq!(tickers(), ["AAPL", "AMZN", "GOOG", "IBM", "MSFT"]);
        for ticker in tickers() {
            let prices = Prices::of(ticker).unwrap();
            assert!(prices.months().windows(2).all(|pair| pair[1].since(pair[0]) == 1));
            assert!(prices.closes().iter().all(|close| *close > 0.0));
        }
    }

    #[test]
    fn a_ticker_is_found_in_any_case() {
        let prices = Prices::of("goog").unwrap();
        assert_eq!(prices.ticker(), "GOOG");
        assert_eq!(prices.closes().len(), 68);
        let (first, last) = prices.period();
        assert_eq!((first.to_string(), last.to_string()), ("Aug 2004".into(), "Mar 2010".into()));
    }

    #[test]
    fn an_unknown_ticker_names_the_known_ones() {
        let error = Prices::of("TSLA").unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"no prices of "TSLA"; known are AAPL, AMZN, GOOG, IBM, MSFT"#
        );
    }

    #[test]
    fn a_return_belongs_to_the_month_that_ends_it() {
        let prices = Prices::of("AAPL").unwrap();
        let (month, gain) = prices.returns().next().unwrap();
        assert_eq!(month.to_string(), "Feb 2000");
        // The file: 25.94 in January 2000, 28.66 in February.
        assert!((gain - 28.66 / 25.94 + 1.0).abs() < 1e-12);
    }
}
