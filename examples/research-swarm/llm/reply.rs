//! What an answer says, and whether it is one.

use bytes::Bytes;
use http::Response;
use serde::Deserialize;

use buttress::{Classify, Failure, FailureKind, LlmClassifier, Outcome};

use super::HttpError;
use crate::text::{Secrets, printable};

/// What a model answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) text: String,
    /// The model that answered, by its own account.
    pub(crate) model: Option<String>,
    pub(crate) input_tokens: Option<i64>,
    pub(crate) output_tokens: Option<i64>,
}

/// Reads answers as [`LlmClassifier`] does, and takes a 200 that holds no answer as a failure that
/// may be gone at the next try.
///
/// The shipped classifier knows status codes, headers and error bodies; what a good answer must
/// hold only the program knows. So one wraps the other.
#[derive(Debug, Clone)]
pub(crate) struct ChatClassifier(LlmClassifier);

#[derive(Deserialize)]
struct Completion {
    #[serde(default)]
    model: Option<String>,
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    content: String,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: i64,
    completion_tokens: i64,
}

// ===== impl Reply =====

impl Reply {
    /// Reads the body of a chat completion, without what must not be seen of it: the server may
    /// repeat the key, or try to steer the terminal.
    pub(crate) fn read(body: &[u8], secrets: &Secrets) -> Option<Self> {
        let shown = |text: &str| secrets.hide(&printable(text));
        let completion: Completion = serde_json::from_slice(body).ok()?;
        let choice = completion.choices.into_iter().next()?;
        let text = shown(&choice.message.content).trim().to_owned();
        let usage = completion.usage;
        (!text.is_empty()).then_some(Self {
            text,
            model: completion.model.as_deref().map(shown),
            input_tokens: usage.as_ref().map(|usage| usage.prompt_tokens),
            output_tokens: usage.map(|usage| usage.completion_tokens),
        })
    }
}

// ===== impl ChatClassifier =====

impl ChatClassifier {
    pub(crate) fn new() -> Self {
        Self(LlmClassifier::new())
    }
}

impl Classify<Response<Bytes>, HttpError> for ChatClassifier {
    fn classify(&self, result: Result<&Response<Bytes>, &HttpError>) -> Outcome {
        match result {
            Ok(answer) => match self.0.classify(Ok::<_, &HttpError>(answer)) {
                Outcome::Success if Reply::read(answer.body(), &Secrets::default()).is_none() => {
                    Failure::new(FailureKind::Transient)
                        .with_message("the answer is not a chat completion")
                        .into()
                }
                outcome => outcome,
            },
            Err(error) => Failure::new(FailureKind::Transient)
                .with_message(error.to_string())
                .with_unprocessed(error.is_unreachable())
                .into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(status: u16, body: &'static str) -> Outcome {
        let answer = Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .body(Bytes::from_static(body.as_bytes()))
            .unwrap();
        ChatClassifier::new().classify(Ok(&answer))
    }

    fn kind(outcome: Outcome) -> FailureKind {
        match outcome {
            Outcome::Failure(failure) => failure.kind(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_completion_is_a_success() {
        let body = r#"{"model":"m","choices":[{"message":{"role":"assistant","content":" Up. "}}],
            "usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9}}"#;
        assert_eq!(classify(200, body), Outcome::Success);
        let reply = Reply::read(body.as_bytes(), &Secrets::default()).unwrap();
        assert_eq!(reply.text, "Up.");
        assert_eq!((reply.input_tokens, reply.output_tokens), (Some(7), Some(2)));
    }

    #[test]
    fn an_answer_neither_repeats_the_key_nor_steers_the_terminal() {
        let body = r#"{"model":"m\u001b]0;x\u0007 sk-\u0073ecret","choices":[{"message":
            {"content":"\u001b[2JUp, sk-secret."}}]}"#;
        let reply = Reply::read(body.as_bytes(), &Secrets::new(["sk-secret"])).unwrap();
        assert_eq!(reply.text, "[2JUp, (hidden).");
        assert_eq!(reply.model.as_deref(), Some("m ]0;x  (hidden)"));
    }

    #[test]
    fn a_200_without_an_answer_may_be_tried_again() {
        for body in [
            r#"{"choices":[{"mess"#,
            r#"{"choices":[]}"#,
            r#"{"choices":[{"message":{"content":null}}]}"#,
            r#"{"choices":[{"message":{"content":"  "}}]}"#,
        ] {
            assert_eq!(kind(classify(200, body)), FailureKind::Transient, "{body}");
        }
    }

    #[test]
    fn error_bodies_mean_what_the_shipped_classifier_says() {
        let quota =
            r#"{"error":{"message":"..","type":"insufficient_quota","code":"insufficient_quota"}}"#;
        assert_eq!(kind(classify(429, quota)), FailureKind::QuotaExhausted);
        let key = r#"{"error":{"message":"..","code":"invalid_api_key"}}"#;
        assert_eq!(kind(classify(401, key)), FailureKind::Unauthorized);
    }
}
