//! The server: one agent on two routes, bare and behind the whole stack.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::Path,
    response::{IntoResponse as _, Response},
    routing::get,
    serve::ListenerExt as _,
};
use buttress::{
    AgentLayer, Circuit, CircuitBreakerLayer, Error, ExponentialBackoff, FallbackLayer, RetryLayer,
    TimeoutLayer, Window,
    circuit_breaker::{State, Subscription},
};
use http::StatusCode;
use tokio::{net::TcpListener, runtime::Runtime};
use tower::{Service, ServiceBuilder, ServiceExt as _, service_fn};

use crate::agent::{self, Call};

/// The agent's id; its span in Langfuse is `agent_soak`.
pub(crate) const AGENT: &str = "soak";
/// How long an attempt may take.
const TIMEOUT: Duration = Duration::from_millis(100);
/// How long the circuit stays open: a tenth of failing calls alone do not open it, an outage does.
const OPEN_FOR: Duration = Duration::from_millis(100);

/// The server and what is known of its stack.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    circuit: Circuit,
    opened: Arc<AtomicU64>,
    handled: Arc<AtomicU64>,
    /// Kept, since dropping a subscription ends it.
    _subscription: Subscription,
}

/// What the stack has done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stack {
    /// Calls that reached `/guarded`.
    pub(crate) handled: u64,
    /// How often the circuit opened.
    pub(crate) opened: u64,
    /// Attempts that the open circuit rejected.
    pub(crate) rejected: u64,
}

// ===== impl Server =====

impl Server {
    /// Listens on a free port and serves until the runtime ends.
    pub(crate) fn start(runtime: &Runtime) -> io::Result<Self> {
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let breaker = breaker();
        let circuit = breaker.circuit();
        let (opened, handled) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let subscription = circuit.subscribe({
            let opened = Arc::clone(&opened);
            move |transition| {
                if matches!(transition.to, State::Open) {
                    opened.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let router = routes(guarded(breaker), Arc::clone(&handled));
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        drop(runtime.spawn(async move { axum::serve(listener, router).await }));
        Ok(Self { address, circuit, opened, handled, _subscription: subscription })
    }

    pub(crate) fn stack(&self) -> Stack {
        Stack {
            handled: self.handled.load(Ordering::Relaxed),
            opened: self.opened.load(Ordering::Relaxed),
            rejected: self.circuit.snapshot().not_permitted,
        }
    }
}

fn breaker() -> CircuitBreakerLayer {
    CircuitBreakerLayer::new("model")
        .failure_rate(0.6)
        .window(Window::calls(20))
        .minimum_calls(20)
        .open_for(OPEN_FOR)
}

/// Puts every layer around the agent, in the order that the docs advise.
fn guarded(
    breaker: CircuitBreakerLayer,
) -> impl Service<Call, Response = String, Error = Error, Future: Send> + Clone + Send + Sync {
    ServiceBuilder::new()
        .layer(AgentLayer::new(AGENT))
        .layer(FallbackLayer::new().or("backup", service_fn(agent::backup)))
        .layer(RetryLayer::new(3).backoff(ExponentialBackoff::new(Duration::from_millis(1))))
        .layer(breaker)
        .layer(TimeoutLayer::new(TIMEOUT))
        .service(service_fn(agent::primary))
}

fn routes<S>(guarded: S, handled: Arc<AtomicU64>) -> Router
where
    S: Service<Call, Response = String, Error = Error, Future: Send>,
    S: Clone + Send + Sync + 'static,
{
    let bare = service_fn(agent::primary);
    let answer_bare = async move |Path(number): Path<u64>| -> Response {
        match bare.oneshot(Call::new(number)).await {
            Ok(answer) => answer.into_response(),
            Err(failure) => {
                (StatusCode::INTERNAL_SERVER_ERROR, failure.to_string()).into_response()
            }
        }
    };
    let answer_guarded = move |Path(number): Path<u64>| {
        let agent = guarded.clone();
        handled.fetch_add(1, Ordering::Relaxed);
        async move {
            match agent.oneshot(Call::new(number)).await {
                Ok(answer) => answer.into_response(),
                Err(error) => error.into_response(),
            }
        }
    };
    Router::new()
        .route("/bare/{number}", get(answer_bare))
        .route("/guarded/{number}", get(answer_guarded))
}
