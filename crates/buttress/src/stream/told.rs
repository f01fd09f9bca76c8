use std::fmt;

use tokio::time::Instant;

use super::course::Watcher;
use crate::{
    Failure,
    telemetry::{Telemetry, level, outcome, outcome_of, record_failure, record_status},
};

/// The span of one stream, and when it was asked for.
#[derive(Debug, Default)]
pub(crate) struct Asked(Option<Instant>);

/// Tells of a stream in the span `streamed_call`.
pub(crate) type Told = Telemetry<Asked>;

/// Notes when the stream was asked for, where somebody listens.
pub(crate) fn ask(mut told: Told) -> Told {
    if let Some(asked) = told.kept_mut() {
        asked.0 = Some(Instant::now());
    }
    told
}

/// Notes that the first item is there.
pub(crate) fn first_item(told: &mut Told) {
    let asked = told.kept().and_then(|asked| asked.0);
    if let Some((span, asked)) = told.span().zip(asked) {
        span.record("first_item_seconds", asked.elapsed().as_secs_f64());
    }
}

/// Ends the span of an answer that is a failure by itself.
pub(crate) fn end_answered(told: &mut Told, failure: &Failure) {
    told.end(outcome_of(failure), |span| record_failure(span, failure, failure));
}

impl Watcher for Told {
    fn run<R>(&mut self, poll: impl FnOnce() -> R) -> R {
        self.in_scope(poll)
    }

    fn succeed(&mut self, items: u64) {
        self.end(outcome::SUCCESS, |span| record_items(span, items));
    }

    fn fail(&mut self, items: u64, failure: &Failure, error: &dyn fmt::Display) {
        self.end(outcome_of(failure), |span| {
            record_items(span, items);
            record_failure(span, failure, error);
            record_status(span, level::ERROR, format_args!("{error}"));
        });
    }
}

fn record_items(span: &tracing::Span, items: u64) {
    span.record("items", i64::try_from(items).unwrap_or(i64::MAX));
}
