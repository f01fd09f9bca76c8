//! Writes to stdout and stderr, whether or not anybody reads them.

use std::{
    fmt,
    io::{self, Write as _},
};

use crate::{
    problem::Problem,
    text::{Secrets, printable},
};

/// Writes to stdout; a reader that has gone away, such as `head`, is no error.
pub(crate) fn print(text: &str) -> Result<(), Problem> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes one line to stderr; that nobody can read it is no reason to stop.
pub(crate) fn tell(sentence: impl fmt::Display) {
    let sentence = Secrets::from_env().hide(&printable(&sentence.to_string()));
    writeln!(io::stderr(), "{sentence}").ok();
}
