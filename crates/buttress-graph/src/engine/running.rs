//! The calls of a superstep that are under way.

use std::{
    collections::VecDeque,
    future::poll_fn,
    panic::AssertUnwindSafe,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use buttress::{Error, ErrorKind, Failure, catch_panic::Panic};
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tracing::{Instrument as _, instrument::Instrumented};

use super::Answer;
use crate::{Command, CompiledGraph, GraphError, State, graph::Compiled, node::Call, spans};

/// The calls of a superstep.
pub(super) struct Calls<'a, S: State> {
    running: FuturesUnordered<Calling<'a, S>>,
    /// By the places of their tasks; none where that runs, or waits to.
    answers: Vec<Option<Answer<S>>>,
    /// The places of the answers that nobody has been told of.
    news: VecDeque<usize>,
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

// ===== impl Calls =====

impl<'a, S: State> Calls<'a, S> {
    pub(super) fn new() -> Self {
        Self { running: FuturesUnordered::new(), answers: Vec::new(), news: VecDeque::new() }
    }

    /// Begins a superstep, some of whose tasks may have answered before.
    pub(super) fn begin(&mut self, answers: Vec<Option<Answer<S>>>) {
        self.answers = answers;
    }

    /// Ends a superstep, and returns all answers.
    pub(super) fn end(&mut self) -> impl Iterator<Item = Answer<S>> + use<S> {
        std::mem::take(&mut self.answers).into_iter().flatten()
    }

    /// Returns how many calls have begun whose answers nobody has been told of.
    pub(super) fn len(&self) -> usize {
        self.running.len() + self.news.len()
    }

    pub(super) fn answer(&self, place: usize) -> Option<&Answer<S>> {
        self.answers[place].as_ref()
    }

    /// Starts a call. One that answers at once needs no place among those that run.
    pub(super) async fn start(&mut self, mut call: Calling<'a, S>) {
        match poll_fn(|cx| Poll::Ready(call.poll_unpin(cx))).await {
            Poll::Ready(answer) => self.keep(answer),
            Poll::Pending => self.running.push(call),
        }
    }

    /// Returns the place of an answer that is new; none where no call is left.
    pub(super) async fn next(&mut self) -> Option<usize> {
        if self.news.is_empty() && !self.running.is_empty() {
            let answer = self.running.next().await?;
            self.keep(answer);
        }
        self.news.pop_front()
    }

    /// Waits for the store while the calls go on.
    pub(super) async fn beside<T>(&mut self, store: impl Future<Output = T>) -> T {
        let mut store = pin!(store);
        loop {
            tokio::select! {
                biased;
                done = &mut store => return done,
                Some(answer) = self.running.next() => self.keep(answer),
            }
        }
    }

    fn keep(&mut self, (place, answer): (usize, Answer<S>)) {
        self.answers[place] = Some(answer);
        self.news.push_back(place);
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
                && !GraphError::is_drained(error)
            {
                let failure = error.failure().clone();
                let (handler, of_handler) = (Arc::clone(handler), failure.clone());
                let mut request = call.request(1);
                // What it does is none of what the node has done.
                request.idempotency_key.push_str(":on_error");
                let answer = AssertUnwindSafe(async move { handler(request, of_handler).await });
                let answer = answer.catch_unwind().map(|answer| {
                    answer.unwrap_or_else(|payload| {
                        Err(Error::new(ErrorKind::Panicked).with_source(Panic::from(payload)))
                    })
                });
                self.future = answer.boxed().instrument(span.span());
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
