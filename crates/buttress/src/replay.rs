//! How a request is kept for a second try.

/// Makes the copy of a request that a retry or a fallback sends.
///
/// The request is moved into the last attempt and copied only before, so an `Arc` around a large
/// prompt makes copies cheap.
pub trait Replay<Req> {
    /// Returns a copy, or nothing if the request cannot be sent again.
    fn replay(&self, request: &Req) -> Option<Req>;
}

/// Clones the request: the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ByClone;

impl<Req: Clone> Replay<Req> for ByClone {
    #[inline]
    fn replay(&self, request: &Req) -> Option<Req> {
        Some(request.clone())
    }
}

impl<Req, F: Fn(&Req) -> Option<Req>> Replay<Req> for F {
    #[inline]
    fn replay(&self, request: &Req) -> Option<Req> {
        self(request)
    }
}
