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

/// Errors with a status of 400 or more whose status or sentence misleads.
#[test]
fn words_quotas_and_sentences_decide_in_this_order() {
    use FailureKind::{
        ContentPolicy, ContextWindowExceeded, InvalidRequest, NotFound, Overloaded, QuotaExhausted,
        RateLimited, Timeout, Transient, Unauthorized,
    };
    let cases = [
        // Anthropic.
        (
            400,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"input length and `max_tokens` exceed context limit: 178959 + 64000 > 200000"}}"#,
            ContextWindowExceeded,
        ),
        (
            400,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"You have reached your specified API usage limits. You will regain access on 2026-01-01"}}"#,
            QuotaExhausted,
        ),
        (504, r#"{"type":"error","error":{"type":"timeout_error","message":"m"}}"#, Timeout),
        // OpenAI.
        (
            400,
            r#"{"error":{"message":"Invalid prompt: it was flagged","type":"invalid_request_error","code":"invalid_prompt"}}"#,
            ContentPolicy,
        ),
        (
            401,
            r#"{"error":{"message":"Incorrect API key: context window","type":"invalid_request_error","code":"invalid_api_key"}}"#,
            Unauthorized,
        ),
        (
            400,
            r#"{"error":{"message":"Incorrect API key: context window","code":"invalid_api_key"}}"#,
            Unauthorized,
        ),
        (404, r#"{"error":{"message":"no context window here","code":null}}"#, NotFound),
        (500, r#"{"error":{"message":"lost the context window"}}"#, Transient),
        (
            503,
            r#"{"error":{"message":"The engine is overloaded","type":"server_error"}}"#,
            Overloaded,
        ),
        (
            429,
            r#"{"error":{"message":"You exceeded your current quota","type":"requests","code":null}}"#,
            QuotaExhausted,
        ),
        (
            429,
            r#"{"error":{"message":"Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 342389","type":"tokens","code":"rate_limit_exceeded"}}"#,
            ContextWindowExceeded,
        ),
        // Moonshot.
        (
            429,
            r#"{"error":{"type":"engine_overloaded_error","message":"The engine is currently overloaded"}}"#,
            Overloaded,
        ),
        (
            429,
            r#"{"error":{"type":"exceeded_current_quota_error","message":"suspended"}}"#,
            QuotaExhausted,
        ),
        // OpenRouter.
        (
            403,
            r#"{"error":{"code":403,"message":"flagged","metadata":{"reasons":["violence"],"flagged_input":"x"}}}"#,
            ContentPolicy,
        ),
        (403, r#"{"error":{"code":403,"message":"no","metadata":{"reasons":[]}}}"#, Unauthorized),
        // Azure.
        (
            403,
            r#"{"error":{"code":"403","message":"Out of call volume quota. Quota will be replenished in 6.12:33:14"}}"#,
            QuotaExhausted,
        ),
        (403, r#"{"statusCode":403,"message":"Out of call volume quota."}"#, QuotaExhausted),
        (
            429,
            r#"{"error":{"code":"429","message":"have exceeded token rate limit of your pricing tier"}}"#,
            RateLimited,
        ),
        // Mistral: a validation error repeats what was sent.
        (
            422,
            r#"{"object":"error","message":{"detail":[{"type":"missing","loc":["body"],"msg":"Field required","input":{"content":"the context window"}}]},"type":"invalid_request_error"}"#,
            InvalidRequest,
        ),
        (
            422,
            r#"{"detail":[{"type":"string_type","msg":"Input should be a string","input":"maximum context length"}]}"#,
            InvalidRequest,
        ),
        (422, r#"{"detail":"prompt is too long"}"#, ContextWindowExceeded),
        // Google.
        (
            499,
            r#"{"error":{"code":499,"message":"The operation was cancelled.","status":"CANCELLED"}}"#,
            Transient,
        ),
        (
            429,
            r#"{"error":{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{"reason":"MODEL_CAPACITY_EXHAUSTED"}]}}"#,
            Overloaded,
        ),
        (504, r#"{"error":{"code":504,"message":"m","status":"DEADLINE_EXCEEDED"}}"#, Timeout),
        // Groq.
        (
            413,
            r#"{"error":{"message":"Request too large for model `llama` on tokens per minute (TPM): Limit 6000, Requested 12328","type":"tokens","code":"rate_limit_exceeded"}}"#,
            ContextWindowExceeded,
        ),
        (498, r#"{"error":{"message":"m","type":"capacity_exceeded"}}"#, Overloaded),
        // DeepSeek.
        (
            400,
            r#"{"error":{"message":"Content Exists Risk","type":"invalid_request_error","code":"invalid_request_error"}}"#,
            ContentPolicy,
        ),
        (
            402,
            r#"{"error":{"message":"Insufficient Balance","type":"unknown_error","code":"invalid_request_error"}}"#,
            QuotaExhausted,
        ),
        // Together and text-generation-inference.
        (
            422,
            r#"{"error":{"message":"Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097","type":"invalid_request_error"}}"#,
            ContextWindowExceeded,
        ),
        // Cohere.
        (
            400,
            r#"{"message":"too many tokens: total number of tokens in the prompt cannot exceed 4081"}"#,
            ContextWindowExceeded,
        ),
        // xAI: a limit of tokens per minute, then spent credits.
        (
            429,
            r#"{"code":"Some resource","error":"Too many tokens for team x. Your rate limit is 16000"}"#,
            RateLimited,
        ),
        (
            429,
            r#"{"code":"Some resource","error":"Your team x has either used all available credits or reached its monthly spending limit."}"#,
            QuotaExhausted,
        ),
        (
            403,
            r#"{"code":"permission-denied","error":"Your team x has either used all available credits"}"#,
            QuotaExhausted,
        ),
        // Bedrock.
        (
            400,
            r#"{"__type":"com.amazon.coral.service#ServiceQuotaExceededException","message":"m"}"#,
            QuotaExhausted,
        ),
        (400, r#"{"message":"Input is too long for requested model."}"#, ContextWindowExceeded),
        (424, r#"{"__type":"ModelErrorException","message":"m"}"#, Transient),
        (
            429,
            r#"{"__type":"ThrottlingException","message":"Too many tokens, please wait before trying again."}"#,
            RateLimited,
        ),
        (
            429,
            r#"{"__type":"ThrottlingException","message":"Too many tokens per day, please wait before trying again."}"#,
            QuotaExhausted,
        ),
        // Accounts that are not served: another provider may do it.
        (
            400,
            r#"{"type":"error","error":{"type":"invalid_request_error","message":"This organization has been disabled."}}"#,
            Unauthorized,
        ),
        (
            400,
            r#"{"error":{"code":400,"message":"User location is not supported","status":"FAILED_PRECONDITION"}}"#,
            Unauthorized,
        ),
        // What is no error does not hide the error beside it.
        (400, r#"{"error":{},"message":"prompt is too long"}"#, ContextWindowExceeded),
        (400, r#"{"error":false,"code":"content_filter"}"#, ContentPolicy),
        (400, "[]", InvalidRequest),
        (400, "\"context window\"", InvalidRequest),
    ];
    for (status, body, kind) in cases {
        assert_eq!(failure(status, body).kind(), kind, "{status} {body}");
    }
}

#[test]
fn bedrock_names_its_exception_in_a_header() {
    for (name, kind) in [
        ("ThrottlingException:http://internal.amazon.com/coral/x/", FailureKind::RateLimited),
        ("ServiceQuotaExceededException", FailureKind::QuotaExhausted),
        ("ModelNotReadyException", FailureKind::Overloaded),
        ("ValidationException", FailureKind::InvalidRequest),
    ] {
        let headers = [("x-amzn-errortype", name)];
        match classify(400, &headers, r#"{"message":"m"}"#) {
            Outcome::Failure(failure) => assert_eq!(failure.kind(), kind, "{name}"),
            other => panic!("{name} is {other:?}"),
        }
    }
}

/// The sentence is the same for every limit; the quota's name tells which it was.
fn gemini(quotas: &[&str], delay: Option<&str>) -> String {
    let violations: Vec<_> =
        quotas.iter().map(|quota| serde_json::json!({"quotaId": quota})).collect();
    let mut details = vec![serde_json::json!({"@type": "type.googleapis.com/google.rpc.Help"})];
    if !violations.is_empty() {
        let kind = "type.googleapis.com/google.rpc.QuotaFailure";
        details.push(serde_json::json!({"@type": kind, "violations": violations}));
    }
    if let Some(delay) = delay {
        let kind = "type.googleapis.com/google.rpc.RetryInfo";
        details.push(serde_json::json!({"@type": kind, "retryDelay": delay}));
    }
    let message = "You exceeded your current quota, please check your plan and billing details.";
    serde_json::json!({"error": {
        "code": 429, "message": message, "status": "RESOURCE_EXHAUSTED", "details": details,
    }})
    .to_string()
}

#[test]
fn geminis_quota_per_minute_passes_and_its_quota_per_day_does_not() {
    let minute = "GenerateContentInputTokensPerModelPerMinute-FreeTier";
    let day = "GenerateRequestsPerDayPerProjectPerModel-FreeTier";
    let limited = failure(429, &gemini(&[minute], Some("26s")));
    assert_eq!(limited.kind(), FailureKind::RateLimited);
    assert_eq!(limited.retry_after(), Some(Duration::from_secs(26)));
    for (body, kind) in [
        (gemini(&[minute], None), FailureKind::RateLimited),
        (gemini(&[], Some("26s")), FailureKind::RateLimited),
        (gemini(&[day], Some("26s")), FailureKind::QuotaExhausted),
        (gemini(&[minute, day], Some("26s")), FailureKind::QuotaExhausted),
        (gemini(&[], None), FailureKind::QuotaExhausted),
    ] {
        assert_eq!(failure(429, &body).kind(), kind, "{body}");
    }
    let spent = failure(429, &gemini(&[day], Some("26s")));
    assert_eq!(spent.retry_after(), None, "a day's quota is not there after 26 s");
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
fn a_failure_shows_nothing_that_a_server_made_up() {
    for body in [
        r#"{"error":{"message":"m","code":"sk-secret","type":"overloaded_error"}}"#,
        r#"{"error":{"message":"prompt is too long: secret","type":"secret"}}"#,
        r#"{"error":{"code":402,"type":"secret","status":"secret"}}"#,
        r#"{"error":{"code":"secret","metadata":{"reasons":["secret"]}}}"#,
        r#"{"promptFeedback":{"blockReason":"secret"}}"#,
        r#"{"error":"secret"}"#,
        r#"{"secret"#,
    ] {
        for status in [200, 400, 429] {
            let failure = match classify(status, &[("content-type", "application/json")], body) {
                Outcome::Failure(failure) => failure,
                other => panic!("{status} {body} is {other:?}"),
            };
            assert!(!format!("{failure} {failure:?}").contains("secret"), "{status} {failure:?}");
        }
    }
}

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];
const EVENTS: &[(&str, &str)] = &[("content-type", "text/event-stream; charset=utf-8")];

fn kind_of_answer(headers: &[(&str, &str)], body: &str) -> Option<FailureKind> {
    match classify(200, headers, body) {
        Outcome::Success => None,
        Outcome::Failure(failure) => Some(failure.kind()),
        other => panic!("{body} is {other:?}"),
    }
}

#[test]
fn an_answer_is_a_success() {
    for body in [
        "",
        r#"{"choices":[{"message":{"content":"an \"error\" of mine"}}]}"#,
        r#"{"error":null}"#,
        r#"{"error":false}"#,
        r#"{"error":""}"#,
        r#"{"error":{}}"#,
        r#"{"error":[]}"#,
        r#"{"error":0}"#,
        // Lists: streams of Google, embeddings, and what has an error further inside.
        r#"[{"candidates":[{"content":{"parts":[{"text":"hi"}]}}]}]"#,
        "[[0.1,0.2],[0.3]]",
        r#"[null, {"error":"x"}]"#,
        r#"[[{"error":"x"}]]"#,
        r#"[{"error":{}}]"#,
        r#"["error","x"]"#,
        "[]",
        "\"error\"",
        "1.5e3",
        "null",
        "true",
    ] {
        assert_eq!(classify(200, JSON, body), Outcome::Success, "{body}");
    }
    assert_eq!(classify(204, JSON, ""), Outcome::Success);
    assert_eq!(classify(304, JSON, ""), Outcome::Success);
    assert_eq!(classify(200, &[("content-type", "text/plain")], "not JSON"), Outcome::Success);
    assert_eq!(classify(200, &[], "not JSON"), Outcome::Success);
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(classify(200, JSON, &deep), Outcome::Success);
    assert_eq!(classify(200, JSON, &format!(r#"{{"choices":{deep}}}"#)), Outcome::Success);
}

#[test]
fn an_error_inside_an_answer_is_a_failure() {
    use FailureKind::{
        ContentPolicy, ContextWindowExceeded, InvalidRequest, Overloaded, QuotaExhausted,
        RateLimited, Transient, Unauthorized,
    };
    for (body, kind) in [
        (r#"{"error":{"code":402,"message":"Insufficient credits"}}"#, QuotaExhausted),
        (r#"{"error":{"code":401,"message":"the context window"}}"#, Unauthorized),
        (r#"{"error":{"code":429,"message":"m"}}"#, RateLimited),
        (r#"{"error":{"code":"429","message":"m"}}"#, RateLimited),
        (r#"{"error":{"code":502,"message":"m"}}"#, Transient),
        (r#"{"error":{"code":503,"message":"m"}}"#, Overloaded),
        (r#"{"error":{"code":403,"metadata":{"reasons":["x"]}}}"#, ContentPolicy),
        (r#"{"error":{"code":99999999999999999999,"message":"m"}}"#, Transient),
        (r#"{"error":{"code":200,"message":"m"}}"#, Transient),
        (r#"{"error":{"message":"prompt is too long"}}"#, ContextWindowExceeded),
        (r#"{"error":{"type":"invalid_request_error","message":"m"}}"#, InvalidRequest),
        (r#"{"error":"the model fell over"}"#, Transient),
        (r#"[{"error":{"code":429,"status":"RESOURCE_EXHAUSTED"}}, {"x":1}]"#, RateLimited),
        (r#"{"choices":[{"finish_reason":"error","error":{"code":502}}]}"#, Transient),
        (r#"{"status":"failed","error":{"code":"server_error"}}"#, Transient),
        ("{\"choices\":[", Transient),
        ("[1,", Transient),
        ("{} x", Transient),
    ] {
        assert_eq!(kind_of_answer(JSON, body), Some(kind), "{body}");
    }
}

#[test]
fn the_content_type_is_compared_as_http_says() {
    let body = r#"{"error":{"type":"overloaded_error"}}"#;
    for kind in ["Application/JSON", "application/json;charset=utf-8", "application/json ; x=\"é\""]
    {
        let found = kind_of_answer(&[("content-type", kind)], body);
        assert_eq!(found, Some(FailureKind::Overloaded), "{kind}");
    }
    assert_eq!(kind_of_answer(&[("content-type", "application/jsonlines")], body), None);
    let body = format!("data: {body}\n\n");
    assert!(
        kind_of_answer(&[("content-type", "TEXT/Event-Stream;charset=utf-8")], &body).is_some()
    );
}

#[test]
fn an_answer_that_a_filter_emptied_is_refused() {
    for body in [
        r#"{"choices":[{"finish_reason":"content_filter","message":{"content":null}}]}"#,
        r#"{"choices":[{"message":{"content":"","tool_calls":[]},"finish_reason":"content_filter"}]}"#,
        r#"{"choices":[{"text":"","finish_reason":"content_filter"}]}"#,
        r#"{"candidates":[{"finishReason":"SAFETY","safetyRatings":[]}]}"#,
        r#"{"candidates":[{"content":{"role":"model"},"finishReason":"PROHIBITED_CONTENT"}]}"#,
        r#"{"candidates":[{"content":{"parts":[{"text":""}]},"finishReason":"BLOCKLIST"}]}"#,
        r#"{"candidates":[{"content":{"parts":[{"text":"hm","thought":true}]},"finishReason":"SAFETY"}]}"#,
        r#"{"promptFeedback":{"blockReason":"OTHER"}}"#,
        r#"{"type":"message","content":[],"stop_reason":"refusal"}"#,
        r#"{"content":[{"type":"thinking","thinking":"hm"}],"stop_reason":"refusal"}"#,
        r#"{"output":[{"type":"reasoning","summary":[]}],"incomplete_details":{"reason":"content_filter"}}"#,
    ] {
        assert_eq!(kind_of_answer(JSON, body), Some(FailureKind::ContentPolicy), "{body}");
    }
    for body in [
        r#"{"choices":[{"finish_reason":"content_filter","message":{"content":"Once upon"}}]}"#,
        r#"{"choices":[{"finish_reason":"content_filter","message":{"content":null,"tool_calls":[{"id":"1"}]}}]}"#,
        r#"{"choices":[{"finish_reason":"content_filter","message":{}},{"finish_reason":"stop","message":{"content":"fine"}}]}"#,
        r#"{"candidates":[{"content":{"parts":[{"text":"Once"}]},"finishReason":"SAFETY"}]}"#,
        r#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f"}}]},"finishReason":"SAFETY"}]}"#,
        r#"{"candidates":[{"finishReason":"MAX_TOKENS"}]}"#,
        r#"{"content":[{"type":"text","text":"I will not"}],"stop_reason":"refusal"}"#,
        r#"{"output":[{"type":"message","content":[{"text":"Once"}]}],"incomplete_details":{"reason":"content_filter"}}"#,
        r#"{"choices":[{"finish_reason":"stop","message":{"content":null,"refusal":null}}]}"#,
        r#"{"choices":"content_filter","candidates":{"finishReason":"SAFETY"}}"#,
        r#"{"choices":[null,1,"x",[{"finish_reason":"content_filter"}],{"finish_reason":7}]}"#,
    ] {
        assert_eq!(kind_of_answer(JSON, body), None, "{body}");
    }
}

#[test]
fn an_error_event_in_a_buffered_stream_is_a_failure() {
    use FailureKind::{ContentPolicy, Overloaded, RateLimited, Transient};
    for (body, kind) in [
        (
            "event: message_start\ndata: {\"type\":\"message_start\"}\n\nevent: error\n\
          data: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"m\"}}\n\n",
            Overloaded,
        ),
        (
            "data: {\"type\":\"error\",\"code\":\"rate_limit_exceeded\",\"message\":\"m\"}\r\n\r\n",
            RateLimited,
        ),
        ("data: {\"type\":\"error\",\"code\":null,\"message\":\"m\"}\n\n", Transient),
        (
            "data: {\"type\":\"response.failed\",\"response\":{\"status\":\"failed\",\"error\":{\"code\":\"invalid_prompt\"}}}\n\n",
            ContentPolicy,
        ),
        ("data: {\"type\":\"response.failed\",\"response\":{\"error\":null}}\n\n", Transient),
        ("data:{\"error\":\"fell over\",\"error_type\":\"generation\"}\n", Transient),
        (
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"error\":{\"code\":429},\"choices\":[{\"finish_reason\":\"error\"}]}\n\n",
            RateLimited,
        ),
    ] {
        assert_eq!(kind_of_answer(EVENTS, body), Some(kind), "{body}");
    }
    for body in [
        "data: {\"choices\":[{\"delta\":{\"content\":\"\\\"error\\\"\"}}]}\n\ndata: [DONE]\n\n",
        "data: {\"error\":null}\n\ndata: {\"error\":{}}\n\ndata: {\"error\n\n",
        "data: {\"type\":\"response.created\",\"response\":{\"error\":null}}\n\n",
        "data: {\"type\":\"response.completed\",\"response\":{\"error\":{\"code\":null},\"x\":\"error\"}}\n\n",
        "data: [{\"type\":\"error\"}]\n\n",
        "",
    ] {
        assert_eq!(kind_of_answer(EVENTS, body), None, "{body}");
    }
    let mut bytes = b"data: \xff\xfe\n\ndata: ".to_vec();
    bytes.extend(br#"{"error":{"type":"overloaded_error"}}"#);
    let headers = EVENTS.iter().map(|(name, value)| {
        let name: http::HeaderName = name.parse().expect("a name");
        (name, value.parse().expect("a value"))
    });
    let outcome =
        LlmClassifier::new().classify_body(http::StatusCode::OK, &headers.collect(), &bytes);
    assert!(matches!(outcome, Outcome::Failure(failure) if failure.kind() == Overloaded));
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
fn dates_numbers_and_foreign_characters_in_retry_after() {
    let wait = |headers: &[(&str, &str)]| match classify(429, headers, "") {
        Outcome::Failure(failure) => failure.retry_after(),
        other => panic!("{headers:?} is {other:?}"),
    };
    // RFC 9110, section 5.6.7: the three formats of a date; the clock stands at 1970.
    for date in [
        "Thu, 01 Jan 1970 00:00:09 GMT",
        "Thursday, 01-Jan-70 00:00:09 GMT",
        "Thu Jan  1 00:00:09 1970",
    ] {
        assert_eq!(wait(&[("retry-after", date)]), Some(Duration::from_secs(9)), "{date}");
    }
    let past = LlmClassifier::new().clock(|| SystemTime::UNIX_EPOCH + Duration::from_secs(99));
    for date in [
        "Thu, 01 Jan 1970 00:00:09 GMT",
        "Thursday, 01-Jan-70 00:00:09 GMT",
        "Thu Jan  1 00:00:09 1970",
    ] {
        let answer = Response::builder().status(429).header("retry-after", date).body("");
        let answer = answer.expect("a valid answer");
        let result: Result<&_, &std::io::Error> = Ok(&answer);
        let Outcome::Failure(failure) = past.classify(result) else { panic!("a failure") };
        assert_eq!(failure.retry_after(), None, "{date}");
    }
    for none in ["99999999999999999999999", "1e999", "-1", "nan", "2 é", "", "0x10", "1,5"] {
        assert_eq!(wait(&[("retry-after", none)]), None, "{none}");
    }
    let both = [("retry-after-ms", "é"), ("retry-after", "2")];
    assert_eq!(wait(&both), Some(Duration::from_secs(2)));
    let reset =
        [("anthropic-ratelimit-requests-reset", "1970-01-01T00:00:30+9223372036854775807:00")];
    assert_eq!(wait(&reset), None);
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

/// What a client that does not decompress hands on.
#[test]
fn a_body_that_is_encoded_is_not_read() {
    for kind in ["application/json", "text/event-stream"] {
        let body = "\u{1f}\u{8b} data: {\"error\":\"mere bytes\"}\n\n";
        let body = format!("{body}\ndata: {{\"error\":\"mere bytes\"}}\n\n");
        let headers = [("content-type", kind), ("content-encoding", "gzip")];
        assert_eq!(classify(200, &headers, &body), Outcome::Success, "{kind}");
        let headers = [("content-type", kind), ("content-encoding", "Identity")];
        assert_ne!(classify(200, &headers, &body), Outcome::Success, "{kind}");
        // The status is not encoded.
        let headers = [("content-type", kind), ("content-encoding", "gzip")];
        let Outcome::Failure(failure) = classify(503, &headers, &body) else { panic!("a failure") };
        assert_eq!(failure.kind(), FailureKind::Overloaded);
    }
}

#[test]
fn a_prompt_that_was_blocked_is_found_in_a_buffered_stream() {
    let body = "data: {\"promptFeedback\":{\"blockReason\":\"SAFETY\"}}\r\n\r\n";
    assert_eq!(kind_of_answer(EVENTS, body), Some(FailureKind::ContentPolicy));
}

proptest::proptest! {
    #[test]
    fn nothing_that_a_server_sends_panics(
        status in 100_u16..1_000,
        name in proptest::sample::select(vec![
            "retry-after", "retry-after-ms", "x-should-retry", "x-ratelimit-reset-tokens",
            "anthropic-ratelimit-tokens-reset", "content-type", "x-amzn-errortype",
        ]),
        value in "[ -~é]{0,40}|[0-9T:.+-]{0,40}",
        body in ".{0,200}",
    ) {
        drop(classify(status, &[(name, &value)], &body));
    }

    /// The classifier's quick look and serde_json agree on what is JSON, and on what is an error.
    #[test]
    fn json_of_any_shape_is_judged_as_a_tree_would_be(
        text in r#"[\[{]{1,3}("(error|choices|type|x)"|[:,]|null|1|"a"|\{\}|[\]}]){0,9}"#,
    ) {
        let expected = match serde_json::from_str::<serde_json::Value>(&text) {
            Err(_) => true,
            Ok(tree) => {
                let tree = match &tree {
                    serde_json::Value::Array(list) => list.first().unwrap_or(&tree),
                    _ => &tree,
                };
                let error = tree.as_object().and_then(|tree| tree.get("error"));
                error.is_some_and(|error| match error {
                    serde_json::Value::String(text) => !text.is_empty(),
                    serde_json::Value::Object(members) => !members.is_empty(),
                    _ => false,
                })
            }
        };
        let found = classify(200, JSON, &text) != Outcome::Success;
        proptest::prop_assert_eq!(found, expected, "{}", text);
    }
}
