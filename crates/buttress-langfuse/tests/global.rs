//! What is left alone: the provider that a program shares.

use buttress_langfuse::{Langfuse, TerminalTree};
use opentelemetry::{
    global,
    trace::{Span as _, Tracer as _},
};
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

#[test]
fn the_global_tracer_provider_is_never_set() {
    let langfuse = Langfuse::to_terminal(TerminalTree::new());
    tracing_subscriber::registry().with(langfuse.layer()).init();
    tracing::info_span!(target: "buttress", "retry_execution").in_scope(|| ());
    drop(langfuse.span_processor());
    assert_eq!(langfuse.stats().accepted, 1);
    // The spans of a provider that nobody has set have no ids.
    let mut span = global::tracer("app").start("span");
    assert!(!span.span_context().is_valid());
    span.end();
}
