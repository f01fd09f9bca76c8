//! Connections: how they are set, and the tables they find.

use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::{
    error::Problem,
    file::DatabaseFile,
    open::{Settings, Synchronous},
};

/// The version of the tables.
const FORMAT: u32 = 1;

const FOREIGN: &str = "it is a SQLite file of another program";

/// Marks the file as ours: "bttr".
const APPLICATION: u32 = 0x6274_7472;

/// Tables with states have row ids, and an index with the keys alone: a search in a table without
/// them reads the whole of each row that it compares with.
const TABLES: &str = "
    CREATE TABLE chains (
        workflow TEXT NOT NULL,
        namespace TEXT NOT NULL,
        last INTEGER NOT NULL,
        first INTEGER,
        head INTEGER,
        token INTEGER NOT NULL,
        owner TEXT,
        until INTEGER,
        checksum BLOB NOT NULL,
        PRIMARY KEY (workflow, namespace)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE records (
        workflow TEXT NOT NULL,
        namespace TEXT NOT NULL,
        sequence INTEGER NOT NULL,
        parent INTEGER,
        write_id TEXT NOT NULL,
        phase TEXT NOT NULL,
        timestamp INTEGER NOT NULL,
        schema_version INTEGER NOT NULL,
        checksum BLOB NOT NULL,
        metadata TEXT NOT NULL,
        state BLOB NOT NULL,
        PRIMARY KEY (workflow, namespace, sequence)
    ) STRICT;
    CREATE TABLE writes (
        workflow TEXT NOT NULL,
        namespace TEXT NOT NULL,
        sequence INTEGER NOT NULL,
        task TEXT NOT NULL,
        kind TEXT NOT NULL,
        idx INTEGER NOT NULL,
        checksum BLOB NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (workflow, namespace, sequence, task, kind, idx)
    ) STRICT;
";

/// Checks the first bytes of a file that was there before.
pub(super) fn check_header(header: &[u8]) -> Result<(), Problem> {
    // An empty file becomes one of ours: somebody else may be making it just now.
    if header.is_empty() {
        return Ok(());
    }
    let number = |at: usize| {
        let bytes = header.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_be_bytes)
    };
    match (header.starts_with(b"SQLite format 3\0"), number(60), number(68)) {
        (true, Some(version), Some(application)) => check_marks(version, application),
        _ => Err(Problem::corrupt("it is no SQLite file")),
    }
}

/// Checks the version of the tables and whose they are; both are 0 before there are any.
fn check_marks(version: u32, application: u32) -> Result<(), Problem> {
    match (version, application) {
        (0, 0) | (FORMAT, APPLICATION) => Ok(()),
        (newer, APPLICATION) if newer > FORMAT => Err(Problem::too_new(newer, FORMAT)),
        _ => Err(Problem::setup(FOREIGN)),
    }
}

/// Opens the connection that writes, and makes the tables where there are none.
pub(super) fn open_writer(file: &DatabaseFile, settings: Settings) -> Result<Connection, Problem> {
    let mut connection = open(file, settings)?;
    let start = now();
    loop {
        match make_tables(&mut connection) {
            // Two processes that make one file meet here, and SQLite does not wait for the one
            // that switches to the log.
            Err(Failure::Busy) if start.elapsed() < settings.busy_timeout => pause(),
            Err(Failure::Busy) => return Err(Problem::unavailable("the file is locked")),
            Err(Failure::Other(problem)) => return Err(problem),
            Ok(()) => return Ok(connection),
        }
    }
}

/// Opens a connection that reads.
pub(super) fn open_reader(file: &DatabaseFile, settings: Settings) -> Result<Connection, Problem> {
    file.ensure_there()?;
    let connection = open(file, settings)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn open(file: &DatabaseFile, settings: Settings) -> Result<Connection, Problem> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file.path(), flags)?;
    connection.busy_timeout(settings.busy_timeout)?;
    connection.set_prepared_statement_cache_capacity(64);
    let synchronous = match settings.synchronous {
        Synchronous::Full => "FULL",
        Synchronous::Normal => "NORMAL",
    };
    connection.pragma_update(None, "synchronous", synchronous)?;
    // What macOS calls a sync reaches the drive only with these.
    connection.pragma_update(None, "fullfsync", settings.synchronous == Synchronous::Full)?;
    connection.pragma_update(None, "checkpoint_fullfsync", true)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    Ok(connection)
}

enum Failure {
    Busy,
    Other(Problem),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            _ => Self::Other(error.into()),
        }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Other(problem)
    }
}

fn make_tables(connection: &mut Connection) -> Result<(), Failure> {
    // The log may say more than the header did. In a transaction: another process may make the tables
    // between two looks, and half of them are nobody's.
    let tx = connection.transaction()?;
    let made = read_marks(&tx)?;
    tx.commit()?;
    // Not before it is known to be ours, since this changes the file.
    use_log(connection)?;
    if made {
        return Ok(());
    }
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Another process may have been faster.
    if read_marks(&tx)? {
        return Ok(());
    }
    tx.execute_batch(TABLES)?;
    tx.pragma_update(None, "application_id", APPLICATION)?;
    tx.pragma_update(None, "user_version", FORMAT)?;
    Ok(tx.commit()?)
}

/// Returns whether the tables are there; the file must be ours or empty.
fn read_marks(connection: &Connection) -> Result<bool, Failure> {
    let number = |name| {
        let value = connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
        value.map(i32::cast_unsigned)
    };
    let (version, application) = (number("user_version")?, number("application_id")?);
    check_marks(version, application)?;
    if application == APPLICATION {
        return Ok(true);
    }
    let sql = "SELECT count(*) FROM sqlite_schema";
    match connection.query_row(sql, [], |row| row.get::<_, i64>(0))? {
        0 => Ok(false),
        _ => Err(Problem::setup(FOREIGN).into()),
    }
}

/// Switches to the write-ahead log, which the file remembers.
fn use_log(connection: &Connection) -> Result<(), Failure> {
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode.eq_ignore_ascii_case("wal") {
        return Ok(());
    }
    Err(Problem::setup(format!("the file system has no log for it, only {mode:?}")).into())
}

#[expect(clippy::disallowed_methods, reason = "this thread is no runtime's: it may wait for real")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "this thread is no runtime's")]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}
