//! Which request of the embedded server fails, and how: the same for the same seed.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cli::Weather;

/// The faults of a run.
///
/// Each request's fate follows from the seed, the agent, the model and how many requests that
/// agent has sent to that model. The order in which requests arrive does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Faults {
    weather: Weather,
    seed: u64,
}

/// What becomes of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// An answer after this time.
    Answer { after: Duration },
    /// Nothing, ever.
    Hang,
    /// A 500.
    ServerError,
    /// A 429 that passes, with the time to wait: in milliseconds, or else in whole seconds.
    RateLimited { wait: Duration, in_milliseconds: bool },
    /// A 200 whose JSON breaks off.
    Malformed,
    /// A 400: the prompt is longer than the model can read.
    ContextLength,
    /// A 429 that does not pass: nothing is left to spend.
    QuotaExhausted,
}

/// How a model behaves in some weather.
struct Climate {
    /// The share of requests that do not get a quick answer.
    trouble: f64,
    /// How much of that trouble is what; the numbers are relative to each other.
    mix: [(Kind, u32); 7],
}

#[derive(Clone, Copy)]
enum Kind {
    ServerError,
    RateLimited,
    Malformed,
    Slow,
    Hang,
    ContextLength,
    Quota,
}

/// In milliseconds, both ends included.
const QUICK: (u64, u64) = (20, 90);
const SLOW: (u64, u64) = (300, 700);

// ===== impl Faults =====

impl Faults {
    pub(crate) const fn new(weather: Weather, seed: u64) -> Self {
        Self { weather, seed }
    }

    pub(crate) const fn weather(self) -> Weather {
        self.weather
    }

    pub(crate) const fn seed(self) -> u64 {
        self.seed
    }

    /// Decides about the n-th request of an agent to a model; n starts at 1.
    pub(crate) fn fate(self, agent: &str, model: &str, n: u32, is_backup: bool) -> Fate {
        let mut random = self.random(agent, model, n);
        let climate = Climate::of(self.weather, is_backup);
        if random.f64() >= climate.trouble {
            return Fate::Answer { after: between(&mut random, QUICK) };
        }
        match climate.pick(&mut random) {
            Kind::ServerError => Fate::ServerError,
            Kind::RateLimited => rate_limited(&mut random),
            Kind::Malformed => Fate::Malformed,
            Kind::Slow => Fate::Answer { after: between(&mut random, SLOW) },
            Kind::Hang => Fate::Hang,
            Kind::ContextLength => Fate::ContextLength,
            Kind::Quota => Fate::QuotaExhausted,
        }
    }

    /// Returns how long a failing request takes before it fails.
    pub(crate) fn pause(self, agent: &str, model: &str, n: u32) -> Duration {
        // Another stream than the fate's, so that the one does not depend on the other.
        let mut random = self.random(agent, model, n);
        let other = random.u64(..) ^ u64::MAX;
        between(&mut fastrand::Rng::with_seed(other), QUICK)
    }

    fn random(self, agent: &str, model: &str, n: u32) -> fastrand::Rng {
        let mut hash = Fnv::new();
        hash.write(&self.seed.to_le_bytes());
        hash.write(agent.as_bytes());
        hash.write(&[0]);
        hash.write(model.as_bytes());
        hash.write(&n.to_le_bytes());
        fastrand::Rng::with_seed(hash.0)
    }
}

fn rate_limited(random: &mut fastrand::Rng) -> Fate {
    let in_milliseconds = random.f64() < 0.75;
    let wait = if in_milliseconds {
        Duration::from_millis(random.u64(50..=300))
    } else {
        Duration::from_secs(1)
    };
    Fate::RateLimited { wait, in_milliseconds }
}

fn between(random: &mut fastrand::Rng, (least, most): (u64, u64)) -> Duration {
    Duration::from_millis(random.u64(least..=most))
}

// ===== impl Climate =====

impl Climate {
    fn of(weather: Weather, is_backup: bool) -> Self {
        use Kind::{ContextLength, Hang, Malformed, Quota, RateLimited, ServerError, Slow};
        let trouble = match (weather, is_backup) {
            (Weather::None, _) => 0.0,
            (Weather::Some, false) => 0.45,
            (Weather::Some, true) => 0.1,
            (Weather::Storm, false) => 0.96,
            (Weather::Storm, true) => 0.4,
        };
        let mix = match (weather, is_backup) {
            // In a storm the first model is down: it hardly ever gets as far as an answer.
            (Weather::Storm, false) => [
                (ServerError, 50),
                (RateLimited, 12),
                (Malformed, 14),
                (Slow, 2),
                (Hang, 12),
                (ContextLength, 5),
                (Quota, 5),
            ],
            _ => [
                (ServerError, 30),
                (RateLimited, 25),
                (Malformed, 15),
                (Slow, 20),
                (Hang, 4),
                (ContextLength, 3),
                (Quota, 3),
            ],
        };
        Self { trouble, mix }
    }

    fn pick(&self, random: &mut fastrand::Rng) -> Kind {
        let total = self.mix.iter().map(|(_, weight)| weight).sum();
        let mut left = random.u32(0..total);
        for (kind, weight) in self.mix {
            if left < weight {
                return kind;
            }
            left -= weight;
        }
        unreachable!("the weights add up to the total")
    }
}

/// FNV-1a: not for secrets, but the same on every machine and in every version of Rust.
struct Fnv(u64);

impl Fnv {
    const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share_of_trouble(weather: Weather, is_backup: bool) -> f64 {
        let faults = Faults::new(weather, 1);
        let troubled = (1..=2000)
            .filter(|n| match faults.fate("trend", "model", *n, is_backup) {
                Fate::Answer { after } => after > Duration::from_millis(QUICK.1),
                _ => true,
            })
            .count();
        troubled as f64 / 2000.0
    }

    #[test]
    fn the_weather_decides_how_often() {
        assert_eq!(share_of_trouble(Weather::None, false), 0.0);
        let some = share_of_trouble(Weather::Some, false);
        assert!((0.40..0.50).contains(&some), "{some}");
        let storm = share_of_trouble(Weather::Storm, false);
        assert!(storm > 0.93, "{storm}");
        let backup = share_of_trouble(Weather::Storm, true);
        assert!((0.35..0.45).contains(&backup), "{backup}");
    }

    #[test]
    fn a_seed_decides_alike_every_time_and_another_one_differently() {
        let fates = |seed| {
            (1..=50)
                .map(|n| Faults::new(Weather::Storm, seed).fate("trend", "large", n, false))
                .collect::<Vec<_>>()
        };
        assert_eq!(fates(7), fates(7));
        assert_ne!(fates(7), fates(8));
    }

    #[test]
    fn every_kind_of_fault_comes_up() {
        let faults = Faults::new(Weather::Storm, 7);
        let seen = |wanted: fn(&Fate) -> bool| {
            (1..=2000).any(|n| wanted(&faults.fate("trend", "large", n, false)))
        };
        assert!(seen(|fate| matches!(fate, Fate::Hang)));
        assert!(seen(|fate| matches!(fate, Fate::ServerError)));
        assert!(seen(|fate| matches!(fate, Fate::RateLimited { in_milliseconds: true, .. })));
        assert!(seen(|fate| matches!(fate, Fate::RateLimited { in_milliseconds: false, .. })));
        assert!(seen(|fate| matches!(fate, Fate::Malformed)));
        assert!(seen(|fate| matches!(fate, Fate::ContextLength)));
        assert!(seen(|fate| matches!(fate, Fate::QuotaExhausted)));
        assert!(seen(|fate| matches!(fate, Fate::Answer { after } if after.as_millis() >= 300)));
    }
}
