//! `RedisStore` against real servers.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails; the report of the suite is for people"
)]

mod conformance;
mod damage;
#[path = "../support/documented.rs"]
mod documented;
mod faults;
mod processes;
mod proxy;
mod quiet;
mod restarts;
mod servers;
mod setup;
#[path = "../support/mod.rs"]
mod support;
