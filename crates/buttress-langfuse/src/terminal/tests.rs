use tracing::{info_span, subscriber::with_default};
use tracing_subscriber::{layer::SubscriberExt as _, registry};

use super::*;
use crate::Langfuse;

fn collected(tree: &TerminalTree, spans: impl FnOnce()) {
    let langfuse = Langfuse::to_terminal(tree.clone());
    with_default(registry().with(langfuse.layer()), spans);
}

fn series() {
    let root = info_span!(
        target: "buttress", "static", otel.name = "agent_a", observation_type = "agent",
        metadata = r#"{"ticker":"AAPL"}"#
    );
    root.in_scope(|| {
        info_span!(
            target: "buttress", "retry_attempt", attempt = 1_i64, level = "WARNING",
            status_message = "failed\u{1b}[2J\nonce"
        )
        .in_scope(|| info_span!(target: "buttress", "llm_call", gen_ai.request.model = "m"));
        info_span!(target: "buttress", "retry_attempt", attempt = 2_i64).in_scope(|| ());
    });
}

#[test]
fn a_trace_is_drawn_as_a_tree_in_the_order_of_starts() {
    let tree = TerminalTree::new();
    collected(&tree, series);
    let text = tree.render();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[0].starts_with("agent_a [agent] "), "{text}");
    assert!(lines[1].starts_with("├─ retry_attempt [span] "), "{text}");
    // Control characters do not reach the terminal, and the message stays on its line.
    assert!(lines[1].ends_with(" WARNING attempt=1: failed [2J once"), "{text}");
    assert!(lines[2].starts_with("│  └─ llm_call [generation] "), "{text}");
    assert!(lines[3].starts_with("└─ retry_attempt [span] "), "{text}");
    assert!(lines[3].ends_with(" attempt=2"), "{text}");
}

#[test]
fn colour_is_there_only_when_asked_for() {
    let tree = TerminalTree::new();
    collected(&tree, series);
    assert!(!tree.render().contains('\u{1b}'));
    assert!(tree.clone().colour(true).render().contains("\u{1b}[33mWARNING\u{1b}[0m"));
}

#[test]
fn json_has_what_langfuse_has() {
    let tree = TerminalTree::new();
    collected(&tree, series);
    let json = tree.to_json();
    let root = &json[0];
    assert_eq!((json.as_array().unwrap().len(), &root["name"]), (1, &json!("agent_a")));
    assert_eq!((&root["type"], &root["level"]), (&json!("agent"), &json!("DEFAULT")));
    assert_eq!(
        (&root["metadata"]["ticker"], &root["traceName"]),
        (&json!("AAPL"), &json!("agent_a"))
    );
    assert_eq!(root["statusMessage"], Json::Null);
    let attempt = &root["children"][0];
    assert_eq!(
        (&attempt["level"], &attempt["metadata"]["attempt"]),
        (&json!("WARNING"), &json!(1))
    );
    assert_eq!(attempt["children"][0]["type"], "generation");
    assert_eq!(attempt["traceId"], root["traceId"]);
    assert_eq!(root["id"].as_str().unwrap().len(), 16);
    assert!(root["durationMs"].as_f64().unwrap() >= attempt["durationMs"].as_f64().unwrap());
    assert!(root["start"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn old_traces_make_room_for_new_ones_and_are_counted() {
    let mut collected = Collected::default();
    for trace in 0..=CAPACITY as u64 {
        let trace_id = trace.to_be_bytes().to_vec();
        collected.add(Span { trace_id, ..Span::default() });
    }
    assert_eq!((collected.spans, collected.traces.len()), (CAPACITY, CAPACITY));
    assert_eq!((collected.stats.dropped, collected.stats.delivered), (1, CAPACITY as u64));
}
