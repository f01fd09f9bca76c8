//! One mapped span as bytes.

use bytes::Bytes;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

/// One encoded [`Span`] message, without tag and length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Encoded(pub Bytes);

impl Encoded {
    /// Encodes a span.
    pub(crate) fn new(span: &Span) -> Self {
        Self(span.encode_to_vec().into())
    }

    /// Reads the span back.
    ///
    /// # Errors
    ///
    /// Fails when the bytes are not a span.
    pub(crate) fn decode(&self) -> Result<Span, prost::DecodeError> {
        Span::decode(self.0.clone())
    }
}
