//! `RedisStore` against real servers.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails; the report of the suite is for people"
)]

mod conformance;
mod servers;
