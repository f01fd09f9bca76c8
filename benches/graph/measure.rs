use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    graphs::{Graph, Shape, Store},
    langgraph::LangGraph,
};

/// How much is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    Quick,
    Full,
}

/// What one graph costs with one store.
#[derive(Debug)]
pub(crate) struct Row {
    shape: Shape,
    store: Store,
    ours: Times,
    langgraph: Option<Times>,
}

/// Microseconds of a step, or of a whole fan-out.
#[derive(Debug)]
struct Times {
    min: f64,
    median: f64,
}

/// Files come last: the disk is busy with them for a while.
const STORES: [Store; 4] = [Store::Nowhere, Store::Memory, Store::Sqlite, Store::File];

/// Measures every graph with every store.
pub(crate) async fn rows(
    effort: Effort,
    mut beside: Option<&mut LangGraph>,
) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    let full = effort == Effort::Full;
    let lengths: &[(u64, usize)] =
        if full { &[(10, 15), (100, 15), (1_000, 5)] } else { &[(10, 2), (100, 2)] };
    for &(steps, rounds) in lengths {
        let cases = STORES.map(|store| (Shape::Loop(steps), store));
        rows.extend(of_cases(&cases, rounds, beside.as_deref_mut()).await?);
    }
    let fan_out = [(Shape::FanOut(100), Store::Nowhere)];
    rows.extend(of_cases(&fan_out, if full { 15 } else { 2 }, beside).await?);
    Ok(rows)
}

/// Measures cases round-robin, each by us and by LangGraph in turn.
async fn of_cases(
    cases: &[(Shape, Store)],
    rounds: usize,
    mut beside: Option<&mut LangGraph>,
) -> Result<Vec<Row>, String> {
    let mut graphs = Vec::new();
    for &(shape, store) in cases {
        graphs.push((Graph::new(shape, store).await, Vec::new(), Vec::new()));
    }
    // The first round warms up.
    for round in 0..=rounds {
        for (&(shape, store), (graph, ours, langgraph)) in cases.iter().zip(&mut graphs) {
            // Who comes second finds the disk as the first has left it, so they take turns.
            let mut others = None;
            if round % 2 == 1 {
                others = run_beside(&mut beside, shape, store)?;
            }
            let runs = runs(shape, store);
            let started = Instant::now();
            for _ in 0..runs {
                graph.run().await;
            }
            let took = started.elapsed() / runs;
            if round % 2 == 0 {
                others = run_beside(&mut beside, shape, store)?;
            }
            if round > 0 {
                ours.push(took);
                langgraph.extend(others);
            }
        }
    }
    let rows = cases.iter().zip(graphs).map(|(&(shape, store), (_, ours, langgraph))| {
        let times = |times| Times::of(shape, times);
        let langgraph = (!langgraph.is_empty()).then(|| times(langgraph));
        Row { shape, store, ours: times(ours), langgraph }
    });
    Ok(rows.collect())
}

/// Runs a graph once by LangGraph, where that is there and has such a store.
fn run_beside(
    beside: &mut Option<&mut LangGraph>,
    shape: Shape,
    store: Store,
) -> Result<Option<Duration>, String> {
    match beside {
        Some(beside) => beside.run(shape, store),
        None => Ok(None),
    }
}

/// Returns how many runs of ours are one measurement: a single one is too short for a clock where
/// nothing waits for a disk.
fn runs(shape: Shape, store: Store) -> u32 {
    match (shape, store) {
        (_, Store::File | Store::Sqlite) => 1,
        (Shape::Loop(..100), _) => 100,
        (Shape::Loop(..1_000) | Shape::FanOut(_), _) => 10,
        (Shape::Loop(_), _) => 1,
    }
}

// ===== impl Times =====

impl Times {
    fn of(shape: Shape, mut runs: Vec<Duration>) -> Self {
        runs.sort_unstable();
        let each = match shape {
            Shape::Loop(steps) => steps as f64,
            Shape::FanOut(_) => 1.0,
        };
        let us = |time: Duration| time.as_secs_f64() * 1e6 / each;
        Self { min: us(runs[0]), median: us(runs[runs.len() / 2]) }
    }
}

// ===== impl Row =====

impl Row {
    /// Returns by how much LangGraph takes longer, by the medians.
    fn ratio(&self) -> Option<f64> {
        self.langgraph.as_ref().map(|langgraph| langgraph.median / self.ours.median)
    }

    fn to_json(&self) -> Value {
        let (per, size) = match self.shape {
            Shape::Loop(_) => ("step", "steps"),
            Shape::FanOut(_) => ("run", "branches"),
        };
        let times = |times: &Times| json!({ "us_min": times.min, "us_median": times.median });
        json!({
            "graph": self.shape.name(),
            size: self.shape.size(),
            "store": self.store.name(),
            "per": per,
            "buttress": times(&self.ours),
            "langgraph": self.langgraph.as_ref().map(times),
            "langgraph_vs_buttress": self.ratio(),
        })
    }
}

/// Tells the rows to programs; `beside` has LangGraph's versions, or why it was left out.
pub(crate) fn to_json(rows: &[Row], beside: Result<&Value, &str>) -> Value {
    json!({
        "rows": rows.iter().map(Row::to_json).collect::<Vec<_>>(),
        "versions": beside.ok(),
        "langgraph_skipped": beside.err(),
    })
}

/// Shows the rows to people.
pub(crate) fn table(rows: &[Row], beside: Result<&Value, &str>) -> String {
    let mut text = String::new();
    _ = writeln!(text, "{:<24} {:>21}   {:>21}", "", "buttress, us", "LangGraph, us");
    _ = writeln!(
        text,
        "{:<15} {:<8} {:>10} {:>10}   {:>10} {:>10} {:>9}",
        "a step of", "store", "min", "median", "min", "median", "ratio"
    );
    for row in rows {
        let what = match row.shape {
            Shape::Loop(steps) => format!("loop of {steps}"),
            Shape::FanOut(branches) => format!("fan-out of {branches}*"),
        };
        let Times { min, median } = row.ours;
        _ = write!(text, "{what:<15} {:<8} {min:>10.2} {median:>10.2}", row.store.name());
        if let (Some(Times { min, median }), Some(ratio)) = (&row.langgraph, row.ratio()) {
            let ratio = format!("1 : {ratio:.1}");
            _ = write!(text, "   {min:>10.1} {median:>10.1} {ratio:>9}");
        }
        text.push('\n');
    }
    text.push_str("* all of it; ratio: ours to LangGraph's by the medians\n");
    match beside {
        Ok(versions) => {
            let version = |name: &str| versions[name].as_str().unwrap_or("?").to_owned();
            _ = writeln!(
                text,
                "LangGraph {} with checkpoint-sqlite {}, Python {}",
                version("langgraph"),
                version("langgraph-checkpoint-sqlite"),
                version("python")
            );
        }
        Err(reason) => _ = writeln!(text, "LangGraph was left out: {reason}"),
    }
    text
}
