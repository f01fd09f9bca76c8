//! One agent's part of a swarm's call.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tower::{Service, util::BoxCloneSyncService};

use super::{Member, spans};
use crate::{
    Error,
    catch_panic::{Panic, panicked},
    telemetry::{Labels, Telemetry, outcome},
};

/// Makes one agent ready and calls it, inside its span.
///
/// Dropped before its result, the call is dropped and the span ends as `cancelled`.
pub(super) struct AgentRun<Req, T> {
    place: usize,
    name: Arc<str>,
    required: bool,
    state: State<Req, T>,
    telemetry: Telemetry,
}

enum State<Req, T> {
    Readying {
        agent: BoxCloneSyncService<Req, T, Error>,
        request: Req,
    },
    /// Boxed by the service, which is erased.
    Running(Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>),
    /// The agent could not even be cloned.
    Panicked(Option<Error>),
    Done,
}

// ===== impl AgentRun =====

impl<Req, T> AgentRun<Req, T> {
    /// Begins with an instance of the agent's own, which is made ready and then called.
    pub(super) fn new(
        place: usize,
        member: &Member<Req, T>,
        request: Req,
        labels: &Labels,
        swarm: &Telemetry,
    ) -> Self {
        let state = match Panic::catch(|| member.service.clone()) {
            Ok(agent) => State::Readying { agent, request },
            Err(panic) => State::Panicked(Some(panicked(panic))),
        };
        Self {
            place,
            name: Arc::clone(&member.name),
            required: member.required,
            state,
            telemetry: spans::agent(member, labels, swarm.span()),
        }
    }

    pub(super) const fn place(&self) -> usize {
        self.place
    }

    /// Ends the run without a result of its own.
    pub(super) fn give_up(&mut self, error: &Error) {
        self.end();
        spans::agent_failed(&mut self.telemetry, &self.name, self.required, error);
    }

    /// Drops the call inside the span: its layers may have something to tell of that.
    fn end(&mut self) {
        let state = std::mem::replace(&mut self.state, State::Done);
        self.telemetry.in_scope(|| drop_caught(state));
    }
}

// ===== impl State =====

impl<Req, T> State<Req, T>
where
    Req: 'static,
    T: 'static,
{
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<T, Error>> {
        loop {
            match self {
                // ## Readying => (Running | Done)
                Self::Readying { agent, .. } => {
                    if let Err(error) = ready!(agent.poll_ready(cx)) {
                        return Poll::Ready(Err(error));
                    }
                    let ready = std::mem::replace(self, Self::Done);
                    if let Self::Readying { mut agent, request } = ready {
                        *self = Self::Running(agent.call(request));
                        drop_caught(agent);
                    }
                }
                // ## Running => Done
                Self::Running(call) => return call.as_mut().poll(cx),
                // ## Panicked => Done
                Self::Panicked(error) => {
                    let error = error.take().expect("a panic is told once");
                    return Poll::Ready(Err(error));
                }
                Self::Done => unreachable!("a run that is done is polled no more"),
            }
        }
    }
}

impl<Req, T> Future for AgentRun<Req, T>
where
    Req: 'static,
    T: 'static,
{
    type Output = (usize, Result<T, Error>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let scope = this.telemetry.scope();
        let poll = this.state.poll(cx);
        scope.leave();
        let result = ready!(poll).map_err(|error| error.in_agent(Some(&this.name)));
        this.end();
        match &result {
            Ok(_) => this.telemetry.end(outcome::SUCCESS, |_| ()),
            Err(error) => {
                spans::agent_failed(&mut this.telemetry, &this.name, this.required, error);
            }
        }
        Poll::Ready((this.place, result))
    }
}

impl<Req, T> Drop for AgentRun<Req, T> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Nothing in it is pinned but what is in a box of its own.
impl<Req, T> Unpin for AgentRun<Req, T> {}

/// Drops what is an agent's: its panic must not reach the other agents.
fn drop_caught<T>(value: T) {
    drop(Panic::catch(|| drop(value)));
}
