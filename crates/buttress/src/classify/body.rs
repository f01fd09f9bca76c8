//! Bodies that are judged as they pass.

use http::{HeaderMap, StatusCode};

use super::{AnyError, BySource, Classify, HttpClassifier};
use crate::{Failure, Outcome};

/// Says who reads the body of an answer as it passes.
///
/// For classifiers whose failures may come in the middle of a body, or in its trailers. Layers that
/// only know the head of an answer do not ask it.
pub trait ClassifyBody {
    /// Who reads one body.
    type Reader: ReadBody + Unpin;

    /// Returns who reads the body of the answer with this head.
    fn reader(&self, status: StatusCode, headers: &HeaderMap) -> Self::Reader;
}

/// Reads one body and finds the failures in it.
pub trait ReadBody {
    /// Reads what comes next; returns a failure with the number of bytes before it that are good.
    fn data(&mut self, chunk: &[u8]) -> Option<(usize, Failure)>;

    /// Reads the trailers.
    fn trailers(&mut self, trailers: &HeaderMap) -> Option<Failure>;

    /// Returns the failure of a body that ends here.
    fn end(&self) -> Option<Failure>;

    /// Returns whether something of the answer itself has come.
    fn has_begun(&self) -> bool;
}

/// Reads nothing: the head says it all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeadOnly {
    has_begun: bool,
}

/// Makes a classifier of heads one that layers for bodies take.
///
/// For closures, which read no bodies.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByHead<C>(pub C);

// ===== impl HeadOnly =====

impl ReadBody for HeadOnly {
    #[inline]
    fn data(&mut self, chunk: &[u8]) -> Option<(usize, Failure)> {
        self.has_begun |= !chunk.is_empty();
        None
    }

    #[inline]
    fn trailers(&mut self, _: &HeaderMap) -> Option<Failure> {
        self.has_begun = true;
        None
    }

    #[inline]
    fn end(&self) -> Option<Failure> {
        None
    }

    #[inline]
    fn has_begun(&self) -> bool {
        self.has_begun
    }
}

// ===== impl ByHead =====

impl<Res, E, C: Classify<Res, E>> Classify<Res, E> for ByHead<C> {
    fn classify(&self, result: Result<&Res, &E>) -> Outcome {
        self.0.classify(result)
    }
}

impl<C> ClassifyBody for ByHead<C> {
    type Reader = HeadOnly;

    fn reader(&self, _: StatusCode, _: &HeaderMap) -> HeadOnly {
        HeadOnly::default()
    }
}

// ===== impl ClassifyBody =====

impl ClassifyBody for AnyError {
    type Reader = HeadOnly;

    fn reader(&self, _: StatusCode, _: &HeaderMap) -> HeadOnly {
        HeadOnly::default()
    }
}

impl ClassifyBody for BySource {
    type Reader = HeadOnly;

    fn reader(&self, _: StatusCode, _: &HeaderMap) -> HeadOnly {
        HeadOnly::default()
    }
}

impl ClassifyBody for HttpClassifier {
    type Reader = HeadOnly;

    fn reader(&self, _: StatusCode, _: &HeaderMap) -> HeadOnly {
        HeadOnly::default()
    }
}
