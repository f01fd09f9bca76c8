//! The warnings of stores and layers, on stderr.

use std::fmt::{self, Write as _};

use buttress::telemetry::LOG_TARGET;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    layer::{Context, Layer, SubscriberExt as _},
    registry,
};

use crate::terminal::tell;

/// Shows the warnings of the log; what a damaged checkpoint is passed over with is one.
pub(crate) fn show_warnings() {
    // Fails where there is a subscriber already, which this program has not.
    tracing::subscriber::set_global_default(registry().with(Warnings)).ok();
}

struct Warnings;

impl<S: Subscriber> Layer<S> for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target() == LOG_TARGET && *metadata.level() <= Level::WARN
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::default();
        event.record(&mut line);
        tell(&format!("warning: {}{}", line.message, line.fields));
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
