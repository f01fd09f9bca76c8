//! A process that is killed at any moment and started again ends as one that was not.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::Path,
    process::{Child, Command as Process, Stdio},
};

use buttress::{CheckpointLayer, FileStore};
use buttress_graph::Durability;

use super::*;

/// The variable that makes a test the child, and says where its folder is.
const PLACE: &str = "BUTTRESS_GRAPH_PLACE";

/// The variable that makes it save beside its nodes.
const ASYNC: &str = "BUTTRESS_GRAPH_ASYNC";

/// An effect: a line with its idempotency key, appended and synced.
async fn effect(folder: String, request: NodeRequest<Log>) -> Result<Visit, io::Error> {
    tokio::time::sleep(Duration::from_millis(1)).await;
    let file = fs::File::options().append(true).create(true).open(format!("{folder}/effects"));
    let mut file = file?;
    file.write_all(format!("{}\n", request.idempotency_key).as_bytes())?;
    file.sync_all()?;
    Ok(visit(&request.node))
}

/// Twelve nodes: a parallel part of four, and a cycle of two that is gone round three times.
async fn graph(folder: &str) -> CompiledGraph<Log> {
    let store = FileStore::open(format!("{folder}/store")).await.unwrap();
    let place = folder.to_owned();
    let node = move || {
        let folder = place.clone();
        Node::request_fn(move |request| effect(folder.clone(), request))
    };
    let memo = FileStore::open(format!("{folder}/memos")).await.unwrap();
    // One of the nodes keeps a memo of its own, by the same key.
    let memoised = node().layer(tower::layer::layer_fn(move |inner| {
        use tower::Layer as _;
        CheckpointLayer::new(memo.clone(), "memo").memo().layer(inner)
    }));
    let mut graph = StateGraph::new("twelve");
    for name in ["a", "b1", "b2", "b3", "b4", "c", "d", "e", "f", "g", "h"] {
        graph = graph.add_node(name, node());
    }
    graph = graph.add_node("memo", memoised);
    for (from, to) in [
        (START, "a"),
        ("a", "b1"),
        ("a", "b2"),
        ("a", "b3"),
        ("a", "b4"),
        ("b1", "c"),
        ("b2", "c"),
        ("b3", "c"),
        ("b4", "c"),
        ("c", "d"),
        ("e", "f"),
        ("f", "g"),
        ("g", "h"),
        ("h", "memo"),
        ("memo", END),
    ] {
        graph = graph.add_edge(from, to);
    }
    let again = |log: &Log, _: Result<(), &Failure>| {
        let rounds = log.visits.iter().filter(|visit| *visit == "d").count();
        Route::to(if rounds < 3 { "again" } else { "on" })
    };
    graph
        .add_conditional_edges("d", again, [("again", "c"), ("on", "e")])
        .store(store)
        .durability(match std::env::var_os(ASYNC) {
            Some(_) => Durability::Async,
            None => Durability::Sync,
        })
        .lease("worker", Duration::from_secs(30))
        .compile()
        .unwrap()
}

#[tokio::test]
async fn killed_child() {
    let Ok(folder) = std::env::var(PLACE) else { return };
    let graph = graph(&folder).await;
    let done = match graph.resume(&id()).await {
        Err(error) if *error.kind() == GraphErrorKind::NotFound => run(&graph).await,
        done => done,
    };
    let log = serde_json::to_string(&done.unwrap()).unwrap();
    // Whole or not there, wherever it is killed.
    fs::write(format!("{folder}/ending"), log).unwrap();
    fs::rename(format!("{folder}/ending"), format!("{folder}/done")).unwrap();
}

fn child(folder: &Path, durability: Durability) -> Child {
    let mut process = Process::new(std::env::current_exe().unwrap());
    if durability == Durability::Async {
        process.env(ASYNC, "1");
    }
    process
        .args(["--exact", "killed::killed_child", "--nocapture"])
        .env(PLACE, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Kills until a run has come to its end; returns how often, and the effects by their keys.
async fn until_done(
    folder: &Path,
    durability: Durability,
    mut kills: u32,
) -> (u32, BTreeMap<String, u32>, Log) {
    let mut killed = 0;
    loop {
        let mut child = child(folder, durability);
        if kills > 0 {
            // A random moment of the child's.
            tokio::time::sleep(Duration::from_millis(fastrand::u64(5..60))).await;
            if child.try_wait().unwrap().is_none() {
                kills -= 1;
                killed += 1;
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        if let Ok(log) = fs::read_to_string(folder.join("done")) {
            let mut effects = BTreeMap::new();
            for line in fs::read_to_string(folder.join("effects")).unwrap().lines() {
                *effects.entry(line.to_owned()).or_default() += 1;
            }
            return (killed, effects, serde_json::from_str(&log).unwrap());
        }
    }
}

/// Kills runs until there were enough; a kill repeats at most so many calls.
async fn end_as_undisturbed(durability: Durability, most: u32) {
    let kills = std::env::var("BUTTRESS_KILLS").ok().and_then(|kills| kills.parse().ok());
    let kills: u32 = kills.unwrap_or(20);
    let undisturbed = tempfile::tempdir().unwrap();
    let (_, expected, log) = until_done(undisturbed.path(), durability, 0).await;
    assert!(expected.values().all(|times| *times == 1), "{expected:?}");
    let (mut killed, mut repeats, mut runs) = (0, 0, 0);
    while killed < kills {
        let folder = tempfile::tempdir().unwrap();
        let (own, effects, found) = until_done(folder.path(), durability, kills - killed).await;
        assert_eq!(found, log);
        assert!(effects.keys().eq(expected.keys()), "{effects:?}");
        let repeated: u32 = effects.values().map(|times| times - 1).sum();
        assert!(repeated <= most * own, "{repeated} repeats after {own} kills: {effects:?}");
        (killed, repeats, runs) = (killed + own, repeats + repeated, runs + 1);
    }
    println!(
        "{durability:?}: {killed} kills in {runs} runs, {repeats} calls repeated, every end the same"
    );
}

/// A kill repeats at most one call of each node that was running: four at most.
#[tokio::test]
async fn a_workflow_that_is_killed_ends_as_one_that_is_not() {
    end_as_undisturbed(Durability::Sync, 4).await;
}

/// Here those of the step before too, whose save was on its way.
#[tokio::test]
async fn saved_beside_its_nodes_it_ends_so_too() {
    end_as_undisturbed(Durability::Async, 8).await;
}
