//! What the examples share: an agent, an embedded model that it asks, and how a service ends.

use std::{fmt::Display, io::Write as _};

pub mod agent;
mod embedded;
mod ending;

pub use self::{
    embedded::{EmbeddedModel, LARGE, LONG, SMALL, local_client},
    ending::{Ending, deliver},
};

/// Says on stderr why a program ends.
pub fn complain(program: &str, why: impl Display) {
    // Nobody may read any more.
    drop(writeln!(std::io::stderr().lock(), "{program}: {why}"));
}
