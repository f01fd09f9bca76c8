use std::{fmt, hash::Hash, sync::Arc};

use axum::Router;
use buttress::circuit_breaker::{Circuit, CircuitBreakers};
use tokio::sync::Semaphore;

use crate::{
    DashboardLayer,
    board::Source,
    routes,
    shared::Shared,
    token::{Token, TokenError},
};

/// A live page about circuits, retries, fallbacks, swarms and failures.
///
/// A cheap handle: clones are the same dashboard, and circuits may be added at any time.
///
/// # Defaults
///
/// - `title`: `buttress`
/// - `most_keyed_circuits`: 100, those that matter most first
/// - `most_readers`: 64 pages at a time, a further one is told to come back
/// - `trace_url`: none, so that the ids of traces are shown without a link
/// - control: off, the page is read-only
///
/// See the [crate docs](crate) for an example.
#[derive(Clone)]
#[must_use = "a dashboard is seen only where its router is mounted"]
pub struct Dashboard {
    shared: Arc<Shared>,
    title: Arc<str>,
    token: Option<Token>,
}

// ===== impl Dashboard =====

impl Dashboard {
    /// Creates a dashboard that watches nothing.
    pub fn new() -> Self {
        Self { shared: Arc::new(Shared::new()), title: "buttress".into(), token: None }
    }

    /// Adds a circuit; its changes are kept from now on.
    pub fn circuit(self, circuit: Circuit) -> Self {
        self.shared.add(Source::One(circuit));
        self
    }

    /// Adds the circuits of a keyed breaker, those to come too.
    ///
    /// Their changes are kept from when a page first shows them, and with the
    /// [layer](Self::layer) from the start.
    pub fn circuits<K>(self, circuits: CircuitBreakers<K>) -> Self
    where
        K: Hash + Eq + Clone + fmt::Display + Send + Sync + 'static,
    {
        let list = move || circuits.iter().map(|(_, circuit)| circuit).collect();
        self.shared.add(Source::Many(Arc::new(list)));
        self
    }

    /// Sets how many circuits of keyed breakers are shown together.
    ///
    /// Those that are not closed come first, then those that fail.
    pub fn most_keyed_circuits(self, circuits: usize) -> Self {
        self.shared.set(|settings| settings.most_keyed = circuits);
        self
    }

    /// Sets how many pages may be open at the same time.
    ///
    /// # Panics
    ///
    /// If the number is zero.
    #[track_caller]
    pub fn most_readers(self, readers: usize) -> Self {
        assert!(readers > 0, "most_readers must be at least 1");
        let readers = Arc::new(Semaphore::new(readers.min(Semaphore::MAX_PERMITS)));
        self.shared.set(|settings| settings.readers = readers);
        self
    }

    /// Sets the name of the page, such as that of the service.
    pub fn title(mut self, title: impl Into<Arc<str>>) -> Self {
        self.title = title.into();
        self
    }

    /// Sets where a person reads a trace, given its id of 32 hexadecimal digits.
    ///
    /// Only addresses of `http` and `https` become links. With buttress-langfuse it is
    /// `move |id| langfuse.trace_url(id)`.
    pub fn trace_url(self, url: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        self.shared.set(|settings| settings.trace_url = Some(Arc::new(url)));
        self
    }

    /// Links to the traces of a project in Langfuse.
    pub fn langfuse(self, base_url: impl Into<String>, project_id: impl fmt::Display) -> Self {
        let base_url = base_url.into();
        let start = format!("{}/project/{project_id}/traces/", base_url.trim_end_matches('/'));
        self.trace_url(move |id| Some(format!("{start}{id}")))
    }

    /// Leaves out the texts of errors, where those may show what nobody else should read.
    ///
    /// Kinds of failures, agents and circuits are shown still.
    pub fn without_error_texts(self) -> Self {
        self.shared.set(|settings| settings.with_texts = false);
        self
    }

    /// Lets who has the token force circuits open, reset and disable them.
    ///
    /// The token comes with each request in the header `Authorization: Bearer ..`, which no page of
    /// another origin can send. Each action, and each wrong token, is an event of `tracing`.
    ///
    /// # Errors
    ///
    /// A token that is shorter than 16 bytes, or that no header carries.
    pub fn allow_control(mut self, token: &str) -> Result<Self, TokenError> {
        self.token = Some(Token::new(token)?);
        Ok(self)
    }

    /// Returns the `tracing` layer that feeds retries, fallbacks, swarms and failures.
    ///
    /// Without it the page shows circuits only.
    #[must_use]
    pub fn layer(&self) -> DashboardLayer {
        DashboardLayer::new(Arc::clone(&self.shared))
    }

    /// Returns the routes, to be nested anywhere; `nest_service` serves the page with and without a slash at
    /// the end of its address.
    ///
    /// Who may read the page is for the layers around it to say: put it behind your own
    /// authentication, or on a port of its own.
    pub fn router(&self) -> Router {
        routes::router(Arc::clone(&self.shared), &self.title, self.token.clone())
    }

    /// Ends the answers to all open pages, which otherwise keep a graceful shutdown waiting.
    pub fn close(&self) {
        self.shared.close();
    }
}

impl Default for Dashboard {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Dashboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dashboard")
            .field("title", &self.title)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}
