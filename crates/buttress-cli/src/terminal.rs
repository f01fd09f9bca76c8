//! Writes to stdout and stderr, whether or not anybody reads them.

use std::{
    env,
    io::{self, IsTerminal as _, Write as _},
};

use crate::{problem::Problem, text::escaped};

/// Writes to stdout; a reader that has gone away, such as `head`, is no error.
pub(crate) fn print(text: &str) -> Result<(), Problem> {
    print_bytes(text.as_bytes())
}

/// Writes bytes to stdout, as [`print`] does.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<(), Problem> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes one line to stderr; that nobody can read it is no reason to stop.
pub(crate) fn tell(sentence: &str) {
    writeln!(io::stderr(), "{}", escaped(sentence)).ok();
}

/// What is said on a terminal while something takes long: one line that is written over.
#[derive(Debug)]
pub(crate) struct Progress {
    is_shown: bool,
}

// ===== impl Progress =====

impl Progress {
    /// Shows nothing where stderr is no terminal, or one that cannot write over a line.
    pub(crate) fn new() -> Self {
        let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self { is_shown: io::stderr().is_terminal() && !is_dumb }
    }

    pub(crate) fn show(&self, sentence: &str) {
        if self.is_shown {
            // What others write there meanwhile stands over it, not behind it.
            write!(io::stderr(), "\r\u{1b}[K{}\r", escaped(sentence)).ok();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            write!(io::stderr(), "\r\u{1b}[K").ok();
        }
    }
}
