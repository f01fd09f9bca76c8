//! Delivery over real sockets, to a server that behaves as Langfuse does.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    process::{Command, Output, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use buttress::{
    FaultTolerantAgent, RetryLayer,
    test_util::{Answer, Scripted},
};
use buttress_langfuse::{
    Durability, FlushError, Langfuse, LangfuseBuilder, StartError, Stats, current,
};
use buttress_tests::langfuse_server::{Fault, LangfuseServer, RetryAfter};
use tracing::info_span;
use tracing_subscriber::layer::SubscriberExt as _;

const PATIENCE: Duration = Duration::from_secs(20);

/// A builder that takes its time for nothing.
fn hasty() -> LangfuseBuilder {
    Langfuse::builder()
        .flush_interval(Duration::from_millis(20))
        .retry_backoff(Duration::from_millis(5), Duration::from_millis(50))
        .durability(Durability::Memory)
}

fn builder(server: &LangfuseServer) -> LangfuseBuilder {
    let keys = hasty().public_key(server.public_key()).secret_key(server.secret_key());
    keys.base_url(format!("{}/", server.base_url()))
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
/// With the score that its retry gives.
const WAITING: usize = SPANS + 1;

/// Waits until the first request is answered so.
fn wait_for_status(server: &LangfuseServer, status: u16) {
    server.wait_until_blocking(PATIENCE, |received| {
        received.requests().first().is_some_and(|request| request.status == Some(status))
    });
}

/// What a test in a process of its own is told: where its server is.
const CHILD: &str = "BUTTRESS_TEST_SERVER";

/// Runs one test of this file again in a process of its own, with a stderr of its own.
fn in_own_process(test: &str, server: &LangfuseServer, stderr: impl Into<Stdio>) -> Output {
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args([test, "--exact", "--nocapture"]).env(CHILD, server.base_url()).stderr(stderr);
    let output = command.stdout(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

/// The builder for the server of the process that started this one, which has the usual keys.
fn in_child() -> Option<LangfuseBuilder> {
    let base_url = std::env::var(CHILD).ok()?;
    Some(hasty().public_key("pk-lf-1").secret_key("sk-lf-1").base_url(base_url))
}

/// The lines of ours on a child's stderr.
fn notices(output: &Output) -> Vec<String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    stderr.lines().filter(|line| line.starts_with("langfuse: ")).map(str::to_owned).collect()
}

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
            FlushError::Undelivered { pending: WAITING, .. }
                | FlushError::TimedOut { pending: WAITING }
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
    wait_for_status(&server, 500);
    langfuse.flush(PATIENCE).unwrap();
    assert_eq!(server.observations().len(), SPANS);
}

#[test]
fn who_waits_does_not_end_a_pause_that_the_server_asked_for() {
    let server = LangfuseServer::start_blocking();
    let langfuse = langfuse(&server);
    server.fail_next(Fault::TooManyRequests(RetryAfter::Seconds(3_600)));
    calls(&langfuse, 1);
    wait_for_status(&server, 429);
    let error = langfuse.flush(Duration::from_millis(100)).unwrap_err();
    assert!(matches!(error, FlushError::Undelivered { pending: WAITING, .. }), "{error:?}");
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
        ("LANGFUSE_OTEL_TRACES_EXPORT_PATH", "/a path"),
        ("LANGFUSE_BASE_URL", "http://me:secret@host"),
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

#[test]
fn a_stderr_that_is_closed_costs_no_span() {
    if let Some(builder) = in_child() {
        let langfuse = builder.start().unwrap();
        calls(&langfuse, 1);
        return langfuse.shutdown(PATIENCE).unwrap();
    }
    let server = LangfuseServer::start_blocking();
    server.fail_next(Fault::InternalServerError);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    in_own_process("a_stderr_that_is_closed_costs_no_span", &server, writer);
    assert_eq!(server.observations().len(), SPANS);
}

#[test]
fn an_interval_beyond_every_clock_is_none() {
    let server = LangfuseServer::start_blocking();
    let langfuse = builder(&server).flush_interval(Duration::MAX).start().unwrap();
    calls(&langfuse, 1);
    langfuse.flush(Duration::MAX).unwrap();
    calls(&langfuse, 1);
    langfuse.shutdown(PATIENCE).unwrap();
    assert_eq!(server.observations().len(), 2 * SPANS);
    let far = |name: &str| (name == "LANGFUSE_FLUSH_INTERVAL").then(|| "1e19".to_owned());
    assert!(Langfuse::from_vars(far).is_ok());
}

#[tokio::test(start_paused = true)]
async fn flush_shutdown_and_drop_end_although_tokios_clock_is_paused() {
    let server = LangfuseServer::start_blocking();
    server.fail_with([Some(Fault::Hang), Some(Fault::Hang)]);
    let (shut_down, dropped) = (langfuse(&server), langfuse(&server));
    for langfuse in [&shut_down, &dropped] {
        let subscriber = tracing_subscriber::registry().with(langfuse.layer());
        tracing::subscriber::with_default(subscriber, || {
            info_span!(target: "buttress", "retry_execution").in_scope(|| ());
        });
        assert!(langfuse.flush(Duration::from_millis(20)).is_err());
    }
    assert!(shut_down.shutdown(Duration::from_millis(20)).is_err());
    drop(dropped);
}

#[test]
fn a_queue_that_is_half_full_is_sent_before_anything_is_dropped() {
    let server = LangfuseServer::start_blocking();
    let hour = Duration::from_secs(3_600);
    let langfuse = builder(&server).flush_interval(hour).queue_spans(2 * WAITING).start().unwrap();
    for call in 1..=5 {
        calls(&langfuse, 1);
        server.wait_until_blocking(PATIENCE, |received| {
            received.observations().len() == call * SPANS
        });
    }
    assert_eq!(langfuse.stats().dropped, 0);
}

#[test]
fn what_fills_a_request_or_half_the_bytes_is_sent_at_once() {
    let server = LangfuseServer::start_blocking();
    let hour = Duration::from_secs(3_600);
    for (queue_bytes, bytes) in [(64 << 20, 3 << 20), (1 << 20, 512 << 10)] {
        let stored = server.observations().len();
        let langfuse = builder(&server)
            .flush_interval(hour)
            .queue_bytes(queue_bytes)
            .max_io_bytes(usize::MAX)
            .start()
            .unwrap();
        let subscriber = tracing_subscriber::registry().with(langfuse.layer());
        tracing::subscriber::with_default(subscriber, || {
            info_span!(target: "buttress", "llm_call").in_scope(|| {
                current().input("x".repeat(bytes));
            });
        });
        server.wait_until_blocking(PATIENCE, |received| received.observations().len() > stored);
    }
}

#[test]
fn a_batch_is_taken_although_the_body_of_the_answer_never_ends() {
    for fault in [Fault::SilentBody, Fault::TricklingBody] {
        let server = LangfuseServer::start_blocking();
        let langfuse = builder(&server).timeout(Duration::from_secs(1)).start().unwrap();
        server.fail_next(fault);
        calls(&langfuse, 1);
        langfuse.flush(PATIENCE).unwrap();
        calls(&langfuse, 1);
        langfuse.shutdown(PATIENCE).unwrap();
        assert_eq!((server.observations().len(), server.duplicates()), (2 * SPANS, 0));
    }
}

#[test]
fn who_waits_gets_a_try_although_delivery_pauses_for_a_person() {
    for (fault, status) in [
        (Fault::InvalidCredentials, 401),
        (Fault::Status(402), 402),
        (Fault::IngestionSuspended, 403),
        (Fault::Status(404), 404),
        (Fault::Status(405), 405),
        (Fault::Status(415), 415),
        (Fault::Redirect("https://lf.example/"), 301),
    ] {
        let server = LangfuseServer::start_blocking();
        let langfuse = langfuse(&server);
        server.fail_next(fault);
        calls(&langfuse, 1);
        wait_for_status(&server, status);
        assert_eq!((langfuse.stats().pending, langfuse.stats().refused), (SPANS as u64, 0));
        langfuse.flush(PATIENCE).unwrap();
        let statuses: Vec<_> = server.requests().iter().map(|request| request.status).collect();
        assert_eq!(statuses, [Some(status), Some(200)]);
        assert_eq!(server.observations().len(), SPANS);
    }
}

#[test]
fn a_refusal_of_the_request_as_such_gives_no_span_up() {
    for error in [
        "Invalid content type",
        "Unsupported x-langfuse-ingestion-version: \"4\". Maximum supported: \"3\".",
        "Failed to decompress request body",
        "Failed to parse OTel Protobuf Trace",
    ] {
        let server = LangfuseServer::start_blocking();
        let langfuse = langfuse(&server);
        server.fail_next(Fault::BadRequest(error));
        calls(&langfuse, 1);
        wait_for_status(&server, 400);
        langfuse.shutdown(PATIENCE).unwrap();
        // The batch is sent again as it was, not in halves.
        let spans: Vec<_> = server.requests().iter().map(|one| one.span_ids.len()).collect();
        assert_eq!(spans, [0, SPANS], "{error}");
    }
}

#[test]
fn a_retry_after_is_obeyed_in_seconds_and_as_a_date() {
    let in_an_hour = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 3_600;
    for asked in [RetryAfter::Seconds(3_600), RetryAfter::Date(in_an_hour)] {
        let server = LangfuseServer::start_blocking();
        let langfuse = langfuse(&server);
        server.fail_next(Fault::ServiceUnavailable(asked));
        calls(&langfuse, 1);
        wait_for_status(&server, 503);
        let error = langfuse.flush(Duration::from_millis(300)).unwrap_err();
        assert!(matches!(error, FlushError::Undelivered { pending: WAITING, .. }), "{error:?}");
        assert_eq!(server.requests().len(), 1, "{asked:?}");
        langfuse.shutdown(Duration::ZERO).unwrap_err();
    }
    // One that is over soon is followed by the next try, and so is one that is over already.
    for asked in [RetryAfter::Seconds(1), RetryAfter::Date(1)] {
        let server = LangfuseServer::start_blocking();
        let langfuse = langfuse(&server);
        server.fail_next(Fault::TooManyRequests(asked));
        calls(&langfuse, 1);
        langfuse.shutdown(PATIENCE).unwrap();
        assert_eq!(server.observations().len(), SPANS);
    }
}

#[test]
fn faults_of_the_network_are_tried_again() {
    for (fault, duplicates) in [
        (Fault::Status(408), 0),
        (Fault::ResetAfterStoring, SPANS),
        (Fault::Slow(Duration::from_millis(30)), 0),
    ] {
        let server = LangfuseServer::start_blocking();
        let langfuse = langfuse(&server);
        server.fail_next(fault);
        calls(&langfuse, 1);
        langfuse.shutdown(PATIENCE).unwrap();
        assert_eq!((server.observations().len(), server.duplicates()), (SPANS, duplicates));
        assert_eq!(langfuse.stats().delivered, SPANS as u64);
    }
}

/// Answers each request with one of these, byte for byte, and closes the connection; returns how many
/// there were.
fn answers(listener: &TcpListener, answers: &[&[u8]]) -> usize {
    let mut requests = 0;
    for answer in answers {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut head, mut byte) = (Vec::new(), [0]);
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            head.extend(byte);
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let mut body = vec![0; length.unwrap().parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        requests += 1;
        drop(stream.write_all(answer));
    }
    requests
}

#[test]
fn whatever_takes_a_batch_is_taken_at_its_word_and_what_is_no_answer_is_not() {
    let endless = vec![b'x'; 8 << 20];
    let huge = [&b"HTTP/1.1 200 OK\r\ncontent-length: 8388608\r\n\r\n"[..], &endless].concat();
    let taken: [&[u8]; 7] = [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n<html>",
        b"HTTP/1.1 207 Multi-Status\r\ncontent-length: 9\r\n\r\n{\"errors\"",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 100\r\n\r\n\x1f\x8b\x08",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n",
        &huge,
    ];
    let not: [&[u8]; 5] = [
        b"",
        b"HTTP/1.1 2",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 429 \r\nretry-after: soon\r\ncontent-length: 5\r\n\r\nwa",
        b"HTTP/1.1 599 Odd\r\ncontent-length: 0\r\n\r\n",
    ];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let one = |script: &[&[u8]]| {
        let langfuse = hasty().public_key("pk-lf-1").secret_key("sk-lf-1").base_url(&address);
        let langfuse = langfuse.start().unwrap();
        std::thread::scope(|scope| {
            let server = scope.spawn(|| answers(&listener, script));
            let subscriber = tracing_subscriber::registry().with(langfuse.layer());
            tracing::subscriber::with_default(subscriber, || {
                drop(info_span!(target: "buttress", "one").entered());
            });
            langfuse.shutdown(PATIENCE).unwrap();
            assert_eq!(server.join().unwrap(), script.len());
        });
        assert_eq!(langfuse.stats().delivered, 1);
    };
    taken.iter().for_each(|answer| one(&[answer]));
    not.iter().for_each(|answer| one(&[answer, taken[0]]));
}

#[test]
fn dropped_spans_are_counted_and_logged_once() {
    if let Some(builder) = in_child() {
        let langfuse = builder.queue_spans(1).start().unwrap();
        calls(&langfuse, 1);
        let Stats { pending, dropped, .. } = langfuse.stats();
        // One may be on its way, and one may wait.
        assert!(pending + dropped == SPANS as u64 && pending <= 2, "{:?}", langfuse.stats());
        langfuse.shutdown(Duration::ZERO).unwrap_err();
        let stats = langfuse.stats();
        return assert_eq!((stats.pending, stats.dropped), (0, SPANS as u64));
    }
    let server = LangfuseServer::start_blocking();
    server.fail_next(Fault::Hang);
    let test = "dropped_spans_are_counted_and_logged_once";
    let said = notices(&in_own_process(test, &server, Stdio::piped()));
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("spans are dropped"), "{said:?}");
    assert!(said[1].contains("delivery has ended"), "{said:?}");
}

/// As it is without a spool, and with one that cannot be written.
#[test]
fn where_memory_is_full_failures_take_the_place_of_what_went_well_and_the_server_is_told() {
    let server = LangfuseServer::start_blocking();
    let langfuse = builder(&server).queue_spans(64).start().unwrap();
    server.stop_blocking();
    let subscriber = tracing_subscriber::registry().with(langfuse.layer());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    tracing::subscriber::with_default(subscriber, || {
        let fails = |name: &'static str| {
            let agent = FaultTolerantAgent::builder(name)
                .max_attempts(1)
                .service(Scripted::new([Answer::<&str>::error("reset")]));
            runtime.block_on(agent.invoke("AAPL")).unwrap_err();
        };
        fails("first");
        (0..200).for_each(|_| drop(info_span!(target: "buttress", "went_well").entered()));
        fails("last");
    });
    let stats = langfuse.stats();
    assert!(stats.dropped > 50 && stats.dropped_eventful == 0, "{stats:?}");
    server.restart_blocking();
    langfuse.shutdown(PATIENCE).unwrap();
    for name in ["agent_first", "agent_last"] {
        assert_eq!(server.named(name).len(), 1, "{name}");
    }
    assert_eq!(server.named("spans_dropped")[0].field("metadata")["dropped_spans"], stats.dropped);
}

#[test]
fn failures_that_memory_has_no_room_for_are_counted_as_such() {
    let server = LangfuseServer::start_blocking();
    let langfuse = builder(&server).queue_spans(15).start().unwrap();
    server.stop_blocking();
    calls(&langfuse, 1);
    let one = langfuse.stats();
    assert_eq!((one.accepted, one.dropped), (SPANS as u64, 0));
    calls(&langfuse, 9);
    let stats = langfuse.stats();
    let (most, before) = (stats.dropped, stats.dropped_eventful);
    // What comes before the first failure of a call is of no trace in which something went wrong.
    assert!(stats.dropped_eventful > 60 && stats.dropped_eventful <= most, "{stats:?}");
    langfuse.shutdown(Duration::ZERO).unwrap_err();
    let stats = langfuse.stats();
    assert_eq!((stats.pending, stats.dropped), (0, 10 * SPANS as u64));
    assert!(stats.dropped_eventful >= before + 10, "{stats:?}");
}

#[test]
fn shutdown_says_what_is_left_and_says_it_again() {
    let server = LangfuseServer::start_blocking();
    let langfuse = langfuse(&server);
    server.stop_blocking();
    calls(&langfuse, 1);
    let first = langfuse.shutdown(Duration::from_millis(50)).unwrap_err();
    assert!(
        matches!(
            first,
            FlushError::Undelivered { pending: WAITING, .. }
                | FlushError::TimedOut { pending: WAITING }
        ),
        "{first:?}"
    );
    let stats = langfuse.stats();
    assert_eq!((stats.accepted, stats.pending, stats.dropped), (SPANS as u64, 0, SPANS as u64));
    assert_eq!(langfuse.shutdown(PATIENCE), Err(first));
    assert_eq!(langfuse.flush(PATIENCE), Err(FlushError::Closed));
}

#[test]
fn a_notice_names_the_cause_and_where_a_redirect_leads() {
    if let Some(builder) = in_child() {
        let langfuse = builder.start().unwrap();
        calls(&langfuse, 1);
        // The try of who waits may be the one that fails; only the line counts here.
        drop(langfuse.shutdown(Duration::from_millis(300)));
        // Nothing listens on this port.
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let keys = hasty().public_key("pk").secret_key("sk");
        let langfuse = keys.base_url(format!("http://{free}")).start().unwrap();
        calls(&langfuse, 1);
        let error = langfuse.shutdown(Duration::from_millis(300)).unwrap_err();
        return assert!(error.to_string().contains("refused"), "{error}");
    }
    let server = LangfuseServer::start_blocking();
    // A server may repeat anything, the key included.
    server.fail_next(Fault::Redirect("https://lf.example/sk-lf-1"));
    let test = "a_notice_names_the_cause_and_where_a_redirect_leads";
    let said = notices(&in_own_process(test, &server, Stdio::piped()));
    assert!(said[0].contains("301 Moved Permanently to https://lf.example/(hidden)"), "{said:?}");
    let away = said.iter().find(|line| line.contains("does not take spans")).unwrap();
    assert!(away.contains("onnection refused"), "{away}");
}

#[test]
fn without_keys_there_is_no_network() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let langfuse = Langfuse::builder().base_url(address).public_key(" ").start().unwrap();
    calls(&langfuse, 1);
    langfuse.shutdown(PATIENCE).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn a_rate_of_zero_samples_only_what_is_sent() {
    let langfuse = Langfuse::builder().sample_rate(0.0).start().unwrap();
    let subscriber = tracing_subscriber::registry().with(langfuse.layer());
    tracing::subscriber::with_default(subscriber, || {
        info_span!(target: "buttress", "retry_execution").in_scope(|| ());
    });
    assert_eq!(langfuse.terminal().unwrap().trees().len(), 1);
}

#[test]
fn keys_are_trimmed_and_checked() {
    let server = LangfuseServer::start_blocking();
    let padded = builder(&server).public_key("  pk-lf-1\n").secret_key("\tsk-lf-1 ");
    let langfuse = padded.start().unwrap();
    calls(&langfuse, 1);
    langfuse.shutdown(PATIENCE).unwrap();
    assert_eq!(server.observations().len(), SPANS);
    for (public, secret) in [("p\nk", "sk"), ("pk", "s\nk"), ("pk", "s\0k")] {
        let error = builder(&server).public_key(public).secret_key(secret).start().unwrap_err();
        assert!(matches!(error, StartError::Key), "{error:?}");
    }
}
