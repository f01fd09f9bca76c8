//! The stores, each with what it needs.

use std::pin::Pin;

use buttress::{
    BoxStore, CheckpointStore, FileStore, MemoryStore, WorkflowId,
    checkpoint::{Payload, Put},
};
use buttress_stores::{
    ObjectStore, PostgresStore, RedisStore,
    sqlite::{SqliteStore, Synchronous},
};
use buttress_test_servers::{Postgres, Redis};
use object_store::local::LocalFileSystem;
use tempfile::TempDir;

use super::bare::{BareFile, BareSqlite};

/// One way to keep a state.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// The bare case that it is compared with.
    pub(crate) beside: Option<&'static str>,
    way: Way,
    /// What goes when the case does.
    _needs: Vec<Box<dyn std::any::Any>>,
}

enum Way {
    File(BareFile),
    Sqlite(BareSqlite),
    Store { store: BoxStore, id: WorkflowId, head: Option<u64> },
}

type Opened = Pin<Box<dyn Future<Output = Case>>>;

/// Opens every case anew.
pub(crate) async fn all() -> Vec<Case> {
    let openers: [fn() -> Opened; 9] = [
        || Box::pin(async { in_folder("bare/file", |path| Way::File(BareFile::new(path))) }),
        || Box::pin(file()),
        || Box::pin(async { in_folder("bare/sqlite", sqlite_file) }),
        || Box::pin(sqlite(Synchronous::Full)),
        || Box::pin(sqlite(Synchronous::Normal)),
        || Box::pin(postgres()),
        || Box::pin(redis()),
        || Box::pin(object_store()),
        || Box::pin(async { store("buttress/memory", None, MemoryStore::new().keep(10), vec![]) }),
    ];
    let mut cases = Vec::new();
    for open in openers {
        cases.push(open().await);
    }
    cases
}

fn in_folder(name: &'static str, way: impl FnOnce(&std::path::Path) -> Way) -> Case {
    let folder = TempDir::new().expect("a temporary folder");
    Case { name, beside: None, way: way(folder.path()), _needs: vec![Box::new(folder)] }
}

fn sqlite_file(folder: &std::path::Path) -> Way {
    Way::Sqlite(BareSqlite::new(&folder.join("bare.db")))
}

async fn file() -> Case {
    let folder = TempDir::new().expect("a temporary folder");
    let opened = FileStore::open(folder.path()).await.expect("the folder can be used");
    store("buttress/file", Some("bare/file"), opened, vec![Box::new(folder)])
}

async fn sqlite(synchronous: Synchronous) -> Case {
    let (name, beside) = match synchronous {
        Synchronous::Normal => ("buttress/sqlite_normal", None),
        _ => ("buttress/sqlite", Some("bare/sqlite")),
    };
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().join("checkpoints.db");
    let opened = SqliteStore::open(path).synchronous(synchronous).await;
    store(name, beside, opened.expect("the file can be used"), vec![Box::new(folder)])
}

async fn postgres() -> Case {
    let server = Postgres::start();
    let opened = PostgresStore::connect(&server.url()).await.expect("the server runs");
    store("buttress/postgres", None, opened, vec![Box::new(server)])
}

async fn redis() -> Case {
    let server = Redis::start();
    let opened = RedisStore::connect(&server.url()).await.expect("the server runs");
    store("buttress/redis", None, opened, vec![Box::new(server)])
}

/// Objects in a local folder: what a cloud's network adds is not ours.
async fn object_store() -> Case {
    let folder = TempDir::new().expect("a temporary folder");
    let backend = LocalFileSystem::new_with_prefix(folder.path()).expect("it is there");
    let backend = std::sync::Arc::new(backend.with_fsync(true));
    let opened = ObjectStore::builder(backend).open().await.expect("the folder can be used");
    store("buttress/object_store_local", None, opened, vec![Box::new(folder)])
}

fn store(
    name: &'static str,
    beside: Option<&'static str>,
    store: impl CheckpointStore,
    needs: Vec<Box<dyn std::any::Any>>,
) -> Case {
    let id = WorkflowId::new("bench").expect("the id is valid");
    let way = Way::Store { store: BoxStore::new(store), id, head: None };
    Case { name, beside, way, _needs: needs }
}

impl Case {
    /// Keeps a state and returns once it is durable.
    pub(crate) async fn put(&mut self, state: &Payload) {
        match &mut self.way {
            Way::File(bare) => bare.put(state),
            Way::Sqlite(bare) => bare.put(state),
            Way::Store { store, id, head } => {
                let put = Put::new(id.clone(), *head, state.clone()).phase("bench");
                *head = Some(store.put(put).await.expect("nothing is in the way"));
            }
        }
    }
}
