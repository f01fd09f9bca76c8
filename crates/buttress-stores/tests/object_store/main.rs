//! `ObjectStore`.
