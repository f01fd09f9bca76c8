//! Checkpoint stores for buttress.
//!
//! `MemoryStore` and `FileStore` are in `buttress` itself.

#[cfg(feature = "conformance")]
pub mod conformance;
