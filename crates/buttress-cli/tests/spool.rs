//! `buttress spool`, and `stats` and `trace` from a spool: the real program, and spools that real
//! processes have left which were killed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::{
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
use buttress_langfuse::{Langfuse, backlog::Backlog};
use buttress_tests::langfuse_server::LangfuseServer;
use serde_json::{Value as Json, json};
use support::{Ran, ask, calls, run, traced};
use tempfile::TempDir;
use tokio::time::Instant;

/// What a child is told: what it does, and where its server and its spool are.
const CHILD: &str = "BUTTRESS_TEST_SPOOL";

/// A process that writes into a spool; it is killed when this goes.
struct Writer(Child);

/// A server that is away, and the spool of a process that was killed meanwhile.
struct Left {
    server: LangfuseServer,
    folder: TempDir,
}

/// The process that is killed; nothing in the test itself.
#[test]
fn child() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let told: Vec<&str> = told.split('\n').collect();
    let [does, base_url, public_key, spool] = told[..] else { panic!("{told:?}") };
    let langfuse = Langfuse::builder()
        .public_key(public_key)
        .secret_key("sk-lf-of-the-child")
        .base_url(base_url)
        .spool(spool)
        .environment("production")
        // Nothing waits in memory only.
        .queue_spans(1)
        .start()
        .unwrap();
    match does {
        "calls" => traced(&langfuse, async {
            calls().await;
            hang().await;
        }),
        _ => traced(&langfuse, async {
            loop {
                calls().await;
                ready();
            }
        }),
    }
}

fn ready() {
    let mut stdout = std::io::stdout();
    writeln!(stdout, "ready").unwrap();
}

/// A call whose first attempt fails and whose second never ends.
async fn hang() {
    let agent = FaultTolerantAgent::builder("hanging")
        .retry(RetryLayer::new(2).backoff([Duration::ZERO]))
        .service(Scripted::new([Answer::error("reset"), Answer::<&'static str>::hang()]));
    let told = async {
        // By now the second has begun.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        ready();
    };
    drop(tokio::join!(agent.invoke("AAPL"), told));
}

impl Writer {
    /// Starts one, and waits until it has written.
    fn start(does: &str, server: &LangfuseServer, public_key: &str, spool: &Path) -> Self {
        let base_url = server.base_url();
        let told = format!("{does}\n{base_url}\n{public_key}\n{}", spool.display());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["child", "--exact", "--nocapture"]).env(CHILD, told);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().ends_with("ready")));
        Self(child)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // On Unix that is SIGKILL.
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Left {
    fn new() -> Self {
        let left = Self::without_anything();
        drop(left.writer("calls"));
        left
    }

    fn without_anything() -> Self {
        let left =
            Self { server: LangfuseServer::start_blocking(), folder: TempDir::new().unwrap() };
        left.server.stop_blocking();
        left
    }

    fn writer(&self, does: &str) -> Writer {
        Writer::start(does, &self.server, self.server.public_key(), self.folder.path())
    }

    fn folder(&self) -> &str {
        self.folder.path().to_str().unwrap()
    }

    /// Runs the program with the keys of the server.
    fn ask(&self, args: &[&str]) -> Ran {
        ask(&self.server, &[args, &["--spool", self.folder()]].concat())
    }

    fn status(&self) -> Json {
        self.ask(&["spool", "status", "--json"]).code(0).json()
    }

    fn segments(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|end| end == "seg") {
                    found.push(path);
                }
            }
        }
        found.sort();
        found
    }
}

fn count(value: &Json) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no count"))
}

#[test]
fn what_a_killed_process_left_is_told_counted_and_delivered() {
    let left = Left::new();
    let told = left.ask(&["spool", "status"]).code(0).fits();
    println!("{}", told.stdout);
    let row = told.stdout.lines().find(|line| line.contains(" ended ")).unwrap();
    let cells: Vec<_> = row.split_whitespace().collect();
    let [_, "ended", eventful, others, scores, open, ..] = cells[..] else { panic!("{row}") };
    let [eventful, others, scores, open] =
        [eventful, others, scores, open].map(|count| count.parse::<u64>().unwrap());
    assert!(eventful > 30 && others > 0 && scores > 0 && open >= 4, "{row}");
    let ended = eventful + others;
    let spans = format!("{ended} spans, {scores} scores, {open} open spans");
    assert!(told.stdout.contains(&spans), "{}", told.stdout);
    // No server and no keys are needed to count it.
    let from_spool = ["stats", "--by", "agent", "--spool", left.folder()];
    let report = run(&from_spool, &[]).code(0).fits();
    println!("{}", report.stdout);
    assert!(report.stdout.contains("waiting for delivery in "), "{}", report.stdout);
    assert!(report.stdout.contains("25.0 % (1 of 4 retried series)"), "{}", report.stdout);
    let counted = run(&[&from_spool[..], &["--json"]].concat(), &[]).code(0).json();
    assert_eq!(counted["spool"], left.folder());
    assert_eq!(count(&counted["total"]["calls"]["all"]), 7);
    assert!(count(&counted["observations"]) > 50, "{counted}");
    // Once it is delivered, Langfuse has the same.
    left.server.restart_blocking();
    let replayed = left.ask(&["spool", "replay"]).code(0).fits();
    println!("{}{}", replayed.stdout, replayed.stderr);
    let delivered = format!("delivered  {} spans, {scores} scores\n", ended + open);
    assert!(replayed.stdout.contains(&delivered), "{}", replayed.stdout);
    assert!(replayed.stdout.contains("left       nothing\n"), "{}", replayed.stdout);
    assert_eq!(left.server.observations().len() as u64, ended + open);
    assert_eq!(left.server.scores().len() as u64, scores);
    assert!(left.segments().is_empty());
    let ended = left.server.named("agent_hanging").remove(0);
    assert_eq!((ended.level(), ended.status_message()), ("ERROR", Some("process ended")));
    let mut delivered = ask(&left.server, &["stats", "--json", "--by", "agent"]).code(0).json();
    for differs in ["since", "until", "spool"] {
        delivered[differs] = counted[differs].clone();
    }
    assert_eq!(delivered, counted);
    // There is nothing left to do.
    left.ask(&["spool", "replay"]).code(3).said("nothing to deliver to");
    left.ask(&["spool", "status"]).code(3).said("nothing waits in");
}

#[test]
fn a_trace_that_waits_is_drawn_as_langfuse_will_have_it() {
    let left = Left::new();
    let of = |args: &[&str]| run(&[args, &["--spool", left.folder()]].concat(), &[]);
    let last = of(&["trace", "last", "--environment", "production", "--json"]).code(0).json();
    let observations = last["observations"].as_array().unwrap();
    assert_eq!((&last["name"], observations.len()), (&json!("agent_hanging"), 7));
    let id = agent_slow(&left);
    let drawn = of(&["trace", &id]).code(0).steers_nothing().stdout;
    assert!(drawn.contains("ERROR failure_kind=timeout: Agent timed out after 0.01s"), "{drawn}");
    of(&["trace", "ab"]).code(3).said("no trace ab waits in");
    of(&["trace", "last", "--environment", "test"]).code(3).said("no data: no trace waits in");
    left.server.restart_blocking();
    left.ask(&["spool", "replay"]).code(0);
    assert_eq!(ask(&left.server, &["trace", &id]).code(0).stdout, drawn);
    of(&["trace", &id]).code(3);
}

/// The trace of the agent that was too slow, found by its id alone.
fn agent_slow(left: &Left) -> String {
    let backlog = Backlog::read(left.folder.path()).unwrap();
    let observations = backlog.observations().unwrap();
    observations.iter().find(|one| one.name == "agent_slow").unwrap().trace_id.clone()
}

#[test]
fn a_period_and_an_environment_choose_of_what_waits() {
    let left = Left::new();
    let stats = |args: &[&str]| run(&[&["stats", "--spool", left.folder()], args].concat(), &[]);
    let all = stats(&["--json", "--environment", "production", "--since", "1h"]).code(0).json();
    assert_eq!(all["truncated"], false);
    let some = stats(&["--json", "--limit", "20"]).code(0).json();
    assert!((1..=20).contains(&count(&some["observations"])), "{some}");
    assert_eq!((&some["truncated"], &some["last"]), (&json!(true), &all["last"]));
    stats(&["--environment", "test"]).code(3).said("no data: no observations of buttress wait in");
    let long_ago = ["--since", "2020-01-01", "--until", "2020-01-02"];
    stats(&long_ago).code(3).said("from 2020-01-01 00:00:00 UTC to 2020-01-02 00:00:00 UTC");
    stats(&["--since", "1h", "--until", "2h"]).code(2).said("--since must lie before --until");
}

#[test]
fn what_a_living_process_has_is_told_and_left_to_it() {
    let left = Left::without_anything();
    let writer = left.writer("calls");
    let before = left.status();
    let told = left.ask(&["spool", "status"]).code(0).fits();
    assert!(told.stdout.contains(" alive "), "{}", told.stdout);
    let one = &before["destinations"][0]["writers"][0];
    assert_eq!((&one["alive"], &one["pid"]), (&json!(true), &json!(writer.0.id())));
    let replayed = left.ask(&["spool", "replay", "--timeout", "1s"]).code(3);
    assert!(replayed.stdout.contains("(1 living process)\n"), "{}", replayed.stdout);
    replayed.said("nothing to deliver to");
    assert_eq!(left.status(), before);
    // What it has not ended counts only when it can no more.
    let observations = || {
        let stats = run(&["stats", "--json", "--spool", left.folder()], &[]).code(0).json();
        count(&stats["observations"])
    };
    let living = observations();
    drop(writer);
    assert!(observations() > living);
}

#[test]
fn a_process_that_writes_can_be_looked_at() {
    let left = Left::without_anything();
    let writer = left.writer("more");
    let mut spans = 0;
    for _ in 0..10 {
        let status = left.status();
        let one = &status["destinations"][0];
        assert_eq!((count(&one["damaged"]), &one["writers"][0]["alive"]), (0, &json!(true)));
        let now = count(&one["waiting"]["spans"]);
        assert!(now >= spans, "{now} after {spans}");
        spans = now;
        run(&["stats", "--spool", left.folder()], &[]).code(0);
    }
    drop(writer);
    assert!(count(&left.status()["destinations"][0]["waiting"]["spans"]) >= spans);
}

#[test]
fn a_server_that_is_away_during_a_replay_costs_nothing() {
    let left = Left::new();
    let waiting = left.status()["destinations"][0]["waiting"].clone();
    let segments: Vec<_> = left.segments().iter().map(|path| fs::read(path).unwrap()).collect();
    let ran = left.ask(&["spool", "replay", "--timeout", "1s"]).code(1).fits();
    println!("{}{}", ran.stdout, ran.stderr);
    assert!(ran.stdout.contains("delivered  nothing\n"), "{}", ran.stdout);
    let ran = ran.said("not delivered after 1s and kept in").said("Langfuse does not take spans");
    assert!(!ran.stderr.contains(left.server.secret_key()), "{}", ran.stderr);
    let ran = left.ask(&["spool", "replay", "--timeout", "1s", "--json"]).code(1);
    let document = ran.json();
    assert!(document["reason"].as_str().unwrap().contains("does not take spans"), "{document}");
    assert_eq!(document["left"], waiting);
    assert_eq!(left.status()["destinations"][0]["waiting"], waiting);
    let now: Vec<_> = left.segments().iter().map(|path| fs::read(path).unwrap()).collect();
    assert_eq!(now, segments);
    left.server.restart_blocking();
    left.ask(&["spool", "replay"]).code(0);
    let rows = count(&waiting["spans"]) + count(&waiting["starts"]);
    assert_eq!(left.server.observations().len() as u64, rows);
}

#[test]
fn what_is_for_other_keys_is_named_and_left() {
    let left = Left::new();
    drop(Writer::start("calls", &left.server, "pk-lf-other", left.folder.path()));
    left.server.restart_blocking();
    let ran = left.ask(&["spool", "replay"]).code(0).fits();
    println!("{}", ran.stdout);
    let other = ran.stdout.split("Not for the configured address and key").nth(1).unwrap();
    assert!(other.contains("pk-lf-other") && other.contains("spans"), "{}", ran.stdout);
    let document = left.ask(&["spool", "replay", "--json"]).code(3).json();
    let [other] = &document["others"].as_array().unwrap()[..] else { panic!("{document}") };
    assert_eq!(other["public_key"], "pk-lf-other");
    assert_eq!(left.status()["destinations"].as_array().unwrap().len(), 2);
}

#[test]
fn keys_that_are_wrong_are_named_at_once() {
    let left = Left::new();
    left.server.restart_blocking();
    let url = left.server.base_url();
    let vars = [
        ("LANGFUSE_PUBLIC_KEY", left.server.public_key()),
        ("LANGFUSE_SECRET_KEY", "sk-lf-hush"),
        ("LANGFUSE_BASE_URL", &url),
    ];
    let started = Instant::now();
    let replay = ["spool", "replay", "--spool", left.folder()];
    let ran = run(&replay, &vars).code(4).said("check LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY");
    assert!(started.elapsed() < Duration::from_secs(30));
    assert!(!ran.stderr.contains("hush"), "{}", ran.stderr);
    run(&replay, &vars[..1]).code(4).said("LANGFUSE_SECRET_KEY must be set");
    run(&replay, &[]).code(4).said("LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY must be set");
    // A program's own traces may be switched off; this is none of them.
    let off = [
        ("LANGFUSE_PUBLIC_KEY", left.server.public_key()),
        ("LANGFUSE_SECRET_KEY", left.server.secret_key()),
        ("LANGFUSE_BASE_URL", &url),
        ("LANGFUSE_TRACING_ENABLED", "false"),
        ("BUTTRESS_DURABILITY", "memory"),
        ("BUTTRESS_SPOOL_DIR", left.folder()),
    ];
    run(&["spool", "replay"], &off).code(0);
}

#[test]
fn what_is_damaged_is_told_and_the_rest_is_delivered() {
    let left = Left::new();
    let whole = left.status()["destinations"][0]["waiting"].clone();
    let path = left.segments().remove(0);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let status = left.status()["destinations"][0].clone();
    assert_eq!((count(&status["damaged"]), count(&status["writers"][0]["damaged"])), (1, 1));
    let told = left.ask(&["spool", "status"]).code(0).fits();
    assert!(told.stdout.contains("damaged: 1 place, of which nothing"), "{}", told.stdout);
    let stats = run(&["stats", "--spool", left.folder()], &[]).code(0);
    stats.said("warning: of 1 damaged place in the spool nothing can be read");
    left.server.restart_blocking();
    let ran = left.ask(&["spool", "replay"]).code(0);
    assert!(ran.stdout.contains("damaged    1 place\n"), "{}", ran.stdout);
    let rows = left.server.observations().len() as u64;
    // Of a span whose end is damaged the start is delivered.
    let whole = count(&whole["spans"]) + count(&whole["starts"]);
    assert!((whole - 1..=whole).contains(&rows), "{rows} of {whole}");
    assert!(left.segments().is_empty());
}

#[test]
fn what_langfuse_refuses_is_told_with_its_words() {
    let left = Left::new();
    left.server.restart_blocking();
    left.server.refuse_span("agent_slow");
    let ran = left.ask(&["spool", "replay"]).code(1).fits();
    assert!(ran.stdout.contains("refused    1 record for good"), "{}", ran.stdout);
    ran.said("Langfuse refuses 1 record for good");
    let told = left.ask(&["spool", "status"]).code(0).fits();
    println!("{}", told.stdout);
    assert!(told.stdout.contains("waiting: nothing"), "{}", told.stdout);
    let row = told.stdout.lines().find(|line| line.contains("agent_slow")).unwrap();
    assert!(row.contains("HTTP 400"), "{row}");
    let refused = left.status()["destinations"][0]["refused"][0].clone();
    assert_eq!(refused["name"], "agent_slow");
    assert!(fs::read_to_string(refused["file"].as_str().unwrap()).unwrap().contains("agent_slow"));
}

#[test]
fn a_folder_that_is_empty_missing_or_none_is_told_apart() {
    let folder = TempDir::new().unwrap();
    let server = LangfuseServer::start_blocking();
    let commands = [&["spool", "status"][..], &["spool", "replay"], &["stats"], &["trace", "last"]];
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::create_dir(path("empty")).unwrap();
    fs::write(path("file"), "").unwrap();
    for command in commands {
        let on = |name: &str| ask(&server, &[command, &["--spool", &path(name)]].concat());
        on("empty").code(3).said(&path("empty"));
        on("gone").code(3).said(&format!("there is no spool at {}", path("gone")));
        on("file").code(4).said(&path("file")).said("check --spool or BUTTRESS_SPOOL_DIR");
    }
    assert!(!folder.path().join("gone").exists());
    let empty = path("empty");
    let status = |vars: &[(&str, &str)]| run(&["spool", "status", "--json"], vars);
    let named = status(&[("BUTTRESS_SPOOL_DIR", &empty)]).code(3).json();
    assert_eq!(named, json!({ "spool": empty, "destinations": [] }));
    let default = status(&[("XDG_STATE_HOME", folder.path().to_str().unwrap())]);
    if cfg!(target_os = "linux") {
        default.code(3).said("buttress/langfuse");
        status(&[]).code(4).said("--spool or BUTTRESS_SPOOL_DIR must name one");
    }
    // One that cannot be read.
    let left = Left::new();
    let segment = left.segments().remove(0);
    fs::remove_file(&segment).unwrap();
    fs::create_dir(&segment).unwrap();
    for command in commands {
        left.ask(command).code(1).said(segment.to_str().unwrap()).said("cannot be read: ");
    }
}

#[test]
fn wrong_use_names_the_flag() {
    for (args, words) in [
        (&["spool"][..], "status"),
        (&["spool", "replay", "--timeout", "soon"], "--timeout <TIME>"),
        (&["spool", "replay", "--timeout", "soon"], "such as 60s"),
        (&["spool", "replay", "--timeout", "0s"], "must be longer than zero"),
        (&["spool", "status", "--loud"], "--loud"),
        (&["stats", "--spool"], "--spool <DIR>"),
    ] {
        run(args, &[]).code(2).said(words);
    }
}

#[test]
fn the_documents_have_the_keys_that_are_documented() {
    let left = Left::new();
    drop(Writer::start("calls", &left.server, "pk-lf-other", left.folder.path()));
    left.server.restart_blocking();
    left.server.refuse_span("agent_slow");
    let replayed = left.ask(&["spool", "replay", "--json"]).code(1).json();
    let status = left.status();
    let documented =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md")).unwrap();
    let section = documented.split("### `spool`").nth(1).unwrap();
    let destinations = status["destinations"].as_array().unwrap();
    let refuses = destinations.iter().find(|one| one["refused"][0].is_object()).unwrap();
    let writes = destinations.iter().find(|one| one["writers"][0].is_object()).unwrap();
    let objects = [
        &status,
        refuses,
        &refuses["refused"][0],
        &writes["writers"][0],
        &writes["writers"][0]["eventful"],
        &replayed,
        &replayed["delivered"],
        &replayed["others"][0],
    ];
    for key in objects.into_iter().flat_map(|value| value.as_object().unwrap().keys()) {
        assert!(section.contains(&format!("`{key}`")), "{key} is not in docs/cli.md");
    }
}
