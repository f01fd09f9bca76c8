//! The agent: one model behind every layer, as a service that clones share.

use std::time::Duration;

use buttress::{
    AgentLayer, BoxError, CallBudget, CatchPanicLayer, Circuit, CircuitBreakerLayer, Classify as _,
    Error, ExponentialBackoff, Failure, FailureKind, FallbackLayer, HasCallBudget, InRequest,
    LlmClassifier, Outcome, RetryLayer, TimeoutLayer,
};
use bytes::Bytes;
use http::{Request, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tower::{ServiceBuilder, ServiceExt as _, util::BoxCloneSyncService};

use crate::{LARGE, SMALL, local_client};

/// What an agent is asked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompt {
    /// The question.
    pub prompt: String,
    /// How long its caller waits: no retry starts that would end later.
    #[serde(skip)]
    pub budget: Option<CallBudget>,
}

/// What it answers.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// Who has answered.
    pub model: String,
    /// What it said.
    pub text: String,
}

/// An agent that any handler may clone and ask.
pub type Agent = BoxCloneSyncService<Prompt, Answer, Error>;

/// How long one attempt may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Builds the agent; returns it with the circuits of its models.
#[must_use]
pub fn agent(base_url: &str) -> (Agent, Vec<Circuit>) {
    let breakers = [LARGE, SMALL].map(|model| {
        CircuitBreakerLayer::new(model).consecutive_failures(5).open_for(Duration::from_secs(10))
    });
    let circuits = breakers.iter().map(CircuitBreakerLayer::circuit).collect();
    let [large, small] = breakers;
    let guarded = |breaker: CircuitBreakerLayer, model: &'static str, attempts: usize| {
        ServiceBuilder::new()
            .layer(
                RetryLayer::new(attempts)
                    .backoff(ExponentialBackoff::new(PATIENCE / 20))
                    .call_budget(InRequest),
            )
            .layer(breaker)
            .layer(TimeoutLayer::new(PATIENCE))
            .layer(CatchPanicLayer::new())
            .service(model_at(base_url, model))
    };
    // Only what another model might answer goes to it; a `[all:..]` prompt meets both.
    let backup = guarded(small, SMALL, 1);
    let agent = ServiceBuilder::new()
        .layer(AgentLayer::new("research"))
        .layer(FallbackLayer::new().call_budget(InRequest).or("small", backup))
        .service(guarded(large, LARGE, 3));
    (BoxCloneSyncService::new(agent), circuits)
}

impl HasCallBudget for Prompt {
    fn call_budget(&self) -> Option<&CallBudget> {
        self.budget.as_ref()
    }
}

/// One model over HTTP: a failed answer is an error that says what it is.
fn model_at(
    base_url: &str,
    model: &'static str,
) -> impl tower::Service<Prompt, Response = Answer, Error = BoxError, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static
+ use<> {
    let (client, uri) = (local_client(), format!("{base_url}/chat/completions"));
    tower::service_fn(move |prompt: Prompt| {
        let message = json!({ "role": "user", "content": prompt.prompt });
        let body = json!({ "model": model, "messages": [message] }).to_string();
        let request = Request::post(&uri).header("content-type", "application/json").body(body);
        let client = client.clone();
        async move {
            let answer = client.oneshot(reqwest::Request::try_from(request?)?).await?;
            read(&whole(answer).await?)
        }
    })
}

async fn whole(answer: reqwest::Response) -> Result<Response<Bytes>, BoxError> {
    let mut response = Response::new(());
    *response.status_mut() = answer.status();
    response.headers_mut().clone_from(answer.headers());
    let body = answer.bytes().await?;
    Ok(response.map(|()| body))
}

fn read(answer: &Response<Bytes>) -> Result<Answer, BoxError> {
    if let Outcome::Failure(failure) = LlmClassifier::new().classify(Ok::<_, &BoxError>(answer)) {
        return Err(failure.into());
    }
    let body: Value = serde_json::from_slice(answer.body())?;
    let text = body["choices"][0]["message"]["content"].as_str().map(str::to_owned);
    let text = text.ok_or_else(|| {
        Failure::new(FailureKind::Transient).with_message("the answer holds no text")
    })?;
    let model = body["model"].as_str().unwrap_or_default().to_owned();
    Ok(Answer { model, text })
}
