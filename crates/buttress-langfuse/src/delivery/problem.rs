//! Why spans are not taken, in words and in kinds.

use std::error::Error;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use serde_json::Value as Json;

use crate::text::{Secrets, printable};

/// How many characters of a server's own words are shown.
const LONGEST_WORDS: usize = 300;

/// How Langfuse's refusals of a request begin that say nothing about its spans
/// (`web/src/pages/api/public/otel/v1/traces/index.ts` at 6275144).
const ABOUT_THE_REQUEST: [&str; 4] = [
    "Invalid content type",
    "Unsupported x-langfuse-ingestion-version",
    "Failed to decompress request body",
    "Failed to parse OTel Protobuf Trace",
];

/// Why a request was not taken.
#[derive(Debug)]
pub(crate) enum Problem {
    /// The server is away or overloaded; delivery goes on by itself.
    Away(String),
    /// A person has to change something: keys, address, plan, version.
    Misconfigured(String),
    /// One span is refused for good.
    Refused(String),
}

impl Problem {
    pub(super) const fn cause(&self) -> &'static str {
        match self {
            Self::Away(_) => "away",
            Self::Misconfigured(_) => "misconfigured",
            Self::Refused(_) => "refused",
        }
    }

    /// Tells a person what happens with spans for this destination.
    pub(super) fn told_of(&self, peer: &str) -> String {
        match self {
            Self::Away(what) => format!("{peer} does not take spans, trying on: {what}"),
            Self::Misconfigured(what) => format!(
                "{peer} refuses this program's requests, spans wait; keys, address, plan or \
                 version must change: {what}"
            ),
            Self::Refused(words) => format!("{peer} refuses a span, it is given up: {words}"),
        }
    }
}

/// Tells whether an answer says that the server can take nothing at the moment.
///
/// 500 counts too: Langfuse answers it when its own store fails.
pub(super) fn is_away(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

/// Tells whether a refusal is about the spans of the request, so that fewer of them may be taken.
pub(super) fn is_about_the_batch(answer: &Response<Bytes>) -> bool {
    match answer.status() {
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => true,
        StatusCode::BAD_REQUEST => !is_about_the_request(answer.body()),
        _ => false,
    }
}

fn is_about_the_request(body: &[u8]) -> bool {
    let Ok(body) = serde_json::from_slice::<Json>(body) else { return false };
    let error = body["error"].as_str().unwrap_or_default();
    ABOUT_THE_REQUEST.iter().any(|words| error.starts_with(words))
}

/// The server's own words, for people: short and on one line.
pub(crate) fn words_of(answer: &Response<Bytes>, secrets: &Secrets) -> String {
    let status = answer.status();
    let location = answer.headers().get(header::LOCATION).filter(|_| status.is_redirection());
    if let Some(location) = location {
        return format!("HTTP {status} to {}", shortened(location.as_bytes(), secrets));
    }
    let words = shortened(answer.body(), secrets);
    if words.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {words}") }
}

fn shortened(bytes: &[u8], secrets: &Secrets) -> String {
    let text = secrets.hide(&String::from_utf8_lossy(bytes));
    printable(&text.chars().take(LONGEST_WORDS).collect::<String>())
}

/// Names the innermost cause of an error: the outer ones say only where it came up.
pub(crate) fn innermost(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    printable(&cause.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_the_server_repeats_is_hidden_also_where_the_words_are_cut() {
        let secrets = Secrets::new(["sk-lf-secret".to_owned(), "sk".to_owned()]);
        let body = format!("{}sk-lf-secret is not a key", "x".repeat(LONGEST_WORDS - 5));
        let answer = Response::builder().status(401).body(Bytes::from(body)).unwrap();
        let words = words_of(&answer, &secrets);
        assert!(words.ends_with("x(hidd"), "{words}");
        assert_eq!(secrets.hide("sk"), "sk");
    }

    fn answer(status: u16, body: &'static str) -> Response<Bytes> {
        Response::builder().status(status).body(Bytes::from_static(body.as_bytes())).unwrap()
    }

    #[test]
    fn only_three_statuses_are_about_the_batch() {
        for status in 300..500 {
            let is_about = is_about_the_batch(&answer(status, ""));
            assert_eq!(is_about, matches!(status, 400 | 413 | 422), "{status}");
        }
    }

    #[test]
    fn a_400_about_the_request_is_not_about_its_spans() {
        for words in ABOUT_THE_REQUEST {
            let body = format!(r#"{{"error":"{words}: more"}}"#);
            assert!(is_about_the_request(body.as_bytes()), "{words}");
        }
        let spans = r#"{"error":"Invalid OTLP trace export: 1 of 2 span(s) cannot be processed"}"#;
        assert!(!is_about_the_request(spans.as_bytes()));
        assert!(!is_about_the_request(b"<html>"));
    }

    #[test]
    fn a_redirect_says_where_it_leads_and_words_stay_on_their_line() {
        let none = Secrets::default();
        let mut redirect = answer(308, "moved");
        let location = header::HeaderValue::from_static("https://lf.example/");
        redirect.headers_mut().insert(header::LOCATION, location);
        assert_eq!(
            words_of(&redirect, &none),
            "HTTP 308 Permanent Redirect to https://lf.example/"
        );
        assert_eq!(words_of(&answer(404, "a\n\u{202e}b"), &none), "HTTP 404 Not Found: a  b");
        assert_eq!(words_of(&answer(405, ""), &none), "HTTP 405 Method Not Allowed");
    }
}
