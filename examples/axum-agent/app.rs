//! The routes: the agent twice, its health, its numbers.

use std::{sync::Arc, time::Duration};

use axum::{
    BoxError, Json, Router,
    body::{Body, to_bytes},
    error_handling::HandleErrorLayer,
    extract::{Request, State},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use buttress::{
    Circuit, CircuitBreakerLayer, Error, HttpClassifier, TimeoutLayer, circuit_breaker,
};
use buttress_langfuse::Langfuse;
use http::StatusCode;
use http_body_util::LengthLimitError;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tower::{
    ServiceBuilder, ServiceExt as _,
    limit::GlobalConcurrencyLimitLayer,
    load_shed::{LoadShedLayer, error::Overloaded},
};

use buttress_examples::agent::{Agent, Answer, Prompt};

/// How large a request may be.
const BODY_BYTES: usize = 64 * 1024;
/// How long its body may take to come.
const BODY_TIME: Duration = Duration::from_secs(2);
/// How many calls are under way at a time; further ones are turned away at once.
pub(crate) const CALLS: usize = 64;
/// How long a call may take, its retries and fallbacks included.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) agent: Agent,
    /// Those of the models.
    pub(crate) circuits: Arc<[Circuit]>,
    pub(crate) langfuse: Langfuse,
    pub(crate) metrics: PrometheusHandle,
}

/// Builds the router.
pub(crate) fn router(app: App) -> Router {
    // A circuit around the route itself: answers with a status of 500 and more are its failures.
    let route = CircuitBreakerLayer::new("route").classify(HttpClassifier::new());
    let circuits: Arc<[_]> = app.circuits.iter().cloned().chain([route.circuit()]).collect();
    let limits = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(turn_away))
        .layer(LoadShedLayer::new())
        // Global: axum applies a layer to each route, and a limit of each would be none of all.
        .layer(GlobalConcurrencyLimitLayer::new(CALLS));
    let guarded = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(async |error: Error| error.into_response()))
        .layer(route)
        .layer(TimeoutLayer::new(PATIENCE));
    Router::new()
        .route("/agent", post(ask))
        .route("/agent/guarded", post(ask).layer(guarded))
        .layer(limits)
        // Around the limits: who sends slowly takes no place of a call.
        .layer(from_fn(whole_request))
        .route("/health", get(async move |State(app)| health(&app, &circuits)))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(app)
}

/// Asks the agent; its error is an answer by itself.
async fn ask(State(app): State<App>, Json(prompt): Json<Prompt>) -> Result<Json<Answer>, Error> {
    app.agent.oneshot(prompt).await.map(Json)
}

/// Waits for the whole request, as long and as large as it may be.
async fn whole_request(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match tokio::time::timeout(BODY_TIME, to_bytes(body, BODY_BYTES)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(head, Body::from(body))).await,
        Ok(Err(error)) if is_too_large(&error) => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
        Ok(Err(_)) => StatusCode::BAD_REQUEST.into_response(),
        Err(_) => StatusCode::REQUEST_TIMEOUT.into_response(),
    }
}

fn is_too_large(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<LengthLimitError>())
}

/// Answers a call that there is no room for.
async fn turn_away(error: BoxError) -> Response {
    if error.is::<Overloaded>() {
        let wait = [(http::header::RETRY_AFTER, "1")];
        return (StatusCode::SERVICE_UNAVAILABLE, wait, "too many calls are under way")
            .into_response();
    }
    StatusCode::INTERNAL_SERVER_ERROR.into_response()
}

/// Says how the service is: it lives, whatever its models do.
fn health(app: &App, circuits: &[Circuit]) -> Json<Value> {
    let circuits: Vec<_> = circuits.iter().map(told).collect();
    let stats = app.langfuse.stats();
    let langfuse =
        json!({ "pending": stats.pending, "spooled": stats.spooled, "dropped": stats.dropped });
    Json(json!({ "status": "alive", "circuits": circuits, "langfuse": langfuse }))
}

/// Says whether calls are worth while: not when every model's circuit is open.
async fn ready(State(app): State<App>) -> (StatusCode, Json<Value>) {
    let is_open = |circuit: &Circuit| {
        use circuit_breaker::State;
        matches!(circuit.state(), State::Open | State::ForcedOpen)
    };
    let (status, word) = if app.circuits.iter().all(is_open) {
        (StatusCode::SERVICE_UNAVAILABLE, "every circuit is open")
    } else {
        (StatusCode::OK, "ready")
    };
    (status, Json(json!({ "status": word })))
}

fn told(circuit: &Circuit) -> Value {
    let now = circuit.snapshot();
    json!({
        "name": &**circuit.name(),
        "state": now.state.as_str(),
        "consecutive_failures": now.consecutive_failures,
        "not_permitted": now.not_permitted,
        "retry_after_seconds": now.retry_after.map(|wait| wait.as_secs_f64()),
    })
}

/// Answers what Prometheus asks for.
async fn metrics(State(app): State<App>) -> String {
    app.langfuse.publish_metrics();
    app.metrics.run_upkeep();
    app.metrics.render()
}
