use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use buttress::Error;
use futures_core::Stream;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::{GraphError, Interrupt};

/// What happens in a run, in the order in which it happens.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<S> {
    /// A node is called.
    NodeStarted {
        /// The node.
        node: String,
        /// The superstep.
        step: u64,
    },
    /// An attempt of a node begins.
    Attempt {
        /// The node.
        node: String,
        /// The attempt, from 1.
        attempt: u32,
    },
    /// A node has answered; with a store, the answer is saved.
    NodeFinished {
        /// The node.
        node: String,
        /// The superstep.
        step: u64,
    },
    /// The attempts of a node are spent.
    NodeFailed {
        /// The node.
        node: String,
        /// What the error says.
        error: String,
    },
    /// It is known where a node leads.
    RouteTaken {
        /// The node.
        node: String,
        /// The nodes behind it, also [`END`](crate::END).
        to: Vec<String>,
    },
    /// A superstep is saved.
    CheckpointSaved {
        /// The checkpoint.
        sequence: u64,
        /// The supersteps that are done.
        step: u64,
    },
    /// The store was away, and the run goes on without having saved.
    SaveSkipped {
        /// The store's error.
        error: Error,
    },
    /// Nodes wait for people.
    Interrupted(Vec<Interrupt>),
    /// The run has ended; this is the last event.
    Ended(Result<S, GraphError>),
}

/// A run as a stream of its events; made by [`CompiledGraph::stream`](crate::CompiledGraph::stream).
///
/// The run goes on only while the stream is polled, so that a slow reader slows it down; dropped,
/// it drops the run.
#[must_use = "a run does nothing until its stream is polled"]
pub struct Events<S> {
    /// Boxed, as every run of a graph; none once it has ended.
    run: Option<Pin<Box<dyn Future<Output = Result<S, GraphError>> + Send>>>,
    /// What the last poll of the run has told and nobody has read yet.
    told: UnboundedReceiver<Event<S>>,
}

/// Who is told of the events of a run, if anybody.
#[derive(Debug)]
pub(crate) struct Listener<S>(Option<UnboundedSender<Event<S>>>);

// ===== impl Events =====

impl<S> Events<S> {
    pub(crate) fn new<F>(run: impl FnOnce(Listener<S>) -> F) -> Self
    where
        F: Future<Output = Result<S, GraphError>> + Send + 'static,
    {
        // It holds what one poll of the run tells, and is empty before the next.
        let (sender, told) = mpsc::unbounded_channel();
        Self { run: Some(Box::pin(run(Listener(Some(sender))))), told }
    }
}

impl<S> Stream for Events<S> {
    type Item = Event<S>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event<S>>> {
        loop {
            if let Ok(event) = self.told.try_recv() {
                return Poll::Ready(Some(event));
            }
            let Some(run) = &mut self.run else { return Poll::Ready(None) };
            match run.as_mut().poll(cx) {
                Poll::Ready(done) => {
                    self.run = None;
                    // What it told on its last poll comes first.
                    let last = Event::Ended(done);
                    let Ok(event) = self.told.try_recv() else {
                        return Poll::Ready(Some(last));
                    };
                    let (sender, mut told) = mpsc::unbounded_channel();
                    while let Ok(event) = self.told.try_recv() {
                        drop(sender.send(event));
                    }
                    drop(sender.send(last));
                    std::mem::swap(&mut self.told, &mut told);
                    return Poll::Ready(Some(event));
                }
                Poll::Pending if self.told.is_empty() => return Poll::Pending,
                Poll::Pending => {}
            }
        }
    }
}

impl<S> fmt::Debug for Events<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

// ===== impl Listener =====

impl<S> Listener<S> {
    pub(crate) const NOBODY: Self = Self(None);

    /// Tells of an event; it is made only where somebody listens.
    pub(crate) fn tell(&self, event: impl FnOnce() -> Event<S>) {
        if let Some(sender) = &self.0 {
            // Who has dropped the stream has dropped the run.
            drop(sender.send(event()));
        }
    }
}

impl<S> Clone for Listener<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
