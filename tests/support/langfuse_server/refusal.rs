//! The check of a whole request before it is accepted.

use super::js::Js;
use super::otlp::items;

/// What is wrong with a request as a whole.
#[derive(Debug, Default)]
struct Defects {
    spans: usize,
    bad_spans: usize,
    bad_collections: usize,
    /// The reasons in the order of their first appearance.
    reasons: Vec<&'static str>,
    /// Up to five names of the scopes concerned.
    scopes: Vec<String>,
}

impl Defects {
    fn add(&mut self, reason: &'static str) {
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    fn add_scope(&mut self, scope_spans: &Js) {
        let name = scope_spans.get("scope").get("name");
        if name.is_truthy() && self.scopes.len() < 5 && !self.scopes.contains(&name.to_text()) {
            self.scopes.push(name.to_text());
        }
    }
}

/// Checks the request as the endpoint does before it accepts it. One bad span refuses them all.
///
/// # Errors
///
/// Answers the message of the refusal.
pub fn check(resource_spans: &Js) -> Result<(), String> {
    let mut defects = Defects::default();
    for resource in resource_spans.as_array().unwrap_or_default() {
        if is_no_list(resource.get("resource").get("attributes")) {
            defects.bad_collections += 1;
            defects.add("resource.attributes:not_an_array");
        }
        if is_no_list(resource.get("scopeSpans")) {
            defects.bad_collections += 1;
            defects.add("scopeSpans:not_an_array");
        }
        for scope in resource.get("scopeSpans").as_array().unwrap_or_default() {
            check_scope(scope, &mut defects);
        }
    }
    if defects.reasons.is_empty() { Ok(()) } else { Err(refusal(&defects)) }
}

/// Refuses a request for the spans that `is_bad` picks, in the words for ids that are none.
///
/// # Errors
///
/// Answers the message of the refusal.
pub(super) fn refuse_if(resource_spans: &Js, is_bad: impl Fn(&Js) -> bool) -> Result<(), String> {
    let mut defects = Defects::default();
    for scope in items(resource_spans).flat_map(|resource| items(resource.get("scopeSpans"))) {
        for span in items(scope.get("spans")) {
            defects.spans += 1;
            if is_bad(span) {
                defects.bad_spans += 1;
                defects.add("spanId:not_an_id");
                defects.add_scope(scope);
            }
        }
    }
    if defects.bad_spans == 0 { Ok(()) } else { Err(refusal(&defects)) }
}

fn check_scope(scope_spans: &Js, defects: &mut Defects) {
    let scope_attributes = scope_spans.get("scope").get("attributes");
    for (field, reason) in [
        (scope_attributes, "scope.attributes:not_an_array"),
        (scope_spans.get("spans"), "spans:not_an_array"),
    ] {
        if is_no_list(field) {
            defects.bad_collections += 1;
            defects.add(reason);
            defects.add_scope(scope_spans);
        }
    }
    for span in scope_spans.get("spans").as_array().unwrap_or_default() {
        defects.spans += 1;
        let reasons = span_defects(span);
        if !reasons.is_empty() {
            defects.bad_spans += 1;
            reasons.into_iter().for_each(|reason| defects.add(reason));
            defects.add_scope(scope_spans);
        }
    }
}

fn span_defects(span: &Js) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    match id_defect(span.get("traceId")) {
        Some(IdDefect::Absent) => reasons.push("traceId:absent"),
        Some(IdDefect::NoId) => reasons.push("traceId:not_an_id"),
        None => {}
    }
    match id_defect(span.get("spanId")) {
        Some(IdDefect::Absent) => reasons.push("spanId:absent"),
        Some(IdDefect::NoId) => reasons.push("spanId:not_an_id"),
        None => {}
    }
    let parent = span.get("parentSpanId");
    if parent.is_truthy() && id_defect(parent).is_some() {
        reasons.push("parentSpanId:not_an_id");
    }
    if is_no_list(span.get("attributes")) {
        reasons.push("attributes:not_an_array");
    }
    let events = span.get("events");
    if is_no_list(events) {
        reasons.push("events:not_an_array");
    } else if events
        .as_array()
        .unwrap_or_default()
        .iter()
        .any(|event| is_no_list(event.get("attributes")))
    {
        reasons.push("event.attributes:not_an_array");
    }
    reasons
}

fn is_no_list(field: &Js) -> bool {
    !field.is_nullish() && field.as_array().is_none()
}

enum IdDefect {
    Absent,
    NoId,
}

/// Any text is an id, whatever its length; so are bytes.
fn id_defect(id: &Js) -> Option<IdDefect> {
    match id {
        Js::Undefined | Js::Null => Some(IdDefect::Absent),
        Js::Str(_) | Js::Arr(_) => None,
        Js::Obj(_)
            if id.get("type").as_str() == Some("Buffer") && id.get("data").as_array().is_some() =>
        {
            None
        }
        Js::Obj(_) | Js::Bool(_) | Js::Num(_) => Some(IdDefect::NoId),
    }
}

/// Words the refusal as the server does.
fn refusal(defects: &Defects) -> String {
    let mut problems = Vec::new();
    if defects.bad_spans > 0 {
        problems.push(format!(
            "{} of {} span(s) cannot be processed",
            defects.bad_spans, defects.spans
        ));
    }
    if defects.bad_collections > 0 {
        problems.push(format!(
            "{} resource- or scope-level field(s) are present but not arrays",
            defects.bad_collections
        ));
    }
    let mut hints = Vec::new();
    if defects
        .reasons
        .iter()
        .any(|reason| reason.ends_with(":absent") || reason.ends_with(":not_an_id"))
    {
        hints.push("traceId and spanId are required on every span, and each must be a string or a byte array.");
    }
    if defects.reasons.iter().any(|reason| reason.ends_with(":not_an_array")) {
        hints.push(
            "scopeSpans, spans, attributes and events must all be arrays — OTLP attributes are a list of \
             {key, value} entries, not a JSON object.",
        );
    }
    let scopes =
        if defects.scopes.is_empty() { "unknown".to_owned() } else { defects.scopes.join(", ") };
    format!(
        "Invalid OTLP trace export: {} ({}). {} The entire export was rejected and no spans were ingested. \
         Instrumentation scopes: {scopes}. This endpoint accepts OpenTelemetry traces only — if you are exporting \
         OpenTelemetry logs, point your log exporter elsewhere.",
        problems.join("; "),
        defects.reasons.join(", "),
        hints.join(" "),
    )
}
