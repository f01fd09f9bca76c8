//! Classifiers: what the answer or error of a call means.
//!
//! A classifier is given once, to the innermost layer. A layer that makes an [`Error`] of an
//! agent's error classifies it first and stores the [`Failure`] in it, and layers further out,
//! which use [`AnyError`] by default, read it there. Answers are not marked in that way: where an
//! `Ok` can be a failure, as a 503 of an HTTP client is, give the classifier to each layer.

#[cfg(feature = "llm")]
mod answer;
#[cfg(all(feature = "http", feature = "stream"))]
mod body;
#[cfg(all(feature = "llm", feature = "stream"))]
mod events;
#[cfg(feature = "grpc")]
mod grpc;
#[cfg(feature = "http")]
mod http;
#[cfg(feature = "llm")]
mod llm;
#[cfg(feature = "llm")]
mod provider_error;
#[cfg(feature = "http")]
mod retry_after;
#[cfg(feature = "grpc")]
mod retry_info;

use std::{any::Any, error::Error as StdError};

#[cfg(all(feature = "http", feature = "stream"))]
pub use self::body::{ByHead, ClassifyBody, HeadOnly, ReadBody};
#[cfg(all(feature = "llm", feature = "stream"))]
pub use self::events::LlmBody;
#[cfg(all(feature = "grpc", feature = "stream"))]
pub use self::grpc::GrpcBody;
#[cfg(feature = "grpc")]
pub use self::grpc::GrpcClassifier;
#[cfg(feature = "http")]
pub use self::http::HttpClassifier;
#[cfg(feature = "llm")]
pub use self::llm::LlmClassifier;
#[cfg(feature = "tonic")]
pub(crate) use self::{
    grpc::{PUSHBACK, failure_of_code, pushed_back},
    retry_info::retry_delay,
};

use crate::{BoxError, Error, Failure, FailureKind, Outcome};

/// Says what the answer or error of a call means.
///
/// Implemented for functions and closures; write the parameter's type once so that it is inferred
/// inside a `ServiceBuilder`:
///
/// ```
/// use buttress::{Failure, FailureKind, Outcome, RetryLayer};
///
/// let retry = RetryLayer::new(3).classify(|result: Result<&String, &std::io::Error>| match result {
///     Ok(answer) if answer.is_empty() => Failure::new(FailureKind::Transient).into(),
///     Ok(_) => Outcome::Success,
///     Err(_) => Failure::new(FailureKind::Transient).into(),
/// });
/// ```
pub trait Classify<Res, E> {
    /// Classifies one result.
    fn classify(&self, result: Result<&Res, &E>) -> Outcome;
}

impl<Res, E, F> Classify<Res, E> for F
where
    F: Fn(Result<&Res, &E>) -> Outcome,
{
    fn classify(&self, result: Result<&Res, &E>) -> Outcome {
        self(result)
    }
}

/// Takes every error as a failure and every `Ok` as a success: the default, as in the seed.
///
/// A [`Failure`] or an [`Error`] of ours says itself what it is, also inside a chain of a
/// [`BoxError`]; every other error is [`Transient`](FailureKind::Transient).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AnyError;

/// Like [`AnyError`], but searches the chain of sources of any error type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BySource;

// ===== impl AnyError =====

impl<Res, E: 'static> Classify<Res, E> for AnyError {
    #[inline]
    fn classify(&self, result: Result<&Res, &E>) -> Outcome {
        match result {
            Ok(_) => Outcome::Success,
            Err(error) => Outcome::Failure(read_failure(error)),
        }
    }
}

/// Reads what an error of any type says about itself.
#[cold]
pub(crate) fn read_failure(error: &dyn Any) -> Failure {
    if let Some(error) = error.downcast_ref::<Error>() {
        return error.failure().clone();
    }
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.clone();
    }
    #[cfg(feature = "tonic")]
    if let Some(status) = error.downcast_ref::<tonic::Status>() {
        return crate::grpc::failure_of_status(status);
    }
    match error.downcast_ref::<BoxError>() {
        Some(error) => failure_in_chain(&**error),
        None => Failure::new(FailureKind::Transient),
    }
}

// ===== impl BySource =====

impl<Res, E: StdError + 'static> Classify<Res, E> for BySource {
    #[inline]
    fn classify(&self, result: Result<&Res, &E>) -> Outcome {
        match result {
            Ok(_) => Outcome::Success,
            Err(error) => Outcome::Failure(failure_in_chain(error)),
        }
    }
}

/// Makes an `Error` of what a service answered: ours as it is, the service's own classified.
///
/// An error that the classifier calls neutral is the caller's doing.
#[cold]
pub(crate) fn into_error<Res, E, C>(classify: &C, error: E) -> Error
where
    E: Into<BoxError> + 'static,
    C: Classify<Res, E>,
{
    Error::from_service(error, |error| match classify.classify(Err(error)) {
        Outcome::Failure(failure) => failure,
        Outcome::Success | Outcome::Neutral => Failure::new(FailureKind::Cancelled),
    })
}

/// Makes an `Error` of one that nobody classifies, as that of a body: what it, or what it wraps, says about
/// itself counts.
#[cfg(feature = "http")]
#[cold]
pub(crate) fn error_of<E: Into<BoxError> + 'static>(error: E) -> Error {
    let error: BoxError = error.into();
    Error::from_service(error, |error| failure_in_chain(&**error))
}

/// Reads the failure of the first error in a chain that says what it is.
pub(crate) fn failure_in_chain(error: &(dyn StdError + 'static)) -> Failure {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(ours) = error.downcast_ref::<Error>() {
            return ours.failure().clone();
        }
        if let Some(failure) = error.downcast_ref::<Failure>() {
            return failure.clone();
        }
        #[cfg(feature = "tonic")]
        if let Some(failure) = crate::grpc::failure_of(error) {
            return failure;
        }
        next = error.source();
    }
    Failure::new(FailureKind::Transient)
}
