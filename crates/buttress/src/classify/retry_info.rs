//! `google.rpc.RetryInfo`, in which a server says when to try again.

use std::time::Duration;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::HeaderMap;
use prost::Message;

/// The name of the header or trailer that holds the details of a status.
const DETAILS: &str = "grpc-status-details-bin";
/// What stands at the end of the detail's type.
const RETRY_INFO: &str = "/google.rpc.RetryInfo";

/// Writers may pad, and readers have to take both:
/// [PROTOCOL-HTTP2](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `google.rpc.Status`; what nobody reads here is left out.
#[derive(Clone, PartialEq, Message)]
struct Details {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Detail>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Detail {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

/// Returns the wait that the details of a status ask for; none where they say nothing that can be read.
pub(crate) fn retry_delay(details: &[u8]) -> Option<Duration> {
    let details = Details::decode(details).ok()?.details;
    let info = details.iter().find(|detail| detail.type_url.ends_with(RETRY_INFO))?;
    let delay = RetryInfo::decode(&*info.value).ok()?.retry_delay?;
    let nanos = u32::try_from(delay.nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(delay.seconds).ok()?, nanos))
}

/// Returns that wait from headers or trailers.
pub(super) fn retry_delay_in(headers: &HeaderMap) -> Option<Duration> {
    retry_delay(&BASE64.decode(headers.get(DETAILS)?.as_bytes()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(type_url: &str, seconds: i64, nanos: i32) -> Vec<u8> {
        let info = RetryInfo { retry_delay: Some(Delay { seconds, nanos }) };
        let other =
            Detail { type_url: "type.googleapis.com/google.rpc.Help".into(), value: vec![9] };
        let info = Detail { type_url: type_url.into(), value: info.encode_to_vec() };
        Details { details: vec![other, info] }.encode_to_vec()
    }

    #[test]
    fn a_delay_is_found_among_the_details() {
        let url = "type.googleapis.com/google.rpc.RetryInfo";
        assert_eq!(retry_delay(&details(url, 2, 500_000_000)), Some(Duration::from_millis(2_500)));
        assert_eq!(retry_delay(&details("a/google.rpc.DebugInfo", 2, 0)), None);
        for (seconds, nanos) in [(-1, 0), (0, -1), (1, 1_000_000_000)] {
            assert_eq!(retry_delay(&details(url, seconds, nanos)), None, "{seconds} {nanos}");
        }
        assert_eq!(retry_delay(b"\xff\xff"), None);
        assert_eq!(retry_delay(b""), None);
    }

    #[test]
    fn headers_may_be_padded_or_not_and_may_hold_anything() {
        // As a server of Google's writes it: code 8, a message, a delay of 7 s.
        let bytes = details("type.googleapis.com/google.rpc.RetryInfo", 7, 0);
        let padded = base64::engine::general_purpose::STANDARD.encode(&bytes);
        for text in [padded.trim_end_matches('='), &padded] {
            let headers = HeaderMap::from_iter([(
                http::HeaderName::from_static(DETAILS),
                http::HeaderValue::from_str(text)
                    .unwrap_or_else(|_| unreachable!("base64 is ASCII")),
            )]);
            assert_eq!(retry_delay_in(&headers), Some(Duration::from_secs(7)), "{text}");
        }
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static(DETAILS),
            http::HeaderValue::from_static("%%%"),
        )]);
        assert_eq!(retry_delay_in(&headers), None);
    }
}
