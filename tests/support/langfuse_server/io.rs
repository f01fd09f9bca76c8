//! Input and output of an observation, and the attributes that neither they nor the metadata take.

use super::js::{Js, Object};
use super::otlp::{self, Unreadable};

/// What a span says about its input and output.
#[derive(Debug, Default)]
pub(super) struct InputOutput {
    pub(super) input: Js,
    pub(super) output: Js,
    /// The attributes that have no other place, each as text.
    pub(super) other_attributes: Object,
}

/// Attributes that are never kept under `metadata.attributes`, whichever of them is used.
const IO_KEYS: [&str; 53] = [
    "langfuse.trace.input",
    "langfuse.trace.output",
    "langfuse.observation.input",
    "langfuse.observation.output",
    "ai.prompt.messages",
    "ai.prompt",
    "ai.toolCall.args",
    "ai.toolCall.result",
    "ai.response.text",
    "ai.response.object",
    "ai.response.toolCalls",
    "ai.result.text",
    "ai.result.object",
    "ai.result.toolCalls",
    "gcp.vertex.agent.llm_request",
    "gcp.vertex.agent.llm_response",
    "gcp.vertex.agent.tool_call_args",
    "gcp.vertex.agent.tool_response",
    "prompt",
    "all_messages_events",
    "events",
    "lk.input_text",
    "lk.user_transcript",
    "lk.chat_ctx",
    "lk.user_input",
    "lk.function_tool.output",
    "lk.response.text",
    "mlflow.spanInputs",
    "mlflow.spanOutputs",
    "traceloop.entity.input",
    "traceloop.entity.output",
    "input.value",
    "output.value",
    "final_result",
    "pydantic_ai.all_messages",
    "gen_ai.system_instructions",
    "input",
    "output",
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
    "genkit:input",
    "genkit:output",
    "flue.turn.input",
    "flue.turn.output",
    "flue.tool.arguments",
    "flue.tool.result",
    "flue.task.prompt",
    "flue.task.result",
    "flue.operation.result",
    "flue.workflow.payload",
    "flue.workflow.result",
];

/// Beginnings of attributes that are never kept under `metadata.attributes`.
const IO_PREFIXES: [&str; 7] = [
    "gen_ai.prompt",
    "gen_ai.completion",
    "llm.input_messages",
    "llm.output_messages",
    "langfuse.trace.metadata",
    "langfuse.observation.metadata",
    "ai.telemetry.metadata",
];

/// Finds input and output: Langfuse's own attributes first, then events, then the attributes of
/// other conventions.
///
/// # Errors
///
/// An event of the GenAI conventions with an attribute without a value cannot be read.
pub(super) fn extract(events: &Js, attributes: &Object) -> Result<InputOutput, Unreadable> {
    let (input, output) = find(events.as_array().unwrap_or_default(), attributes)?;
    Ok(InputOutput { input, output, other_attributes: others(attributes) })
}

fn others(attributes: &Object) -> Object {
    let mut others = Object::new();
    for (key, value) in attributes.iter() {
        let is_taken =
            IO_KEYS.contains(&key) || IO_PREFIXES.iter().any(|prefix| key.starts_with(prefix));
        if !is_taken {
            others.define(key, value.text_or_json());
        }
    }
    others
}

type Pair = (Js, Js);

fn find(events: &[Js], attributes: &Object) -> Result<Pair, Unreadable> {
    let own = (
        attributes.get("langfuse.observation.input").clone(),
        attributes.get("langfuse.observation.output").clone(),
    );
    if !own.0.is_nullish() || !own.1.is_nullish() {
        return Ok(own);
    }
    if let Some(pair) = from_events(events)? {
        return Ok(pair);
    }
    Ok(from_attributes(attributes)
        .or_else(|| from_indexed_keys(attributes, "gen_ai.prompt", "gen_ai.completion"))
        .or_else(|| from_indexed_keys(attributes, "llm.input_messages", "llm.output_messages"))
        .or_else(|| from_gen_ai_messages(attributes))
        .unwrap_or((Js::Null, Js::Null)))
}

fn from_events(events: &[Js]) -> Result<Option<Pair>, Unreadable> {
    let named = |name: &'static str| {
        events.iter().filter(move |event| event.get("name").as_str() == Some(name))
    };
    for event in named("gen_ai.client.inference.operation.details") {
        if let Some(pair) = from_gen_ai_messages(&otlp::attributes(event.get("attributes"))?) {
            return Ok(Some(pair));
        }
    }
    let mut messages = Vec::new();
    for event in events {
        if let Some(role) = message_role(event) {
            let mut message = Object::new();
            message.define("role", role.into());
            message.spread(&Js::Obj(otlp::attributes(event.get("attributes"))?));
            messages.push(Js::Obj(message));
        }
    }
    let mut choices = named("gen_ai.choice")
        .map(|event| otlp::attributes(event.get("attributes")).map(Js::Obj))
        .collect::<Result<Vec<_>, _>>()?;
    if !messages.is_empty() || !choices.is_empty() {
        let input = if messages.is_empty() { Js::Null } else { Js::Arr(messages) };
        let output = match choices.len() {
            0 => Js::Null,
            1 => choices.remove(0),
            _ => Js::Arr(choices),
        };
        return Ok(Some((input, output)));
    }
    let content = |name| {
        named(name).next().map(|event| event.get("attributes")).filter(|list| list.is_truthy())
    };
    let (prompt, completion) =
        (content("gen_ai.content.prompt"), content("gen_ai.content.completion"));
    if prompt.is_none() && completion.is_none() {
        return Ok(None);
    }
    let prompt = otlp::attributes(prompt.unwrap_or(&Js::Undefined))?;
    let completion = otlp::attributes(completion.unwrap_or(&Js::Undefined))?;
    let (input, _) = find(&[], &prompt)?;
    let (_, output) = find(&[], &completion)?;
    Ok(Some((
        if input.is_truthy() { input } else { Js::Obj(prompt) },
        if output.is_truthy() { output } else { Js::Obj(completion) },
    )))
}

fn message_role(event: &Js) -> Option<&str> {
    let role = event.get("name").as_str()?.strip_prefix("gen_ai.")?.strip_suffix(".message")?;
    ["system", "user", "assistant", "tool"].contains(&role).then_some(role)
}

/// Pairs of attributes by convention, the strongest first. One of the two is enough.
fn from_attributes(attributes: &Object) -> Option<Pair> {
    let get = |key: &str| attributes.get(key).clone();
    let some = |input: Js, output: Js| {
        (input.is_truthy() || output.is_truthy()).then_some((input, output))
    };
    let pair = |input: &str, output: &str| some(get(input), get(output));
    let full_or = |key: &str, fallback: &str| {
        let value = get(key);
        if value.is_truthy() && value.as_str() != Some("{}") { value } else { get(fallback) }
    };
    some(
        full_or("gcp.vertex.agent.llm_request", "gcp.vertex.agent.tool_call_args"),
        full_or("gcp.vertex.agent.llm_response", "gcp.vertex.agent.tool_response"),
    )
    .or_else(|| pair("prompt", "all_messages_events"))
    .or_else(|| {
        let spoken =
            get("lk.input_text").or(|| get("lk.user_transcript").or(|| get("lk.chat_ctx")));
        let answer = get("lk.function_tool.output");
        some(spoken, if answer.is_truthy() { answer } else { get("lk.response.text") })
    })
    .or_else(|| from_event_list(attributes.get("events")))
    .or_else(|| pair("mlflow.spanInputs", "mlflow.spanOutputs"))
    .or_else(|| pair("traceloop.entity.input", "traceloop.entity.output"))
    .or_else(|| pair("input.value", "output.value"))
    .or_else(|| pair("input", "output"))
    .or_else(|| pair("tool_arguments", "tool_response"))
}

/// An attribute `events` that holds GenAI events as a list or as its JSON.
fn from_event_list(events: &Js) -> Option<Pair> {
    let events = events.parsed_if_json();
    let is_choice = |event: &&Js| event.get("event.name").as_str() == Some("gen_ai.choice");
    let events = events.as_array()?;
    let choice = events.iter().find(is_choice);
    let inputs: Vec<Js> = events.iter().filter(|event| !is_choice(event)).cloned().collect();
    if choice.is_none() && inputs.is_empty() {
        return None;
    }
    let input = if inputs.is_empty() { Js::Null } else { Js::Arr(inputs) };
    Some((input, choice.cloned().unwrap_or(Js::Null)))
}

/// Keys such as `gen_ai.prompt.0.content`, built back into the lists they were.
fn from_indexed_keys(attributes: &Object, input: &str, output: &str) -> Option<Pair> {
    let has = |prefix: &str| attributes.keys().any(|key| key.starts_with(prefix));
    (has(input) || has(output)).then(|| (rebuilt(attributes, input), rebuilt(attributes, output)))
}

fn rebuilt(attributes: &Object, prefix: &str) -> Js {
    let whole = attributes.get(prefix);
    if whole.is_truthy() {
        return whole.clone();
    }
    let dotted = format!("{prefix}.");
    let paths: Vec<(Vec<&str>, &Js)> = attributes
        .iter()
        .filter_map(|(key, value)| Some((key.strip_prefix(&dotted)?.split('.').collect(), value)))
        .collect();
    let is_list = paths.iter().any(|(path, _)| path.len() > 1 && index_of(path[0]).is_some());
    let mut rebuilt = if is_list { Js::Arr(Vec::new()) } else { Js::Obj(Object::new()) };
    for (path, value) in paths {
        set_path(&mut rebuilt, &path, value);
    }
    rebuilt
}

fn set_path(target: &mut Js, path: &[&str], value: &Js) {
    let Some((key, rest)) = path.split_first() else {
        *target = value.clone();
        return;
    };
    if ["__proto__", "constructor", "prototype"].contains(key) {
        return;
    }
    let is_list = rest.first().is_some_and(|next| index_of(next).is_some());
    let empty = if is_list { Js::Arr(Vec::new()) } else { Js::Obj(Object::new()) };
    match target {
        Js::Arr(items) => {
            let Some(index) = index_of(key) else { return };
            if items.len() <= index {
                items.resize(index + 1, Js::Null);
            }
            if items[index] == Js::Null {
                items[index] = empty;
            }
            set_path(&mut items[index], rest, value);
        }
        Js::Obj(object) => set_path(object.slot(key, empty), rest, value),
        Js::Undefined | Js::Null | Js::Bool(_) | Js::Num(_) | Js::Str(_) => {}
    }
}

/// Reads an index of a list. The server rebuilds lists up to 10,001 places.
fn index_of(segment: &str) -> Option<usize> {
    let is_digits = !segment.is_empty() && segment.bytes().all(|byte| byte.is_ascii_digit());
    segment.parse().ok().filter(|index| is_digits && *index <= 10_000)
}

fn from_gen_ai_messages(attributes: &Object) -> Option<Pair> {
    let mut input = attributes.get("gen_ai.input.messages").clone();
    let instructions = attributes.get("gen_ai.system_instructions");
    if input.is_truthy() && instructions.is_truthy() {
        input = with_system_message(input, instructions);
    }
    let some = |input: Js, output: Js| {
        (input.is_truthy() || output.is_truthy()).then_some((input, output))
    };
    some(input, attributes.get("gen_ai.output.messages").clone()).or_else(|| {
        some(
            attributes.get("gen_ai.tool.call.arguments").clone(),
            attributes.get("gen_ai.tool.call.result").clone(),
        )
    })
}

/// Puts the instructions before the messages, unless they already hold a system message.
fn with_system_message(input: Js, instructions: &Js) -> Js {
    let parsed = input.parsed_if_json();
    let Some(messages) = parsed.as_array() else { return input };
    if messages.iter().any(|message| message.get("role").as_str() == Some("system")) {
        return input;
    }
    let content = match instructions.parsed_if_json() {
        Js::Arr(parts) => parts.iter().map(part_text).collect::<Vec<_>>().join("\n"),
        other => other.to_text(),
    };
    let mut message = Object::new();
    message.define("role", "system".into());
    message.define("content", Js::Str(content));
    let merged =
        Js::Arr(std::iter::once(Js::Obj(message)).chain(messages.iter().cloned()).collect());
    if input.as_str().is_some() { Js::Str(merged.to_json()) } else { merged }
}

fn part_text(part: &Js) -> String {
    let content = part.get("content");
    if content.is_truthy() { content.to_text() } else { part.to_text() }
}
