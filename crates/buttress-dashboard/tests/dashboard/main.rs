//! The dashboard from outside: its routes, its events, and what it makes of spans.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod events;
mod routes;
mod spans;
mod support;
