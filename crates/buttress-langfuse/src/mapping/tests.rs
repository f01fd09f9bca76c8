use std::time::{Duration, UNIX_EPOCH};

use opentelemetry::{
    Array, InstrumentationScope, TraceId, Value,
    trace::{Event, SpanContext, TraceFlags, TraceState},
};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};
use prost::Message as _;
use serde_json::{Value as Json, json};

use super::*;
use crate::{
    encode::Encoded,
    sink::TraceDefaults,
    testing::{get, metadata},
    trace::Defaults,
};

fn recorded(attributes: Vec<KeyValue>) -> SpanData {
    let context = SpanContext::new(
        TraceId::from(7_u128),
        SpanId::from(8_u64),
        TraceFlags::SAMPLED,
        false,
        TraceState::NONE,
    );
    SpanData {
        span_context: context,
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: "retry_execution".into(),
        start_time: UNIX_EPOCH + Duration::from_secs(1_767_225_600),
        end_time: UNIX_EPOCH + Duration::from_secs(1_767_225_602),
        attributes,
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::default(),
    }
}

fn ours(fields: Vec<(&'static str, Value)>) -> Span {
    let target = KeyValue::new("target", "buttress");
    let fields = fields.into_iter().map(|(key, value)| KeyValue::new(key, value));
    mapped(&recorded(std::iter::once(target).chain(fields).collect()))
}

/// Maps a span that stands alone.
fn map_with(span: &SpanData, defaults: &TraceDefaults) -> Span {
    let mut draft = Draft::read(&span.attributes, &[]);
    let (defaults_say, says) = (Defaults::of(defaults), draft.trace.take());
    let privacy = crate::privacy::Privacy::default();
    let around = Surroundings {
        sample_rate: None,
        privacy: &privacy,
        trace: Said { defaults: &defaults_say, by: [None, None, says.as_deref()] },
        parent: span.parent_span_id,
        app_root: span.parent_span_is_remote,
        as_root: defaults.as_root,
        ours: crate::filter::is_ours(&span.name, &span.attributes),
    };
    let encoded = Encoded::new(|into| map(span, draft, around, into));
    let sent = encoded.decode().unwrap();
    // What is written by hand is what prost would write.
    assert_eq!(encoded.0, sent.encode_to_vec());
    sent
}

fn mapped(span: &SpanData) -> Span {
    map_with(span, &TraceDefaults::default())
}

#[test]
fn every_class_of_key_has_its_place() {
    let table: [(&str, Value, &str, Json); 33] = [
        ("observation_type", "agent".into(), "langfuse.observation.type", json!("agent")),
        ("level", "WARNING".into(), "langfuse.observation.level", json!("WARNING")),
        ("level", "warn".into(), "langfuse.observation.level", json!("WARNING")),
        ("status_message", 7.into(), "langfuse.observation.status_message", json!("7")),
        ("input", "hi".into(), "langfuse.observation.input", json!("hi")),
        ("output", "ho".into(), "langfuse.observation.output", json!("ho")),
        ("model", "large".into(), "langfuse.observation.model.name", json!("large")),
        (
            "model_parameters",
            r#"{"t":1}"#.into(),
            "langfuse.observation.model.parameters",
            json!({ "t": 1 }),
        ),
        (
            "usage",
            r#"{"input":3}"#.into(),
            "langfuse.observation.usage_details",
            json!({ "input": 3 }),
        ),
        ("cost", 0.5.into(), "langfuse.observation.cost_details", json!({ "total": 0.5 })),
        (
            "cost",
            r#"{"input":1}"#.into(),
            "langfuse.observation.cost_details",
            json!({ "input": 1 }),
        ),
        (
            "completion_start_time",
            "2026-01-01T00:00:00.000Z".into(),
            "langfuse.observation.completion_start_time",
            json!("2026-01-01T00:00:00.000Z"),
        ),
        (
            "time_to_first_token_seconds",
            0.25.into(),
            "langfuse.observation.completion_start_time",
            json!("2026-01-01T00:00:00.250Z"),
        ),
        ("session.id", "s".into(), "session.id", json!("s")),
        ("langfuse.session.id", "s".into(), "session.id", json!("s")),
        ("user.id", 42.into(), "user.id", json!("42")),
        ("langfuse.trace.name", "t".into(), "langfuse.trace.name", json!("t")),
        ("langfuse.trace.tags", "a, b".into(), "langfuse.trace.tags", json!(["a", "b"])),
        ("langfuse.trace.tags", r#"["a","a"]"#.into(), "langfuse.trace.tags", json!(["a"])),
        ("langfuse.trace.public", true.into(), "langfuse.trace.public", json!(true)),
        ("langfuse.trace.metadata.k", 1.into(), "langfuse.trace.metadata.k", json!(1)),
        ("langfuse.trace.metadata", r#"{"k":1}"#.into(), "langfuse.trace.metadata.k", json!(1)),
        ("langfuse.release", 5.into(), "langfuse.release", json!("5")),
        ("langfuse.version", 6.into(), "langfuse.version", json!("6")),
        ("langfuse.environment", "Langfuse-Prod".into(), "langfuse.environment", json!("prod")),
        ("gen_ai.request.model", "m".into(), "gen_ai.request.model", json!("m")),
        ("llm.model_name", "m".into(), "llm.model_name", json!("m")),
        ("input.value", "v".into(), "input.value", json!("v")),
        ("langfuse.internal.other", 1.into(), "langfuse.internal.other", json!(1)),
        ("attempt", 2.into(), "langfuse.observation.metadata.attempt", json!(2)),
        ("failure_rate", 0.5.into(), "langfuse.observation.metadata.failure_rate", json!(0.5)),
        ("success", true.into(), "langfuse.observation.metadata.success", json!(true)),
        (
            "langfuse.observation.metadata.k",
            "v".into(),
            "langfuse.observation.metadata.k",
            json!("v"),
        ),
    ];
    for (key, value, place, expected) in table {
        let span = ours(vec![(key, value)]);
        assert_eq!(get(&span, place), expected, "{key}");
        assert!(key == place || get(&span, key).is_null(), "{key} is copied, not renamed");
    }
}

#[test]
fn what_langfuse_would_lose_or_garble_becomes_metadata() {
    let table: [(&str, Value, &str); 7] = [
        ("observation_type", "robot".into(), "observation_type"),
        ("level", "loud".into(), "level"),
        ("model_parameters", "hot".into(), "model_parameters"),
        ("usage", "many".into(), "usage"),
        ("cost", f64::NAN.into(), "cost"),
        ("prompt_version", "three".into(), "prompt_version"),
        ("prompt_name", "alone".into(), "prompt_name"),
    ];
    for (key, value, place) in table {
        let expected = json!(value.as_str());
        let span = ours(vec![(key, value)]);
        assert_eq!(metadata(&span, place), expected, "{key}");
    }
    assert_eq!(get(&ours(vec![("observation_type", "AGENT".into())]), attribute::TYPE), "agent");
    assert_eq!(get(&ours(vec![("level", "loud".into())]), attribute::LEVEL), Json::Null);
}

#[test]
fn input_and_output_of_the_trace_become_the_observations() {
    let trace = |key: &str| format!("langfuse.trace.{key}");
    let span = mapped(&recorded(vec![
        KeyValue::new(trace("input"), "question"),
        KeyValue::new(trace("output"), "answer"),
    ]));
    assert_eq!(get(&span, attribute::INPUT), "question");
    assert_eq!(get(&span, attribute::OUTPUT), "answer");
    let both = [KeyValue::new("input", "own"), KeyValue::new(trace("input"), "the trace's")];
    for fields in [both.to_vec(), both.into_iter().rev().collect()] {
        let span = mapped(&recorded(fields));
        assert_eq!(get(&span, attribute::INPUT), "own");
        assert_eq!(get(&span, attribute::TRACE_INPUT), Json::Null);
    }
}

#[test]
fn a_prompt_needs_its_name_and_an_integer_version() {
    let span = ours(vec![("prompt_name", "p".into()), ("prompt_version", "3".into())]);
    assert_eq!(get(&span, attribute::PROMPT_NAME), "p");
    assert_eq!(get(&span, attribute::PROMPT_VERSION), 3);
    assert_eq!(metadata(&span, "prompt_version"), Json::Null);
}

#[test]
fn the_users_object_is_spread_and_the_contract_wins() {
    let object = r#"{"ticker":"AAPL","attempt":9,"deep":{"a":[1]},"none":null,"rate":0.5}"#;
    let span = ours(vec![("metadata", object.into()), ("attempt", 2.into())]);
    assert_eq!(metadata(&span, "ticker"), "AAPL");
    assert_eq!(metadata(&span, "attempt"), 2);
    assert_eq!(metadata(&span, "deep"), json!({ "a": [1] }));
    assert_eq!(metadata(&span, "rate"), 0.5);
    assert_eq!(metadata(&span, "none"), Json::Null);
    assert!(span.attributes.iter().all(|known| known.value.as_ref().unwrap().value.is_some()));
    assert_eq!(metadata(&ours(vec![("metadata", "no json".into())]), "metadata"), "no json");
    assert_eq!(ours(vec![("metadata", "{}".into())]).attributes.len(), 1);
}

#[test]
fn of_a_key_recorded_twice_the_last_value_is_sent() {
    let span = ours(vec![
        ("attempt", 1.into()),
        ("input", "old".into()),
        ("attempt", 2.into()),
        ("langfuse.observation.input", "new".into()),
        ("level", "ERROR".into()),
        ("level", "WARNING".into()),
    ]);
    assert_eq!(metadata(&span, "attempt"), 2);
    assert_eq!(get(&span, attribute::INPUT), "new");
    assert_eq!(get(&span, attribute::LEVEL), "WARNING");
    assert_eq!(span.status, None);
}

#[test]
fn numbers_that_javascript_cannot_hold_are_texts() {
    let span = ours(vec![
        ("nan", f64::NAN.into()),
        ("up", f64::INFINITY.into()),
        ("down", f64::NEG_INFINITY.into()),
        ("big", i64::MAX.into()),
        ("safe", 9_007_199_254_740_991_i64.into()),
        ("list", Value::Array(Array::F64(vec![1.5, f64::NAN]))),
    ]);
    for (key, expected) in [
        ("nan", json!("NaN")),
        ("up", json!("Infinity")),
        ("down", json!("-Infinity")),
        ("big", json!("9223372036854775807")),
        ("safe", json!(9_007_199_254_740_991_i64)),
        ("list", json!([1.5, "NaN"])),
    ] {
        assert_eq!(metadata(&span, key), expected, "{key}");
    }
}

#[test]
fn empty_lists_and_noise_are_left_out() {
    let span = ours(vec![
        ("langfuse.trace.tags", Value::Array(Array::String(Vec::new()))),
        ("error.chain", Value::Array(Array::String(Vec::new()))),
        ("code.file.path", "f.rs".into()),
        ("thread.id", 1.into()),
        ("busy_ns", 1.into()),
        ("idle_ns", 1.into()),
        ("session.id", "".into()),
    ]);
    let keys: Vec<_> = span.attributes.iter().map(|known| known.key.as_str()).collect();
    assert_eq!(keys, [attribute::TYPE]);
}

#[test]
fn the_type_is_left_to_the_server_only_where_it_knows_better() {
    let kind = |fields| get(&ours(fields), attribute::TYPE);
    assert_eq!(kind(vec![]), "span");
    assert_eq!(kind(vec![("model", "m".into())]), "generation");
    assert_eq!(kind(vec![("gen_ai.request.model", "m".into())]), Json::Null);
    let both = vec![("gen_ai.request.model", "m".into()), ("observation_type", "tool".into())];
    assert_eq!(kind(both), "tool");
}

#[test]
fn an_error_is_said_in_attribute_and_status_and_a_warning_only_in_the_attribute() {
    let span = ours(vec![("level", "ERROR".into()), ("status_message", "it broke".into())]);
    let status = span.status.clone().unwrap();
    assert_eq!((status.code, status.message.as_str()), (2, "it broke"));
    assert_eq!(get(&span, attribute::STATUS_MESSAGE), "it broke");
    let span = ours(vec![("level", "WARNING".into()), ("status_message", "slow".into())]);
    assert_eq!((span.status.clone(), get(&span, attribute::LEVEL)), (None, json!("WARNING")));
}

#[test]
fn the_status_that_the_bridge_derives_counts_only_for_spans_of_others() {
    let mut span = recorded(vec![KeyValue::new("target", "buttress")]);
    span.status = Status::error("from a log line");
    let sent = mapped(&span);
    assert_eq!((sent.status.clone(), get(&sent, attribute::LEVEL)), (None, Json::Null));
    span.attributes = vec![KeyValue::new("target", "app")];
    let sent = mapped(&span);
    assert_eq!(sent.status.clone().unwrap().code, 2);
    assert_eq!(get(&sent, attribute::LEVEL), "ERROR");
    assert_eq!(get(&sent, attribute::STATUS_MESSAGE), "from a log line");
}

#[test]
fn events_are_left_out_but_for_messages_of_gen_ai() {
    let mut span = recorded(vec![KeyValue::new("target", "buttress")]);
    let now = span.start_time;
    span.events.events = vec![
        Event::new("exception", now, vec![], 0),
        Event::new("gen_ai.user.message", now, vec![KeyValue::new("content", "hi")], 0),
    ];
    let sent = mapped(&span);
    assert_eq!(sent.events.len(), 1);
    assert_eq!(sent.events[0].name, "gen_ai.user.message");
}

#[test]
fn ids_and_times_are_those_of_the_span() {
    let mut span = recorded(vec![]);
    let sent = mapped(&span);
    assert_eq!(sent.trace_id, 7_u128.to_be_bytes());
    assert_eq!(sent.span_id, 8_u64.to_be_bytes());
    // An id of zeros would be a parent to Langfuse.
    assert!(sent.parent_span_id.is_empty());
    assert_eq!(sent.end_time_unix_nano - sent.start_time_unix_nano, 2_000_000_000);
    span.end_time = UNIX_EPOCH;
    let sent = mapped(&span);
    assert_eq!(sent.end_time_unix_nano, sent.start_time_unix_nano);
}

#[test]
fn a_name_that_older_servers_would_lose_the_trace_for_is_cut() {
    let span = ours(vec![("langfuse.trace.name", "\u{1f600}".repeat(600).into())]);
    let name = get(&span, attribute::TRACE_NAME);
    assert_eq!(name.as_str().unwrap().encode_utf16().count(), 1_000);
}
