//! Checkpoint stores for buttress.
//!
//! `MemoryStore` and `FileStore` are in `buttress` itself.

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "sqlite")]
pub mod sqlite;

#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteStore;
