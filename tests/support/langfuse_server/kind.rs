//! The type of an observation, told from the attributes of its span.

use super::js::{Js, Object};

/// What the words of a convention mean as types of observations.
type Words = &'static [(&'static str, &'static str)];

/// Conventions with one word for the type, the strongest first.
const BY_WORD: [(&str, Words); 4] = [
    (
        "langfuse.observation.type",
        &[
            ("span", "SPAN"),
            ("generation", "GENERATION"),
            ("event", "EVENT"),
            ("embedding", "EMBEDDING"),
            ("agent", "AGENT"),
            ("tool", "TOOL"),
            ("chain", "CHAIN"),
            ("retriever", "RETRIEVER"),
            ("guardrail", "GUARDRAIL"),
            ("evaluator", "EVALUATOR"),
        ],
    ),
    (
        "openinference.span.kind",
        &[
            ("CHAIN", "CHAIN"),
            ("RETRIEVER", "RETRIEVER"),
            ("LLM", "GENERATION"),
            ("EMBEDDING", "EMBEDDING"),
            ("AGENT", "AGENT"),
            ("TOOL", "TOOL"),
            ("GUARDRAIL", "GUARDRAIL"),
            ("EVALUATOR", "EVALUATOR"),
        ],
    ),
    (
        "gen_ai.operation.name",
        &[
            ("chat", "GENERATION"),
            ("completion", "GENERATION"),
            ("text_completion", "GENERATION"),
            ("generate_content", "GENERATION"),
            ("generate", "GENERATION"),
            ("embeddings", "EMBEDDING"),
            ("invoke_agent", "AGENT"),
            ("create_agent", "AGENT"),
            ("execute_tool", "TOOL"),
        ],
    ),
    (
        "genkit:metadata:subtype",
        &[
            ("background-model", "GENERATION"),
            ("model", "GENERATION"),
            ("embedder", "EMBEDDING"),
            ("tool", "TOOL"),
            ("tool.v2", "TOOL"),
            ("retriever", "RETRIEVER"),
            ("evaluator", "EVALUATOR"),
        ],
    ),
];

const GENERATION_KEYS: [&str; 7] = [
    "langfuse.observation.model.name",
    "langfuse.observation.cost_details",
    "langfuse.observation.usage_details",
    "langfuse.observation.completion_start_time",
    "langfuse.observation.model.parameters",
    "langfuse.observation.prompt.name",
    "langfuse.observation.prompt.version",
];

/// Tells the type of an observation; `SPAN` when nothing tells it.
pub(super) fn of(
    attributes: &Object,
    resource: &Object,
    scope: &Js,
    span_name: &Js,
) -> &'static str {
    if is_old_python_generation(attributes, resource, scope) {
        return "GENERATION";
    }
    by_word(attributes)
        .or_else(|| by_vercel_operation(attributes))
        .or_else(|| by_tool_call(attributes))
        .or_else(|| by_livekit_name(scope, span_name))
        .or_else(|| by_model(attributes))
        .unwrap_or("SPAN")
}

/// Python SDKs up to 3.3 called generations spans.
fn is_old_python_generation(attributes: &Object, resource: &Object, scope: &Js) -> bool {
    let is_python_sdk = attributes.get("langfuse.observation.type").as_str() == Some("span")
        && scope.get("name").as_str() == Some("langfuse-sdk")
        && resource.get("telemetry.sdk.language").as_str() == Some("python");
    let mut version = scope
        .get("version")
        .as_str()
        .unwrap_or_default()
        .split('.')
        .map(|part| part.parse::<u32>());
    let is_later = match (version.next(), version.next()) {
        (Some(Ok(major)), _) if major > 3 => true,
        (Some(Ok(3)), Some(Ok(minor))) => minor > 3,
        _ => false,
    };
    is_python_sdk && !is_later && GENERATION_KEYS.iter().any(|key| attributes.has(key))
}

/// A word that the convention does not know leaves the type to the next convention.
fn by_word(attributes: &Object) -> Option<&'static str> {
    BY_WORD.iter().find_map(|(key, words)| {
        let word = attributes.get(key).to_text();
        words.iter().find(|(known, _)| *known == word).map(|(_, kind)| *kind)
    })
}

fn by_vercel_operation(attributes: &Object) -> Option<&'static str> {
    const GENERATIONS: [&str; 4] = [
        "ai.generateText.doGenerate",
        "ai.streamText.doStream",
        "ai.generateObject.doGenerate",
        "ai.streamObject.doStream",
    ];
    const EMBEDDINGS: [&str; 2] = ["ai.embedMany.doEmbed", "ai.embed.doEmbed"];
    const MODELS: [&str; 4] = [
        "langfuse.observation.model.name",
        "ai.model.id",
        "gen_ai.request.model",
        "gen_ai.response.model",
    ];
    let name = attributes.get("operation.name").as_str().unwrap_or_default();
    let id = attributes.get("ai.operationId").as_str().unwrap_or_default();
    let is_one_of = |operations: &[&str]| {
        operations.iter().any(|operation| name.starts_with(operation)) || operations.contains(&id)
    };
    let has_model = MODELS.iter().any(|key| says_something(attributes.get(key)));
    if is_one_of(&GENERATIONS) {
        return has_model.then_some("GENERATION");
    }
    if is_one_of(&EMBEDDINGS) {
        return has_model.then_some("EMBEDDING");
    }
    is_one_of(&["ai.toolCall"]).then_some("TOOL")
}

fn by_tool_call(attributes: &Object) -> Option<&'static str> {
    const TOOLS: [&str; 4] =
        ["gen_ai.tool.name", "gen_ai.tool.call.id", "flue.tool.name", "flue.tool.call_id"];
    const AGENTS: [&str; 2] = ["flue.task.id", "flue.task.agent"];
    let has = |keys: &[&str]| keys.iter().any(|key| says_something(attributes.get(key)));
    if has(&TOOLS) {
        return Some("TOOL");
    }
    has(&AGENTS).then_some("AGENT")
}

fn by_livekit_name(scope: &Js, span_name: &Js) -> Option<&'static str> {
    if scope.get("name").as_str() != Some("livekit-agents") {
        return None;
    }
    match span_name.as_str() {
        Some("agent_turn" | "start_agent_activity") => Some("AGENT"),
        Some("function_tool") => Some("TOOL"),
        _ => None,
    }
}

/// Any attribute that names a model makes a generation: a plain field `model` does too.
fn by_model(attributes: &Object) -> Option<&'static str> {
    const MODELS: [&str; 5] = [
        "langfuse.observation.model.name",
        "gen_ai.request.model",
        "gen_ai.response.model",
        "llm.model_name",
        "model",
    ];
    MODELS.iter().any(|key| says_something(attributes.get(key))).then_some("GENERATION")
}

/// Zero and `false` say something; empty text and empty lists do not.
fn says_something(value: &Js) -> bool {
    match value {
        Js::Undefined | Js::Null => false,
        Js::Str(text) => !text.is_empty(),
        Js::Arr(items) => !items.is_empty(),
        Js::Obj(object) => !object.is_empty(),
        Js::Bool(_) | Js::Num(_) => true,
    }
}
