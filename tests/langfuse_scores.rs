//! Scores, from the layers and the user, to servers that take them in each way.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{path::Path, time::Duration};

use buttress::{
    FaultTolerantAgent, RetryLayer,
    test_util::{Answer, Scripted},
};
use buttress_langfuse::{Durability, Langfuse, LangfuseBuilder, current};
use buttress_tests::langfuse_server::{Fault, LangfuseServer, RetryAfter, TakesScores};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde_json::{Value, json};
use tempfile::TempDir;
use tracing_subscriber::layer::SubscriberExt as _;

const PATIENCE: Duration = Duration::from_secs(20);

fn builder(server: &LangfuseServer, spool: Option<&Path>) -> LangfuseBuilder {
    let builder = Langfuse::builder()
        .public_key(server.public_key())
        .secret_key(server.secret_key())
        .base_url(server.base_url())
        .environment("test")
        .flush_interval(Duration::from_millis(20))
        .retry_backoff(Duration::from_millis(5), Duration::from_millis(50));
    match spool {
        Some(spool) => builder.spool(spool),
        None => builder.durability(Durability::Memory),
    }
}

/// Runs something under a layer, on a runtime of its own.
fn under(langfuse: &Langfuse, run: impl AsyncFnOnce()) {
    let subscriber = tracing_subscriber::registry().with(langfuse.layer());
    tracing::subscriber::with_default(subscriber, || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run());
    });
}

/// An agent that fails once and is retried, or fails for good and has a fallback.
async fn call(fails: bool) {
    let answers = if fails {
        vec![Answer::error("reset"), Answer::error("reset")]
    } else {
        vec![Answer::error("reset"), Answer::ok("fine")]
    };
    let agent = FaultTolerantAgent::builder("research")
        .retry(RetryLayer::new(2).backoff([Duration::ZERO]))
        .fallback("old", Scripted::new([Answer::ok("old")]))
        .service(Scripted::new(answers));
    agent.invoke("AAPL").await.unwrap();
}

fn named(server: &LangfuseServer, name: &str) -> Vec<Value> {
    server.scores().into_iter().filter(|score| score["name"] == name).collect()
}

#[test]
fn layers_score_what_they_did_on_the_span_that_did_it() {
    let server = LangfuseServer::start_blocking();
    let langfuse = builder(&server, None).start().unwrap();
    under(&langfuse, async || {
        call(false).await;
        call(true).await;
    });
    langfuse.shutdown(PATIENCE).unwrap();
    let retries = named(&server, "retry_attempts");
    assert_eq!(retries.iter().map(|score| &score["value"]).collect::<Vec<_>>(), [2.0, 2.0]);
    assert_eq!(retries[0]["comment"], "Retry succeeded on attempt 2");
    assert_eq!(retries[0]["environment"], "test");
    let spans = server.named("retry_execution");
    assert_eq!(retries[0]["observationId"], spans[0].id());
    assert_eq!(retries[0]["traceId"], spans[0].trace_id());
    let fallbacks = named(&server, "fallback_used");
    assert_eq!(fallbacks.len(), 1);
    assert_eq!((&fallbacks[0]["value"], &fallbacks[0]["dataType"]), (&json!(1), &json!("BOOLEAN")));
    assert_eq!(fallbacks[0]["traceId"], spans[1].trace_id());
    let stats = langfuse.stats();
    assert_eq!((stats.scores_accepted, stats.scores_delivered), (3, 3));
    assert_eq!(stats.accepted, stats.delivered);
}

#[test]
fn users_score_spans_and_traces_and_what_no_server_takes_is_not_sent() {
    let server = LangfuseServer::start_blocking();
    let langfuse = builder(&server, None).start().unwrap();
    under(&langfuse, async || {
        let _span = tracing::info_span!(target: "buttress", "retry_execution").entered();
        current().score("quality", 0.5).score_with("tone", "calm", "by hand");
        current().score_trace("approved", true).score("nothing", f64::NAN);
        tracing::info!(target: "buttress::score", name = "event", value = 7, comment = "of an event");
    });
    langfuse.shutdown(PATIENCE).unwrap();
    let scores = server.scores();
    let names: Vec<_> = scores.iter().map(|score| score["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["quality", "tone", "approved", "event"]);
    let span = server.named("retry_execution").remove(0);
    assert_eq!(scores[0]["observationId"], span.id());
    assert_eq!(scores[1]["comment"], "by hand");
    assert_eq!(
        (&scores[2]["observationId"], &scores[2]["traceId"]),
        (&json!(null), &json!(span.trace_id()))
    );
    assert_eq!(scores[3]["value"], 7.0);
}

#[test]
fn every_line_of_servers_gets_them_in_as_few_requests_as_it_takes() {
    for (takes, most) in
        [(TakesScores::Lists, 20), (TakesScores::Batches, 25), (TakesScores::Single, 330)]
    {
        let server = LangfuseServer::start_blocking();
        server.takes_scores(takes);
        let langfuse = builder(&server, None).start().unwrap();
        under(&langfuse, async || {
            for _ in 0..300 {
                call(false).await;
            }
        });
        langfuse.shutdown(PATIENCE).unwrap();
        assert_eq!(server.scores().len(), 300, "{takes:?}");
        let requests = server.score_requests().len();
        assert!(requests <= most, "{takes:?}: {requests}");
    }
}

#[test]
fn the_scores_of_ten_thousand_calls_that_fail_are_a_few_requests() {
    let server = LangfuseServer::start_blocking();
    let langfuse = builder(&server, None).flush_interval(Duration::from_secs(5)).start().unwrap();
    under(&langfuse, async || {
        let _span = tracing::info_span!(target: "buttress", "retry_execution").entered();
        for _ in 0..10_000 {
            // As the layers say it.
            tracing::info!(target: "buttress::score", name = "retry_attempts", value = 2_i64);
        }
    });
    langfuse.shutdown(PATIENCE).unwrap();
    assert_eq!(server.scores().len(), 10_000);
    let requests = server.score_requests().len();
    assert!(requests <= 30, "{requests}");
}

#[test]
fn limits_and_faults_are_waited_for_and_repeats_are_one_score() {
    let server = LangfuseServer::start_blocking();
    server.fail_next_scores(Fault::TooManyRequests(RetryAfter::Seconds(1)));
    server.fail_next_scores(Fault::InternalServerError);
    server.fail_next_scores(Fault::ResetAfterStoring);
    let langfuse = builder(&server, None).start().unwrap();
    under(&langfuse, async || call(false).await);
    langfuse.shutdown(PATIENCE).unwrap();
    assert_eq!((server.scores().len(), server.score_requests().len()), (1, 4));
}

#[test]
fn an_event_of_a_batch_that_the_server_could_not_take_just_now_is_sent_again() {
    for (status, taken) in [(500, 20), (429, 20), (400, 10)] {
        let server = LangfuseServer::start_blocking();
        server.takes_scores(TakesScores::Batches);
        let langfuse = builder(&server, None).start().unwrap();
        // Finds out what the server takes.
        under(&langfuse, async || call(false).await);
        langfuse.flush(PATIENCE).unwrap();
        server.fail_next_scores(Fault::EveryOtherEvent(status));
        under(&langfuse, async || {
            let _span = tracing::info_span!(target: "buttress", "retry_execution").entered();
            for number in 0..20 {
                current().score("quality", number);
            }
        });
        langfuse.shutdown(PATIENCE).unwrap();
        assert_eq!(named(&server, "quality").len(), taken, "{status}");
        let stats = langfuse.stats();
        assert_eq!(stats.scores_refused, 20 - taken as u64, "{status} {stats:?}");
    }
}

#[test]
fn an_event_that_the_server_can_never_take_holds_nothing_up_for_ever() {
    let server = LangfuseServer::start_blocking();
    server.takes_scores(TakesScores::Batches);
    let langfuse = builder(&server, None).start().unwrap();
    // Finds out what the server takes.
    under(&langfuse, async || call(false).await);
    langfuse.flush(PATIENCE).unwrap();
    (0..100).for_each(|_| server.fail_next_scores(Fault::EveryOtherEvent(500)));
    under(&langfuse, async || {
        let _span = tracing::info_span!(target: "buttress", "retry_execution").entered();
        current().score("quality", 1);
        current().score("quality", 2);
    });
    langfuse.shutdown(PATIENCE).unwrap();
    let stats = langfuse.stats();
    assert_eq!((stats.scores_delivered, stats.scores_refused), (2, 1), "{stats:?}");
    assert!(server.score_requests().len() < 20, "{}", server.score_requests().len());
}

/// As while a server is replaced by another, or where one score of many is not to its liking.
#[test]
fn who_was_refused_a_list_once_sends_lists_again() {
    let server = LangfuseServer::start_blocking();
    server.fail_next_scores(Fault::Status(400));
    server.fail_next_scores(Fault::Status(404));
    let langfuse = builder(&server, None).start().unwrap();
    under(&langfuse, async || {
        for _ in 0..1_000 {
            call(false).await;
        }
    });
    langfuse.shutdown(PATIENCE).unwrap();
    assert_eq!(server.scores().len(), 1_000);
    let requests = server.score_requests().len();
    assert!(requests <= 100, "{requests}");
}

#[test]
fn scores_wait_in_the_spool_and_the_next_process_sends_them() {
    let (server, spool) = (LangfuseServer::start_blocking(), TempDir::new().unwrap());
    server.stop_blocking();
    let first = builder(&server, Some(spool.path())).start().unwrap();
    under(&first, async || call(true).await);
    first.shutdown(Duration::from_millis(50)).unwrap_err();
    drop(first);
    server.restart_blocking();
    let second = builder(&server, Some(spool.path())).start().unwrap();
    server.wait_until_blocking(PATIENCE, |received| received.named("agent_research").count() == 1);
    while server.scores().len() < 2 {
        std::thread::yield_now();
    }
    second.shutdown(PATIENCE).unwrap();
    let mut names: Vec<_> = server.scores().iter().map(|score| score["name"].to_string()).collect();
    names.sort();
    assert_eq!(names, ["\"fallback_used\"", "\"retry_attempts\""]);
}

#[test]
fn scores_of_a_trace_that_is_not_sent_are_not_sent_unless_something_went_wrong() {
    let server = LangfuseServer::start_blocking();
    let langfuse = builder(&server, None).sample_rate(0.0).start().unwrap();
    under(&langfuse, async || {
        tracing::info_span!(target: "buttress", "retry_execution").in_scope(|| {
            let _span = current().score("quality", 0.5);
        });
        call(false).await;
    });
    langfuse.shutdown(PATIENCE).unwrap();
    let names: Vec<_> = server.scores().iter().map(|score| score["name"].to_string()).collect();
    assert_eq!(names, ["\"retry_attempts\""]);
}

#[test]
fn a_provider_of_the_users_own_sends_scores_too() {
    let server = LangfuseServer::start_blocking();
    let langfuse = builder(&server, None).start().unwrap();
    let provider =
        SdkTracerProvider::builder().with_span_processor(langfuse.span_processor()).build();
    let bridge = tracing_opentelemetry::layer().with_tracer(provider.tracer("user"));
    let subscriber = tracing_subscriber::registry().with(bridge);
    tracing::subscriber::with_default(subscriber, || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            call(true).await;
            // What is no score is none.
            tracing::info_span!(target: "buttress", "retry_execution").in_scope(|| {
                tracing::info!(target: "app", name = "other", value = 1_i64);
            });
        });
    });
    langfuse.shutdown(PATIENCE).unwrap();
    let mut shown: Vec<_> = server
        .scores()
        .iter()
        .map(|score| (score["name"].to_string(), score["value"].to_string()))
        .collect();
    shown.sort();
    let expected = [("\"fallback_used\"", "1"), ("\"retry_attempts\"", "2.0")];
    assert_eq!(shown, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let retry = server.named("retry_execution").into_iter().find(|row| row.level() == "ERROR");
    assert_eq!(named(&server, "retry_attempts")[0]["observationId"], retry.unwrap().id());
}
