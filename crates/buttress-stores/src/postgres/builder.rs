use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use buttress::checkpoint::{Capabilities, Clock, Durable, StoreError};
use deadpool_postgres::{
    Hook, HookError, Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts,
};
use tokio_postgres::{
    Config, NoTls,
    config::{Host, SslMode},
};

use super::{Inner, PostgresStore, error::Failure, schema, statements::Statements};

/// Sets up a [`PostgresStore`].
///
/// # Defaults
///
/// - `pool_size`: 8 connections
/// - `schema`: the first of the role's search path
/// - `table_prefix`: `buttress_`
/// - `keep`: the newest 10 checkpoints of a chain
/// - `max_state`: 64 MiB
/// - `statement_timeout`: 10 s, for a statement and for the wait for a lock
/// - `call_timeout`: 30 s, for a call with all its waits and repeats
/// - `idle_check`: a connection that was idle for 5 s is looked at before it is used
/// - `clock`: the server's
#[must_use = "a builder does nothing until it connects"]
pub struct PostgresBuilder {
    server: Server,
    pool_size: usize,
    schema: Option<String>,
    prefix: String,
    capabilities: Capabilities,
    statement_timeout: Duration,
    call_timeout: Duration,
    idle_check: Duration,
    clock: Option<Clock>,
    #[cfg(feature = "postgres-rustls")]
    tls: Option<super::tls::Rustls>,
}

enum Server {
    /// With a password in it, which is never shown.
    At(String),
    On(Pool),
}

/// How long a connection may take for a sign of life; a quarter of a call's time where that is less.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

// ===== impl PostgresBuilder =====

impl PostgresBuilder {
    pub(super) fn at(url: String) -> Self {
        Self::new(Server::At(url))
    }

    pub(super) fn on(pool: Pool) -> Self {
        Self::new(Server::On(pool))
    }

    fn new(server: Server) -> Self {
        Self {
            server,
            pool_size: 8,
            schema: None,
            prefix: "buttress_".to_owned(),
            capabilities: Capabilities::new(Durable::Configured)
                .shared(true)
                .kept(NonZeroU32::new(10)),
            statement_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(30),
            idle_check: Duration::from_secs(5),
            clock: None,
            #[cfg(feature = "postgres-rustls")]
            tls: None,
        }
    }

    /// Sets how many connections are open at most; a pool of one's own has its size already.
    ///
    /// # Panics
    ///
    /// If it is 0.
    #[track_caller]
    pub const fn pool_size(mut self, connections: usize) -> Self {
        assert!(connections > 0, "a pool has at least one connection");
        self.pool_size = connections;
        self
    }

    /// Keeps the tables in a schema, which is created where it is missing.
    pub fn schema(mut self, name: impl Into<String>) -> Self {
        self.schema = Some(name.into());
        self
    }

    /// Sets what the names of tables begin with; stores with different ones share nothing.
    pub fn table_prefix(mut self, prefix: impl Into<String>) -> Self {
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

    /// Sets the largest state, or value of a write, in bytes; a row of Postgres takes less than
    /// 1 GiB.
    pub fn max_state(mut self, bytes: u64) -> Self {
        self.capabilities = self.capabilities.max_state(bytes);
        self
    }

    /// Sets how long a statement may take, the wait for another writer's lock included.
    pub const fn statement_timeout(mut self, time: Duration) -> Self {
        self.statement_timeout = time;
        self
    }

    /// Sets how long a call may take, the waits for a connection and repeats included.
    pub const fn call_timeout(mut self, time: Duration) -> Self {
        self.call_timeout = time;
        self
    }

    /// Sets after how much idle time a connection is asked for a sign of life, which a firewall that
    /// drops it in silence needs; a pool of one's own does it in its way.
    pub const fn idle_check(mut self, idle: Duration) -> Self {
        self.idle_check = idle;
        self
    }

    /// Sets the clock that leases are measured by, for tests: many processes agree on the server's
    /// only.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Encrypts the connections, with roots or a certificate of one's own; the address need not ask
    /// for it.
    #[cfg(feature = "postgres-rustls")]
    pub fn tls(mut self, config: Arc<tokio_rustls::rustls::ClientConfig>) -> Self {
        self.tls = Some(super::tls::Rustls::new(config));
        self
    }

    /// Connects, and creates the tables where they are missing.
    ///
    /// # Errors
    ///
    /// `Setup` where the address, the password, the database, the rights or the names of tables
    /// are wrong; `TooNew` where a newer program has changed the tables; `Unavailable`.
    pub async fn connect(self) -> Result<PostgresStore, StoreError> {
        let tables = schema::Tables::new(self.schema, self.prefix)?;
        let (pool, place) = match self.server {
            Server::On(pool) => (pool, None),
            Server::At(url) => {
                let mut config = parse(&url, self.call_timeout)?;
                #[cfg(feature = "postgres-rustls")]
                let manager = manager(&mut config, self.tls)?;
                #[cfg(not(feature = "postgres-rustls"))]
                let manager = manager(&mut config)?;
                let pool = open(manager, self.pool_size, self.call_timeout, self.idle_check)?;
                (pool, place(&config))
            }
        };
        let settings = settings(self.statement_timeout);
        let store = PostgresStore(Arc::new(Inner {
            statements: Statements::new(&tables),
            scope: tables.scope(),
            pool,
            settings,
            place,
            capabilities: self.capabilities,
            clock: self.clock,
            call_timeout: self.call_timeout,
        }));
        store.attempt(super::Repeat::Harmless, || store.prepare(&tables)).await?;
        Ok(store)
    }
}

impl fmt::Debug for PostgresBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresBuilder")
            .field("schema", &self.schema)
            .field("table_prefix", &self.prefix)
            .field("capabilities", &self.capabilities)
            .finish_non_exhaustive()
    }
}

// ===== impl PostgresStore =====

impl PostgresStore {
    async fn prepare(&self, tables: &schema::Tables) -> Result<(), Failure> {
        schema::check_server(&self.0.pool).await?;
        tables.migrate(&self.0.pool, &self.0.settings).await
    }
}

/// Reads an address.
fn parse(url: &str, timeout: Duration) -> Result<Config, StoreError> {
    // What is wrong with an address could be a piece of its password.
    let mut config: Config = url
        .parse()
        .map_err(|_| StoreError::setup("the address of the Postgres server cannot be read"))?;
    if config.get_application_name().is_none() {
        config.application_name("buttress");
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(timeout.min(Duration::from_secs(10)));
    }
    Ok(config)
}

const RECYCLING: ManagerConfig = ManagerConfig { recycling_method: RecyclingMethod::Fast };

#[cfg(feature = "postgres-rustls")]
fn manager(config: &mut Config, tls: Option<super::tls::Rustls>) -> Result<Manager, StoreError> {
    let tls = match tls {
        Some(tls) => tls,
        None if config.get_ssl_mode() == SslMode::Require => super::tls::Rustls::of_system()?,
        None => return Ok(unencrypted(config)),
    };
    config.ssl_mode(SslMode::Require);
    Ok(Manager::from_config(config.clone(), tls, RECYCLING))
}

#[cfg(not(feature = "postgres-rustls"))]
fn manager(config: &mut Config) -> Result<Manager, StoreError> {
    if config.get_ssl_mode() == SslMode::Require {
        let reason = "the address asks for TLS, which needs the feature `postgres-rustls`";
        return Err(StoreError::setup(reason));
    }
    Ok(unencrypted(config))
}

fn unencrypted(config: &mut Config) -> Manager {
    config.ssl_mode(SslMode::Disable);
    Manager::from_config(config.clone(), NoTls, RECYCLING)
}

/// Makes a pool; nothing is connected yet.
fn open(
    manager: Manager,
    size: usize,
    timeout: Duration,
    idle: Duration,
) -> Result<Pool, StoreError> {
    let patience = SIGN_OF_LIFE.min(timeout / 4);
    Pool::builder(manager)
        .max_size(size)
        .runtime(Runtime::Tokio1)
        .timeouts(Timeouts { wait: Some(timeout), create: Some(timeout), recycle: None })
        .pre_recycle(Hook::async_fn(move |client, metrics| {
            Box::pin(async move {
                // A firewall may have dropped one that was idle, without a word to either side.
                if metrics.last_used() < idle {
                    return Ok(());
                }
                let look = tokio::time::timeout(patience, client.check_connection()).await;
                let answer = look.map_err(|_| HookError::message("no answer"))?;
                answer.map_err(HookError::Backend)
            })
        }))
        .build()
        .map_err(|error| StoreError::setup(error.to_string()))
}

/// Returns where a server is, without user and password.
fn place(config: &Config) -> Option<String> {
    let host = match config.get_hosts().first()? {
        Host::Tcp(name) => name.clone(),
        Host::Unix(folder) => folder.display().to_string(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    Some(format!("postgres://{host}:{port}/{database}"))
}

/// Returns what each transaction sets for itself, since a pooler forgets what a session sets.
fn settings(timeout: Duration) -> String {
    // 0 would be for ever.
    let millis = timeout.as_millis().clamp(1, 86_400_000);
    format!(
        "SET LOCAL statement_timeout = {millis}; SET LOCAL lock_timeout = {millis};
        SET LOCAL idle_in_transaction_session_timeout = {millis};
        SELECT set_config('synchronous_commit', 'on', true)
        WHERE current_setting('synchronous_commit') = 'off';"
    )
}
