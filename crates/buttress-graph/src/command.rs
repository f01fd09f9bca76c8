use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::State;

/// What a node answers: an update of the state, and where to go next.
///
/// Without [`goto`](Self::goto) and [`send`](Self::send) the edges of the node say where.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound = "")]
#[must_use]
pub struct Command<S: State> {
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "there")]
    pub(crate) update: Option<S::Update>,
    pub(crate) goto: Vec<String>,
    pub(crate) send: Vec<(String, S)>,
    /// Whether it sends, be it nothing.
    #[serde(default)]
    pub(crate) sends: bool,
    pub(crate) interrupt: Option<Value>,
}

/// What a router answers: the labels of the ways to go.
///
/// [`SUCCESS`](Self::SUCCESS), [`RETRY`](Self::RETRY) and [`FAIL`](Self::FAIL) are the seed's
/// (`route_with_error_handling`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route(pub(crate) Vec<Cow<'static, str>>);

/// What becomes a [`Command`]: a command, or an update.
///
/// `M` tells the two apart and is inferred.
pub trait IntoCommand<S: State, M> {
    /// Makes it one.
    fn into_command(self) -> Command<S>;
}

/// Marks an answer that is an update.
#[derive(Debug)]
pub struct ViaUpdate;

/// Marks an answer that is a command.
#[derive(Debug)]
pub struct ViaCommand;

/// Reads what is there, also where its JSON is null.
pub(crate) fn there<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

// ===== impl Command =====

impl<S: State> Command<S> {
    /// Creates a command that changes nothing.
    pub const fn new() -> Self {
        Self { update: None, goto: Vec::new(), send: Vec::new(), sends: false, interrupt: None }
    }

    /// Creates a command that changes the state.
    pub fn update(update: S::Update) -> Self {
        Self { update: Some(update), ..Self::new() }
    }

    /// Creates a command that stops the workflow until a person has answered; the node is then run
    /// again, with the answer.
    pub fn interrupt(question: impl Into<Value>) -> Self {
        Self { interrupt: Some(question.into()), ..Self::new() }
    }

    /// Goes to a node instead of along the edges; [`END`](crate::END) ends this branch.
    pub fn goto(mut self, node: impl Into<String>) -> Self {
        self.goto.push(node.into());
        self
    }

    /// Runs a node in the next superstep on a state of its own: once for each call.
    pub fn send(mut self, node: impl Into<String>, state: S) -> Self {
        self.send.push((node.into(), state));
        self.sends = true;
        self
    }

    /// Runs a node in the next superstep on each of some states: not at all where there is none, and
    /// not along the edges either.
    pub fn send_all(mut self, node: &str, states: impl IntoIterator<Item = S>) -> Self {
        self.send.extend(states.into_iter().map(|state| (node.to_owned(), state)));
        self.sends = true;
        self
    }
}

impl<S: State> Command<S> {
    pub(crate) const fn goes_by_edges(&self) -> bool {
        self.goto.is_empty() && !self.sends
    }

    /// Returns where it goes instead.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &str> + Clone {
        let sent = self.send.iter().map(|(node, _)| &**node);
        self.goto.iter().map(|node| &**node).chain(sent)
    }
}

impl<S: State> Default for Command<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: State<Update = U>, U> IntoCommand<S, ViaUpdate> for U {
    fn into_command(self) -> Command<S> {
        Command::update(self)
    }
}

impl<S: State> IntoCommand<S, ViaCommand> for Command<S> {
    fn into_command(self) -> Self {
        self
    }
}

// ===== impl Route =====

impl Route {
    /// The label of going on.
    pub const SUCCESS: &'static str = "success";
    /// The label of running the node again, at most twice in a row.
    pub const RETRY: &'static str = "retry";
    /// The label of ending the workflow with the node's failure.
    pub const FAIL: &'static str = "fail";

    /// Creates a route along one label.
    #[must_use]
    pub fn to(label: impl Into<Cow<'static, str>>) -> Self {
        Self(vec![label.into()])
    }

    /// Creates a route along several labels at once.
    #[must_use]
    pub fn to_all<L: Into<Cow<'static, str>>>(labels: impl IntoIterator<Item = L>) -> Self {
        Self(labels.into_iter().map(Into::into).collect())
    }
}

impl From<&'static str> for Route {
    fn from(label: &'static str) -> Self {
        Self::to(label)
    }
}

impl From<String> for Route {
    fn from(label: String) -> Self {
        Self::to(label)
    }
}
