//! A research swarm.
fn main() {}
