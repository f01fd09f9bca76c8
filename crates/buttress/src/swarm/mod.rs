//! Swarm: asks many agents at once and reports what they found, also when some have failed.
//!
//! Agents are required or optional. A swarm answers with a [`SwarmReport`] as long as no more than
//! a share of its required agents has failed; the report says how far it is degraded:
//!
//! | share of the agents that answered | level |
//! |---|---|
//! | from 80 % | 0, [`Full`](DegradationLevel::Full) |
//! | from 50 % | 1, [`Degraded`](DegradationLevel::Degraded) |
//! | less | 2, [`Minimal`](DegradationLevel::Minimal) |
//!
//! Each agent is any service, with layers of its own: a breaker, retries, a whole
//! [`FaultTolerantAgent`](crate::FaultTolerantAgent). A panic of one is that agent's failure.
//!
//! # Ordering
//!
//! Agents run side by side, at most [`concurrency`](SwarmBuilder::concurrency) at a time: required
//! ones start first, then optional ones, each in the order in which they were added. The report
//! keeps the order in which they were added, whoever answers first.
//!
//! # Cancellation
//!
//! No task is spawned: dropping the swarm's future drops every agent's call. So does the end of
//! the swarm by its deadline, its quorum, or because too many have failed.
//!
//! # Tracing
//!
//! `swarm_with_degradation`, shown as `{swarm}_with_degradation`, of type `chain`, and in it a
//! `swarm_agent` of type `agent` for each agent that had a result or was cancelled while it ran.
//! A failure is an ERROR where the agent is required, else a WARNING. A degraded swarm is a WARNING;
//! a critical one is an ERROR, "Too many required agents failed" (the seed's words). The level is a
//! score event, `degradation_level`, under the target `buttress::score`.
//!
//! # Examples
//!
//! ```
//! use buttress::{DegradationLevel, Swarm, TimeoutLayer};
//! use std::{io, time::Duration};
//! use tower::{Layer, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let technical = service_fn(|ticker: String| async move { Ok::<_, io::Error>(format!("{ticker} rises")) });
//! let news = service_fn(|ticker: String| async move { Ok::<_, io::Error>(format!("{ticker} is quiet")) });
//! let sentiment = service_fn(|_: String| async { Err::<String, _>(io::Error::other("no feed")) });
//!
//! let swarm = Swarm::builder("research_swarm")
//!     .required("technical", TimeoutLayer::new(Duration::from_secs(30)).layer(technical))
//!     .required("news", news)
//!     .optional("sentiment", sentiment)
//!     .deadline(Duration::from_secs(60))
//!     .build()?;
//!
//! let report = swarm.invoke("AAPL".to_owned()).await?;
//! assert_eq!(report.finding("technical"), Some(&"AAPL rises".to_owned()));
//! assert_eq!(report.findings().len(), 2);
//! assert_eq!(report.failures()[0].agent(), "sentiment");
//! assert_eq!(report.level(), DegradationLevel::Degraded);
//! # Ok(())
//! # }
//! ```

mod agent_run;
mod builder;
mod future;
mod report;
mod run;
mod spans;

use std::{
    convert::Infallible,
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tower::{Service, ServiceExt, util::BoxCloneSyncService};

pub use self::{
    builder::SwarmBuilder,
    future::ResponseFuture,
    report::{DegradationLevel, Finding, SwarmFailure, SwarmReport},
};
use crate::{Error, telemetry::Labels};

/// Many agents that are asked at once; made by [`Swarm::builder`].
///
/// A cheap clone shares the agents. `R` is what it answers with: the [`SwarmReport`], or what
/// [`synthesize`](SwarmBuilder::synthesize) makes of it.
///
/// It is always ready: each agent's readiness is awaited when it is that agent's turn.
///
/// # Errors
///
/// [`CriticalDegradation`](crate::ErrorKind::CriticalDegradation), as soon as so many required
/// agents have failed that it is certain.
///
/// See the [module docs](self) for an example.
pub struct Swarm<Req, T, R = SwarmReport<T>> {
    settings: Arc<Settings<Req, T, R>>,
}

/// What is fixed when the swarm is built.
struct Settings<Req, T, R> {
    name: Arc<str>,
    /// What tracing shows as the span's name: `{swarm}_with_degradation`.
    span_name: String,
    labels: Labels,
    /// In the order in which they were added.
    members: Vec<Member<Req, T>>,
    /// The places of the members, in the order in which they start.
    order: Vec<usize>,
    required: usize,
    /// The share of required agents that may fail.
    threshold: f64,
    /// The number of required agents that may fail.
    tolerated: usize,
    concurrency: usize,
    deadline: Option<Duration>,
    quorum: Option<usize>,
    synthesize: Arc<dyn Fn(SwarmReport<T>) -> R + Send + Sync>,
}

/// One agent of a swarm.
struct Member<Req, T> {
    name: Arc<str>,
    required: bool,
    /// Erased, since the agents of one swarm differ in type.
    service: BoxCloneSyncService<Req, T, Error>,
}

// ===== impl Swarm =====

impl Swarm<Infallible, Infallible> {
    /// Starts building a swarm.
    pub fn builder<Req, T>(name: impl Into<Arc<str>>) -> SwarmBuilder<Req, T> {
        SwarmBuilder::new(name.into())
    }
}

impl<Req, T, R> Swarm<Req, T, R> {
    /// Returns the swarm's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Returns the names of the agents, in the order in which they were added.
    pub fn agents(&self) -> impl Iterator<Item = &str> {
        self.settings.members.iter().map(|member| &*member.name)
    }

    /// Asks every agent: a call for who does not drive services by hand.
    ///
    /// # Errors
    ///
    /// As the [service](Self#errors).
    pub async fn invoke(&self, request: Req) -> Result<R, Error>
    where
        Req: Clone + 'static,
        T: 'static,
    {
        self.clone().oneshot(request).await
    }
}

impl<Req, T, R> Service<Req> for Swarm<Req, T, R>
where
    Req: Clone + 'static,
    T: 'static,
{
    type Response = R;
    type Error = Error;
    type Future = ResponseFuture<Req, T, R>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Req) -> Self::Future {
        ResponseFuture::new(Arc::clone(&self.settings), request)
    }
}

impl<Req, T, R> Clone for Swarm<Req, T, R> {
    fn clone(&self) -> Self {
        Self { settings: Arc::clone(&self.settings) }
    }
}

impl<Req, T, R> fmt::Debug for Swarm<Req, T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let agents: Vec<_> = self.agents().collect();
        f.debug_struct("Swarm")
            .field("name", &self.name())
            .field("agents", &agents)
            .finish_non_exhaustive()
    }
}
