//! Reading what Langfuse has: observations, metrics, scores, traces.
//!
//! [`LangfuseClient`] asks the interfaces of Langfuse 4 and, where a server answers that it has
//! none of these (404), those of Langfuse 3. What it reads is the same from both: metadata under
//! dotted keys, numbers also where a server writes them as text.
//!
//! ```no_run
//! use std::time::{Duration, SystemTime};
//! use buttress_langfuse::{LangfuseClient, Statistics, client::ObservationQuery};
//!
//! # async fn example() -> Result<(), buttress_langfuse::client::ClientError> {
//! // LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY, LANGFUSE_BASE_URL
//! let langfuse = LangfuseClient::from_env()?;
//! let day = SystemTime::now() - Duration::from_secs(24 * 60 * 60);
//! let observations = langfuse.observations(ObservationQuery::new().from(day)).all().await?;
//! let retry = Statistics::of(observations).total.retry;
//! match retry.success_rate() {
//!     Some(rate) => println!("of the calls that were retried {:.1} % succeeded", rate * 100.0),
//!     None => println!("no call was retried"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Its requests go through buttress's own layers: each has a time limit, and 429 (after the
//! `Retry-After` of the server, up to two minutes), 408, 5xx and broken connections are tried
//! again. They make no spans.

mod error;
mod exchange;
mod health;
pub(crate) mod lenient;
mod metrics;
mod pages;
mod query;
mod score;
mod trace;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::Value as Json;

pub(crate) use self::exchange::Access;
pub use self::{
    error::ClientError,
    health::Health,
    metrics::{MetricsQuery, MetricsRow},
    pages::{Pages, Row},
    query::{Contents, ObservationQuery},
    score::{Score, ScoreQuery, ScoreValue},
    trace::Trace,
};
use self::{
    exchange::{Answer, Manner},
    pages::Listing,
};
use crate::{Langfuse, Observation};

/// The shortest time limit that is taken over from the settings of sending.
const SHORTEST: Duration = Duration::from_secs(30);

/// Reads what Langfuse has; clones share the connections.
///
/// # Defaults
///
/// - `timeout`: that of the builder, but at least 30 s
/// - `max_attempts`: 4; the delays are the builder's, 0.5 s and growing
///
/// See the [module docs](self) for an example.
///
/// # Cancellation
///
/// A call that is dropped ends its request.
#[derive(Clone)]
pub struct LangfuseClient {
    access: Arc<Access>,
    manner: Manner,
    line: Arc<Line>,
}

/// Which of its interfaces a server has: each is found out by the first 404.
#[derive(Debug, Default)]
struct Line {
    old_observations: AtomicBool,
    old_metrics: AtomicBool,
    old_scores: AtomicBool,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Observations,
    Metrics,
    Scores,
}

/// One question in the words of both interfaces.
struct Question<'a> {
    subject: Subject,
    new: (&'a str, Vec<(&'a str, String)>),
    old: (&'a str, Vec<(&'a str, String)>),
}

// ===== impl LangfuseClient =====

impl LangfuseClient {
    /// Starts from the environment: the variables of [`Langfuse::from_env`].
    ///
    /// # Errors
    ///
    /// The variable that is missing, or whose value cannot be used.
    pub fn from_env() -> Result<Self, ClientError> {
        Langfuse::from_env()?.client()
    }

    pub(crate) fn new(
        access: Access,
        timeout: Duration,
        delay: Duration,
        longest_delay: Duration,
    ) -> Self {
        let timeout = timeout.max(SHORTEST);
        let manner = Manner { timeout, attempts: 4, delay, longest_delay, on_wait: None };
        Self { access: Arc::new(access), manner, line: Arc::default() }
    }

    /// Sets how long one request may take, its answer included.
    ///
    /// # Panics
    ///
    /// If the time is zero.
    #[track_caller]
    #[must_use]
    pub const fn timeout(mut self, time: Duration) -> Self {
        assert!(!time.is_zero(), "timeout must be longer than zero");
        self.manner.timeout = time;
        self
    }

    /// Sets how often one question is asked at most.
    ///
    /// # Panics
    ///
    /// If the number is zero.
    #[track_caller]
    #[must_use]
    pub const fn max_attempts(mut self, attempts: usize) -> Self {
        assert!(attempts > 0, "max_attempts must be at least 1");
        self.manner.attempts = attempts;
        self
    }

    /// Tells why an answer is waited for, each time before a question is asked again.
    ///
    /// The sentence is for people. The last attempt is told of too.
    #[must_use]
    pub fn on_wait(mut self, tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.manner.on_wait = Some(Arc::new(tell));
        self
    }

    /// Returns the address of Langfuse.
    #[must_use]
    pub fn base_url(&self) -> &str {
        self.access.base_url()
    }

    /// Lists observations, the newest first.
    pub fn observations(&self, query: ObservationQuery) -> Pages<Observation> {
        Pages::new(self.clone(), query.listing())
    }

    /// Lists scores, the newest first.
    pub fn scores(&self, query: ScoreQuery) -> Pages<Score> {
        Pages::new(self.clone(), query.listing())
    }

    /// Counts and measures, grouped.
    ///
    /// # Errors
    ///
    /// `Refused` where Langfuse knows a dimension or measure not, or does not group by it.
    pub async fn metrics(&self, query: &MetricsQuery) -> Result<Vec<MetricsRow>, ClientError> {
        let question = || vec![("query", query.to_json().to_string())];
        let answer = self
            .ask(Question {
                subject: Subject::Metrics,
                new: ("/api/public/v2/metrics", question()),
                old: ("/api/public/metrics", question()),
            })
            .await?;
        MetricsRow::read_all(answer)
    }

    /// Reads all observations of a trace, input and output included.
    ///
    /// # Errors
    ///
    /// `NoTrace` where there are none: what has just been sent is readable after some seconds.
    pub async fn trace(&self, id: &str) -> Result<Trace, ClientError> {
        let query = ObservationQuery::new().trace_id(id).contents(Contents::Everything);
        let observations = self.observations(query).all().await?;
        Trace::new(observations).ok_or_else(|| ClientError::NoTrace { id: id.to_owned() })
    }

    /// Returns the id of the trace whose observation began last; none where there is none.
    ///
    /// # Errors
    ///
    /// Why Langfuse was not read.
    pub async fn last_trace_id(
        &self,
        query: ObservationQuery,
    ) -> Result<Option<String>, ClientError> {
        let mut newest = self.observations(query.page_size(1));
        let page = newest.next().await?.unwrap_or_default();
        Ok(page.into_iter().next().map(|one| one.trace_id))
    }

    /// Asks the server how it is; no keys are needed.
    ///
    /// # Errors
    ///
    /// `NotLangfuse` where something else answers.
    pub async fn health(&self) -> Result<Health, ClientError> {
        match self.access.get(&self.manner, "/api/public/health", &[]).await? {
            Answer::Found(json) => {
                let health = Health::read(&json);
                health.ok_or_else(|| self.access.is_not_langfuse("it has no version".to_owned()))
            }
            Answer::Missing(words) => Err(self.access.is_not_langfuse(words)),
        }
    }

    /// Asks the newer interface, and the older one where the server has only that.
    async fn ask(&self, question: Question<'_>) -> Result<Json, ClientError> {
        let is_old = self.line.of(question.subject);
        if !is_old.load(Ordering::Relaxed) {
            let (path, query) = &question.new;
            if let Answer::Found(json) = self.access.get(&self.manner, path, query).await? {
                return Ok(json);
            }
        }
        let (path, query) = &question.old;
        match self.access.get(&self.manner, path, query).await? {
            Answer::Found(json) => {
                is_old.store(true, Ordering::Relaxed);
                Ok(json)
            }
            Answer::Missing(words) => Err(self.access.is_not_langfuse(words)),
        }
    }

    /// Returns whether the server is known to have only the older interface.
    fn is_old(&self, subject: Subject) -> bool {
        self.line.of(subject).load(Ordering::Relaxed)
    }
}

impl fmt::Debug for LangfuseClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LangfuseClient")
            .field("access", &self.access)
            .field("timeout", &self.manner.timeout)
            .field("attempts", &self.manner.attempts)
            .finish_non_exhaustive()
    }
}

impl Line {
    const fn of(&self, subject: Subject) -> &AtomicBool {
        match subject {
            Subject::Observations => &self.old_observations,
            Subject::Metrics => &self.old_metrics,
            Subject::Scores => &self.old_scores,
        }
    }
}

impl Listing {
    /// Puts a place of the list into the words of both interfaces.
    fn question(&self, cursor: Option<&str>, page: u64) -> Question<'_> {
        let mut new = (self.new_path, self.new_query.clone());
        let mut old = (self.old_path, self.old_query.clone());
        new.1.push(("limit", self.new_limit.to_string()));
        new.1.extend(cursor.map(|cursor| ("cursor", cursor.to_owned())));
        old.1.push(("limit", self.old_limit.to_string()));
        old.1.push(("page", page.to_string()));
        Question { subject: self.subject, new, old }
    }
}
