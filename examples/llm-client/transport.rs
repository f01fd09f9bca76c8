//! The transport of an OpenAI client with our layers inside it.

use std::time::Duration;

use async_openai::{
    error::OpenAIError,
    middleware::{HttpRequestFactory, ReqwestService},
};
use buttress::{
    AgentLayer, BodyTimeoutLayer, Circuit, CircuitBreakerLayer, Classify as _, Error,
    ErrorBodyLayer, ExponentialBackoff, Failure, FailureKind, FirstFrameLayer, LlmClassifier,
    Outcome, RetryLayer,
};
use http::Response;
use reqwest::Body;
use tower::{Service, ServiceBuilder};

/// How patient a client is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) first_frame: Duration,
    pub(crate) idle: Duration,
    pub(crate) attempts: usize,
}

/// Builds the transport of one provider; its circuit is shared by all who ask it.
///
/// async-openai hands every request over as a factory that can build it again, so a retry needs no
/// clone of a body. The layers see `http` answers: reqwest's are turned on the way in and out.
pub(crate) fn transport(
    provider: &str,
    client: reqwest::Client,
    circuit: Circuit,
    patience: Patience,
) -> impl Service<
    HttpRequestFactory,
    Response = reqwest::Response,
    Error = OpenAIError,
    Future: Send + 'static,
>
+ Clone
+ Send
+ Sync
+ 'static
+ use<> {
    let classifier = LlmClassifier::new();
    let backoff = ExponentialBackoff::new(Duration::from_millis(50));
    ServiceBuilder::new()
        .map_err(|error: Error| OpenAIError::Boxed(error.into()))
        .map_response(|answer: Response<_>| reqwest::Response::from(answer.map(Body::wrap)))
        .layer(AgentLayer::new(provider))
        .layer(RetryLayer::new(patience.attempts).backoff(backoff))
        .layer(CircuitBreakerLayer::sharing(circuit).classify(classifier).settle_at_body_end())
        .layer(BodyTimeoutLayer::new().first_frame(patience.first_frame).idle(patience.idle))
        .layer(FirstFrameLayer::new().classify(classifier))
        // From here on a failed answer is an error that says what it is.
        .and_then(move |answer: Response<_>| async move {
            match classifier.classify(Ok::<_, &Error>(&answer)) {
                Outcome::Failure(failure) => Err(Error::from_service(failure, Clone::clone)),
                _ if !is_stream(&answer) => {
                    let failure = Failure::new(FailureKind::Permanent);
                    let failure = failure.with_message("the answer is no stream of events");
                    Err(Error::from_service(failure, Clone::clone))
                }
                _ => Ok(answer),
            }
        })
        .map_err(|error: OpenAIError| Error::from_service(error, |_| FAULT.into()))
        .layer(ErrorBodyLayer::new())
        .map_response(Response::<Body>::from)
        .service(ReqwestService::new(client))
}

/// What an error of the client itself is: a connection that was refused or broke.
const FAULT: FailureKind = FailureKind::Transient;

/// Returns whether an answer is what was asked for, and not a page of something in between.
fn is_stream<B>(answer: &Response<B>) -> bool {
    let kind = answer.headers().get(http::header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}
