//! Real servers for tests, on free ports and in temporary folders.
//!
//! Each stops when its value is dropped, also by a panic. One whose test was killed is stopped by
//! the shell that it runs under, which waits for the end of a pipe that the test holds open.
//!
//! The functions block and panic: they are for tests only. `tests/all.sh` installs what they need.

mod pgbouncer;
mod postgres;
mod process;
mod redis;

pub use self::{pgbouncer::PgBouncer, postgres::Postgres, redis::Redis};
