//! The thread that writes: one for each store, so that nobody waits in SQLite's unfair way.

use std::{path::PathBuf, sync::Arc, thread};

use buttress::catch_panic::Panic;
use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::{error::Problem, file::DatabaseFile, open::Settings, schema};

/// The way to the thread; the thread ends when the last way has gone.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: mpsc::Sender<Box<dyn Job>>,
}

/// How many wait before callers do.
const QUEUE: usize = 256;

/// How many are committed at once.
const GROUP: usize = 64;

/// Something to be done in a transaction, and whom to tell.
trait Job: Send {
    /// Does it, unless nobody waits for it any more; says whether it has failed.
    fn apply(&mut self, connection: &Connection) -> Result<(), Problem>;

    /// Tells what came of it, when the transaction is over.
    fn answer(self: Box<Self>, transaction: Result<(), Problem>);
}

struct Work<T, F> {
    work: Option<F>,
    outcome: Option<Result<T, Problem>>,
    reply: oneshot::Sender<Result<T, Problem>>,
}

// ===== impl Writer =====

impl Writer {
    /// Starts the thread, which opens the file.
    pub(super) async fn open(
        path: PathBuf,
        settings: Settings,
    ) -> Result<(Self, Arc<DatabaseFile>), Problem> {
        let (opened, opening) = oneshot::channel();
        let (jobs, queue) = mpsc::channel(QUEUE);
        let body = move || {
            let connection = DatabaseFile::prepare(&path).and_then(|file| {
                let connection = schema::open_writer(&file, settings)?;
                Ok((connection, Arc::new(file)))
            });
            match connection {
                Ok((connection, file)) => {
                    if opened.send(Ok(Arc::clone(&file))).is_ok() {
                        run(&connection, queue, &file);
                    }
                }
                // Where nobody waits, nobody needs to know.
                Err(problem) => drop(opened.send(Err(problem))),
            }
        };
        let thread = thread::Builder::new().name("buttress-sqlite".to_owned());
        thread.spawn(body).map_err(Problem::unavailable)?;
        let file = opening.await.map_err(Problem::unavailable)??;
        Ok((Self { jobs }, file))
    }

    /// Has something done in a transaction and waits until it is committed.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Work { work: Some(work), outcome: None, reply });
        self.jobs.send(job).await.map_err(|_| ended())?;
        answer.await.map_err(|_| ended())?
    }
}

fn ended() -> Problem {
    Problem::unavailable("the store's thread has ended")
}

fn run(connection: &Connection, mut queue: mpsc::Receiver<Box<dyn Job>>, file: &DatabaseFile) {
    while let Some(first) = queue.blocking_recv() {
        let mut group = vec![first];
        while let (true, Ok(job)) = (group.len() < GROUP, queue.try_recv()) {
            group.push(job);
        }
        let transaction = commit(connection, &mut group, file);
        for job in group {
            job.answer(match &transaction {
                Ok(()) => Ok(()),
                Err(problem) => Err(problem.share()),
            });
        }
    }
}

/// Does all of a group in one transaction, so that they share one wait for the disk.
fn commit(
    connection: &Connection,
    group: &mut [Box<dyn Job>],
    file: &DatabaseFile,
) -> Result<(), Problem> {
    file.ensure_there()?;
    execute(connection, "BEGIN IMMEDIATE")?;
    let done = apply_all(connection, group).and_then(|()| execute(connection, "COMMIT"));
    if done.is_err() && !connection.is_autocommit() {
        // Where even this fails, the connection says so at the next BEGIN.
        drop(execute(connection, "ROLLBACK"));
    }
    done.and_then(|()| file.ensure_written())
}

fn apply_all(connection: &Connection, group: &mut [Box<dyn Job>]) -> Result<(), Problem> {
    for job in group {
        execute(connection, "SAVEPOINT job")?;
        let Err(problem) = job.apply(connection) else {
            execute(connection, "RELEASE job")?;
            continue;
        };
        // SQLite has rolled back all of it, also what others of the group have done.
        if connection.is_autocommit() {
            return Err(problem);
        }
        execute(connection, "ROLLBACK TO job")?;
        execute(connection, "RELEASE job")?;
    }
    Ok(())
}

fn execute(connection: &Connection, sql: &str) -> Result<(), Problem> {
    connection.prepare_cached(sql)?.execute([])?;
    Ok(())
}

// ===== impl Work =====

impl<T, F> Job for Work<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> Result<T, Problem> + Send,
{
    fn apply(&mut self, connection: &Connection) -> Result<(), Problem> {
        // A call that was dropped while it waited does nothing.
        let Some(work) = self.work.take().filter(|_| !self.reply.is_closed()) else {
            return Ok(());
        };
        // A clock is the user's, and may panic: what it has written is rolled back, and the thread
        // is there for the next.
        let outcome = Panic::catch(|| work(connection))
            .unwrap_or_else(|_| Err(Problem::unavailable("what was to be written has panicked")));
        let failed = outcome.as_ref().err().map(Problem::share);
        self.outcome = Some(outcome);
        failed.map_or(Ok(()), Err)
    }

    fn answer(self: Box<Self>, transaction: Result<(), Problem>) {
        let answer = match (transaction, self.outcome) {
            (Ok(()), Some(outcome)) => outcome,
            (Err(problem), _) => Err(problem),
            (Ok(()), None) => return,
        };
        // Nobody may be waiting any more; what is done stays done.
        drop(self.reply.send(answer));
    }
}
