//! The embedded server: speaks OpenAI's protocol on a real socket and fails on purpose.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, sync::Mutex};

use axum::{Router, extract::State, routing::post};
use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::AbortHandle};

use super::{
    Endpoint,
    chat::{AGENT_HEADER, Brief},
    faults::{Fate, Faults},
};

const MODEL: &str = "embedded-large";
const BACKUP_MODEL: &str = "embedded-small";

/// A language model of sorts, on a local port for as long as the value lives.
#[derive(Debug)]
pub(crate) struct EmbeddedServer {
    address: SocketAddr,
    task: AbortHandle,
}

#[derive(Debug)]
struct Model {
    faults: Faults,
    /// How many requests each agent has sent to each model.
    asked: Mutex<HashMap<(String, String), u32>>,
}

// ===== impl EmbeddedServer =====

impl EmbeddedServer {
    /// Starts the server on a free port of this machine.
    pub(crate) async fn start(faults: Faults) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let model = Arc::new(Model { faults, asked: Mutex::default() });
        let router = Router::new().route("/v1/chat/completions", post(answer)).with_state(model);
        let server = tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, task: server.abort_handle() })
    }

    /// Returns where it listens and which models it has.
    pub(crate) fn endpoint(&self) -> Endpoint {
        let base_url = format!("http://{}/v1", self.address);
        Endpoint::new(&base_url, None, MODEL.to_owned(), Some(BACKUP_MODEL.to_owned()))
            .expect("a socket's address is a valid address")
    }
}

impl Drop for EmbeddedServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(
    State(model): State<Arc<Model>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<axum::body::Body> {
    let agent = headers.get(AGENT_HEADER).and_then(|agent| agent.to_str().ok()).unwrap_or_default();
    let Some((name, brief)) = read(&body) else {
        return reject(StatusCode::BAD_REQUEST, "invalid_request_error", None, "no such request");
    };
    let n = model.count(agent, &name);
    let is_backup = name == BACKUP_MODEL;
    let fate = model.faults.fate(agent, &name, n, is_backup);
    match fate {
        Fate::Hang => std::future::pending().await,
        Fate::Answer { after } => tokio::time::sleep(after).await,
        _ => tokio::time::sleep(model.faults.pause(agent, &name, n)).await,
    }
    respond(fate, &name, &brief.phrase(is_backup), body.len())
}

// ===== impl Model =====

impl Model {
    fn count(&self, agent: &str, model: &str) -> u32 {
        let mut asked = self.asked.lock().expect("nothing panics while it holds the lock");
        let n = asked.entry((agent.to_owned(), model.to_owned())).or_default();
        *n += 1;
        *n
    }
}

/// Reads which model is asked and about what.
fn read(body: &[u8]) -> Option<(String, Brief)> {
    let request: Value = serde_json::from_slice(body).ok()?;
    let model = request["model"].as_str()?.to_owned();
    let user = request["messages"].as_array()?.iter().find(|message| message["role"] == "user")?;
    let brief = serde_json::from_str(user["content"].as_str()?).ok()?;
    Some((model, brief))
}

fn respond(fate: Fate, model: &str, text: &str, asked: usize) -> Response<axum::body::Body> {
    match fate {
        Fate::Answer { .. } | Fate::Hang => {
            json_answer(StatusCode::OK, &completion(model, text, asked).to_string())
        }
        Fate::Malformed => {
            let whole = completion(model, text, asked).to_string();
            // ASCII up to there: the text follows later.
            json_answer(StatusCode::OK, &whole[..whole.len().min(40)])
        }
        Fate::ServerError => reject(
            StatusCode::INTERNAL_SERVER_ERROR,
            "server_error",
            None,
            "The server had an error while processing your request",
        ),
        Fate::RateLimited { wait, in_milliseconds } => {
            let message = format!("Rate limit reached for {model} on requests per min");
            let code = Some("rate_limit_exceeded");
            let mut answer = reject(StatusCode::TOO_MANY_REQUESTS, "requests", code, &message);
            let (name, value) = if in_milliseconds {
                ("retry-after-ms", wait.as_millis().to_string())
            } else {
                ("retry-after", wait.as_secs().to_string())
            };
            answer.headers_mut().insert(name, value.parse().expect("digits are a header value"));
            answer
        }
        Fate::ContextLength => reject(
            StatusCode::BAD_REQUEST,
            "invalid_request_error",
            Some("context_length_exceeded"),
            "This model's maximum context length is 128 tokens",
        ),
        Fate::QuotaExhausted => reject(
            StatusCode::TOO_MANY_REQUESTS,
            "insufficient_quota",
            Some("insufficient_quota"),
            "You exceeded your current quota, please check your plan and billing details",
        ),
    }
}

/// A chat completion, with about four characters to a token.
fn completion(model: &str, text: &str, asked: usize) -> Value {
    let (input, output) = (asked / 4, text.len() / 4);
    json!({
        "id": "chatcmpl-embedded",
        "object": "chat.completion",
        "model": model,
        "choices": [{
            "index": 0,
            "message": { "role": "assistant", "content": text },
            "finish_reason": "stop",
        }],
        "usage": {
            "prompt_tokens": input,
            "completion_tokens": output,
            "total_tokens": input + output,
        },
    })
}

fn reject(
    status: StatusCode,
    kind: &str,
    code: Option<&str>,
    message: &str,
) -> Response<axum::body::Body> {
    let body =
        json!({ "error": { "message": message, "type": kind, "param": null, "code": code } });
    json_answer(status, &body.to_string())
}

fn json_answer(status: StatusCode, body: &str) -> Response<axum::body::Body> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .body(body.to_owned().into())
        .expect("a status and a constant header make an answer")
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt as _;

    use super::*;
    use crate::{
        cli::Weather,
        llm::{ChatModel, HttpClient, Question, Reply},
    };

    fn parts(fate: Fate) -> (u16, HeaderMap) {
        let answer = respond(fate, MODEL, "AAPL: grew.", 400);
        (answer.status().as_u16(), answer.headers().clone())
    }

    #[test]
    fn rate_limits_say_how_long_in_either_header() {
        let wait = std::time::Duration::from_secs(1);
        let (status, headers) = parts(Fate::RateLimited { wait, in_milliseconds: true });
        assert_eq!((status, &headers["retry-after-ms"]), (429, &"1000".parse().unwrap()));
        let (status, headers) = parts(Fate::RateLimited { wait, in_milliseconds: false });
        assert_eq!((status, &headers["retry-after"]), (429, &"1".parse().unwrap()));
        // A spent quota is a 429 too, but no wait helps.
        let (status, headers) = parts(Fate::QuotaExhausted);
        assert_eq!((status, headers.get("retry-after")), (429, None));
    }

    #[tokio::test]
    async fn malformed_answers_are_no_json() {
        let answer = respond(Fate::Malformed, MODEL, "AAPL: grew.", 400);
        assert_eq!(answer.status(), 200);
        let body = axum::body::to_bytes(answer.into_body(), 1024).await.unwrap();
        assert!(!body.is_empty());
        assert!(serde_json::from_slice::<Value>(&body).is_err());
    }

    #[tokio::test]
    async fn in_fair_weather_it_answers_over_the_socket() {
        let server = EmbeddedServer::start(Faults::new(Weather::None, 1)).await.unwrap();
        let endpoint = Arc::new(server.endpoint());
        let question = Question::new("trend", "AAPL", &["grew".to_owned(), "fast".to_owned()]);
        let ask = async |model: &str| {
            let model = ChatModel::new(HttpClient::new(), Arc::clone(&endpoint), model);
            let answer = model.oneshot(question.clone()).await.unwrap();
            Reply::read(answer.body(), endpoint.secrets()).unwrap()
        };
        let reply = ask(endpoint.model()).await;
        assert_eq!(reply.text, "AAPL: grew. Fast.");
        assert_eq!(reply.model.as_deref(), Some(MODEL));
        assert!(reply.input_tokens > Some(50) && reply.output_tokens == Some(4));
        assert_eq!(ask(endpoint.backup_model().unwrap()).await.text, "AAPL: grew.");
    }

    #[tokio::test]
    async fn requests_it_cannot_read_are_refused() {
        let server = EmbeddedServer::start(Faults::new(Weather::None, 1)).await.unwrap();
        let request = http::Request::post(server.endpoint().chat().clone());
        let answer = HttpClient::new().oneshot(request.body(Bytes::from_static(b"{}")).unwrap());
        assert_eq!(answer.await.unwrap().status(), 400);
    }
}
