//! The fallbacks of a chain and what leads from one agent to the next.

use std::{fmt, sync::Arc};

use tower::util::BoxCloneSyncService;

use crate::{Failure, FailureKind, telemetry::Labels};

pub(super) struct Chain<Req, Res, C, Q, P> {
    pub(super) primary_name: Arc<str>,
    pub(super) fallbacks: Arc<[Fallback<Req, Res>]>,
    pub(super) fall_back_when: fn(&Failure) -> bool,
    pub(super) classify: C,
    pub(super) call_budget: Q,
    pub(super) replay: P,
    pub(super) labels: Labels,
}

pub(super) struct Fallback<Req, Res> {
    pub(super) name: Arc<str>,
    /// The only kind of failure it is asked for.
    pub(super) kind: Option<FailureKind>,
    /// Boxed, since the agents of a chain differ in type; touched only after a failure.
    pub(super) service: BoxCloneSyncService<Req, Res, crate::Error>,
}

// ===== impl Chain =====

impl<Req, Res, C, Q, P> Chain<Req, Res, C, Q, P> {
    /// Returns the place of the next agent after a failure, if the chain goes on.
    pub(super) fn next(&self, from: usize, failure: &Failure) -> Option<usize> {
        if failure.after_output() || !(self.fall_back_when)(failure) {
            return None;
        }
        (from..self.fallbacks.len())
            .find(|&place| self.fallbacks[place].kind.is_none_or(|kind| kind == failure.kind()))
    }
}

impl<Req, Res, C: Clone, Q: Clone, P: Clone> Clone for Chain<Req, Res, C, Q, P> {
    fn clone(&self) -> Self {
        Self {
            primary_name: Arc::clone(&self.primary_name),
            fallbacks: Arc::clone(&self.fallbacks),
            fall_back_when: self.fall_back_when,
            classify: self.classify.clone(),
            call_budget: self.call_budget.clone(),
            replay: self.replay.clone(),
            labels: self.labels.clone(),
        }
    }
}

impl<Req, Res, C, Q, P> fmt::Debug for Chain<Req, Res, C, Q, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.fallbacks.iter().map(|fallback| &fallback.name);
        f.debug_list().entry(&self.primary_name).entries(names).finish()
    }
}

impl<Req, Res> Clone for Fallback<Req, Res> {
    fn clone(&self) -> Self {
        Self { name: Arc::clone(&self.name), kind: self.kind, service: self.service.clone() }
    }
}

/// The default: every failure but those that all agents would share, or that nobody waits for.
pub(super) const fn unless_shared(failure: &Failure) -> bool {
    !matches!(failure.kind(), FailureKind::InvalidRequest | FailureKind::Cancelled)
}
