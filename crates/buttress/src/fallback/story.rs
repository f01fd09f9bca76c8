//! The story of a chain: who was asked, how it went, and the spans that tell it.

use std::{fmt, sync::Arc};

use tower::util::BoxCloneSyncService;
use tracing::{Span, field::Empty};

use super::chain::Chain;
use crate::{
    AgentFailure, BoxError, CallBudget, Error, ErrorKind, Failure, Replay,
    rare::Rare,
    telemetry::{
        self, Labels, Spans, Telemetry, describe, json, level, outcome, outcome_of, record_failure,
        record_status, score,
    },
};

/// What there is to tell of a chain: made where somebody listens, or at its first failure.
pub(super) struct Story {
    /// The agent that is asked: 0 the primary, n the n-th fallback.
    agent: usize,
    /// Which agents were asked and failed, in that order.
    failures: Vec<AgentFailure>,
    /// The same as the span tells it; only where somebody listens.
    history: json::List,
    telemetry: Telemetry,
    attempt: Telemetry,
}

/// What follows a failure.
pub(super) enum Next<Req, Res> {
    Ask { service: BoxCloneSyncService<Req, Res, Error>, request: Req },
    End(Result<Res, Error>),
}

// ===== impl Story =====

impl Story {
    /// Opens the spans of a chain and its primary, if somebody may listen.
    #[inline(always)]
    pub(super) fn open(labels: &Labels, agents: usize) -> Rare<Self> {
        if Telemetry::nobody_listens() { Rare::NONE } else { Self::open_slowly(labels, agents) }
    }

    #[cold]
    fn open_slowly(labels: &Labels, agents: usize) -> Rare<Self> {
        let telemetry = chain_span(labels, agents);
        let Some(span) = telemetry.span() else { return Rare::NONE };
        let attempt = attempt_span(labels, span, 0);
        Rare::some(Self { telemetry, attempt, ..Self::untold() })
    }

    /// Begins a story that nobody listens to: what it comes to is in the chain's error.
    pub(super) fn untold() -> Self {
        Self {
            agent: 0,
            failures: Vec::new(),
            history: json::List::new(),
            telemetry: Telemetry::default(),
            attempt: Telemetry::default(),
        }
    }

    pub(super) const fn agent(&self) -> usize {
        self.agent
    }

    /// Ends a chain in which somebody answered.
    pub(super) fn succeed(&mut self) {
        if self.agent == 0 { self.succeed_at_once() } else { self.rescue() }
    }

    /// Ends a chain whose primary answered.
    fn succeed_at_once(&mut self) {
        self.attempt.end(outcome::SUCCESS, |_| ());
        self.telemetry.end(outcome::SUCCESS, |span| {
            span.record("fallback_level", 0_i64);
            span.record("primary_failed", false);
        });
    }

    /// Ends a chain in which a fallback answered.
    fn rescue(&mut self) {
        let agent = self.agent;
        self.attempt.end(outcome::SUCCESS, |_| ());
        self.telemetry.in_scope(|| {
            tracing::warn!(
                target: telemetry::LOG_TARGET,
                "Primary agent failed, fallback #{agent} succeeded"
            );
        });
        self.telemetry.score(
            score::FALLBACK_USED,
            true,
            format_args!("Primary agent failed, fallback #{agent} succeeded"),
        );
        let history = self.take_history();
        self.telemetry.end(outcome::SUCCESS, |span| {
            span.record("fallback_history", history);
            span.record("fallback_succeeded", true);
            span.record("fallback_level", as_i64(agent));
            span.record("primary_failed", true);
            record_status(
                span,
                level::WARNING,
                format_args!("Primary agent failed, fallback #{agent} succeeded"),
            );
        });
    }

    /// Notes a failure and decides what follows.
    pub(super) fn failed<Req, Res, C, Q, P: Replay<Req>>(
        &mut self,
        chain: &Chain<Req, Res, C, Q, P>,
        call_budget: Option<&CallBudget>,
        request: &mut Option<Req>,
        result: Result<Res, Error>,
        failure: Failure,
    ) -> Next<Req, Res> {
        let place = chain.next(self.agent, &failure);
        let request =
            if place.is_some() { request.take().map(|copy| (copy, request)) } else { None };
        let spent = call_budget.and_then(|budget| match &request {
            Some(_) => budget.take_attempt().err(),
            // An agent's own retries may have used it up.
            None => budget.exhausted(),
        });
        let (Some(place), Some((copy, slot)), None) = (place, request, spent) else {
            self.end_attempt(&failure, &result, level::ERROR);
            return Next::End(self.end(chain, spent, result, failure));
        };
        self.end_attempt(&failure, &result, level::WARNING);
        self.note(chain, result.err(), failure);
        // The last agent that can be asked gets the request itself.
        if place + 1 < chain.fallbacks.len() {
            *slot = chain.replay.replay(&copy);
        }
        self.agent = place + 1;
        let agent = self.agent;
        self.telemetry.in_scope(|| {
            tracing::info!(target: telemetry::LOG_TARGET, "Trying fallback agent #{agent}...");
        });
        if let Some(span) = self.telemetry.span() {
            self.attempt = attempt_span(&chain.labels, span, agent);
        }
        Next::Ask { service: chain.fallbacks[place].service.clone(), request: copy }
    }

    /// Ends the chain without success.
    fn end<Req, Res, C, Q, P>(
        &mut self,
        chain: &Chain<Req, Res, C, Q, P>,
        spent: Option<crate::BudgetLimit>,
        result: Result<Res, Error>,
        failure: Failure,
    ) -> Result<Res, Error> {
        let id = chain.labels.agent_id.as_ref();
        if let Some(limit) = spent {
            let error = Error::new(ErrorKind::BudgetExhausted { limit }).in_agent(id);
            let error = match result {
                Ok(_) => error.with_source(failure.clone()),
                Err(source) => error.with_source(source),
            };
            let message = format_args!("No agent is asked any more: {}", error.kind());
            self.give_up(error.failure(), &describe(&error), message);
            return Err(error);
        }
        // What the predicate ended, or what nobody else was asked for, comes through unchanged.
        let ended = failure.after_output() || !(chain.fall_back_when)(&failure);
        if self.agent == 0 || ended {
            match &result {
                Ok(_) => self.end_with(&failure, &failure),
                Err(error) => self.end_with(&failure, &describe(error)),
            }
            return result.map_err(|error| error.in_agent(id));
        }
        self.note(chain, result.err(), failure);
        let failures = std::mem::take(&mut self.failures);
        let error = Error::new(ErrorKind::FallbackExhausted { failures }).in_agent(id);
        let message = format_args!("All fallback agents exhausted");
        self.give_up(error.failure(), &describe(&error), message);
        Err(error)
    }

    /// Ends the span of a chain whose last failure comes through unchanged.
    fn end_with(&mut self, failure: &Failure, error: &dyn fmt::Display) {
        let (agent, kind) = (self.agent, AgentType(self.agent));
        if agent == 0 {
            self.give_up(failure, error, format_args!("Primary agent failed: {error}"));
        } else {
            let message = format_args!("Agent {agent} ({kind}) ended the chain: {error}");
            self.give_up(failure, error, message);
        }
    }

    fn note<Req, Res, C, Q, P>(
        &mut self,
        chain: &Chain<Req, Res, C, Q, P>,
        error: Option<Error>,
        failure: Failure,
    ) {
        let name = match self.agent {
            0 => &chain.primary_name,
            n => &chain.fallbacks[n - 1].name,
        };
        let error = error.map(|error| Box::new(error) as BoxError);
        self.failures.push(AgentFailure::new(Arc::clone(name), failure, error));
    }

    fn end_attempt<Res>(
        &mut self,
        failure: &Failure,
        result: &Result<Res, Error>,
        level: &'static str,
    ) {
        match result {
            Ok(_) => self.end_attempt_with(failure, failure, level),
            Err(error) => self.end_attempt_with(failure, &describe(error), level),
        }
    }

    fn end_attempt_with(
        &mut self,
        failure: &Failure,
        error: &dyn fmt::Display,
        level: &'static str,
    ) {
        let (agent, kind) = (self.agent, AgentType(self.agent));
        self.telemetry.in_scope(|| {
            tracing::warn!(target: telemetry::LOG_TARGET, "Agent {agent} failed: {error}");
        });
        if self.telemetry.span().is_some() {
            self.history.push(|object| {
                object.number("agent_index", agent);
                object.text("agent_type", &kind);
                object.text("error", error);
                object.text("error_type", &failure.kind());
            });
        }
        self.attempt.end(outcome_of(failure), |span| {
            record_failure(span, failure, error);
            let message = format_args!("Agent {agent} ({kind}) failed: {error}");
            record_status(span, level, message);
        });
    }

    fn give_up(
        &mut self,
        failure: &Failure,
        error: &dyn fmt::Display,
        message: fmt::Arguments<'_>,
    ) {
        if self.agent > 0 {
            self.telemetry.score(score::FALLBACK_USED, true, message);
        }
        let history = self.take_history();
        self.telemetry.end(outcome_of(failure), |span| {
            span.record("fallback_history", history);
            span.record("fallback_succeeded", false);
            span.record("primary_failed", true);
            record_failure(span, failure, error);
            record_status(span, level::ERROR, message);
        });
    }

    fn take_history(&mut self) -> String {
        std::mem::replace(&mut self.history, json::List::new()).into_text()
    }
}

impl Spans for Story {
    #[cold]
    fn enter(&self) {
        self.telemetry.enter();
        self.attempt.enter();
    }

    #[cold]
    fn exit(&self) {
        self.attempt.exit();
        self.telemetry.exit();
    }

    #[cold]
    fn panicked(&self) {
        self.attempt.panicked();
        self.telemetry.panicked();
    }
}

/// Shows the place of an agent in the seed's words: `primary`, `fallback_1`.
struct AgentType(usize);

impl fmt::Display for AgentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => f.write_str("primary"),
            n => write!(f, "fallback_{n}"),
        }
    }
}

fn chain_span(labels: &Labels, agents: usize) -> Telemetry {
    Telemetry::open(|| {
        tracing::info_span!(
            target: telemetry::TARGET,
            telemetry::span::FALLBACK,
            agent_id = labels.agent_id(),
            metadata = labels.metadata(),
            total_agents = as_i64(agents),
            fallback_history = Empty,
            fallback_succeeded = Empty,
            fallback_level = Empty,
            primary_failed = Empty,
            outcome = Empty,
            failure_kind = Empty,
            error = Empty,
            error_type = Empty,
            level = Empty,
            status_message = Empty,
        )
    })
}

fn attempt_span(labels: &Labels, chain: &Span, agent: usize) -> Telemetry {
    Telemetry::open(|| {
        tracing::info_span!(
            target: telemetry::TARGET,
            parent: chain,
            telemetry::span::FALLBACK_ATTEMPT,
            agent_id = labels.agent_id(),
            metadata = labels.metadata(),
            agent_index = as_i64(agent),
            agent_type = %AgentType(agent),
            outcome = Empty,
            failure_kind = Empty,
            error = Empty,
            error_type = Empty,
            level = Empty,
            status_message = Empty,
        )
    })
}

fn as_i64(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
