//! What the examples share: an agent, and an embedded model that it asks.

pub mod agent;
mod embedded;

pub use self::embedded::{EmbeddedModel, LARGE, LONG, SMALL};
