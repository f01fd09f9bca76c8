//! Error bodies of providers, in the shapes that their API references and SDKs show.
#![cfg(feature = "llm")]

use std::time::{Duration, SystemTime};

use buttress::{Classify, Failure, FailureKind, HttpClassifier, LlmClassifier, Outcome};
use http::Response;

fn classify(status: u16, headers: &[(&str, &str)], body: &str) -> Outcome {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    let response = response.body(body.to_owned()).expect("a valid answer");
    let result: Result<&_, &std::io::Error> = Ok(&response);
    LlmClassifier::new().clock(|| SystemTime::UNIX_EPOCH).classify(result)
}

fn failure(status: u16, body: &str) -> Failure {
    match classify(status, &[("content-type", "application/json")], body) {
        Outcome::Failure(failure) => failure,
        other => panic!("{status} {body} is {other:?}"),
    }
}

#[test]
fn provider_errors_have_their_kind() {
    use FailureKind::{
        ContentPolicy, ContextWindowExceeded, InvalidRequest, NotFound, Overloaded, QuotaExhausted,
        RateLimited, Transient, Unauthorized,
    };
    let openai = |code: &str, kind: &str, message: &str| {
        serde_json::json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
            .to_string()
    };
    let anthropic = |kind: &str, message: &str| {
        serde_json::json!({"type": "error", "error": {"type": kind, "message": message}})
            .to_string()
    };
    let google = |code: u16, status: &str, message: &str| {
        serde_json::json!({"error": {"code": code, "message": message, "status": status}})
            .to_string()
    };
    let cases: Vec<(u16, String, FailureKind)> = vec![
        // OpenAI: https://platform.openai.com/docs/guides/error-codes
        (429, openai("insufficient_quota", "insufficient_quota", "You exceeded your current quota"), QuotaExhausted),
        (429, openai("rate_limit_exceeded", "requests", "Rate limit reached"), RateLimited),
        (429, openai("billing_hard_limit_reached", "invalid_request_error", ""), QuotaExhausted),
        (400, openai("context_length_exceeded", "invalid_request_error", "This model's maximum context length is 8192 tokens"), ContextWindowExceeded),
        (400, openai("content_policy_violation", "invalid_request_error", ""), ContentPolicy),
        (400, openai("content_filter", "", "The response was filtered"), ContentPolicy),
        (401, openai("invalid_api_key", "invalid_request_error", "Incorrect API key provided: sk-ab***"), Unauthorized),
        (404, openai("model_not_found", "invalid_request_error", "The model does not exist"), NotFound),
        (400, openai("unknown_parameter", "invalid_request_error", "Unknown parameter"), InvalidRequest),
        (500, openai("", "server_error", "The server had an error"), Transient),
        (503, openai("", "", "That model is currently overloaded"), Overloaded),
        // Azure OpenAI puts the reason of its filter one level deeper.
        (400, r#"{"error":{"code":"bad_request","message":"m","innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#.to_owned(), ContentPolicy),
        // Anthropic: https://docs.anthropic.com/en/api/errors
        (529, anthropic("overloaded_error", "Overloaded"), Overloaded),
        (200, anthropic("overloaded_error", "Overloaded"), Overloaded),
        (429, anthropic("rate_limit_error", "This request would exceed your rate limit"), RateLimited),
        (400, anthropic("invalid_request_error", "prompt is too long: 208310 tokens > 200000 maximum"), ContextWindowExceeded),
        (400, anthropic("invalid_request_error", "Your credit balance is too low to access the API"), QuotaExhausted),
        (400, anthropic("invalid_request_error", "Output blocked by content filtering policy"), ContentPolicy),
        (400, anthropic("invalid_request_error", "max_tokens: field required"), InvalidRequest),
        (401, anthropic("authentication_error", "invalid x-api-key"), Unauthorized),
        (403, anthropic("permission_error", "not allowed"), Unauthorized),
        (404, anthropic("not_found_error", "model: x"), NotFound),
        (413, anthropic("request_too_large", "Request exceeds the maximum size"), ContextWindowExceeded),
        (500, anthropic("api_error", "Internal server error"), Transient),
        // Google: https://ai.google.dev/gemini-api/docs/troubleshooting
        (503, google(503, "UNAVAILABLE", "The model is overloaded"), Overloaded),
        (429, google(429, "RESOURCE_EXHAUSTED", "Resource has been exhausted"), RateLimited),
        (400, google(400, "INVALID_ARGUMENT", "The input token count (1200000) exceeds the maximum"), ContextWindowExceeded),
        (400, r#"{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}"#.to_owned(), Unauthorized),
        (429, r#"[{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"m","details":[{"@type":"type.googleapis.com/google.rpc.QuotaFailure","violations":[{"quotaId":"GenerateRequestsPerDayPerProjectPerModel-FreeTier"}]}]}}]"#.to_owned(), QuotaExhausted),
        (200, r#"{"promptFeedback":{"blockReason":"SAFETY"}}"#.to_owned(), ContentPolicy),
        (500, google(500, "INTERNAL", "An internal error has occurred"), Transient),
        // Mistral: https://docs.mistral.ai/api
        (401, r#"{"message":"Unauthorized","request_id":"r"}"#.to_owned(), Unauthorized),
        (429, r#"{"object":"error","message":"Service tier capacity exceeded","type":"rate_limited","code":"3505"}"#.to_owned(), RateLimited),
        (400, r#"{"object":"error","message":"Prompt contains 40000 tokens, too large for model with 32768 maximum context length","type":"invalid_request_prompt","code":"3051"}"#.to_owned(), ContextWindowExceeded),
        (400, r#"{"object":"error","message":"Invalid model: x","type":"invalid_model","code":"1500"}"#.to_owned(), NotFound),
        (422, r#"{"object":"error","message":{"detail":[{"loc":["body"],"msg":"field required"}]},"type":"invalid_request_error"}"#.to_owned(), InvalidRequest),
        // No provider: the status decides.
        (502, "<html>Bad Gateway</html>".to_owned(), Transient),
        (429, String::new(), RateLimited),
        (200, "{\"choices\": [".to_owned(), Transient),
    ];
    for (status, body, kind) in cases {
        assert_eq!(failure(status, &body).kind(), kind, "{status} {body}");
    }
}

#[test]
fn a_failure_shows_the_code_and_never_the_sentence() {
    let body =
        r#"{"error":{"message":"Incorrect API key provided: sk-secret","code":"invalid_api_key"}}"#;
    let shown = format!("{} {:?}", failure(401, body), failure(401, body));
    assert!(shown.contains("invalid_api_key") && !shown.contains("secret"), "{shown}");
    let body = r#"{"error":{"message":"x","code":"sk-secret prompt with spaces","type":"overloaded_error"}}"#;
    assert!(!format!("{:?}", failure(500, body)).contains("secret"));
}

#[test]
fn an_answer_is_a_success() {
    let json = &[("content-type", "application/json")];
    for body in
        [r#"{"choices":[{"message":{"content":"an \"error\" of mine"}}]}"#, r#"{"error":null}"#]
    {
        assert_eq!(classify(200, json, body), Outcome::Success, "{body}");
    }
    assert_eq!(classify(200, &[("content-type", "text/plain")], "not JSON"), Outcome::Success);
}

#[test]
fn an_error_event_in_a_buffered_stream_is_a_failure() {
    let stream = &[("content-type", "text/event-stream; charset=utf-8")];
    let body = "event: message_start\ndata: {\"type\":\"message_start\"}\n\nevent: error\n\
        data: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"m\"}}\n\n";
    let Outcome::Failure(failure) = classify(200, stream, body) else { panic!("an error") };
    assert_eq!(failure.kind(), FailureKind::Overloaded);
    let body =
        "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"error\\\"\"}}]}\n\ndata: [DONE]\n\n";
    assert_eq!(classify(200, stream, body), Outcome::Success);
}

#[test]
fn waits_are_read_from_bodies_and_headers() {
    let body = r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"m","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"27s"}]}}"#;
    assert_eq!(failure(429, body).retry_after(), Some(Duration::from_secs(27)));
    let headers = [("anthropic-ratelimit-requests-reset", "1970-01-01T00:00:30Z")];
    let Outcome::Failure(failure) = classify(429, &headers, "") else { panic!("a failure") };
    assert_eq!(failure.retry_after(), Some(Duration::from_secs(30)));
}

#[test]
fn every_status_is_classified() {
    for status in 100..1_000_u16 {
        let response = Response::builder().status(status).body(()).expect("a status");
        let result: Result<&_, &std::io::Error> = Ok(&response);
        match HttpClassifier::new().classify(result) {
            Outcome::Success => assert!(status < 400, "{status}"),
            Outcome::Failure(failure) => {
                assert!(status >= 400, "{status}");
                assert!(failure.message().is_some_and(|text| text.contains(&status.to_string())));
            }
            other => panic!("{status} is {other:?}"),
        }
    }
}

#[test]
fn a_failure_in_an_error_is_read() {
    let error: buttress::BoxError =
        Failure::new(FailureKind::ContentPolicy).with_message("no").into();
    let result: Result<&Response<Vec<u8>>, _> = Err(&error);
    let Outcome::Failure(failure) = LlmClassifier::new().classify(result) else { panic!("one") };
    assert_eq!(failure.kind(), FailureKind::ContentPolicy);
}

proptest::proptest! {
    #[test]
    fn nothing_that_a_server_sends_panics(
        status in 100_u16..1_000,
        name in proptest::sample::select(vec![
            "retry-after", "retry-after-ms", "x-should-retry", "x-ratelimit-reset-tokens",
            "anthropic-ratelimit-tokens-reset", "content-type",
        ]),
        value in "[ -~]{0,40}",
        body in ".{0,200}",
    ) {
        drop(classify(status, &[(name, &value)], &body));
    }
}
