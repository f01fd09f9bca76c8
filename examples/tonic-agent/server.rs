//! The server: in the caller's trace, within its deadline and its limits, and with an answer to everything.

use std::time::Duration;

use buttress::{
    TimeoutLayer,
    grpc::{GrpcDeadlineLayer, GrpcStatusLayer},
};
use buttress_examples::{EmbeddedModel, agent};
use buttress_langfuse::ExtractLayer;
use tonic::transport::{Server, server::Router};
use tower::{
    ServiceBuilder,
    layer::util::{Identity, Stack},
};

use crate::service::Analyst;

/// How long a call may take, whatever its caller says, and a request that comes slowly with it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many calls of one connection are under way at a time; further ones are turned away at once.
const CALLS: usize = 64;

/// Builds the server.
pub(crate) fn router(model: &EmbeddedModel) -> Router<Stack<ExtractLayer, Identity>> {
    let (agent, _) = agent::agent(&model.base_url());
    let guarded = ServiceBuilder::new()
        .layer(GrpcStatusLayer::new())
        .layer(GrpcDeadlineLayer::new())
        .layer(TimeoutLayer::new(PATIENCE))
        .service(Analyst { agent });
    Server::builder()
        .concurrency_limit_per_connection(CALLS)
        .load_shed(true)
        .layer(ExtractLayer::new())
        .add_service(guarded)
}
