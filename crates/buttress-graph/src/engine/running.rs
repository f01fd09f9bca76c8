//! The calls of a superstep that are under way.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use buttress::{Error, Failure};
use futures_core::Stream;
use futures_util::{future::BoxFuture, stream::FuturesUnordered};
use tracing::{Instrument as _, instrument::Instrumented};

use super::Answer;
use crate::{Command, CompiledGraph, State, graph::Compiled, node::Call, spans};

/// The calls that are under way; as a stream, each with its place as soon as it has answered.
pub(super) enum Running<'a, S: State> {
    /// In most supersteps there is but one, which needs no record of who was woken.
    One(Option<Calling<'a, S>>),
    Many(FuturesUnordered<Calling<'a, S>>),
}

/// A call of a node, and of its handler where it fails.
pub(super) struct Calling<'a, S: State> {
    graph: &'a CompiledGraph<S>,
    node: &'a Compiled<S>,
    /// Of its task in the superstep.
    place: usize,
    future: Instrumented<BoxFuture<'static, Result<Command<S>, Error>>>,
    /// What the handler is called with, where there is one and it was not.
    spare: Option<Arc<Call<S>>>,
    /// How the node has failed, once its handler is called.
    handled: Option<Failure>,
    /// None once it has answered.
    span: Option<spans::Ending>,
}

// ===== impl Running =====

impl<'a, S: State> Running<'a, S> {
    /// Creates what has room for some calls.
    pub(super) fn new(calls: usize) -> Self {
        if calls > 1 { Self::Many(FuturesUnordered::new()) } else { Self::One(None) }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(call) => usize::from(call.is_some()),
            Self::Many(calls) => calls.len(),
        }
    }

    pub(super) fn push(&mut self, call: Calling<'a, S>) {
        match self {
            Self::One(only) => *only = Some(call),
            Self::Many(calls) => calls.push(call),
        }
    }
}

impl<S: State> Stream for Running<'_, S> {
    type Item = (usize, Answer<S>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match &mut *self {
            Self::One(only) => {
                let Some(call) = only else { return Poll::Ready(None) };
                let answer = ready!(Pin::new(call).poll(cx));
                *only = None;
                Poll::Ready(Some(answer))
            }
            Self::Many(calls) => Pin::new(calls).poll_next(cx),
        }
    }
}

// ===== impl Calling =====

impl<'a, S: State> Calling<'a, S> {
    pub(super) fn new(
        graph: &'a CompiledGraph<S>,
        node: &'a Compiled<S>,
        place: usize,
        call: Arc<Call<S>>,
        span: spans::Ending,
    ) -> Self {
        let spare = node.on_error.as_ref().map(|_| Arc::clone(&call));
        let future = node.service.call(call).instrument(span.span());
        Self { graph, node, place, future, spare, handled: None, span: Some(span) }
    }

    /// Ends the span, unless a router is still to be asked where the node leads.
    fn end(
        &self,
        mut span: spans::Ending,
        result: &Result<Command<S>, Error>,
    ) -> Option<spans::Ending> {
        match result {
            Ok(_) => span.succeeded(),
            Err(error) => span.failed(&self.node.name, error),
        }
        let ways = &self.node.ways;
        if !ways.branches.is_empty() {
            return Some(span);
        }
        if let Ok(command) = result {
            if command.goes_by_edges() {
                span.leads(ways.edges.iter().map(|place| self.graph.name_at(*place)));
            } else {
                span.leads(command.targets());
            }
        }
        None
    }
}

impl<S: State> Future for Calling<'_, S> {
    type Output = (usize, Answer<S>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let result = ready!(Pin::new(&mut self.future).poll(cx));
            let span = self.span.take().expect("polled after completion");
            if let (Err(error), Some(handler), Some(call)) =
                (&result, &self.node.on_error, self.spare.take())
            {
                let failure = error.failure().clone();
                let inside = span.span();
                let answer = inside.in_scope(|| handler(call.request(1), failure.clone()));
                self.future = answer.instrument(inside);
                self.handled = Some(failure);
                self.span = Some(span);
                continue;
            }
            let span = self.end(span, &result);
            return Poll::Ready((
                self.place,
                Answer { result, handled: self.handled.take(), span },
            ));
        }
    }
}
