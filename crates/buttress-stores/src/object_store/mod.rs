//! Checkpoints in object stores.
