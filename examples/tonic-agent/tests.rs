//! The command as people run it: each fault has its code, and a server that is told to end does so.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use buttress_tests::langfuse_server::LangfuseServer;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioExecutor};

const PATIENCE: Duration = Duration::from_secs(30);

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tonic-agent"));
    command.args(arguments).stdin(Stdio::null());
    command.env_remove("LANGFUSE_PUBLIC_KEY").env_remove("LANGFUSE_SECRET_KEY");
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A server in a process of its own.
struct Service {
    child: Child,
    lines: Box<dyn Iterator<Item = String>>,
    url: String,
}

impl Service {
    fn start(set: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let mut command = command(&["--serve", "127.0.0.1:0"]);
        let mut child = set(&mut command).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.find_map(|line| Some(line.strip_prefix("listening on ")?.to_owned()));
        Self { child, lines: Box::new(lines), url: format!("http://{}", address.unwrap()) }
    }

    fn terminate(&self) {
        assert!(Command::new("kill").arg(self.child.id().to_string()).status().unwrap().success());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Returns whether some file below a folder holds a text.
fn holds(folder: &Path, text: &str) -> bool {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).any(|path| {
        if path.is_dir() {
            return holds(&path, text);
        }
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

#[test]
fn each_fault_has_its_code_and_the_command_ends_well() {
    let output = command(&[]).output().unwrap();
    let text = text(&output);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    // The client's own time limit may be over before the server's answer is there, which says that too.
    let text = text.replace("DeadlineExceeded: timeout, not again", "DeadlineExceeded: timeout");
    let lines: Vec<_> = text.lines().collect();
    let expected = [
        "AAPL               AAPL looks fine today, says large.",
        "AAPL [503x2]       AAPL looks fine today, says large.",
        "MSFT [context]     MSFT looks fine today, says small.",
        "AAPL [all:hang]    DeadlineExceeded: timeout",
        "AAPL [all:429]     ResourceExhausted: rate_limited, again in 1000 ms",
        "AAPL [all:500]     Unavailable: transient",
        "the client's circuit is closed",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_call_that_is_under_way_is_ended_before_the_server_and_its_trace_delivered() {
    let langfuse = LangfuseServer::start_blocking();
    let spool = tempfile::TempDir::new().unwrap();
    let mut service = Service::start(|command| {
        command
            .env("LANGFUSE_PUBLIC_KEY", langfuse.public_key())
            .env("LANGFUSE_SECRET_KEY", langfuse.secret_key())
            .env("LANGFUSE_BASE_URL", langfuse.base_url())
            .env("BUTTRESS_SPOOL_DIR", spool.path())
    });
    let call = command(&["--ask", &service.url, "AAPL [hang]"]).stdout(Stdio::piped()).spawn();
    // Its first attempt was given up, the next one hangs.
    while !holds(spool.path(), "timeout_protected_call") {
        std::thread::yield_now();
    }
    service.terminate();
    let output = call.unwrap().wait_with_output().unwrap();
    assert_eq!(text(&output), "AAPL [hang]        AAPL looks fine today, says small.\n");
    assert!(output.status.success());
    assert_eq!(service.lines.next().as_deref(), Some("every call has ended"));
    assert!(service.child.wait().unwrap().success());
    assert_eq!(langfuse.named("agent_research").len(), 1);
    // Nobody is served any more, which the caller hears after its retries.
    let late = command(&["--ask", &service.url, "AAPL"]).output().unwrap();
    assert_eq!(late.status.code(), Some(1));
    assert!(text(&late).starts_with("AAPL               Unavailable: "), "{}", text(&late));
}

/// A client that keeps no time by itself.
struct Raw {
    client: hyper_util::client::legacy::Client<HttpConnector, Frames>,
    url: String,
}

type Frames = http_body_util::combinators::BoxBody<Bytes, std::convert::Infallible>;

impl Raw {
    fn new(service: &Service) -> Self {
        let mut client = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
        let client = client.http2_only(true).build_http();
        Self { client, url: service.url.clone() }
    }

    /// Asks, and returns the code and the message, which stand in the head of what has failed.
    async fn ask(&self, method: &str, timeout: &str, body: Frames) -> (String, String) {
        let request = http::Request::post(format!("{}/{method}", self.url))
            .header("content-type", "application/grpc")
            .header("grpc-timeout", timeout)
            .body(body);
        let answer = self.client.request(request.unwrap()).await.unwrap();
        let said = |name: &str| {
            answer.headers().get(name).map_or("", |value| value.to_str().unwrap()).to_owned()
        };
        (said("grpc-status"), said("grpc-message"))
    }
}

const ASK: &str = "buttress.examples.Analyst/Ask";

/// One message, a `google.protobuf.StringValue`.
fn message(prompt: &str) -> Frames {
    let length = u8::try_from(prompt.len()).unwrap();
    let head = [0, 0, 0, 0, length + 2, 0x0a, length];
    Full::new(Bytes::from([&head, prompt.as_bytes()].concat())).boxed()
}

#[tokio::test]
async fn a_server_keeps_deadlines_and_limits_by_itself() {
    let service = Service::start(|command| command);
    let raw = Raw::new(&service);
    let code = |code: &str, message: &str| (code.to_owned(), message.to_owned());
    // tonic's own limit would answer CANCELLED.
    let late = raw.ask(ASK, "100m", message("A [all:hang]")).await;
    assert_eq!(late, code("4", "timeout"));
    let unknown = raw.ask("buttress.examples.Analyst/Sell", "9S", message("A")).await;
    assert_eq!(unknown.0, "12");
    // A message that never comes to its end; meanwhile there are more calls than one connection may make.
    let endless = http_body_util::StreamBody::new(futures_util::stream::pending()).boxed();
    let endless = raw.ask(ASK, "1H", endless);
    let many = async {
        let hanging = |number| raw.ask(ASK, "1H", message(&format!("{number} [all:hang]")));
        let answers = futures_util::future::join_all((0..80_u8).map(hanging)).await;
        answers.iter().filter(|(code, message)| code == "8" && message.contains("active")).count()
    };
    let (endless, turned_away) = tokio::join!(endless, many);
    assert_eq!(endless, code("4", "timeout"));
    assert!(turned_away >= 80 - 64, "{turned_away}");
}

#[test]
fn while_langfuse_is_away_a_server_ends_well_and_the_next_one_delivers_its_trace() {
    let langfuse = LangfuseServer::start_blocking();
    let spool = tempfile::TempDir::new().unwrap();
    let start = || {
        Service::start(|command| {
            command
                .env("LANGFUSE_PUBLIC_KEY", langfuse.public_key())
                .env("LANGFUSE_SECRET_KEY", langfuse.secret_key())
                .env("LANGFUSE_BASE_URL", langfuse.base_url())
                .env("BUTTRESS_SPOOL_DIR", spool.path())
                .stderr(Stdio::null())
        })
    };
    langfuse.stop_blocking();
    let mut service = start();
    let asked = command(&["--ask", &service.url, "AAPL [all:500]"]).output().unwrap();
    assert_eq!(asked.status.code(), Some(1));
    service.terminate();
    assert_eq!(service.lines.next().as_deref(), Some("every call has ended"));
    assert!(service.child.wait().unwrap().success());
    langfuse.restart_blocking();
    assert!(langfuse.named("agent_research").is_empty());
    let _next = start();
    langfuse
        .wait_until_blocking(PATIENCE, |received| received.named("agent_research").count() == 1);
}

#[test]
fn what_it_does_not_know_is_told_on_stderr() {
    for arguments in [
        &["--sever"][..],
        &["--help"],
        &["--ask", "http://127.0.0.1:1"],
        &["--ask", " ", "AAPL"],
        &["--ask", "127.0.0.1:1", "AAPL"],
        &["--serve", "nowhere"],
    ] {
        let output = command(arguments).output().unwrap();
        assert_eq!((output.status.code(), &*text(&output)), (Some(2), ""), "{arguments:?}");
        let wrong = String::from_utf8_lossy(&output.stderr);
        assert!(wrong.contains("tonic-agent: "), "{arguments:?}: {wrong}");
    }
}

#[test]
fn a_name_is_an_address_too() {
    let mut command = command(&["--serve", "localhost:0"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let listens = lines.any(|line| line.starts_with("listening on "));
    drop(child.kill());
    drop(child.wait());
    assert!(listens);
}
