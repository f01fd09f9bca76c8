//! What the tests share: runners of case files.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::needless_pass_by_value, reason = "checks take what they compare")]

pub mod breaker_cases;
pub mod retry_cases;

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
