use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use buttress::{BoxStore, CheckpointStore, Failure, checkpoint::WhenUnavailable};

use crate::{
    CompiledGraph, END, GraphError, IntoNode, Node, NodeOptions, Route, START, State,
    node::{Guarded, Handler},
};

/// Builds a graph of nodes and edges.
///
/// # Defaults
///
/// - `recursion_limit`: 25 supersteps
/// - `max_parallelism`: 64 nodes at once
/// - `store`: none; a run is lost with its process then
/// - `durability`: [`Durability::Sync`]
/// - `when_unavailable`: [`WhenUnavailable::FAIL`]
/// - `lease`: 30 s, under a name of the run's own; of a subgraph under that of its call
/// - `max_recoveries`: 100
#[must_use = "a graph does nothing until it is compiled"]
pub struct StateGraph<S: State> {
    name: Arc<str>,
    nodes: Vec<(String, Node<S>, NodeOptions<S>)>,
    edges: Vec<(String, String)>,
    branches: Vec<(String, Branch<S, String>)>,
    settings: Settings,
}

/// When a superstep is saved: before the next one begins, or while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// Before the next superstep begins.
    #[default]
    Sync,
    /// While the nodes of the next superstep run: one save at most is on its way, no answer counts
    /// before it is done, and its error ends that superstep. A crash repeats one step more.
    Async,
    /// When the run ends, in whatever way but a crash, and before its first node: a crash, and a
    /// future that is dropped, repeat all of it.
    Exit,
}

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) durability: Durability,
    pub(crate) store: Option<BoxStore>,
    pub(crate) when_unavailable: WhenUnavailable,
    pub(crate) recursion_limit: u64,
    pub(crate) max_parallelism: usize,
    pub(crate) owner: Option<Arc<str>>,
    pub(crate) lease: Duration,
    pub(crate) max_recoveries: u32,
}

/// What decides where to go behind a node.
pub(crate) type Router<S> = Arc<dyn Fn(&S, Result<(), &Failure>) -> Route + Send + Sync>;

/// The ways that a router chooses from: to places, or to names while the graph is built.
pub(crate) struct Branch<S, T = usize> {
    pub(crate) router: Router<S>,
    /// Label and node.
    pub(crate) routes: Vec<(String, T)>,
}

/// Where edges and routers lead, by the places of nodes.
pub(crate) struct Ways<S> {
    pub(crate) edges: Vec<usize>,
    pub(crate) branches: Vec<Branch<S>>,
}

/// A node with all that leads away from it.
pub(crate) struct Compiled<S: State> {
    pub(crate) name: Arc<str>,
    /// What tracing shows as the span's name: `node_{name}`.
    pub(crate) span_name: String,
    pub(crate) service: Arc<dyn Guarded<S>>,
    pub(crate) on_error: Option<Handler<S>>,
    pub(crate) ways: Ways<S>,
}

// ===== impl StateGraph =====

impl<S: State> StateGraph<S> {
    /// Creates a graph without nodes.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        let settings = Settings {
            durability: Durability::Sync,
            store: None,
            when_unavailable: WhenUnavailable::FAIL,
            recursion_limit: 25,
            max_parallelism: 64,
            owner: None,
            lease: Duration::from_secs(30),
            max_recoveries: 100,
        };
        Self {
            name: name.into(),
            nodes: Vec::new(),
            edges: Vec::new(),
            branches: Vec::new(),
            settings,
        }
    }

    /// Adds a node behind the seed's timeout, retries and breaker.
    pub fn add_node<M>(self, name: impl Into<String>, node: impl IntoNode<S, M>) -> Self {
        self.add_node_with(name, node, NodeOptions::new())
    }

    /// Adds a node behind what the options say.
    pub fn add_node_with<M>(
        mut self,
        name: impl Into<String>,
        node: impl IntoNode<S, M>,
        options: NodeOptions<S>,
    ) -> Self {
        self.nodes.push((name.into(), node.into_node(), options));
        self
    }

    /// Adds an edge: what is behind it runs once the node has answered.
    ///
    /// From [`START`] an edge says where the graph begins; to [`END`] it ends this branch.
    pub fn add_edge(mut self, from: impl Into<String>, to: impl Into<String>) -> Self {
        self.edges.push((from.into(), to.into()));
        self
    }

    /// Adds edges of which a router chooses, by the state behind the superstep and how the node
    /// ended.
    ///
    /// The router is asked for failures too: a node that failed is run again by the label
    /// `retry` (at most twice in a row, then it is as `fail`), its failure is dealt with where the
    /// route leads to a node, and is the workflow's where it leads to [`END`].
    pub fn add_conditional_edges<L, N>(
        mut self,
        from: impl Into<String>,
        router: impl Fn(&S, Result<(), &Failure>) -> Route + Send + Sync + 'static,
        routes: impl IntoIterator<Item = (L, N)>,
    ) -> Self
    where
        L: Into<String>,
        N: Into<String>,
    {
        let routes = routes.into_iter().map(|(label, node)| (label.into(), node.into())).collect();
        self.branches.push((from.into(), Branch { router: Arc::new(router), routes }));
        self
    }

    /// Sets where runs are saved.
    pub fn store(mut self, store: impl CheckpointStore) -> Self {
        self.settings.store = Some(BoxStore::new(store));
        self
    }

    /// Sets when a superstep is saved.
    pub const fn durability(mut self, durability: Durability) -> Self {
        self.settings.durability = durability;
        self
    }

    /// Sets what to do when the store is away while a run is on its way; none begins without it.
    ///
    /// A run that goes on without saves again once the store is back. Stopped before, it is resumed
    /// from what was saved, and what has run since is called again with the same idempotency keys;
    /// and once its lease has run out another process may take the workflow over, which this run
    /// learns with its next save.
    pub const fn when_unavailable(mut self, what: WhenUnavailable) -> Self {
        self.settings.when_unavailable = what;
        self
    }

    /// Sets how many supersteps a run may make.
    pub const fn recursion_limit(mut self, steps: u64) -> Self {
        self.settings.recursion_limit = steps;
        self
    }

    /// Sets how many nodes run at once.
    ///
    /// # Panics
    ///
    /// If it is 0.
    #[track_caller]
    pub const fn max_parallelism(mut self, nodes: usize) -> Self {
        assert!(nodes > 0, "at least one node runs");
        self.settings.max_parallelism = nodes;
        self
    }

    /// Sets under whose name and for how long a run takes the lease of its workflow, which it
    /// renews. Whoever has the same name takes over at once: after a crash the restarted process.
    ///
    /// # Panics
    ///
    /// If the time is shorter than a second.
    #[track_caller]
    pub fn lease(mut self, owner: impl Into<Arc<str>>, time: Duration) -> Self {
        assert!(time >= Duration::from_secs(1), "a lease lasts a second at least");
        self.settings.owner = Some(owner.into());
        self.settings.lease = time;
        self
    }

    /// Sets how often a workflow is resumed at one superstep before it is left alone.
    pub const fn max_recoveries(mut self, recoveries: u32) -> Self {
        self.settings.max_recoveries = recoveries;
        self
    }

    /// Checks the graph and makes it ready to run.
    ///
    /// # Errors
    ///
    /// `Invalid`, which names node and edge: a name that is empty, reserved or stands twice, an edge
    /// from or to a node that is not there, a node that cannot be reached or has no way on, a
    /// router without routes.
    pub fn compile(self) -> Result<CompiledGraph<S>, GraphError> {
        self.check_names()?;
        self.check_edges()?;
        self.check_ways()?;
        // The place behind the last node is the end.
        let names = self.nodes.iter().map(|(name, ..)| Arc::from(&**name)).chain([END.into()]);
        let places: BTreeMap<Arc<str>, usize> = names.zip(0..).collect();
        let ways = |from: &str| {
            let edges = self.edges.iter().filter(|(source, _)| source == from);
            let branches = self.branches.iter().filter(|(source, _)| source == from);
            Ways {
                edges: edges.map(|(_, to)| places[&**to]).collect(),
                branches: branches.map(|(_, branch)| branch.to_places(&places)).collect(),
            }
        };
        let entry = ways(START);
        let of_nodes: Vec<_> = self.nodes.iter().map(|(name, ..)| ways(name)).collect();
        let nodes = self.nodes.into_iter().zip(of_nodes);
        let nodes = nodes.map(|((name, node, options), ways)| Compiled {
            span_name: format!("node_{name}"),
            service: node.guarded(&name, &options),
            on_error: options.on_error.clone(),
            name: name.into(),
            ways,
        });
        Ok(CompiledGraph::new(self.name, nodes.collect(), places, entry, self.settings))
    }

    fn has(&self, node: &str) -> bool {
        self.nodes.iter().any(|(name, ..)| name == node)
    }

    fn check_names(&self) -> Result<(), GraphError> {
        let mut seen = std::collections::HashSet::new();
        for (name, ..) in &self.nodes {
            if name.is_empty() || name == START || name == END || name.contains([':', ',']) {
                let reason =
                    "a name is not empty, not one of the graph's own, and has no ':' or ','";
                return Err(GraphError::invalid(format!("node {name:?}: {reason}")));
            }
            if !seen.insert(name) {
                return Err(GraphError::invalid(format!("node {name:?} stands twice")));
            }
        }
        Ok(())
    }

    /// Returns every way from a node to a node, with the label where it has one.
    fn ways(&self) -> impl Iterator<Item = (&str, &str, Option<&str>)> {
        let edges = self.edges.iter().map(|(from, to)| (&**from, &**to, None));
        let branches = self.branches.iter().flat_map(|(from, branch)| {
            branch.routes.iter().map(move |(label, to)| (&**from, &**to, Some(&**label)))
        });
        edges.chain(branches)
    }

    fn check_edges(&self) -> Result<(), GraphError> {
        for (from, to, _) in self.ways() {
            let edge = format!("edge {from:?} -> {to:?}");
            if from == END || !(from == START || self.has(from)) {
                return Err(GraphError::invalid(format!("{edge}: it comes from no node")));
            }
            if to == START || !(to == END || self.has(to)) {
                return Err(GraphError::invalid(format!("{edge}: it leads to no node")));
            }
        }
        for (from, branch) in &self.branches {
            if branch.routes.is_empty() {
                let reason = format!("the router behind {from:?} has no routes");
                return Err(GraphError::invalid(reason));
            }
            let mut labels = BTreeMap::new();
            for (label, to) in &branch.routes {
                if labels.insert(label, to).is_some() {
                    let reason = format!("the router behind {from:?} has {label:?} twice");
                    return Err(GraphError::invalid(reason));
                }
            }
        }
        Ok(())
    }

    /// Checks that every node is reached. One without edges may go on by its commands, but then all
    /// nodes may be reached by them, and only what is behind [`START`] is known.
    fn check_ways(&self) -> Result<(), GraphError> {
        if !self.ways().any(|(from, ..)| from == START) {
            return Err(GraphError::invalid("no edge leads from START"));
        }
        let is_exit = |node: &str| self.ways().any(|(from, ..)| from == node);
        if let Some((name, ..)) = self.nodes.iter().find(|(name, ..)| !is_exit(name)) {
            return Err(GraphError::invalid(format!("node {name:?} has no way on")));
        }
        let mut reached = vec![START];
        let mut next = 0;
        while let Some(&from) = reached.get(next) {
            next += 1;
            for (_, to, _) in self.ways().filter(|(source, ..)| *source == from) {
                if !reached.contains(&to) {
                    reached.push(to);
                }
            }
        }
        match self.nodes.iter().find(|(name, ..)| !reached.contains(&&**name)) {
            Some((name, ..)) => {
                let reason =
                    "nothing leads to it; what is only sent to by commands gets an edge too";
                Err(GraphError::invalid(format!("node {name:?}: {reason}")))
            }
            None => Ok(()),
        }
    }
}

impl<S: State> fmt::Debug for StateGraph<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes: Vec<_> = self.nodes.iter().map(|(name, ..)| name).collect();
        f.debug_struct("StateGraph")
            .field("name", &self.name)
            .field("nodes", &nodes)
            .field("edges", &self.edges)
            .finish_non_exhaustive()
    }
}

// ===== impl Branch =====

impl<S> Branch<S, String> {
    fn to_places(&self, places: &BTreeMap<Arc<str>, usize>) -> Branch<S> {
        let routes = self.routes.iter().map(|(label, to)| (label.clone(), places[&**to]));
        Branch { router: Arc::clone(&self.router), routes: routes.collect() }
    }
}
