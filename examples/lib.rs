//! What the examples share: an agent, an embedded model that it asks, and how a service ends.

pub mod agent;
mod embedded;
mod ending;

pub use self::{
    embedded::{EmbeddedModel, LARGE, LONG, SMALL},
    ending::{Ending, deliver},
};
