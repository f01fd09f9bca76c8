//! `PostgresStore` against real servers, and through pgbouncer.

mod conformance;
mod servers;
