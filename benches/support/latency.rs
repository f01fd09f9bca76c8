//! Latencies: what is recorded of them, and what is said about them.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Longer than any call may take.
const LONGEST_NS: u64 = 60_000_000_000;

/// Latencies as they are recorded, in nanoseconds, each to three digits.
#[derive(Debug)]
pub struct Latencies(Histogram<u64>);

/// What is said about latencies, in milliseconds.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Summary {
    /// How many calls.
    pub calls: u64,
    /// The median.
    pub p50: f64,
    /// What one call in a hundred exceeds.
    pub p99: f64,
    /// What one call in a thousand exceeds.
    pub p999: f64,
    /// The longest.
    pub max: f64,
}

// ===== impl Latencies =====

impl Latencies {
    /// Starts with none.
    ///
    /// # Panics
    ///
    /// Never: the bounds are in order.
    #[must_use]
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("the bounds are in order"))
    }

    /// Adds one.
    pub fn record(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Says what came of them.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let at = |quantile| millis(self.0.value_at_quantile(quantile));
        Summary {
            calls: self.0.len(),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: millis(self.0.max()),
        }
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Summary {
    /// Returns the four figures in the order of the table.
    #[must_use]
    pub const fn figures(&self) -> [f64; 4] {
        [self.p50, self.p99, self.p999, self.max]
    }
}

fn millis(nanos: u64) -> f64 {
    Duration::from_nanos(nanos).as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rare_outlier_shows_in_the_last_figures_only() {
        let mut latencies = Latencies::new();
        (0..998).for_each(|_| latencies.record(Duration::from_micros(200)));
        (0..2).for_each(|_| latencies.record(Duration::from_secs(1)));
        let [p50, p99, p999, max] = latencies.summary().figures();
        assert!((0.1999..0.2003).contains(&p50) && (0.1999..0.2003).contains(&p99));
        assert!((999.0..1001.0).contains(&p999) && (999.0..1001.0).contains(&max));
    }
}
