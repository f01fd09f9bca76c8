use std::{
    fmt,
    mem::ManuallyDrop,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower::{Service, util::BoxCloneSyncService};

use super::{
    chain::Chain,
    story::{Next, Story},
};
use crate::{
    BoxError, CallBudget, Classify, Error, Failure, FailureKind, FindCallBudget, Outcome, Replay,
    call_budget::Paid, rare::Rare, sharded::Handle, telemetry::Scope,
};

/// The boxed future of an erased agent: boxed after a failure only.
type BoxFuture<Res> = <BoxCloneSyncService<(), Res, Error> as Service<()>>::Future;

pin_project! {
    /// The answer of a [`FallbackService`](super::FallbackService).
    pub struct ResponseFuture<F, Req, Res, C, Q, P> {
        #[pin]
        state: State<F, Req, Res>,
        // The copy for the next agent.
        request: Option<Req>,
        chain: Handle<Arc<Chain<Req, Res, C, Q, P>>>,
        call_budget: Option<CallBudget>,
        story: Rare<Story>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, Req, Res> {
        // The primary is asked.
        Primary { #[pin] future: F },
        // The primary was not ready: its failure stands for its call.
        Skipped { error: Option<Error> },
        // A fallback waits for its service. Boxed, so that a call whose primary answers does not
        // carry it along.
        Readying { asked: Option<Box<Asked<Req, Res>>> },
        // A fallback is asked.
        Fallback { future: BoxFuture<Res> },
        Done,
    }
}

/// A fallback that is not ready yet, and the request it gets.
struct Asked<Req, Res> {
    service: BoxCloneSyncService<Req, Res, Error>,
    request: Req,
}

// ===== impl ResponseFuture =====

impl<F, Req, Res, C, Q, P> ResponseFuture<F, Req, Res, C, Q, P>
where
    Q: FindCallBudget<Req>,
    P: Replay<Req>,
{
    /// Asks the primary, or only the fallbacks where its readiness failed.
    ///
    /// What a call consists of is never referred to before it stands in the future, so that the
    /// compiler can put it there at once.
    #[inline(always)]
    pub(super) fn start<S>(
        primary: &mut S,
        unready: &mut Option<Error>,
        request: Req,
        chain: Handle<Arc<Chain<Req, Res, C, Q, P>>>,
    ) -> Self
    where
        S: Service<Req, Future = F>,
    {
        let call_budget = chain.call_budget.call_budget(&request);
        let story = Story::open(&chain.labels, chain.fallbacks.len() + 1);
        if unready.is_some() {
            let state = State::Skipped { error: unready.take() };
            return Self { state, request: Some(request), chain, call_budget, story };
        }
        let copy = if chain.fallbacks.is_empty() { None } else { chain.replay.replay(&request) };
        if let Some(budget) = &call_budget {
            budget.take_first();
        }
        let scope = Scope::enter(&story);
        let future = {
            let _paid = Paid::from_now_on(call_budget.is_some());
            ManuallyDrop::new(primary.call(request))
        };
        scope.leave();
        let state = State::Primary { future: ManuallyDrop::into_inner(future) };
        Self { state, request: copy, chain, call_budget, story }
    }
}

impl<F, Req, Res, E, C, Q, P> Future for ResponseFuture<F, Req, Res, C, Q, P>
where
    F: Future<Output = Result<Res, E>>,
    E: Into<BoxError> + 'static,
    C: Classify<Res, E>,
    P: Replay<Req>,
{
    type Output = Result<Res, Error>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.as_mut().project();
        if let StateProj::Primary { future } = this.state.project() {
            let scope = Scope::enter(this.story);
            let poll = future.poll(cx);
            scope.leave();
            let classify = &this.chain.classify;
            let (result, outcome) = match ready!(poll) {
                Ok(answer) => match classify.classify(Ok(&answer)) {
                    Outcome::Success | Outcome::Neutral if this.story.is_none() => {
                        return Poll::Ready(Ok(answer));
                    }
                    outcome => (Ok(answer), outcome),
                },
                Err(error) => {
                    let outcome = classify.classify(Err(&error));
                    (Err(wrap(error, &outcome)), outcome)
                }
            };
            if let Poll::Ready(result) = self.as_mut().answered(result, outcome, cx) {
                return Poll::Ready(result);
            }
        }
        self.go_on::<E>(cx)
    }
}

impl<F, Req, Res, C, Q, P> ResponseFuture<F, Req, Res, C, Q, P>
where
    P: Replay<Req>,
{
    /// Takes in what an agent answered; pending where another agent is asked.
    #[cold]
    fn answered(
        mut self: Pin<&mut Self>,
        result: Result<Res, Error>,
        outcome: Outcome,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Res, Error>> {
        let mut this = self.as_mut().project();
        // The call goes before its error is looked at any further.
        this.state.set(State::Done);
        let failure = match outcome {
            Outcome::Failure(failure) => failure,
            Outcome::Success | Outcome::Neutral if result.is_ok() => {
                if let Some(story) = this.story.get_mut() {
                    story.succeed();
                }
                return Poll::Ready(result);
            }
            Outcome::Success | Outcome::Neutral => Failure::new(FailureKind::Cancelled),
        };
        let story = this.story.get_or_insert_with(Story::untold);
        match story.failed(this.chain, this.call_budget.as_ref(), this.request, result, failure) {
            Next::End(result) => Poll::Ready(result),
            Next::Ask { mut service, request } => {
                let scope = Scope::enter(this.story);
                let ready = service.poll_ready(cx);
                scope.leave();
                match ready {
                    // Most services are ready at once, and then there is nothing to keep.
                    Poll::Ready(Ok(())) => self.ask(&mut service, request),
                    Poll::Ready(Err(error)) => {
                        let (result, outcome) = failed(error);
                        return self.answered(result, outcome, cx);
                    }
                    Poll::Pending => {
                        let asked = Some(Box::new(Asked { service, request }));
                        this.state.set(State::Readying { asked });
                    }
                }
                Poll::Pending
            }
        }
    }

    /// Asks a fallback that is ready.
    fn ask(self: Pin<&mut Self>, service: &mut BoxCloneSyncService<Req, Res, Error>, request: Req) {
        let mut this = self.project();
        let scope = Scope::enter(this.story);
        let future = {
            let _paid = Paid::from_now_on(this.call_budget.is_some());
            service.call(request)
        };
        scope.leave();
        this.state.set(State::Fallback { future });
    }

    /// Goes on with a chain whose primary has failed.
    #[inline(never)]
    fn go_on<E>(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Res, Error>>
    where
        C: Classify<Res, E>,
    {
        loop {
            let mut this = self.as_mut().project();
            let scope = Scope::enter(this.story);
            let poll = match this.state.as_mut().project() {
                // ## Skipped => (Readying | Fallback | Done)
                StateProj::Skipped { error } => {
                    Poll::Ready(Err(error.take().expect("polled after completion")))
                }
                // ## Readying => (Readying | Fallback | Done)
                StateProj::Readying { asked } => {
                    let waiting = asked.as_mut().expect("it waits until it is asked");
                    match waiting.service.poll_ready(cx) {
                        Poll::Ready(Ok(())) => {
                            scope.leave();
                            if let Some(asked) = asked.take() {
                                let Asked { mut service, request } = *asked;
                                self.as_mut().ask(&mut service, request);
                            }
                            continue;
                        }
                        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                        Poll::Pending => Poll::Pending,
                    }
                }
                // ## Fallback => (Readying | Fallback | Done)
                StateProj::Fallback { future } => Pin::new(future).poll(cx),
                StateProj::Primary { .. } | StateProj::Done => panic!("polled after completion"),
            };
            scope.leave();
            let (result, outcome) = match ready!(poll) {
                Ok(answer) => {
                    let outcome = this.chain.classify.classify(Ok(&answer));
                    (Ok(answer), outcome)
                }
                // Errors of fallbacks were classified where their type was still known.
                Err(error) => failed(error),
            };
            if let Poll::Ready(result) = self.as_mut().answered(result, outcome, cx) {
                return Poll::Ready(result);
            }
        }
    }
}

/// Returns an error with what it says of itself.
fn failed<Res>(error: Error) -> (Result<Res, Error>, Outcome) {
    let outcome = Outcome::Failure(error.failure().clone());
    (Err(error), outcome)
}

impl<F, Req, Res, C, Q, P> fmt::Debug for ResponseFuture<F, Req, Res, C, Q, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let agent = self.story.get().map_or(0, Story::agent);
        f.debug_struct("ResponseFuture").field("agent", &agent).finish_non_exhaustive()
    }
}

#[cold]
fn wrap<E: Into<BoxError> + 'static>(error: E, outcome: &Outcome) -> Error {
    Error::from_service(error, |_| match outcome {
        Outcome::Failure(failure) => failure.clone(),
        Outcome::Success | Outcome::Neutral => Failure::new(FailureKind::Cancelled),
    })
}
