//! Checkpoint stores for buttress.
//!
//! | feature | adds | further crates | default |
//! |---|---|---|---|
//! | `sqlite` | `SqliteStore` | rusqlite with SQLite in it, serde_json, tracing, twox-hash | |
//! | `postgres` | `PostgresStore` | tokio-postgres, deadpool-postgres, serde, serde_json, tracing, twox-hash | |
//! | `postgres-rustls` | TLS for it | as `postgres`, tokio-rustls, rustls-native-certs | |
//! | `redis` | `RedisStore` | redis, futures-util, serde, serde_json, tracing, twox-hash | |
//! | `redis-rustls` | TLS for it | as `redis`, tokio-rustls | |
//! | `object-store` | `ObjectStore` | object_store, futures-util, serde, serde_json, tracing, twox-hash | |
//! | `conformance` | the suite for a store of one's own | fastrand, serde_json | |
//! | `full` | all of them | | |
//!
//! `MemoryStore` and `FileStore` are in `buttress` itself. Which store keeps which promise is listed
//! case by case in `CONFORMANCE.md`, beside this crate's manifest.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "object-store")]
pub mod object_store;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(feature = "object-store", feature = "redis"))]
mod record;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(feature = "sqlite")]
pub mod sqlite;

#[cfg(feature = "object-store")]
pub use self::object_store::ObjectStore;
#[cfg(feature = "postgres")]
pub use self::postgres::PostgresStore;
#[cfg(feature = "redis")]
pub use self::redis::RedisStore;
#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteStore;
