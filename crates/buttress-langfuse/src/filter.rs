//! Which spans are sent: every one of them is an observation that somebody pays for.

use buttress::telemetry::{self, key, span};
use opentelemetry::{KeyValue, Value};

use crate::attribute;

/// Decides which spans are sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct SpanFilter {
    /// Targets that the user named; each stands for the modules in it too.
    pub(crate) targets: Vec<String>,
}

impl SpanFilter {
    /// Tells whether a span is sent, going by what it recorded so far.
    pub(crate) fn sends(&self, name: &str, attributes: &[KeyValue]) -> bool {
        is_ours(name, attributes) || self.sends_of_others(attributes)
    }

    /// Tells whether a span that is not one of buttress is sent.
    pub(crate) fn sends_of_others(&self, attributes: &[KeyValue]) -> bool {
        target(attributes).is_some_and(|target| self.names(target))
            || attributes.iter().any(|attribute| attribute.key.as_str().starts_with("gen_ai."))
    }

    fn names(&self, target: &str) -> bool {
        let within = |named: &String| match target.strip_prefix(named.as_str()) {
            Some(rest) => rest.is_empty() || rest.starts_with("::"),
            None => false,
        };
        self.targets.iter().any(within)
    }
}

/// Tells whether a span is one of buttress.
pub(crate) fn is_ours(name: &str, attributes: &[KeyValue]) -> bool {
    match target(attributes) {
        Some(target) => target == telemetry::TARGET,
        // A bridge that is told to leave targets out leaves the contract to go by.
        None => {
            is_contract_name(name)
                || attributes.iter().any(|field| field.key.as_str() == key::OBSERVATION_TYPE)
        }
    }
}

fn is_contract_name(name: &str) -> bool {
    [
        span::AGENT,
        span::CIRCUIT_BREAKER,
        span::CIRCUIT_OPENED,
        span::CIRCUIT_HALF_OPENED,
        span::CIRCUIT_CLOSED,
        span::RETRY,
        span::RETRY_ATTEMPT,
        span::TIMEOUT,
        span::STREAM,
        span::FALLBACK,
        span::FALLBACK_ATTEMPT,
        span::SWARM,
        span::SWARM_AGENT,
        span::GRAPH,
        span::NODE,
        span::SAVE_CHECKPOINT,
        span::LOAD_CHECKPOINT,
        span::RESUME_FROM_CHECKPOINT,
        span::LLM_CALL,
    ]
    .contains(&name)
}

/// Tells whether a span says, where nothing went wrong, only that.
pub(crate) fn is_pattern(name: &str) -> bool {
    [
        span::CIRCUIT_BREAKER,
        span::RETRY,
        span::RETRY_ATTEMPT,
        span::TIMEOUT,
        span::STREAM,
        span::FALLBACK,
        span::FALLBACK_ATTEMPT,
    ]
    .contains(&name)
}

/// Tells whether a span is an agent's.
pub(crate) fn is_agent(attributes: &[KeyValue]) -> bool {
    attributes
        .iter()
        .any(|field| field.key.as_str() == key::OBSERVATION_TYPE && field.value.as_str() == "agent")
}

/// Returns the target that the bridge left; the first one, since a field may be called so too.
fn target(attributes: &[KeyValue]) -> Option<&str> {
    attributes.iter().find_map(|attribute| match &attribute.value {
        Value::String(target) if attribute.key.as_str() == attribute::TARGET => {
            Some(target.as_str())
        }
        _ => None,
    })
}
