//! What the benches have in common: the agents that are called, our layers around
//! them, how they are measured and listened to, and how is said what came of it.

pub mod drive;
pub mod latency;
pub mod listen;
pub mod measure;
pub mod out;
pub mod processor;
pub mod python;
pub mod sink;
pub mod stacks;
