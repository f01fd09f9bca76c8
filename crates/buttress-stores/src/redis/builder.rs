use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use buttress::{
    checkpoint::{Capabilities, Clock, Durable, StoreError},
    telemetry::LOG_TARGET,
};
use redis::{Client, ConnectionAddr};

use super::{Inner, RedisStore, connection::Link, error::Failure, keys, scripts::Scripts};

/// The version of the keys and what they hold.
const VERSION: u32 = 1;

/// Sets up a [`RedisStore`].
///
/// # Defaults
///
/// - `prefix`: `buttress`
/// - `keep`: the newest 10 checkpoints of a chain
/// - `max_state`: 64 MiB
/// - `connect_timeout`: 5 s
/// - `response_timeout`: 10 s, for one answer of the server
/// - `call_timeout`: 30 s, for a call with all its answers and repeats
/// - `clock`: the server's
#[must_use = "a builder does nothing until it connects"]
pub struct RedisBuilder {
    server: Server,
    prefix: String,
    capabilities: Capabilities,
    connect_timeout: Duration,
    response_timeout: Duration,
    call_timeout: Duration,
    clock: Option<Clock>,
}

enum Server {
    /// With a password in it, which is never shown.
    At(String),
    Of(Box<Client>),
}

// ===== impl RedisBuilder =====

impl RedisBuilder {
    pub(super) fn at(url: String) -> Self {
        Self::new(Server::At(url))
    }

    pub(super) fn of(client: Client) -> Self {
        Self::new(Server::Of(Box::new(client)))
    }

    fn new(server: Server) -> Self {
        let kept = NonZeroU32::new(10);
        Self {
            server,
            prefix: "buttress".to_owned(),
            capabilities: Capabilities::new(Durable::Configured).shared(true).kept(kept),
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
            clock: None,
        }
    }

    /// Sets what the names of keys begin with; stores with different ones share nothing.
    ///
    /// It must hold no brace: those decide which slot of a cluster a key is in.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// Sets how many checkpoints of a chain stay; each put deletes older ones.
    ///
    /// # Panics
    ///
    /// If it is 0.
    #[track_caller]
    pub fn keep(mut self, checkpoints: u32) -> Self {
        let keep = NonZeroU32::new(checkpoints).expect("at least one checkpoint is kept");
        self.capabilities = self.capabilities.kept(Some(keep));
        self
    }

    /// Keeps all checkpoints until they are pruned.
    pub fn keep_all(mut self) -> Self {
        self.capabilities = self.capabilities.kept(None);
        self
    }

    /// Sets the largest state, or value of a write, in bytes; Redis takes up to 512 MiB.
    pub fn max_state(mut self, bytes: u64) -> Self {
        self.capabilities = self.capabilities.max_state(bytes);
        self
    }

    /// Sets how long a connection may take to open.
    pub const fn connect_timeout(mut self, time: Duration) -> Self {
        self.connect_timeout = time;
        self
    }

    /// Sets how long the server may take for one answer.
    pub const fn response_timeout(mut self, time: Duration) -> Self {
        self.response_timeout = time;
        self
    }

    /// Sets how long a call may take, the wait for a connection and repeats included.
    pub const fn call_timeout(mut self, time: Duration) -> Self {
        self.call_timeout = time;
        self
    }

    /// Sets the clock that leases are measured by, for tests: many processes agree on the server's
    /// only.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Connects, and looks whether the server keeps what it is given: where it keeps nothing on
    /// disk, or deletes keys when its memory is full, that is a WARN line.
    ///
    /// # Errors
    ///
    /// `Setup` where the address, the password or the rights are wrong; `TooNew` where a newer
    /// program has written with this prefix; `Unavailable`.
    pub async fn connect(self) -> Result<RedisStore, StoreError> {
        keys::check(&self.prefix)?;
        let client = match self.server {
            Server::Of(client) => *client,
            // What is wrong with an address could be a piece of its password.
            Server::At(url) => Client::open(url).map_err(|_| {
                StoreError::setup("the address of the Redis server cannot be read, or not be used")
            })?,
        };
        #[cfg(feature = "redis-rustls")]
        super::tls::choose_a_provider(&client);
        let place = place(&client);
        let store = RedisStore(Arc::new(Inner {
            link: Link::new(client, self.connect_timeout, self.response_timeout),
            scripts: Scripts::new(),
            prefix: self.prefix,
            place,
            capabilities: self.capabilities,
            clock: self.clock,
            call_timeout: self.call_timeout,
        }));
        store.attempt(|| store.check_version()).await?;
        store.check_settings().await;
        Ok(store)
    }
}

impl fmt::Debug for RedisBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBuilder")
            .field("prefix", &self.prefix)
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

// ===== impl RedisStore =====

impl RedisStore {
    /// Marks the keys with the version of what they hold, or looks at the mark.
    async fn check_version(&self) -> Result<(), Failure> {
        let key = keys::version(&self.0.prefix);
        let mut found: Option<String> = self.0.link.run(redis::cmd("GET").arg(&key)).await?;
        if found.is_none() {
            let mut mark = redis::cmd("SET");
            mark.arg(&key).arg(VERSION).arg("NX");
            self.0.link.run::<redis::Value>(&mark).await?;
            found = self.0.link.run(redis::cmd("GET").arg(&key)).await?;
        }
        let found = found.unwrap_or_default();
        match found.parse() {
            Ok(VERSION) => Ok(()),
            Ok(newer) => Err(StoreError::too_new(newer, VERSION).at_place(key).into()),
            Err(_) => Err(StoreError::corrupt("the version is no number", key).into()),
        }
    }

    /// Warns of settings under which acknowledged checkpoints go; a server need not tell them.
    async fn check_settings(&self) {
        let mut info = redis::cmd("INFO");
        let Ok(said) = self.0.link.run::<String>(info.arg("everything")).await else { return };
        let place = &self.0.place;
        let setting = |name: &str| {
            said.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(':'))
        };
        if setting("aof_enabled") == Some("0") {
            tracing::warn!(target: LOG_TARGET, %place, "appendonly is off: a crash of the server loses checkpoints");
        }
        let policy = setting("maxmemory_policy").filter(|policy| *policy != "noeviction");
        if let (Some(policy), Some(limit)) = (policy, setting("maxmemory"))
            && limit != "0"
        {
            tracing::warn!(target: LOG_TARGET, %place, policy, "a full server deletes checkpoints: it needs noeviction");
        }
    }
}

/// Returns where a server is, without user and password.
fn place(client: &Client) -> String {
    let info = client.get_connection_info();
    let scheme = match info.addr() {
        ConnectionAddr::Unix(_) => "redis+unix",
        ConnectionAddr::TcpTls { .. } => "rediss",
        _ => "redis",
    };
    format!("{scheme}://{}/{}", info.addr(), info.redis_settings().db())
}
