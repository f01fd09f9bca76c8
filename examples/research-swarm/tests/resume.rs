//! Runs that are killed, and others that go on with them.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use buttress::{BoxStore, CheckpointStore as _, FileStore, WorkflowId, checkpoint::Query};
use buttress_stores::{PostgresStore, RedisStore, SqliteStore};
use buttress_test_servers::{Postgres, Redis};
use tempfile::TempDir;

use super::*;

const ANALYSTS: [&str; 5] = ["trend", "volatility", "drawdown", "seasonality", "correlation"];

/// A model outside of the program, which survives it and counts who asks.
struct Chat {
    server: Server,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    asked: Mutex<BTreeMap<String, u32>>,
    /// Who gets no answer until it is released.
    held: Mutex<Option<&'static str>>,
    released: Condvar,
}

impl Chat {
    /// Starts one that answers all but one analyst, if any.
    fn start(held: Option<&'static str>) -> Self {
        let state = Arc::new(State { held: Mutex::new(held), ..State::default() });
        let own = Arc::clone(&state);
        let server = Server::start(move |stream| {
            let agent = read_request(stream);
            // Somebody who only looks whether anybody listens asks nothing.
            if agent.is_empty() {
                return;
            }
            *own.asked.lock().unwrap().entry(agent.clone()).or_default() += 1;
            let held = own.held.lock().unwrap();
            drop(own.released.wait_while(held, |held| *held == Some(&agent)).unwrap());
            let body = serde_json::json!({
                "model": "large",
                "choices": [{ "message": { "content": format!("The {agent} is fine.") } }],
            });
            respond(stream, "200 OK", &body.to_string());
        });
        Self { server, state }
    }

    /// Lets everybody have an answer.
    fn release(&self) {
        *self.state.held.lock().unwrap() = None;
        self.state.released.notify_all();
    }

    fn asked(&self) -> BTreeMap<String, u32> {
        self.state.asked.lock().unwrap().clone()
    }

    fn swarm(&self, arguments: &[&str]) -> Command {
        let mut command = swarm(arguments);
        command.env("OPENAI_BASE_URL", &self.server.base_url);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.swarm(arguments).output().unwrap()
    }
}

/// Waits until a workflow has so many chains: its own, and one for each memo.
fn wait_for_chains(store: &str, id: &str, chains: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let wait = async {
            while chains_of(store, id).await != chains {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait).await.expect("they are saved soon");
    });
}

async fn chains_of(store: &str, id: &str) -> usize {
    let (kind, path) = store.split_once(':').unwrap();
    let store = match kind {
        "postgres" => PostgresStore::connect(store).await.map(BoxStore::new),
        "redis" => RedisStore::connect(store).await.map(BoxStore::new),
        _ if !Path::new(path).exists() => return 0,
        "file" => FileStore::open(path).await.map(BoxStore::new),
        _ => SqliteStore::open(path).await.map(BoxStore::new),
    };
    // The program may be making the tables.
    let Ok(store) = store else { return 0 };
    let query = Query::first(10).workflow(WorkflowId::new(id).unwrap());
    store.list(query).await.map_or(0, |heads| heads.len())
}

fn kill(mut child: Child) {
    // SIGKILL, where there is one.
    child.kill().unwrap();
    child.wait().unwrap();
}

fn texts(document: &Value) -> Vec<&str> {
    let findings = document["report"]["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["text"].as_str().unwrap()).collect()
}

fn whole() -> Vec<String> {
    ANALYSTS.iter().map(|analyst| format!("The {analyst} is fine.")).collect()
}

fn folder() -> TempDir {
    tempfile::tempdir_in(&*DATA).unwrap()
}

fn a_killed_run_goes_on(store: &str, shown: &str) {
    let chat = Chat::start(Some("seasonality"));
    let child = chat.swarm(&["msft", "--store", store, "--workflow", "w"]).spawn().unwrap();
    wait_for_chains(store, "w", 5);
    kill(child);
    assert!(ANALYSTS.iter().all(|analyst| chat.asked()[*analyst] == 1), "{:?}", chat.asked());

    chat.release();
    let output = chat.run(&["--resume", "w", "--store", store, "--json"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let expected =
        ANALYSTS.map(|analyst| (analyst.to_owned(), 1 + u32::from(analyst == "seasonality")));
    assert_eq!(chat.asked(), BTreeMap::from(expected));
    let document = document(&output);
    assert_eq!(texts(&document), whole());
    assert_eq!(document["report"]["ticker"], "MSFT");
    assert_eq!(document["report"]["degradation"]["name"], "full");
    assert_eq!((&document["workflow_id"], &document["store"]), (&"w".into(), &shown.into()));
    assert_eq!(document["resumed_from"], "research_swarm");
    assert_eq!(document["warnings"], serde_json::json!([]));
    // The lease of the run that was killed had to run out.
    assert!(stderr(&output).contains("workflow w is held by process "), "{}", stderr(&output));
    assert!(stderr(&output).contains("trend: kept from before"), "{}", stderr(&output));

    // All of it is one trace, in which one agent was asked.
    let trace = document["trace"].as_array().unwrap();
    assert_eq!(trace.len(), 1);
    assert_eq!(agents(&document), BTreeSet::from(["agent_seasonality"]));
    let observations = observations(&document);
    assert!(trace[0]["metadata"]["resumed_from"].is_number());
    assert!(observations.iter().all(|one| one["level"] == "DEFAULT"), "{observations:#?}");
}

#[test]
fn killed_and_resumed_it_asks_no_finished_analyst_again_file() {
    let folder = folder();
    let store = format!("file:{}", folder.path().join("store").display());
    a_killed_run_goes_on(&store, &store);
}

/// The strategy and the gate go on with what the swarm had found, and nobody is asked again.
#[cfg(unix)]
#[test]
fn killed_after_each_node_it_ends_as_if_it_had_not_been() {
    use std::os::unix::process::ExitStatusExt as _;

    let chat = Chat::start(None);
    let undisturbed = document(&chat.run(&["ibm", "--store", "none", "--json"]))["report"].clone();
    for node in ["research_swarm", "strategy_dev", "quality_gate"] {
        let folder = folder();
        let store = format!("file:{}", folder.path().display());
        let asked = chat.asked();
        let killed = chat.run(&["ibm", "--store", &store, "--workflow", "w", "--kill-after", node]);
        assert_eq!(killed.status.signal(), Some(9), "{}", stderr(&killed));
        assert!(killed.stdout.is_empty());
        let resumed = chat.run(&["--resume", "w", "--store", &store, "--json"]);
        assert_eq!(code(&resumed), 0, "{}", stderr(&resumed));
        assert_eq!(document(&resumed)["report"], undisturbed, "{node}");
        assert!(agents(&document(&resumed)).is_empty(), "{node}");
        assert!(chat.asked().iter().all(|(agent, count)| asked[agent] + 1 == *count));
    }
}

/// A strategy that falls too deep is sent back once.
#[test]
fn the_gate_sends_a_strategy_back_and_the_trace_shows_where_each_node_led() {
    let document = run_json(&["ibm", "--faults", "none", "--store", "none"]);
    let quality = document["report"]["quality"].as_array().unwrap();
    let passed: Vec<_> = quality.iter().map(|verdict| verdict["passed"].clone()).collect();
    assert_eq!(passed, [false, true]);
    assert_eq!(quality[0]["checks"][0]["name"], "worst drawdown");
    let drawdown = |of: &str| {
        let course = &document["report"]["strategy"]["back_test"][of];
        course["worst_drawdown"].as_f64().unwrap()
    };
    assert!((-0.25..0.0).contains(&drawdown("strategy")));
    assert!(drawdown("stock") < -0.5);
    let ways: Vec<_> = observations(&document)
        .into_iter()
        .filter(|one| one["name"].as_str().is_some_and(|name| name.starts_with("node_")))
        .map(|one| (one["name"].as_str().unwrap(), one["metadata"]["route"].as_str().unwrap()))
        .collect();
    assert_eq!(
        ways,
        [
            ("node_research_swarm", "strategy_dev"),
            ("node_strategy_dev", "quality_gate"),
            ("node_quality_gate", "strategy_dev"),
            ("node_strategy_dev", "quality_gate"),
            ("node_quality_gate", "__end__"),
        ]
    );
}

#[test]
fn killed_and_resumed_it_asks_no_finished_analyst_again_sqlite() {
    let folder = folder();
    let store = format!("sqlite:{}", folder.path().join("store.db").display());
    a_killed_run_goes_on(&store, &store);
}

#[test]
fn killed_and_resumed_it_asks_no_finished_analyst_again_postgres() {
    let postgres = Postgres::start();
    a_killed_run_goes_on(&postgres.url(), &without_password(&postgres.url()));
}

#[test]
fn killed_and_resumed_it_asks_no_finished_analyst_again_redis() {
    let redis = Redis::start();
    a_killed_run_goes_on(&redis.url(), &redis.url());
}

fn without_password(url: &str) -> String {
    let (_, place) = url.rsplit_once('@').unwrap();
    format!("postgres://{}", place.split('?').next().unwrap())
}

#[test]
fn a_finished_run_is_shown_again_without_asking_anybody() {
    let chat = Chat::start(None);
    let first = chat.run(&["goog", "--json"]);
    assert_eq!(code(&first), 0, "{}", stderr(&first));
    let first = document(&first);
    assert!(first["resumed_from"].is_null());
    let (id, place) = (first["workflow_id"].as_str().unwrap(), first["store"].as_str().unwrap());
    assert_eq!(place, format!("file:{}", DATA.join("buttress/research-swarm").display()));

    let gone = swarm(&["--resume", id, "--json"]).output().unwrap();
    assert_eq!(code(&gone), 0, "{}", stderr(&gone));
    assert!(
        stderr(&gone).contains(&format!("workflow {id}, kept in {place}")),
        "{}",
        stderr(&gone)
    );
    let again = document(&gone);
    assert_eq!(again["report"], first["report"]);
    assert_eq!(again["resumed_from"], "done");
    assert_eq!(chat.asked().values().sum::<u32>(), 5);

    let text = stdout(&swarm(&["--resume", id]).output().unwrap());
    assert!(text.starts_with("GOOG  ") && text.contains("The seasonality is fine."), "{text}");
}

#[test]
fn what_was_asked_comes_from_the_checkpoint() {
    let first = run_json(&["ibm", "--faults", "none", "--seed", "3", "--workflow", "asked"]);
    assert_eq!(first["workflow_id"], "asked");
    for same in [&[][..], &["IBM"], &["--seed", "3"]] {
        let again = run_json(&[same, &["--resume", "asked"]].concat());
        assert_eq!(again["report"], first["report"]);
    }
    for (other, told) in [
        (
            "AAPL",
            "error: the workflow was asked with ticker IBM, not AAPL; --resume needs no ticker",
        ),
        (
            "--seed=4",
            "error: the workflow was asked with --seed 3, not 4; --resume needs no --seed",
        ),
    ] {
        let output = run(&["--resume", "asked", other]);
        assert_eq!((code(&output), &*last_line(&output)), (2, told));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn an_unknown_workflow_and_one_that_is_there_already_are_wrong_use() {
    let place = DATA.join("buttress/research-swarm");
    let output = run(&["--resume", "never begun", "--json"]);
    assert_eq!(code(&output), 2);
    let expected = format!("error: there is no workflow never begun in file:{}", place.display());
    assert_eq!(last_line(&output), expected);
    assert_eq!(document(&output)["error"]["kind"], "wrong_use");

    run_json(&["--faults", "none", "--workflow", "taken"]);
    let output = run(&["--faults", "none", "--workflow", "taken"]);
    assert_eq!(code(&output), 2);
    let expected = "error: workflow taken is there already; --resume taken goes on with it";
    assert_eq!(last_line(&output), expected);
    assert_eq!(code(&run(&["--resume", "taken", "--workflow", "taken"])), 2);
    assert_eq!(code(&run(&["--resume", ""])), 2);
}

#[test]
fn of_two_that_go_on_at_once_one_does_and_the_other_is_told() {
    let folder = folder();
    let store = format!("file:{}", folder.path().display());
    let chat = Chat::start(Some("trend"));
    let child = chat.swarm(&["--store", &store, "--workflow", "w"]).spawn().unwrap();
    wait_for_chains(&store, "w", 5);
    kill(child);

    let resume = || chat.swarm(&["--resume", "w", "--store", &store, "--json"]).spawn().unwrap();
    let both = [resume(), resume()];
    // Whoever lost ends while the other one waits for its answer.
    let (ended, outputs) = std::sync::mpsc::channel();
    for child in both {
        let ended = ended.clone();
        thread::spawn(move || ended.send(child.wait_with_output().unwrap()).unwrap());
    }
    let lost = outputs.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(code(&lost), 4, "{}", stderr(&lost));
    let told = last_line(&lost);
    assert!(told.starts_with("error: process "), "{told}");
    assert!(told.contains(" is working on workflow w, which is free 5 s after "), "{told}");
    assert_eq!(document(&lost)["error"]["kind"], "store");

    chat.release();
    let won = outputs.recv_timeout(Duration::from_secs(30)).unwrap();
    assert_eq!(code(&won), 0, "{}", stderr(&won));
    assert_eq!(texts(&document(&won)), whole());
    assert_eq!(chat.asked()["trend"], 2);
}

/// A process that slept through its lease must not go on beside the one that took over.
#[cfg(unix)]
#[test]
fn a_run_that_was_taken_over_ends() {
    let folder = folder();
    let store = format!("file:{}", folder.path().display());
    let chat = Chat::start(Some("trend"));
    let sleeper = chat.swarm(&["--store", &store, "--workflow", "w"]).spawn().unwrap();
    wait_for_chains(&store, "w", 5);
    signal(&sleeper, "-STOP");
    let mut heir = chat.swarm(&["--resume", "w", "--store", &store]).spawn().unwrap();
    let mut lines = BufReader::new(heir.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("trend: asks")));
    signal(&sleeper, "-CONT");
    let output = sleeper.wait_with_output().unwrap();
    assert_eq!(code(&output), 4, "{}", stderr(&output));
    assert_eq!(last_line(&output), "error: somebody else has taken over workflow w");

    chat.release();
    lines.for_each(drop);
    let output = heir.wait_with_output().unwrap();
    assert_eq!(code(&output), 0);
    assert!(stdout(&output).contains("The trend is fine."), "{}", stdout(&output));
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_gives_its_lease_back() {
    let folder = folder();
    let store = format!("file:{}", folder.path().display());
    let chat = Chat::start(Some("trend"));
    let child = chat.swarm(&["--store", &store, "--workflow", "w"]).spawn().unwrap();
    wait_for_chains(&store, "w", 5);
    signal(&child, "-INT");
    assert_eq!(code(&child.wait_with_output().unwrap()), 130);
    chat.release();
    let output = chat.run(&["--resume", "w", "--store", &store]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(!stderr(&output).contains("is held by"), "{}", stderr(&output));
}

/// Nobody was answered, so there is no report to show again: the analysts are asked again.
#[test]
fn a_run_without_a_single_answer_can_be_tried_again() {
    let refusing = Server::start(|stream| answer(stream, "401 Unauthorized", "{}"));
    let output = swarm(&["--workflow", "refused"])
        .env("OPENAI_BASE_URL", &refusing.base_url)
        .output()
        .unwrap();
    assert_eq!(code(&output), 3, "{}", stderr(&output));
    let chat = Chat::start(None);
    let output = chat.run(&["--resume", "refused", "--json"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(texts(&document(&output)), whole());
    // Without an endpoint there is nobody to ask, and the embedded server was not asked.
    assert_eq!(code(&chat.run(&["--resume", "refused", "--seed", "1"])), 2);
}

/// A failure that stays is kept too: asked again, the model would say the same.
#[test]
fn a_failure_that_stays_is_kept() {
    let chat = Chat::start(Some("trend"));
    let count = Arc::new(Mutex::new(0));
    let (own, counted) = (Arc::clone(&chat.state), Arc::clone(&count));
    let picky = Server::start(move |stream| {
        let agent = read_request(stream);
        if agent == "seasonality" {
            *counted.lock().unwrap() += 1;
            let body = r#"{"error":{"message":"too long","type":"invalid_request_error",
                "code":"context_length_exceeded"}}"#;
            return respond(stream, "400 Bad Request", body);
        }
        let held = own.held.lock().unwrap();
        drop(own.released.wait_while(held, |held| *held == Some(&agent)).unwrap());
        respond(stream, "200 OK", r#"{"choices":[{"message":{"content":"Fine."}}]}"#);
    });
    let folder = folder();
    let store = format!("file:{}", folder.path().display());
    let swarm = |arguments: &[&str]| {
        let mut command = chat.swarm(&[arguments, &["--store", &store]].concat());
        command.env("OPENAI_BASE_URL", &picky.base_url).env("OPENAI_MODEL", "large");
        command
    };
    let child = swarm(&["--workflow", "w"]).spawn().unwrap();
    wait_for_chains(&store, "w", 5);
    kill(child);
    let before = *count.lock().unwrap();
    assert!(before > 0);
    chat.release();
    let output = swarm(&["--resume", "w", "--json"]).output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(*count.lock().unwrap(), before);
    let document = document(&output);
    let missing = &document["report"]["missing"][0];
    assert_eq!(
        (&missing["analyst"], &missing["failure_kind"]),
        (&"seasonality".into(), &"context_window_exceeded".into())
    );
    let reason = missing["reason"].as_str().unwrap();
    assert!(reason.starts_with("context window exceeded before: "), "{reason}");
}

#[test]
fn a_store_that_vanishes_costs_no_finding() {
    let folder = folder();
    let path = folder.path().join("store");
    let store = format!("file:{}", path.display());
    let chat = Chat::start(Some("trend"));
    let child = chat.swarm(&["--store", &store, "--workflow", "w", "--json"]).spawn().unwrap();
    wait_for_chains(&store, "w", 5);
    std::fs::remove_dir_all(&path).unwrap();
    chat.release();
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    let document = document(&output);
    assert_eq!(texts(&document), whole());
    let warning = document["warnings"][0].as_str().unwrap();
    assert!(warning.starts_with("the store was away, a resumed run may ask again: "), "{warning}");
    let observations = observations(&document);
    let saves = named(&observations, "save_checkpoint");
    assert!(saves.iter().any(|save| save["level"] == "WARNING"), "{saves:#?}");
    assert_eq!(chat.asked()["trend"], 1);
}

#[test]
fn a_server_that_dies_costs_no_finding_and_its_password_is_not_seen() {
    let postgres = Postgres::start();
    let url = postgres.url();
    let chat = Chat::start(Some("trend"));
    let child = chat.swarm(&["--store", &url, "--workflow", "w", "--json"]).spawn().unwrap();
    wait_for_chains(&url, "w", 5);
    postgres.kill();
    chat.release();
    let lost = child.wait_with_output().unwrap();
    assert_eq!(code(&lost), 0, "{}", stderr(&lost));
    assert_eq!(texts(&document(&lost)), whole());
    assert!(!document(&lost)["warnings"][0].as_str().unwrap().is_empty());

    let away = chat.run(&["--resume", "w", "--store", &url]);
    assert_eq!(code(&away), 4, "{}", stderr(&away));
    postgres.start_again();
    let again = chat.run(&["--resume", "w", "--store", &url]);
    assert_eq!(code(&again), 0, "{}", stderr(&again));
    // Its answer could not be kept.
    assert_eq!(chat.asked()["trend"], 2);
    assert_eq!(chat.asked()["drawdown"], 1);

    let wrong = url.replace(Postgres::PASSWORD, "hunter2-of-nobody");
    let refused = chat.run(&["--store", &wrong, "--json"]);
    assert_eq!(code(&refused), 4, "{}", stderr(&refused));
    for output in [&lost, &away, &again, &refused] {
        let all = stdout(output) + &stderr(output);
        assert!(!all.contains("hunter2"), "{all}");
    }
}

#[test]
fn a_store_that_cannot_be_used_is_told_at_once() {
    let folder = folder();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for store in [
        format!("file:{}", file.join("store").display()),
        format!("file:{}", file.display()),
        format!("sqlite:{}", file.join("store.db").display()),
        format!("sqlite:{}", folder.path().display()),
    ] {
        let output = run(&["--store", &store, "--json"]);
        assert_eq!(code(&output), 4, "{store}: {}", stderr(&output));
        assert!(last_line(&output).contains(&file.parent().unwrap().display().to_string()));
        assert_eq!(document(&output)["error"]["kind"], "store");
        assert_eq!(document(&output)["trace"], serde_json::json!([]));
    }
}

/// Nobody has asked for the default store.
#[test]
fn a_default_store_that_cannot_be_used_is_gone_on_without() {
    let folder = folder();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let without = |command: &mut Command| {
        let output = command.output().unwrap();
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(stderr(&output).contains("no checkpoints: "), "{}", stderr(&output));
        assert!(document(&output)["workflow_id"].is_null());
    };
    without(swarm(&["--faults", "none", "--json"]).env("XDG_DATA_HOME", &file));
    let no_home = |arguments: &[&str]| {
        let mut command = swarm(arguments);
        command.env_remove("XDG_DATA_HOME").env_remove("HOME").env_remove("LOCALAPPDATA");
        command
    };
    without(&mut no_home(&["--faults", "none", "--json"]));
    for arguments in [&["--resume", "w"][..], &["--workflow", "w"], &["--store", "sqlite"]] {
        let output = no_home(arguments).output().unwrap();
        assert_eq!(code(&output), 2, "{arguments:?}");
        assert!(last_line(&output).contains(":PATH"), "{}", stderr(&output));
    }
}

#[test]
fn without_a_store_nothing_is_kept_or_said() {
    let output = run(&["--faults", "none", "--store", "none", "--json"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(!stderr(&output).contains("workflow") && !stderr(&output).contains("checkpoint"));
    let document = document(&output);
    assert!(document["workflow_id"].is_null() && document["store"].is_null());
    assert_eq!(agents(&document).len(), 5);
    assert_eq!(code(&run(&["--resume", "w", "--store", "none"])), 2);
    assert_eq!(code(&run(&["--kill-after", "research_swarm", "--store", "none"])), 2);
}

#[test]
fn an_id_that_steers_the_terminal_does_not() {
    let output = run(&["--faults", "none", "--workflow", "\x1b[2Ja/../b\u{202e}"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(!stderr(&output).contains(['\x1b', '\u{202e}']), "{}", stderr(&output));
}

#[test]
fn what_is_no_store_is_wrong_use_and_not_shown() {
    for store in
        ["", "fiel", "file:", "sqlite:", "mysql://me:pass-word@host/db", "postgres:me:pass-word"]
    {
        let output = run(&["--store", store, "--json"]);
        assert_eq!(code(&output), 2, "{store}");
        assert!(last_line(&output).starts_with("error: --store must be file, "), "{store}");
        assert!(!stdout(&output).contains("pass-word") && !stderr(&output).contains("pass-word"));
    }
}
