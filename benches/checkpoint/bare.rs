//! The calls of the system that a durable put cannot do without.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use rusqlite::Connection;

/// A file that is written, synced, linked to its name, and whose folder is synced.
pub(crate) struct BareFile {
    folder: PathBuf,
    count: u64,
}

/// A row that is committed to SQLite's write-ahead log, synced.
pub(crate) struct BareSqlite(Connection);

impl BareFile {
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), count: 0 }
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        self.count += 1;
        let temporary = self.folder.join("temporary");
        let name = self.folder.join(format!("{:020}.json", self.count));
        let mut file = File::create_new(&temporary).expect("the folder can be written");
        file.write_all(bytes).expect("the disk is not full");
        file.sync_all().expect("the disk works");
        fs::hard_link(&temporary, name).expect("the file system has links");
        fs::remove_file(temporary).expect("it is there");
        File::open(&self.folder).and_then(|folder| folder.sync_all()).expect("the disk works");
    }
}

impl BareSqlite {
    pub(crate) fn new(path: &Path) -> Self {
        let connection = Connection::open(path).expect("the folder can be written");
        connection
            .execute_batch(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
                CREATE TABLE states (sequence INTEGER PRIMARY KEY, state BLOB NOT NULL);",
            )
            .expect("the file is new");
        Self(connection)
    }

    pub(crate) fn put(&mut self, bytes: &[u8]) {
        let mut insert = self
            .0
            .prepare_cached("INSERT INTO states (state) VALUES (?1)")
            .expect("the table is there");
        insert.execute([bytes]).expect("the disk is not full");
    }
}
