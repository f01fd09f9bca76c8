//! Langfuse, in a process of its own: counts what arrives and forgets it.
//!
//! The test server keeps every span. So that a long run does not fill the memory, requests go
//! through here to a server that is replaced when it has taken so many spans.

use std::{
    collections::HashSet,
    io::{self, BufRead as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
};
use buttress::BoxError;
use buttress_benches::out;
use buttress_tests::langfuse_server::{LangfuseServer, Observation, Received};
use http::{StatusCode, Uri};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::RwLock};

use crate::{agent::CALL, helper, server::AGENT};

/// How many spans a server takes before it is replaced.
const SPANS: usize = 20_000;

/// Where to send spans.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Address {
    pub(crate) base_url: String,
    pub(crate) public_key: String,
    pub(crate) secret_key: String,
}

/// What has arrived.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Arrived {
    /// Spans, each counted once.
    pub(crate) spans: u64,
    /// Spans that came again.
    pub(crate) repeats: u64,
    /// Batches that the server took and could not read.
    pub(crate) lost_batches: u64,
    /// Spans of the agent: one for each call.
    pub(crate) agents: u64,
    /// Those of them that failed.
    pub(crate) failed_agents: u64,
    /// The numbers that those said in their metadata.
    pub(crate) failed_calls: Vec<u64>,
}

struct Receiver {
    /// How long each answer is kept back.
    delay: Duration,
    client: Client<HttpConnector, Body>,
    server: RwLock<LangfuseServer>,
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    arrived: Arrived,
    ids: HashSet<u64>,
}

/// Receives until the input ends; answers each line of it with what has arrived.
pub(crate) fn run(delay: Duration) -> Result<(), BoxError> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build()?;
    let receiver = runtime.block_on(async {
        helper::ignore_ctrl_c();
        let server = LangfuseServer::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = Address {
            base_url: format!("http://{}", listener.local_addr()?),
            public_key: server.public_key().to_owned(),
            secret_key: server.secret_key().to_owned(),
        };
        let receiver = Arc::new(Receiver {
            delay,
            client: Client::builder(TokioExecutor::new()).build_http(),
            server: RwLock::new(server),
            tally: Mutex::default(),
        });
        let router = Router::new().fallback(pass_on).with_state(Arc::clone(&receiver));
        drop(tokio::spawn(async move { axum::serve(listener, router).await }));
        say(&address)?;
        Ok::<_, BoxError>(receiver)
    })?;
    for line in io::stdin().lock().lines() {
        line?;
        runtime.block_on(receiver.replace());
        say(&lock(&receiver.tally).arrived)?;
    }
    Ok(())
}

fn say(what: &impl Serialize) -> Result<(), BoxError> {
    let is_read = out::say(&(serde_json::to_string(what)? + "\n"))?;
    if is_read { Ok(()) } else { Err("whoever started this process has ended".into()) }
}

/// Sends a request on to the server as it came.
async fn pass_on(State(receiver): State<Arc<Receiver>>, request: Request) -> Response {
    // Held until the answer is here, so that no server is replaced below a request.
    let server = receiver.server.read().await;
    let answer = receiver.forward(&server, request).await;
    let is_full = server.is_full();
    drop(server);
    if is_full {
        receiver.replace().await;
    }
    if !receiver.delay.is_zero() {
        tokio::time::sleep(receiver.delay).await;
    }
    answer.unwrap_or_else(|error| (StatusCode::BAD_GATEWAY, error.to_string()).into_response())
}

// ===== impl Receiver =====

impl Receiver {
    async fn forward(
        &self,
        server: &LangfuseServer,
        mut request: Request,
    ) -> Result<Response, BoxError> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = format!("{}{path}", server.base_url()).parse::<Uri>()?;
        let answer = self.client.request(request).await?;
        Ok(answer.map(Body::new))
    }

    /// Puts a new server in the place of the one that is there, and counts what that one had.
    async fn replace(&self) {
        let mut server = self.server.write().await;
        let old = std::mem::replace(&mut *server, LangfuseServer::start().await);
        old.look(|received| lock(&self.tally).add(received));
    }
}

trait Look {
    /// Looks at what was received, without copying it as the other readers do.
    fn look(&self, look: impl FnMut(&Received));

    fn is_full(&self) -> bool;
}

impl Look for LangfuseServer {
    fn look(&self, mut look: impl FnMut(&Received)) {
        self.wait_until_blocking(Duration::ZERO, |received| {
            look(received);
            true
        });
    }

    fn is_full(&self) -> bool {
        let mut is_full = false;
        self.look(|received| is_full = received.observations().len() >= SPANS);
        is_full
    }
}

// ===== impl Tally =====

impl Tally {
    fn add(&mut self, received: &Received) {
        let repeats = received.observations().iter().map(|span| received.deliveries(span.id()) - 1);
        self.arrived.repeats += repeats.map(|repeats| repeats as u64).sum::<u64>();
        self.arrived.lost_batches += received.lost_batches() as u64;
        received.observations().iter().for_each(|span| self.add_span(span));
    }

    fn add_span(&mut self, span: &Observation) {
        let id = u64::from_str_radix(span.id(), 16).expect("the server takes hexadecimal ids only");
        if !self.ids.insert(id) {
            self.arrived.repeats += 1;
            return;
        }
        self.arrived.spans += 1;
        if span.name().strip_prefix("agent_") != Some(AGENT) {
            return;
        }
        self.arrived.agents += 1;
        if span.level() == "ERROR" {
            self.arrived.failed_agents += 1;
            let call = span.stored_metadata(CALL).and_then(|call| call.parse::<u64>().ok());
            self.arrived.failed_calls.extend(call);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
