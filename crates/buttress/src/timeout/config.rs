use std::time::Duration;

use serde::Deserialize;

use super::TimeoutLayer;
use crate::{ConfigError, config::duration};

/// Settings of a [`TimeoutLayer`] from outside.
///
/// ```
/// use buttress::{TimeoutConfig, TimeoutLayer};
///
/// let config: TimeoutConfig = toml::from_str("after = '1m 30s'").unwrap();
/// let layer = TimeoutLayer::try_from(config).unwrap();
/// ```
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TimeoutConfig {
    /// The limit; 30 s where it is absent.
    #[serde(deserialize_with = "duration")]
    pub after: Option<Duration>,
}

impl TryFrom<TimeoutConfig> for TimeoutLayer {
    type Error = ConfigError;

    fn try_from(config: TimeoutConfig) -> Result<Self, ConfigError> {
        match config.after {
            None => Ok(Self::default()),
            Some(Duration::ZERO) => Err(ConfigError::new("after", "must be longer than zero")),
            Some(after) => Ok(Self::new(after)),
        }
    }
}
