use std::time::Duration;

use serde::Deserialize;

use super::StreamTimeoutLayer;
use crate::{ConfigError, config::duration};

/// Settings of a [`StreamTimeoutLayer`] or `BodyTimeoutLayer` from outside.
///
/// ```
/// use buttress::{StreamTimeoutConfig, StreamTimeoutLayer};
///
/// let config: StreamTimeoutConfig = toml::from_str("first_item = '1m 30s'\nidle = '10s'").unwrap();
/// let layer = StreamTimeoutLayer::try_from(config).unwrap();
/// ```
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct StreamTimeoutConfig {
    /// The time until the first item, or frame; 30 s where it is absent.
    #[serde(deserialize_with = "duration")]
    pub first_item: Option<Duration>,
    /// The time between two items, or frames; 30 s where it is absent.
    #[serde(deserialize_with = "duration")]
    pub idle: Option<Duration>,
    /// The time until the end; none where it is absent.
    #[serde(deserialize_with = "duration")]
    pub total: Option<Duration>,
}

impl StreamTimeoutConfig {
    fn check(&self) -> Result<(), ConfigError> {
        let fields = [("first_item", self.first_item), ("idle", self.idle), ("total", self.total)];
        match fields.into_iter().find(|(_, time)| time.is_some_and(|time| time.is_zero())) {
            Some((field, _)) => Err(ConfigError::new(field, "must be longer than zero")),
            None => Ok(()),
        }
    }
}

impl TryFrom<StreamTimeoutConfig> for StreamTimeoutLayer {
    type Error = ConfigError;

    fn try_from(config: StreamTimeoutConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let StreamTimeoutConfig { first_item, idle, total } = config;
        let layer = first_item.into_iter().fold(Self::new(), Self::first_item);
        let layer = idle.into_iter().fold(layer, Self::idle);
        Ok(total.into_iter().fold(layer, Self::total))
    }
}

#[cfg(feature = "http")]
impl TryFrom<StreamTimeoutConfig> for super::BodyTimeoutLayer {
    type Error = ConfigError;

    fn try_from(config: StreamTimeoutConfig) -> Result<Self, ConfigError> {
        config.check()?;
        let StreamTimeoutConfig { first_item, idle, total } = config;
        let layer = first_item.into_iter().fold(Self::new(), Self::first_frame);
        let layer = idle.into_iter().fold(layer, Self::idle);
        Ok(total.into_iter().fold(layer, Self::total))
    }
}
