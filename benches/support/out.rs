//! Standard output, which may be closed before all is said, or full.

use std::{
    io::{self, ErrorKind, Write as _},
    process::ExitCode,
};

/// Writes a text at once; returns whether somebody still reads, which is no failure.
///
/// # Errors
///
/// All others, such as a disk that is full.
pub fn say(text: &str) -> io::Result<bool> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes the last text of a program; returns how the program ends.
#[must_use]
pub fn end(text: &str, code: ExitCode) -> ExitCode {
    match say(text) {
        Ok(_) => code,
        Err(error) => failed(&error),
    }
}

/// Says why nothing more can be said.
#[must_use]
pub fn failed(error: &io::Error) -> ExitCode {
    // Where this fails too, there is nobody to tell.
    drop(writeln!(io::stderr(), "error: cannot write to standard output: {error}"));
    ExitCode::FAILURE
}
