//! What the `XxxConfig` types share: their error, and forgiving reading of outside data.
//!
//! Settings come from files, where numbers are numbers, and from environment variables, where all
//! is text; the readers here take both. Durations are text such as `"1m 30s"` or `"250ms"`.

use std::fmt;

#[cfg(feature = "config")]
pub(crate) use self::read::{duration, lenient, text};

/// A setting from outside that cannot be used, with the field it stands in.
///
/// ```
/// # #[cfg(all(feature = "circuit-breaker", feature = "config"))] {
/// use buttress::{CircuitBreakerConfig, CircuitBreakerLayer};
///
/// let text = "name = 'planner'\nfailure_rate = 1.5";
/// let config: CircuitBreakerConfig = toml::from_str(text).unwrap();
/// let error = CircuitBreakerLayer::try_from(config).unwrap_err();
/// assert_eq!(error.field(), "failure_rate");
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    field: &'static str,
    message: String,
}

impl ConfigError {
    #[cfg(any(feature = "config", feature = "circuit-breaker", feature = "swarm"))]
    pub(crate) fn new(field: &'static str, message: impl Into<String>) -> Self {
        Self { field, message: message.into() }
    }

    /// Returns the name of the field that cannot be used.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        self.field
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

impl std::error::Error for ConfigError {}

/// How serde reads what stands in files and variables.
#[cfg(feature = "config")]
mod read {
    use std::{fmt, time::Duration};

    use serde::{Deserializer, de};

    /// Takes a scalar as the text it stands for; null is nothing.
    ///
    /// Asked by `deserialize_any`, since readers of variables know no options.
    struct Scalar(&'static str);

    impl<'de> de::Visitor<'de> for Scalar {
        type Value = Option<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
            Ok(Some(text.to_owned()))
        }

        fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
            Ok(Some(value.to_string()))
        }

        fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
            Ok(Some(value.to_string()))
        }

        fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
            Ok(Some(value.to_string()))
        }

        fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
            Ok(Some(value.to_string()))
        }

        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_none<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }

        fn visit_some<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
            from.deserialize_any(self)
        }
    }

    /// Reads an optional duration: `#[serde(default, deserialize_with = "duration")]`.
    pub(crate) fn duration<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = from.deserialize_any(Scalar("a duration such as \"1m 30s\""))?;
        text.map(|text| humantime::parse_duration(&text).map_err(de::Error::custom)).transpose()
    }

    /// Reads an optional text.
    pub(crate) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
        from.deserialize_any(Scalar("a text"))
    }

    /// Reads an optional number or truth value, also from its text.
    pub(crate) fn lenient<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
    where
        D: Deserializer<'de>,
        T: std::str::FromStr<Err: fmt::Display>,
    {
        let text = from.deserialize_any(Scalar("a number or a truth value"))?;
        let parsed = text.map(|text| {
            text.trim().parse().map_err(|error| de::Error::custom(format!("{text:?}: {error}")))
        });
        parsed.transpose()
    }
}
