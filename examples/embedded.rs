//! A language model of sorts for the examples: speaks OpenAI's protocol on a local port, whole and in
//! streams, and fails as its prompt says.
//!
//! A word in brackets is a fault: `AAPL [503]`. It strikes the model `large`, each time or so often as
//! `[503x2]` says; `[all:503]` strikes every model.
//!
//! | fault | what happens |
//! |---|---|
//! | `500`, `503`, `429` | that status, the last two with `Retry-After: 1` |
//! | `quota`, `context` | spent credits; a prompt above the model's context window |
//! | `hang`, `stall` | nothing comes; nothing more comes after two words |
//! | `cut` | the connection closes after two words |
//! | `overloaded`, `late` | an error in the stream, before the first word and after two |
//! | `garbage` | an event that is not JSON |

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{Response, StatusCode},
    routing::post,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::AbortHandle};

/// The model that fails as it is told.
pub const LARGE: &str = "large";
/// A model that fails only for `[all:..]`.
pub const SMALL: &str = "small";
/// The same, with a longer context window.
pub const LONG: &str = "long";

/// How long a word takes.
const PAUSE: Duration = Duration::from_millis(5);

/// A language model on a local port, for as long as the value lives.
#[derive(Debug)]
pub struct EmbeddedModel {
    address: SocketAddr,
    task: AbortHandle,
}

/// How often each model was asked for each prompt.
type Asked = Arc<Mutex<HashMap<(String, String), u32>>>;

/// One step of a stream.
enum Step {
    Event(String),
    Cut,
    Stall,
}

// ===== impl EmbeddedModel =====

impl EmbeddedModel {
    /// Starts it on a free port.
    ///
    /// # Errors
    ///
    /// Fails when this machine gives no port.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let asked = Asked::default();
        let router = Router::new().route("/v1/chat/completions", post(answer)).with_state(asked);
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, task: server.abort_handle() })
    }

    /// Returns the address that clients of OpenAI's protocol take.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }
}

impl Drop for EmbeddedModel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Makes a client for it: a proxy that the environment names knows no port of this machine.
///
/// # Panics
///
/// Panics where TLS cannot be set up, as [`reqwest::Client::new`] does.
#[must_use]
pub fn local_client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().expect("nothing was set that may be wrong")
}

async fn answer(State(asked): State<Asked>, body: Bytes) -> Response<Body> {
    let Some((model, prompt, streams)) = read(&body) else {
        return refuse(400, "invalid_request_error", "no such request");
    };
    let fault = fault(&asked, &model, &prompt);
    tokio::time::sleep(PAUSE).await;
    match fault.as_deref() {
        Some("500") => return refuse(500, "server_error", "the server had an error"),
        Some("503") => return refuse(503, "overloaded_error", "come back later"),
        Some("429") => return refuse(429, "rate_limit_exceeded", "too many requests"),
        Some("quota") => return refuse(429, "insufficient_quota", "no credits are left"),
        Some("context") => return refuse(400, "context_length_exceeded", "the prompt is too long"),
        Some("hang") => std::future::pending().await,
        _ => {}
    }
    let subject = prompt.split_whitespace().next().unwrap_or("It").to_owned();
    let words = format!("{subject} looks fine today, says {model}.");
    if streams { stream_of(&model, &words, fault.as_deref()) } else { whole(&model, &words) }
}

/// Reads which model is asked what, and whether it shall answer in a stream.
fn read(body: &[u8]) -> Option<(String, String, bool)> {
    let request: Value = serde_json::from_slice(body).ok()?;
    let prompt = request["messages"].as_array()?.iter().rev().find_map(|message| {
        let content = &message["content"];
        let parts = || content.as_array()?.iter().find_map(|part| part["text"].as_str());
        content.as_str().or_else(parts)
    })?;
    let streams = request["stream"].as_bool().unwrap_or(false);
    Some((request["model"].as_str()?.to_owned(), prompt.to_owned(), streams))
}

/// Returns the fault that strikes now.
fn fault(asked: &Asked, model: &str, prompt: &str) -> Option<String> {
    let (_, rest) = prompt.split_once('[')?;
    let (word, _) = rest.split_once(']')?;
    let word = match word.strip_prefix("all:") {
        Some(word) => word,
        None if model == LARGE => word,
        None => return None,
    };
    let (kind, times) = match word.rsplit_once('x').map(|(kind, times)| (kind, times.parse())) {
        Some((kind, Ok(times))) => (kind, times),
        _ => (word, u32::MAX),
    };
    let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
    let count = asked.entry((model.to_owned(), prompt.to_owned())).or_default();
    *count = count.saturating_add(1);
    (*count <= times).then(|| kind.to_owned())
}

fn refuse(status: u16, code: &str, message: &str) -> Response<Body> {
    let error =
        json!({ "error": { "message": message, "type": code, "param": null, "code": code } });
    let mut response = Response::new(Body::from(error.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    let headers = response.headers_mut();
    headers.insert("content-type", axum::http::HeaderValue::from_static("application/json"));
    if matches!(code, "overloaded_error" | "rate_limit_exceeded") {
        headers.insert("retry-after", axum::http::HeaderValue::from_static("1"));
    }
    response
}

fn usage(words: &str) -> Value {
    json!({ "prompt_tokens": 12, "completion_tokens": words.split(' ').count(), "total_tokens": 12 + words.split(' ').count() })
}

fn whole(model: &str, words: &str) -> Response<Body> {
    let answer = json!({
        "id": "chatcmpl-embedded",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{
            "index": 0,
            "message": { "role": "assistant", "content": words },
            "finish_reason": "stop",
        }],
        "usage": usage(words),
    });
    let mut response = Response::new(Body::from(answer.to_string()));
    let json = axum::http::HeaderValue::from_static("application/json");
    response.headers_mut().insert("content-type", json);
    response
}

fn stream_of(model: &str, words: &str, fault: Option<&str>) -> Response<Body> {
    let chunk = |delta: Value, reason: Option<&str>| {
        let choice = json!({ "index": 0, "delta": delta, "finish_reason": reason });
        event(&json!({
            "id": "chatcmpl-embedded",
            "object": "chat.completion.chunk",
            "created": 0,
            "model": model,
            "choices": [choice],
        }))
    };
    let failed =
        || event(&json!({ "error": { "type": "overloaded_error", "message": "overloaded" } }));
    let mut steps = vec![Step::Event(chunk(json!({ "role": "assistant", "content": "" }), None))];
    if fault == Some("overloaded") {
        steps.push(Step::Event(failed()));
    }
    for (place, word) in words.split_inclusive(' ').enumerate() {
        if place == 2 {
            match fault {
                Some("cut") => steps.push(Step::Cut),
                Some("stall") => steps.push(Step::Stall),
                Some("late") => steps.push(Step::Event(failed())),
                Some("garbage") => steps.push(Step::Event("data: <html>\n\n".to_owned())),
                _ => {}
            }
        }
        steps.push(Step::Event(chunk(json!({ "content": word }), None)));
    }
    steps.push(Step::Event(chunk(json!({}), Some("stop"))));
    let counted = json!({
        "id": "chatcmpl-embedded",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": model,
        "choices": [],
        "usage": usage(words),
    });
    steps.push(Step::Event(event(&counted)));
    steps.push(Step::Event("data: [DONE]\n\n".to_owned()));
    let body = stream::iter(steps).then(|step| async {
        match step {
            Step::Event(text) => {
                tokio::time::sleep(PAUSE).await;
                Ok(text)
            }
            Step::Cut => Err(io::Error::other("the model cuts the connection")),
            Step::Stall => std::future::pending().await,
        }
    });
    let mut response = Response::new(Body::from_stream(body));
    let events = axum::http::HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert("content-type", events);
    response
}

fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}
