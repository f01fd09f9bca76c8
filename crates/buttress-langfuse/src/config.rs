//! The settings: a builder, filled from the variables of the official SDKs.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use http::Uri;

#[cfg(feature = "collector")]
use crate::delivery::Collector;
use crate::{
    delivery::{Delivery, Destination, Endpoint, Limits},
    langfuse::Langfuse,
    notice::notice,
    sink::{ProjectLink, TraceDefaults},
    terminal::TerminalTree,
};

const CLOUD: &str = "https://cloud.langfuse.com";
const EXPORT_PATH: &str = "/api/public/otel/v1/traces";

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

/// Builds a [`Langfuse`]; made by [`Langfuse::builder`] and [`Langfuse::from_env`].
///
/// # Defaults
///
/// - `base_url`: <https://cloud.langfuse.com>
/// - `flush_at`: 512 spans; `flush_interval`: 5 s; `timeout` of a request: 5 s
/// - `queue_spans`: 100,000; `queue_bytes`: 64 MiB; what does not fit is dropped and counted
/// - `retry_backoff`: 0.5 s up to 30 s
/// - `sample_rate`: 1
#[derive(Clone)]
#[must_use = "a builder does nothing until `start` is called"]
pub struct LangfuseBuilder {
    public_key: Option<String>,
    secret_key: Option<String>,
    base_url: String,
    export_path: String,
    /// The variable that switches traces off.
    disabled_by: Option<&'static str>,
    limits: Limits,
    defaults: TraceDefaults,
    terminal: Option<TerminalTree>,
    #[cfg(feature = "collector")]
    collector: Option<Collector>,
}

/// A variable whose value cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    variable: &'static str,
    message: &'static str,
}

/// Why delivery did not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The address is not one of an HTTP server.
    BaseUrl,
    /// A key holds what no header can.
    Key,
    /// The settings of the collector cannot be used.
    #[cfg(feature = "collector")]
    Collector(String),
    /// The delivery's thread could not be made.
    Thread(std::io::Error),
}

impl Langfuse {
    /// Starts from the defaults.
    pub fn builder() -> LangfuseBuilder {
        LangfuseBuilder {
            public_key: None,
            secret_key: None,
            base_url: CLOUD.to_owned(),
            export_path: EXPORT_PATH.to_owned(),
            disabled_by: None,
            limits: Limits::default(),
            defaults: TraceDefaults::default(),
            terminal: None,
            #[cfg(feature = "collector")]
            collector: None,
        }
    }

    /// Starts from the environment, in the names of the official SDKs.
    ///
    /// `LANGFUSE_PUBLIC_KEY`, `_SECRET_KEY`, `_BASE_URL` (then `_HOST`), `_TRACING_ENVIRONMENT`,
    /// `_RELEASE`, `_SAMPLE_RATE`, `_FLUSH_AT`, `_FLUSH_INTERVAL` and `_TIMEOUT` in seconds,
    /// `_TRACING_ENABLED`, `_OTEL_TRACES_EXPORT_PATH`; of OpenTelemetry's own `OTEL_SERVICE_NAME`
    /// and `OTEL_SDK_DISABLED`. An empty variable counts as absent.
    ///
    /// # Errors
    ///
    /// The variable whose value cannot be used.
    pub fn from_env() -> Result<LangfuseBuilder, ConfigError> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// Starts from variables, wherever they come from; see [`from_env`](Self::from_env).
    ///
    /// # Errors
    ///
    /// The variable whose value cannot be used.
    pub fn from_vars(
        vars: impl Fn(&str) -> Option<String>,
    ) -> Result<LangfuseBuilder, ConfigError> {
        let get = |name: &str| vars(name).filter(|value| !value.trim().is_empty());
        let seconds = |name: &'static str| -> Result<Option<Duration>, ConfigError> {
            let problem = ConfigError { variable: name, message: "must be a number of seconds" };
            let Some(text) = get(name) else { return Ok(None) };
            let number: f64 = text.trim().parse().map_err(|_| problem.clone())?;
            let time = Duration::try_from_secs_f64(number).map_err(|_| problem.clone())?;
            if time.is_zero() { Err(problem) } else { Ok(Some(time)) }
        };
        let mut builder = Self::builder();
        builder.public_key = get("LANGFUSE_PUBLIC_KEY");
        builder.secret_key = get("LANGFUSE_SECRET_KEY");
        for variable in ["LANGFUSE_BASE_URL", "LANGFUSE_HOST"] {
            if let Some(url) = get(variable) {
                let problem = ConfigError { variable, message: "must be an http or https address" };
                builder.base_url = url.trim().to_owned();
                builder.uri().map_err(|_| problem)?;
                break;
            }
        }
        if let Some(path) = get("LANGFUSE_OTEL_TRACES_EXPORT_PATH") {
            builder.export_path = path;
        }
        builder.defaults.environment = get("LANGFUSE_TRACING_ENVIRONMENT");
        builder.defaults.release = RELEASES.into_iter().find_map(get);
        if let Some(text) = get("LANGFUSE_SAMPLE_RATE") {
            let rate = text.trim().parse().ok().filter(|rate| (0.0..=1.0).contains(rate));
            builder.defaults.sample_rate = rate.ok_or(ConfigError {
                variable: "LANGFUSE_SAMPLE_RATE",
                message: "must be a number from 0 to 1",
            })?;
        }
        if let Some(text) = get("LANGFUSE_FLUSH_AT") {
            let spans = text.trim().parse().ok().filter(|spans| *spans > 0);
            builder.limits.flush_at = spans.ok_or(ConfigError {
                variable: "LANGFUSE_FLUSH_AT",
                message: "must be a number of spans, at least 1",
            })?;
        }
        if let Some(time) = seconds("LANGFUSE_FLUSH_INTERVAL")? {
            builder.limits.flush_interval = time;
        }
        if let Some(time) = seconds("LANGFUSE_TIMEOUT")? {
            builder.limits.timeout = time;
        }
        if let Some(name) = get("OTEL_SERVICE_NAME") {
            builder.defaults.service_name = name;
        }
        if let Some(text) = get("LANGFUSE_TRACING_ENABLED") {
            let variable = "LANGFUSE_TRACING_ENABLED";
            builder.disabled_by = match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" => None,
                "false" | "0" => Some(variable),
                _ => return Err(ConfigError { variable, message: "must be true or false" }),
            };
        }
        // OpenTelemetry's specification: anything but "true" is false.
        if get("OTEL_SDK_DISABLED").is_some_and(|text| text.trim().eq_ignore_ascii_case("true")) {
            builder.disabled_by = Some("OTEL_SDK_DISABLED");
        }
        Ok(builder)
    }
}

// ===== impl LangfuseBuilder =====

impl LangfuseBuilder {
    /// Sets the public key.
    pub fn public_key(mut self, key: impl Into<String>) -> Self {
        self.public_key = Some(key.into());
        self
    }

    /// Sets the secret key.
    pub fn secret_key(mut self, key: impl Into<String>) -> Self {
        self.secret_key = Some(key.into());
        self
    }

    /// Sets the address of Langfuse, with or without a slash at its end.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.base_url = url.into();
        self
    }

    /// Sets Langfuse's environment, such as `production`.
    pub fn environment(mut self, environment: impl Into<String>) -> Self {
        self.defaults.environment = Some(environment.into());
        self
    }

    /// Sets the release of the program.
    pub fn release(mut self, release: impl Into<String>) -> Self {
        self.defaults.release = Some(release.into());
        self
    }

    /// Sets the version of the traced logic.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.defaults.version = Some(version.into());
        self
    }

    /// Sets the name of the service.
    pub fn service_name(mut self, name: impl Into<String>) -> Self {
        self.defaults.service_name = name.into();
        self
    }

    /// Sets the share of traces that is kept.
    ///
    /// # Panics
    ///
    /// If the share is not from 0 to 1.
    #[track_caller]
    pub fn sample_rate(mut self, share: f64) -> Self {
        assert!((0.0..=1.0).contains(&share), "sample_rate must be from 0 to 1, not {share}");
        self.defaults.sample_rate = share;
        self
    }

    /// Sends the spans of another target too.
    pub fn target(mut self, target: impl Into<String>) -> Self {
        self.defaults.targets.push(target.into());
        self
    }

    /// Claims the root of joined traces on v3 servers, which overwrites their name.
    pub const fn as_root(mut self, as_root: bool) -> Self {
        self.defaults.as_root = as_root;
        self
    }

    /// Sets how many waiting spans are sent at once.
    ///
    /// # Panics
    ///
    /// If the number is zero.
    #[track_caller]
    pub const fn flush_at(mut self, spans: usize) -> Self {
        assert!(spans > 0, "flush_at must be at least 1");
        self.limits.flush_at = spans;
        self
    }

    /// Sets how long fewer spans wait.
    pub const fn flush_interval(mut self, time: Duration) -> Self {
        self.limits.flush_interval = time;
        self
    }

    /// Sets how long one request may take.
    ///
    /// # Panics
    ///
    /// If the time is zero.
    #[track_caller]
    pub const fn timeout(mut self, time: Duration) -> Self {
        assert!(!time.is_zero(), "timeout must be longer than zero");
        self.limits.timeout = time;
        self
    }

    /// Sets how many spans may wait.
    pub const fn queue_spans(mut self, spans: usize) -> Self {
        self.limits.queue_spans = spans;
        self
    }

    /// Sets how many bytes of spans may wait.
    pub const fn queue_bytes(mut self, bytes: usize) -> Self {
        self.limits.queue_bytes = bytes;
        self
    }

    /// Sets the first and the longest delay between two tries of a request.
    pub const fn retry_backoff(mut self, base: Duration, max: Duration) -> Self {
        self.limits.retry_base = base;
        self.limits.retry_max = max;
        self
    }

    /// Collects the same spans in a tree as well.
    pub fn terminal(mut self, tree: TerminalTree) -> Self {
        self.terminal = Some(tree);
        self
    }

    /// Sends the spans to an OTLP endpoint of one's own instead of Langfuse; no keys are needed.
    #[cfg(feature = "collector")]
    pub fn collector(mut self, collector: Collector) -> Self {
        self.collector = Some(collector);
        self
    }

    /// Starts delivery; without keys, or switched off, collects the spans in a [`TerminalTree`].
    ///
    /// One line on stderr says when nothing is sent.
    ///
    /// # Errors
    ///
    /// What keeps delivery from starting.
    pub fn start(mut self) -> Result<Langfuse, StartError> {
        if let Some(variable) = self.disabled_by {
            notice(format_args!("{variable} switches tracing off: traces are not sent"));
            return Ok(self.start_for_terminal());
        }
        let Some(destination) = self.destination()? else {
            notice(format_args!(
                "LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY are not both set: \
                 traces are not sent to Langfuse"
            ));
            return Ok(self.start_for_terminal());
        };
        let link = match &destination {
            Destination::Langfuse(_) => {
                Some(ProjectLink { base_url: self.base_url.clone(), project_id: None })
            }
            #[cfg(feature = "collector")]
            Destination::Collector { .. } => None,
        };
        let delivery = Delivery::start(destination, self.limits)?;
        Ok(Langfuse::assemble(Arc::new(delivery), self.defaults, self.terminal, link))
    }

    fn start_for_terminal(self) -> Langfuse {
        let tree = self.terminal.unwrap_or_default();
        let sink = Arc::new(tree.clone());
        Langfuse::assemble_for_terminal(sink, self.defaults, tree)
    }

    /// Returns where spans go; nowhere without keys.
    fn destination(&mut self) -> Result<Option<Destination>, StartError> {
        #[cfg(feature = "collector")]
        if let Some(collector) = self.collector.take() {
            let service_name = self.defaults.service_name.clone();
            return Ok(Some(Destination::Collector { collector, service_name }));
        }
        let (Some(public), Some(secret)) = (&self.public_key, &self.secret_key) else {
            return Ok(None);
        };
        let endpoint = Endpoint::new(self.uri()?, public, secret, &self.defaults);
        Ok(Some(Destination::Langfuse(endpoint.ok_or(StartError::Key)?)))
    }

    fn uri(&self) -> Result<Uri, StartError> {
        let base = self.base_url.trim().trim_end_matches('/');
        let path = self.export_path.trim().trim_start_matches('/');
        let uri: Uri = format!("{base}/{path}").parse().map_err(|_| StartError::BaseUrl)?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        if is_http && uri.host().is_some() { Ok(uri) } else { Err(StartError::BaseUrl) }
    }
}

impl fmt::Debug for LangfuseBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys are never shown.
        f.debug_struct("LangfuseBuilder")
            .field("base_url", &self.base_url)
            .field("has_keys", &(self.public_key.is_some() && self.secret_key.is_some()))
            .finish_non_exhaustive()
    }
}

// ===== errors =====

impl ConfigError {
    /// Returns the name of the variable.
    #[must_use]
    pub const fn variable(&self) -> &'static str {
        self.variable
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.variable, self.message)
    }
}

impl Error for ConfigError {}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BaseUrl => f.write_str("the address of Langfuse must be one of http or https"),
            Self::Key => f.write_str("a key of Langfuse holds characters that no header can"),
            #[cfg(feature = "collector")]
            Self::Collector(problem) => write!(f, "the collector cannot be used: {problem}"),
            Self::Thread(_) => f.write_str("the thread of the delivery could not be started"),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Thread(error) => Some(error),
            _ => None,
        }
    }
}
