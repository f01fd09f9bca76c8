//! The spool end to end: processes that are killed, a Langfuse that is away, and what of it all
//! arrives.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use buttress::{
    FaultTolerantAgent, RetryLayer,
    test_util::{Answer, Scripted},
};
use buttress_langfuse::{FlushError, Langfuse, LangfuseBuilder, current};
use buttress_tests::langfuse_server::{Fault, LangfuseServer, Request, RetryAfter};
use tempfile::TempDir;
use tokio::time::Instant;
use tracing_subscriber::layer::SubscriberExt as _;

const PATIENCE: Duration = Duration::from_secs(60);
/// How many bytes the spool of a test may take.
const SPOOL_BYTES: u64 = 64 << 20;

/// How much memory a process of a test may take: what waits in the queue, what is held back of open
/// traces, and the program itself.
const MEMORY_BYTES: u64 = (64 + 32 + 64) << 20;

/// What a child is told: where its server and its spool are, from which call on it makes calls,
/// and up to which.
const CHILD: &str = "BUTTRESS_TEST_SPOOL";
/// The same for a child that ends in the middle of a run.
const OPEN_CHILD: &str = "BUTTRESS_TEST_OPEN";

fn builder(base_url: &str, spool: &Path) -> LangfuseBuilder {
    Langfuse::builder()
        .public_key("pk-lf-1")
        .secret_key("sk-lf-1")
        .base_url(base_url)
        .spool(spool)
        .spool_bytes(SPOOL_BYTES)
        .flush_interval(Duration::from_millis(20))
        .timeout(Duration::from_millis(500))
        .retry_backoff(Duration::from_millis(5), Duration::from_millis(50))
}

/// One call in ten fails, after a retry; the others have nothing to tell.
const fn fails(call: u64) -> bool {
    call % 10 == 3
}

/// Makes calls, each of an agent of its own name; `after` is told when one has returned.
fn make_calls(langfuse: &Langfuse, calls: std::ops::Range<u64>, mut after: impl FnMut(u64, bool)) {
    let subscriber = tracing_subscriber::registry().with(langfuse.layer());
    tracing::subscriber::with_default(subscriber, || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for call in calls {
            let answers = if fails(call) {
                [Answer::error("reset"), Answer::error("reset")]
            } else {
                [Answer::ok("fine"), Answer::ok("fine")]
            };
            let agent = FaultTolerantAgent::builder(format!("call-{call}"))
                .retry(RetryLayer::new(2).backoff([Duration::ZERO]))
                .service(Scripted::new(answers));
            let answer = runtime.block_on(agent.invoke("AAPL"));
            assert_eq!(answer.is_err(), fails(call));
            after(call, answer.is_err());
        }
    });
}

/// The part of a test that is killed, in a process of its own; nothing in the test itself.
#[test]
fn child() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let told: Vec<&str> = told.split('\n').collect();
    let [base_url, spool, from, to] = told[..] else { panic!("{told:?}") };
    let langfuse = builder(base_url, Path::new(spool)).start().unwrap();
    let mut stdout = std::io::stdout();
    make_calls(&langfuse, from.parse().unwrap()..to.parse().unwrap(), |call, failed| {
        // The caller has its answer.
        writeln!(stdout, "call {call} {failed}").unwrap();
    });
    // What is left here and of those before, where nothing stands in its way.
    let started = Instant::now();
    while !segments(Path::new(spool)).is_empty() && started.elapsed() < 10 * PATIENCE {
        drop(langfuse.flush(Duration::from_millis(50)));
    }
    langfuse.shutdown(PATIENCE).unwrap();
    writeln!(stdout, "done {:?}", langfuse.stats()).unwrap();
}

/// A call that has failed within a run that goes on; nothing in the test itself.
#[test]
fn child_with_an_open_span() {
    let Ok(told) = std::env::var(OPEN_CHILD) else { return };
    let (base_url, spool) = told.split_once('\n').unwrap();
    let langfuse = builder(base_url, Path::new(spool)).start().unwrap();
    let subscriber = tracing_subscriber::registry().with(langfuse.layer());
    tracing::subscriber::with_default(subscriber, || {
        let run = tracing::info_span!(target: "buttress", "graph", otel.name = "graph_trades");
        let _run = run.entered();
        current().session("session-7");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let agent = FaultTolerantAgent::builder("research")
            .retry(RetryLayer::new(1).backoff([Duration::ZERO]))
            .service(Scripted::new([Answer::error("reset"), Answer::ok("fine")]));
        runtime.block_on(agent.invoke("AAPL")).unwrap_err();
        writeln!(std::io::stdout(), "failed").unwrap();
        loop {
            std::thread::park();
        }
    });
}

fn spawn(server: &LangfuseServer, spool: &Path, calls: std::ops::Range<u64>) -> Child {
    let told =
        format!("{}\n{}\n{}\n{}", server.base_url(), spool.display(), calls.start, calls.end);
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["child", "--exact", "--nocapture"]).env(CHILD, told);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// The lines of a child, as they come.
fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        // Folders go while one looks.
        for entry in fs::read_dir(next).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

fn segments(spool: &Path) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|end| end == "seg");
    files(spool).into_iter().filter(is_segment).collect()
}

/// Waits until nothing is left; that something always is ends the test by its time limit.
fn until_empty(spool: &Path) {
    while !segments(spool).is_empty() {
        std::thread::yield_now();
    }
}

fn bytes(spool: &Path) -> u64 {
    files(spool).iter().filter_map(|path| Some(fs::metadata(path).ok()?.len())).sum()
}

#[test]
fn what_a_killed_process_saw_fail_arrives_with_the_next_one() {
    let (server, spool) = (LangfuseServer::start_blocking(), TempDir::new().unwrap());
    server.stop_blocking();
    let mut child = spawn(&server, spool.path(), 0..1_000);
    let seen: Vec<String> =
        lines(&mut child).filter(|line| line.starts_with("call")).take(50).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(seen.len(), 50);
    assert!(!segments(spool.path()).is_empty());
    server.restart_blocking();
    let langfuse = builder(&server.base_url(), spool.path()).start().unwrap();
    until_empty(spool.path());
    langfuse.shutdown(PATIENCE).unwrap();
    for call in (0..50).filter(|call| fails(*call)) {
        let agent = server.named(&format!("agent_call-{call}")).remove(0);
        assert_eq!(agent.level(), "ERROR");
        let trace = server.trace(agent.trace_id());
        // The agent, the series, its two attempts and the breaker and the timeout of each.
        assert!(trace.len() >= 6, "{trace:?}");
    }
    let stats = langfuse.stats();
    assert!(stats.recovered >= 45 && stats.accepted == 0, "{stats:?}");
}

#[test]
fn a_run_that_was_under_way_is_told_as_ended_with_its_process() {
    let (server, spool) = (LangfuseServer::start_blocking(), TempDir::new().unwrap());
    // Also where the failure itself was delivered before.
    let told = format!("{}\n{}", server.base_url(), spool.path().display());
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["child_with_an_open_span", "--exact", "--nocapture"]).env(OPEN_CHILD, told);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    assert!(lines(&mut child).any(|line| line == "failed"));
    server.wait_until_blocking(PATIENCE, |received| received.named("agent_research").count() == 1);
    assert!(server.named("graph_trades").is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    let langfuse = builder(&server.base_url(), spool.path()).start().unwrap();
    until_empty(spool.path());
    langfuse.shutdown(PATIENCE).unwrap();
    let run = server.named("graph_trades").remove(0);
    assert_eq!((run.level(), run.status_message()), ("ERROR", Some("process ended")));
    assert_eq!(run.field("sessionId"), "session-7");
    let agent = server.named("agent_research").remove(0);
    assert_eq!((agent.parent_id(), agent.trace_id()), (Some(run.id()), run.trace_id()));
}

#[test]
fn an_outage_of_any_length_loses_nothing_and_bounds_memory() {
    let (server, spool) = (LangfuseServer::start_blocking(), TempDir::new().unwrap());
    server.stop_blocking();
    let langfuse = builder(&server.base_url(), spool.path()).queue_spans(100).start().unwrap();
    make_calls(&langfuse, 0..300, |_, _| ());
    let stats = langfuse.stats();
    assert_eq!((stats.dropped, stats.delivered), (0, 0), "{stats:?}");
    assert!(stats.spooled > 1_000 && stats.pending == stats.accepted, "{stats:?}");
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let published = || {
        metrics::with_local_recorder(&recorder, || langfuse.publish_metrics());
        recorder.handle().render()
    };
    let depth = format!("buttress_langfuse_spool_depth {}\n", stats.spooled);
    assert!(published().contains(&depth), "{depth} {}", published());
    server.restart_blocking();
    langfuse.flush(PATIENCE).unwrap();
    let stats = langfuse.stats();
    assert_eq!((stats.delivered, stats.pending, stats.spooled), (stats.accepted, 0, 0));
    let text = published();
    let delivered = format!("spans{{outcome=\"delivered\"}} {}\n", stats.delivered);
    assert!(text.contains(&delivered) && text.contains("spool_depth 0\n"), "{text}");
    for none in ["dropped_eventful", "spool_damaged", "scores_pending"] {
        assert!(text.contains(&format!("buttress_langfuse_{none} 0\n")), "{none}: {text}");
    }
    assert_eq!(server.observations().len() as u64, stats.accepted);
    assert!(segments(spool.path()).is_empty());
    langfuse.shutdown(PATIENCE).unwrap();
}

#[test]
fn a_shutdown_while_langfuse_is_away_leaves_everything_to_the_next_process() {
    let (server, spool) = (LangfuseServer::start_blocking(), TempDir::new().unwrap());
    server.stop_blocking();
    let first = builder(&server.base_url(), spool.path()).start().unwrap();
    make_calls(&first, 0..20, |_, _| ());
    let error = first.shutdown(Duration::from_millis(100)).unwrap_err();
    assert!(matches!(error, FlushError::Undelivered { .. }), "{error:?}");
    let stats = first.stats();
    assert_eq!((stats.dropped, stats.pending), (0, stats.accepted), "{stats:?}");
    // What fails even later is not lost either.
    make_calls(&first, 23..24, |_, _| ());
    let accepted = first.stats().accepted;
    drop(first);
    server.restart_blocking();
    let second = builder(&server.base_url(), spool.path()).start().unwrap();
    until_empty(spool.path());
    second.shutdown(PATIENCE).unwrap();
    assert_eq!(server.observations().len() as u64, accepted);
    assert_eq!(server.named("agent_call-23").len(), 1);
    assert_eq!(second.stats().recovered, accepted);
}

#[test]
fn a_span_that_is_refused_is_set_aside_with_the_servers_words() {
    let (server, spool) = (LangfuseServer::start_blocking(), TempDir::new().unwrap());
    server.refuse_span("agent_call-3");
    let langfuse = builder(&server.base_url(), spool.path()).start().unwrap();
    make_calls(&langfuse, 0..5, |_, _| ());
    langfuse.shutdown(PATIENCE).unwrap();
    assert_eq!(langfuse.stats().refused, 1);
    assert!(server.named("agent_call-3").is_empty() && server.named("agent_call-4").len() == 1);
    let aside: Vec<_> = files(spool.path())
        .into_iter()
        .filter(|path| path.parent().is_some_and(|folder| folder.ends_with("refused")))
        .collect();
    let text = fs::read_to_string(&aside[0]).unwrap();
    assert!(aside.len() == 1 && text.contains("agent_call-3") && text.contains("400"), "{text}");
}

#[test]
fn a_spool_that_cannot_be_written_delays_and_fails_nothing() {
    let (server, folder) = (LangfuseServer::start_blocking(), TempDir::new().unwrap());
    let taken = folder.path().join("taken");
    fs::write(&taken, "a file").unwrap();
    let langfuse = builder(&server.base_url(), &taken).start().unwrap();
    make_calls(&langfuse, 0..20, |_, _| ());
    langfuse.shutdown(PATIENCE).unwrap();
    let stats = langfuse.stats();
    assert_eq!((stats.delivered, stats.dropped), (stats.accepted, 0));
    assert_eq!(server.observations().len() as u64, stats.delivered);
}

/// Files that cannot grow, in the middle of a record too: what the system says of a full disk, here by
/// a limit of the process (`ulimit -f`, and no signal for it).
#[cfg(unix)]
#[test]
fn a_disk_that_is_full_delays_and_fails_nothing_and_what_was_written_before_stays() {
    let (server, spool) = (LangfuseServer::start_blocking(), TempDir::new().unwrap());
    let told = format!("{}\n{}\n0\n100", server.base_url(), spool.path().display());
    let mut command = Command::new("sh");
    let script = "trap '' XFSZ; ulimit -f 16; exec \"$0\" child --exact --nocapture";
    command.args(["-c", script]).arg(std::env::current_exe().unwrap()).env(CHILD, told);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.contains("done"), "{stdout}{stderr}");
    let said: Vec<_> =
        stderr.lines().filter(|line| line.contains("spans wait in memory")).collect();
    assert_eq!(said.len(), 1, "{stderr}");
    for call in (0..100).filter(|call| fails(*call)) {
        assert_eq!(server.named(&format!("agent_call-{call}")).len(), 1, "{call}");
    }
    assert!(segments(spool.path()).is_empty());
}

#[test]
fn what_the_quota_has_no_room_for_is_counted_and_told() {
    let (server, spool) = (LangfuseServer::start_blocking(), TempDir::new().unwrap());
    server.stop_blocking();
    let langfuse = builder(&server.base_url(), spool.path())
        .queue_spans(10)
        .spool_bytes(1 << 18)
        .start()
        .unwrap();
    make_calls(&langfuse, 0..200, |_, _| assert!(bytes(spool.path()) <= 1 << 18));
    let stats = langfuse.stats();
    assert!(stats.dropped > 100, "{stats:?}");
    assert_eq!(stats.accepted, stats.dropped + stats.pending, "{stats:?}");
    server.restart_blocking();
    langfuse.flush(PATIENCE).unwrap();
    let told = server.named("spans_dropped").remove(0);
    let metadata = told.field("metadata");
    assert_eq!(metadata["dropped_spans"], stats.dropped, "{metadata:?}");
    assert_eq!(told.level(), "WARNING");
    langfuse.shutdown(PATIENCE).unwrap();
}

/// Returns how much memory a process took at most so far, where the system says.
fn memory(child: &Child) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(1024 * line.trim().trim_end_matches(" kB").parse::<u64>().ok()?)
}

/// A long run against a server that shows every fault and is away for the middle third of it, by a
/// process that is killed again and again: whatever a caller saw fail is there at the end.
///
/// `BUTTRESS_ROUNDS=full` runs 20,000 calls and 20 kills.
#[test]
fn every_failure_that_a_caller_saw_arrives_whatever_dies() {
    let is_full = std::env::var("BUTTRESS_ROUNDS").is_ok_and(|rounds| rounds == "full");
    let (calls, kills) = if is_full { (20_000, 20) } else { (2_000, 4) };
    let (server, spool) = (LangfuseServer::start_blocking(), TempDir::new().unwrap());
    let faults = [
        (Fault::InternalServerError, 0.1),
        (Fault::Status(502), 0.1),
        (Fault::TooManyRequests(RetryAfter::Missing), 0.1),
        (Fault::ResetBeforeBody, 0.1),
        (Fault::ResetAfterStoring, 0.02),
        (Fault::Hang, 0.02),
    ];
    server.random_faults(7, faults.clone());
    server.refuse_span("agent_call-13");
    let (mut seen, mut next, mut killed) = (BTreeMap::new(), 0, 0);
    let (mut most_bytes, mut most_memory) = (0, 0);
    let mut at_kills = Vec::new();
    let mut is_away = false;
    while next < calls {
        let mut child = spawn(&server, spool.path(), next..calls);
        // Somewhere in its part of the calls.
        let part = calls / (kills + 1);
        let end =
            if killed < kills { (killed + 1) * part + (killed * 37) % part / 2 } else { calls };
        for line in lines(&mut child) {
            let Some(("call", rest)) = line.split_once(' ') else { continue };
            let (call, failed) = rest.split_once(' ').unwrap();
            next = call.parse::<u64>().unwrap() + 1;
            seen.insert(next - 1, failed == "true");
            if next % 100 == 0 {
                most_bytes = most_bytes.max(bytes(spool.path()));
                most_memory = most_memory.max(memory(&child).unwrap_or(0));
            }
            if !is_away && (calls / 3..2 * calls / 3).contains(&next) {
                server.stop_blocking();
                is_away = true;
            } else if is_away && next >= 2 * calls / 3 {
                server.restart_blocking();
                is_away = false;
            }
            if next >= end && killed < kills {
                child.kill().unwrap();
                killed += 1;
                break;
            }
            if next == calls {
                break;
            }
        }
        if next < calls {
            child.kill().ok();
        }
        child.wait().unwrap();
        at_kills.push(server.requests().len());
    }
    // Whoever comes last finds a server that is well.
    server.heal();
    server.refuse_span("agent_call-13");
    let status = spawn(&server, spool.path(), calls..calls).wait().unwrap();
    assert!(status.success());
    let arrived: HashSet<String> =
        server.observations().iter().map(|row| row.name().to_owned()).collect();
    let failed: Vec<u64> =
        seen.iter().filter(|(_, failed)| **failed).map(|(call, _)| *call).collect();
    let lost: Vec<u64> = failed
        .iter()
        .copied()
        .filter(|call| *call != 13 && !arrived.contains(&format!("agent_call-{call}")))
        .collect();
    // What was stored and not acknowledged: an answer that was lost, or the batch on its way at a kill,
    // which may be the last that arrived or the next.
    let requests = server.requests();
    let stored = |request: &&Request| request.is_stored;
    let unanswered = requests.iter().filter(stored).filter(|one| one.status.is_none());
    let unanswered: usize = unanswered.map(|one| one.span_ids.len()).sum();
    let around = |at: &usize| -> usize {
        let nearest = &requests[at.saturating_sub(1)..requests.len().min(at + 1)];
        nearest.iter().filter(stored).map(|one| one.span_ids.len()).sum()
    };
    let most_twice = unanswered + at_kills.iter().map(around).sum::<usize>();
    // Not asserted: a slow machine also lets requests run out of time that are stored after it.
    println!(
        "rows twice: {}; lost answers and kills account for {most_twice}",
        server.duplicates()
    );
    println!(
        "| calls | kills | failures seen | arrived | lost | rows twice | most bytes on disk | of memory |"
    );
    println!(
        "| {} | {killed} | {} | {} | {} | {} | {most_bytes} | {most_memory} |",
        seen.len(),
        failed.len(),
        failed.len() - lost.len(),
        lost.len(),
        server.duplicates()
    );
    assert_eq!(lost, [0; 0]);
    assert_eq!((seen.len() as u64, killed), (calls, kills));
    assert!(most_bytes <= SPOOL_BYTES);
    assert!(most_memory <= MEMORY_BYTES, "{most_memory}");
    assert!(segments(spool.path()).is_empty());
}
