use std::time::Duration;

#[cfg(feature = "config")]
use serde::Deserialize;

use super::{AfterLease, Circuit, CircuitBreakerLayer, HalfOpen, Window, settings::Settings};
use crate::ConfigError;
#[cfg(feature = "config")]
use crate::config::{duration, lenient, text};

/// Settings of a [`CircuitBreakerLayer`] from outside; what is absent has the layer's default.
///
/// With feature `config` it is read with serde. [`Circuit::reconfigure`] takes it too.
#[derive(Debug, Clone, Default)]
#[cfg_attr(feature = "config", derive(Deserialize), serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct CircuitBreakerConfig {
    /// The circuit's name; not used by [`Circuit::reconfigure`].
    #[cfg_attr(feature = "config", serde(deserialize_with = "text"))]
    pub name: Option<String>,
    /// Opens after so many failures in a row.
    #[cfg_attr(feature = "config", serde(deserialize_with = "lenient"))]
    pub consecutive_failures: Option<u32>,
    /// Opens when this share of the window's calls failed, from 0 to 1.
    #[cfg_attr(feature = "config", serde(deserialize_with = "lenient"))]
    pub failure_rate: Option<f64>,
    /// How long a call must take to be slow.
    #[cfg_attr(feature = "config", serde(deserialize_with = "duration"))]
    pub slow_call: Option<Duration>,
    /// Opens when this share of the window's calls was slow; 1 where only `slow_call` is set.
    #[cfg_attr(feature = "config", serde(deserialize_with = "lenient"))]
    pub slow_call_rate: Option<f64>,
    /// The number of calls in the window; not together with `window_time`.
    #[cfg_attr(feature = "config", serde(deserialize_with = "lenient"))]
    pub window_calls: Option<usize>,
    /// The time that the window spans.
    #[cfg_attr(feature = "config", serde(deserialize_with = "duration"))]
    pub window_time: Option<Duration>,
    /// The number of buckets of a window of time.
    #[cfg_attr(feature = "config", serde(deserialize_with = "lenient"))]
    pub window_buckets: Option<usize>,
    /// How many calls the window must hold before a rate counts.
    #[cfg_attr(feature = "config", serde(deserialize_with = "lenient"))]
    pub minimum_calls: Option<u64>,
    /// How long the circuit stays open.
    #[cfg_attr(feature = "config", serde(deserialize_with = "duration"))]
    pub open_for: Option<Duration>,
    /// What the open time is multiplied by when the circuit opens again.
    #[cfg_attr(feature = "config", serde(deserialize_with = "lenient"))]
    pub open_growth: Option<f64>,
    /// How far the open time grows; `max_open` where it is absent.
    #[cfg_attr(feature = "config", serde(deserialize_with = "duration"))]
    pub open_growth_max: Option<Duration>,
    /// The share by which the open time is spread to both sides.
    #[cfg_attr(feature = "config", serde(deserialize_with = "lenient"))]
    pub open_jitter: Option<f64>,
    /// The longest time that the circuit opens by itself.
    #[cfg_attr(feature = "config", serde(deserialize_with = "duration"))]
    pub max_open: Option<Duration>,
    /// How half-open probes are judged: `consecutive` or `rate`.
    #[cfg_attr(feature = "config", serde(deserialize_with = "text"))]
    pub half_open: Option<String>,
    /// How many probes may be on their way, or are judged together.
    #[cfg_attr(feature = "config", serde(deserialize_with = "lenient"))]
    pub half_open_permits: Option<u32>,
    /// How many successes in a row close the circuit.
    #[cfg_attr(feature = "config", serde(deserialize_with = "lenient"))]
    pub half_open_successes: Option<u32>,
    /// How long a half-open period lasts without a verdict.
    #[cfg_attr(feature = "config", serde(deserialize_with = "duration"))]
    pub half_open_lease: Option<Duration>,
    /// What follows it: `open`, `closed` or `renew`.
    #[cfg_attr(feature = "config", serde(deserialize_with = "text"))]
    pub after_lease: Option<String>,
    /// Counts a call that was dropped after at least this time as a failure.
    #[cfg_attr(feature = "config", serde(deserialize_with = "duration"))]
    pub drop_is_failure_after: Option<Duration>,
    /// Opens the circuit for the `Retry-After` of a rate-limited call.
    #[cfg_attr(feature = "config", serde(deserialize_with = "lenient"))]
    pub rate_limit_opens: Option<bool>,
}

impl CircuitBreakerConfig {
    pub(super) fn into_settings(self) -> Result<Settings, ConfigError> {
        let defaults = Settings::default();
        let half_open = self.half_open()?;
        let half_open_lease = self.lease()?;
        let settings = Settings {
            consecutive_failures: self.consecutive_failures,
            failure_rate: self.failure_rate,
            slow_call: self.slow_calls()?,
            window: self.window()?,
            minimum_calls: self.minimum_calls.unwrap_or(defaults.minimum_calls),
            open_for: self.open_for.unwrap_or(defaults.open_for),
            open_growth: self.growth()?,
            open_jitter: self.open_jitter.unwrap_or(0.0),
            max_open: self.max_open,
            half_open,
            half_open_lease,
            drop_is_failure_after: self.drop_is_failure_after,
            rate_limit_opens: self.rate_limit_opens.unwrap_or(false),
        };
        match settings.problem(None) {
            Some((rule, message)) => Err(ConfigError::new(self.field_of(rule), message)),
            None => Ok(settings),
        }
    }

    fn slow_calls(&self) -> Result<Option<(Duration, f64)>, ConfigError> {
        match (self.slow_call, self.slow_call_rate) {
            (Some(limit), rate) => Ok(Some((limit, rate.unwrap_or(1.0)))),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(ConfigError::new("slow_call_rate", "needs slow_call as well")),
        }
    }

    fn window(&self) -> Result<Window, ConfigError> {
        match (self.window_calls, self.window_time, self.window_buckets) {
            (Some(_), Some(_), _) => {
                Err(ConfigError::new("window_time", "cannot be set beside window_calls"))
            }
            (Some(_), None, Some(_)) => {
                Err(ConfigError::new("window_buckets", "is for a window of time"))
            }
            (Some(calls), None, None) => Ok(Window::calls(calls)),
            (None, time, buckets) => {
                let window = time.map_or(Settings::default().window, Window::time);
                Ok(buckets.map_or(window, |buckets| window.buckets(buckets)))
            }
        }
    }

    fn growth(&self) -> Result<Option<(f64, Duration)>, ConfigError> {
        match (self.open_growth, self.open_growth_max) {
            (Some(factor), max) => {
                let max = max.or(self.max_open).unwrap_or(Duration::from_secs(60));
                Ok(Some((factor, max)))
            }
            (None, None) => Ok(None),
            (None, Some(_)) => {
                Err(ConfigError::new("open_growth_max", "needs open_growth as well"))
            }
        }
    }

    fn half_open(&self) -> Result<HalfOpen, ConfigError> {
        let permits = self.half_open_permits.unwrap_or(1);
        match (self.half_open.as_deref(), self.half_open_successes) {
            (Some("rate"), None) => Ok(HalfOpen::rate(permits)),
            (Some("rate"), Some(_)) => Err(ConfigError::new(
                "half_open_successes",
                "is for probes that are judged one by one",
            )),
            (None | Some("consecutive"), successes) => {
                Ok(HalfOpen::consecutive(permits, successes.unwrap_or(permits.max(2))))
            }
            (Some(word), _) => Err(ConfigError::new(
                "half_open",
                format!("{word:?} is not one of consecutive or rate"),
            )),
        }
    }

    fn lease(&self) -> Result<Option<(Duration, AfterLease)>, ConfigError> {
        let after = match self.after_lease.as_deref() {
            Some("open") => AfterLease::Open,
            Some("closed") => AfterLease::Closed,
            None | Some("renew") => AfterLease::Renew,
            Some(word) => {
                let message = format!("{word:?} is not one of open, closed or renew");
                return Err(ConfigError::new("after_lease", message));
            }
        };
        Ok(Some((self.half_open_lease.unwrap_or(Duration::from_secs(60)), after)))
    }

    /// Returns the field of this type that a broken rule is about.
    fn field_of(&self, rule: &'static str) -> &'static str {
        match rule {
            "slow_call" => "slow_call_rate",
            "open_growth" if self.open_growth_max == Some(Duration::ZERO) => "open_growth_max",
            "window" if self.window_calls.is_some() => "window_calls",
            "window" if self.window_buckets.is_some() => "window_buckets",
            "window" => "window_time",
            "half_open" if self.half_open_permits == Some(0) => "half_open_permits",
            "half_open" => "half_open_successes",
            rule => rule,
        }
    }
}

impl TryFrom<CircuitBreakerConfig> for CircuitBreakerLayer {
    type Error = ConfigError;

    fn try_from(config: CircuitBreakerConfig) -> Result<Self, ConfigError> {
        let name = match config.name.as_deref() {
            None => return Err(ConfigError::new("name", "must be given")),
            Some("") => return Err(ConfigError::new("name", "must not be empty")),
            Some(name) => name.into(),
        };
        Ok(Self::sharing(Circuit::with_settings(name, config.into_settings()?)))
    }
}
