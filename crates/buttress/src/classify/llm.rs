use std::time::SystemTime;

use http::{
    HeaderMap, Response, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use serde_json::Value;

use super::{
    HttpClassifier,
    answer::{failure_in_events, failure_in_json},
    provider_error::ProviderError,
    read_failure,
};
use crate::{Classify, Failure, Outcome};

/// Error bodies above this size are judged by their status alone.
const LONGEST_ERROR: usize = 64 * 1024;

/// Classifies answers of language models by their error bodies, then by status and headers.
///
/// It reads the errors of OpenAI (and those who speak its protocol: Azure, Groq, DeepSeek,
/// Moonshot, Together, xAI, OpenRouter), Anthropic, Google, Mistral, Cohere and Bedrock.
///
/// | in the body | kind |
/// |---|---|
/// | `insufficient_quota`, spent credits, billing limits, a quota per day | `QuotaExhausted`, though it comes as 400, 403 or 429 |
/// | `overloaded_error`, `engine_overloaded_error`, `UNAVAILABLE` | `Overloaded`, also with status 200 or 429 |
/// | `context_length_exceeded` and its kin, a single request above a limit of tokens | `ContextWindowExceeded` |
/// | content filters, moderation, `invalid_prompt` | `ContentPolicy` |
/// | `invalid_api_key`, `authentication_error`, `permission_error` | `Unauthorized` |
/// | `model_not_found`, `not_found_error` | `NotFound` |
/// | an answer that should be JSON and is not | `Transient` |
///
/// Words of the machine (`code`, `type`, `status`, Google's `reason`, Bedrock's exception) decide
/// first. Sentences for people are searched where the status leaves open what is wrong: with 400,
/// 413, 422 and 429, inside an answer with a status below 400, and with 403 for spent quotas.
/// Google has one sentence for all its limits: there a `quotaId` per day is `QuotaExhausted`, and
/// any other limit `RateLimited`, with the wait of `RetryInfo`. Where nothing is known, the status
/// decides as for [`HttpClassifier`].
///
/// # Answers with a status below 400
///
/// An empty body is a success, and so is one of another type than `application/json` and
/// `text/event-stream`, or with a `Content-Encoding`. In the others there are three things that make a failure:
///
/// - An error: a text or object under `error` that is not empty, of a JSON object, of one of its
///   `choices`, or of the first element of a list; or in an event of a buffered stream, which may
///   also be one of the types `error` and `response.failed`. A `code` that is a number from 400 to
///   599 counts as that status.
/// - A prompt that was blocked: Google's `promptFeedback.blockReason`. It is `ContentPolicy`.
/// - An answer that a filter emptied. It is `ContentPolicy`, so that a fallback may answer instead.
///   The reason to stop (`finish_reason` or `finishReason` of one of the `choices` or `candidates`,
///   `stop_reason`, `incomplete_details.reason`) is `content_filter` (OpenAI), `refusal`
///   (Anthropic), or one of Google's `SAFETY`, `PROHIBITED_CONTENT`, `BLOCKLIST`, `RECITATION`,
///   `SPII`, `IMAGE_SAFETY` and `IMAGE_PROHIBITED_CONTENT`; and no choice holds text, a tool call or
///   other content (thoughts and a `refusal` are none). An answer of which something came is a
///   success. Streams and lists are not searched for this.
///
/// # Bodies
///
/// The body must be there. A client that streams hands it out later: put
/// [`ErrorBodyLayer`](crate::ErrorBodyLayer) around it, which reads the bodies of failed answers.
/// It leaves others untouched, and an untouched body looks empty: errors inside an answer with
/// status 200 are found only where the client gives whole bodies. Error bodies above 64 KiB are
/// judged by their status and headers.
///
/// # Messages
///
/// The failure's message is the status and a word, or part of a sentence, that this classifier
/// knows. Nothing that the server wrote is copied: it may repeat the prompt or part of a key.
///
/// # Defaults
///
/// - `clock`: [`SystemTime::now`], for dates
#[derive(Debug, Clone, Copy, Default)]
pub struct LlmClassifier {
    http: HttpClassifier,
}

// ===== impl LlmClassifier =====

impl LlmClassifier {
    /// Creates the classifier.
    #[must_use]
    pub const fn new() -> Self {
        Self { http: HttpClassifier::new() }
    }

    /// Sets the clock that dates in `Retry-After` are compared with.
    #[must_use]
    pub const fn clock(mut self, clock: fn() -> SystemTime) -> Self {
        self.http = self.http.clock(clock);
        self
    }

    /// Classifies an answer by its parts.
    #[must_use]
    pub fn classify_body(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Outcome {
        if status.as_u16() >= 400 {
            return self.classify_failed(status, headers, body);
        }
        match failure_in_answer(headers, body) {
            Some(failure) => Outcome::Failure(self.http.complete(failure, status, headers)),
            None => Outcome::Success,
        }
    }

    #[cold]
    fn classify_failed(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Outcome {
        let readable = body.len() <= LONGEST_ERROR;
        let body: Value =
            if readable { serde_json::from_slice(body).unwrap_or_default() } else { Value::Null };
        let mut error = ProviderError::of_body(&body);
        error.add_headers(headers);
        let Some(failure) = error.failure(status) else {
            return self.http.classify_head(status, headers);
        };
        let message = format!("HTTP {status}: {failure}");
        Outcome::Failure(self.http.complete(failure.with_message(message), status, headers))
    }
}

impl<B: AsRef<[u8]>, E: 'static> Classify<Response<B>, E> for LlmClassifier {
    fn classify(&self, result: Result<&Response<B>, &E>) -> Outcome {
        match result {
            Ok(response) => {
                self.classify_body(response.status(), response.headers(), response.body().as_ref())
            }
            Err(error) => Outcome::Failure(read_failure(error)),
        }
    }
}

/// Looks for a failure in an answer whose status says that it is none.
fn failure_in_answer(headers: &HeaderMap, body: &[u8]) -> Option<Failure> {
    if body.is_empty() {
        return None;
    }
    let kind = content_type(headers)?;
    if kind.eq_ignore_ascii_case(b"application/json") {
        failure_in_json(body)
    } else if kind.eq_ignore_ascii_case(b"text/event-stream") {
        failure_in_events(body)
    } else {
        None
    }
}

/// Returns the type of a body without its parameters; none where the body cannot be read as it is.
pub(super) fn content_type(headers: &HeaderMap) -> Option<&[u8]> {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    if !encodings.all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return None;
    }
    let kind = headers.get(CONTENT_TYPE)?.as_bytes();
    Some(kind.split(|byte| *byte == b';').next()?.trim_ascii())
}
