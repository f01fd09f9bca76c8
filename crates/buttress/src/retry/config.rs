use std::time::Duration;

use serde::Deserialize;

use super::{ExponentialBackoff, Jitter, OverCap, RetryLayer};
use crate::{
    ConfigError,
    config::{duration, lenient, text},
};

/// Settings of a [`RetryLayer`] from outside; what is absent has the layer's default.
///
/// ```
/// use buttress::{RetryConfig, RetryLayer};
///
/// let config: RetryConfig =
///     toml::from_str("max_attempts = 4\nbase = '200ms'\njitter = 'full'").unwrap();
/// let layer = RetryLayer::try_from(config).unwrap();
/// ```
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct RetryConfig {
    /// How many attempts are made at most, the first one included.
    #[serde(deserialize_with = "lenient")]
    pub max_attempts: Option<usize>,
    /// The first delay.
    #[serde(deserialize_with = "duration")]
    pub base: Option<Duration>,
    /// What each delay is multiplied by to get the next.
    #[serde(deserialize_with = "lenient")]
    pub factor: Option<f64>,
    /// The longest delay, jitter included.
    #[serde(deserialize_with = "duration")]
    pub max: Option<Duration>,
    /// `none`, `full`, `equal`, `decorrelated` or `proportional`.
    #[serde(deserialize_with = "text")]
    pub jitter: Option<String>,
    /// The share that proportional jitter may take off.
    #[serde(deserialize_with = "lenient")]
    pub jitter_below: Option<f64>,
    /// The share that proportional jitter may add.
    #[serde(deserialize_with = "lenient")]
    pub jitter_above: Option<f64>,
    /// The longest `Retry-After` that is waited for.
    #[serde(deserialize_with = "duration")]
    pub max_retry_after: Option<Duration>,
    /// What happens with a longer one: `stop`, `backoff` or `clamp`.
    #[serde(deserialize_with = "text")]
    pub over_cap: Option<String>,
    /// Clamps a `Retry-After` into the computed delay and that much more.
    #[serde(deserialize_with = "duration")]
    pub retry_after_within: Option<Duration>,
    /// The share of a `Retry-After` that may be added at random.
    #[serde(deserialize_with = "lenient")]
    pub retry_after_jitter: Option<f64>,
    /// When, after the call began, no further attempt may start.
    #[serde(deserialize_with = "duration")]
    pub deadline: Option<Duration>,
    /// Whether a call may be repeated that possibly reached the service.
    #[serde(deserialize_with = "lenient")]
    pub idempotent: Option<bool>,
    /// Whether retry layers inside this one attempt once.
    #[serde(deserialize_with = "lenient")]
    pub outermost: Option<bool>,
    /// The seed of the randomness.
    #[serde(deserialize_with = "lenient")]
    pub seed: Option<u64>,
}

impl TryFrom<RetryConfig> for RetryLayer {
    type Error = ConfigError;

    fn try_from(config: RetryConfig) -> Result<Self, ConfigError> {
        let mut layer = Self::default().backoff(config.backoff()?);
        if let Some(attempts) = config.max_attempts {
            check("max_attempts", attempts > 0, "must be at least 1")?;
            layer = layer.max_attempts(attempts);
        }
        if let Some(longest) = config.max_retry_after {
            layer = layer.max_retry_after(longest);
        }
        if let Some(word) = &config.over_cap {
            layer = layer.over_cap(match word.as_str() {
                "stop" => OverCap::Stop,
                "backoff" => OverCap::Backoff,
                "clamp" => OverCap::Clamp,
                _ => return Err(unknown("over_cap", word, "stop, backoff or clamp")),
            });
        }
        if let Some(more) = config.retry_after_within {
            layer = layer.retry_after_within(more);
        }
        if let Some(share) = config.retry_after_jitter {
            let fits = share >= 0.0 && share.is_finite();
            check("retry_after_jitter", fits, "must be 0 or more")?;
            layer = layer.retry_after_jitter(share);
        }
        if let Some(within) = config.deadline {
            check("deadline", !within.is_zero(), "must be longer than zero")?;
            layer = layer.deadline(within);
        }
        if let Some(idempotent) = config.idempotent {
            layer = layer.idempotent(idempotent);
        }
        if config.outermost == Some(true) {
            layer = layer.outermost();
        }
        if let Some(seed) = config.seed {
            layer = layer.seed(seed);
        }
        Ok(layer)
    }
}

impl RetryConfig {
    fn backoff(&self) -> Result<ExponentialBackoff, ConfigError> {
        let mut backoff = self.base.map_or_else(Default::default, ExponentialBackoff::new);
        if let Some(factor) = self.factor {
            check("factor", factor >= 1.0 && factor.is_finite(), "must be 1 or more")?;
            backoff = backoff.factor(factor);
        }
        if let Some(max) = self.max {
            backoff = backoff.max(max);
        }
        Ok(backoff.jitter(self.jitter()?))
    }

    fn jitter(&self) -> Result<Jitter, ConfigError> {
        let shares = || -> Result<Jitter, ConfigError> {
            let below = self.jitter_below.unwrap_or(0.5);
            let above = self.jitter_above.unwrap_or(0.5);
            check("jitter_below", (0.0..=1.0).contains(&below), "must be from 0 to 1")?;
            check("jitter_above", above >= 0.0 && above.is_finite(), "must be 0 or more")?;
            Ok(Jitter::Proportional { below, above })
        };
        match self.jitter.as_deref() {
            None | Some("proportional") => shares(),
            Some("none") => Ok(Jitter::None),
            Some("full") => Ok(Jitter::Full),
            Some("equal") => Ok(Jitter::Equal),
            Some("decorrelated") => Ok(Jitter::Decorrelated),
            Some(word) => {
                Err(unknown("jitter", word, "none, full, equal, decorrelated or proportional"))
            }
        }
    }
}

fn check(field: &'static str, holds: bool, message: &str) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError::new(field, message)) }
}

fn unknown(field: &'static str, word: &str, known: &str) -> ConfigError {
    ConfigError::new(field, format!("{word:?} is not one of {known}"))
}
