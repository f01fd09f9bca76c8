//! What providers say of an error, whatever their shape.

use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::{http::kind_of, retry_after::go_duration};
use crate::{Failure, FailureKind};

/// What an error is, and which known word or part of a sentence says so.
///
/// The text is always one of ours: what a server sent may hold a prompt or a key.
type Verdict = (FailureKind, &'static str);

/// The words and sentences of one error, borrowed from its JSON.
#[derive(Default)]
pub(super) struct ProviderError<'a> {
    /// `code`, `type`, `status` and their kin: the words of the machine.
    words: Vec<&'a str>,
    /// A `code` that is the number of an HTTP status, from 400 to 599.
    number: Option<StatusCode>,
    /// The sentences for people, in lower case; read, and never shown.
    sentence: String,
    /// Google's `RetryInfo`.
    retry_delay: Option<&'a str>,
    /// Google's `QuotaFailure` or `RetryInfo` is there.
    limit_is_named: bool,
    /// Google's `QuotaFailure` names a quota per day.
    per_day: bool,
    /// OpenRouter's moderation gave reasons.
    moderated: bool,
}

/// Words that decide, whatever the sentence beside them says.
const DECISIVE: &[(&str, FailureKind)] = &[
    ("insufficient_quota", FailureKind::QuotaExhausted),
    ("billing_hard_limit_reached", FailureKind::QuotaExhausted),
    ("billing_not_active", FailureKind::QuotaExhausted),
    ("billing_error", FailureKind::QuotaExhausted),
    ("insufficient_credits", FailureKind::QuotaExhausted),
    ("exceeded_current_quota_error", FailureKind::QuotaExhausted),
    ("QUOTA_EXHAUSTED", FailureKind::QuotaExhausted),
    ("BILLING_DISABLED", FailureKind::QuotaExhausted),
    ("ServiceQuotaExceededException", FailureKind::QuotaExhausted),
    ("overloaded_error", FailureKind::Overloaded),
    ("overloaded", FailureKind::Overloaded),
    ("engine_overloaded", FailureKind::Overloaded),
    ("engine_overloaded_error", FailureKind::Overloaded),
    ("server_overloaded", FailureKind::Overloaded),
    ("capacity_exceeded", FailureKind::Overloaded),
    ("UNAVAILABLE", FailureKind::Overloaded),
    ("MODEL_CAPACITY_EXHAUSTED", FailureKind::Overloaded),
    ("ModelNotReadyException", FailureKind::Overloaded),
    ("ServiceUnavailableException", FailureKind::Overloaded),
    ("context_length_exceeded", FailureKind::ContextWindowExceeded),
    ("exceed_context_size_error", FailureKind::ContextWindowExceeded),
    ("string_above_max_length", FailureKind::ContextWindowExceeded),
    ("request_too_large", FailureKind::ContextWindowExceeded),
    ("content_filter", FailureKind::ContentPolicy),
    ("content_policy_violation", FailureKind::ContentPolicy),
    ("ResponsibleAIPolicyViolation", FailureKind::ContentPolicy),
    ("moderation_blocked", FailureKind::ContentPolicy),
    ("invalid_prompt", FailureKind::ContentPolicy),
    ("data_inspection_failed", FailureKind::ContentPolicy),
    ("invalid_api_key", FailureKind::Unauthorized),
    ("authentication_error", FailureKind::Unauthorized),
    ("permission_error", FailureKind::Unauthorized),
    ("API_KEY_INVALID", FailureKind::Unauthorized),
    ("UNAUTHENTICATED", FailureKind::Unauthorized),
    ("PERMISSION_DENIED", FailureKind::Unauthorized),
    // Google's, where it does not serve the caller's country or plan.
    ("FAILED_PRECONDITION", FailureKind::Unauthorized),
    ("organization_restricted", FailureKind::Unauthorized),
    ("AccessDeniedException", FailureKind::Unauthorized),
    ("ExpiredTokenException", FailureKind::Unauthorized),
    ("UnrecognizedClientException", FailureKind::Unauthorized),
    ("model_not_found", FailureKind::NotFound),
    ("not_found_error", FailureKind::NotFound),
    ("NOT_FOUND", FailureKind::NotFound),
    ("DeploymentNotFound", FailureKind::NotFound),
    ("invalid_model", FailureKind::NotFound),
    ("ResourceNotFoundException", FailureKind::NotFound),
];

/// Words that a sentence beside them overrules.
const COARSE: &[(&str, FailureKind)] = &[
    ("rate_limit_exceeded", FailureKind::RateLimited),
    ("rate_limit_error", FailureKind::RateLimited),
    ("rate_limited", FailureKind::RateLimited),
    ("RESOURCE_EXHAUSTED", FailureKind::RateLimited),
    ("ThrottlingException", FailureKind::RateLimited),
    ("timeout_error", FailureKind::Timeout),
    ("DEADLINE_EXCEEDED", FailureKind::Timeout),
    ("ModelTimeoutException", FailureKind::Timeout),
    ("CANCELLED", FailureKind::Transient),
    ("ModelErrorException", FailureKind::Transient),
];

/// Words that say less than a status does; they count where the status says nothing.
const WITHOUT_STATUS: &[(&str, FailureKind)] = &[
    ("server_error", FailureKind::Transient),
    ("api_error", FailureKind::Transient),
    ("internal_server_error", FailureKind::Transient),
    ("INTERNAL", FailureKind::Transient),
    ("invalid_request_error", FailureKind::InvalidRequest),
    ("INVALID_ARGUMENT", FailureKind::InvalidRequest),
];

/// OpenAI's sentence of a spent account, and Google's of every limit.
const CURRENT_QUOTA: &str = "exceeded your current quota";

/// Parts of sentences, in lower case, that tell of spent credits or quotas.
const SPENT: &[(&str, FailureKind)] = &[
    (CURRENT_QUOTA, FailureKind::QuotaExhausted),
    ("credit balance is too low", FailureKind::QuotaExhausted),
    ("reached your specified api usage limits", FailureKind::QuotaExhausted),
    ("out of call volume quota", FailureKind::QuotaExhausted),
    ("used all available credits", FailureKind::QuotaExhausted),
    ("insufficient balance", FailureKind::QuotaExhausted),
    ("too many tokens per day", FailureKind::QuotaExhausted),
];

/// Parts of sentences, in lower case, that tell of the prompt or the account.
const TOLD: &[(&str, FailureKind)] = &[
    ("prompt is too long", FailureKind::ContextWindowExceeded),
    ("input is too long", FailureKind::ContextWindowExceeded),
    ("maximum context length", FailureKind::ContextWindowExceeded),
    ("maximum prompt length", FailureKind::ContextWindowExceeded),
    ("context window", FailureKind::ContextWindowExceeded),
    ("context length", FailureKind::ContextWindowExceeded),
    ("context limit", FailureKind::ContextWindowExceeded),
    ("input token count", FailureKind::ContextWindowExceeded),
    ("too large for model", FailureKind::ContextWindowExceeded),
    // A single request above a limit per minute: no wait lets it through.
    ("request too large for", FailureKind::ContextWindowExceeded),
    ("too many tokens:", FailureKind::ContextWindowExceeded),
    ("`max_new_tokens` must be", FailureKind::ContextWindowExceeded),
    ("content filtering policy", FailureKind::ContentPolicy),
    ("content management policy", FailureKind::ContentPolicy),
    ("content exists risk", FailureKind::ContentPolicy),
    ("organization has been disabled", FailureKind::Unauthorized),
];

// ===== impl ProviderError =====

impl<'a> ProviderError<'a> {
    /// Reads the body of an answer with a status of 400 or more.
    pub(super) fn of_body(body: &'a Value) -> Self {
        // Google answers some calls with a list of one.
        let body = body.as_array().and_then(|list| list.first()).unwrap_or(body);
        let mut read = Self::default();
        match body.get("error").filter(|error| is_error(error)) {
            Some(error @ Value::Object(_)) => read.add(error),
            // Mistral, Cohere and Bedrock have their error at the top; xAI beside its sentence.
            error => {
                read.add(body);
                error.into_iter().for_each(|sentence| read.add_sentence(sentence));
            }
        }
        read
    }

    /// Reads an error itself.
    pub(super) fn of_error(error: &'a Value) -> Self {
        let mut read = Self::default();
        match error {
            Value::String(_) => read.add_sentence(error),
            _ => read.add(error),
        }
        read
    }

    /// Adds the name of the exception that Bedrock sends as a header.
    pub(super) fn add_headers(&mut self, headers: &'a HeaderMap) {
        if let Some(name) = headers.get("x-amzn-errortype").and_then(|name| name.to_str().ok()) {
            self.words.push(exception(name));
        }
    }

    fn add(&mut self, error: &'a Value) {
        for key in ["code", "type", "status"] {
            self.add_word(&error[key]);
        }
        // Azure OpenAI has the reason of its filter one level deeper.
        self.add_word(&error["innererror"]["code"]);
        if let Some(name) = error["__type"].as_str() {
            self.words.push(exception(name));
        }
        self.add_sentence(&error["message"]);
        self.add_sentence(&error["detail"]);
        let reasons = error["metadata"]["reasons"].as_array();
        self.moderated |= reasons.is_some_and(|reasons| !reasons.is_empty());
        error["details"]
            .as_array()
            .into_iter()
            .flatten()
            .for_each(|detail| self.add_detail(detail));
    }

    fn add_word(&mut self, word: &'a Value) {
        let number = match word {
            Value::String(word) => {
                self.words.push(word);
                word.parse().ok()
            }
            _ => word.as_u64().and_then(|number| u16::try_from(number).ok()),
        };
        let number = number.filter(|number| (400..600).contains(number));
        self.number = self.number.or(number.and_then(|number| StatusCode::from_u16(number).ok()));
    }

    /// Adds a sentence, or what is safe to read of a list of validation errors.
    ///
    /// The items of such a list repeat what was sent (`input`, `ctx`): only their `type` and `msg`
    /// are read.
    fn add_sentence(&mut self, value: &'a Value) {
        match value {
            Value::String(text) => {
                self.sentence.push_str(&text.to_lowercase());
                self.sentence.push('\n');
            }
            Value::Array(items) => {
                for item in items {
                    self.add_word(&item["type"]);
                    if let text @ Value::String(_) = &item["msg"] {
                        self.add_sentence(text);
                    }
                }
            }
            Value::Object(_) => self.add_sentence(&value["detail"]),
            _ => (),
        }
    }

    /// Reads one of Google's details (google.rpc.RetryInfo, QuotaFailure, ErrorInfo).
    fn add_detail(&mut self, detail: &'a Value) {
        self.add_word(&detail["reason"]);
        if let Some(delay) = detail["retryDelay"].as_str() {
            self.retry_delay = Some(delay);
            self.limit_is_named = true;
        }
        for violation in detail["violations"].as_array().into_iter().flatten() {
            if let Some(quota) = violation["quotaId"].as_str() {
                self.per_day |= quota.contains("PerDay");
                self.limit_is_named = true;
            }
        }
    }

    /// Returns the failure, if the error says which it is; its message is a known word.
    ///
    /// Inside an answer with a status below 400 every error is a failure.
    pub(super) fn failure(&self, status: StatusCode) -> Option<Failure> {
        let (kind, said) = self.verdict(status)?;
        let failure = Failure::new(kind).with_message(said);
        // A quota per day comes with a wait of seconds too, after which nothing has changed.
        let wait = self.retry_delay.filter(|_| kind != FailureKind::QuotaExhausted);
        Some(match wait.and_then(go_duration) {
            Some(wait) => failure.with_retry_after(wait),
            None => failure,
        })
    }

    fn verdict(&self, status: StatusCode) -> Option<Verdict> {
        let inside = status.as_u16() < 400;
        let status = self.number.filter(|_| inside).unwrap_or(status);
        if self.per_day {
            return Some((FailureKind::QuotaExhausted, "quota per day"));
        }
        if self.moderated {
            return Some((FailureKind::ContentPolicy, "moderation"));
        }
        let known = self.word_of(DECISIVE).or_else(|| self.part_of_sentence(status));
        let known = known.or_else(|| self.word_of(COARSE));
        if known.is_some() || !inside {
            return known;
        }
        let coded = kind_of(status).map(|kind| (kind, "error code in the answer"));
        let known = coded.or_else(|| self.word_of(WITHOUT_STATUS));
        Some(known.unwrap_or((FailureKind::Transient, "error in the answer")))
    }

    fn word_of(&self, table: &'static [(&str, FailureKind)]) -> Option<Verdict> {
        let known = |word: &&str| table.iter().find(|(known, _)| known == word);
        self.words.iter().find_map(known).map(|(word, kind)| (*kind, *word))
    }

    /// Searches the sentence where the status leaves open what is wrong.
    fn part_of_sentence(&self, status: StatusCode) -> Option<Verdict> {
        let tables: &[&'static [(&str, FailureKind)]] = match status.as_u16() {
            ..400 | 400 | 413 | 422 | 429 => &[SPENT, TOLD],
            403 => &[SPENT],
            _ => &[],
        };
        let told = |(part, _): &&(&str, FailureKind)| {
            self.sentence.contains(part) && !(self.limit_is_named && *part == CURRENT_QUOTA)
        };
        let found = tables.iter().copied().flatten().find(told);
        found.map(|(part, kind)| (*kind, *part))
    }
}

/// Returns whether what stands under `error` is an error: a text or object that is not empty.
pub(super) fn is_error(error: &Value) -> bool {
    match error {
        Value::String(text) => !text.is_empty(),
        Value::Object(members) => !members.is_empty(),
        _ => false,
    }
}

/// Returns the bare name of an exception of AWS, sent as `name:url` or `namespace#name`.
fn exception(name: &str) -> &str {
    let name = name.split_once(':').map_or(name, |(name, _)| name);
    name.rsplit_once('#').map_or(name, |(_, name)| name).trim()
}
