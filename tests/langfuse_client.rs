//! Reading over real sockets, from a server that answers as both lines of Langfuse do.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use buttress::{
    CatchPanicLayer, CircuitBreakerLayer, Failure, FailureKind, FallbackLayer, FaultTolerantAgent,
    RetryBudget, RetryLayer, TimeoutLayer,
    observe::MetricsLayer,
    test_util::{Answer, Scripted},
};
use buttress_langfuse::{
    Durability, Langfuse, LangfuseBuilder, LangfuseClient, Level, Observation, Statistics,
    client::{ClientError, MetricsQuery, ObservationQuery, ScoreQuery, ScoreValue},
};
use buttress_tests::langfuse_server::{Fault, LangfuseServer, Line, RetryAfter};
use serde_json::json;
use tokio::time::Instant;
use tower::{Layer as _, ServiceExt as _};
use tracing_subscriber::layer::SubscriberExt as _;

const LINES: [Line; 2] = [Line::V4, Line::V3];

/// An error that is longer than what Langfuse answers of it unasked.
const LONG_ERROR: &str = "reset, and then it goes on to say at length and more than once what was \
    not to be had, for such servers there are, that one could have asked some other day, or never, \
    with another key, from another place, and in other words, none of which it names";

fn builder(server: &LangfuseServer) -> LangfuseBuilder {
    Langfuse::builder()
        .public_key(server.public_key())
        .secret_key(server.secret_key())
        .base_url(format!("{}/", server.base_url()))
        .durability(Durability::Memory)
        .retry_backoff(Duration::from_millis(1), Duration::from_millis(10))
}

fn client(server: &LangfuseServer) -> LangfuseClient {
    builder(server).client().unwrap()
}

/// A server that has got two calls: one that a retry rescued, and one that nothing did.
fn with_two_calls() -> LangfuseServer {
    let server = LangfuseServer::start_blocking();
    // On a thread of its own, since the test has a runtime on this one.
    std::thread::scope(|threads| threads.spawn(|| call_twice(&server)).join().unwrap());
    server
}

fn call_twice(server: &LangfuseServer) {
    let langfuse = builder(server).start().unwrap();
    let subscriber = tracing_subscriber::registry().with(langfuse.layer());
    tracing::subscriber::with_default(subscriber, || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().build().unwrap();
        let answers = [Answer::error(LONG_ERROR), Answer::ok("fine")];
        for answers in [answers, [Answer::error("reset"), Answer::error("down")]] {
            // Langfuse orders by milliseconds, and two calls fit into one.
            runtime.block_on(async { tokio::time::sleep(Duration::from_millis(2)).await });
            let agent = FaultTolerantAgent::builder("research")
                .retry(RetryLayer::new(2).backoff([Duration::ZERO]))
                .circuit_breaker(CircuitBreakerLayer::new("gpt").consecutive_failures(2))
                .service(Scripted::new(answers));
            drop(runtime.block_on(agent.invoke("AAPL")));
        }
    });
    langfuse.shutdown(Duration::from_secs(20)).unwrap();
}

/// The spans of both calls, and the event of the circuit that opened in the second.
const OBSERVATIONS: usize = 21;

async fn read(server: &LangfuseServer) -> Vec<Observation> {
    client(server).observations(ObservationQuery::new()).all().await.unwrap()
}

fn retry_of(observations: &[Observation]) -> Observation {
    let rescued = |one: &&Observation| one.boolean("retry_succeeded") == Some(true);
    observations.iter().find(rescued).unwrap().clone()
}

#[tokio::test]
async fn a_list_whose_pages_go_round_ends_with_an_error() {
    let page = r#"{"data":[{"id":"a","traceId":"t"}],"meta":{"cursor":"again"}}"#;
    let routes = axum::Router::new().fallback(move || std::future::ready(page));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(axum::serve(listener, routes).into_future());
    let builder = Langfuse::builder().public_key("pk-lf-1").secret_key("sk-lf-1");
    let client = builder.base_url(format!("http://{address}")).client().unwrap();
    let error = client.observations(ObservationQuery::new()).all().await.unwrap_err();
    assert!(matches!(error, ClientError::Unreadable { .. }), "{error:?}");
}

#[tokio::test]
async fn both_lines_answer_the_same_observations() {
    let server = with_two_calls();
    let mut statistics = Vec::new();
    for line in LINES {
        server.set_line(line);
        let observations = read(&server).await;
        assert_eq!(observations.len(), OBSERVATIONS);
        let retry = retry_of(&observations);
        assert_eq!((retry.name.as_str(), retry.level), ("retry_execution", Level::Warning));
        assert_eq!((retry.kind.as_str(), retry.count("attempts_needed")), ("SPAN", Some(2)));
        assert_eq!(retry.text("scope.name").as_deref(), Some("buttress"));
        // Longer than what comes unasked.
        let history = retry.list("retry_history").unwrap();
        assert_eq!(history[0]["error"], json!(LONG_ERROR));
        statistics.push(Statistics::of(observations));
    }
    assert_eq!(statistics[0], statistics[1]);
    let total = &statistics[0].total;
    assert_eq!((total.calls.all, total.calls.answered, total.retry.rescued), (2.0, 1.0, 1.0));
    assert_eq!((total.retry.success_rate(), total.circuits["gpt"].opened()), (Some(0.5), 1.0));
    assert_eq!(total.failures["transient"].attempts, 3.0);
}

/// One call of each kind that a series of attempts, a chain, a limit and a circuit can end with.
async fn call_in_every_way() {
    const MOMENT: Duration = Duration::from_millis(1);
    let reset = || Answer::error("reset");
    let retry = RetryLayer::new(3).backoff([Duration::ZERO; 2]);
    let refused = Answer::failure(Failure::new(FailureKind::InvalidRequest));
    for answers in [
        vec![Answer::ok("fine")],
        vec![reset(), Answer::ok("fine")],
        vec![reset(), reset(), Answer::ok("fine")],
        vec![reset(), reset(), reset()],
        vec![refused.clone()],
        vec![reset(), refused],
        vec![Answer::panic_in_poll()],
        // Given up by its caller, in the first attempt and in the second.
        vec![Answer::hang()],
        vec![reset(), Answer::hang()],
    ] {
        let agent = CatchPanicLayer::new().layer(retry.clone().layer(Scripted::new(answers)));
        drop(tokio::time::timeout(20 * MOMENT, agent.oneshot("AAPL")).await);
    }
    let spent = retry.clone().budget(RetryBudget::tokens(1).starting_at(0));
    drop(spent.layer(Scripted::new([reset()])).oneshot("AAPL").await);
    // A limit in a limit, of which the inner one runs out.
    let slow = TimeoutLayer::new(MOMENT).layer(Scripted::<&str>::new([Answer::hang()]));
    let slow = TimeoutLayer::new(Duration::from_secs(60)).layer(slow);
    drop(slow.oneshot("AAPL").await);
    let chain = FallbackLayer::new().or("small", Scripted::new([Answer::ok("backup")]));
    drop(chain.layer(Scripted::new([reset()])).oneshot("AAPL").await);
    let layer = CircuitBreakerLayer::new("gpt").consecutive_failures(1);
    let agent = layer.layer(Scripted::new([reset()]));
    for _ in 0..3 {
        drop(agent.clone().oneshot("AAPL").await);
    }
}

/// What `buttress stats` counts and what a page of metrics shows are the same.
#[tokio::test]
async fn metrics_and_statistics_of_the_same_calls_agree() {
    let server = LangfuseServer::start_blocking();
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    std::thread::scope(|threads| {
        let (server, recorder) = (&server, &recorder);
        let calls = || {
            let langfuse = builder(server).start().unwrap();
            let subscriber =
                tracing_subscriber::registry().with(langfuse.layer()).with(MetricsLayer::new());
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_time().build().unwrap();
            tracing::subscriber::with_default(subscriber, || runtime.block_on(call_in_every_way()));
            langfuse.shutdown(Duration::from_secs(20)).unwrap();
        };
        threads.spawn(move || metrics::with_local_recorder(recorder, calls)).join().unwrap();
    });
    let text = recorder.handle().render();
    let sum = |name: &str, labels: &[&str]| -> f64 {
        let of_name = text.lines().filter(|line| line.starts_with(&format!("{name}{{")));
        let matching = of_name.filter(|line| labels.iter().all(|label| line.contains(label)));
        matching.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    };
    let series = |labels: &[&str]| sum("buttress_retry_series", labels);
    let total = Statistics::of(read(&server).await).total;
    assert_eq!(total.retry.series, 10.0, "{text}");
    assert_eq!(series(&[]), total.retry.series, "{text}");
    assert_eq!(series(&[r#"result="first""#]), total.retry.first_try, "{text}");
    let (rescued, failed) = (series(&[r#"result="rescued""#]), series(&[r#"result="failed""#]));
    assert_eq!((rescued, rescued + failed), (total.retry.rescued, total.retry.retried), "{text}");
    assert_eq!(Some(rescued / (rescued + failed)), total.retry.success_rate(), "{text}");
    for (stop, times) in &total.retry.stops {
        if stop != "success" {
            assert_eq!(series(&[&format!(r#"stop="{stop}""#)]), *times, "{stop}\n{text}");
        }
    }
    assert!(total.retry.stops.len() >= 4, "{total:?}");
    let attempts = sum("buttress_retry_attempts", &[]);
    assert_eq!(attempts, total.retry.attempts, "{text}");
    let timed_out = sum("buttress_timeout_calls", &[r#"outcome="timeout""#]);
    assert_eq!((timed_out, total.timeout.timed_out), (1.0, 1.0), "{text}");
    assert_eq!(sum("buttress_timeout_calls", &[]), total.timeout.calls, "{text}");
    let rescued = sum("buttress_fallback_calls", &[r#"level="1""#]);
    assert_eq!((rescued, total.fallback.rescued), (1.0, 1.0), "{text}");
    let rejected = sum("buttress_circuit_breaker_calls", &[r#"outcome="rejected""#]);
    assert_eq!((rejected, total.circuits["gpt"].rejected), (2.0, 2.0), "{text}");
}

#[tokio::test]
async fn a_list_is_read_page_by_page() {
    let server = with_two_calls();
    for (line, pages) in [(Line::V4, 6), (Line::V3, 6)] {
        server.set_line(line);
        let query = || ObservationQuery::new().page_size(4);
        let all = client(&server).observations(query()).all().await.unwrap();
        assert_eq!(all.len(), OBSERVATIONS, "{line:?}");
        let mut list = client(&server).observations(query());
        let mut sizes = Vec::new();
        while let Some(page) = list.next().await.unwrap() {
            sizes.push(page.len());
        }
        assert_eq!((sizes.len(), sizes[0], sizes[5]), (pages, 4, 1), "{line:?}");
        assert_eq!(list.next().await.unwrap(), None, "{line:?}");
    }
    // The newer interface is asked once by each client, then no more.
    let newer = |path: &&String| path.starts_with("/api/public/v2/observations");
    assert_eq!(server.reads().iter().filter(newer).count(), 12 + 2);
}

#[tokio::test]
async fn what_is_shown_twice_is_read_once_and_in_its_newest_form() {
    let server = with_two_calls();
    let expected = Statistics::of(read(&server).await);
    server.show_repeats(true);
    for line in LINES {
        server.set_line(line);
        // An even number: of a pair that a page parts, the server shows one.
        let query = ObservationQuery::new().page_size(4);
        let all = client(&server).observations(query).all().await.unwrap();
        assert_eq!(all.len(), OBSERVATIONS, "{line:?}");
        assert_eq!(Statistics::of(all), expected, "{line:?}");
    }
}

#[tokio::test]
async fn numbers_are_read_also_where_they_are_text() {
    let server = with_two_calls();
    let expected = Statistics::of(read(&server).await);
    server.write_numbers_as_text(true);
    for line in LINES {
        server.set_line(line);
        assert_eq!(Statistics::of(read(&server).await), expected, "{line:?}");
    }
}

#[tokio::test]
async fn filters_are_those_of_the_server() {
    let server = with_two_calls();
    for line in LINES {
        server.set_line(line);
        let count = async |query| client(&server).observations(query).all().await.unwrap().len();
        let query = ObservationQuery::new;
        let now = SystemTime::now();
        let hour = Duration::from_secs(3_600);
        assert_eq!(count(query().name("retry_attempt")).await, 4, "{line:?}");
        assert_eq!(count(query().kind("event")).await, 1, "{line:?}");
        assert_eq!(count(query().from(now - hour).to(now + hour)).await, OBSERVATIONS, "{line:?}");
        assert_eq!(count(query().from(now + hour)).await, 0, "{line:?}");
        assert_eq!(count(query().environment("production")).await, 0, "{line:?}");
        assert!(count(query().level(Level::Error)).await > 0, "{line:?}");
    }
}

#[tokio::test]
async fn a_limit_of_the_server_is_waited_for() {
    let server = with_two_calls();
    server.fail_next_read(Fault::TooManyRequests(RetryAfter::Seconds(1)));
    let said = Arc::new(Mutex::new(Vec::new()));
    let tell = {
        let said = Arc::clone(&said);
        move |why: &str| said.lock().unwrap().push(why.to_owned())
    };
    let start = Instant::now();
    let client = client(&server).on_wait(tell);
    let all = client.observations(ObservationQuery::new()).all().await.unwrap();
    assert_eq!(all.len(), OBSERVATIONS);
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    let said = said.lock().unwrap();
    assert_eq!(*said, ["Langfuse asks to wait 1 s (HTTP 429 Too Many Requests)"]);
}

#[tokio::test]
async fn a_limit_that_is_too_long_is_told_at_once() {
    let server = with_two_calls();
    server.fail_next_read(Fault::TooManyRequests(RetryAfter::Seconds(3_600)));
    let start = Instant::now();
    let error = client(&server).observations(ObservationQuery::new()).all().await.unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(60));
    let ClientError::RateLimited { retry_after, .. } = &error else { panic!("{error:?}") };
    assert_eq!(*retry_after, Some(Duration::from_secs(3_600)));
    assert!(error.to_string().starts_with("Langfuse asks to come back in 3600 s"), "{error}");
}

#[tokio::test]
async fn faults_that_pass_are_tried_again_and_no_others() {
    let server = with_two_calls();
    for fault in [
        Fault::InternalServerError,
        Fault::ServiceUnavailable(RetryAfter::Missing),
        Fault::ResetBeforeBody,
        Fault::Status(408),
        Fault::TooManyRequests(RetryAfter::Missing),
    ] {
        server.fail_next_read(fault.clone());
        server.fail_next_read(fault);
        assert_eq!(read(&server).await.len(), OBSERVATIONS);
    }
    let before = server.reads().len();
    server.fail_next_read(Fault::BadRequest("no"));
    let error = client(&server).observations(ObservationQuery::new()).all().await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { .. }), "{error:?}");
    for _ in 0..4 {
        server.fail_next_read(Fault::InternalServerError);
    }
    let error = client(&server).observations(ObservationQuery::new()).all().await.unwrap_err();
    assert!(matches!(error, ClientError::Unavailable { .. }), "{error:?}");
    assert_eq!(server.reads().len(), before + 1 + 4);
}

#[tokio::test]
async fn wrong_keys_are_told_with_the_variables_to_mend_and_without_the_keys() {
    let server = with_two_calls();
    for line in LINES {
        server.set_line(line);
        let before = server.reads().len();
        let client = builder(&server).secret_key("sk-lf-hush").client().unwrap();
        let error = client.observations(ObservationQuery::new()).all().await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, ClientError::Unauthorized { .. }), "{error:?}");
        let names = "check LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY and LANGFUSE_BASE_URL";
        assert!(text.ends_with(names), "{text}");
        assert!(!text.contains("hush") && !format!("{error:?}{client:?}").contains("hush"));
        assert!(error.is_configuration());
        assert_eq!(server.reads().len(), before + 1);
    }
    server.fail_next_read(Fault::IngestionSuspended);
    let error = client(&server).scores(ScoreQuery::new()).all().await.unwrap_err();
    assert!(matches!(error, ClientError::Forbidden { .. }), "{error:?}");
}

#[tokio::test]
async fn a_wrong_address_is_told_with_the_variable_to_mend() {
    let server = with_two_calls();
    server.set_line(Line::Neither);
    let gone = LangfuseServer::start_blocking();
    gone.stop_blocking();
    let query = ObservationQuery::new;
    let other = client(&server).observations(query()).all().await.unwrap_err();
    let nobody = client(&gone).observations(query()).all().await.unwrap_err();
    server.fail_next_read(Fault::Redirect("https://elsewhere.example/"));
    let moved = client(&server).observations(query()).all().await.unwrap_err();
    assert!(matches!(other, ClientError::NotLangfuse { .. }), "{other:?}");
    assert!(matches!(nobody, ClientError::Unreachable { .. }), "{nobody:?}");
    assert!(matches!(moved, ClientError::NotLangfuse { .. }), "{moved:?}");
    assert!(moved.to_string().contains("https://elsewhere.example/"), "{moved}");
    for error in [other, nobody, moved] {
        assert!(error.to_string().ends_with("; check LANGFUSE_BASE_URL"), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_not_waited_for_without_end() {
    let server = with_two_calls();
    for _ in 0..2 {
        server.fail_next_read(Fault::Hang);
    }
    let hasty = client(&server).timeout(Duration::from_millis(20)).max_attempts(2);
    let error = hasty.observations(ObservationQuery::new()).all().await.unwrap_err();
    assert!(matches!(error, ClientError::TimedOut { .. }), "{error:?}");
    assert_eq!(error.variables(), ["LANGFUSE_TIMEOUT"]);
}

#[test]
fn settings_are_those_of_sending() {
    let made = |vars: &'static [(&'static str, &'static str)]| {
        let find = move |name: &str| {
            vars.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Langfuse::from_vars(find).map_err(ClientError::from).and_then(LangfuseBuilder::client)
    };
    let missing = |vars| made(vars).unwrap_err().to_string();
    assert_eq!(missing(&[]), "LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY must be set");
    assert_eq!(missing(&[("LANGFUSE_PUBLIC_KEY", "pk")]), "LANGFUSE_SECRET_KEY must be set");
    let url = missing(&[("LANGFUSE_BASE_URL", "ftp://host")]);
    assert_eq!(url, "LANGFUSE_BASE_URL must be an http or https address");
    let client = made(&[
        ("LANGFUSE_PUBLIC_KEY", "pk"),
        ("LANGFUSE_SECRET_KEY", "sk"),
        ("LANGFUSE_HOST", "http://lf.example/sub/"),
    ]);
    assert_eq!(client.unwrap().base_url(), "http://lf.example/sub");
    let odd = made(&[("LANGFUSE_PUBLIC_KEY", "pk"), ("LANGFUSE_SECRET_KEY", "s\u{7}k")]);
    let odd = odd.unwrap_err();
    assert!(odd.is_configuration() && odd.variables().contains(&"LANGFUSE_SECRET_KEY"), "{odd}");
}

#[tokio::test]
async fn a_trace_is_read_whole_and_drawn() {
    let server = with_two_calls();
    for line in LINES {
        server.set_line(line);
        let client = client(&server);
        let last = client.last_trace_id(ObservationQuery::new()).await.unwrap().unwrap();
        let trace = client.trace(&last).await.unwrap();
        assert_eq!((trace.id.as_str(), trace.name.as_str()), (last.as_str(), "agent_research"));
        let drawn = trace.render(false);
        assert_eq!(drawn.lines().count(), 11, "{drawn}");
        let first = drawn.lines().next().unwrap();
        assert!(first.starts_with("agent_research [agent] "), "{drawn}");
        assert!(first.contains(" ERROR failure_kind=transient"), "{drawn}");
        // However short it was, it may lie on both sides of a millisecond.
        let opened = drawn.lines().find(|line| line.contains("circuit_breaker.opened [event] "));
        assert!(opened.unwrap().contains("state_transition=CLOSED -> OPEN"), "{drawn}");
        let error = client.trace("nobody's\u{1b}").await.unwrap_err();
        assert!(error.is_not_found() && !error.to_string().contains('\u{1b}'), "{error}");
    }
}

#[tokio::test]
async fn metrics_are_counted_by_either_line() {
    let server = with_two_calls();
    let now = SystemTime::now();
    let hour = Duration::from_secs(3_600);
    let query = MetricsQuery::new("observations", now - hour, now + hour)
        .group_by("level")
        .measure("count", "count")
        .measure("latency", "avg")
        .filter("name", "=", "string", "retry_execution")
        .row_limit(10);
    for (line, as_text) in [(Line::V4, false), (Line::V4, true), (Line::V3, false)] {
        server.set_line(line);
        server.write_numbers_as_text(as_text);
        let rows = client(&server).metrics(&query).await.unwrap();
        let levels: Vec<_> =
            rows.iter().map(|row| (row.text("level").unwrap(), row.count("count_count"))).collect();
        assert_eq!(levels, [("ERROR".to_owned(), Some(1)), ("WARNING".to_owned(), Some(1))]);
        assert!(rows[0].number("avg_latency").unwrap() >= 0.0);
        assert_eq!(rows[0].get("missing"), None);
    }
    let refused = client(&server).metrics(&query.group_by("traceId")).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused { .. }), "{refused:?}");
}

#[tokio::test]
async fn scores_are_read_from_either_line() {
    let server = LangfuseServer::start_blocking();
    for number in 0..5 {
        server.add_score(json!({
            "id": format!("score-{number}"), "name": "degradation_level", "value": number,
            "dataType": "NUMERIC", "comment": "Success rate: 66.7%",
            "timestamp": "2026-11-25T10:00:00.000Z", "source": "API",
            "subject": {"kind": "trace", "id": "t"},
        }));
    }
    server.add_score(json!({
        "id": "score-5", "name": "rescued", "value": true, "dataType": "BOOLEAN",
        "subject": {"kind": "observation", "id": "ab", "traceId": "u"},
    }));
    let mut read = Vec::new();
    for line in LINES {
        server.set_line(line);
        let scores = client(&server).scores(ScoreQuery::new().page_size(2)).all().await.unwrap();
        let named = ScoreQuery::new().name("degradation_level").trace_id("t");
        assert_eq!(client(&server).scores(named).all().await.unwrap().len(), 5, "{line:?}");
        assert_eq!((scores.len(), &scores[0].value), (6, &ScoreValue::Boolean(true)), "{line:?}");
        assert_eq!(scores[0].observation_id.as_deref(), Some("ab"), "{line:?}");
        assert_eq!(scores[5].comment.as_deref(), Some("Success rate: 66.7%"), "{line:?}");
        assert_eq!(scores[1].value.number(), Some(4.0), "{line:?}");
        read.push(scores);
    }
    assert_eq!(read[0], read[1]);
}

#[tokio::test]
async fn the_health_of_a_server_says_its_line() {
    let server = LangfuseServer::start_blocking();
    for (line, major) in [(Line::V4, 4), (Line::V3, 3)] {
        server.set_line(line);
        let health = client(&server).health().await.unwrap();
        assert_eq!((health.status.as_str(), health.major()), ("OK", Some(major)));
    }
    server.set_line(Line::Neither);
    let error = client(&server).health().await.unwrap_err();
    assert!(matches!(error, ClientError::NotLangfuse { .. }), "{error:?}");
}

#[tokio::test]
async fn reading_adds_nothing_to_what_is_read() {
    let server = with_two_calls();
    let langfuse = builder(&server).start().unwrap();
    let subscriber = tracing_subscriber::registry().with(langfuse.layer());
    let guard = tracing::subscriber::set_default(subscriber);
    server.fail_next_read(Fault::InternalServerError);
    assert_eq!(read(&server).await.len(), OBSERVATIONS);
    drop(guard);
    langfuse.shutdown(Duration::from_secs(20)).unwrap();
    assert_eq!(server.observations().len(), OBSERVATIONS);
}

#[test]
fn what_reads_can_be_sent_between_threads() {
    fn is_send<T: Send>(_: &T) {}
    fn is_sync<T: Send + Sync>() {}
    is_sync::<LangfuseClient>();
    let client = Langfuse::builder().public_key("pk").secret_key("sk").client().unwrap();
    is_send(&client.observations(ObservationQuery::new()).all());
    is_send(&client.trace("t"));
    is_send(&client.health());
}
