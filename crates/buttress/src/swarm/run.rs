//! One call of a swarm: which agents run, what they came to, and when that is enough.

use std::{
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};

use super::{
    Finding, Member, Settings, SwarmFailure, SwarmReport, agent_run::AgentRun, report::share, spans,
};
use crate::{Error, ErrorKind, telemetry::Telemetry};

pub(super) struct Run<Req, T, R> {
    // Dropped before the span of the swarm ends.
    /// Polls only those that were woken, however many there are.
    running: FuturesUnordered<AgentRun<Req, T>>,
    settings: Arc<Settings<Req, T, R>>,
    /// None once the last agent has it, or the swarm has ended.
    request: Option<Req>,
    /// How many agents were started.
    started: usize,
    /// By the place of the agent.
    results: Vec<Option<Result<T, Error>>>,
    found: usize,
    /// How many of the required agents have failed.
    failed: usize,
    telemetry: Telemetry,
}

// ===== impl Run =====

impl<Req, T, R> Run<Req, T, R>
where
    Req: Clone + 'static,
    T: 'static,
{
    pub(super) fn new(settings: Arc<Settings<Req, T, R>>, request: Req) -> Self {
        Self {
            running: FuturesUnordered::new(),
            telemetry: spans::swarm(&settings),
            request: Some(request),
            started: 0,
            results: settings.members.iter().map(|_| None).collect(),
            found: 0,
            failed: 0,
            settings,
        }
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        self.settings.deadline
    }

    /// Polls the agents that were woken, until all have a result or no more are needed.
    pub(super) fn poll_agents(&mut self, cx: &mut Context<'_>) -> Poll<Result<R, Error>> {
        loop {
            self.start();
            let Some((place, result)) = ready!(self.running.poll_next_unpin(cx)) else {
                return Poll::Ready(self.end());
            };
            self.settle(place, result);
            if self.is_critical() || self.settings.quorum == Some(self.found) {
                return Poll::Ready(self.end());
            }
        }
    }

    /// Counts the agents that have no result as timed out.
    pub(super) fn time_out(&mut self, after: Duration) -> Result<R, Error> {
        let late = |member: &Member<Req, T>| {
            Error::new(ErrorKind::timeout(after)).with_agent(Arc::clone(&member.name))
        };
        let settings = Arc::clone(&self.settings);
        let mut late_runs: Vec<_> = std::mem::take(&mut self.running).into_iter().collect();
        late_runs.sort_unstable_by_key(AgentRun::place);
        for mut run in late_runs {
            let place = run.place();
            let error = late(&settings.members[place]);
            run.give_up(&error);
            self.settle(place, Err(error));
        }
        // Those whose turn had not come.
        for &place in &settings.order[self.started..] {
            let member = &settings.members[place];
            let error = late(member);
            let mut span = spans::agent(member, &settings.labels, self.telemetry.span());
            spans::agent_failed(&mut span, &member.name, member.required, &error);
            self.settle(place, Err(error));
        }
        self.end()
    }

    /// Starts agents up to the bound.
    fn start(&mut self) {
        while self.running.len() < self.settings.concurrency {
            let Some(&place) = self.settings.order.get(self.started) else { return };
            self.started += 1;
            // The last agent gets the request itself.
            let is_last = self.started == self.settings.order.len();
            let request = if is_last { self.request.take() } else { self.request.clone() };
            let Some(request) = request else { return };
            let member = &self.settings.members[place];
            let labels = &self.settings.labels;
            self.running.push(AgentRun::new(place, member, request, labels, &self.telemetry));
        }
    }

    fn settle(&mut self, place: usize, result: Result<T, Error>) {
        match &result {
            Ok(_) => self.found += 1,
            Err(_) if self.settings.members[place].required => self.failed += 1,
            Err(_) => (),
        }
        self.results[place] = Some(result);
    }

    fn is_critical(&self) -> bool {
        self.failed > self.settings.tolerated
    }

    /// Cancels what still runs and makes the answer of what is there.
    fn end(&mut self) -> Result<R, Error> {
        self.running.clear();
        self.request = None;
        let report = self.report();
        if self.is_critical() {
            return Err(self.critical(report));
        }
        spans::report(&self.telemetry, &report);
        let settings = &self.settings;
        let answer = self.telemetry.in_scope(|| (settings.synthesize)(report));
        spans::reported(&mut self.telemetry);
        Ok(answer)
    }

    fn report(&mut self) -> SwarmReport<T> {
        let (mut findings, mut failures, mut not_needed) = (Vec::new(), Vec::new(), Vec::new());
        for (member, result) in self.settings.members.iter().zip(std::mem::take(&mut self.results))
        {
            let Member { name, required, .. } = member;
            match result {
                Some(Ok(value)) => findings.push(Finding::new(Arc::clone(name), *required, value)),
                Some(Err(error)) => {
                    failures.push(SwarmFailure::new(Arc::clone(name), *required, error));
                }
                None => not_needed.push(Arc::clone(name)),
            }
        }
        SwarmReport::new(findings, failures, not_needed)
    }

    fn critical(&mut self, report: SwarmReport<T>) -> Error {
        let settings = &self.settings;
        let failure_rate = share(self.failed, settings.required);
        let (_, failures) = report.into_parts();
        let error = Error::new(ErrorKind::CriticalDegradation {
            swarm: Arc::clone(&settings.name),
            failures,
            failure_rate,
            threshold: settings.threshold,
        });
        spans::critical(&mut self.telemetry, &error);
        error
    }
}
