//! What the tests share: runners of case files, and a server that behaves as Langfuse does.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::needless_pass_by_value, reason = "checks take what they compare")]

pub mod breaker_cases;
pub mod langfuse_server;
pub mod retry_cases;

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
