//! Three agents and a swarm under load, with a provider that can be broken, and their dashboard.
//!
//! ```sh
//! cargo run -p buttress-dashboard --features opentelemetry --example outage
//! curl -X POST http://127.0.0.1:3000/fault/on      # and /fault/off
//! ```
//!
//! The first argument is the port, 3000 where there is none; 0 takes any that is free. With `read-only`
//! as the second nobody may act.
#![expect(clippy::print_stdout, reason = "a program says where it listens")]

use std::{
    error::Error,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::Path,
    http::StatusCode,
    response::Redirect,
    routing::{get, post},
};
use buttress::{
    AgentLayer, Backoff, BoxError, CircuitBreakerLayer, ExponentialBackoff, FallbackLayer,
    HalfOpen, RetryLayer, Swarm, TimeoutLayer, Window, circuit_breaker::CircuitBreakers,
};
use buttress_dashboard::Dashboard;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tower::{
    Layer as _, Service, ServiceBuilder, ServiceExt as _, service_fn, util::BoxCloneSyncService,
};
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

/// What an operator knows.
const TOKEN: &str = "only-operators-know-this";

type Agent = BoxCloneSyncService<String, String, BoxError>;

/// A provider of language models, which can be broken.
#[derive(Clone, Default)]
struct Provider {
    is_broken: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let port = std::env::args().nth(1).map_or(Ok(3000), |port| port.parse::<u16>())?;
    let provider = Provider::default();
    let dashboard =
        Dashboard::new().title("research service").langfuse("https://langfuse.example", "research");
    let dashboard = match std::env::args().nth(2).as_deref() {
        None => dashboard.allow_control(TOKEN)?,
        Some("read-only") => dashboard,
        Some(other) => return Err(format!("{other} is neither a port nor read-only").into()),
    };

    let tracer = SdkTracerProvider::builder().build().tracer("outage");
    tracing_subscriber::registry()
        .with(tracing_opentelemetry::layer().with_tracer(tracer))
        .with(dashboard.layer())
        .init();

    let (large, research) = research(&provider);
    let (planner_circuit, planner) = planner(&provider);
    let (tenants, gateway) = gateway(&provider);
    let idle = CircuitBreakerLayer::new("<img src=x onerror=alert(1)> & \"embeddings\"").circuit();
    let dashboard =
        dashboard.circuit(large).circuit(planner_circuit).circuit(idle).circuits(tenants);

    tokio::spawn(load(research.clone(), Duration::from_millis(90)));
    tokio::spawn(load(planner, Duration::from_millis(250)));
    tokio::spawn(load(gateway, Duration::from_millis(60)));
    tokio::spawn(swarms(research, provider.clone()));

    let app = Router::new()
        .route("/", get(|| async { Redirect::temporary("/ops/dashboard") }))
        .nest("/ops/dashboard", dashboard.router())
        .route("/fault/{state}", post(move |state| fault(state, provider)));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("http://{}/ops/dashboard", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}

async fn fault(Path(state): Path<String>, provider: Provider) -> StatusCode {
    match &*state {
        "on" => provider.is_broken.store(true, Ordering::Relaxed),
        "off" => provider.is_broken.store(false, Ordering::Relaxed),
        _ => return StatusCode::NOT_FOUND,
    }
    StatusCode::NO_CONTENT
}

impl Provider {
    /// Answers, with one small fault in thirty calls; while it is broken it fails or hangs.
    async fn answer(self, model: &'static str, prompt: String) -> Result<String, io::Error> {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if self.is_broken.load(Ordering::Relaxed) {
            if call.is_multiple_of(4) {
                std::future::pending::<()>().await;
            }
            return Err(io::Error::other(format!(
                "{model}: upstream connect error, reset before headers (request {call})"
            )));
        }
        tokio::time::sleep(Duration::from_millis(20 + call % 40)).await;
        if call % 30 == 7 {
            return Err(io::Error::other(format!("{model}: the answer is not JSON")));
        }
        Ok(format!("{model} about {prompt}"))
    }

    fn model(
        &self,
        model: &'static str,
    ) -> impl Service<String, Response = String, Error = io::Error, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static {
        let provider = self.clone();
        service_fn(move |prompt| provider.clone().answer(model, prompt))
    }
}

/// An agent with everything: a fallback, retries, a circuit and a time limit.
fn research(provider: &Provider) -> (buttress::circuit_breaker::Circuit, Agent) {
    let breaker = CircuitBreakerLayer::new("gpt-large")
        .consecutive_failures(5)
        .failure_rate(0.5)
        .window(Window::time(Duration::from_secs(60)))
        .minimum_calls(20)
        .open_for(Duration::from_secs(20));
    let circuit = breaker.circuit();
    let small =
        service_fn(
            |prompt: String| async move { Ok::<_, io::Error>(format!("briefly: {prompt}")) },
        );
    let agent = ServiceBuilder::new()
        .layer(AgentLayer::new("research"))
        .layer(FallbackLayer::new().or("gpt-small", small).agent_id("research"))
        .layer(RetryLayer::new(3).backoff(quick()).agent_id("research"))
        .layer(breaker.agent_id("research"))
        .layer(TimeoutLayer::new(Duration::from_millis(300)).agent_id("research"))
        .service(provider.model("gpt-large"));
    (circuit, BoxCloneSyncService::new(agent.map_err(BoxError::from)))
}

/// An agent without a fallback: what fails reaches the caller.
fn planner(provider: &Provider) -> (buttress::circuit_breaker::Circuit, Agent) {
    let breaker = CircuitBreakerLayer::new("planner")
        .consecutive_failures(4)
        .half_open(HalfOpen::consecutive(1, 3))
        .open_for(Duration::from_secs(8));
    let circuit = breaker.circuit();
    let agent = ServiceBuilder::new()
        .layer(AgentLayer::new("planner"))
        .layer(RetryLayer::new(2).backoff(quick()).agent_id("planner"))
        .layer(breaker.agent_id("planner"))
        .layer(TimeoutLayer::new(Duration::from_millis(400)).agent_id("planner"))
        .service(provider.model("claude"));
    (circuit, BoxCloneSyncService::new(agent.map_err(BoxError::from)))
}

/// A gateway with a circuit for each tenant.
fn gateway(provider: &Provider) -> (CircuitBreakers<String>, Agent) {
    let breaker =
        CircuitBreakerLayer::keyed("tenant", |prompt: &String| format!("{}", prompt.len() % 4));
    let circuits = breaker.circuits();
    let steady = Provider { is_broken: Arc::default(), calls: Arc::clone(&provider.calls) };
    let agent = ServiceBuilder::new()
        .layer(AgentLayer::new("gateway"))
        .layer(RetryLayer::new(3).backoff(quick()))
        .layer(breaker)
        .service(steady.model("mistral"));
    (circuits, BoxCloneSyncService::new(agent.map_err(BoxError::from)))
}

fn quick() -> impl Backoff + Clone + Send + Sync + 'static {
    ExponentialBackoff::new(Duration::from_millis(80))
}

async fn load(agent: Agent, every: Duration) {
    let mut interval = tokio::time::interval(every);
    for call in 0_usize.. {
        interval.tick().await;
        tokio::spawn(agent.clone().oneshot("x".repeat(call % 7)));
    }
}

fn retried(provider: &Provider) -> Agent {
    let agent = RetryLayer::new(3).backoff(quick()).layer(provider.model("gpt-large"));
    BoxCloneSyncService::new(agent.map_err(BoxError::from))
}

async fn swarms(research: Agent, provider: Provider) {
    let swarm = Swarm::builder("research_swarm")
        .required("technical", research)
        .required(
            "fundamental",
            service_fn(|_: String| async { Ok::<_, io::Error>("buy".to_owned()) }),
        )
        .optional("sentiment", retried(&provider))
        .optional("seasonality", retried(&provider))
        .deadline(Duration::from_secs(1))
        .build()
        .expect("the swarm has agents");
    loop {
        drop(swarm.invoke("AAPL".to_owned()).await);
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
}
