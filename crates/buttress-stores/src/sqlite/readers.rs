//! Connections that read, beside the thread that writes.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{Connection, TransactionBehavior};
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{error::Problem, file::DatabaseFile, open::Settings, schema};

/// A few connections on the runtime's blocking threads; a log has room for readers beside a
/// writer, so none of them waits for it.
pub(super) struct Readers(Arc<Pool>);

struct Pool {
    file: Arc<DatabaseFile>,
    settings: Settings,
    /// Connections that nobody uses.
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

/// How many read at once.
const MOST: usize = 8;

// ===== impl Readers =====

impl Readers {
    pub(super) fn new(file: Arc<DatabaseFile>, settings: Settings) -> Self {
        let permits = Arc::new(Semaphore::new(MOST));
        Self(Arc::new(Pool { file, settings, idle: Mutex::default(), permits }))
    }

    /// Reads on a blocking thread, all from one moment of the file.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let permit = Arc::clone(&self.0.permits).acquire_owned().await;
        let permit = permit.map_err(Problem::unavailable)?;
        let pool = Arc::clone(&self.0);
        let reading = spawn_blocking(move || {
            let answer = pool.read(work);
            drop(permit);
            answer
        });
        reading.await.map_err(Problem::unavailable)?
    }
}

impl Pool {
    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, Problem>) -> Result<T, Problem> {
        let idle = self.idle().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => schema::open_reader(&self.file, self.settings)?,
        };
        self.file.ensure_there()?;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
        let answer = work(&tx)?;
        tx.finish()?;
        // A connection that has met an error is closed and not used again.
        self.idle().push(connection);
        Ok(answer)
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
