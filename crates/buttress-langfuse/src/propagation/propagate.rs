//! What code says about all traces below it.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context as TaskContext, Poll},
};

use opentelemetry::{Context, ContextGuard, SpanId, TraceId, trace::TraceContextExt as _};
use pin_project_lite::pin_project;
use serde_json::Value as Json;

use super::{
    scope::{Scope, is_environment, is_short, same},
    seed::{beginning, trace_id},
};
use crate::{current::current, notice::notice, trace::TraceContext, value};

/// Says something about the traces of all spans that start in a future or a function.
///
/// As with `propagate_attributes` of the official SDKs it stands on the span that is current where
/// the scope begins and on those that start in it, in this task and in those that are
/// [spawned](crate::spawn) there; never on spans that started before. Of scopes in each other tags
/// and metadata add up, and of the rest the inner one counts.
///
/// A value that is longer than 200 characters is left out, and so is an environment of more than 40
/// or with other characters than `a-z`, `0-9`, `-` and `_`; one line on stderr says so.
///
/// # Defaults
///
/// - `as_baggage`: nothing is told to other processes
/// - `trace_seed`: a trace that begins in the scope has a random id
///
/// # Cancellation
///
/// Dropping the future ends the scope. Nothing is kept.
///
/// # Examples
///
/// ```
/// use buttress_langfuse::Propagate;
///
/// async fn research(ticker: &str) -> String {
///     // Spans that start here carry session, user and tag.
///     ticker.to_lowercase()
/// }
///
/// # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
/// # runtime.block_on(async {
/// let call = Propagate::new().session("chat-7").user("ada").tag("stocks").scope(research("AAPL"));
/// assert_eq!(call.await, "aapl");
/// # });
/// ```
#[derive(Clone, Default)]
#[must_use = "a scope begins with `scope` or `in_scope`"]
pub struct Propagate {
    says: TraceContext,
    as_baggage: bool,
    trace: Option<TraceId>,
}

// ===== impl Propagate =====

impl Propagate {
    /// Creates a scope that says nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Says to which session the traces belong.
    pub fn session(mut self, session: impl Into<String>) -> Self {
        self.says.session = checked(Kind::Session, session.into()).or(self.says.session);
        self
    }

    /// Says for which user the traces run.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.says.user = checked(Kind::User, user.into()).or(self.says.user);
        self
    }

    /// Adds a tag.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        if let Some(tag) = checked(Kind::Tag, tag.into()) {
            self.says.tag(&tag);
        }
        self
    }

    /// Adds tags.
    pub fn tags<T: Into<String>>(self, tags: impl IntoIterator<Item = T>) -> Self {
        tags.into_iter().fold(self, Self::tag)
    }

    /// Names the traces.
    pub fn trace_name(mut self, name: impl Into<String>) -> Self {
        self.says.name = checked(Kind::TraceName, name.into()).or(self.says.name);
        self
    }

    /// Says which version of the application runs.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.says.version = checked(Kind::Version, version.into()).or(self.says.version);
        self
    }

    /// Says in which environment the application runs.
    pub fn environment(mut self, environment: impl Into<String>) -> Self {
        let environment = environment.into();
        if is_environment(&environment) {
            self.says.environment = Some(environment);
        } else {
            tell(Kind::Environment);
        }
        self
    }

    /// Sets one entry of the traces' metadata: a text as it is, anything else as JSON.
    pub fn metadata(mut self, key: &str, value: impl Into<Json>) -> Self {
        let text = match value.into() {
            Json::String(text) => text,
            value => value.to_string(),
        };
        if let Some(text) = checked(Kind::Metadata, text) {
            self.says.set_metadata(key, value::text(text));
        }
        self
    }

    /// Tells other processes too: [`inject`](crate::inject) writes all of it as baggage.
    ///
    /// It then also says that the root of the trace is here, so that Langfuse shows no other. Every
    /// service that is called can read these headers, and those it calls in turn: nothing secret
    /// belongs here.
    pub fn as_baggage(mut self) -> Self {
        self.as_baggage = true;
        self
    }

    /// Begins a trace in the scope, with the id of [`trace_id_from_seed`](crate::trace_id_from_seed).
    ///
    /// Spans of other traces stay what they are: the next span that starts in the scope is a root.
    /// Where the seed's trace is current already, it goes on.
    pub fn trace_seed(mut self, seed: &str) -> Self {
        self.trace = Some(trace_id(seed));
        self
    }

    /// Runs a future in the scope.
    pub fn scope<F: Future>(self, future: F) -> Propagated<F> {
        Propagated { inner: future, place: Place::of(self) }
    }

    /// Runs a function in the scope.
    pub fn in_scope<T>(self, run: impl FnOnce() -> T) -> T {
        let _guard = Place::of(self).enter();
        run()
    }
}

impl fmt::Debug for Propagate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Who the user is, is nobody's business.
        f.debug_struct("Propagate")
            .field("as_baggage", &self.as_baggage)
            .field("trace", &self.trace)
            .finish_non_exhaustive()
    }
}

pin_project! {
    /// A future in a scope; made by [`Propagate::scope`].
    #[must_use = "futures do nothing unless polled"]
    pub struct Propagated<F> {
        #[pin]
        inner: F,
        place: Place,
    }
}

impl<F: Future> Future for Propagated<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _guard = this.place.enter();
        this.inner.poll(cx)
    }
}

impl<F> fmt::Debug for Propagated<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Propagated").finish_non_exhaustive()
    }
}

/// A scope, and where it was entered last.
struct Place {
    own: Arc<Scope>,
    trace: Option<TraceId>,
    last: Option<Last>,
}

struct Last {
    outer: Option<Arc<Scope>>,
    span: SpanId,
    scope: Arc<Scope>,
}

// ===== impl Place =====

impl Place {
    fn of(propagate: Propagate) -> Self {
        let own = Arc::new(Scope::new(propagate.says, propagate.as_baggage));
        Self { own, trace: propagate.trace, last: None }
    }

    fn enter(&mut self) -> ContextGuard {
        let current = Context::current();
        let (trace, span) = {
            let span = current.span();
            (span.span_context().trace_id(), span.span_context().span_id())
        };
        let begins = self.trace.filter(|wanted| *wanted != trace);
        let mut context = current.with_value(self.scope(&current, span, begins.is_some()));
        if let Some(trace) = begins {
            context = context.with_remote_span_context(beginning(trace));
        }
        context.attach()
    }

    /// Returns the scope within the one that is there, which is mostly that of the last time.
    fn scope(&mut self, current: &Context, span: SpanId, begins: bool) -> Arc<Scope> {
        let outer = current.get::<Arc<Scope>>();
        if let Some(last) = &self.last
            && last.span == span
            && same(last.outer.as_ref(), outer)
        {
            return last.scope.clone();
        }
        let scope = self.own.within(Scope::at(current).as_deref());
        if self.last.is_none() && !begins {
            current_span_is_in(&scope);
        }
        self.last = Some(Last { outer: outer.cloned(), span, scope: scope.clone() });
        scope
    }
}

/// Says of the span around a scope what the scope says, as the official SDKs do.
fn current_span_is_in(scope: &Arc<Scope>) {
    current().stand_in(scope);
}

// ===== what is left out =====

#[derive(Debug, Clone, Copy)]
enum Kind {
    Session,
    User,
    Tag,
    TraceName,
    Version,
    Environment,
    Metadata,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::User => "user",
            Self::Tag => "tag",
            Self::TraceName => "trace name",
            Self::Version => "version",
            Self::Environment => "environment",
            Self::Metadata => "value of metadata",
        }
    }
}

fn checked(kind: Kind, text: String) -> Option<String> {
    if text.is_empty() {
        return None;
    }
    if !is_short(&text) {
        tell(kind);
        return None;
    }
    Some(text)
}

/// Says once of each kind that a value was left out.
fn tell(kind: Kind) {
    static TOLD: AtomicU8 = AtomicU8::new(0);
    let told = 1_u8 << kind as u8;
    if TOLD.fetch_or(told, Ordering::Relaxed) & told != 0 {
        return;
    }
    let name = kind.name();
    match kind {
        Kind::Environment => notice(format_args!(
            "a propagated environment is left out: it may have up to 40 of a-z, 0-9, - and _, and \
             not begin with `langfuse`; later ones are left out without a line"
        )),
        _ => notice(format_args!(
            "a propagated {name} is left out, since it is longer than 200 characters; later ones \
             are left out without a line"
        )),
    }
}

#[cfg(test)]
mod tests;
