//! Drives the program as a user does: real processes, real sockets, no network beyond this
//! machine.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "tests/resume.rs"]
mod resume;

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::LazyLock,
    thread,
};

use buttress_tests::langfuse_server::{Fault, LangfuseServer, RetryAfter};
use serde_json::Value;

/// What stands for the user's data folder; other tests run in processes beside this one.
static DATA: LazyLock<PathBuf> = LazyLock::new(|| {
    let name = format!("research-swarm-{}", std::process::id());
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    drop(std::fs::remove_dir_all(&folder));
    std::fs::create_dir_all(&folder).unwrap();
    folder
});

/// Makes a command with nothing of the surroundings that could change what it does.
fn swarm(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_research-swarm"));
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if ["LANGFUSE_", "OPENAI_", "OTEL_", "RUST_LOG", "NO_COLOR"]
            .iter()
            .any(|prefix| name_text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
    command.env("XDG_DATA_HOME", &*DATA).env("HOME", &*DATA);
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    swarm(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("the program ends by itself")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Runs with `--json` and reads the one document on stdout.
fn run_json(arguments: &[&str]) -> Value {
    let arguments = [arguments, &["--json"]].concat();
    let output = run(&arguments);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let document = document(&output);
    assert!(document["error"].is_null());
    document
}

fn document(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("stdout is one JSON document")
}

/// Returns every observation of the trace, parents first.
fn observations(document: &Value) -> Vec<&Value> {
    fn walk<'a>(observation: &'a Value, into: &mut Vec<&'a Value>) {
        into.push(observation);
        for child in observation["children"].as_array().into_iter().flatten() {
            walk(child, into);
        }
    }
    let mut all = Vec::new();
    for root in document["trace"].as_array().expect("the trace is a list of roots") {
        walk(root, &mut all);
    }
    all
}

fn named<'a>(observations: &[&'a Value], name: &str) -> Vec<&'a Value> {
    observations.iter().copied().filter(|observation| observation["name"] == name).collect()
}

/// Returns the names of the agents that were asked, of which there is one for each analyst.
fn agents(document: &Value) -> BTreeSet<&str> {
    let names = observations(document).into_iter().map(|one| one["name"].as_str().unwrap());
    names.filter(|name| name.starts_with("agent_")).collect()
}

fn analysts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|entry| entry["analyst"].as_str().unwrap()).collect()
}

#[test]
fn without_arguments_it_writes_a_report_and_the_trace() {
    let output = run(&[]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.starts_with("AAPL  123 monthly closes, Jan 2000 to Mar 2010\n"), "{text}");
    assert!(text.contains("\nTrend  phrased by embedded-"), "{text}");
    assert!(text.contains("Degradation: "), "{text}");
    for name in ["graph_trading", "node_quality_gate", "agent_seasonality"] {
        assert!(text.contains(name), "{name} is missing in\n{text}");
    }
    assert!(text.contains("\nStrategy  ") && text.contains("\nQuality gate  passed\n"), "{text}");
    // Neither stream is a terminal here.
    assert!(!text.contains('\x1b') && !stderr(&output).contains('\x1b'));
    assert!(stderr(&output).contains("trend: asks embedded-large"), "{}", stderr(&output));
}

#[test]
fn in_fair_weather_every_analyst_is_answered_at_once() {
    let document = run_json(&["--faults", "none", "msft"]);
    let report = &document["report"];
    assert_eq!(report["ticker"], "MSFT");
    assert_eq!(report["degradation"]["name"], "full");
    assert_eq!(
        analysts(&report["findings"]),
        ["trend", "volatility", "drawdown", "seasonality", "correlation"]
    );
    assert!(analysts(&report["missing"]).is_empty());
    // Python: p[-1] / max(p) - 1.
    let drawdown = report["findings"][2]["facts"]["current_drawdown"].as_f64().unwrap();
    assert!((drawdown + 0.333_641_832_484_960_6).abs() < 1e-9);

    let observations = observations(&document);
    let calls = named(&observations, "llm_call");
    assert_eq!(calls.len(), 5);
    for call in calls {
        assert_eq!(call["type"], "generation");
        assert_eq!(call["gen_ai.response.model"], "embedded-large");
        assert!(call["gen_ai.usage.input_tokens"].as_i64().unwrap() > 0, "{call}");
    }
    assert!(observations.iter().all(|o| o["level"] == "DEFAULT"), "{observations:#?}");
}

#[test]
fn a_storm_ends_with_a_report_and_its_trace_tells_of_retries_a_fallback_and_an_open_circuit() {
    let document = run_json(&["--faults", "storm", "--seed", "7"]);
    let report = &document["report"];
    let answered = analysts(&report["findings"]).len();
    assert!(answered >= 3, "no required analyst is missing in a report");
    assert_eq!(answered + analysts(&report["missing"]).len(), 5);
    let rate = report["degradation"]["success_rate"].as_f64().unwrap();
    assert!((rate - answered as f64 / 5.0).abs() < 1e-9);

    let observations = observations(&document);
    assert_eq!(observations[0]["name"], "graph_trading");
    let swarm = named(&observations, "research_swarm_with_degradation")[0];
    assert_eq!(swarm["type"], "chain");
    assert_eq!(swarm["metadata"]["ticker"], "AAPL");
    assert_eq!(agents(&document).len(), 5);

    let second_attempts = named(&observations, "retry_attempt")
        .into_iter()
        .filter(|attempt| attempt["metadata"]["attempt"] == 2);
    assert!(second_attempts.count() > 0);
    let rescued = named(&observations, "fallback_chain")
        .into_iter()
        .filter(|chain| chain["metadata"]["fallback_succeeded"] == true)
        .inspect(|chain| assert_eq!(chain["level"], "WARNING"));
    assert!(rescued.count() > 0);
    let opened = named(&observations, "circuit_breaker.opened");
    assert!(!opened.is_empty());
    assert_eq!(opened[0]["metadata"]["circuit_key"], "embedded-large");
    let rejected = observations.iter().filter(|o| o["metadata"]["outcome"] == "rejected");
    assert!(rejected.count() > 0, "nobody ran into the open circuit");
}

#[test]
fn a_storm_shows_in_the_text_as_well() {
    let output = run(&["--faults", "storm", "--seed", "7"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = stdout(&output);
    for word in ["retry_attempt", "fallback_attempt", "circuit_breaker.opened", "WARNING", "ERROR"]
    {
        assert!(text.contains(word), "{word} is missing in\n{text}");
    }
    assert!(stderr(&output).contains("circuit embedded-large is open"), "{}", stderr(&output));
}

#[test]
fn every_span_of_a_storm_reaches_langfuse_through_a_storm_of_its_own() {
    let langfuse = LangfuseServer::start_blocking();
    let faults =
        [(Fault::InternalServerError, 0.25), (Fault::TooManyRequests(RetryAfter::Missing), 0.25)];
    // These two come in any case; the dice are thrown for what follows.
    langfuse.fail_with(faults.iter().map(|(fault, _)| Some(fault.clone())));
    langfuse.random_faults(7, faults);
    let output = swarm(&["--faults", "storm", "--seed", "7", "--json"])
        .env("LANGFUSE_PUBLIC_KEY", langfuse.public_key())
        .env("LANGFUSE_SECRET_KEY", langfuse.secret_key())
        .env("LANGFUSE_BASE_URL", langfuse.base_url())
        .env("LANGFUSE_FLUSH_AT", "8")
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(!stderr(&output).contains("not complete"), "{}", stderr(&output));
    let document = document(&output);
    let ids = |list: Vec<String>| list.into_iter().collect::<BTreeSet<_>>();
    let seen = ids(observations(&document)
        .iter()
        .map(|one| one["id"].as_str().unwrap().to_owned())
        .collect());
    let delivered = ids(langfuse.observations().iter().map(|one| one.id().to_owned()).collect());
    assert!(seen.len() > 50, "a storm has many spans, not {}", seen.len());
    assert_eq!(seen, delivered);
    let refused = langfuse.requests().iter().filter(|request| request.fault.is_some()).count();
    assert!(refused >= 2, "Langfuse had a storm too");
}

#[test]
fn the_seeds_order_puts_the_breaker_around_the_chain() {
    let document = run_json(&["--order", "seed", "--faults", "none"]);
    assert_eq!(analysts(&document["report"]["findings"]).len(), 5);
    let observations = observations(&document);
    let agent = named(&observations, "agent_trend")[0];
    let names: Vec<_> = std::iter::successors(Some(agent), |o| o["children"].get(0))
        .map(|o| o["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "agent_trend",
            "circuit_breaker_call",
            "retry_execution",
            "retry_attempt",
            "timeout_protected_call",
            "fallback_chain",
            "fallback_attempt",
            "llm_call",
        ]
    );
}

#[test]
fn an_unknown_ticker_is_wrong_use_and_the_known_ones_are_named() {
    let output = run(&["TSLA"]);
    assert_eq!(code(&output), 2);
    assert_eq!(
        stderr(&output),
        "error: no prices of \"TSLA\"; known are AAPL, AMZN, GOOG, IBM, MSFT\n"
    );
    assert!(output.stdout.is_empty());
}

#[test]
fn an_unknown_flag_or_setting_is_wrong_use() {
    assert_eq!(code(&run(&["--fautls", "storm"])), 2);
    let output = swarm(&[]).env("OPENAI_BASE_URL", "localhost").output().unwrap();
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).starts_with("error: OPENAI_BASE_URL must be"), "{}", stderr(&output));
}

#[test]
fn help_documents_the_exit_codes() {
    let output = run(&["--help"]);
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).contains("Exit codes:"));
    assert!(output.stderr.is_empty());
}

#[test]
fn an_unreachable_endpoint_is_named() {
    let output = swarm(&["--json"]).env("OPENAI_BASE_URL", "http://127.0.0.1:1").output().unwrap();
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    let last = last_line(&output);
    assert!(last.starts_with("error: cannot connect to http://127.0.0.1:1: "), "{last}");
    let document = document(&output);
    assert_eq!(document["error"]["kind"], "endpoint");
    assert_eq!(document["error"]["exit_code"], 3);
    assert_eq!(last, format!("error: {}", document["error"]["message"].as_str().unwrap()));
    assert!(document["report"].is_null());
}

#[test]
fn an_endpoint_that_always_fails_is_told_by_its_failure_and_not_by_the_open_circuit() {
    let endpoint = Server::start(|stream| {
        answer(stream, "500 Internal Server Error", r#"{"error":{"message":"boom"}}"#);
    });
    let output = swarm(&["--json"]).env("OPENAI_BASE_URL", &endpoint.base_url).output().unwrap();
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    let document = document(&output);
    let message = document["error"]["message"].as_str().unwrap();
    assert!(message.contains(": HTTP 500 Internal Server Error ("), "{message}");
    assert!(!message.contains("circuit"), "{message}");
    assert!(!analysts(&document["report"]["missing"]).is_empty());
    assert!(document["report"]["degradation"].is_null());
    assert_eq!(document["trace"][0]["level"], "ERROR");
    assert_eq!(last_line(&output), format!("error: {message}"));
}

#[test]
fn wrong_use_is_a_document_too() {
    let output = run(&["TSLA", "--json"]);
    assert_eq!(code(&output), 2);
    assert_eq!(document(&output)["error"]["kind"], "wrong_use");
    let output = run(&["--seed", "-1"]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).starts_with("error: invalid value '-1' for '--seed <N>'"));
}

/// What answers say is shown, so it is where a key or an escape code could come through.
#[test]
fn an_answer_that_repeats_the_key_and_steers_the_terminal_is_shown_without_both() {
    let endpoint = Server::start(|stream| {
        let body = r#"{"model":"large\u001b]0;title\u0007 sk-of-a-person","choices":[{"message":
            {"content":"\u001b[2Jsk-of-a-person \u009b31m\u202e"}}]}"#;
        answer(stream, "200 OK", body);
    });
    for arguments in [&["--json"][..], &[]] {
        let output = swarm(arguments)
            .env("OPENAI_BASE_URL", &endpoint.base_url)
            .env("OPENAI_API_KEY", "sk-of-a-person")
            .output()
            .unwrap();
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let all = stdout(&output) + &stderr(&output);
        assert!(all.contains("(hidden)"), "{all}");
        assert!(!all.contains("sk-of-a-person"), "{all}");
        assert!(!all.contains(['\x1b', '\x07', '\u{9b}', '\u{202e}']), "{all:?}");
    }
}

#[test]
fn a_password_in_the_address_is_refused_and_not_shown() {
    let output =
        swarm(&[]).env("OPENAI_BASE_URL", "http://me:password@127.0.0.1:1").output().unwrap();
    assert_eq!(code(&output), 2);
    assert_eq!(
        stderr(&output),
        "error: OPENAI_BASE_URL must not hold a user or password; OPENAI_API_KEY is for the key\n"
    );
}

#[test]
fn a_reader_that_has_gone_away_is_no_panic() {
    for arguments in [&["TSLA"][..], &["--faults", "none"]] {
        let gone = || {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            writer
        };
        let status = swarm(arguments).stdout(gone()).stderr(gone()).status().unwrap();
        let expected = if arguments == ["TSLA"] { 2 } else { 0 };
        assert_eq!(status.code(), Some(expected), "{arguments:?}");
    }
}

#[test]
fn a_refused_key_is_named_and_never_shown() {
    let endpoint = Server::start(|stream| {
        let body = r#"{"error":{"message":"Incorrect API key provided: sk-wrong.","type":"invalid_request_error","code":"invalid_api_key"}}"#;
        answer(stream, "401 Unauthorized", body);
    });
    let output = swarm(&[])
        .env("OPENAI_BASE_URL", &endpoint.base_url)
        .env("OPENAI_API_KEY", "sk-wrong")
        .output()
        .unwrap();
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    let expected = format!("error: {} refuses the key in OPENAI_API_KEY", endpoint.base_url);
    assert_eq!(last_line(&output), expected);
    assert!(!stdout(&output).contains("sk-wrong") && !stderr(&output).contains("sk-wrong"));
}

#[test]
fn the_embedded_server_can_be_asked_for_beside_a_real_endpoint() {
    let output = swarm(&["--faults", "none", "--json"])
        .env("OPENAI_BASE_URL", "http://127.0.0.1:1")
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
}

#[test]
fn the_link_keeps_the_path_of_the_address_and_has_no_double_slash() {
    let langfuse = Server::start(|stream| answer(stream, "200 OK", ""));
    let output = swarm(&["--faults", "none"])
        .env("LANGFUSE_PUBLIC_KEY", "pk-lf-1")
        .env("LANGFUSE_SECRET_KEY", "sk-lf-1")
        .env("LANGFUSE_BASE_URL", format!("{}/", langfuse.base_url))
        .output()
        .unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let text = stdout(&output);
    let link = text.lines().last().unwrap();
    let expected = format!("In Langfuse: {}/trace/", langfuse.base_url);
    assert_eq!(link.strip_prefix(&expected).map(str::len), Some(32), "{link}");
}

/// Wrong keys make the end wait for Langfuse; the report does not, and Ctrl-C ends it.
#[cfg(unix)]
#[test]
fn wrong_keys_of_langfuse_are_told_and_the_report_is_there_before() {
    let langfuse = LangfuseServer::start_blocking();
    let mut child = swarm(&["--faults", "none"])
        .env("LANGFUSE_PUBLIC_KEY", langfuse.public_key())
        .env("LANGFUSE_SECRET_KEY", "sk-lf-wrong")
        .env("LANGFUSE_BASE_URL", langfuse.base_url())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("Langfuse refuses") && line.contains("keys")));
    signal(&child, "-INT");
    assert_eq!(lines.last().unwrap(), "interrupted");
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 130);
    let text = stdout(&output);
    assert!(text.contains("\nDegradation: full") && text.contains("agent_trend"), "{text}");
    assert!(!text.contains("In Langfuse"), "{text}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_it_at_once() {
    a_signal_ends_it_at_once("-INT");
}

#[cfg(unix)]
#[test]
fn sigterm_ends_it_at_once() {
    a_signal_ends_it_at_once("-TERM");
}

/// A model that never answers keeps the program busy until it is interrupted.
#[cfg(unix)]
fn a_signal_ends_it_at_once(name: &str) {
    let (asked, was_asked) = std::sync::mpsc::channel();
    let endpoint = Server::start(move |stream| {
        if read_request(stream).is_empty() {
            // It only looks whether anybody listens.
            return;
        }
        asked.send(()).unwrap();
        // Until the client goes away.
        drop(stream.read(&mut [0; 1]));
    });
    let child = swarm(&["--json"])
        .env("OPENAI_BASE_URL", &endpoint.base_url)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    was_asked.recv().unwrap();
    signal(&child, name);
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 130, "{}", stderr(&output));
    assert_eq!(last_line(&output), "interrupted");
    let document = document(&output);
    assert_eq!(document["error"]["kind"], "interrupted");
    assert_eq!(document["trace"][0]["metadata"]["outcome"], "cancelled");
    assert_eq!(agents(&document).len(), 5);
}

#[cfg(unix)]
fn signal(child: &Child, name: &str) {
    let id = child.id().to_string();
    assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
}

fn last_line(output: &Output) -> String {
    stderr(output).lines().last().unwrap_or_default().to_owned()
}

/// Answers every connection in the same way, for as long as the process of the tests lives.
struct Server {
    base_url: String,
}

impl Server {
    fn start(answer: impl Fn(&mut TcpStream) + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, answer) = (stream.unwrap(), answer.clone());
                thread::spawn(move || answer(&mut stream));
            }
        });
        Self { base_url }
    }
}

/// Answers one request and closes the connection.
fn answer(stream: &mut TcpStream, status: &str, body: &str) {
    read_request(stream);
    respond(stream, status, body);
}

/// Answers a request that was read and closes the connection.
fn respond(stream: &mut TcpStream, status: &str, body: &str) {
    let length = body.len();
    let head = "content-type: application/json\r\nconnection: close";
    // Who asked may be gone.
    write!(stream, "HTTP/1.1 {status}\r\n{head}\r\ncontent-length: {length}\r\n\r\n{body}").ok();
}

/// Reads the head and body of one request, so that closing afterwards resets nothing.
///
/// Returns the agent that asks.
fn read_request(stream: &TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut length, mut agent) = (0, String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if let Some(value) = line.strip_prefix("x-agent-id:") {
            agent = value.trim().to_owned();
        }
        if line.is_empty() {
            break;
        }
    }
    reader.read_exact(&mut vec![0; length]).unwrap();
    agent
}
