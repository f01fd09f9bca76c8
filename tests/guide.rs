//! The numbers of the guide: what each order of layers does, measured, and compared with the page.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use buttress::{
    BoxError, Circuit, CircuitBreakerLayer, FallbackLayer, RetryBudget, RetryLayer, TimeoutLayer,
    circuit_breaker::State,
    test_util::{Answer, Scripted},
};
use tokio::time::Instant;
use tower::{Layer as _, Service, ServiceBuilder, ServiceExt as _};

const LIMIT: Duration = Duration::from_secs(30);

type Script = Scripted<&'static str>;

/// An agent that always hangs, and one that always fails after a second.
fn hangs() -> Script {
    Scripted::new([Answer::hang()])
}

fn fails() -> Script {
    Scripted::new([Answer::error("reset").after(Duration::from_secs(1))])
}

fn backup() -> Script {
    Scripted::new([Answer::ok("backup")])
}

fn retry() -> RetryLayer<buttress::AnyError, [Duration; 2]> {
    RetryLayer::new(3).backoff([Duration::from_secs(1); 2])
}

fn breaker() -> (Circuit, CircuitBreakerLayer) {
    let layer = CircuitBreakerLayer::new("model");
    (layer.circuit(), layer)
}

/// What one call came to.
async fn call<S>(stack: &S) -> (&'static str, Duration)
where
    S: Service<&'static str, Response = &'static str, Error: Into<BoxError>> + Clone,
{
    let started = Instant::now();
    let result = stack.clone().oneshot("AAPL").await.map_err(Into::into);
    let outcome = match &result {
        Ok(answer) => answer,
        Err(_) => "error",
    };
    (outcome, started.elapsed())
}

/// How many calls it takes to open a circuit, up to 100, and how often the agent was asked by then.
async fn until_open<S>(stack: &S, circuit: &Circuit, agent: &Script) -> String
where
    S: Service<&'static str, Response = &'static str, Error: Into<BoxError>> + Clone,
{
    for calls in 1..=100 {
        call(stack).await;
        if circuit.state() == State::Open {
            return format!("opens after {calls} calls and {} attempts", agent.calls());
        }
    }
    format!("still closed after 100 calls and {} attempts", agent.calls())
}

fn row(order: &str, situation: &str, came: &str) -> String {
    format!("| `{order}` | {situation} | {came} |")
}

async fn rows() -> Vec<String> {
    let mut rows = Vec::new();
    let told = |(outcome, took): (&str, Duration), asked: &str| {
        format!("{outcome} after {} s, {asked}", took.as_secs())
    };

    // Where the timeout stands to the fallback chain.
    let chain = || FallbackLayer::new().or("small", backup());
    let inside = chain().layer(TimeoutLayer::new(LIMIT).layer(hangs()));
    let outside = TimeoutLayer::new(LIMIT).layer(chain().layer(hangs()));
    let situation = "the primary hangs";
    rows.push(row(
        "fallback > timeout",
        situation,
        &told(call(&inside).await, "the backup answers"),
    ));
    rows.push(row(
        "timeout > fallback",
        situation,
        &told(call(&outside).await, "nobody asks the backup"),
    ));

    // Where it stands to the retry.
    let situation = "the agent hangs, 3 attempts";
    let agent = hangs();
    let inside = retry().layer(TimeoutLayer::new(LIMIT).layer(agent.clone()));
    let came = call(&inside).await;
    rows.push(row(
        "retry > timeout",
        situation,
        &told(came, &format!("{} attempts", agent.calls())),
    ));
    let agent = hangs();
    let outside = TimeoutLayer::new(LIMIT).layer(retry().layer(agent.clone()));
    let came = call(&outside).await;
    rows.push(row(
        "timeout > retry",
        situation,
        &told(came, &format!("{} attempt", agent.calls())),
    ));

    // Where the breaker stands to the retry.
    let situation = "the agent fails, circuit of 5 failures";
    let (circuit, layer) = breaker();
    let agent = fails();
    let inside = ServiceBuilder::new().layer(retry()).layer(layer).service(agent.clone());
    let came = until_open(&inside, &circuit, &agent).await;
    rows.push(row("retry > breaker", situation, &came));
    let (circuit, layer) = breaker();
    let agent = fails();
    let outside = ServiceBuilder::new().layer(layer).layer(retry()).service(agent.clone());
    let came = until_open(&outside, &circuit, &agent).await;
    rows.push(row("breaker > retry", situation, &came));

    // Where the breaker stands to the timeout.
    let situation = "the agent hangs, circuit of 5 failures";
    let (circuit, layer) = breaker();
    let agent = hangs();
    let timeout = TimeoutLayer::new(LIMIT);
    let inside = ServiceBuilder::new().layer(layer).layer(timeout.clone()).service(agent.clone());
    let came = until_open(&inside, &circuit, &agent).await;
    rows.push(row("breaker > timeout", situation, &came));
    let (circuit, layer) = breaker();
    let agent = hangs();
    let outside = ServiceBuilder::new().layer(timeout).layer(layer).service(agent.clone());
    let came = until_open(&outside, &circuit, &agent).await;
    rows.push(row("timeout > breaker", situation, &came));

    // Retries in retries.
    let situation = "the agent fails, 3 attempts each";
    for (order, outer) in
        [("retry > retry", retry()), ("retry.outermost() > retry", retry().outermost())]
    {
        let agent = fails();
        let stack = ServiceBuilder::new().layer(outer).layer(retry()).service(agent.clone());
        let (outcome, _) = call(&stack).await;
        rows.push(row(order, situation, &format!("{outcome} after {} attempts", agent.calls())));
    }
    rows
}

/// What a hundred calls at once make of an agent that fails, by what bounds their retries.
async fn amplification() -> Vec<String> {
    async fn attempts<S>(stack: S, agent: Script) -> usize
    where
        S: Service<&'static str, Response = &'static str, Error: Into<BoxError>> + Clone,
    {
        let calls = futures_util::future::join_all((0..100).map(|_| call(&stack))).await;
        assert!(calls.iter().all(|(outcome, _)| *outcome == "error"));
        agent.calls()
    }
    let mut rows = Vec::new();
    let mut add = |bounds: &str, attempts: usize| rows.push(format!("| {bounds} | {attempts} |"));

    let agent = fails();
    add("no retry", attempts(agent.clone(), agent).await);
    let agent = fails();
    add("`RetryLayer::new(3)`", attempts(retry().layer(agent.clone()), agent).await);
    let agent = fails();
    let stack = retry().layer(retry().layer(agent.clone()));
    add("a retry in a retry, 3 attempts each", attempts(stack, agent).await);
    let agent = fails();
    let stack = retry().outermost().layer(retry().layer(agent.clone()));
    add("the same, `outermost()`", attempts(stack, agent).await);
    let agent = fails();
    let stack = retry().budget(RetryBudget::share(0.1).at_least(10)).layer(agent.clone());
    add("3 attempts, `RetryBudget::share(0.1).at_least(10)`", attempts(stack, agent).await);
    let agent = fails();
    let stack = retry().budget(RetryBudget::tokens(500)).layer(agent.clone());
    add("3 attempts, `RetryBudget::tokens(500)`", attempts(stack, agent).await);
    let agent = fails();
    let stack = ServiceBuilder::new().layer(retry()).layer(breaker().1).service(agent.clone());
    add("3 attempts around a breaker", attempts(stack, agent).await);
    rows
}

/// Compares rows that were measured with those of a page that begin alike: no less, and no more.
fn assert_told(page: &str, rows: &[String], is_measured: impl Fn(&str) -> bool) {
    let told: Vec<_> = page.lines().filter(|line| is_measured(line)).collect();
    assert_eq!(told, rows, "what was measured is\n{}", rows.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn what_each_order_of_layers_does_is_what_the_guide_says() {
    let rows = rows().await;
    let is_order = |line: &str| line.starts_with("| `") && line.contains(" > ");
    assert_told(&page("docs/layers.md"), &rows, is_order);
}

#[tokio::test(start_paused = true)]
async fn what_bounds_retries_is_what_the_guide_says() {
    let rows = amplification().await;
    let is_count = |line: &str| {
        let count = line.strip_suffix(" |").and_then(|line| line.rsplit(' ').next());
        count.is_some_and(|count| count.parse::<usize>().is_ok())
    };
    assert_told(&page("docs/retries.md"), &rows, is_count);
}

/// Who comes from the seed finds each of its names.
#[test]
fn every_name_of_the_seed_has_its_place_in_the_guide() {
    let page = page("docs/moving.md");
    let section = page.split("\n## ").find(|section| section.starts_with("From the seed"));
    let section = section.expect("the section is there");
    let names = "CircuitBreaker CircuitState CircuitBreakerOpenError failure_threshold success_threshold \
        RetryPolicy max_attempts base_delay max_delay exponential_base jitter calculate_delay execute retry_on \
        TimeoutProtection timeout_seconds call_with_timeout AgentTimeoutError \
        FallbackChain invoke FallbackExhaustedError \
        FaultTolerantAgent fallback_funcs max_retries circuit_breaker_threshold \
        GracefulDegradationManager research_swarm_with_degradation required_agents optional_agents \
        synthesize_findings degradation_level failed_agents CriticalDegradationError \
        CheckpointManager save_checkpoint load_checkpoint resume_from_checkpoint CheckpointNotFoundError \
        StateGraph add_node add_conditional_edges END wrap_with_fault_tolerance \
        route_with_error_handling should_retry CallbackHandler \
        @observe update_current_observation score_current_observation get_traces retry_stats";
    let lacks = |name: &&str| {
        !section
            .split(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '@')))
            .any(|word| word == *name)
    };
    let lacking: Vec<_> = names.split_whitespace().filter(lacks).collect();
    assert!(lacking.is_empty(), "{lacking:?}");
}

/// A name that no instrument has makes a panel that stays empty.
#[test]
fn every_instrument_that_the_guide_asks_for_exists() {
    let sources: String = ["buttress/src/observe/metrics.rs", "buttress-langfuse/src/metrics.rs"]
        .map(|file| page(&format!("crates/{file}")))
        .concat();
    let made: BTreeSet<String> = sources
        .split('"')
        .filter(|text| text.starts_with("buttress."))
        .map(|name| name.replace('.', "_"))
        .collect();
    let page = page("docs/observing.md");
    let asked = page
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with("buttress_") && *word != "buttress_dashboard");
    let asked: BTreeSet<&str> = asked
        .map(|name| name.strip_suffix("_bucket").unwrap_or(name))
        .filter(|name| *name != "buttress_")
        .collect();
    let unknown: Vec<_> = asked.iter().filter(|name| !made.contains(**name)).collect();
    assert!(
        asked.len() >= 10 && unknown.is_empty(),
        "{unknown:?} of {asked:?}, there are {made:#?}"
    );
}

/// mdBook takes only what its summary lists.
#[test]
fn every_page_is_in_the_summary() {
    let docs = buttress_tests::package().join("../docs");
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md")).expect("it is there");
    let pages: Vec<String> = names_in(&docs)
        .into_iter()
        .filter(|name| name.ends_with(".md") && name != "SUMMARY.md")
        .collect();
    for page in &pages {
        assert!(summary.contains(&format!("]({page})")), "{page} is not in the summary");
    }
    let listed = summary.matches(".md)").count();
    assert_eq!(listed, pages.len(), "{pages:?}");
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("the folder is there");
    entries
        .map(|entry| entry.expect("it can be read").file_name().to_string_lossy().into_owned())
        .collect()
}

/// The pages that people read, from the folder of the workspace.
fn pages() -> Vec<String> {
    let root = buttress_tests::package().join("..");
    let mut pages: Vec<String> =
        ["README.md", "ARCHITECTURE.md", "benches/README.md"].map(str::to_owned).to_vec();
    let docs = names_in(&root.join("docs"));
    pages.extend(
        docs.iter().filter(|name| name.ends_with(".md")).map(|name| format!("docs/{name}")),
    );
    pages.extend(
        names_in(&root.join("crates")).iter().map(|name| format!("crates/{name}/README.md")),
    );
    pages
}

fn page(name: &str) -> String {
    std::fs::read_to_string(buttress_tests::package().join("..").join(name)).expect(name)
}

/// What is left of a page without its blocks of code.
fn prose(text: &str) -> String {
    let mut in_block = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        in_block ^= is_fence;
        !in_block && !is_fence
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The anchors of a page's headings, as mdBook and GitHub make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|heading| {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept =
                heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        })
        .collect()
}

/// Nobody else says that a link leads nowhere, or to a heading that has another name now.
#[test]
fn every_link_of_every_page_leads_to_a_file_and_a_heading() {
    let mut dead = Vec::new();
    for name in pages() {
        let text = prose(&page(&name));
        let folder = Path::new(&name).parent().expect("a file is in a folder");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (target, anchor) = link.split_once('#').unwrap_or((link, ""));
            let file = buttress_tests::package().join("..").join(folder).join(target);
            let target = if target.is_empty() { Some(text.clone()) } else { None };
            let is_there = target.is_some() || file.exists();
            let has_heading = || {
                let text = target
                    .clone()
                    .unwrap_or_else(|| prose(&std::fs::read_to_string(&file).unwrap_or_default()));
                anchor.is_empty() || anchors(&text).contains(anchor)
            };
            if !is_there || !has_heading() {
                dead.push(format!("{name}: {link}"));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

/// A block that nobody compiles goes out of date unseen: each page that has one is documentation of
/// `support/lib.rs`, and no block is left out of its tests. Only what needs a Langfuse is not run.
#[test]
fn every_block_of_rust_is_compiled() {
    let compiled = page("tests/support/lib.rs");
    let mut wrong = Vec::new();
    for name in pages() {
        let mut in_block = false;
        for line in page(&name).lines().map(str::trim_start) {
            let Some(language) = line.strip_prefix("```") else { continue };
            in_block = !in_block;
            if !in_block {
                continue;
            }
            let mut words = language.split(',');
            match words.next().unwrap_or_default() {
                "sh" | "text" | "mermaid" => {}
                "rust" => {
                    let attributes: Vec<_> = words.collect();
                    let told = attributes.is_empty() || attributes == ["no_run"];
                    if !told {
                        wrong.push(format!("{name}: {line}"));
                    }
                    if !compiled.contains(&format!("include_str!(\"../../{name}\")")) {
                        wrong.push(format!("{name} is not in support/lib.rs"));
                    }
                }
                _ => wrong.push(format!("{name}: {line}")),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A line that nobody can run is worse than none: what `cargo run` is asked for on any page exists, and
/// each example has its line in the README.
#[test]
fn every_example_starts_with_a_line_of_the_readme_and_every_line_names_what_exists() {
    let root = buttress_tests::package().join("..");
    let programs = |manifest: &str| -> Vec<String> {
        let manifest: toml::Table = page(manifest).parse().expect("cargo reads it too");
        let all = manifest.get("bin").and_then(toml::Value::as_array);
        let names = all.into_iter().flatten().filter_map(|one| one["name"].as_str());
        names.map(str::to_owned).collect()
    };
    let examples = programs("examples/Cargo.toml");
    let mut known = examples.clone();
    known.extend(programs("benches/Cargo.toml"));
    known.extend(programs("crates/buttress-cli/Cargo.toml"));
    let mut wrong = Vec::new();
    for name in pages() {
        let text = page(&name);
        for line in text.lines().filter(|line| line.contains("cargo run ")) {
            let after = |flag: &str| {
                let (_, rest) = line.split_once(&format!(" {flag} "))?;
                rest.split([' ', '`']).next().map(str::to_owned)
            };
            let program = after("--bin").is_none_or(|program| known.contains(&program));
            let example = after("--example").is_none_or(|example| {
                let package = after("-p").unwrap_or_default();
                root.join(format!("crates/{package}/examples/{example}.rs")).exists()
            });
            let is_named = line.contains(" --bin ") || line.contains(" --example ");
            if !(program && example && is_named) {
                wrong.push(format!("{name}: {line}"));
            }
        }
    }
    let readme = page("README.md");
    let lacks = |name: &&String| {
        !readme.lines().any(|line| {
            line.starts_with("cargo run --release --bin ") && line.contains(&format!(" {name}"))
        })
    };
    wrong.extend(examples.iter().filter(lacks).map(|name| format!("README.md lacks {name}")));
    assert!(wrong.is_empty() && examples.len() >= 4, "{wrong:#?}");
}

/// docs.rs builds with every feature, and says at each item which one it needs.
#[test]
fn what_docs_rs_builds_says_which_feature_an_item_needs() {
    let mut wrong = Vec::new();
    for name in names_in(&buttress_tests::package().join("../crates")) {
        let manifest: toml::Table =
            page(&format!("crates/{name}/Cargo.toml")).parse().expect("cargo reads it too");
        // docs.rs has no page of a program.
        let library = buttress_tests::package().join(format!("../crates/{name}/src/lib.rs"));
        let Ok(library) = std::fs::read_to_string(library) else { continue };
        let metadata = manifest["package"].get("metadata").and_then(|all| all.get("docs"));
        let all = metadata.and_then(|docs| docs.get("rs")).and_then(|rs| rs.get("all-features"));
        if all.and_then(toml::Value::as_bool) != Some(true) {
            wrong.push(format!("{name} is not built with all features"));
        }
        let labels = "#![cfg_attr(docsrs, feature(doc_cfg))]";
        if manifest.contains_key("features") && !library.contains(labels) {
            wrong.push(format!("{name} does not say which feature an item needs"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The features of a crate, by what each turns on.
type Features = BTreeMap<String, Vec<String>>;

/// Adds what a feature brings: the optional crates of its own and of the features it turns on.
fn crates_of(feature: &str, features: &Features, found: &mut BTreeSet<String>) {
    for on in features.get(feature).into_iter().flatten() {
        match on.strip_prefix("dep:") {
            Some(name) => _ = found.insert(name.to_owned()),
            None => crates_of(on, features, found),
        }
    }
}

/// The cells of each feature's row in the table of a crate's documentation, by its headings.
fn rows_of(docs: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let cells = |line: &str| -> Vec<String> {
        line.trim_end_matches('|').split('|').skip(1).map(|cell| cell.trim().to_owned()).collect()
    };
    let mut lines = docs.lines().skip_while(|line| !line.starts_with("//! | feature |"));
    let headings = lines.next().map(cells).unwrap_or_default();
    let rows = lines.skip(1).map_while(|line| line.starts_with("//! |").then(|| cells(line)));
    rows.map(|row| {
        let feature = row[0].trim_matches('`').to_owned();
        (feature, headings.iter().cloned().zip(row).collect())
    })
    .collect()
}

/// A table that lacks a feature, or a crate that it brings, hides it from who reads the documentation.
#[test]
fn every_feature_is_in_the_table_of_its_crate_with_the_crates_it_brings() {
    let crates = buttress_tests::package().join("../crates");
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(crates).expect("the folder is there") {
        let folder = entry.expect("it can be read").path();
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        let manifest: toml::Table = read("Cargo.toml").parse().expect("cargo reads it too");
        let Some(features) = manifest.get("features").cloned() else { continue };
        let features: Features = features.try_into().expect("lists of texts");
        let all: BTreeSet<_> =
            features.values().flatten().filter_map(|on| on.strip_prefix("dep:")).collect();
        let rows = rows_of(&(read("src/lib.rs") + &read("src/main.rs")));
        // What a cell names; "as `http`" is what that one names.
        let told_of = |feature: &str| {
            let mut told = BTreeSet::new();
            let (mut waiting, mut read) = (vec![feature.to_owned()], BTreeSet::new());
            while let Some(feature) = waiting.pop() {
                if !read.insert(feature.clone()) {
                    continue;
                }
                let cell = rows.get(&feature).and_then(|row| row.get("further crates"));
                for word in cell.into_iter().flat_map(|cell| cell.split([' ', ','])) {
                    if word.starts_with('`') {
                        waiting.push(word.trim_matches('`').to_owned());
                    } else if all.contains(word) {
                        told.insert(word.to_owned());
                    }
                }
            }
            told
        };
        // The sum of all, and what is on anyway.
        for feature in features.keys().filter(|name| !["default", "full"].contains(&name.as_str()))
        {
            let mut brought = BTreeSet::new();
            crates_of(feature, &features, &mut brought);
            if !rows.contains_key(feature) || told_of(feature) != brought {
                let told = told_of(feature);
                let name = folder.file_name().expect("a folder has a name");
                wrong.push(format!(
                    "{} {feature}: told {told:?}, brings {brought:?}",
                    name.display()
                ));
            }
        }
        assert!(!features.contains_key("full") || rows.contains_key("full"), "{rows:?}");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
