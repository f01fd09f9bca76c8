//! The service `buttress.examples.Analyst`, as a generator would write it: one method, `Ask`, a
//! `google.protobuf.StringValue` in and out.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use buttress::{FindCallBudget as _, InExtensions};
use buttress_examples::agent::{Agent, Prompt};
use http::{Request, Response, uri::PathAndQuery};
use tonic::{Status, body::Body, client::GrpcService, server::NamedService};
use tonic_prost::ProstCodec;
use tower::{Service, ServiceExt as _, service_fn};

const ASK: &str = "/buttress.examples.Analyst/Ask";

/// A text is a message: prost takes it for a `StringValue`.
type Texts = ProstCodec<String, String>;

/// The server's side: hands each question to the agent, with what is left of its caller's deadline.
#[derive(Clone)]
pub(crate) struct Analyst {
    pub(crate) agent: Agent,
}

impl NamedService for Analyst {
    const NAME: &'static str = "buttress.examples.Analyst";
}

impl Service<Request<Body>> for Analyst {
    type Response = Response<Body>;
    type Error = Infallible;
    // Boxed, as generated servers do.
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let is_known = request.uri().path() == ASK;
        let agent = self.agent.clone();
        let ask = service_fn(move |request: tonic::Request<String>| {
            let budget = InExtensions.call_budget(&request);
            let prompt = Prompt { prompt: request.into_inner(), budget };
            let answer = agent.clone().oneshot(prompt);
            // The agent's error becomes a status with the right code.
            async move { Ok(tonic::Response::new(answer.await?.text)) }
        });
        Box::pin(async move {
            if !is_known {
                return Ok(Status::unimplemented("no such method").into_http());
            }
            Ok(tonic::server::Grpc::new(Texts::default()).unary(ask, request).await)
        })
    }
}

/// The client's side, over any channel: one with layers of ours as well.
pub(crate) async fn ask<T>(channel: T, request: tonic::Request<String>) -> Result<String, Status>
where
    T: GrpcService<Body>,
    T::ResponseBody:
        http_body::Body<Data = bytes::Bytes, Error: Into<tower::BoxError>> + Send + 'static,
{
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let answer = grpc.unary(request, PathAndQuery::from_static(ASK), Texts::default()).await?;
    Ok(answer.into_inner())
}
