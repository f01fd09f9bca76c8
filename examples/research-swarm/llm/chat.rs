//! A chat model as a tower service: a question goes in, an HTTP answer comes out.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use buttress::{Classify as _, FailureKind, Outcome, telemetry};
use bytes::Bytes;
use http::{Request, Response, header};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tower::Service;
use tracing::{Instrument as _, Span, field::Empty};

use super::{CallFailures, ChatClassifier, Endpoint, HttpClient, HttpError, Reply};

/// Names the agent that asks, for servers that care.
pub(super) const AGENT_HEADER: &str = "x-agent-id";

const INSTRUCTIONS: &str = "You write for investors. The user message is JSON with a stock, the \
    name of an analyst and the facts he found, the most important one first. Phrase them in two \
    or three plain sentences. Use only these facts and numbers, give no advice, write no markdown.";

/// What is asked: cheap to clone, since each attempt but the last gets a clone.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    agent: &'static str,
    /// A [`Brief`] as JSON.
    brief: Arc<str>,
}

/// What the model is told.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Brief {
    ticker: String,
    analyst: String,
    facts: Vec<String>,
}

/// One model of an endpoint.
#[derive(Debug, Clone)]
pub(crate) struct ChatModel {
    client: HttpClient,
    endpoint: Arc<Endpoint>,
    model: Arc<str>,
    classify: ChatClassifier,
    failures: CallFailures,
}

// ===== impl Question =====

impl Question {
    pub(crate) fn new(agent: &'static str, ticker: &str, facts: &[String]) -> Self {
        let brief =
            Brief { ticker: ticker.to_owned(), analyst: agent.to_owned(), facts: facts.to_vec() };
        let brief = serde_json::to_string(&brief).expect("strings are JSON");
        Self { agent, brief: brief.into() }
    }
}

// ===== impl Brief =====

impl Brief {
    /// Puts the facts into a sentence or two, as far as that goes without a language model.
    pub(super) fn phrase(&self, in_short: bool) -> String {
        let mut facts = self.facts.iter();
        let mut text = match facts.next() {
            Some(first) => format!("{}: {first}.", self.ticker),
            None => return format!("{}: nothing to report.", self.ticker),
        };
        if !in_short {
            let rest: Vec<_> = facts.map(String::as_str).collect();
            if !rest.is_empty() {
                text.push(' ');
                text.push_str(&capitalised(&rest.join("; ")));
                text.push('.');
            }
        }
        text
    }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

// ===== impl ChatModel =====

impl ChatModel {
    pub(crate) fn new(client: HttpClient, endpoint: Arc<Endpoint>, model: &str) -> Self {
        let (classify, failures) = (ChatClassifier::new(), CallFailures::default());
        Self { client, endpoint, model: model.into(), classify, failures }
    }

    /// Notes in a list how calls fail.
    pub(crate) fn failures(mut self, failures: CallFailures) -> Self {
        self.failures = failures;
        self
    }

    fn request(&self, question: &Question) -> Request<Bytes> {
        let body = json!({
            "model": &*self.model,
            "messages": [
                { "role": "system", "content": INSTRUCTIONS },
                { "role": "user", "content": &*question.brief },
            ],
        });
        let mut request = Request::post(self.endpoint.chat().clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(AGENT_HEADER, question.agent)
            .body(Bytes::from(body.to_string()))
            .expect("the address was parsed and the headers are constants");
        if let Some(authorization) = self.endpoint.authorization() {
            request.headers_mut().insert(header::AUTHORIZATION, authorization.clone());
        }
        request
    }

    fn span(&self, question: &Question) -> Span {
        tracing::info_span!(
            target: telemetry::TARGET,
            telemetry::span::LLM_CALL,
            observation_type = "generation",
            agent_id = question.agent,
            gen_ai.request.model = &*self.model,
            gen_ai.response.model = Empty,
            gen_ai.usage.input_tokens = Empty,
            gen_ai.usage.output_tokens = Empty,
            input = &*question.brief,
            output = Empty,
            outcome = Empty,
            failure_kind = Empty,
            error = Empty,
            error_type = Empty,
            level = Empty,
            status_message = Empty,
        )
    }
}

impl Service<Question> for ChatModel {
    type Response = Response<Bytes>;
    type Error = HttpError;
    // Boxed, as the client's.
    type Future = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        self.client.poll_ready(cx)
    }

    fn call(&mut self, question: Question) -> Self::Future {
        let span = self.span(&question);
        let answer = self.client.call(self.request(&question)).instrument(span.clone());
        let classify = self.classify.clone();
        let call = LlmCall {
            span,
            endpoint: Arc::clone(&self.endpoint),
            failures: self.failures.clone(),
            ended: false,
        };
        Box::pin(async move {
            let result = answer.await;
            call.end(&classify.classify(result.as_ref()), result.as_ref());
            result
        })
    }
}

/// The span of one call; dropped before its end, the call was given up: by a timeout, or with the
/// swarm.
struct LlmCall {
    span: Span,
    endpoint: Arc<Endpoint>,
    failures: CallFailures,
    ended: bool,
}

impl LlmCall {
    fn end(mut self, outcome: &Outcome, result: Result<&Response<Bytes>, &HttpError>) {
        self.ended = true;
        match outcome {
            Outcome::Failure(failure) => {
                let kind = failure.kind().as_str();
                self.span.record(telemetry::key::FAILURE_KIND, kind);
                self.span.record(telemetry::key::ERROR_TYPE, kind);
                self.span.record(telemetry::key::ERROR, tracing::field::display(failure));
                self.status(failure.to_string());
                self.span.record(telemetry::key::OUTCOME, telemetry::outcome::FAILURE);
                let reason = result.map_or_else(HttpError::told, |_| failure.to_string());
                self.failures.add(failure.kind(), reason);
            }
            _ => {
                let secrets = self.endpoint.secrets();
                let reply = result.ok().and_then(|answer| Reply::read(answer.body(), secrets));
                if let Some(reply) = reply {
                    self.describe(&reply);
                }
                self.span.record(telemetry::key::OUTCOME, telemetry::outcome::SUCCESS);
            }
        }
    }

    fn describe(&self, reply: &Reply) {
        self.span.record("gen_ai.response.model", reply.model.as_deref());
        self.span.record("gen_ai.usage.input_tokens", reply.input_tokens);
        self.span.record("gen_ai.usage.output_tokens", reply.output_tokens);
        self.span.record("output", &*reply.text);
    }

    fn status(&self, message: String) {
        self.span.record(telemetry::key::LEVEL, telemetry::level::ERROR);
        self.span.record(telemetry::key::STATUS_MESSAGE, message);
    }
}

impl Drop for LlmCall {
    fn drop(&mut self) {
        if !self.ended {
            self.span.record(telemetry::key::OUTCOME, telemetry::outcome::CANCELLED);
            self.failures.add(FailureKind::Cancelled, "no answer");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weaker_model_says_less() {
        let facts = ["grew".to_owned(), "fast".to_owned(), "and far".to_owned()];
        let question = Question::new("trend", "AAPL", &facts);
        let brief: Brief = serde_json::from_str(&question.brief).unwrap();
        assert_eq!(brief.phrase(false), "AAPL: grew. Fast; and far.");
        assert_eq!(brief.phrase(true), "AAPL: grew.");
    }
}
