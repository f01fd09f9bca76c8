//! What the benches have in common: the agents that are called, our layers around
//! them, and how is said what came of it.

pub mod drive;
pub mod out;
pub mod stacks;
