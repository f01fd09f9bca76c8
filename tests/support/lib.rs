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

/// Returns the folder of the package whose test runs, as cargo names it at run time: a test binary
/// that is shared by two checkouts reads the files of the one it was started in.
///
/// # Panics
///
/// If it was not started by cargo or nextest.
#[must_use]
pub fn package() -> std::path::PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").expect("tests are started by cargo").into()
}

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// The examples of the published crates' own READMEs.
#[cfg(doctest)]
pub mod readmes {
    #[doc = include_str!("../../crates/buttress/README.md")]
    pub struct Buttress;
    #[doc = include_str!("../../crates/buttress-cli/README.md")]
    pub struct Cli;
    #[doc = include_str!("../../crates/buttress-dashboard/README.md")]
    pub struct Dashboard;
    #[doc = include_str!("../../crates/buttress-graph/README.md")]
    pub struct Graph;
    #[doc = include_str!("../../crates/buttress-langfuse/README.md")]
    pub struct Langfuse;
    #[doc = include_str!("../../crates/buttress-stores/README.md")]
    pub struct Stores;
}

/// The examples of the guide, page by page.
#[cfg(doctest)]
pub mod guide {
    #[doc = include_str!("../../docs/layers.md")]
    pub struct Layers;
    #[doc = include_str!("../../docs/retries.md")]
    pub struct Retries;
    #[doc = include_str!("../../docs/streams.md")]
    pub struct Streams;
    #[doc = include_str!("../../docs/deadlines.md")]
    pub struct Deadlines;
    #[doc = include_str!("../../docs/services.md")]
    pub struct Services;
    #[doc = include_str!("../../docs/checkpoints.md")]
    pub struct Checkpoints;
    #[doc = include_str!("../../docs/observing.md")]
    pub struct Observing;
    #[doc = include_str!("../../docs/langfuse.md")]
    pub struct Langfuse;
    #[doc = include_str!("../../docs/cli.md")]
    pub struct Cli;
    #[doc = include_str!("../../docs/moving.md")]
    pub struct Moving;
}
