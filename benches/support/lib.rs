//! What the benches have in common: the agents that are called, and our layers around them.

pub mod drive;
pub mod stacks;
