//! The connection that all calls share, and what replaces it when it is gone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisError, Script,
    ServerErrorKind, ToRedisArgs, aio::MultiplexedConnection,
};
use tokio::{sync::Mutex, time::Instant};

use super::error::Failure;

/// How long a connection may have been idle and still be used without a look at it.
const FRESH: Duration = Duration::from_secs(5);
/// How long a connection that is looked at has for its answer.
const LOOK: Duration = Duration::from_secs(1);

/// The way to a server.
pub(super) struct Link {
    client: Client,
    config: AsyncConnectionConfig,
    /// The newest connection; none before the first call and after it was lost.
    current: Mutex<Option<Current>>,
    /// How many there were; only who holds the lock adds to it.
    count: AtomicU64,
}

struct Current {
    connection: MultiplexedConnection,
    number: u64,
    last_used: Instant,
    unanswered: Unanswered,
}

/// How many calls in a row were given up before they were answered: callers may not wait for as
/// long as an answer may take.
#[derive(Clone, Default)]
struct Unanswered(Arc<AtomicU32>);

/// Something that was asked; dropped before its answer it is counted.
struct Asked(Option<Unanswered>);

/// A script with its keys and arguments.
pub(super) struct Call<'a> {
    script: &'a Script,
    command: Cmd,
}

// ===== impl Link =====

impl Link {
    pub(super) fn new(client: Client, connect: Duration, response: Duration) -> Self {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connect))
            .set_response_timeout(Some(response));
        Self { client, config, current: Mutex::new(None), count: AtomicU64::new(0) }
    }

    /// Runs a script, which the server is told where it does not know it.
    pub(super) async fn call<T: FromRedisValue>(&self, call: &Call<'_>) -> Result<T, Failure> {
        let (mut connection, number, asked) = self.connection().await?;
        let mut answer = call.command.query_async(&mut connection).await;
        if answer.as_ref().is_err_and(is_unknown) {
            answer = match call.script.load_async(&mut connection).await {
                Ok(_) => call.command.query_async(&mut connection).await,
                Err(error) => Err(error),
            };
        }
        asked.end();
        self.used(number, answer).await
    }

    /// Runs a command.
    pub(super) async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Failure> {
        let (mut connection, number, asked) = self.connection().await?;
        let answer = command.query_async(&mut connection).await;
        asked.end();
        self.used(number, answer).await
    }

    /// Takes note of how a connection was used.
    async fn used<T>(&self, number: u64, answer: Result<T, RedisError>) -> Result<T, Failure> {
        let mut current = self.current.lock().await;
        let own = current.as_mut().filter(|current| current.number == number);
        match (&answer, own) {
            (Err(error), Some(_)) if is_broken(error) => *current = None,
            (_, Some(own)) => own.last_used = Instant::now(),
            _ => {}
        }
        drop(current);
        Ok(answer?)
    }

    /// Returns the connection that is there, or a new one.
    async fn connection(&self) -> Result<(MultiplexedConnection, u64, Asked), Failure> {
        let mut current = self.current.lock().await;
        if let Some(there) = current.as_mut() {
            // A firewall may have dropped it, without a word to either side.
            let is_well = match there.unanswered.count() {
                0 => there.last_used.elapsed() < FRESH || there.answers().await,
                1 => there.answers().await,
                _ => false,
            };
            if is_well {
                there.last_used = Instant::now();
                return Ok((there.connection.clone(), there.number, there.unanswered.asked()));
            }
        }
        *current = None;
        let connection =
            self.client.get_multiplexed_async_connection_with_config(&self.config).await;
        // Nobody has been asked for anything yet, so nothing is lost.
        let connection = connection.map_err(|error| Failure::from(error).at_last())?;
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let unanswered = Unanswered::default();
        let asked = unanswered.asked();
        let last_used = Instant::now();
        *current = Some(Current { connection: connection.clone(), number, last_used, unanswered });
        Ok((connection, number, asked))
    }
}

// ===== impl Current =====

impl Current {
    /// Returns whether it still answers.
    async fn answers(&self) -> bool {
        let mut connection = self.connection.clone();
        let asked = self.unanswered.asked();
        let ping = redis::cmd("PING");
        let answer = tokio::time::timeout(LOOK, ping.query_async::<redis::Value>(&mut connection));
        let is_well = matches!(answer.await, Ok(Ok(_)));
        asked.end();
        is_well
    }
}

// ===== impl Unanswered, Asked =====

impl Unanswered {
    fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    fn asked(&self) -> Asked {
        Asked(Some(self.clone()))
    }
}

impl Asked {
    /// Notes that an answer has come, be it an error.
    fn end(mut self) {
        if let Some(unanswered) = self.0.take() {
            unanswered.0.store(0, Ordering::Relaxed);
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(unanswered) = &self.0 {
            unanswered.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// ===== impl Call =====

impl<'a> Call<'a> {
    pub(super) fn new(script: &'a Script, keys: &[&str]) -> Self {
        let mut command = redis::cmd("EVALSHA");
        command.arg(script.get_hash()).arg(keys.len()).arg(keys);
        Self { script, command }
    }

    pub(super) fn arg(mut self, argument: impl ToRedisArgs) -> Self {
        self.command.arg(argument);
        self
    }
}

fn is_unknown(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Returns whether a connection is of no more use; one without an answer in time may be dead.
fn is_broken(error: &RedisError) -> bool {
    error.is_unrecoverable_error() || error.is_io_error()
}
