//! The gRPC edge: the caller's deadline as the call's budget, and with the feature `tonic` an error as
//! a status.
//!
//! A service behind [`GrpcDeadlineLayer`] knows how long its caller waits (`grpc-timeout`): retries
//! and fallbacks inside start nothing that would end later. [`Error`](crate::Error) becomes a
//! `tonic::Status` with the right code, also in a client, whose layers answer before there is a status
//! of a server: the chain of its causes ends in one. `GrpcStatusLayer` makes answers of errors, and all
//! services of ours are `NamedService`s where what they wrap is one, so that they can stand around a
//! generated server.

#[cfg(feature = "tonic")]
mod answer;
mod deadline;
#[cfg(feature = "tonic")]
mod status;

#[cfg(feature = "tonic")]
pub use self::answer::{GrpcStatus, GrpcStatusFuture, GrpcStatusLayer, StatusBody};
pub use self::deadline::{DeadlineBody, GrpcDeadline, GrpcDeadlineLayer, ResponseFuture};
#[cfg(feature = "tonic")]
pub(crate) use self::status::{completed, failure_of, failure_of_status};
