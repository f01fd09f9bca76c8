//! A server that takes every span, in a process of its own so that only delivery costs time here.

use std::{
    io::{self, BufRead as _, BufReader, Read as _},
    process::{Child, Command, ExitCode, Stdio},
};

use axum::{Router, body::Body, extract::Request};
use http::StatusCode;
use tokio::net::TcpListener;

use crate::out;

/// The argument with which this program is the server.
pub const ARGUMENT: &str = "--take-every-span";

/// The server, as the process that started it sees it: it ends when its input is closed.
#[derive(Debug)]
pub struct Sink {
    child: Child,
    /// Where it listens.
    pub base_url: String,
}

// ===== impl Sink =====

impl Sink {
    /// Starts this program once more, with [`ARGUMENT`].
    ///
    /// # Errors
    ///
    /// Those of starting a program.
    ///
    /// # Panics
    ///
    /// Never: the output is piped.
    pub fn start() -> io::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut base_url = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut base_url)?;
        Ok(Self { child, base_url: base_url.trim().to_owned() })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Without waiting it stays a zombie.
        drop(self.child.wait());
    }
}

/// Says where it listens, and takes spans until its input ends.
///
/// # Panics
///
/// If there is no thread or no port left.
#[must_use]
pub fn run() -> ExitCode {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime needs no more than a thread");
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("some port is free");
    let address = listener.local_addr().expect("it is bound");
    if !out::say(&format!("http://{address}\n")).unwrap_or(false) {
        return ExitCode::FAILURE;
    }
    let router = Router::new().fallback(take);
    drop(runtime.spawn(async move { axum::serve(listener, router).await }));
    drop(io::stdin().read_to_end(&mut Vec::new()));
    runtime.shutdown_background();
    ExitCode::SUCCESS
}

async fn take(request: Request<Body>) -> StatusCode {
    match axum::body::to_bytes(request.into_body(), usize::MAX).await {
        Ok(_) => StatusCode::OK,
        Err(_) => StatusCode::BAD_REQUEST,
    }
}
