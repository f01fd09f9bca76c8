//! Real servers for tests, on free ports and in temporary folders.
//!
//! Each stops when its value is dropped, also by a panic. One that is never dropped, in a static or
//! since its test was killed, is stopped by a shell beside it, which waits for the end of a pipe that
//! the test holds open.
//!
//! The functions block and panic: they are for tests only. `tests/all.sh` installs what they need.

mod pgbouncer;
mod postgres;
mod process;
mod redis;

pub use self::{pgbouncer::PgBouncer, postgres::Postgres, redis::Redis};
