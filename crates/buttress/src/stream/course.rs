use crate::{Error, Failure, telemetry::describe};
use std::fmt;

/// Whom a stream tells how it went: a span, a circuit.
///
/// One that is dropped without a word has been cancelled.
pub(crate) trait Watcher {
    /// Runs one poll of the stream; a panic of it is a failure.
    fn run<R>(&mut self, poll: impl FnOnce() -> R) -> R;

    /// Notes that the stream came to its end, or that its caller had enough of it.
    fn succeed(&mut self, items: u64);

    /// Notes that the stream failed.
    fn fail(&mut self, items: u64, failure: &Failure, error: &dyn fmt::Display);
}

/// The way of one stream, from its answer to its end.
///
/// Dropped after a good item it was a success: clients stop at the marker of the end and do not wait
/// for the end itself. Dropped before, it was cancelled.
#[derive(Debug)]
pub(crate) struct Course<W: Watcher> {
    watcher: W,
    items: u64,
    is_over: bool,
}

// ===== impl Course =====

impl<W: Watcher> Course<W> {
    pub(crate) const fn new(watcher: W) -> Self {
        Self { watcher, items: 0, is_over: false }
    }

    /// Returns how many items were handed on.
    pub(crate) const fn items(&self) -> u64 {
        self.items
    }

    /// Returns whether its watcher knows how it went.
    pub(crate) const fn is_over(&self) -> bool {
        self.is_over
    }

    pub(crate) const fn watcher(&mut self) -> &mut W {
        &mut self.watcher
    }

    /// Runs one poll of the stream.
    pub(crate) fn run<R>(&mut self, poll: impl FnOnce() -> R) -> R {
        if self.is_over { poll() } else { self.watcher.run(poll) }
    }

    /// Notes that an item is handed on.
    pub(crate) const fn pass(&mut self) {
        self.items = self.items.saturating_add(1);
    }

    /// Notes that the stream came to its end.
    pub(crate) fn end(&mut self) {
        if !self.is_over {
            self.is_over = true;
            self.watcher.succeed(self.items);
        }
    }

    /// Notes that the stream fails, though nobody cuts it.
    pub(crate) fn note(&mut self, failure: &Failure) {
        if !self.is_over {
            self.is_over = true;
            self.watcher.fail(self.items, failure, failure);
        }
    }

    /// Notes what cuts the stream; returns it as the error of the stream.
    pub(crate) fn cut(&mut self, cause: Error) -> Error {
        let error = cause.interrupting(self.items);
        if !self.is_over {
            self.is_over = true;
            self.watcher.fail(self.items, error.failure(), &describe(&error));
        }
        error
    }
}

impl<W: Watcher> Drop for Course<W> {
    fn drop(&mut self) {
        if self.items > 0 {
            self.end();
        }
    }
}
