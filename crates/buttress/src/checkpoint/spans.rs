//! The spans of the telemetry contract that are about checkpoints.

use std::time::Duration;

use tracing::{Instrument as _, field::Empty};

use super::{Checkpoint, CheckpointKey, Checkpointer, Place, StoreError};
use crate::{
    Error,
    telemetry::{
        self, LOG_TARGET, Telemetry, describe, key, level, outcome, outcome_of, record_failure,
        record_status,
    },
};

/// The span of one save, load or resume; dropped without a result it was cancelled.
pub(super) struct Span(Telemetry);

macro_rules! open {
    ($name:expr, $checkpointer:expr, $key:expr, $($field:ident = $value:expr),*) => {
        Span(Telemetry::open(|| {
            let labels = &$checkpointer.settings().labels;
            tracing::info_span!(
                target: telemetry::TARGET,
                $name,
                agent_id = labels.agent_id(),
                metadata = labels.metadata(),
                workflow_id = $key.workflow_id.as_str(),
                $($field = $value,)*
                outcome = Empty,
                failure_kind = Empty,
                error = Empty,
                error_type = Empty,
                level = Empty,
                status_message = Empty,
            )
        }))
    };
}

pub(super) fn save<S>(checkpointer: &Checkpointer<S>, key: &CheckpointKey, phase: &str) -> Span {
    open!(
        telemetry::span::SAVE_CHECKPOINT,
        checkpointer,
        key,
        phase = phase,
        checkpoint_file = Empty,
        checkpoint_uri = Empty
    )
}

pub(super) fn load<S>(checkpointer: &Checkpointer<S>, key: &CheckpointKey) -> Span {
    open!(
        telemetry::span::LOAD_CHECKPOINT,
        checkpointer,
        key,
        checkpoint_phase = Empty,
        checkpoint_timestamp = Empty
    )
}

pub(super) fn resume<S>(checkpointer: &Checkpointer<S>, key: &CheckpointKey) -> Span {
    open!(
        telemetry::span::RESUME_FROM_CHECKPOINT,
        checkpointer,
        key,
        resume_phase = Empty,
        checkpoint_age_seconds = Empty
    )
}

// ===== impl Span =====

impl Span {
    /// Runs a future inside the span.
    pub(super) async fn run<F: Future>(&mut self, future: F) -> F::Output {
        match self.0.span().cloned() {
            Some(span) => future.instrument(span).await,
            None => future.await,
        }
    }

    pub(super) fn saved(mut self, chain: &CheckpointKey, phase: &str, place: &Place) {
        let id = chain.workflow_id.as_str().escape_debug();
        let phase = phase.escape_debug();
        self.0.in_scope(|| {
            tracing::info!(
                target: LOG_TARGET,
                "Checkpoint saved for workflow {id} at phase {phase}"
            );
        });
        self.0.end(outcome::SUCCESS, |span| {
            match place {
                Place::File(path) => {
                    span.record(key::CHECKPOINT_FILE, tracing::field::display(path.display()))
                }
                Place::Uri(uri) => span.record(key::CHECKPOINT_URI, uri.as_str()),
                Place::Memory(_) | Place::Unknown => span,
            };
        });
    }

    /// Ends the span of a save that was gone on without.
    pub(super) fn skipped(mut self, chain: &CheckpointKey, error: &StoreError) {
        let id = chain.workflow_id.as_str().escape_debug();
        let text = describe(error);
        self.0.in_scope(|| {
            tracing::warn!(target: LOG_TARGET, "Workflow {id} goes on without a checkpoint: {text}");
        });
        self.0.end(outcome::FAILURE, |span| {
            record_failure(span, &error.failure(), &text);
            record_status(
                span,
                level::WARNING,
                format_args!("Workflow {id} goes on without a checkpoint"),
            );
        });
    }

    pub(super) fn loaded<S>(mut self, checkpoint: &Checkpoint<S>) {
        let id = checkpoint.key.workflow_id.as_str().escape_debug();
        self.0.in_scope(|| {
            tracing::info!(target: LOG_TARGET, "Checkpoint loaded for workflow {id}");
        });
        self.0.end(outcome::SUCCESS, |span| {
            span.record(key::CHECKPOINT_PHASE, checkpoint.phase.as_str());
            let timestamp = jiff::Timestamp::try_from(checkpoint.timestamp).unwrap_or_default();
            span.record(key::CHECKPOINT_TIMESTAMP, tracing::field::display(timestamp));
        });
    }

    pub(super) fn not_loaded(mut self, chain: &CheckpointKey, error: StoreError) -> Error {
        let id = chain.workflow_id.as_str().escape_debug();
        let is_missing = error.is_not_found();
        let error = Error::from(error);
        if !is_missing {
            self.failed(&error);
            return error;
        }
        self.0.end(outcome::FAILURE, |span| {
            record_failure(span, error.failure(), &describe(&error));
            record_status(
                span,
                level::ERROR,
                format_args!("No checkpoint found for workflow {id}"),
            );
        });
        error
    }

    pub(super) fn resumed<S>(mut self, checkpoint: &Checkpoint<S>, age: Duration) {
        let id = checkpoint.key.workflow_id.as_str().escape_debug();
        let phase = checkpoint.phase.as_str();
        self.0.in_scope(|| {
            let phase = phase.escape_debug();
            tracing::info!(target: LOG_TARGET, "Resuming workflow {id} from phase {phase}");
        });
        self.0.end(outcome::SUCCESS, |span| {
            span.record(key::RESUME_PHASE, phase);
            span.record(key::CHECKPOINT_AGE_SECONDS, age.as_secs_f64());
        });
    }

    pub(super) fn failed(mut self, error: &Error) {
        self.0.end(outcome_of(error.failure()), |span| {
            record_failure(span, error.failure(), &describe(error));
            record_status(span, level::ERROR, format_args!("{}", describe(error)));
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fmt,
        sync::{Arc, Mutex},
    };

    use tracing::field::{Field, Visit};
    use tracing_subscriber::{Layer, Registry, layer::Context, layer::SubscriberExt as _};

    use crate::checkpoint::{Checkpointer, MemoryStore, WorkflowId};

    /// The text of every log line.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    impl<S: tracing::Subscriber> Layer<S> for Lines {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            event.record(&mut self.clone());
        }
    }

    impl Visit for Lines {
        fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
            self.0.lock().unwrap().push(format!("{value:?}"));
        }
    }

    #[tokio::test]
    async fn no_id_and_no_phase_forges_a_log_line() {
        let lines = Lines::default();
        let subscriber = Registry::default().with(lines.clone());
        let _default = tracing::subscriber::set_default(subscriber);
        let checkpointer = Checkpointer::<u32>::new(MemoryStore::new());
        let id = WorkflowId::new("a\nERROR forged").unwrap();
        drop(checkpointer.save(&id, "p\rERROR forged", &1).await.unwrap());
        checkpointer.load(&id).await.unwrap();
        checkpointer.resume(&id).await.unwrap();
        let lines = lines.0.lock().unwrap();
        assert!(lines.len() >= 3, "{lines:?}");
        let is_forged = |line: &String| line.contains(['\n', '\r']);
        assert!(!lines.iter().any(is_forged), "{lines:#?}");
    }
}
