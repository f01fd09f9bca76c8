//! `buttress stats` and `buttress trace`, the real program against servers of both lines.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use buttress_tests::langfuse_server::{Fault, LangfuseServer, Line, RetryAfter};
use serde_json::{Value as Json, json};
use support::{ask, busy, run};

const LINES: [Line; 2] = [Line::V4, Line::V3];

#[test]
fn the_figures_are_told_in_80_columns() {
    let server = busy();
    for line in LINES {
        server.set_line(line);
        let ran = ask(&server, &["stats", "--since", "1h", "--by", "agent"]).code(0).fits();
        let figure = |name: &str| {
            let row = ran.stdout.lines().find(|row| row.trim_start().starts_with(name));
            row.unwrap_or_else(|| panic!("no {name} in\n{}", ran.stdout)).trim_start()[name.len()..]
                .trim()
        };
        assert_eq!(figure("availability"), "66.7 % (4 of 6 calls)");
        assert_eq!(figure("not answered"), "2 failed");
        assert_eq!(figure("success rate"), "25.0 % (1 of 4 retried series)");
        assert_eq!(figure("attempts needed"), "2.0");
        assert_eq!(figure("fallback rate"), "50.0 % (2 of 4 chains)");
        assert_eq!(figure("answered by primary"), "1");
        assert_eq!(figure("answered by fallback 1"), "2");
        assert_eq!(figure("exhausted"), "1");
        assert!(figure("timed out").starts_with("1"), "{}", ran.stdout);
        assert_eq!(figure("not at full level"), "100.0 % (1 of 1 swarm calls)");
        assert_eq!(figure("levels"), "1 degraded");
        assert_eq!(figure("agents that succeeded"), "66.7 %");
        assert_eq!(figure("sentiment"), "1");
        assert!(ran.stdout.contains("closed -> open"), "{}", ran.stdout);
        assert!(figure("gpt ").starts_with("open "), "{}", ran.stdout);
        assert!(
            figure("research/small ").contains("closed       0      4         0"),
            "{}",
            ran.stdout
        );
        assert!(figure("timeout ").starts_with('1'), "{}", ran.stdout);
        let agents = ran.stdout.split("\nAgents\n").nth(1).unwrap();
        assert!(agents.contains("\n  research") && agents.contains("\n  slow"), "{agents}");
    }
}

#[test]
fn the_document_has_the_keys_that_are_documented() {
    let server = busy();
    let mut documents = Vec::new();
    for line in LINES {
        server.set_line(line);
        let ran = ask(&server, &["stats", "--json", "--by", "agent"]).code(0).steers_nothing();
        let mut document = ran.json();
        for changes in ["since", "until"] {
            assert!(document[changes].as_str().unwrap().ends_with('Z'));
            document[changes] = Json::Null;
        }
        documents.push(document);
    }
    assert_eq!(documents[0], documents[1]);
    let total = &documents[0]["total"];
    let calls = json!({
        "all": 6, "answered": 4, "failed": 2, "rejected": 0, "panicked": 0, "cancelled": 0,
        "unfinished": 0, "availability": 4.0 / 6.0,
    });
    assert_eq!(total["calls"], calls);
    let keys = |value: &Json| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let documented =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md"));
    let documented = documented.unwrap();
    let circuit = &total["circuits"][0];
    let failure = &total["failures"]["timeout"];
    let objects = [
        &documents[0],
        total,
        &total["calls"],
        &total["retry"],
        &total["fallback"],
        &total["timeouts"],
        &total["degradation"],
        circuit,
        failure,
        &documents[0]["agents"][0],
    ];
    for key in objects.into_iter().flat_map(keys) {
        assert!(documented.contains(&format!("`{key}`")), "{key} is not in docs/cli.md");
    }
    let sections =
        ["calls", "circuits", "degradation", "failures", "fallback", "retry", "timeouts"];
    assert_eq!(keys(total), sections);
    assert_eq!(
        (&circuit["state"], &circuit["transitions"]["closed -> open"]),
        (&json!("open"), &json!(1))
    );
    let agents: Vec<_> =
        documents[0]["agents"].as_array().unwrap().iter().map(|row| row["agent"].clone()).collect();
    assert!(agents.contains(&Json::Null) && agents.contains(&json!("research")), "{agents:?}");
}

#[test]
fn what_is_shown_twice_and_numbers_as_text_change_nothing() {
    let server = busy();
    let total = |line| {
        server.set_line(line);
        ask(&server, &["stats", "--json"]).code(0).json()["total"].clone()
    };
    let expected = total(Line::V4);
    server.show_repeats(true);
    server.write_numbers_as_text(true);
    for line in LINES {
        assert_eq!(total(line), expected);
    }
}

#[test]
fn no_data_is_said_plainly_and_has_an_exit_code() {
    let server = LangfuseServer::start_blocking();
    for line in LINES {
        server.set_line(line);
        let ran = ask(&server, &["stats"]).code(3).said("no data: no observations of buttress");
        assert_eq!(ran.stdout, "");
        let document = ask(&server, &["stats", "--json"]).code(3).json();
        assert_eq!(
            (&document["observations"], &document["total"]["retry"]["success_rate"]),
            (&json!(0), &Json::Null)
        );
        ask(&server, &["trace", "last"]).code(3).said("no data: Langfuse has no trace");
        let unknown = ask(&server, &["trace", "ab\u{1b}[2J\u{202e}"]);
        unknown.code(3).steers_nothing().said("Langfuse has no trace");
    }
    // There is data, but not in that time.
    let server = busy();
    let since = ["stats", "--since", "2020-01-01", "--until", "2020-01-02T00:00:00Z"];
    ask(&server, &since).code(3).said("from 2020-01-01 00:00:00 UTC to 2020-01-02 00:00:00 UTC");
    ask(&server, &["stats", "--environment", "production"]).code(3).said("no data");
}

#[test]
fn settings_that_are_wrong_are_named() {
    run(&["stats"], &[]).code(4).said("LANGFUSE_PUBLIC_KEY and LANGFUSE_SECRET_KEY must be set");
    let keys = [("LANGFUSE_PUBLIC_KEY", "pk-lf-1"), ("LANGFUSE_SECRET_KEY", "sk-lf-hush")];
    let with = |url: &str, args: &[&str]| {
        let vars = [keys[0], keys[1], ("LANGFUSE_BASE_URL", url)];
        let ran = run(args, &vars);
        assert!(!ran.stderr.contains("hush"), "{}", ran.stderr);
        ran
    };
    run(&["trace", "last"], &keys[..1]).code(4).said("LANGFUSE_SECRET_KEY must be set");
    with("lf.example", &["stats"]).code(4).said("LANGFUSE_BASE_URL must be an http or https");
    let timeout = [keys[0], keys[1], ("LANGFUSE_TIMEOUT", "soon")];
    run(&["stats"], &timeout).code(4).said("LANGFUSE_TIMEOUT must be a number of seconds");
    let server = LangfuseServer::start_blocking();
    for args in [&["stats"][..], &["trace", "last"]] {
        with(&server.base_url(), args)
            .code(4)
            .said("check LANGFUSE_PUBLIC_KEY, LANGFUSE_SECRET_KEY and LANGFUSE_BASE_URL");
    }
    server.set_line(Line::Neither);
    ask(&server, &["stats"]).code(4).said("is not Langfuse").said("check LANGFUSE_BASE_URL");
}

#[test]
fn a_server_that_is_away_is_named_with_the_variable_to_mend() {
    let server = LangfuseServer::start_blocking();
    server.stop_blocking();
    let ran = ask(&server, &["stats"]).code(1);
    assert_eq!(ran.stdout, "");
    ran.said(&server.base_url()).said("check LANGFUSE_BASE_URL");
}

#[test]
fn a_limit_of_the_server_is_waited_for_and_one_that_is_too_long_is_told() {
    let server = busy();
    server.fail_next_read(Fault::TooManyRequests(RetryAfter::Seconds(1)));
    ask(&server, &["stats"]).code(0);
    assert_eq!(server.reads().len(), 2);
    server.fail_next_read(Fault::TooManyRequests(RetryAfter::Seconds(3_600)));
    ask(&server, &["stats"]).code(1).said("Langfuse asks to come back in 3600 s");
}

#[test]
fn wrong_use_names_the_flag() {
    for (args, words) in [
        (&["stats", "--since", "yesterday"][..], "--since <TIME>"),
        (&["stats", "--since", "1h", "--until", "2h"], "--since must lie before --until"),
        (&["stats", "--by", "colour"], "--by <WHAT>"),
        (&["stats", "--limit", "many"], "--limit <N>"),
        (&["stats", "--limit", "0"], "must be at least 1"),
        (&["checkpoints", "list", "--limit", "0"], "must be at least 1"),
        (&["checkpoints", "history", "w", "--limit=-1"], "must be a whole number"),
        (&["trace", ""], "must not be empty"),
        (&["trace", " "], "must not be empty"),
        (&["stats", "--color", "pink"], "--color <WHEN>"),
        (&["stats", "--loud"], "--loud"),
        (&["trace"], "<ID>"),
        (&["guess"], "guess"),
        (&["completions", "cmd"], "<SHELL>"),
    ] {
        run(args, &[]).code(2).said(words);
    }
    run(&[], &[]).code(2);
}

#[test]
fn of_more_than_the_limit_the_newest_are_read() {
    let server = busy();
    let ran = ask(&server, &["stats", "--limit", "5", "--json"]).code(0).json();
    assert_eq!((&ran["observations"], &ran["truncated"]), (&json!(5), &json!(true)));
    let text = ask(&server, &["stats", "--limit", "5"]).code(0).fits().stdout;
    assert!(text.contains("--limit reads more"), "{text}");
}

#[test]
fn colours_are_there_when_asked_for() {
    let server = busy();
    let coloured = |args: &[&str]| ask(&server, args).code(0).stdout.contains('\u{1b}');
    assert!(!coloured(&["stats"]));
    assert!(!coloured(&["trace", "last", "--color", "never"]));
    assert!(coloured(&["--color", "always", "stats"]));
    assert!(coloured(&["trace", "last", "--color", "always"]));
}

#[test]
fn a_trace_is_drawn_as_a_tree() {
    let server = busy();
    let id = server.named("agent_slow")[0].trace_id().to_owned();
    for line in LINES {
        server.set_line(line);
        let drawn = ask(&server, &["trace", &id]).code(0).steers_nothing().stdout;
        let names: Vec<_> = drawn.lines().map(|line| line.split(" [").next().unwrap()).collect();
        let expected = [
            "agent_slow",
            "└─ fallback_chain",
            "   └─ fallback_attempt",
            "      └─ retry_execution",
            "         └─ retry_attempt",
            "            └─ circuit_breaker_call",
            "               └─ timeout_protected_call",
        ];
        assert_eq!(names, expected, "{drawn}");
        assert!(
            drawn.contains("ERROR failure_kind=timeout: Agent timed out after 0.01s"),
            "{drawn}"
        );
        let last = ask(&server, &["trace", "last"]).code(0).stdout;
        assert!(last.contains("research_swarm_with_degradation [chain]"), "{last}");
        assert!(last.contains("WARNING degradation_level=1"), "{last}");
        let document = ask(&server, &["trace", &id, "--json"]).code(0).steers_nothing().json();
        assert_eq!((&document["id"], &document["name"]), (&json!(id), &json!("agent_slow")));
        let observations = document["observations"].as_array().unwrap();
        assert_eq!((observations.len(), &document["level"]), (7, &json!("ERROR")));
        assert_eq!(observations[0]["parent_id"], Json::Null);
        assert_eq!(observations[0]["metadata"]["failure_kind"], "timeout");
        let documented =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md"));
        let documented = documented.unwrap();
        for object in [&document, &observations[0]] {
            for key in object.as_object().unwrap().keys() {
                assert!(documented.contains(&format!("`{key}`")), "{key} is not in docs/cli.md");
            }
        }
    }
}
