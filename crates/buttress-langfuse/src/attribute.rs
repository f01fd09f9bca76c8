//! The attributes that Langfuse reads.

pub(crate) const TYPE: &str = "langfuse.observation.type";
pub(crate) const LEVEL: &str = "langfuse.observation.level";
pub(crate) const STATUS_MESSAGE: &str = "langfuse.observation.status_message";
pub(crate) const INPUT: &str = "langfuse.observation.input";
pub(crate) const OUTPUT: &str = "langfuse.observation.output";
pub(crate) const MODEL: &str = "langfuse.observation.model.name";
pub(crate) const MODEL_PARAMETERS: &str = "langfuse.observation.model.parameters";
pub(crate) const USAGE: &str = "langfuse.observation.usage_details";
pub(crate) const COST: &str = "langfuse.observation.cost_details";
pub(crate) const COMPLETION_START: &str = "langfuse.observation.completion_start_time";
pub(crate) const PROMPT_NAME: &str = "langfuse.observation.prompt.name";
pub(crate) const PROMPT_VERSION: &str = "langfuse.observation.prompt.version";
pub(crate) const METADATA: &str = "langfuse.observation.metadata";
pub(crate) const METADATA_PREFIX: &str = "langfuse.observation.metadata.";

pub(crate) const TRACE_NAME: &str = "langfuse.trace.name";
pub(crate) const TRACE_INPUT: &str = "langfuse.trace.input";
pub(crate) const TRACE_OUTPUT: &str = "langfuse.trace.output";
pub(crate) const TRACE_TAGS: &str = "langfuse.trace.tags";
pub(crate) const TRACE_PUBLIC: &str = "langfuse.trace.public";
pub(crate) const TRACE_METADATA: &str = "langfuse.trace.metadata";
pub(crate) const TRACE_METADATA_PREFIX: &str = "langfuse.trace.metadata.";
pub(crate) const SESSION: &str = "session.id";
pub(crate) const USER: &str = "user.id";
pub(crate) const ENVIRONMENT: &str = "langfuse.environment";
pub(crate) const RELEASE: &str = "langfuse.release";
pub(crate) const VERSION: &str = "langfuse.version";

pub(crate) const IS_APP_ROOT: &str = "langfuse.internal.is_app_root";
pub(crate) const AS_ROOT: &str = "langfuse.internal.as_root";

/// The name of a span, as tracing-opentelemetry spells it.
pub(crate) const NAME: &str = "otel.name";
/// Where tracing-opentelemetry leaves the target of a span.
pub(crate) const TARGET: &str = "target";
