//! Model, parameters, usage and cost of a generation.

use super::js::{Js, Object};
use super::mapping::first_text;
use super::numbers::parse_int;

const MODEL_KEYS: [&str; 7] = [
    "langfuse.observation.model.name",
    "gen_ai.response.model",
    "ai.model.id",
    "gen_ai.request.model",
    "llm.response.model",
    "llm.model_name",
    "model",
];

/// Spans of a whole agent run repeat the usage of the calls inside them, so theirs is dropped.
pub(super) fn is_agent_summary(attributes: &Object) -> bool {
    matches!(attributes.get("gen_ai.operation.name").as_str(), Some("invoke_agent" | "agent_step"))
}

pub(super) fn model_name(attributes: &Object) -> Js {
    match first_text(attributes, &MODEL_KEYS) {
        Js::Undefined if attributes.get("genkit:metadata:subtype").as_str() == Some("model") => {
            first_text(attributes, &["genkit:name"])
        }
        name => name,
    }
}

/// The parameters as JSON under one key, else whatever `gen_ai.request.` holds besides the model.
pub(super) fn model_parameters(attributes: &Object) -> Js {
    let parsed = |key: &str| {
        let json = attributes.get(key);
        if json.is_truthy() {
            Js::parse(&json.to_text()).ok().map(|value| with_plain_values(&value))
        } else {
            None
        }
    };
    if let Some(parameters) = parsed("langfuse.observation.model.parameters").filter(Js::is_truthy)
    {
        return parameters;
    }
    if let Some(parameters) = parsed("llm.invocation_parameters").or_else(|| parsed("model_config"))
    {
        return parameters;
    }
    let mut parameters = Object::new();
    for prefix in ["gen_ai.request.", "llm.invocation_parameters."] {
        for (key, value) in attributes.iter() {
            match key.strip_prefix(prefix) {
                None | Some("model") => {}
                Some(name) => parameters.assign(name, value.clone()),
            }
        }
    }
    with_plain_values(&Js::Obj(parameters))
}

/// Values of parameters are text or numbers; the rest becomes JSON text.
fn with_plain_values(parameters: &Js) -> Js {
    if !matches!(parameters, Js::Obj(_) | Js::Arr(_)) {
        return parameters.clone();
    }
    let mut entries = Object::new();
    entries.spread(parameters);
    let mut plain = Object::new();
    for (key, value) in entries.iter() {
        plain.define(
            key,
            if matches!(value, Js::Num(_)) { value.clone() } else { value.text_or_json() },
        );
    }
    Js::Obj(plain)
}

/// The JSON object under `key`; empty for JSON of another kind; nothing for no JSON at all.
fn json_object(attributes: &Object, key: &str) -> Option<Object> {
    match attributes.get(key) {
        raw if !raw.is_truthy() => None,
        Js::Str(text) => match Js::parse(text) {
            Ok(Js::Obj(object)) => Some(object),
            Ok(_) => Some(Object::new()),
            Err(_) => None,
        },
        _ => Some(Object::new()),
    }
}

pub(super) fn cost_details(attributes: &Object) -> Js {
    if let Some(details) = json_object(attributes, "langfuse.observation.cost_details") {
        return Js::Obj(details);
    }
    let mut details = Object::new();
    let total = ["gen_ai.usage.cost", "llm.cost.total"]
        .iter()
        .map(|key| attributes.get(key))
        .find(|cost| !cost.is_nullish() && cost.as_str() != Some(""));
    if let Some(total) = total {
        details.define("total", total.clone());
    }
    Js::Obj(details)
}

/// The counts of tokens, or nothing when none is left.
pub(super) fn usage_details(attributes: &Object) -> Js {
    let raw = json_object(attributes, "langfuse.observation.usage_details")
        .unwrap_or_else(|| gen_ai_usage(attributes));
    let details = openai_usage(&raw, ["prompt_tokens", "completion_tokens"])
        .or_else(|| openai_usage(&raw, ["input_tokens", "output_tokens"]))
        .unwrap_or_else(|| whole_counts(&raw));
    if details.is_empty() { Js::Undefined } else { Js::Obj(details) }
}

/// Keeps counts: whole numbers from zero up, and text that starts with one.
fn whole_counts(raw: &Object) -> Object {
    let mut counts = Object::new();
    for (key, value) in raw.iter() {
        let count = match value {
            Js::Num(number) if number.fract() == 0.0 => Some(*number),
            Js::Str(text) => parse_int(text),
            _ => None,
        };
        if let Some(count) = count.filter(|count| *count >= 0.0) {
            counts.define(key, Js::Num(count));
        }
    }
    counts
}

/// Reads the shape of OpenAI's APIs, if the object has exactly that shape.
fn openai_usage(raw: &Object, [input_key, output_key]: [&str; 2]) -> Option<Object> {
    let input_details = format!("{input_key}_details");
    let output_details = format!("{output_key}_details");
    let known = [input_key, output_key, "total_tokens", &input_details, &output_details];
    if raw.keys().any(|key| !known.contains(&key)) {
        return None;
    }
    let mut input = count(raw.get(input_key))?;
    let mut output = count(raw.get(output_key))?;
    let total = count(raw.get("total_tokens"))?;
    let mut details = Object::new();
    for (key, prefix, sum) in
        [(&input_details, "input", &mut input), (&output_details, "output", &mut output)]
    {
        let parts = raw.get(key);
        if !parts.is_nullish() {
            for (name, part) in parts.as_object()?.iter().filter(|(_, part)| !part.is_nullish()) {
                let part = count(part)?;
                details.define(format!("{prefix}_{name}"), Js::Num(part));
                *sum = (*sum - part).max(0.0);
            }
        }
    }
    for (key, number) in [("input", input), ("output", output), ("total", total)] {
        details.define(key, Js::Num(number));
    }
    Some(details)
}

/// A whole number from zero up to the largest that a double holds exactly.
fn count(value: &Js) -> Option<f64> {
    match value {
        Js::Num(number)
            if number.fract() == 0.0 && (0.0..=9_007_199_254_740_991.0).contains(number) =>
        {
            Some(*number)
        }
        _ => None,
    }
}

/// What one figure of the usage is called, by the conventions that know it, the strongest first.
const INPUT: [&str; 3] = ["prompt_tokens", "input_tokens", "prompt"];
const OUTPUT: [&str; 3] = ["completion_tokens", "output_tokens", "completion"];
const TOTAL: [&str; 2] = ["total_tokens", "total"];
const CACHE_READ: [&str; 7] = [
    "cache_read.input_tokens",
    "cache_read_input_tokens",
    "cache_read_tokens",
    "details.cache_read_tokens",
    "details.cache_read_input_tokens",
    "prompt_details.cache_read",
    "input_cached_tokens",
];
const CACHE_WRITE: [&str; 7] = [
    "cache_creation.input_tokens",
    "cache_creation_input_tokens",
    "cache_write_tokens",
    "details.cache_write_tokens",
    "details.cache_creation_input_tokens",
    "prompt_details.cache_write",
    "input_cache_creation",
];
const REASONING: [&str; 2] = ["reasoning.output_tokens", "completion_details.reasoning"];
const AUDIO: [&str; 1] = ["completion_details.audio"];

/// Counts of tokens under `gen_ai.usage.` and `llm.token_count.`, with what is counted twice
/// taken out of input and output.
fn gen_ai_usage(attributes: &Object) -> Object {
    let mut raw = Object::new();
    for (key, value) in attributes.iter().filter(|(key, _)| *key != "gen_ai.usage.cost") {
        let name =
            key.strip_prefix("gen_ai.usage.").or_else(|| key.strip_prefix("llm.token_count."));
        let number = value.to_number();
        if let Some(name) = name
            && !number.is_nan()
        {
            raw.assign(name, Js::Num(number));
        }
    }
    let figure = |names: &[&str]| {
        names
            .iter()
            .find_map(|name| if let Js::Num(number) = raw.get(name) { Some(*number) } else { None })
    };
    let figures: [(&str, Option<f64>); 7] = [
        ("input", figure(&INPUT)),
        ("output", figure(&OUTPUT)),
        ("total", figure(&TOTAL)),
        ("input_cached_tokens", figure(&CACHE_READ)),
        ("input_cache_creation", figure(&CACHE_WRITE)),
        ("output_reasoning_tokens", figure(&REASONING)),
        ("output_audio_tokens", figure(&AUDIO)),
    ];
    let known: [&[&str]; 7] =
        [&INPUT, &OUTPUT, &TOTAL, &CACHE_READ, &CACHE_WRITE, &REASONING, &AUDIO];
    let mut usage = Object::new();
    for (key, value) in raw.iter().filter(|(key, _)| !known.iter().any(|names| names.contains(key)))
    {
        usage.assign(key.strip_prefix("details.").unwrap_or(key), value.clone());
    }
    let sum =
        |indexes: [usize; 2]| indexes.iter().filter_map(|index| figures[*index].1).sum::<f64>();
    for (index, (name, figure)) in figures.iter().enumerate() {
        if let Some(figure) = figure {
            let counted_twice = match index {
                0 => sum([3, 4]),
                1 => sum([5, 6]),
                _ => 0.0,
            };
            let rest = figure - counted_twice;
            usage.define(*name, Js::Num(if index < 2 { rest.max(0.0) } else { rest }));
        }
    }
    usage
}
