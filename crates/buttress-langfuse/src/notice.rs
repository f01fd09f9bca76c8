//! The few sentences that a person must read even where nothing else works.

use std::fmt;

/// Writes one line to stderr: tracing may be what does not work.
///
/// Where stderr is closed the line is lost, and nothing else is.
#[cfg(not(test))]
pub(crate) fn notice(text: fmt::Arguments<'_>) {
    use std::io::Write as _;

    // In one piece, so that lines of several threads do not mix.
    let line = format!("langfuse: {text}\n");
    drop(std::io::stderr().write_all(line.as_bytes()));
}

/// Keeps the line for the test that runs on this thread.
#[cfg(test)]
pub(crate) fn notice(text: fmt::Arguments<'_>) {
    captured::LINES.with_borrow_mut(|lines| lines.push(text.to_string()));
}

#[cfg(test)]
pub(crate) mod captured {
    use std::cell::RefCell;

    thread_local! {
        pub(super) static LINES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    }

    /// Takes the lines that were written on this thread.
    pub(crate) fn take() -> Vec<String> {
        LINES.take()
    }
}
