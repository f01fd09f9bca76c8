use std::{borrow::Cow, time::SystemTime};

use http::{HeaderMap, Response, StatusCode, header::CONTENT_TYPE};
use serde::Deserialize;
use serde_json::Value;

use super::{HttpClassifier, read_failure, retry_after::go_duration};
use crate::{Classify, Failure, FailureKind, Outcome};

/// Error bodies above this size are judged by their status alone.
const LONGEST_ERROR: usize = 64 * 1024;

/// Classifies answers of language models by their error bodies, then by status and headers.
///
/// It reads the errors of OpenAI (and those who speak its protocol), Anthropic, Google and
/// Mistral, also inside an answer with status 200: an error object as JSON, or as an event of a
/// buffered event stream. The body must be there: put
/// [`ErrorBodyLayer`](crate::ErrorBodyLayer) around a client that streams.
///
/// | in the body | kind |
/// |---|---|
/// | `insufficient_quota`, spent credits, billing limits, a quota per day | `QuotaExhausted`, though it comes as 429 |
/// | `overloaded_error`, `UNAVAILABLE` | `Overloaded`, also with status 200 |
/// | `context_length_exceeded` and its kin | `ContextWindowExceeded` |
/// | content filters | `ContentPolicy` |
/// | `invalid_api_key`, `authentication_error`, `permission_error` | `Unauthorized` |
/// | `model_not_found`, `not_found_error` | `NotFound` |
/// | an answer that should be JSON and is not | `Transient` |
///
/// The failure's message is the provider's code, never its sentence: that may repeat the prompt
/// or part of a key.
///
/// # Defaults
///
/// - `clock`: [`SystemTime::now`], for dates
#[derive(Debug, Clone, Copy, Default)]
pub struct LlmClassifier {
    http: HttpClassifier,
}

/// What providers say of an error, whatever their shape.
#[derive(Debug, Default)]
struct ProviderError {
    /// `error.code`, `error.type`, `error.status`: the words of the machine.
    words: Vec<String>,
    /// The sentence for people; read, and never shown.
    message: String,
    /// Google's `RetryInfo`.
    retry_delay: Option<String>,
    /// Google's `QuotaFailure` names a quota per day.
    per_day: bool,
}

/// What an answer of status 200 may hold besides its answer; the rest is skipped unread.
#[derive(Deserialize)]
struct Answer {
    error: Option<Value>,
    #[serde(rename = "promptFeedback")]
    prompt_feedback: Option<PromptFeedback>,
}

#[derive(Deserialize)]
struct PromptFeedback {
    #[serde(rename = "blockReason")]
    block_reason: Option<String>,
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
        if status.as_u16() < 400 {
            return self.classify_success(status, headers, body);
        }
        let error = if body.len() <= LONGEST_ERROR {
            serde_json::from_slice(body).ok().and_then(|body| ProviderError::read(&body))
        } else {
            None
        };
        match error.and_then(|error| error.failure()) {
            Some(failure) => {
                let message = match failure.message() {
                    Some(words) => Cow::Owned(format!("HTTP {status}: {words}")),
                    None => Cow::Owned(format!("HTTP {status}")),
                };
                let failure = failure.with_message(message);
                Outcome::Failure(self.http.complete(failure, status, headers))
            }
            None => self.http.classify_head(status, headers),
        }
    }

    /// Looks for an error in an answer that says it is none.
    fn classify_success(&self, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Outcome {
        let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        let failure = if kind.starts_with("text/event-stream") {
            in_events(body)
        } else if kind.starts_with("application/json") {
            match serde_json::from_slice::<Answer>(body) {
                Ok(answer) => in_answer(&answer),
                Err(_) => Some(
                    Failure::new(FailureKind::Transient).with_message("the answer is not JSON"),
                ),
            }
        } else {
            None
        };
        match failure {
            Some(failure) => Outcome::Failure(self.http.complete(failure, status, headers)),
            None => Outcome::Success,
        }
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

fn in_answer(answer: &Answer) -> Option<Failure> {
    if let Some(error) = answer.error.as_ref().filter(|error| !error.is_null()) {
        let mut read = ProviderError::default();
        read.add(error);
        return Some(read.failure().unwrap_or(Failure::new(FailureKind::Transient)));
    }
    let reason = answer.prompt_feedback.as_ref()?.block_reason.as_ref()?;
    Some(Failure::new(FailureKind::ContentPolicy).with_message(word(reason)))
}

/// Finds an error among the events of a stream that was buffered whole.
fn in_events(body: &[u8]) -> Option<Failure> {
    let text = std::str::from_utf8(body).ok()?;
    text.lines().filter_map(|line| line.strip_prefix("data:")).find_map(|data| {
        let data = data.trim();
        // Chunks of an answer are not parsed; only those that mention an error are.
        if !data.contains("\"error\"") {
            return None;
        }
        let value: Value = serde_json::from_str(data).ok()?;
        value.get("error").filter(|error| !error.is_null())?;
        let read = ProviderError::read(&value)?;
        Some(read.failure().unwrap_or(Failure::new(FailureKind::Transient)))
    })
}

// ===== impl ProviderError =====

impl ProviderError {
    fn read(body: &Value) -> Option<Self> {
        // Google answers some calls with a list of one.
        let body = body.as_array().and_then(|list| list.first()).unwrap_or(body);
        let mut read = Self::default();
        match body.get("error") {
            Some(error) if !error.is_null() => read.add(error),
            // Mistral has its error at the top.
            _ => read.add(body),
        }
        (!read.words.is_empty() || !read.message.is_empty()).then_some(read)
    }

    fn add(&mut self, error: &Value) {
        if let Some(text) = error.as_str() {
            text.clone_into(&mut self.message);
        }
        for key in ["code", "type", "status"] {
            match error.get(key) {
                Some(Value::String(word)) => self.words.push(word.clone()),
                Some(Value::Number(number)) => self.words.push(number.to_string()),
                _ => (),
            }
        }
        match error.get("message").or(error.get("detail")) {
            Some(Value::String(text)) => text.clone_into(&mut self.message),
            Some(Value::Object(inner)) => {
                self.message = Value::Object(inner.clone()).to_string();
            }
            _ => (),
        }
        // Azure OpenAI has the reason of its filter one level deeper.
        if let Some(code) = error.pointer("/innererror/code").and_then(Value::as_str) {
            self.words.push(code.to_owned());
        }
        for detail in error.get("details").and_then(Value::as_array).into_iter().flatten() {
            self.add_detail(detail);
        }
    }

    /// Reads one of Google's details (google.rpc.RetryInfo, QuotaFailure, ErrorInfo).
    fn add_detail(&mut self, detail: &Value) {
        if let Some(delay) = detail.get("retryDelay").and_then(Value::as_str) {
            self.retry_delay = Some(delay.to_owned());
        }
        if let Some(reason) = detail.get("reason").and_then(Value::as_str) {
            self.words.push(reason.to_owned());
        }
        for violation in detail.get("violations").and_then(Value::as_array).into_iter().flatten() {
            let quota = violation.get("quotaId").and_then(Value::as_str).unwrap_or_default();
            self.per_day |= quota.contains("PerDay");
        }
    }

    /// Returns the failure, if the words say which it is.
    fn failure(&self) -> Option<Failure> {
        let shown = self.words.iter().find(|word| word.parse::<u16>().is_err());
        let mut failure = Failure::new(self.kind()?);
        if let Some(shown) = shown {
            failure = failure.with_message(word(shown));
        }
        match self.retry_delay.as_deref().and_then(go_duration) {
            Some(wait) => Some(failure.with_retry_after(wait)),
            None => Some(failure),
        }
    }

    fn kind(&self) -> Option<FailureKind> {
        let message = self.message.to_lowercase();
        let says = |parts: &[&str]| parts.iter().any(|part| message.contains(part));
        // What the sentence tells is finer than the word beside it: Anthropic's spent credits and
        // too long prompts are both `invalid_request_error`.
        if self.per_day || says(&["credit balance is too low", "exceeded your current quota"]) {
            return Some(FailureKind::QuotaExhausted);
        }
        if says(&[
            "prompt is too long",
            "maximum context length",
            "context window",
            "input token count",
            "context length",
            "too large for model",
        ]) {
            return Some(FailureKind::ContextWindowExceeded);
        }
        if says(&["content filtering policy", "content management policy"]) {
            return Some(FailureKind::ContentPolicy);
        }
        self.words.iter().find_map(|word| kind_of(word))
    }
}

fn kind_of(word: &str) -> Option<FailureKind> {
    Some(match word {
        "insufficient_quota"
        | "billing_hard_limit_reached"
        | "billing_not_active"
        | "billing_error"
        | "insufficient_credits" => FailureKind::QuotaExhausted,
        "overloaded_error" | "overloaded" | "engine_overloaded" | "server_overloaded"
        | "UNAVAILABLE" => FailureKind::Overloaded,
        "context_length_exceeded" | "string_above_max_length" | "request_too_large" => {
            FailureKind::ContextWindowExceeded
        }
        "content_filter"
        | "content_policy_violation"
        | "ResponsibleAIPolicyViolation"
        | "moderation_blocked" => FailureKind::ContentPolicy,
        "invalid_api_key"
        | "authentication_error"
        | "permission_error"
        | "API_KEY_INVALID"
        | "UNAUTHENTICATED"
        | "PERMISSION_DENIED" => FailureKind::Unauthorized,
        "model_not_found" | "not_found_error" | "NOT_FOUND" | "DeploymentNotFound"
        | "invalid_model" => FailureKind::NotFound,
        "rate_limit_exceeded" | "rate_limit_error" | "rate_limited" | "RESOURCE_EXHAUSTED" => {
            FailureKind::RateLimited
        }
        "timeout_error" | "DEADLINE_EXCEEDED" => FailureKind::Timeout,
        "server_error" | "api_error" | "internal_server_error" | "INTERNAL" => {
            FailureKind::Transient
        }
        _ => return None,
    })
}

/// Returns a word of the machine if it is one: short, and of letters, digits and `_`.
fn word(text: &str) -> String {
    let fits = text.len() <= 64
        && text.chars().all(|char| char.is_ascii_alphanumeric() || "_-.".contains(char));
    if fits { text.to_owned() } else { "error".to_owned() }
}
