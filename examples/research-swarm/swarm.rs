//! The swarm: four analysts side by side, each an agent of its own.

use std::{sync::Arc, time::Duration};

use buttress::{
    BoxStore, CheckpointLayer, Circuit, CircuitBreakerLayer, Classify as _, Error, ErrorKind,
    ExponentialBackoff, FaultTolerantAgent, InWorkflow, Order, Outcome, RetryLayer, WorkflowId,
    checkpoint::WhenUnavailable, telemetry,
};
use bytes::Bytes;
use http::Response;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tower::{Layer as _, ServiceBuilder, ServiceExt as _, util::BoxCloneSyncService};
use tracing::{Instrument as _, Span, field::Empty};

use crate::{
    analysts::{Analyst, Facts},
    llm::{
        CallFailure, CallFailures, ChatClassifier, ChatModel, Endpoint, HttpClient, Question, Reply,
    },
    prices::Prices,
    progress::Progress,
};

/// Every pattern around a model, and a memo around all of them where there is a store.
type Agent = BoxCloneSyncService<InWorkflow<Question>, Answer, Error>;

/// How patient the agents are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For one attempt.
    timeout: Duration,
    /// Before the second attempt.
    base_delay: Duration,
    /// The failures in a row that open a circuit.
    failures: u32,
    /// Until an open circuit is tried again.
    open_for: Duration,
}

/// Four analysts and the models that phrase for them.
#[derive(Debug)]
pub(crate) struct Swarm {
    agents: Vec<(Analyst, Agent)>,
    failures: CallFailures,
    /// Kept, since dropping a subscription ends it.
    _subscriptions: Vec<buttress::circuit_breaker::Subscription>,
}

/// What is kept of a model's answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Answer {
    text: String,
    model: Option<String>,
}

/// What the analysts found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Survey {
    pub(crate) findings: Vec<Finding>,
    pub(crate) missing: Vec<Missing>,
    /// How single calls failed, also those of analysts that were answered in the end.
    #[serde(skip)]
    pub(crate) failures: Vec<CallFailure>,
}

/// What one analyst found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Finding {
    pub(crate) analyst: Analyst,
    pub(crate) text: String,
    /// The model that phrased it.
    pub(crate) model: Option<String>,
    pub(crate) facts: Facts,
}

/// Why one analyst's finding is missing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Missing {
    pub(crate) analyst: Analyst,
    pub(crate) failure_kind: String,
    pub(crate) reason: String,
}

/// How much of the report is there, by the seed's thresholds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Degradation {
    Full,
    Degraded,
    Minimal,
}

// ===== impl Patience =====

impl Patience {
    /// The defaults of the library: a real model may think for a while.
    pub(crate) const REAL: Self = Self {
        timeout: Duration::from_secs(30),
        base_delay: Duration::from_secs(1),
        failures: 5,
        open_for: Duration::from_secs(30),
    };

    /// For the embedded server, which answers in milliseconds or not at all.
    pub(crate) const EMBEDDED: Self = Self {
        timeout: Duration::from_secs(1),
        base_delay: Duration::from_millis(50),
        failures: 2,
        open_for: Duration::from_secs(5),
    };
}

// ===== impl Swarm =====

impl Swarm {
    /// Builds an agent for each analyst; they share one circuit for each model.
    ///
    /// With a store each is asked once in a workflow, however often that is resumed.
    pub(crate) fn new(
        endpoint: &Arc<Endpoint>,
        patience: Patience,
        order: Order,
        store: Option<&BoxStore>,
        progress: &Progress,
    ) -> Self {
        let client = HttpClient::new();
        let failures = CallFailures::default();
        let model = |name: &str| {
            ChatModel::new(client.clone(), Arc::clone(endpoint), name).failures(failures.clone())
        };
        let circuit = |name: &str| {
            let layer = CircuitBreakerLayer::new(name).consecutive_failures(patience.failures);
            layer.open_for(patience.open_for).circuit()
        };
        let primary = circuit(endpoint.model());
        let backup = endpoint.backup_model().map(|name| (name, circuit(name)));

        let agents = Analyst::ALL.map(|analyst| {
            let mut agent = FaultTolerantAgent::builder(analyst.name())
                .classify(ChatClassifier::new())
                .timeout(patience.timeout)
                .retry(RetryLayer::new(3).backoff(ExponentialBackoff::new(patience.base_delay)))
                .circuit(primary.clone())
                .order(order);
            if let Some((name, circuit)) = &backup {
                agent = agent.fallback_with_circuit(*name, model(name), circuit.clone());
            }
            let agent = answering(agent.service(model(endpoint.model())), endpoint);
            (analyst, with_memo(analyst, agent, store))
        });
        let circuits = std::iter::once(&primary).chain(backup.iter().map(|(_, circuit)| circuit));
        Self {
            agents: agents.into(),
            failures,
            _subscriptions: circuits.map(|circuit| show(circuit, progress)).collect(),
        }
    }

    /// Lets every analyst look at the prices and have the finding phrased.
    ///
    /// # Cancellation
    ///
    /// Dropping the future stops every analyst.
    pub(crate) async fn run(&self, prices: &Prices, workflow: &WorkflowId) -> Survey {
        let mut analysts = JoinSet::new();
        for (analyst, agent) in &self.agents {
            let facts = analyst.analyse(prices);
            let question = Question::new(analyst.name(), prices.ticker(), facts.sentences());
            let question = InWorkflow::new(workflow.clone(), question)
                .idempotency_key(format!("{analyst}/{}", prices.ticker()));
            let answer = ask(*analyst, agent.clone(), question, facts);
            analysts.spawn(answer.in_current_span());
        }
        let mut survey = Survey::default();
        while let Some(result) = analysts.join_next().await {
            match result.expect("an agent catches the panics of its models") {
                Ok(finding) => survey.findings.push(finding),
                Err(missing) => survey.missing.push(missing),
            }
        }
        survey.sort();
        survey.failures = self.failures.to_vec();
        survey
    }
}

fn show(circuit: &Circuit, progress: &Progress) -> buttress::circuit_breaker::Subscription {
    let progress = progress.clone();
    let name = circuit.name().to_owned();
    circuit.subscribe(move |transition| progress.circuit(&name, &transition.to))
}

/// Makes the HTTP answers of an agent what is kept of them.
fn answering(
    agent: FaultTolerantAgent<ChatModel, Question, ChatClassifier>,
    endpoint: &Arc<Endpoint>,
) -> Agent {
    let endpoint = Arc::clone(endpoint);
    let service = ServiceBuilder::new()
        .map_request(|asked: InWorkflow<Question>| asked.request)
        .map_result(move |answer: Result<_, Error>| read(&answer?, &endpoint))
        .service(agent);
    Agent::new(service)
}

/// Lets an agent that has answered, or failed for good, not be asked again.
fn with_memo(analyst: Analyst, agent: Agent, store: Option<&BoxStore>) -> Agent {
    let Some(store) = store else { return agent };
    let memo = CheckpointLayer::new(store.clone(), analyst.name())
        .memo()
        .agent_id(analyst.name())
        .when_unavailable(WhenUnavailable::GO_ON)
        .layer(agent.clone());
    // An answer that can be neither read from the store nor kept there costs one more call: better
    // than a report without it.
    let service = tower::service_fn(move |asked: InWorkflow<Question>| {
        let (memo, agent) = (memo.clone(), agent.clone());
        async move {
            match memo.oneshot(asked.clone()).await {
                Err(error) if matches!(error.kind(), ErrorKind::Checkpoint) => {
                    agent.oneshot(asked).await
                }
                answer => answer,
            }
        }
    });
    Agent::new(service)
}

fn read(answer: &Response<Bytes>, endpoint: &Endpoint) -> Result<Answer, Error> {
    // Where no other agent was left to ask, a refusal such as a 401 comes through as it is.
    let outcome = ChatClassifier::new().classify(Ok(answer));
    match (outcome, Reply::read(answer.body(), endpoint.secrets())) {
        (Outcome::Failure(failure), _) => Err(Error::new(ErrorKind::Service).with_failure(failure)),
        (_, Some(Reply { text, model, .. })) => Ok(Answer { text, model }),
        (_, None) => unreachable!("the classifier takes only readable answers as a success"),
    }
}

async fn ask(
    analyst: Analyst,
    agent: Agent,
    question: InWorkflow<Question>,
    facts: Facts,
) -> Result<Finding, Missing> {
    match agent.oneshot(question).await {
        Ok(Answer { text, model }) => Ok(Finding { analyst, text, model, facts }),
        Err(error) => Err(Missing::new(analyst, &error)),
    }
}

// ===== impl Survey =====

impl Survey {
    /// Returns the share of the analysts that answered.
    pub(crate) fn success_rate(&self) -> f64 {
        let total = self.findings.len() + self.missing.len();
        if total == 0 { 1.0 } else { self.findings.len() as f64 / total as f64 }
    }

    pub(crate) fn degradation(&self) -> Degradation {
        Degradation::of(self.success_rate())
    }

    fn sort(&mut self) {
        let place = |analyst: Analyst| Analyst::ALL.iter().position(|known| *known == analyst);
        self.findings.sort_by_key(|finding| place(finding.analyst));
        self.missing.sort_by_key(|missing| place(missing.analyst));
    }
}

// ===== impl Degradation =====

impl Degradation {
    const fn of(success_rate: f64) -> Self {
        if success_rate < 0.5 {
            Self::Minimal
        } else if success_rate < 0.8 {
            Self::Degraded
        } else {
            Self::Full
        }
    }

    pub(crate) const fn level(self) -> u8 {
        match self {
            Self::Full => 0,
            Self::Degraded => 1,
            Self::Minimal => 2,
        }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Degraded => "degraded",
            Self::Minimal => "minimal",
        }
    }
}

/// The span of the whole run; dropped before its end, the run was interrupted.
#[derive(Debug)]
pub(crate) struct RunSpan {
    span: Span,
    ended: bool,
}

impl RunSpan {
    pub(crate) fn open() -> Self {
        let agents = i64::try_from(Analyst::ALL.len()).expect("there are four");
        let span = tracing::info_span!(
            target: telemetry::TARGET,
            "research_swarm_with_degradation",
            observation_type = "chain",
            metadata = Empty,
            required_agents_count = 0_i64,
            optional_agents_count = agents,
            total_agents = agents,
            degradation_level = Empty,
            success_rate = Empty,
            successful_agents = Empty,
            failed_agents = Empty,
            outcome = Empty,
            level = Empty,
            status_message = Empty,
        );
        Self { span, ended: false }
    }

    pub(crate) const fn span(&self) -> &Span {
        &self.span
    }

    /// Names what the run is about, which a resumed one does not know from the beginning.
    pub(crate) fn about(&self, ticker: &str) {
        self.span.record("metadata", serde_json::json!({ "ticker": ticker }).to_string());
    }

    /// Ends a run that came to no survey.
    pub(crate) fn fail(mut self, why: &str) {
        self.ended = true;
        self.status(telemetry::level::ERROR, why);
        self.span.record(telemetry::key::OUTCOME, telemetry::outcome::FAILURE);
    }

    pub(crate) fn end(mut self, survey: &Survey) {
        self.ended = true;
        let span = &self.span;
        let failed: Vec<_> = survey.missing.iter().map(|missing| missing.analyst.name()).collect();
        let (level, rate) = (survey.degradation(), survey.success_rate());
        span.record("degradation_level", i64::from(level.level()));
        span.record("success_rate", rate);
        span.record("successful_agents", i64::try_from(survey.findings.len()).unwrap_or(i64::MAX));
        span.record("failed_agents", serde_json::json!(failed).to_string());
        span.in_scope(|| {
            tracing::info!(
                target: telemetry::SCORE_TARGET,
                name = "degradation_level",
                value = f64::from(level.level()),
                comment = format!("Success rate: {:.1}%", rate * 100.0),
            );
        });
        let outcome = if survey.findings.is_empty() {
            self.status(telemetry::level::ERROR, "Every analyst failed");
            telemetry::outcome::FAILURE
        } else {
            if !failed.is_empty() {
                let message = format!("{}, without {}", level.as_str(), failed.join(", "));
                self.status(telemetry::level::WARNING, &message);
            }
            telemetry::outcome::SUCCESS
        };
        self.span.record(telemetry::key::OUTCOME, outcome);
    }

    fn status(&self, level: &'static str, message: &str) {
        self.span.record(telemetry::key::LEVEL, level);
        self.span.record(telemetry::key::STATUS_MESSAGE, message);
    }
}

impl Drop for RunSpan {
    fn drop(&mut self) {
        if !self.ended {
            self.status(telemetry::level::WARNING, "The run was interrupted");
            self.span.record(telemetry::key::OUTCOME, telemetry::outcome::CANCELLED);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thresholds_are_the_seeds() {
        assert_eq!(Degradation::of(1.0), Degradation::Full);
        assert_eq!(Degradation::of(0.8), Degradation::Full);
        assert_eq!(Degradation::of(0.75), Degradation::Degraded);
        assert_eq!(Degradation::of(0.5), Degradation::Degraded);
        assert_eq!(Degradation::of(0.25), Degradation::Minimal);
    }

    #[test]
    fn an_empty_survey_divides_nothing_by_zero() {
        assert_eq!(Survey::default().degradation(), Degradation::Full);
    }
}
