//! The client: layers around its channel, and a retry around its calls.

use std::time::Duration;

use buttress::{
    Circuit, CircuitBreaker, CircuitBreakerLayer, ExponentialBackoff, GrpcClassifier, RetryLayer,
    Timeout, TimeoutLayer, circuit_breaker::AtBodyEnd,
};
use buttress_langfuse::{Inject, InjectLayer};
use tonic::{Request, Status, transport::Channel};
use tower::{Layer as _, ServiceBuilder, ServiceExt as _, service_fn};

use crate::service;

/// How long an attempt may take: the last resort, behind the deadline that the server keeps.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client that clones share.
#[derive(Clone)]
pub(crate) struct Client {
    channel: CircuitBreaker<Timeout<Inject<Channel>>, GrpcClassifier, AtBodyEnd>,
    circuit: Circuit,
    retry: RetryLayer,
}

/// What a server is asked.
#[derive(Clone)]
pub(crate) struct Question {
    prompt: String,
    patience: Option<Duration>,
}

// ===== impl Client =====

impl Client {
    pub(crate) fn new(channel: Channel) -> Self {
        let breaker = CircuitBreakerLayer::new("analyst").classify(GrpcClassifier::new());
        let circuit = breaker.circuit();
        let channel = ServiceBuilder::new()
            .layer(breaker.settle_at_body_end())
            .layer(TimeoutLayer::new(PATIENCE))
            .layer(InjectLayer::new())
            .service(channel);
        // The server retries its models by itself, and attempts of both would multiply: the client asks
        // again only where its call has reached nobody.
        let backoff = ExponentialBackoff::new(Duration::from_millis(50));
        let retry = RetryLayer::new(5).backoff(backoff).idempotent(false);
        Self { channel, circuit, retry }
    }

    pub(crate) const fn circuit(&self) -> &Circuit {
        &self.circuit
    }

    pub(crate) async fn ask(&self, question: Question) -> Result<String, Status> {
        let channel = self.channel.clone();
        let ask = service_fn(move |question: Question| {
            service::ask(channel.clone(), question.into_request())
        });
        self.retry.layer(ask).oneshot(question).await
    }
}

// ===== impl Question =====

impl Question {
    pub(crate) fn new(prompt: &str) -> Self {
        Self { prompt: prompt.to_owned(), patience: None }
    }

    /// Sets how long its caller waits, which the server is told.
    pub(crate) const fn within(mut self, patience: Option<Duration>) -> Self {
        self.patience = patience;
        self
    }

    fn into_request(self) -> Request<String> {
        let mut request = Request::new(self.prompt);
        if let Some(patience) = self.patience {
            request.set_timeout(patience);
        }
        request
    }
}
