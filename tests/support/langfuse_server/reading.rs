//! Lists of observations, in both interfaces: the parameters and fields that readers of our spans
//! need.

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::js::Js;
use super::store::Observation;
use super::{PROJECT_ID, dates};

/// Answers one page, the newest observations first, or the issue that makes the query invalid.
pub(super) fn page(
    observations: &[Observation],
    query: &str,
    style: Style,
) -> Result<Value, Value> {
    let query = Query::read(query, 1000)?;
    let mut rows = selected(observations, &query, style);
    if let Some(cursor) = &query.cursor {
        rows.retain(|row| place(row.0) < (cursor.0.as_str(), cursor.1.as_str(), cursor.2.as_str()));
    }
    let is_last = rows.len() <= query.limit;
    rows.truncate(query.limit);
    let mut meta = Map::new();
    if let Some(last) = rows.last().filter(|_| !is_last) {
        meta.insert("cursor".to_owned(), Value::String(cursor_after(last.0)));
    }
    let data: Vec<Value> = rows
        .into_iter()
        .map(|(row, is_stale)| {
            let mut shaped = shape(row, &query);
            style.apply(&mut shaped, is_stale);
            shaped
        })
        .collect();
    Ok(json!({"data": data, "meta": meta}))
}

/// Answers one page of the older interface, or the issue that makes the query invalid.
pub(super) fn page_v1(
    observations: &[Observation],
    query: &str,
    style: Style,
) -> Result<Value, Value> {
    let mut query = Query::read(query, 100)?;
    query.fields =
        ["basic", "time", "io", "model", "usage", "prompt", "metrics"].map(str::to_owned).to_vec();
    let rows = selected(observations, &query, style);
    let meta = pages(rows.len(), query.page, query.limit);
    let shown = rows.into_iter().skip((query.page - 1) * query.limit).take(query.limit);
    let data: Vec<Value> = shown
        .map(|(row, is_stale)| {
            let mut shaped = shape(row, &query);
            if let Some(fields) = shaped.as_object_mut() {
                for hidden in ["isRootObservation", "bookmarked", "public", "userId", "sessionId"] {
                    fields.remove(hidden);
                }
                fields.insert("metadata".to_owned(), reparsed(row.field("metadata")));
            }
            style.apply(&mut shaped, is_stale);
            shaped
        })
        .collect();
    Ok(json!({"data": data, "meta": meta}))
}

/// The numbers of a page of the older interface.
pub(super) fn pages(rows: usize, page: usize, limit: usize) -> Value {
    json!({"page": page, "limit": limit, "totalItems": rows, "totalPages": rows.div_ceil(limit)})
}

/// How rows are written that are not quite as one would wish.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Style {
    pub(super) repeats: bool,
    pub(super) numbers_as_text: bool,
}

impl Style {
    fn apply(self, row: &mut Value, is_stale: bool) {
        if is_stale {
            row["updatedAt"] = json!("1970-01-01T00:00:00.000Z");
            row["metadata"] = json!({});
            row["statusMessage"] = json!("a row of before");
        }
        if self.numbers_as_text {
            for field in ["metadata", "usageDetails", "costDetails"] {
                numbers_to_text(&mut row[field]);
            }
        }
    }
}

/// Writes the numbers and truth values in an object as text.
pub(super) fn numbers_to_text(value: &mut Value) {
    for value in value.as_object_mut().into_iter().flat_map(Map::values_mut) {
        if value.is_number() || value.is_boolean() {
            *value = json!(value.to_string());
        }
    }
}

/// Picks rows, the newest first; with repeats each comes twice, first as it was before.
fn selected<'a>(
    observations: &'a [Observation],
    query: &Query,
    style: Style,
) -> Vec<(&'a Observation, bool)> {
    let mut rows: Vec<&Observation> =
        observations.iter().filter(|row| query.selects(row)).collect();
    rows.sort_by(|one, other| place(other).cmp(&place(one)));
    let stale: &[bool] = if style.repeats { &[true, false] } else { &[false] };
    rows.into_iter().flat_map(|row| stale.iter().map(move |stale| (row, *stale))).collect()
}

/// The older interface reads text that is JSON back, however deep it stands.
fn reparsed(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (key.clone(), reparsed(value))).collect()
        }
        Value::String(text) => Js::Str(text.clone()).parsed_if_json().to_serde(),
        other => other.clone(),
    }
}

/// Where an observation stands: by start, then trace, then id. Times in ISO form sort as text.
fn place(row: &Observation) -> (&str, &str, &str) {
    (row.field("startTimeISO").as_str().unwrap_or_default(), row.trace_id(), row.id())
}

fn cursor_after(row: &Observation) -> String {
    let (time, trace, id) = place(row);
    let cursor = json!({"lastStartTimeTo": time, "lastTraceId": trace, "lastId": id});
    base64::engine::general_purpose::STANDARD.encode(cursor.to_string())
}

struct Query {
    filters: Vec<(String, String)>,
    fields: Vec<String>,
    expanded: Vec<String>,
    limit: usize,
    page: usize,
    cursor: Option<(String, String, String)>,
}

impl Query {
    fn read(query: &str, largest: usize) -> Result<Self, Value> {
        let mut read = Self {
            filters: Vec::new(),
            fields: vec!["core".to_owned(), "basic".to_owned()],
            expanded: Vec::new(),
            limit: 50,
            page: 1,
            cursor: None,
        };
        let issue = |name: &str, message: &str| json!({"code": "custom", "path": [name], "message": message});
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let value = decoded(value);
            let list = || value.split(',').map(str::to_owned).collect();
            match name {
                "fields" => read.fields = list(),
                "expandMetadata" => read.expanded = list(),
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| *limit <= largest);
                    read.limit = limit.ok_or_else(|| {
                        issue(name, &format!("Too big: expected number to be <={largest}"))
                    })?;
                }
                "page" => {
                    let page = value.parse().ok().filter(|page| *page > 0);
                    read.page =
                        page.ok_or_else(|| issue(name, "Too small: expected number to be >0"))?;
                }
                "cursor" => {
                    read.cursor = Some(
                        read_cursor(&value).ok_or_else(|| issue(name, "Invalid cursor format"))?,
                    );
                }
                "parseIoAsJson" if value == "true" => {
                    return Err(issue(name, "parseIoAsJson=true is no longer supported"));
                }
                "traceId"
                | "name"
                | "type"
                | "level"
                | "userId"
                | "sessionId"
                | "version"
                | "environment"
                | "parentObservationId"
                | "isRootObservation"
                | "fromStartTime"
                | "toStartTime" => {
                    read.filters.push((name.to_owned(), value));
                }
                _ => {}
            }
        }
        Ok(read)
    }

    fn selects(&self, row: &Observation) -> bool {
        self.filters.iter().all(|(name, wanted)| {
            let field = |name: &str| row.field(name).as_str().unwrap_or_default() == wanted;
            let start = row.field("startTimeISO").as_str().unwrap_or_default();
            match name.as_str() {
                "parentObservationId" => field("parentSpanId"),
                "isRootObservation" => row.is_root().to_string() == *wanted,
                "fromStartTime" => start >= wanted.as_str(),
                "toStartTime" => start < wanted.as_str(),
                other => field(other),
            }
        })
    }

    fn has(&self, group: &str) -> bool {
        self.fields.iter().any(|field| field == group)
    }
}

fn read_cursor(text: &str) -> Option<(String, String, String)> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
    let cursor: Value = serde_json::from_slice(&bytes).ok()?;
    let part = |name: &str| cursor[name].as_str().map(str::to_owned);
    Some((part("lastStartTimeTo")?, part("lastTraceId")?, part("lastId")?))
}

/// Undoes the encoding of a query.
pub(super) fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next().unwrap_or_default(), rest.next().unwrap_or_default()];
                std::str::from_utf8(&digits)
                    .ok()
                    .and_then(|digits| u8::from_str_radix(digits, 16).ok())
                    .unwrap_or(b'%')
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn shape(row: &Observation, query: &Query) -> Value {
    let mut shaped = Map::new();
    let mut set = |name: &str, value: Value| shaped.insert(name.to_owned(), value);
    let text = |name: &str| match row.field(name) {
        Value::Null => json!(""),
        Value::String(text) => json!(text),
        // A column of text takes every other type as text.
        other => json!(other.to_string()),
    };
    set("id", json!(row.id()));
    set("traceId", json!(row.trace_id()));
    set("startTime", row.field("startTimeISO").clone());
    set("endTime", row.field("endTimeISO").clone());
    set("projectId", json!(PROJECT_ID));
    set("parentObservationId", json!(row.parent_id()));
    set("type", json!(row.kind()));
    if query.has("basic") {
        for name in
            ["name", "level", "statusMessage", "version", "environment", "userId", "sessionId"]
        {
            set(name, text(name));
        }
        set("bookmarked", json!(false));
        set("public", json!(*row.field("public") == true));
        set("isRootObservation", json!(row.is_root()));
    }
    if query.has("time") {
        set("completionStartTime", row.field("completionStartTime").clone());
        set("createdAt", row.field("endTimeISO").clone());
        set("updatedAt", row.field("endTimeISO").clone());
    }
    if query.has("io") {
        set("input", stored_io(row.field("input")));
        set("output", stored_io(row.field("output")));
    }
    if query.has("metadata") {
        set("metadata", metadata(row, &query.expanded));
    }
    if query.has("model") {
        set("model", text("modelName"));
        set("modelParameters", row.field("modelParameters").clone());
    }
    if query.has("usage") {
        set("usageDetails", or_empty(row.field("providedUsageDetails")));
        set("costDetails", or_empty(row.field("providedCostDetails")));
    }
    if query.has("prompt") {
        set("promptName", text("promptName"));
        set("promptVersion", row.field("promptVersion").clone());
    }
    if query.has("metrics") {
        set("latency", json!(latency(row)));
    }
    if query.has("trace_context") {
        set("traceName", trace_name(row));
        set("release", text("release"));
        set("tags", row.field("tags").clone());
    }
    for name in ["modelId", "inputPrice", "outputPrice", "totalPrice"] {
        set(name, Value::Null);
    }
    Value::Object(shaped)
}

/// A root without a trace name lends the trace its own.
fn trace_name(row: &Observation) -> Value {
    match row.field("traceName") {
        Value::Null if row.is_root() => json!(row.name()),
        name => name.clone(),
    }
}

pub(super) fn latency(row: &Observation) -> Option<f64> {
    let ms = |name: &str| dates::ms_from_iso(row.field(name).as_str()?);
    Some((ms("endTimeISO")? - ms("startTimeISO")?) / 1e3)
}

fn or_empty(value: &Value) -> Value {
    if value.is_null() { json!({}) } else { value.clone() }
}

/// Input and output are stored as text.
fn stored_io(value: &Value) -> Value {
    match value {
        Value::Null | Value::String(_) => value.clone(),
        other => json!(other.to_string()),
    }
}

/// Dotted paths with values that were JSON read back. Text longer than 200 characters is cut,
/// unless its key is asked for in full.
fn metadata(row: &Observation, expanded: &[String]) -> Value {
    const SHOWN: usize = 200;
    let flattened = row.field("metadataFlattened");
    let list = |name: &str| flattened[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut metadata = Map::new();
    for (name, value) in list("names").iter().zip(list("values")) {
        let name = name.as_str().unwrap_or_default();
        let mut text = value.as_str().unwrap_or_default().to_owned();
        if !expanded.iter().any(|key| key == name)
            && let Some((end, _)) = text.char_indices().nth(SHOWN)
        {
            text.truncate(end);
        }
        metadata.insert(name.to_owned(), Js::Str(text).parsed_if_json().to_serde());
    }
    Value::Object(metadata)
}
