//! What is sent of traces that went well and of those that did not, and what of what they say.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use buttress::{
    FaultTolerantAgent, RetryLayer,
    test_util::{Answer, Scripted},
};
use buttress_langfuse::{CaptureIoLayer, Durability, Langfuse, LangfuseBuilder, current};
use buttress_tests::langfuse_server::{LangfuseServer, Observation};
use tower::Layer as _;
use tracing::info_span;
use tracing_subscriber::layer::SubscriberExt as _;

const PATIENCE: Duration = Duration::from_secs(20);

fn builder(server: &LangfuseServer) -> LangfuseBuilder {
    Langfuse::builder()
        .public_key(server.public_key())
        .secret_key(server.secret_key())
        .base_url(server.base_url())
        .durability(Durability::Memory)
}

/// Runs something under a layer, on a runtime of its own, and delivers what it said.
fn sent(
    build: impl FnOnce(LangfuseBuilder) -> LangfuseBuilder,
    run: impl AsyncFnOnce(),
) -> Vec<Observation> {
    let server = LangfuseServer::start_blocking();
    let langfuse = build(builder(&server)).start().unwrap();
    let subscriber = tracing_subscriber::registry().with(langfuse.layer());
    tracing::subscriber::with_default(subscriber, || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run());
    });
    langfuse.shutdown(PATIENCE).unwrap();
    server.observations()
}

/// One call of an agent that fails so often before it answers.
async fn call(failures: usize) {
    let answers = (0..failures).map(|_| Answer::error("reset")).chain([Answer::ok("fine")]);
    let agent = FaultTolerantAgent::builder("research")
        .retry(RetryLayer::new(failures + 1).backoff([Duration::ZERO]))
        .fallback("old", Scripted::new([Answer::ok("old")]))
        .service(Scripted::new(answers.collect::<Vec<_>>()));
    agent.invoke("AAPL").await.unwrap();
}

fn names(observations: &[Observation]) -> Vec<&str> {
    observations.iter().map(Observation::name).collect()
}

#[test]
fn of_a_trace_in_which_something_went_wrong_all_is_sent_also_what_came_before_it() {
    let observations = sent(
        |builder| builder.sample_rate(0.0).target("app"),
        async || {
            // What ends well before anything fails is part of the story.
            info_span!(target: "app", "request").in_scope(|| {
                info_span!(target: "app", "load prices").in_scope(|| ());
            });
            let request = info_span!(target: "app", "request");
            tracing::Instrument::instrument(
                async {
                    info_span!(target: "app", "load prices").in_scope(|| ());
                    call(1).await;
                },
                request,
            )
            .await;
        },
    );
    let mut found = names(&observations);
    found.sort_unstable();
    assert_eq!(found.iter().filter(|name| **name == "load prices").count(), 1);
    assert_eq!(found.iter().filter(|name| **name == "request").count(), 1);
    assert!(found.contains(&"retry_execution") && found.contains(&"agent_research"), "{found:?}");
    assert!(observations.iter().all(|row| row.trace_id() == observations[0].trace_id()));
}

#[test]
fn of_the_others_a_share_is_sent_whole_or_not_at_all() {
    let observations = sent(
        |builder| builder.sample_rate(0.5),
        async || {
            for _ in 0..200 {
                call(0).await;
            }
        },
    );
    let roots: Vec<_> = observations.iter().filter(|row| row.is_root()).collect();
    assert!((60..140).contains(&roots.len()), "{}", roots.len());
    // Agent, chain and its attempt, retry and its attempt, breaker and timeout.
    assert_eq!(observations.len(), 7 * roots.len());
    assert!(roots.iter().all(|row| *row.metadata("sample_rate") == 0.5), "{:?}", roots[0]);
}

#[test]
fn a_compact_trace_says_what_went_well_in_one_span() {
    let observations = sent(LangfuseBuilder::compact, async || {
        call(0).await;
        let _request = info_span!(target: "buttress", "retry_execution").entered();
        info_span!(target: "buttress", "retry_attempt").in_scope(|| {
            info_span!(target: "buttress", "llm_call").in_scope(|| ());
        });
    });
    // The outermost stays, whatever it is.
    assert_eq!(names(&observations), ["agent_research", "llm_call", "retry_execution"]);
    assert_eq!(observations[1].parent_id(), Some(observations[2].id()));
    let eventful = sent(LangfuseBuilder::compact, async || call(1).await);
    assert_eq!(eventful.len(), 10);
}

#[test]
fn open_traces_without_end_are_bounded_in_memory_and_none_of_the_share_is_lost() {
    let server = LangfuseServer::start_blocking();
    let langfuse = builder(&server).compact().start().unwrap();
    let subscriber = tracing_subscriber::registry().with(langfuse.layer());
    tracing::subscriber::with_default(subscriber, || {
        let open: Vec<_> = (0..2_000)
            .map(|_| {
                let open = info_span!(target: "buttress", "graph");
                open.in_scope(|| {
                    info_span!(target: "buttress", "llm_call").in_scope(|| {
                        current().input("x".repeat(40_000));
                    });
                });
                open
            })
            .collect();
        // 80 MB are held back by 2,000 traces: most of it has been sent.
        langfuse.flush(PATIENCE).unwrap();
        let stats = langfuse.stats();
        assert!(stats.delivered > 1_000 && stats.delivered < 2_000, "{stats:?}");
        drop(open);
    });
    langfuse.shutdown(PATIENCE).unwrap();
    assert_eq!(server.observations().len(), 4_000);
}

/// How many traces are open at once in the largest test, and each how many of them has a failure.
const OPEN: usize = 100_000;
const FAILING: usize = 100;
/// The environment of a child: the base URL, or nothing where no layer of ours listens.
const CHILD: &str = "BUTTRESS_TEST_OPEN_TRACES";

/// Opens 100,000 traces in a process of its own, and says how much memory it took at most; nothing in
/// the test itself.
#[test]
fn child_with_open_traces() {
    let Ok(base_url) = std::env::var(CHILD) else { return };
    let langfuse = (!base_url.is_empty()).then(|| {
        let builder = Langfuse::builder().public_key("pk-lf-1").secret_key("sk-lf-1");
        builder.base_url(base_url).durability(Durability::Memory).sample_rate(0.05).start().unwrap()
    });
    let provider = opentelemetry_sdk::trace::SdkTracerProvider::builder().build();
    let tracer = opentelemetry::trace::TracerProvider::tracer(&provider, "test");
    let plain = langfuse.is_none().then(|| tracing_opentelemetry::layer().with_tracer(tracer));
    let subscriber =
        tracing_subscriber::registry().with(langfuse.as_ref().map(Langfuse::layer)).with(plain);
    tracing::subscriber::with_default(subscriber, || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let input = "x".repeat(400);
        let open: Vec<_> = (0..OPEN)
            .map(|number| {
                let open = info_span!(target: "buttress", "graph");
                open.in_scope(|| {
                    info_span!(target: "buttress", "llm_call", input = &*input).in_scope(|| ());
                    if number % FAILING == 0 {
                        let agent = FaultTolerantAgent::builder(format!("call-{number}"))
                            .max_attempts(1)
                            .service(Scripted::new([Answer::<&str>::error("reset")]));
                        runtime.block_on(agent.invoke("AAPL")).unwrap_err();
                    }
                });
                open
            })
            .collect();
        println!("most {}", most_memory());
        drop(open);
    });
    if let Some(langfuse) = langfuse {
        // What was sent for want of room is much, and the machine may be busy.
        langfuse.shutdown(6 * PATIENCE).unwrap();
        println!("dropped {}", langfuse.stats().dropped_eventful);
    }
}

/// How many traces the largest test of what is kept of a share makes.
const SHORT: usize = 150_000;

/// Makes many short traces, in a process of its own and while Langfuse is away, and says how much
/// memory they took; nothing in the test itself.
#[test]
fn child_with_short_traces() {
    let Ok(base_url) = std::env::var(CHILD) else { return };
    let builder = Langfuse::builder().public_key("pk-lf-1").secret_key("sk-lf-1");
    let builder = builder.base_url(base_url).durability(Durability::Memory).sample_rate(0.05);
    let langfuse = builder.start().unwrap();
    let subscriber = tracing_subscriber::registry().with(langfuse.layer());
    tracing::subscriber::with_default(subscriber, || {
        info_span!(target: "buttress", "llm_call").in_scope(|| ());
        let before = most_memory();
        for _ in 0..SHORT {
            info_span!(target: "buttress", "llm_call").in_scope(|| ());
        }
        println!("most {}", most_memory() - before);
    });
    let stats = langfuse.stats();
    println!("dropped {}", stats.dropped);
    assert!((SHORT / 25..SHORT / 15).contains(&usize::try_from(stats.pending).unwrap()));
    langfuse.shutdown(Duration::ZERO).unwrap_err();
}

/// Of what is not sent nothing stays, not as memory that what is sent shares with it either.
#[cfg(target_os = "linux")]
#[test]
fn the_share_that_waits_takes_the_memory_of_the_share() {
    let (most, dropped) = child("child_with_short_traces", "http://127.0.0.1:1");
    assert_eq!(dropped, Some(0));
    println!("a share of {SHORT} traces takes {} MiB", most >> 20);
    assert!(most <= 12 << 20, "{most}");
}

/// Returns how many bytes of memory this process took at most so far.
fn most_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    1024 * line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
}

/// Runs a child; returns the numbers that it says.
fn child(test: &str, base_url: &str) -> (u64, Option<u64>) {
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture"]).env(CHILD, base_url);
    let output = command.stdin(std::process::Stdio::null()).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}{}", String::from_utf8_lossy(&output.stderr));
    let number = |word| {
        let line = stdout.lines().find_map(|line| line.strip_prefix(word))?;
        line.trim().parse().ok()
    };
    (number("most ").unwrap(), number("dropped "))
}

/// Beside what tracing and OpenTelemetry keep of 100,000 open spans themselves.
#[cfg(target_os = "linux")]
#[test]
fn a_hundred_thousand_open_traces_keep_to_their_bound_and_lose_no_failure() {
    const HELD: u64 = 32 << 20;
    const QUEUE: u64 = 64 << 20;
    const A_TRACE: u64 = 2 << 10;
    let (plain, _) = child("child_with_open_traces", "");
    let server = LangfuseServer::start_blocking();
    let (ours, dropped) = child("child_with_open_traces", &server.base_url());
    let bound = HELD + QUEUE + OPEN as u64 * A_TRACE;
    let more = ours.saturating_sub(plain);
    println!("{OPEN} open traces: {} MiB more than without, bound {} MiB", more >> 20, bound >> 20);
    assert!(more <= bound, "{more} {bound}");
    // Where the queue has no room, what went well makes it.
    assert_eq!(dropped, Some(0));
    let failed = server.observations();
    let failed = failed.iter().filter(|one| one.name().starts_with("agent_call-")).count();
    assert_eq!(failed, OPEN / FAILING);
}

#[test]
fn input_and_output_of_an_agent_are_captured_masked_and_cut() {
    let mask = |text: &str| text.replace("AAPL", "****");
    let observations = sent(
        |builder| builder.mask(mask).max_io_bytes(12),
        async || {
            let agent = CaptureIoLayer::new().layer(Scripted::new([
                Answer::error("no key sk-1234567890 for AAPL"),
                Answer::ok("a long answer"),
            ]));
            let agent = FaultTolerantAgent::builder("research")
                .retry(RetryLayer::new(2).backoff([Duration::ZERO]))
                .service(agent);
            agent.invoke("AAPL").await.unwrap();
        },
    );
    let agent = observations.iter().find(|row| row.name() == "agent_research").unwrap();
    assert_eq!(agent.field("input"), "****");
    assert_eq!(agent.field("output"), "a long answe... (cut: 13 bytes in all)");
    let all = observations.iter().map(|row| row.row().to_string()).collect::<String>();
    assert!(!all.contains("AAPL") && !all.contains("sk-1234567890"), "{all}");
    let breaker = observations.iter().find(|row| row.name() == "circuit_breaker_call").unwrap();
    let message = breaker.status_message().unwrap();
    assert!(message.contains("no key (hidden) for ****"), "{message}");
}

/// The user's own function runs where a span ends: whatever it does of what the program may do
/// anywhere, nothing waits for itself.
#[test]
fn a_mask_may_trace_and_score_and_panic() {
    use std::sync::atomic::{AtomicUsize, Ordering};

    static CALLS: AtomicUsize = AtomicUsize::new(0);
    let mask = |text: &str| {
        tracing::warn!(target: "buttress", "masking");
        tracing::info!(target: "buttress::score", name = "masked", value = 1_i64);
        current().metadata("masked", true);
        // Not within the mask of the span that the mask itself makes.
        if CALLS.fetch_add(1, Ordering::Relaxed) < 3 {
            let span = info_span!(target: "buttress", "masking", input = "AAPL");
            span.in_scope(|| {
                current().status_message("AAPL");
            });
        }
        assert!(!text.contains("reset"), "a fault in the mask");
        text.replace("AAPL", "****")
    };
    let observations = sent(
        |builder| builder.mask(mask),
        async || {
            let agent = FaultTolerantAgent::builder("research")
                .max_attempts(1)
                .service(Scripted::new([Answer::<&str>::error("reset")]));
            agent.invoke("AAPL").await.unwrap_err();
            info_span!(target: "buttress", "llm_call", input = "AAPL").in_scope(|| ());
        },
    );
    assert!(names(&observations).contains(&"masking"));
    let said = format!("{observations:?}");
    assert!(!said.contains("reset") && !said.contains("AAPL"), "{said}");
    assert!(said.contains("<fully masked due to failed mask function>"), "{said}");
}
