//! The real program, and a server that has seen much.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    process::{Command, Output, Stdio},
    time::Duration,
};

use buttress::{
    CircuitBreakerLayer, FaultTolerantAgent, RetryLayer, Swarm,
    test_util::{Answer, Scripted},
};
use buttress_langfuse::Langfuse;
use buttress_tests::langfuse_server::LangfuseServer;
use serde_json::Value as Json;
use tower::util::BoxCloneSyncService;
use tracing_subscriber::layer::SubscriberExt as _;

/// What a run of the program has left.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs the program with these variables and no others; stdin is no terminal.
pub(crate) fn run(args: &[&str], vars: &[(&str, &str)]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_buttress"));
    command.args(args).env_clear().envs(vars.iter().copied()).stdin(Stdio::null());
    Ran::of(&command.output().unwrap())
}

/// Runs the program for a server.
pub(crate) fn ask(server: &LangfuseServer, args: &[&str]) -> Ran {
    let (public, secret, url) = (server.public_key(), server.secret_key(), server.base_url());
    let vars = [
        ("LANGFUSE_PUBLIC_KEY", public),
        ("LANGFUSE_SECRET_KEY", secret),
        ("LANGFUSE_BASE_URL", &url),
    ];
    run(args, &vars)
}

impl Ran {
    pub(crate) fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout.clone()).unwrap(),
            stderr: String::from_utf8(output.stderr.clone()).unwrap(),
        }
    }

    /// Checks the exit code.
    #[track_caller]
    pub(crate) fn code(self, expected: i32) -> Self {
        let Self { code, stdout, stderr } = &self;
        assert_eq!(*code, expected, "\nstdout:\n{stdout}\nstderr:\n{stderr}");
        self
    }

    /// Checks that the program said this on stderr.
    #[track_caller]
    pub(crate) fn said(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "{words:?} is not in\n{}", self.stderr);
        self
    }

    /// Reads what was printed as one JSON document.
    #[track_caller]
    pub(crate) fn json(&self) -> Json {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e} in\n{}", self.stdout))
    }

    /// Checks that no line is wider than 80 columns, and that nothing steers a terminal.
    #[track_caller]
    pub(crate) fn fits(self) -> Self {
        for line in self.stdout.lines() {
            assert!(line.chars().count() <= 80, "too wide: {line}");
        }
        self.steers_nothing()
    }

    #[track_caller]
    pub(crate) fn steers_nothing(self) -> Self {
        let steers = |char: char| {
            char.is_control() && char != '\n' || "\u{202e}\u{2066}\u{200f}".contains(char)
        };
        for text in [&self.stdout, &self.stderr] {
            assert_eq!(text.find(steers), None, "{text:?}");
        }
        self
    }
}

/// A server that has got calls of every kind:
///
/// - "research": its primary fails twice and the fallback answers; a retry rescues it; both agents
///   fail; the open circuit of the primary rejects, and the fallback answers
/// - "slow": runs out of time
/// - a swarm of three, one of which fails
pub(crate) fn busy() -> LangfuseServer {
    let server = LangfuseServer::start_blocking();
    let langfuse = Langfuse::builder()
        .public_key(server.public_key())
        .secret_key(server.secret_key())
        .base_url(server.base_url())
        .start()
        .unwrap();
    traced(&langfuse, calls());
    langfuse.shutdown(Duration::from_secs(20)).unwrap();
    server
}

/// Runs something whose spans go to a Langfuse.
pub(crate) fn traced<T>(langfuse: &Langfuse, future: impl Future<Output = T>) -> T {
    let subscriber = tracing_subscriber::registry().with(langfuse.layer());
    tracing::subscriber::with_default(subscriber, || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().build().unwrap().block_on(future)
    })
}

/// Makes the calls of [`busy`].
pub(crate) async fn calls() {
    let breaker = CircuitBreakerLayer::new("gpt").consecutive_failures(3);
    let answers = [
        [Answer::error("reset"), Answer::ok("fine")],
        [Answer::error("reset"), Answer::error("reset")],
        [Answer::error("reset"), Answer::error("never")],
        [Answer::error("never"), Answer::error("never")],
    ];
    let backups =
        [Answer::ok("unused"), Answer::ok("small"), Answer::error("down"), Answer::ok("small")];
    for (answers, backup) in answers.into_iter().zip(backups) {
        let agent = FaultTolerantAgent::builder("research")
            .retry(RetryLayer::new(2).backoff([Duration::ZERO]))
            .circuit(breaker.circuit())
            .fallback("small", Scripted::new([backup.clone(), backup]))
            .service(Scripted::new(answers));
        drop(agent.invoke("AAPL").await);
    }
    let slow = FaultTolerantAgent::builder("slow")
        .timeout(Duration::from_millis(10))
        .max_attempts(1)
        .service(Scripted::new([Answer::<&'static str>::hang()]));
    drop(slow.invoke("AAPL").await);
    let says = |answer: Answer<&'static str>| BoxCloneSyncService::new(Scripted::new([answer]));
    let swarm = Swarm::builder("research_swarm")
        .required("technical", says(Answer::ok("up")))
        .required("news", says(Answer::ok("up")))
        .optional("sentiment", says(Answer::error("away")))
        .build()
        .unwrap();
    drop(swarm.invoke("AAPL").await);
}
