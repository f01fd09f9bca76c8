//! The settings: a builder, filled from the variables of the official SDKs.

#[cfg(feature = "client")]
mod client;
mod error;
mod vars;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use http::Uri;

pub use self::error::{ConfigError, StartError};

#[cfg(feature = "collector")]
use crate::delivery::Collector;
use crate::{
    delivery::{Delivery, Destination, Endpoint, Limits},
    langfuse::Langfuse,
    notice::notice,
    sink::{Nowhere, ProjectLink, TraceDefaults},
    spool::{self, Durability, Peer, Spool},
    terminal::TerminalTree,
    text::{has_user, shown},
};

const CLOUD: &str = "https://cloud.langfuse.com";
const EXPORT_PATH: &str = "/api/public/otel/v1/traces";

/// Builds a [`Langfuse`]; made by [`Langfuse::builder`] and [`Langfuse::from_env`].
///
/// # Defaults
///
/// - `base_url`: <https://cloud.langfuse.com>
/// - `flush_at`: 512 spans; `flush_interval`: 5 s; `timeout` of a request: 5 s
/// - `durability`: [`Process`](Durability::Process): what is of a trace in which something went wrong
///   is on disk before the call returns
/// - `spool`: `buttress/langfuse` in the user's folder for state (`$XDG_STATE_HOME`, else
///   `~/.local/state`; `~/Library/Application Support` on macOS, `%LOCALAPPDATA%` on Windows)
/// - `spool_bytes`: 256 MiB; past it uneventful spans go first, then the oldest
/// - `queue_spans`: 100,000; `queue_bytes`: 64 MiB; what does not fit goes to the spool, and without
///   one is dropped and counted
/// - `retry_backoff`: 0.5 s up to 30 s; a `Retry-After` of the server is obeyed up to 10 minutes
///   and spread by a tenth
/// - `sample_rate`: 1; `compact`: off
/// - `mask`: none; `max_io_bytes`: 1,000,000; secrets in messages and metadata are hidden
///
/// Spans are sent at `flush_at`, at half of either limit of the queue, at 3 MiB, or after the
/// interval, whichever comes first.
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
    durability: Durability,
    spool: Option<PathBuf>,
    spool_bytes: u64,
    defaults: TraceDefaults,
    terminal: Option<TerminalTree>,
    #[cfg(feature = "collector")]
    collector: Option<Collector>,
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
            durability: Durability::default(),
            spool: None,
            spool_bytes: 256 << 20,
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
    /// and `OTEL_SDK_DISABLED`; of our own `BUTTRESS_SPOOL_DIR`, `BUTTRESS_SPOOL_BYTES` and
    /// `BUTTRESS_DURABILITY` (`memory`, `process` or `disk`). An empty variable counts as absent.
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
        vars::read(vars)
    }
}

// ===== impl LangfuseBuilder =====

impl LangfuseBuilder {
    /// Sets the public key; white space around it is left out.
    pub fn public_key(mut self, key: impl Into<String>) -> Self {
        self.public_key = Some(key.into());
        self
    }

    /// Sets the secret key; white space around it is left out.
    pub fn secret_key(mut self, key: impl Into<String>) -> Self {
        self.secret_key = Some(key.into());
        self
    }

    /// Sets the address of Langfuse, with or without a slash at its end and without a user.
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

    /// Sets the share of traces that is sent; traces in which something failed, was retried, fell
    /// back or degraded are sent anyway, whole.
    ///
    /// What is not of the share waits in memory for the end of its trace, up to 32 MiB; past it the
    /// oldest traces are sent. The share is decided by the trace's id, in every process alike.
    /// Where nothing is sent, every trace is collected.
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

    /// Sets what is made of each text of input, output, metadata, status messages and comments of
    /// scores before it leaves the process.
    ///
    /// Of a text for which it panics nothing is sent.
    pub fn mask(mut self, mask: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        self.defaults.privacy.mask = Some(Arc::new(mask));
        self
    }

    /// Sets how many bytes are sent of an input or an output; a longer text is cut between two
    /// characters, and says so.
    pub const fn max_io_bytes(mut self, bytes: usize) -> Self {
        self.defaults.privacy.io_bytes = bytes;
        self
    }

    /// Sends status messages and metadata also where something in them looks like a secret: an API
    /// key that begins with `sk-`; what stands behind `Authorization`, `Bearer`, `Basic` or
    /// `api-key`; users, keys and tokens in addresses.
    pub const fn keep_secrets(mut self) -> Self {
        self.defaults.privacy.hides_secrets = false;
        self
    }

    /// Leaves out, of traces in which nothing went wrong, the spans of patterns: breaker, retry,
    /// attempt, timeout and fallback; what is below them hangs below the next one above.
    ///
    /// Such a trace is sent when its last span has ended, or after 10 seconds in parts and whole.
    pub const fn compact(mut self) -> Self {
        self.defaults.is_compact = true;
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

    /// Sets at how many waiting spans a request is sent.
    ///
    /// A request takes along all that waits, up to 3 MiB before compression, so that a server some
    /// way off is not fallen behind of.
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

    /// Sets how long fewer spans wait; a time beyond every clock means without end.
    pub const fn flush_interval(mut self, time: Duration) -> Self {
        self.limits.flush_interval = time;
        self
    }

    /// Sets how long one request may take until the head of its answer is there.
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

    /// Sets what outlives what.
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets the folder of the spool; it holds a folder for each Langfuse and public key.
    pub fn spool(mut self, folder: impl Into<PathBuf>) -> Self {
        self.spool = Some(folder.into());
        self
    }

    /// Sets how many bytes the spool of this process may take, with what it has taken over.
    ///
    /// # Panics
    ///
    /// If there are fewer than 65,536.
    #[track_caller]
    pub const fn spool_bytes(mut self, bytes: u64) -> Self {
        assert!(bytes >= 1 << 16, "a spool needs 65,536 bytes at least");
        self.spool_bytes = bytes;
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

    /// Starts delivery; without keys, collects the spans in a [`TerminalTree`].
    ///
    /// Switched off by a variable, it collects them only where a tree was asked for. One line on
    /// stderr says when nothing is sent.
    ///
    /// # Errors
    ///
    /// What keeps delivery from starting.
    pub fn start(mut self) -> Result<Langfuse, StartError> {
        if has_user(&self.base_url) {
            return Err(StartError::UserInBaseUrl);
        }
        if let Some(variable) = self.disabled_by {
            notice(format_args!("{variable} switches tracing off: traces are not sent"));
            return Ok(match self.terminal.take() {
                Some(tree) => self.start_for_terminal(tree),
                None => Langfuse::assemble(Arc::new(Nowhere), self.defaults, None, None),
            });
        }
        let Some(destination) = self.destination()? else {
            notice(format_args!(
                "LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY are not both set: \
                 traces are not sent to Langfuse"
            ));
            let tree = self.terminal.take().unwrap_or_default();
            return Ok(self.start_for_terminal(tree));
        };
        let link = match &destination {
            Destination::Langfuse(_) => {
                Some(ProjectLink { base_url: self.base_url.clone(), project_id: None })
            }
            #[cfg(feature = "collector")]
            Destination::Collector { .. } => None,
        };
        let delivery = Delivery::start(destination, self.limits, self.open_spool())?;
        Ok(Langfuse::assemble(Arc::new(delivery), self.defaults, self.terminal, link))
    }

    /// Returns where spans wait that outlive the process; none where that is not wanted.
    fn open_spool(&self) -> Option<Spool> {
        if self.durability == Durability::Memory {
            return None;
        }
        let Some(folder) = self.spool.clone().or_else(spool::default_folder) else {
            notice(format_args!(
                "there is no folder for the spool, spans wait in memory; name one in \
                 BUTTRESS_SPOOL_DIR"
            ));
            return None;
        };
        Some(Spool::new(&folder, self.peer(), self.spool_bytes, self.durability))
    }

    /// Returns whose the spool is.
    pub(crate) fn peer(&self) -> Peer {
        Peer { base_url: self.peer_url(), public_key: self.public_key.clone() }
    }

    /// Returns the address that tells where spans go from where others do.
    fn peer_url(&self) -> String {
        #[cfg(feature = "collector")]
        if let Some(collector) = &self.collector {
            return collector.address();
        }
        self.base_url.trim().trim_end_matches('/').to_owned()
    }

    fn start_for_terminal(mut self, tree: TerminalTree) -> Langfuse {
        // A share is kept of what costs something to send.
        self.defaults.sample_rate = 1.0;
        Langfuse::assemble_for_terminal(Arc::new(tree.clone()), self.defaults, tree)
    }

    /// Returns where spans go; nowhere without keys.
    fn destination(&self) -> Result<Option<Destination>, StartError> {
        #[cfg(feature = "collector")]
        if let Some(collector) = self.collector.clone() {
            let service_name = self.defaults.service_name.clone();
            return Ok(Some(Destination::Collector { collector, service_name }));
        }
        let key = |key: &Option<String>| {
            key.as_deref().map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned)
        };
        let (Some(public), Some(secret)) = (key(&self.public_key), key(&self.secret_key)) else {
            return Ok(None);
        };
        let scores = [self.uri_of("/api/public/scores")?, self.uri_of("/api/public/ingestion")?];
        let endpoint = Endpoint::new(self.uri()?, scores, &public, &secret, &self.defaults);
        Ok(Some(Destination::Langfuse(Box::new(endpoint.ok_or(StartError::Key)?))))
    }

    /// Returns where spans go.
    fn uri(&self) -> Result<Uri, StartError> {
        self.uri_of(&self.export_path)
    }

    fn uri_of(&self, path: &str) -> Result<Uri, StartError> {
        if has_user(&self.base_url) {
            return Err(StartError::UserInBaseUrl);
        }
        let base = self.base_url.trim().trim_end_matches('/');
        let path = path.trim().trim_start_matches('/');
        let uri: Uri = format!("{base}/{path}").parse().map_err(|_| StartError::BaseUrl)?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        if is_http && uri.host().is_some() { Ok(uri) } else { Err(StartError::BaseUrl) }
    }
}

impl fmt::Debug for LangfuseBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys are never shown.
        f.debug_struct("LangfuseBuilder")
            .field("base_url", &shown(&self.base_url))
            .field("has_keys", &(self.public_key.is_some() && self.secret_key.is_some()))
            .finish_non_exhaustive()
    }
}
