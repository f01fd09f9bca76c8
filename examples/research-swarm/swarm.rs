//! The swarm: five analysts side by side, each an agent of its own.

use std::{sync::Arc, time::Duration};

use buttress::{
    BoxStore, CheckpointLayer, Circuit, CircuitBreakerLayer, Classify as _, Error, ErrorKind,
    ExponentialBackoff, FaultTolerantAgent, InWorkflow, Order, Outcome, RetryLayer, SwarmReport,
    checkpoint::WhenUnavailable, circuit_breaker::HalfOpen,
};
use bytes::Bytes;
use http::Response;
use serde::{Deserialize, Serialize};
use tower::{
    Layer as _, Service, ServiceBuilder, ServiceExt as _, service_fn, util::BoxCloneSyncService,
};

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

/// How many calls at once may find out whether a model is back: one of each analyst.
const PROBES: u32 = 5;

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
    /// How long the whole swarm waits for that, before it is asked once more.
    longest_wait: Duration,
}

/// Five analysts and the models that phrase for them.
#[derive(Debug)]
pub(crate) struct Swarm {
    swarm: buttress::Swarm<InWorkflow<Arc<Prices>>, Finding, Survey>,
    patience: Patience,
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
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Survey {
    pub(crate) findings: Vec<Finding>,
    pub(crate) missing: Vec<Missing>,
    pub(crate) degradation: Degradation,
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

/// How much of the survey is missing, as the swarm has judged it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Degradation {
    pub(crate) level: i64,
    pub(crate) name: String,
    pub(crate) success_rate: f64,
}

// ===== impl Patience =====

impl Patience {
    /// The defaults of the library: a real model may think for a while.
    pub(crate) const REAL: Self = Self {
        timeout: Duration::from_secs(30),
        base_delay: Duration::from_secs(1),
        failures: 5,
        open_for: Duration::from_secs(30),
        longest_wait: Duration::from_secs(10),
    };

    /// For the embedded server, which answers in milliseconds or not at all.
    pub(crate) const EMBEDDED: Self = Self {
        timeout: Duration::from_secs(1),
        base_delay: Duration::from_millis(50),
        failures: 2,
        open_for: Duration::from_secs(5),
        longest_wait: Duration::from_secs(10),
    };

    /// Asks a swarm again that has failed: while its circuits are open, once they are not.
    pub(crate) fn retry(self) -> RetryLayer {
        RetryLayer::new(2)
            .backoff(ExponentialBackoff::new(self.base_delay))
            .max_retry_after(self.longest_wait)
    }

    /// Returns whether it is worth while to wait so long.
    pub(crate) fn waits(self, wait: Option<Duration>) -> bool {
        wait.is_none_or(|wait| wait <= self.longest_wait)
    }
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
        ticker: &str,
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
            let probes = HalfOpen::consecutive(PROBES, PROBES);
            layer.open_for(patience.open_for).half_open(probes).circuit()
        };
        let primary = circuit(endpoint.model());
        let backup = endpoint.backup_model().map(|name| (name, circuit(name)));

        let mut swarm = buttress::Swarm::builder("research_swarm")
            .metadata(serde_json::json!({ "ticker": ticker }).to_string());
        for analyst in Analyst::ALL {
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
            let agent = looking(analyst, with_memo(analyst, agent, store));
            swarm = match analyst.is_required() {
                true => swarm.required(analyst.name(), agent),
                false => swarm.optional(analyst.name(), agent),
            };
        }
        let swarm = swarm.synthesize(Survey::of).build().expect("five analysts have five names");
        let circuits = std::iter::once(&primary).chain(backup.iter().map(|(_, circuit)| circuit));
        let _subscriptions = circuits.map(|circuit| show(circuit, progress)).collect();
        Self { swarm, patience, failures, _subscriptions }
    }

    /// Lets every analyst look at the prices and have the finding phrased.
    ///
    /// # Errors
    ///
    /// `CriticalDegradation` where a required analyst has no answer.
    ///
    /// # Cancellation
    ///
    /// Dropping the future stops every analyst.
    pub(crate) async fn survey(&self, asked: InWorkflow<Arc<Prices>>) -> Result<Survey, Error> {
        self.swarm.invoke(asked).await
    }

    /// Returns how single calls have failed, also those of analysts that were answered in the end.
    pub(crate) fn failures(&self) -> Vec<CallFailure> {
        self.failures.to_vec()
    }

    pub(crate) const fn patience(&self) -> Patience {
        self.patience
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
    let service = service_fn(move |asked: InWorkflow<Question>| {
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

/// Lets an analyst compute its facts, and the agent phrase them.
fn looking(
    analyst: Analyst,
    agent: Agent,
) -> impl Service<InWorkflow<Arc<Prices>>, Response = Finding, Error = Error, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    service_fn(move |asked: InWorkflow<Arc<Prices>>| {
        let agent = agent.clone();
        async move {
            let prices = asked.request;
            let facts = analyst.analyse(&prices);
            let question = Question::new(analyst.name(), prices.ticker(), facts.sentences());
            let question = InWorkflow::new(asked.workflow_id, question)
                .idempotency_key(format!("{analyst}/{}", prices.ticker()));
            let Answer { text, model } = agent.oneshot(question).await?;
            Ok(Finding { analyst, text, model, facts })
        }
    })
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

// ===== impl Survey =====

impl Survey {
    fn of(report: SwarmReport<Finding>) -> Self {
        let degradation = Degradation {
            level: report.level().as_i64(),
            name: report.level().as_str().to_owned(),
            success_rate: report.success_rate(),
        };
        let missing = Missing::all(report.failures());
        let findings = report.into_findings();
        let findings = findings.into_iter().map(buttress::swarm::Finding::into_value).collect();
        Self { findings, missing, degradation }
    }

    /// Returns a number that an analyst has found.
    pub(crate) fn number(&self, analyst: Analyst, name: &str) -> Option<f64> {
        let finding = self.findings.iter().find(|finding| finding.analyst == analyst)?;
        finding.facts.numbers().get(name)?.as_f64()
    }
}
