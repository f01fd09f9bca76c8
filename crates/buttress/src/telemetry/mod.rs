//! The telemetry contract: names of spans, keys of fields, and how layers write them.
//!
//! Layers emit plain `tracing` spans under the target [`TARGET`] at level INFO, log lines as
//! events under [`LOG_TARGET`] and scores as events under [`SCORE_TARGET`]. Names and keys are the
//! seed's. Each field is recorded once; integers are recorded as `i64`, rates and seconds as
//! `f64`, lists as JSON strings, since OpenTelemetry's bridge turns other integers into strings
//! and appends what is recorded twice.

pub(crate) mod json;
mod write;

pub(crate) use self::write::{
    Labels, Scope, Spans, Telemetry, describe, outcome_of, record_failure, record_status,
};

/// The target of every span.
pub const TARGET: &str = "buttress";
/// The target of the events that are log lines.
pub const LOG_TARGET: &str = "buttress::log";
/// The target of the events that are scores, with `name`, `value` and `comment`.
pub const SCORE_TARGET: &str = "buttress::score";

/// Names of spans.
pub mod span {
    /// An agent's root span; its `otel.name` is `agent_{id}`.
    pub const AGENT: &str = "fault_tolerant_agent_invoke";
    /// One call through a circuit breaker.
    pub const CIRCUIT_BREAKER: &str = "circuit_breaker_call";
    /// A circuit opened.
    pub const CIRCUIT_OPENED: &str = "circuit_breaker.opened";
    /// A circuit became half-open.
    pub const CIRCUIT_HALF_OPENED: &str = "circuit_breaker.half_opened";
    /// A circuit closed.
    pub const CIRCUIT_CLOSED: &str = "circuit_breaker.closed";
    /// A series of attempts.
    pub const RETRY: &str = "retry_execution";
    /// One attempt of a series.
    pub const RETRY_ATTEMPT: &str = "retry_attempt";
    /// One call under a time limit.
    pub const TIMEOUT: &str = "timeout_protected_call";
    /// One answer that is a stream, until its end.
    pub const STREAM: &str = "streamed_call";
    /// One call through a chain of agents.
    pub const FALLBACK: &str = "fallback_chain";
    /// One agent of a chain.
    pub const FALLBACK_ATTEMPT: &str = "fallback_attempt";
    /// One call of a swarm; its `otel.name` is `{swarm}_with_degradation`.
    pub const SWARM: &str = "swarm_with_degradation";
    /// One agent of a swarm.
    pub const SWARM_AGENT: &str = "swarm_agent";
    /// A state is saved.
    pub const SAVE_CHECKPOINT: &str = "save_checkpoint";
    /// A state is loaded.
    pub const LOAD_CHECKPOINT: &str = "load_checkpoint";
    /// A workflow goes on from its state.
    pub const RESUME_FROM_CHECKPOINT: &str = "resume_from_checkpoint";
    /// The run of a graph, which tracing shows as `graph_{name}`.
    pub const GRAPH: &str = "graph";
    /// A node of a graph, which tracing shows as `node_{name}`.
    pub const NODE: &str = "node";
    /// One call of a language model.
    pub const LLM_CALL: &str = "llm_call";
}

/// Keys of fields.
pub mod key {
    /// The agent that the span is about.
    pub const AGENT_ID: &str = "agent_id";
    /// `success`, `failure`, `rejected`, `cancelled` or `panicked`.
    pub const OUTCOME: &str = "outcome";
    /// The kind of failure in snake case.
    pub const FAILURE_KIND: &str = "failure_kind";
    /// The text of the error.
    pub const ERROR: &str = "error";
    /// The kind of failure in snake case, under the seed's name.
    pub const ERROR_TYPE: &str = "error_type";
    /// A JSON object of the user's.
    pub const METADATA: &str = "metadata";
    /// The file that a checkpoint was saved in.
    pub const CHECKPOINT_FILE: &str = "checkpoint_file";
    /// The address that a checkpoint was saved at.
    pub const CHECKPOINT_URI: &str = "checkpoint_uri";
    /// The phase of the checkpoint that was loaded.
    pub const CHECKPOINT_PHASE: &str = "checkpoint_phase";
    /// When it was saved.
    pub const CHECKPOINT_TIMESTAMP: &str = "checkpoint_timestamp";
    /// The phase that a workflow goes on from.
    pub const RESUME_PHASE: &str = "resume_phase";
    /// How long ago it was saved.
    pub const CHECKPOINT_AGE_SECONDS: &str = "checkpoint_age_seconds";
    /// `WARNING` or `ERROR`; absent otherwise.
    pub const LEVEL: &str = "level";
    /// What a person reads beside the level.
    pub const STATUS_MESSAGE: &str = "status_message";
    /// What the span is: `agent`, `chain`, `generation` or `event`; a plain span where absent.
    pub const OBSERVATION_TYPE: &str = "observation_type";
}

/// Names of the scores that layers give.
pub mod score {
    /// How far a swarm is degraded, 0 to 3.
    pub const DEGRADATION_LEVEL: &str = "degradation_level";
    /// Whether a fallback was asked; only where one was.
    pub const FALLBACK_USED: &str = "fallback_used";
    /// How many attempts a series took; only where it took more than one.
    pub const RETRY_ATTEMPTS: &str = "retry_attempts";
}

/// Values of the field `outcome`.
pub mod outcome {
    /// The call succeeded.
    pub const SUCCESS: &str = "success";
    /// The call failed.
    pub const FAILURE: &str = "failure";
    /// A circuit breaker did not let the call through.
    pub const REJECTED: &str = "rejected";
    /// The caller dropped the call.
    pub const CANCELLED: &str = "cancelled";
    /// The call panicked.
    pub const PANICKED: &str = "panicked";
}

/// Values of the field `level`.
pub mod level {
    /// Something failed and was made good.
    pub const WARNING: &str = "WARNING";
    /// The caller got a failure.
    pub const ERROR: &str = "ERROR";
}
