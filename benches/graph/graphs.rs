//! The graphs, which are those of `benches/langgraph/measure.py`.

use std::convert::Infallible;

use buttress::{BoxStore, FileStore, MemoryStore, WorkflowId};
use buttress_graph::{
    Command, CompiledGraph, END, Node, NodeRequest, Route, START, State, StateGraph,
};
use buttress_stores::sqlite::SqliteStore;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

/// Which graph, with how many steps or branches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Three nodes in a circle, each of which adds 1.
    Loop(u64),
    /// A node that sends a list, an item to a branch.
    FanOut(u64),
}

/// Where runs are saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Store {
    Nowhere,
    Memory,
    File,
    Sqlite,
}

/// A graph of ours, with what it needs.
pub(crate) struct Graph {
    shape: Shape,
    of_shape: OfShape,
    workflows: u64,
    /// What goes when the graph does.
    _folder: Option<TempDir>,
}

enum OfShape {
    Loop(CompiledGraph<Loop>),
    FanOut(CompiledGraph<FanOut>),
}

#[derive(Clone, Serialize, Deserialize)]
struct Loop {
    count: u64,
    steps: u64,
    text: String,
}

#[derive(Clone, Serialize, Deserialize)]
struct Count {
    count: u64,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct FanOut {
    item: u64,
    items: u64,
    squares: Vec<u64>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Square {
    square: u64,
}

// ===== impl Shape =====

impl Shape {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Loop(_) => "loop",
            Self::FanOut(_) => "fan_out",
        }
    }

    /// Returns how many steps the graph makes, or how many branches it has.
    pub(crate) const fn size(self) -> u64 {
        match self {
            Self::Loop(size) | Self::FanOut(size) => size,
        }
    }
}

// ===== impl Store =====

impl Store {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nowhere => "none",
            Self::Memory => "memory",
            Self::File => "file",
            Self::Sqlite => "sqlite",
        }
    }

    async fn open(self) -> (Option<BoxStore>, Option<TempDir>) {
        let folder = || TempDir::new().expect("a temporary folder");
        match self {
            Self::Nowhere => (None, None),
            Self::Memory => (Some(BoxStore::new(MemoryStore::new())), None),
            Self::File => {
                let folder = folder();
                let store = FileStore::open(folder.path()).await.expect("the folder can be used");
                (Some(BoxStore::new(store)), Some(folder))
            }
            Self::Sqlite => {
                let folder = folder();
                let store = SqliteStore::open(folder.path().join("checkpoints.db")).await;
                (Some(BoxStore::new(store.expect("the file can be used"))), Some(folder))
            }
        }
    }
}

// ===== impl Graph =====

impl Graph {
    pub(crate) async fn new(shape: Shape, store: Store) -> Self {
        let (store, folder) = store.open().await;
        let of_shape = match shape {
            Shape::Loop(_) => OfShape::Loop(compiled(circle(), store)),
            Shape::FanOut(_) => OfShape::FanOut(compiled(fan_out(), store)),
        };
        Self { shape, of_shape, workflows: 0, _folder: folder }
    }

    /// Runs a new workflow to its end.
    pub(crate) async fn run(&mut self) {
        self.workflows += 1;
        let id = WorkflowId::new(self.workflows.to_string()).expect("the id is valid");
        let size = self.shape.size();
        match &self.of_shape {
            OfShape::Loop(graph) => {
                let first = Loop { count: 0, steps: size, text: "x".repeat(1024) };
                let last = graph.run(&id, first).await.expect("nothing is in the way");
                assert_eq!(last.count, size, "the loop makes all of its steps");
            }
            OfShape::FanOut(graph) => {
                let first = FanOut { items: size, ..FanOut::default() };
                let last = graph.run(&id, first).await.expect("nothing is in the way");
                let squares = (0..size).map(|item| item.pow(2));
                assert!(last.squares.into_iter().eq(squares), "every branch answers, in order");
            }
        }
    }
}

fn compiled<S: State>(graph: StateGraph<S>, store: Option<BoxStore>) -> CompiledGraph<S> {
    let graph = match store {
        Some(store) => graph.store(store),
        None => graph,
    };
    graph.recursion_limit(2_000).compile().expect("the graph is valid")
}

/// 10, 100 and 1,000 steps all end behind the first of the three nodes.
fn circle() -> StateGraph<Loop> {
    let counts = || {
        Node::request_fn(|request: NodeRequest<Loop>| async move {
            Ok::<_, Infallible>(Count { count: request.state.count + 1 })
        })
    };
    StateGraph::new("loop")
        .add_node("first", counts())
        .add_node("second", counts())
        .add_node("third", counts())
        .add_edge(START, "first")
        .add_conditional_edges(
            "first",
            |state, _| Route::to(if state.count >= state.steps { "end" } else { "next" }),
            [("next", "second"), ("end", END)],
        )
        .add_edge("second", "third")
        .add_edge("third", "first")
}

fn fan_out() -> StateGraph<FanOut> {
    StateGraph::new("fan_out")
        .add_node(
            "list",
            Node::request_fn(|request: NodeRequest<FanOut>| async move {
                let send = |command: Command<FanOut>, item| {
                    command.send("square", FanOut { item, ..FanOut::default() })
                };
                Ok::<_, Infallible>((0..request.state.items).fold(Command::new(), send))
            }),
        )
        .add_node(
            "square",
            Node::request_fn(|request: NodeRequest<FanOut>| async move {
                Ok::<_, Infallible>(Square { square: request.state.item.pow(2) })
            }),
        )
        .add_edge(START, "list")
        .add_edge("list", "square")
        .add_edge("square", END)
}

// ===== impl State =====

impl State for Loop {
    type Update = Count;

    fn apply(&mut self, update: Count) {
        self.count = update.count;
    }
}

impl State for FanOut {
    type Update = Square;

    fn apply(&mut self, update: Square) {
        self.squares.push(update.square);
    }
}
