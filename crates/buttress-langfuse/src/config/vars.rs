//! Settings from variables, in the names of the official SDKs.

use std::time::Duration;

use super::{ConfigError, LangfuseBuilder, StartError};
use crate::{langfuse::Langfuse, spool::Durability};

/// Where builds name their commit; the official Python SDK looks at the same ones.
const RELEASES: [&str; 11] = [
    "LANGFUSE_RELEASE",
    "RENDER_GIT_COMMIT",
    "CI_COMMIT_SHA",
    "CIRCLE_SHA1",
    "SOURCE_VERSION",
    "TRAVIS_COMMIT",
    "GIT_COMMIT",
    "GITHUB_SHA",
    "BITBUCKET_COMMIT",
    "BUILD_SOURCEVERSION",
    "DRONE_COMMIT_SHA",
];

/// Variables, wherever they come from.
struct Vars<F>(F);

/// Reads every variable into a builder.
pub(super) fn read(vars: impl Fn(&str) -> Option<String>) -> Result<LangfuseBuilder, ConfigError> {
    let vars = Vars(vars);
    let mut builder = Langfuse::builder();
    builder.public_key = vars.get("LANGFUSE_PUBLIC_KEY");
    builder.secret_key = vars.get("LANGFUSE_SECRET_KEY");
    builder.defaults.environment = vars.get("LANGFUSE_TRACING_ENVIRONMENT");
    builder.defaults.release = RELEASES.into_iter().find_map(|name| vars.get(name));
    if let Some(name) = vars.get("OTEL_SERVICE_NAME") {
        builder.defaults.service_name = name;
    }
    vars.read_address(&mut builder)?;
    vars.read_limits(&mut builder)?;
    vars.read_spool(&mut builder)?;
    builder.disabled_by = vars.disabled_by()?;
    Ok(builder)
}

impl<F: Fn(&str) -> Option<String>> Vars<F> {
    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// Reads a value; one for which `read` has none is a problem.
    fn parsed<T>(
        &self,
        variable: &'static str,
        message: &'static str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.get(variable) else { return Ok(None) };
        read(&text).map(Some).ok_or(ConfigError { variable, message })
    }

    fn seconds(&self, variable: &'static str) -> Result<Option<Duration>, ConfigError> {
        self.parsed(variable, "must be a number of seconds", |text| {
            let time = Duration::try_from_secs_f64(text.parse().ok()?).ok()?;
            (!time.is_zero()).then_some(time)
        })
    }

    fn read_address(&self, builder: &mut LangfuseBuilder) -> Result<(), ConfigError> {
        for variable in ["LANGFUSE_BASE_URL", "LANGFUSE_HOST"] {
            let Some(url) = self.get(variable) else { continue };
            builder.base_url = url;
            builder.uri().map_err(|problem| ConfigError {
                variable,
                message: match problem {
                    StartError::UserInBaseUrl => {
                        "must not hold a user or password; \
                         LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY are for keys"
                    }
                    _ => "must be an http or https address",
                },
            })?;
            break;
        }
        let variable = "LANGFUSE_OTEL_TRACES_EXPORT_PATH";
        if let Some(path) = self.get(variable) {
            builder.export_path = path;
            let message = "must be the path of an address";
            builder.uri().map_err(|_| ConfigError { variable, message })?;
        }
        Ok(())
    }

    fn read_limits(&self, builder: &mut LangfuseBuilder) -> Result<(), ConfigError> {
        let rate = self.parsed("LANGFUSE_SAMPLE_RATE", "must be a number from 0 to 1", |text| {
            text.parse().ok().filter(|rate| (0.0..=1.0).contains(rate))
        })?;
        if let Some(rate) = rate {
            builder.defaults.sample_rate = rate;
        }
        let spans =
            self.parsed("LANGFUSE_FLUSH_AT", "must be a number of spans, at least 1", |text| {
                text.parse().ok().filter(|spans| *spans > 0)
            })?;
        if let Some(spans) = spans {
            builder.limits.flush_at = spans;
        }
        if let Some(time) = self.seconds("LANGFUSE_FLUSH_INTERVAL")? {
            builder.limits.flush_interval = time;
        }
        if let Some(time) = self.seconds("LANGFUSE_TIMEOUT")? {
            builder.limits.timeout = time;
        }
        Ok(())
    }

    fn read_spool(&self, builder: &mut LangfuseBuilder) -> Result<(), ConfigError> {
        builder.spool = self.get("BUTTRESS_SPOOL_DIR").map(Into::into);
        let message = "must be a number of bytes, at least 65536";
        let bytes = self.parsed("BUTTRESS_SPOOL_BYTES", message, |text| {
            text.parse().ok().filter(|bytes| *bytes >= 1 << 16)
        })?;
        builder.spool_bytes = bytes.unwrap_or(builder.spool_bytes);
        let message = "must be memory, process or disk";
        let durability = self.parsed("BUTTRESS_DURABILITY", message, |text| {
            match text.to_ascii_lowercase().as_str() {
                "memory" => Some(Durability::Memory),
                "process" => Some(Durability::Process),
                "disk" => Some(Durability::Disk),
                _ => None,
            }
        })?;
        builder.durability = durability.unwrap_or(builder.durability);
        Ok(())
    }

    /// Returns the variable that switches traces off.
    fn disabled_by(&self) -> Result<Option<&'static str>, ConfigError> {
        let (ours, theirs) = ("LANGFUSE_TRACING_ENABLED", "OTEL_SDK_DISABLED");
        let enabled = self.parsed(ours, "must be true or false", |text| {
            match text.to_ascii_lowercase().as_str() {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => None,
            }
        })?;
        // OpenTelemetry's specification: anything but "true" is false.
        if self.get(theirs).is_some_and(|text| text.eq_ignore_ascii_case("true")) {
            return Ok(Some(theirs));
        }
        Ok((enabled == Some(false)).then_some(ours))
    }
}
