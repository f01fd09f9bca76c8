use std::{
    fmt,
    mem::ManuallyDrop,
    pin::Pin,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tower::Service;

use super::{
    Guard, Readiness,
    machine::Permit,
    settle::{AtAnswer, Settle},
    watch::{Access, At, Keyed, Told, Unwinding, Watch},
};
use crate::{Error, sharded::Handle};

pin_project! {
    /// The answer of a [`CircuitBreaker`](super::CircuitBreaker).
    pub struct ResponseFuture<S, Req, C, M = AtAnswer>
    where
        S: Service<Req>,
    {
        #[pin]
        guarded: Guarded<S, Req, C, M, Handle<Guard>>,
    }
}

pin_project! {
    /// The answer of a [`KeyedCircuitBreaker`](super::KeyedCircuitBreaker).
    pub struct KeyedResponseFuture<S, Req, C, M = AtAnswer>
    where
        S: Service<Req>,
    {
        #[pin]
        guarded: Guarded<S, Req, C, M, Keyed>,
    }
}

pin_project! {
    /// A call through a circuit that it gets at by `A`.
    pub(super) struct Guarded<S, Req, C, M, A>
    where
        S: Service<Req>,
        A: Access,
    {
        #[pin]
        state: State<S, Req, S::Future>,
        watch: Watch<A>,
        classify: C,
        settles: M,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, Req, F> {
        // The call is made.
        Calling { #[pin] future: F },
        // The call is admitted, but its service was not made ready: the circuit was open then.
        // Boxed, so that a call through a closed circuit does not carry it along.
        Readying { waiting: Box<(S, Option<Req>)> },
        // The call was rejected.
        Rejected { error: Option<Error> },
    }
}

/// A call that is about to be made; what the breaker and the keyed breaker share.
pub(super) struct Call<'a, S, C, M, A> {
    pub(super) inner: &'a mut S,
    pub(super) readiness: &'a mut Readiness,
    pub(super) access: A,
    pub(super) classify: C,
    pub(super) settles: M,
}

/// What becomes of a call that the circuit does not let through at once.
enum Decision<S> {
    Call,
    Wait(S),
    Reject(Error),
}

// ===== impl Call =====

impl<S, C, M, A: Access> Call<'_, S, C, M, A> {
    /// Starts the call.
    ///
    /// What a call through a closed circuit consists of is never referred to before it stands in
    /// the future, so that the compiler can put it there at once.
    #[inline(always)]
    pub(super) fn start<Req>(self, request: Req) -> Guarded<S, Req, C, M, A>
    where
        S: Service<Req> + Clone,
    {
        let Self { inner, readiness, access, classify, settles } = self;
        let at = access.at();
        let mut telemetry = at.open_span();
        let mut permit = at.circuit.admit_closed();
        let mut decision = Decision::Call;
        if permit.is_none() || *readiness != Readiness::Ready {
            (telemetry, permit, decision) = decide(at, telemetry, permit, inner, readiness);
        }
        let state = match decision {
            Decision::Call => {
                *readiness = Readiness::Unasked;
                let scope = telemetry.scope();
                let unwinding = Unwinding::new(at, &mut permit, &telemetry);
                let future = ManuallyDrop::new(inner.call(request));
                unwinding.disarm();
                scope.leave();
                State::Calling { future: ManuallyDrop::into_inner(future) }
            }
            Decision::Wait(service) => {
                State::Readying { waiting: Box::new((service, Some(request))) }
            }
            Decision::Reject(error) => State::Rejected { error: Some(error) },
        };
        let watch = Watch { access, permit, telemetry };
        Guarded { state, watch, classify, settles }
    }
}

/// Decides about a call whose circuit is not closed, or was not when its service could be made
/// ready.
#[cold]
fn decide<S: Clone>(
    at: At<'_>,
    mut telemetry: Told,
    mut permit: Option<Permit>,
    inner: &mut S,
    readiness: &mut Readiness,
) -> (Told, Option<Permit>, Decision<S>) {
    if permit.is_none() {
        let admission = match at.circuit.reject_at_once() {
            Some(rejection) => Err(rejection),
            None => {
                let (admission, more) = at.circuit.admit();
                at.changed(&more, &mut telemetry);
                admission
            }
        };
        match admission {
            Ok(granted) => permit = Some(granted),
            Err(rejection) => {
                give_back(inner, readiness);
                let error = at.reject(rejection, &mut telemetry);
                return (telemetry, None, Decision::Reject(error));
            }
        }
    }
    if *readiness == Readiness::Ready {
        return (telemetry, permit, Decision::Call);
    }
    // The instance that was asked goes along: it may stand in a queue already.
    *readiness = Readiness::Unasked;
    let unasked = inner.clone();
    let asked = std::mem::replace(inner, unasked);
    (telemetry, permit, Decision::Wait(asked))
}

/// Gives back what a service that is not called may have reserved when it was asked for readiness,
/// such as a place under a limit that others wait for: only dropping the service does.
#[inline]
fn give_back<S: Clone>(inner: &mut S, readiness: &mut Readiness) {
    if *readiness != Readiness::Unasked {
        *readiness = Readiness::Unasked;
        let unasked = inner.clone();
        *inner = unasked;
    }
}

// ===== impl ResponseFuture =====

impl<S, Req, C, M> ResponseFuture<S, Req, C, M>
where
    S: Service<Req>,
{
    #[inline(always)]
    pub(super) const fn new(guarded: Guarded<S, Req, C, M, Handle<Guard>>) -> Self {
        Self { guarded }
    }
}

impl<S, Req, C, M> Future for ResponseFuture<S, Req, C, M>
where
    S: Service<Req>,
    M: Settle<S::Response, S::Error, C>,
{
    type Output = Result<M::Response, Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().guarded.poll(cx)
    }
}

impl<S, Req, C, M> fmt::Debug for ResponseFuture<S, Req, C, M>
where
    S: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.guarded.debug("ResponseFuture", f)
    }
}

// ===== impl KeyedResponseFuture =====

impl<S, Req, C, M> KeyedResponseFuture<S, Req, C, M>
where
    S: Service<Req>,
{
    #[inline(always)]
    pub(super) const fn new(guarded: Guarded<S, Req, C, M, Keyed>) -> Self {
        Self { guarded }
    }
}

impl<S, Req, C, M> Future for KeyedResponseFuture<S, Req, C, M>
where
    S: Service<Req>,
    M: Settle<S::Response, S::Error, C>,
{
    type Output = Result<M::Response, Error>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().guarded.poll(cx)
    }
}

impl<S, Req, C, M> fmt::Debug for KeyedResponseFuture<S, Req, C, M>
where
    S: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.guarded.debug("KeyedResponseFuture", f)
    }
}

// ===== impl Guarded =====

impl<S, Req, C, M, A> Guarded<S, Req, C, M, A>
where
    S: Service<Req>,
    A: Access,
{
    fn debug(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("circuit", self.watch.access.at().circuit)
            .finish_non_exhaustive()
    }
}

impl<S, Req, C, M, A> Future for Guarded<S, Req, C, M, A>
where
    S: Service<Req>,
    M: Settle<S::Response, S::Error, C>,
    A: Access,
{
    type Output = Result<M::Response, Error>;

    #[inline(always)]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.as_mut().project();
        if let StateProj::Calling { future } = this.state.project() {
            let Watch { access, permit, telemetry } = this.watch;
            let scope = telemetry.scope();
            let unwinding = Unwinding::new(access.at(), permit, telemetry);
            let poll = future.poll(cx);
            unwinding.disarm();
            scope.leave();
            let result = ready!(poll);
            return Poll::Ready(this.settles.settle(this.watch, this.classify, result));
        }
        self.poll_slowly(cx)
    }
}

impl<S, Req, C, M, A> Guarded<S, Req, C, M, A>
where
    S: Service<Req>,
    M: Settle<S::Response, S::Error, C>,
    A: Access,
{
    /// Polls a call that the circuit did not let through at once.
    #[cold]
    fn poll_slowly(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<M::Response, Error>> {
        let mut this = self.as_mut().project();
        match this.state.as_mut().project() {
            // ## Readying => Calling
            StateProj::Readying { waiting } => {
                let (service, request) = &mut **waiting;
                if let Err(error) = ready!(this.watch.run(|| service.poll_ready(cx))) {
                    let settled = this.settles.settle(this.watch, this.classify, Err(error));
                    return Poll::Ready(settled);
                }
                let request = request.take().expect("polled after completion");
                let future = this.watch.run(|| service.call(request));
                this.state.set(State::Calling { future });
                self.poll(cx)
            }
            StateProj::Rejected { error } => {
                Poll::Ready(Err(error.take().expect("polled after completion")))
            }
            StateProj::Calling { .. } => self.poll(cx),
        }
    }
}
