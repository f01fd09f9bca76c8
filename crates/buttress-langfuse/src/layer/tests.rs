use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{info_span, subscriber::with_default};
use tracing_subscriber::{
    filter::{Targets, filter_fn},
    layer::SubscriberExt as _,
    registry,
};

use crate::{
    notice::captured,
    testing::{langfuse, metadata},
};

fn foreign<S>() -> impl tracing_subscriber::Layer<S> + use<S>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
{
    let provider = SdkTracerProvider::builder().build();
    tracing_opentelemetry::layer().with_tracer(provider.tracer("foreign"))
}

fn spans() {
    info_span!("around").in_scope(|| info_span!(target: "buttress", "retry_execution"));
}

#[test]
fn a_layer_alone_sends_and_says_nothing() {
    let (langfuse, sink) = langfuse();
    with_default(registry().with(langfuse.layer()), spans);
    assert_eq!(captured::take(), [""; 0]);
    assert_eq!(sink.spans().len(), 1);
}

#[test]
fn a_second_layer_is_refused_with_one_sentence_and_the_first_sends() {
    let (first, first_sink) = langfuse();
    let (second, second_sink) = langfuse();
    let subscriber = registry().with(first.layer()).with(second.layer());
    with_default(subscriber, || {
        spans();
        spans();
    });
    let said = captured::take();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("a second Langfuse layer"), "{said:?}");
    assert_eq!((first_sink.spans().len(), second_sink.spans().len()), (2, 0));
}

#[test]
fn beside_a_layer_of_opentelemetry_ours_is_refused_in_either_order() {
    for ours_first in [true, false] {
        let (langfuse, sink) = langfuse();
        if ours_first {
            with_default(registry().with(langfuse.layer()).with(foreign()), spans);
        } else {
            with_default(registry().with(foreign()).with(langfuse.layer()), spans);
        }
        let said = captured::take();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("span_processor()"), "{said:?}");
        assert_eq!(sink.spans().len(), 0);
    }
}

#[test]
fn a_boxed_layer_of_opentelemetry_is_found_too() {
    let (langfuse, sink) = langfuse();
    let boxed: Box<dyn tracing_subscriber::Layer<_> + Send + Sync> = Box::new(foreign());
    with_default(registry().with(langfuse.layer()).with(boxed), spans);
    assert_eq!(captured::take().len(), 1);
    assert_eq!(sink.spans().len(), 0);
}

#[test]
fn layers_that_filters_keep_apart_stand_side_by_side() {
    use tracing_subscriber::Layer as _;

    let is_ours = |metadata: &tracing::Metadata<'_>| metadata.target() == "buttress";
    let (langfuse, sink) = langfuse();
    let ours = langfuse.layer().with_filter(filter_fn(is_ours));
    let others = foreign().with_filter(filter_fn(move |metadata| !is_ours(metadata)));
    with_default(registry().with(ours).with(others), spans);
    assert_eq!(captured::take(), [""; 0]);
    assert_eq!(sink.spans().len(), 1);
}

#[test]
fn layers_that_share_only_the_spans_around_ours_do_not_panic() {
    use tracing_subscriber::Layer as _;

    let (langfuse, _sink) = langfuse();
    let others = foreign().with_filter(filter_fn(|metadata| metadata.target() != "buttress"));
    with_default(registry().with(langfuse.layer()).with(others), spans);
    assert_eq!(captured::take().len(), 1);
}

#[test]
fn spans_that_a_filter_keeps_out_are_told_once() {
    let (langfuse, sink) = langfuse();
    // What `EnvFilter::from_default_env()` does where RUST_LOG is unset.
    let filter = Targets::new().with_default(tracing::Level::ERROR);
    with_default(registry().with(langfuse.layer()).with(filter), || {
        spans();
        spans();
    });
    let said = captured::take();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("`buttress` are filtered out"), "{said:?}");
    assert_eq!(sink.spans().len(), 0);
}

#[test]
fn a_filter_on_the_layer_itself_is_told_too() {
    use tracing_subscriber::Layer as _;

    let (langfuse, _sink) = langfuse();
    let filter = Targets::new().with_target("app", tracing::Level::INFO);
    with_default(registry().with(langfuse.layer().with_filter(filter)), spans);
    let said = captured::take();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("filtered out"), "{said:?}");
}

#[test]
fn a_filter_that_lets_buttress_through_is_no_news() {
    let (langfuse, sink) = langfuse();
    let filter = Targets::new().with_target("buttress", tracing::Level::INFO);
    with_default(registry().with(langfuse.layer()).with(filter), spans);
    assert_eq!(captured::take(), [""; 0]);
    assert_eq!(sink.spans().len(), 1);
}

/// Who holds a span does not hold back that its call has failed.
#[test]
fn a_failure_is_told_when_it_is_recorded_and_once() {
    for (outcome, told) in [("failure", 1), ("rejected", 1), ("panicked", 1), ("success", 0)] {
        let (langfuse, sink) = langfuse();
        with_default(registry().with(langfuse.layer()), || {
            let span = info_span!(
                target: "buttress",
                "retry_execution",
                outcome = tracing::field::Empty,
                attempts_needed = tracing::field::Empty,
            );
            let held = span.clone();
            span.in_scope(|| ());
            span.record("attempts_needed", 2_i64);
            span.record("outcome", outcome);
            drop(span);
            assert_eq!(sink.spans().len(), told, "{outcome}");
            drop(held);
            let span = sink.span("retry_execution");
            assert_eq!(metadata(&span, "attempts_needed"), 2, "{outcome}");
        });
    }
}
