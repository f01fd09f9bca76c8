//! When a circuit learns how a call went: with its answer, or at the end of its stream or body.

use super::watch::{Access, Watch};
use crate::{BoxError, Classify, Error};

/// The circuit learns how a call went when its answer is there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AtAnswer;

/// Decides when a circuit learns how a call went: [`AtAnswer`], and with the feature `stream`
/// `AtStreamEnd` and `AtBodyEnd`.
///
/// It cannot be implemented outside this crate.
pub trait Settle<Res, E, C>: sealed::Sealed {
    /// What the caller gets.
    type Response;

    /// Notes the result, or sees to it that the end of the answer will be noted.
    #[doc(hidden)]
    fn settle<A: Access>(
        &self,
        watch: &mut Watch<A>,
        classify: &C,
        result: Result<Res, E>,
    ) -> Result<Self::Response, Error>;
}

impl<Res, E, C> Settle<Res, E, C> for AtAnswer
where
    E: Into<BoxError> + 'static,
    C: Classify<Res, E>,
{
    type Response = Res;

    #[inline(always)]
    fn settle<A: Access>(
        &self,
        watch: &mut Watch<A>,
        classify: &C,
        result: Result<Res, E>,
    ) -> Result<Res, Error> {
        watch.settle(classify, result)
    }
}

mod sealed {
    /// Keeps the trait ours to extend.
    pub trait Sealed {}

    impl Sealed for super::AtAnswer {}

    #[cfg(feature = "stream")]
    impl<I> Sealed for crate::circuit_breaker::AtStreamEnd<I> {}

    #[cfg(all(feature = "stream", feature = "http"))]
    impl Sealed for crate::circuit_breaker::AtBodyEnd {}
}
