//! The endpoints that take scores.
//!
//! One at a time, and `score-create` in a batch: `web/src/pages/api/public/{scores,ingestion}` at
//! 6275144. A list: the contract of the Python SDK 5.0.4 (`score_consumer.py`).

use std::collections::{HashMap, VecDeque};

use axum::body::to_bytes;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::faults::Fault;
use super::http_api::{Connection, answer, authorize, shown_answer};

/// Which requests with scores a server takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum TakesScores {
    /// Lists, and what older ones take.
    #[default]
    Lists,
    /// Batches of ingestion, and one at a time.
    Batches,
    /// One at a time.
    Single,
}

/// What was received of scores.
#[derive(Debug, Default)]
pub(super) struct Scores {
    pub(super) takes: TakesScores,
    pub(super) faults: VecDeque<Fault>,
    /// The path of each request.
    pub(super) requests: Vec<String>,
    /// Where each score is, by its id.
    places: HashMap<String, usize>,
}

/// The largest body that is read (Next.js's default).
const LARGEST: usize = 1 << 20;

pub(super) async fn scores(
    State(connection): State<Connection>,
    request: axum::extract::Request,
) -> Response {
    take(&connection, request, "/api/public/scores").await
}

pub(super) async fn ingestion(
    State(connection): State<Connection>,
    request: axum::extract::Request,
) -> Response {
    take(&connection, request, "/api/public/ingestion").await
}

async fn take(
    connection: &Connection,
    request: axum::extract::Request,
    path: &'static str,
) -> Response {
    let shared = &connection.shared;
    let (parts, body) = request.into_parts();
    let fault = {
        let mut scores = shared.scores();
        scores.requests.push(path.to_owned());
        scores.faults.pop_front()
    };
    if let Err(refusal) = authorize(shared, &parts.headers) {
        return refusal.response();
    }
    if let Some(response) = fault.as_ref().and_then(shown_answer) {
        return response;
    }
    let Ok(body) = to_bytes(body, LARGEST).await else {
        return answer(StatusCode::PAYLOAD_TOO_LARGE, &json!("Body exceeded 1mb limit"));
    };
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return answer(StatusCode::BAD_REQUEST, &json!("Invalid JSON"));
    };
    let takes = shared.scores().takes;
    let response = match (path, &body, takes) {
        ("/api/public/scores", Value::Array(list), TakesScores::Lists) => list_of(connection, list),
        ("/api/public/scores", Value::Object(_), _) => match issue_of(&body) {
            Some(issue) => invalid(&issue),
            None => {
                store(connection, &body);
                answer(StatusCode::OK, &json!({ "id": body["id"] }))
            }
        },
        ("/api/public/ingestion", _, TakesScores::Single) => {
            answer(StatusCode::NOT_FOUND, &json!({ "message": "Not found" }))
        }
        ("/api/public/ingestion", Value::Object(_), _) => batch(connection, &body, fault.as_ref()),
        _ => invalid("Expected object, received array"),
    };
    if fault == Some(Fault::ResetAfterStoring) {
        return connection.reset().await;
    }
    response
}

fn list_of(connection: &Connection, list: &[Value]) -> Response {
    let (bad, good): (Vec<_>, Vec<_>) = list.iter().partition(|score| issue_of(score).is_some());
    for score in &good {
        store(connection, score);
    }
    if bad.is_empty() {
        return answer(StatusCode::ACCEPTED, &json!({ "message": "Accepted" }));
    }
    let errors: Vec<_> =
        bad.iter().map(|score| json!({ "message": issue_of(score).unwrap_or_default() })).collect();
    let body = json!({ "accepted": good.len(), "rejected": bad.len(), "errors": errors });
    answer(StatusCode::MULTI_STATUS, &body)
}

fn batch(connection: &Connection, body: &Value, fault: Option<&Fault>) -> Response {
    let (mut successes, mut errors) = (Vec::new(), Vec::new());
    for (place, event) in body["batch"].as_array().into_iter().flatten().enumerate() {
        let id = &event["id"];
        if let Some(Fault::EveryOtherEvent(status)) = fault.filter(|_| place % 2 == 1) {
            errors.push(json!({ "id": id, "status": status, "message": "Internal error" }));
            continue;
        }
        let issue = match event["type"].as_str() {
            Some("score-create") => issue_of(&event["body"]),
            _ => Some("Event type not accepted".to_owned()),
        };
        match issue {
            Some(message) => errors.push(json!({ "id": id, "status": 400, "message": message })),
            None => {
                store(connection, &event["body"]);
                successes.push(json!({ "id": id, "status": 201 }));
            }
        }
    }
    answer(StatusCode::MULTI_STATUS, &json!({ "successes": successes, "errors": errors }))
}

/// What the schema says against a score.
fn issue_of(score: &Value) -> Option<String> {
    let is_text = |key: &str| score[key].as_str().is_some_and(|text| !text.is_empty());
    if !is_text("name") {
        return Some("name: Required".to_owned());
    }
    if !is_text("traceId") {
        return Some("traceId: Required".to_owned());
    }
    let value = &score["value"];
    let fits = match score["dataType"].as_str() {
        Some("NUMERIC") => value.is_number(),
        Some("BOOLEAN") => *value == 0 || *value == 1,
        Some("CATEGORICAL") => value.is_string(),
        _ => value.is_number() || value.is_string(),
    };
    (!fits).then(|| format!("value: {value} is no value of its type"))
}

/// Stores a score; one with a known id takes its place.
fn store(connection: &Connection, score: &Value) {
    let id = score["id"].as_str().unwrap_or_default();
    let mut scores = connection.shared.scores();
    let mut reading = connection.shared.reading();
    match scores.places.get(id) {
        Some(place) => reading.scores[*place] = score.clone(),
        None => {
            scores.places.insert(id.to_owned(), reading.scores.len());
            reading.scores.push(score.clone());
        }
    }
}

fn invalid(issue: &str) -> Response {
    let body = json!({ "message": "Invalid request data", "error": [{ "message": issue }] });
    answer(StatusCode::BAD_REQUEST, &body)
}
