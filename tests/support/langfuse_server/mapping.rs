//! How Langfuse 4 turns spans into the rows that it stores.
//!
//! The rules are those of the server's direct path ("events only", the default of version 4),
//! field by field, for spans of any sender. What only the adapters for other frameworks add
//! (Vercel AI SDK, Genkit, LiveKit, Flue, Pydantic AI, experiments, lists of tools and calls) is left
//! out: no span of ours carries it.

use std::time::{SystemTime, UNIX_EPOCH};

use super::js::{Js, Object};
use super::otlp::{self, Unreadable};
use super::{dates, io, kind, usage};

/// The facts about a request that its rows repeat.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Sender {
    /// The project that the keys belong to.
    pub project_id: String,
    /// The public key of the request.
    pub public_key: String,
    /// The header `x-langfuse-sdk-name`.
    pub sdk_name: String,
    /// The header `x-langfuse-sdk-version`.
    pub sdk_version: String,
}

impl Sender {
    /// A sender that does not name its SDK.
    pub fn new(project_id: impl Into<String>, public_key: impl Into<String>) -> Self {
        Self {
            project_id: project_id.into(),
            public_key: public_key.into(),
            sdk_name: "unknown".to_owned(),
            sdk_version: "unknown".to_owned(),
        }
    }
}

/// Turns the field `resourceSpans` of a request into rows, in the order of the spans.
///
/// # Errors
///
/// One unreadable span loses the whole batch, though the request was answered with 200.
pub fn events(resource_spans: &Js, sender: &Sender) -> Result<Vec<Object>, Unreadable> {
    let mut events = Vec::new();
    for resource in resource_spans.as_array().unwrap_or_default() {
        let resource_attributes = otlp::attributes(resource.get("resource").get("attributes"))?;
        for scope_spans in resource.get("scopeSpans").as_array().unwrap_or_default() {
            let scope = scope_spans.get("scope");
            let scope_attributes = otlp::attributes(scope.get("attributes"))?;
            for span in scope_spans.get("spans").as_array().unwrap_or_default() {
                let attributes = otlp::attributes(span.get("attributes"))?;
                let context = SpanContext {
                    span,
                    attributes: &attributes,
                    resource: &resource_attributes,
                    scope,
                    scope_attributes: &scope_attributes,
                };
                events.push(event(&context, sender)?);
            }
        }
    }
    Ok(events)
}

/// A span with everything around it that its row depends on.
struct SpanContext<'a> {
    span: &'a Js,
    attributes: &'a Object,
    resource: &'a Object,
    scope: &'a Js,
    scope_attributes: &'a Object,
}

fn event(context: &SpanContext<'_>, sender: &Sender) -> Result<Object, Unreadable> {
    let SpanContext { span, attributes, resource, scope, .. } = *context;
    let parent = match span.get("parentSpanId") {
        id if id.is_truthy() => Js::Str(otlp::id(id)?),
        _ => Js::Null,
    };
    let (start, end) = times(span);
    let io = io::extract(span.get("events"), attributes)?;
    let metadata = metadata(context, io.other_attributes);
    let kind = kind::of(attributes, resource, scope, span.get("name"));
    let is_agent_summary = usage::is_agent_summary(attributes);

    let mut event = Row(Object::new());
    event.set("projectId", sender.project_id.as_str());
    event.set("traceId", otlp::id(span.get("traceId"))?);
    event.set("spanId", otlp::id(span.get("spanId"))?);
    event.set("parentSpanId", parent);
    event.set("name", name(span.get("name"), attributes));
    event.set("type", kind);
    event.set("environment", environment(attributes, resource));
    event.set(
        "version",
        first(&[attributes.get("langfuse.version"), resource.get("service.version")]),
    );
    event.set("completionStartTime", completion_start(attributes, &start));
    event.set("startTimeISO", start);
    event.set("endTimeISO", end);
    event.set(
        "level",
        level(attributes.get("langfuse.observation.level"), span.get("status").get("code")),
    );
    event.set(
        "statusMessage",
        first(&[
            attributes.get("langfuse.observation.status_message"),
            span.get("status").get("message"),
        ]),
    );
    let (prompt_name, prompt_version) =
        if kind == "GENERATION" { prompt(attributes) } else { (Js::Null, Js::Null) };
    event.set("promptName", prompt_name);
    event.set("promptVersion", prompt_version);
    event.set("modelParameters", usage::model_parameters(attributes));
    event.set(
        "modelName",
        if is_agent_summary { Js::Undefined } else { usage::model_name(attributes) },
    );
    event.set(
        "providedUsageDetails",
        if is_agent_summary { Js::Undefined } else { usage::usage_details(attributes) },
    );
    event.set(
        "providedCostDetails",
        if is_agent_summary { Js::Obj(Object::new()) } else { usage::cost_details(attributes) },
    );
    event.set("tags", tags(attributes));
    event.set("public", public(attributes));
    event.set("isAppRoot", is_true(attributes.get("langfuse.internal.is_app_root")));
    event.set("traceName", first(&[attributes.get("langfuse.trace.name")]));
    event.set("userId", first_text(attributes, &USER_ID_KEYS));
    event.set("sessionId", first_text(attributes, &SESSION_ID_KEYS));
    event.set(
        "release",
        first(&[attributes.get("langfuse.release"), resource.get("langfuse.release")]),
    );
    event.set("input", io.input);
    event.set("output", io.output);
    event.set("metadataFlattened", flattened(&metadata));
    event.set("metadata", Js::Obj(metadata));
    event.set("source", "otel");
    event.set("ingestionApiKey", sender.public_key.as_str());
    event.set("ingestionSdkName", sender.sdk_name.as_str());
    event.set("ingestionSdkVersion", sender.sdk_version.as_str());
    for (field, key) in [
        ("serviceName", "service.name"),
        ("serviceVersion", "service.version"),
        ("telemetrySdkLanguage", "telemetry.sdk.language"),
        ("telemetrySdkName", "telemetry.sdk.name"),
        ("telemetrySdkVersion", "telemetry.sdk.version"),
    ] {
        event.set(field, resource.get(key).clone());
    }
    event.set("scopeName", scope.get("name").clone());
    event.set("scopeVersion", scope.get("version").clone());
    event.set("eventBytes", byte_length(span));
    Ok(event.0)
}

/// The row under construction; it leaves out what is undefined.
struct Row(Object);

impl Row {
    fn set(&mut self, field: &str, value: impl Into<Js>) {
        let value = value.into();
        if value != Js::Undefined {
            self.0.define(field, value);
        }
    }
}

/// The first value that is there, or `null`.
fn first(candidates: &[&Js]) -> Js {
    candidates.iter().find(|value| !value.is_nullish()).map_or(Js::Null, |value| (*value).clone())
}

/// The first attribute that counts as true, as text.
pub(super) fn first_text(attributes: &Object, keys: &[&str]) -> Js {
    keys.iter()
        .map(|key| attributes.get(key))
        .find(|value| value.is_truthy())
        .map_or(Js::Undefined, Js::text_or_json)
}

const USER_ID_KEYS: [&str; 5] = [
    "langfuse.user.id",
    "user.id",
    "langfuse.observation.metadata.langfuse_user_id",
    "langfuse.trace.metadata.langfuse_user_id",
    "ai.telemetry.metadata.userId",
];

const SESSION_ID_KEYS: [&str; 6] = [
    "langfuse.session.id",
    "session.id",
    "gen_ai.conversation.id",
    "langfuse.observation.metadata.langfuse_session_id",
    "langfuse.trace.metadata.langfuse_session_id",
    "ai.telemetry.metadata.sessionId",
];

const TAG_KEYS: [&str; 6] = [
    "langfuse.trace.tags",
    "langfuse.tags",
    "langfuse.observation.metadata.langfuse_tags",
    "langfuse.trace.metadata.langfuse_tags",
    "ai.telemetry.metadata.tags",
    "tag.tags",
];

/// A missing edge takes the time of the other one; without both it is now.
fn times(span: &Js) -> (String, String) {
    let start = dates::iso_from_nanos(span.get("startTimeUnixNano"));
    let end = dates::iso_from_nanos(span.get("endTimeUnixNano"));
    match (start, end) {
        (Some(start), Some(end)) => (start, end),
        (Some(only), None) | (None, Some(only)) => (only.clone(), only),
        (None, None) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let now = dates::iso(now.as_secs_f64() * 1e3).unwrap_or_default();
            (now.clone(), now)
        }
    }
}

/// Other conventions' attributes beat the span's own name.
fn name(span_name: &Js, attributes: &Object) -> Js {
    let tool = attributes.get("gen_ai.tool.name");
    if tool.is_truthy() {
        return tool.text_or_json();
    }
    if attributes.has("genkit:name") {
        return attributes.get("genkit:name").clone();
    }
    let message = attributes.get("logfire.msg");
    if message.is_truthy() {
        return message.text_or_json();
    }
    if attributes.has("ai.toolCall.name") {
        return attributes.get("ai.toolCall.name").clone();
    }
    if attributes.has("ai.operationId") {
        let function = attributes.get("ai.telemetry.functionId");
        let prefix =
            if function.is_truthy() { format!("{}:", function.to_text()) } else { String::new() };
        return Js::Str(prefix + &attributes.get("ai.operationId").to_text());
    }
    span_name.clone()
}

/// The first of three keys that is set, on the span before the resource, made fit for a name.
fn environment(attributes: &Object, resource: &Object) -> String {
    ["langfuse.environment", "deployment.environment.name", "deployment.environment"]
        .iter()
        .flat_map(|key| [attributes.get(key), resource.get(key)])
        .find(|value| value.is_truthy())
        .and_then(|value| normal_environment(value.as_str()?))
        .unwrap_or_else(|| "default".to_owned())
}

fn normal_environment(name: &str) -> Option<String> {
    let lower = name.to_lowercase();
    let mut rest = lower.as_str();
    while let Some(stripped) = rest.strip_prefix("langfuse") {
        rest = stripped.strip_prefix(['-', '_']).unwrap_or(stripped);
    }
    let short: String = rest.chars().take(40).collect();
    let is_fit = |character: char| matches!(character, 'a'..='z' | '0'..='9' | '-' | '_');
    (!short.is_empty() && short.chars().all(is_fit)).then_some(short)
}

/// The words of other systems count too; an unknown word leaves the level to the span's status.
fn level(level: &Js, status_code: &Js) -> &'static str {
    let word = level.as_str().map(|word| word.trim().to_uppercase());
    match word.as_deref() {
        Some("DEBUG" | "TRACE" | "VERBOSE") => "DEBUG",
        Some("DEFAULT" | "INFO" | "LOG" | "NOTICE" | "OK" | "SUCCESS") => "DEFAULT",
        Some("WARNING" | "WARN") => "WARNING",
        Some("ERROR" | "FATAL" | "CRITICAL") => "ERROR",
        // Only the number counts, not the name STATUS_CODE_ERROR.
        _ if *status_code == Js::Num(2.0) => "ERROR",
        _ => "DEFAULT",
    }
}

/// Name and version of the prompt behind a generation.
fn prompt(attributes: &Object) -> (Js, Js) {
    let linked = attributes.get("ai.telemetry.metadata.langfusePrompt").parsed_if_json();
    let field = |own: &str, compatible: &str, linked_field: &str| {
        first(&[attributes.get(own), attributes.get(compatible), linked.get(linked_field)])
    };
    (
        field("langfuse.observation.prompt.name", "langfuse.prompt.name", "name"),
        field("langfuse.observation.prompt.version", "langfuse.prompt.version", "version"),
    )
}

/// The time of the first token. Older senders quote it twice.
fn completion_start(attributes: &Object, start: &str) -> Js {
    let time = attributes.get("langfuse.observation.completion_start_time");
    if dates::is_date(time) {
        return time.clone();
    }
    if let Some(Ok(quoted)) = time.as_str().map(Js::parse)
        && dates::is_date(&quoted)
    {
        return quoted;
    }
    let delay = first(&[
        attributes.get("ai.response.msToFirstChunk"),
        attributes.get("ai.stream.msToFirstChunk"),
    ]);
    if !delay.is_truthy() {
        return Js::Null;
    }
    dates::ms_from_iso(start)
        .and_then(|start| dates::iso(start + delay.to_number().ceil()))
        .map_or(Js::Null, Js::Str)
}

/// An array, the JSON of an array, a list with commas, or one tag.
fn tags(attributes: &Object) -> Js {
    let tags = TAG_KEYS
        .iter()
        .map(|key| attributes.get(key))
        .find(|value| value.is_truthy())
        .unwrap_or_else(|| attributes.get("tag.tags"));
    let texts = |items: &[Js]| items.iter().map(|item| Js::Str(item.to_text())).collect();
    Js::Arr(match tags {
        Js::Arr(items) => texts(items),
        Js::Str(text) => match Js::parse(text) {
            Ok(Js::Arr(items)) if text.trim().starts_with('[') => texts(&items),
            _ if text.contains(',') => text.split(',').map(|tag| tag.trim().into()).collect(),
            _ => vec![text.as_str().into()],
        },
        Js::Undefined | Js::Null | Js::Bool(_) | Js::Num(_) | Js::Obj(_) => Vec::new(),
    })
}

fn public(attributes: &Object) -> Js {
    match first(&[attributes.get("langfuse.trace.public"), attributes.get("langfuse.public")]) {
        Js::Null => Js::Undefined,
        value => Js::Bool(is_true(&value)),
    }
}

fn is_true(value: &Js) -> bool {
    *value == Js::Bool(true) || value.as_str() == Some("true")
}

/// Joins what describes the span: the attributes that have no field of their own, the resource
/// and the scope, then the metadata of the observation, then that of the trace. Later ones win.
fn metadata(context: &SpanContext<'_>, other_attributes: Object) -> Object {
    let mut metadata = Object::new();
    let is_langfuse_sdk =
        context.scope.get("name").as_str().is_some_and(|name| name.starts_with("langfuse-sdk"));
    if !is_langfuse_sdk {
        metadata.define("attributes", Js::Obj(other_attributes));
    }
    metadata.define("resourceAttributes", Js::Obj(context.resource.clone()));
    let mut scope = Object::new();
    scope.spread(context.scope);
    scope.define("attributes", Js::Obj(context.scope_attributes.clone()));
    metadata.define("scope", Js::Obj(scope));
    for domain in ["langfuse.observation.metadata", "langfuse.trace.metadata"] {
        metadata.spread(&Js::Obj(domain_metadata(context.attributes, domain)));
    }
    metadata
}

/// The metadata under one prefix: the object under the prefix itself, then the flat keys.
fn domain_metadata(attributes: &Object, prefix: &str) -> Object {
    const EXCLUDED: [&str; 4] = [
        "ai.telemetry.metadata.userId",
        "ai.telemetry.metadata.sessionId",
        "ai.telemetry.metadata.tags",
        "ai.telemetry.metadata.langfusePrompt",
    ];
    let own = attributes.get(prefix);
    let whole = if own.is_truthy() { own } else { attributes.get("langfuse.metadata") };
    let mut metadata = Object::new();
    match whole {
        // Text that is no object or array in JSON is dropped without a word.
        Js::Str(text) => metadata.spread(&Js::parse(text).unwrap_or_default()),
        _ => metadata.spread(whole),
    }
    let mut flat = Object::new();
    for (key, value) in attributes.iter().filter(|(key, _)| !EXCLUDED.contains(key)) {
        for prefix in [prefix, "langfuse.metadata", "ai.telemetry.metadata"] {
            match key.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')) {
                None | Some("") => {}
                Some(name) => flat.assign(name, value.clone()),
            }
        }
    }
    metadata.spread(&Js::Obj(flat));
    metadata
}

/// What the database keeps of the metadata: dotted paths, and every value as text.
fn flattened(metadata: &Object) -> Js {
    let (mut names, mut values) = (Vec::new(), Vec::new());
    flatten("", metadata, &mut names, &mut values);
    let mut flattened = Object::new();
    flattened.define("names", Js::Arr(names));
    flattened.define("values", Js::Arr(values));
    Js::Obj(flattened)
}

fn flatten(prefix: &str, object: &Object, names: &mut Vec<Js>, values: &mut Vec<Js>) {
    for (key, value) in object.iter() {
        let path = if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") };
        match value {
            Js::Obj(nested) => flatten(&path, nested, names, values),
            _ => {
                names.push(path.into());
                values.push(if value.is_nullish() { Js::Null } else { value.text_or_json() });
            }
        }
    }
}

fn byte_length(span: &Js) -> Js {
    // No span in memory is so long that its length leaves the integers of a double.
    Js::Num(span.to_json().len() as f64)
}
