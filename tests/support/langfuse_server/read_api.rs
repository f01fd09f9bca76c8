//! The endpoints of readers, of both lines of servers.
//!
//! What they answer, and how they refuse, is that of
//! `web/src/pages/api/public/{v2,v3,observations,metrics}` at 6275144.

use std::collections::{BTreeMap, VecDeque};

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode, request::Parts};
use serde_json::{Map, Value, json};

use super::faults::Fault;
use super::http_api::{Connection, answer, authorize, shown_answer};
use super::reading::{self, Style, decoded, numbers_to_text};
use super::store::Observation;

/// A line of servers, by its readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Line {
    /// Langfuse 3: pages by number.
    V3,
    /// Langfuse 4 as it is installed: cursors, and no older reader.
    #[default]
    V4,
    /// Something that is no Langfuse: every reader is missing.
    Neither,
}

/// What readers are shown, and what they asked.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) line: Line,
    pub(super) faults: VecDeque<Fault>,
    pub(super) repeats: bool,
    pub(super) numbers_as_text: bool,
    pub(super) scores: Vec<Value>,
    pub(super) requests: Vec<String>,
}

impl Reading {
    pub(super) fn heal(&mut self) {
        self.faults.clear();
    }

    const fn style(&self) -> Style {
        Style { repeats: self.repeats, numbers_as_text: self.numbers_as_text }
    }
}

/// Whose endpoint it is, and what the other line says to those who ask for it.
enum Owner {
    V3,
    V4 { missing: &'static str },
}

pub(super) async fn health(State(connection): State<Connection>) -> Response {
    let version = match connection.shared.reading().line {
        Line::V3 => "3.225.1",
        Line::V4 => "4.16.0",
        Line::Neither => return page_not_found(),
    };
    answer(StatusCode::OK, &json!({"status": "OK", "version": version}))
}

/// The readers of version 3, which a server without the old tables does not have.
pub(super) async fn gone(State(connection): State<Connection>, headers: HeaderMap) -> Response {
    match authorize(&connection.shared, &headers) {
        Ok(_) => answer(StatusCode::NOT_FOUND, &json!({"message": EVENTS_ONLY})),
        Err(refusal) => refusal.response(),
    }
}

const EVENTS_ONLY: &str = "This endpoint is not available on deployments running in Langfuse v4 events_only mode. \
     Learn more about Langfuse v4 at: https://langfuse.com/docs/v4";

pub(super) async fn observations_v2(
    State(connection): State<Connection>,
    request: Parts,
) -> Response {
    let missing = "The observations v2 API is only available in a Langfuse v4 write mode. Learn more at: https://langfuse.com/docs/v4";
    read(&connection, &request, &Owner::V4 { missing }, reading::page).await
}

pub(super) async fn observations_v1(
    State(connection): State<Connection>,
    request: Parts,
) -> Response {
    read(&connection, &request, &Owner::V3, reading::page_v1).await
}

pub(super) async fn metrics_v2(State(connection): State<Connection>, request: Parts) -> Response {
    let missing = "The metrics v2 API is only available in a Langfuse v4 write mode. Learn more at: https://langfuse.com/docs/v4";
    let scores = connection.shared.reading().scores.clone();
    let measure = |rows: &[Observation], query: &str, style| metrics(rows, &scores, query, style);
    read(&connection, &request, &Owner::V4 { missing }, measure).await
}

pub(super) async fn metrics_v1(State(connection): State<Connection>, request: Parts) -> Response {
    let scores = connection.shared.reading().scores.clone();
    let measure = |rows: &[Observation], query: &str, style| metrics(rows, &scores, query, style);
    read(&connection, &request, &Owner::V3, measure).await
}

pub(super) async fn scores_v3(State(connection): State<Connection>, request: Parts) -> Response {
    let scores = connection.shared.reading().scores.clone();
    // This one came after the last servers of version 3: they have no such page.
    let owner = Owner::V4 { missing: "" };
    let page = |_: &[Observation], query: &str, style| Ok(score_page(&scores, query, style));
    read(&connection, &request, &owner, page).await
}

pub(super) async fn scores_v2(State(connection): State<Connection>, request: Parts) -> Response {
    let scores = connection.shared.reading().scores.clone();
    let page = |_: &[Observation], query: &str, style| Ok(score_page_v1(&scores, query, style));
    read(&connection, &request, &Owner::V3, page).await
}

/// Answers a reader: faults first, then what the line has.
async fn read(
    connection: &Connection,
    request: &Parts,
    owner: &Owner,
    page: impl FnOnce(&[Observation], &str, Style) -> Result<Value, Value>,
) -> Response {
    let shared = &connection.shared;
    let mut released = shared.released.subscribe();
    let (fault, line, style) = {
        let mut reading = shared.reading();
        let asked = request.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
        reading.requests.push(asked.to_owned());
        (reading.faults.pop_front(), reading.line, reading.style())
    };
    match &fault {
        Some(Fault::ResetBeforeBody) => return connection.reset().await,
        Some(Fault::Hang) => released.changed().await.expect("the server is there"),
        Some(fault) => {
            if let Some(shown) = shown_answer(fault) {
                return shown;
            }
        }
        None => {}
    }
    if line == Line::Neither {
        return page_not_found();
    }
    if let Err(refusal) = authorize(shared, &request.headers) {
        return refusal.response();
    }
    match (owner, line) {
        (Owner::V4 { missing: "" }, Line::V3) => return page_not_found(),
        (Owner::V4 { missing }, Line::V3) => {
            let body = json!({"message": missing, "error": "LangfuseNotFoundError"});
            return answer(StatusCode::NOT_FOUND, &body);
        }
        (Owner::V3, Line::V4) => {
            return answer(StatusCode::NOT_FOUND, &json!({"message": EVENTS_ONLY}));
        }
        _ => {}
    }
    let query = request.uri.query().unwrap_or_default();
    match shared.read(|received| page(received.observations(), query, style)) {
        Ok(page) => answer(StatusCode::OK, &page),
        Err(issue) => answer(
            StatusCode::BAD_REQUEST,
            &json!({"message": "Invalid request data", "error": [issue]}),
        ),
    }
}

/// What the server's framework, and most others, answer where there is nothing.
fn page_not_found() -> Response {
    let page =
        "<!DOCTYPE html><html><head><title>404: This page could not be found</title></head></html>";
    let mut response = Response::new(Body::from(page));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

fn parameters(query: &str) -> BTreeMap<String, String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), decoded(value))).collect()
}

fn number(parameters: &BTreeMap<String, String>, name: &str, default: usize) -> usize {
    parameters.get(name).and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn selected_scores(scores: &[Value], parameters: &BTreeMap<String, String>) -> Vec<Value> {
    let is_wanted = |score: &&Value| {
        parameters.get("name").is_none_or(|name| score["name"] == *name)
            && parameters.get("traceId").is_none_or(|id| {
                score["subject"]["id"] == *id || score["subject"]["traceId"] == *id
            })
    };
    let mut scores: Vec<Value> = scores.iter().filter(is_wanted).cloned().collect();
    scores.reverse();
    scores
}

/// The newer interface: a cursor, which here is a number.
fn score_page(scores: &[Value], query: &str, style: Style) -> Value {
    let parameters = parameters(query);
    let limit = number(&parameters, "limit", 50);
    let first = number(&parameters, "cursor", 0);
    let scores = selected_scores(scores, &parameters);
    let fields = parameters.get("fields").map_or("", String::as_str);
    let mut data: Vec<Value> = scores.iter().skip(first).take(limit).cloned().collect();
    for score in &mut data {
        if let Some(score) = score.as_object_mut() {
            if !fields.contains("subject") {
                score.remove("subject");
            }
            if !fields.contains("details") {
                score.remove("comment");
            }
        }
        write(score, style);
    }
    let mut meta = json!({"limit": limit});
    if first + limit < scores.len() {
        meta["cursor"] = json!((first + limit).to_string());
    }
    json!({"data": data, "meta": meta})
}

/// The older interface: pages by number, the subject in fields of its own.
fn score_page_v1(scores: &[Value], query: &str, style: Style) -> Value {
    let parameters = parameters(query);
    let (limit, page) = (number(&parameters, "limit", 50), number(&parameters, "page", 1));
    let scores = selected_scores(scores, &parameters);
    let meta = reading::pages(scores.len(), page, limit);
    let mut data: Vec<Value> = scores.into_iter().skip((page - 1) * limit).take(limit).collect();
    for score in &mut data {
        let subject = score["subject"].take();
        let is_observation = subject["kind"] == "observation";
        score["traceId"] = subject[if is_observation { "traceId" } else { "id" }].clone();
        if is_observation {
            score["observationId"] = subject["id"].clone();
        }
        if score["dataType"] == "BOOLEAN" {
            score["stringValue"] = json!(if score["value"] == true { "True" } else { "False" });
            score["value"] = json!(u8::from(score["value"] == true));
        }
        write(score, style);
    }
    json!({"data": data, "meta": meta})
}

fn write(score: &mut Value, style: Style) {
    if style.numbers_as_text {
        numbers_to_text(score);
    }
}

/// Counts, and averages of latency or value, by dimensions.
fn metrics(
    observations: &[Observation],
    scores: &[Value],
    query: &str,
    style: Style,
) -> Result<Value, Value> {
    let issue = |message: &str| json!({"code": "custom", "path": ["query"], "message": message});
    let query = parameters(query).remove("query").unwrap_or_default();
    let query: Value = serde_json::from_str(&query).map_err(|_| issue("Invalid JSON"))?;
    let list = |name: &str| query[name].as_array().cloned().unwrap_or_default();
    if query["fromTimestamp"].as_str() >= query["toTimestamp"].as_str() {
        return Err(issue("fromTimestamp must be before toTimestamp"));
    }
    let rows: Vec<Value> = match query["view"].as_str().unwrap_or_default() {
        "observations" => observations.iter().map(measured).collect(),
        "scores-numeric" => scores.to_vec(),
        _ => return Err(issue("Invalid view")),
    };
    let mut groups: BTreeMap<String, (Map<String, Value>, Vec<Value>)> = BTreeMap::new();
    let holds = |row: &Value| {
        list("filters").iter().all(|filter| {
            let column = filter["column"].as_str().unwrap_or_default();
            match filter["key"].as_str() {
                Some(key) => row["metadata"][key] == filter["value"],
                None => row[column] == filter["value"],
            }
        })
    };
    for row in rows.into_iter().filter(holds) {
        let mut dimensions = Map::new();
        for dimension in list("dimensions") {
            let field = dimension["field"].as_str().unwrap_or_default();
            if field == "traceId" {
                return Err(issue("High cardinality dimension: traceId"));
            }
            dimensions.insert(field.to_owned(), row[field].clone());
        }
        let name = Value::Object(dimensions.clone()).to_string();
        groups.entry(name).or_insert_with(|| (dimensions, Vec::new())).1.push(row);
    }
    let data: Vec<Value> = groups
        .into_values()
        .map(|(mut row, members)| {
            for metric in list("metrics") {
                let (measure, aggregation) =
                    (metric["measure"].as_str(), metric["aggregation"].as_str());
                let (measure, aggregation) =
                    (measure.unwrap_or_default(), aggregation.unwrap_or_default());
                let values = members.iter().filter_map(|member| member[measure].as_f64());
                let value = match aggregation {
                    "count" => json!(members.len()),
                    "max" => json!(values.fold(f64::MIN, f64::max)),
                    _ => json!(values.sum::<f64>() / members.len() as f64),
                };
                row.insert(format!("{aggregation}_{measure}"), value);
            }
            let mut row = Value::Object(row);
            if style.numbers_as_text {
                numbers_to_text(&mut row);
            }
            row
        })
        .collect();
    Ok(json!({ "data": data }))
}

fn measured(row: &Observation) -> Value {
    let latency = reading::latency(row).map(|seconds| seconds * 1e3);
    let stored = &row.field("metadataFlattened");
    let list = |name: &str| stored[name].as_array().cloned().unwrap_or_default();
    let metadata: Map<String, Value> = list("names")
        .iter()
        .zip(list("values"))
        .filter_map(|(name, value)| Some((name.as_str()?.to_owned(), value)))
        .collect();
    json!({
        "name": row.name(), "level": row.level(), "type": row.kind(), "latency": latency,
        "environment": row.field("environment"), "metadata": metadata,
    })
}
