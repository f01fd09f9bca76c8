//! Delivery over real sockets, to a server that behaves as Langfuse does.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use buttress::{
    FaultTolerantAgent, RetryLayer,
    test_util::{Answer, Scripted},
};
use buttress_langfuse::{FlushError, Langfuse, LangfuseBuilder};
use buttress_tests::langfuse_server::{Fault, LangfuseServer, RetryAfter};
use tracing_subscriber::layer::SubscriberExt as _;

const PATIENCE: Duration = Duration::from_secs(20);

fn builder(server: &LangfuseServer) -> LangfuseBuilder {
    Langfuse::builder()
        .public_key(server.public_key())
        .secret_key(server.secret_key())
        .base_url(format!("{}/", server.base_url()))
        .flush_interval(Duration::from_millis(20))
        .retry_backoff(Duration::from_millis(5), Duration::from_millis(50))
}

fn langfuse(server: &LangfuseServer) -> Langfuse {
    builder(server).start().unwrap()
}

/// Runs calls of an agent that fails once in each, under its own runtime.
fn calls(langfuse: &Langfuse, calls: usize) {
    let subscriber = tracing_subscriber::registry().with(langfuse.layer());
    tracing::subscriber::with_default(subscriber, || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for _ in 0..calls {
            let agent = FaultTolerantAgent::builder("research")
                .retry(RetryLayer::new(2).backoff([Duration::ZERO]))
                .service(Scripted::new([Answer::error("reset"), Answer::ok("fine")]));
            assert_eq!(runtime.block_on(agent.invoke("AAPL")).unwrap(), "fine");
        }
    });
}

/// The spans of one such call: agent, chain and its attempt, retry and its two attempts, and in
/// each of these breaker and timeout.
const SPANS: usize = 10;

#[test]
fn every_span_of_a_call_arrives_with_type_level_and_trace() {
    let server = LangfuseServer::start_blocking();
    let langfuse = langfuse(&server);
    calls(&langfuse, 1);
    langfuse.shutdown(PATIENCE).unwrap();
    let observations = server.observations();
    assert_eq!(observations.len(), SPANS);
    let agent = server.named("agent_research").remove(0);
    assert_eq!(agent.kind(), "AGENT");
    let retry = server.named("retry_execution").remove(0);
    assert_eq!((retry.level(), retry.kind()), ("WARNING", "SPAN"));
    assert_eq!(retry.status_message(), Some("Retry succeeded on attempt 2"));
    assert_eq!(retry.field("metadata")["attempts_needed"], 2);
    for observation in &observations {
        assert_eq!(observation.field("traceName"), "agent_research", "{observation:?}");
        assert_eq!(observation.trace_id(), agent.trace_id());
    }
}

#[test]
fn a_storm_of_faults_loses_no_span() {
    let server = LangfuseServer::start_blocking();
    server.random_faults(
        7,
        [
            (Fault::InternalServerError, 0.3),
            (Fault::TooManyRequests(RetryAfter::Missing), 0.3),
            (Fault::ResetBeforeBody, 0.1),
        ],
    );
    let langfuse = langfuse(&server);
    for _ in 0..10 {
        calls(&langfuse, 5);
        // Makes many requests of it, so that many are hit.
        drop(langfuse.flush(Duration::from_millis(1)));
    }
    langfuse.flush(PATIENCE).unwrap();
    let stats = langfuse.stats();
    assert_eq!((stats.delivered, stats.dropped, stats.refused), (50 * SPANS as u64, 0, 0));
    assert_eq!(server.observations().len(), 50 * SPANS);
    let refused = server.requests().len();
    assert!(refused > 10, "only {refused} requests were made");
}

#[test]
fn an_outage_is_waited_for_and_shutdown_says_what_is_left() {
    let server = LangfuseServer::start_blocking();
    let langfuse = langfuse(&server);
    server.stop_blocking();
    calls(&langfuse, 1);
    let error = langfuse.flush(Duration::from_millis(50)).unwrap_err();
    assert!(
        matches!(
            error,
            FlushError::Undelivered { pending: SPANS, .. }
                | FlushError::TimedOut { pending: SPANS }
        ),
        "{error:?}"
    );
    server.restart_blocking();
    langfuse.flush(PATIENCE).unwrap();
    assert_eq!(server.observations().len(), SPANS);
}

#[test]
fn who_waits_for_delivery_ends_the_pause_between_two_tries() {
    let server = LangfuseServer::start_blocking();
    let pause = Duration::from_secs(3_600);
    let langfuse = builder(&server).retry_backoff(pause, pause).start().unwrap();
    server.fail_next(Fault::InternalServerError);
    calls(&langfuse, 1);
    server.wait_until_blocking(PATIENCE, |received| {
        received.requests().first().is_some_and(|request| request.status == Some(500))
    });
    langfuse.flush(PATIENCE).unwrap();
    assert_eq!(server.observations().len(), SPANS);
}

#[test]
fn who_waits_does_not_end_a_pause_that_the_server_asked_for() {
    let server = LangfuseServer::start_blocking();
    let langfuse = langfuse(&server);
    server.fail_next(Fault::TooManyRequests(RetryAfter::Seconds(3_600)));
    calls(&langfuse, 1);
    server.wait_until_blocking(PATIENCE, |received| {
        received.requests().first().is_some_and(|request| request.status == Some(429))
    });
    let error = langfuse.flush(Duration::from_millis(100)).unwrap_err();
    assert!(matches!(error, FlushError::Undelivered { pending: SPANS, .. }), "{error:?}");
    assert_eq!(server.requests().len(), 1);
    // The last handle would wait for it.
    drop(langfuse.shutdown(Duration::ZERO));
}

#[test]
fn flush_and_shutdown_deliver_inside_either_runtime_and_a_dropped_handle_does() {
    let server = LangfuseServer::start_blocking();
    let mut delivered = 0;
    for runtime in [
        tokio::runtime::Builder::new_current_thread().build().unwrap(),
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap(),
    ] {
        let (flushed, dropped) = (langfuse(&server), langfuse(&server));
        calls(&flushed, 1);
        calls(&dropped, 1);
        runtime.block_on(async {
            flushed.flush(PATIENCE).unwrap();
            flushed.shutdown(PATIENCE).unwrap();
            flushed.shutdown(PATIENCE).unwrap();
            drop(dropped);
        });
        delivered += 2 * SPANS;
        assert_eq!(server.observations().len(), delivered);
    }
}

#[test]
fn a_refused_span_is_given_up_and_the_others_arrive() {
    let server = LangfuseServer::start_blocking();
    server.refuse_span("timeout_protected_call");
    let langfuse = langfuse(&server);
    calls(&langfuse, 1);
    langfuse.shutdown(PATIENCE).unwrap();
    let stats = langfuse.stats();
    assert_eq!((stats.delivered, stats.refused), (SPANS as u64 - 2, 2));
    assert_eq!(server.observations().len(), SPANS - 2);
}

#[test]
fn a_batch_that_is_too_large_is_split() {
    let server = LangfuseServer::start_blocking();
    server.refuse_larger_than(4_000);
    let langfuse = langfuse(&server);
    calls(&langfuse, 4);
    langfuse.shutdown(PATIENCE).unwrap();
    assert_eq!(server.observations().len(), 4 * SPANS);
}

#[test]
fn a_hanging_server_does_not_hold_a_shutdown_in_either_runtime() {
    let server = LangfuseServer::start_blocking();
    for runtime in [
        tokio::runtime::Builder::new_current_thread().build().unwrap(),
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap(),
    ] {
        server.fail_next(Fault::Hang);
        let langfuse = langfuse(&server);
        calls(&langfuse, 1);
        let result = runtime.block_on(async { langfuse.shutdown(Duration::from_millis(50)) });
        assert!(result.is_err());
        server.release();
        server.heal();
    }
}

#[test]
fn settings_are_read_from_variables_and_wrong_ones_are_named() {
    let read = |pairs: &'static [(&str, &str)]| {
        Langfuse::from_vars(move |name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    };
    let both: &[_] = &[("LANGFUSE_BASE_URL", "https://a.example"), ("LANGFUSE_HOST", "nonsense")];
    assert!(format!("{:?}", read(both).unwrap()).contains("https://a.example"));
    let keys: &[_] = &[("LANGFUSE_PUBLIC_KEY", "pk-1"), ("LANGFUSE_SECRET_KEY", "sk-secret")];
    assert!(!format!("{:?}", read(keys).unwrap()).contains("secret"));
    for (variable, value) in [
        ("LANGFUSE_BASE_URL", "cloud.langfuse.com"),
        ("LANGFUSE_HOST", "ftp://x"),
        ("LANGFUSE_SAMPLE_RATE", "1.5"),
        ("LANGFUSE_FLUSH_AT", "0"),
        ("LANGFUSE_FLUSH_INTERVAL", "soon"),
        ("LANGFUSE_TIMEOUT", "-1"),
        ("LANGFUSE_TRACING_ENABLED", "maybe"),
    ] {
        let error =
            Langfuse::from_vars(|name| (name == variable).then(|| value.to_owned())).unwrap_err();
        assert_eq!(error.variable(), variable);
    }
}

#[test]
fn without_keys_the_spans_go_to_the_terminal_tree() {
    let langfuse = Langfuse::builder().start().unwrap();
    calls(&langfuse, 1);
    let tree = langfuse.terminal().unwrap().render();
    assert!(tree.contains("agent_research") && tree.contains("retry_attempt"), "{tree}");
    assert!(langfuse.trace_url("00").is_none());
}
