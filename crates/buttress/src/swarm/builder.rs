use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use tower::{Layer, Service, ServiceExt, util::BoxCloneSyncService};

use super::{Member, Settings, Swarm, SwarmReport, report::share};
use crate::{
    AnyError, BoxError, CatchPanicLayer, Classify, ConfigError, Error, ErrorKind, Outcome,
    classify::into_error, telemetry::Labels,
};

/// Builds a [`Swarm`]; made by [`Swarm::builder`].
///
/// # Defaults
///
/// - `critical_failure_rate`: 0.3 (the seed's)
/// - `concurrency`: 64
/// - `deadline`, `quorum`: none
/// - `classify`: [`AnyError`]
/// - `synthesize`: the [`SwarmReport`] as it is
#[must_use = "a builder does nothing until `build` is called"]
pub struct SwarmBuilder<Req, T, C = AnyError, R = SwarmReport<T>> {
    name: Arc<str>,
    members: Vec<Member<Req, T>>,
    threshold: f64,
    concurrency: usize,
    deadline: Option<Duration>,
    quorum: Option<usize>,
    metadata: Option<Arc<str>>,
    classify: C,
    synthesize: Arc<dyn Fn(SwarmReport<T>) -> R + Send + Sync>,
}

// ===== impl SwarmBuilder =====

impl<Req, T> SwarmBuilder<Req, T> {
    pub(super) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            members: Vec::new(),
            threshold: 0.3,
            concurrency: 64,
            deadline: None,
            quorum: None,
            metadata: None,
            classify: AnyError,
            synthesize: Arc::new(|report| report),
        }
    }
}

impl<Req, T, C, R> SwarmBuilder<Req, T, C, R> {
    /// Adds an agent whose failure counts towards the critical rate.
    pub fn required<S>(self, name: impl Into<Arc<str>>, agent: S) -> Self
    where
        S: Service<Req, Response = T> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError> + 'static,
        S::Future: Send + 'static,
        C: Classify<T, S::Error> + Clone + Send + Sync + 'static,
        Req: 'static,
        T: 'static,
    {
        self.add(name.into(), true, agent)
    }

    /// Adds an agent that may fail: the report is degraded, and that is all.
    pub fn optional<S>(self, name: impl Into<Arc<str>>, agent: S) -> Self
    where
        S: Service<Req, Response = T> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError> + 'static,
        S::Future: Send + 'static,
        C: Classify<T, S::Error> + Clone + Send + Sync + 'static,
        Req: 'static,
        T: 'static,
    {
        self.add(name.into(), false, agent)
    }

    fn add<S>(mut self, name: Arc<str>, required: bool, agent: S) -> Self
    where
        S: Service<Req, Response = T> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError> + 'static,
        S::Future: Send + 'static,
        C: Classify<T, S::Error> + Clone + Send + Sync + 'static,
        Req: 'static,
        T: 'static,
    {
        // Answers and errors are classified here, where their types are still known.
        let (of_answers, of_errors) = (self.classify.clone(), self.classify.clone());
        let agent = agent
            .map_err(move |error| into_error::<T, _, _>(&of_errors, error))
            .map_result(move |result| {
                result.and_then(|answer| judge::<T, S::Error, C>(answer, &of_answers))
            });
        let agent = CatchPanicLayer::new().layer(agent);
        // Erased, since the agents of one swarm differ in type.
        let service = BoxCloneSyncService::new(agent);
        self.members.push(Member { name, required, service });
        self
    }

    /// Sets what counts as a failure, for the agents that are added afterwards.
    pub fn classify<D>(self, classify: D) -> SwarmBuilder<Req, T, D, R> {
        SwarmBuilder {
            name: self.name,
            members: self.members,
            threshold: self.threshold,
            concurrency: self.concurrency,
            deadline: self.deadline,
            quorum: self.quorum,
            metadata: self.metadata,
            classify,
            synthesize: self.synthesize,
        }
    }

    /// Makes the report what the caller wants to have, such as a text.
    ///
    /// It is called once for each report, and its panic goes on unwinding.
    pub fn synthesize<R2>(
        self,
        synthesize: impl Fn(SwarmReport<T>) -> R2 + Send + Sync + 'static,
    ) -> SwarmBuilder<Req, T, C, R2> {
        SwarmBuilder {
            name: self.name,
            members: self.members,
            threshold: self.threshold,
            concurrency: self.concurrency,
            deadline: self.deadline,
            quorum: self.quorum,
            metadata: self.metadata,
            classify: self.classify,
            synthesize: Arc::new(synthesize),
        }
    }

    /// Sets the share of required agents that may fail; when more have failed, the swarm fails.
    ///
    /// The share is of all required agents, also of those that have no result yet.
    pub const fn critical_failure_rate(mut self, rate: f64) -> Self {
        self.threshold = rate;
        self
    }

    /// Sets how many agents run at the same time.
    pub const fn concurrency(mut self, agents: usize) -> Self {
        self.concurrency = agents;
        self
    }

    /// Sets how long the swarm waits: it then reports what is there.
    ///
    /// The time starts at the first poll that is pending. Agents that have no result when it ends
    /// have timed out, also those whose turn had not come.
    pub const fn deadline(mut self, after: Duration) -> Self {
        self.deadline = Some(after);
        self
    }

    /// Sets how many findings are enough: the rest is cancelled, and counts neither as a finding
    /// nor as a failure.
    pub const fn quorum(mut self, findings: usize) -> Self {
        self.quorum = Some(findings);
        self
    }

    /// Sets a JSON object that every span of the swarm carries.
    pub fn metadata(mut self, json: impl Into<Arc<str>>) -> Self {
        self.metadata = Some(json.into());
        self
    }

    /// Builds the swarm.
    ///
    /// # Errors
    ///
    /// A [`ConfigError`] where a name is empty or stands twice, there is no agent, the rate is not
    /// within 0 and 1, the concurrency or the deadline is zero, or the quorum is zero or more than
    /// there are agents.
    pub fn build(self) -> Result<Swarm<Req, T, R>, ConfigError> {
        self.check()?;
        let required = self.members.iter().filter(|member| member.required).count();
        let mut order: Vec<usize> = (0..self.members.len()).collect();
        // Stable, so that it keeps the order in which they were added.
        order.sort_by_key(|&place| !self.members[place].required);
        let settings = Settings {
            span_name: format!("{}_with_degradation", self.name),
            name: self.name,
            labels: Labels { agent_id: None, metadata: self.metadata },
            members: self.members,
            order,
            required,
            threshold: self.threshold,
            tolerated: tolerated(required, self.threshold),
            concurrency: self.concurrency,
            deadline: self.deadline,
            quorum: self.quorum,
            synthesize: self.synthesize,
        };
        Ok(Swarm { settings: Arc::new(settings) })
    }

    fn check(&self) -> Result<(), ConfigError> {
        let fail = |field, message: &str| Err(ConfigError::new(field, message));
        if self.name.is_empty() {
            return fail("name", "must not be empty");
        }
        if self.members.is_empty() {
            return fail("agents", "there must be at least one");
        }
        let mut names = HashSet::new();
        for Member { name, .. } in &self.members {
            if name.is_empty() {
                return fail("agents", "a name must not be empty");
            }
            if !names.insert(name) {
                return fail("agents", &format!("{name:?} stands twice"));
            }
        }
        // Not a number is within nothing.
        if !(0.0..=1.0).contains(&self.threshold) {
            return fail("critical_failure_rate", "must be within 0 and 1");
        }
        if self.concurrency == 0 {
            return fail("concurrency", "must be at least 1");
        }
        if self.deadline.is_some_and(|after| after.is_zero()) {
            return fail("deadline", "must be longer than zero");
        }
        match self.quorum {
            Some(0) => fail("quorum", "must be at least 1"),
            Some(quorum) if quorum > self.members.len() => {
                fail("quorum", "must not be more than there are agents")
            }
            _ => Ok(()),
        }
    }
}

impl<Req, T, C, R> fmt::Debug for SwarmBuilder<Req, T, C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let agents: Vec<_> = self.members.iter().map(|member| &member.name).collect();
        f.debug_struct("SwarmBuilder")
            .field("name", &self.name)
            .field("agents", &agents)
            .field("critical_failure_rate", &self.threshold)
            .field("concurrency", &self.concurrency)
            .field("deadline", &self.deadline)
            .field("quorum", &self.quorum)
            .finish_non_exhaustive()
    }
}

/// Makes an answer that is classified as a failure an error.
fn judge<T, E, C: Classify<T, E>>(answer: T, classify: &C) -> Result<T, Error> {
    match classify.classify(Ok(&answer)) {
        Outcome::Success | Outcome::Neutral => Ok(answer),
        Outcome::Failure(failure) => {
            Err(Error::new(ErrorKind::Service).with_failure(failure.clone()).with_source(failure))
        }
    }
}

/// Returns how many of the required agents may fail without exceeding the rate.
///
/// A quotient is rounded as the literal of a rate is: 3 / 10 and 0.3 are the same double.
fn tolerated(required: usize, rate: f64) -> usize {
    (0..=required).take_while(|&failed| share(failed, required) <= rate).last().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::tolerated;

    #[test]
    fn a_rate_tolerates_what_it_says_to_the_last_agent() {
        for (required, rate, expected) in [
            (0, 0.3, 0),
            (1, 0.3, 0),
            (3, 0.3, 0),
            (4, 0.3, 1),
            (10, 0.3, 3),
            (10, 0.0, 0),
            (10, 1.0, 10),
            (10, 0.7, 7),
            (1_000, 0.3, 300),
            (1_000, 0.001, 1),
            (7, 3.0 / 7.0, 3),
        ] {
            assert_eq!(tolerated(required, rate), expected, "{rate} of {required}");
        }
    }
}
