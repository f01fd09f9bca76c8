use serde_json::Value as Json;

use super::lenient;

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Its own word, such as `OK`.
    pub status: String,
    /// Its version.
    pub version: String,
}

// ===== impl Health =====

impl Health {
    /// Returns the first number of the version: 3 or 4.
    #[must_use]
    pub fn major(&self) -> Option<u32> {
        self.version.trim_start_matches('v').split('.').next()?.parse().ok()
    }

    pub(super) fn read(json: &Json) -> Option<Self> {
        let version = lenient::text(&json["version"])?;
        Some(Self { status: lenient::text(&json["status"]).unwrap_or_default(), version })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_line_of_a_server_is_its_major_version() {
        let major = |version: &str| {
            Health::read(&json!({"status": "OK", "version": version})).and_then(|one| one.major())
        };
        assert_eq!((major("4.16.0"), major("v3.225.1"), major("soon")), (Some(4), Some(3), None));
        assert_eq!(Health::read(&json!({"status": "OK"})), None);
    }
}
