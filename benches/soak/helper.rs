//! Processes of this program beside this one, and how they are talked to: lines of text.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use buttress::BoxError;
use serde::de::DeserializeOwned;

/// How long a process may take to answer a line or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that this one has started. It ends when its input is closed.
#[derive(Debug)]
pub(crate) struct Helper {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

// ===== impl Helper =====

impl Helper {
    /// Starts this program with other arguments.
    pub(crate) fn start(arguments: &[&str]) -> Result<Self, BoxError> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("it is piped");
        let (line, lines) = mpsc::channel();
        thread::spawn(move || {
            let read = BufReader::new(stdout).lines().map_while(Result::ok);
            // Fails when nobody listens any more.
            read.take_while(|text| line.send(text.clone()).is_ok()).for_each(drop);
        });
        Ok(Self { child, stdin, lines })
    }

    /// Returns the next line; nothing where there is none in time.
    pub(crate) fn read<T: DeserializeOwned>(&self, time: Duration) -> Result<Option<T>, BoxError> {
        match self.lines.recv_timeout(time) {
            Ok(line) => Ok(Some(serde_json::from_str(&line)?)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err("a helper process has ended early".into()),
        }
    }

    /// Waits for the next line.
    pub(crate) fn wait_for<T: DeserializeOwned>(&self) -> Result<T, BoxError> {
        self.read(PATIENCE)?.ok_or_else(|| "a helper process does not answer".into())
    }

    /// Sends a line and waits for the answer.
    pub(crate) fn ask<T: DeserializeOwned>(&mut self, line: &str) -> Result<T, BoxError> {
        let stdin = self.stdin.as_mut().ok_or("the helper process was told to end")?;
        writeln!(stdin, "{line}")?;
        self.wait_for()
    }

    /// Tells the process to come to its end.
    pub(crate) fn end(&mut self) {
        self.stdin = None;
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.end();
        // Its last line is read, or it is of no use any more; without waiting it stays a zombie.
        drop(self.child.wait());
    }
}

/// Leaves Ctrl-C, which a terminal sends to every process, to the one that started this one.
pub(crate) fn ignore_ctrl_c() {
    drop(tokio::spawn(async { while tokio::signal::ctrl_c().await.is_ok() {} }));
}
