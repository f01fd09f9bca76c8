//! Checkpoint stores for buttress.
//!
//! `MemoryStore` and `FileStore` are in `buttress` itself.
