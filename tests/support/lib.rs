//! What the tests share: runners of case files, and a server that behaves as Langfuse does.
#![cfg_attr(
    feature = "cases",
    expect(
        clippy::unwrap_used,
        clippy::needless_pass_by_value,
        reason = "a test that cannot go on fails; checks take what they compare"
    )
)]

#[cfg(feature = "cases")]
pub mod breaker_cases;
pub mod langfuse_server;
#[cfg(feature = "cases")]
pub mod retry_cases;

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;
