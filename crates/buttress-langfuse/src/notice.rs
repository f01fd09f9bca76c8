//! The few sentences that a person must read even where nothing else works.

use std::fmt;

/// Writes one line to stderr: tracing may be what does not work.
#[cfg(not(test))]
#[expect(clippy::print_stderr, reason = "a broken tracing setup cannot report itself")]
pub(crate) fn notice(text: fmt::Arguments<'_>) {
    eprintln!("langfuse: {text}");
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
