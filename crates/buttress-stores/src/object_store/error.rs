//! What a store of objects says, as errors of stores of checkpoints.

use std::{error::Error as StdError, fmt};

use ::object_store::Error;
use buttress::checkpoint::{StoreError, StoreErrorKind};

/// What went wrong, without what an address may hold.
#[derive(Debug)]
struct Cause(String);

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StdError for Cause {}

/// Says what a failed request means.
pub(super) fn failed(error: &Error) -> StoreError {
    let said = without_queries(&error.to_string());
    if is_setup(error) { StoreError::setup(said) } else { StoreError::unavailable(Cause(said)) }
}

/// Returns the error of a store that is away for a reason of the client's.
pub(super) fn unavailable(why: &str) -> StoreError {
    StoreError::unavailable(Cause(why.to_owned()))
}

/// Returns whether the request would fail again, and has done nothing.
pub(super) const fn is_setup(error: &Error) -> bool {
    matches!(
        error,
        Error::NotSupported { .. }
            | Error::NotImplemented { .. }
            | Error::InvalidPath { .. }
            | Error::PermissionDenied { .. }
            | Error::Unauthenticated { .. }
            | Error::UnknownConfigurationKey { .. }
    )
}

/// Returns whether what is stored cannot be read.
pub(super) const fn is_corrupt(error: &StoreError) -> bool {
    matches!(error.kind(), StoreErrorKind::Corrupt { .. })
}

/// Cuts off what stands behind the question mark of an address: it may be a signature.
fn without_queries(said: &str) -> String {
    let mut words = said.split(' ').map(|word| match word.split_once('?') {
        Some((address, _)) if address.contains("://") => address,
        _ => word,
    });
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |said, word| said + " " + word).replace(['\r', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_no_signature() {
        let source = "error sending PUT https://x.blob/y?sig=secret in 3s";
        let error = Error::Generic { store: "Azure", source: source.into() };
        let error = failed(&error);
        assert!(error.is_unavailable());
        let shown = error.source().unwrap().to_string();
        assert_eq!(shown, "Generic Azure error: error sending PUT https://x.blob/y in 3s");
        let error = Error::PermissionDenied { path: "p".into(), source: "no".into() };
        assert!(matches!(failed(&error).kind(), StoreErrorKind::Setup { .. }));
    }
}
