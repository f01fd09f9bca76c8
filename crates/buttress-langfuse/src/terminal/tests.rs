use tracing::{info_span, subscriber::with_default};
use tracing_subscriber::{layer::SubscriberExt as _, registry};

use serde_json::json;

use super::{
    collected::{CAPACITY, CAPACITY_BYTES},
    tree::DEEPEST,
    *,
};
use crate::{Langfuse, value};

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
    assert_eq!((collected.spans(), collected.in_order().count()), (CAPACITY, CAPACITY));
    assert_eq!((collected.stats.dropped, collected.stats.delivered), (1, CAPACITY as u64));
}

/// A span of trace 1.
fn numbered(span: u64, parent: u64) -> Span {
    Span {
        trace_id: vec![1; 16],
        span_id: span.to_be_bytes().to_vec(),
        parent_span_id: if parent == 0 { Vec::new() } else { parent.to_be_bytes().to_vec() },
        start_time_unix_nano: span,
        name: format!("span {span}"),
        ..Span::default()
    }
}

/// Fills a span with so many bytes.
fn with_input(mut span: Span, bytes: usize) -> Span {
    let input = value::text("x".repeat(bytes));
    span.attributes.push(value::attribute("langfuse.observation.input", input));
    span
}

#[test]
fn a_chain_deeper_than_a_stack_is_drawn_to_a_depth_and_the_rest_is_counted() {
    let tree = TerminalTree::new();
    for span in 1..=10_000 {
        tree.collect(numbered(span, span - 1));
    }
    let deeper = 10_000 - DEEPEST - 1;
    let drawing = move || {
        let text = tree.render();
        assert_eq!(text.lines().count(), DEEPEST + 2);
        assert!(text.ends_with(&format!("└─ deeper: {deeper}\n")), "{text}");
        let json = tree.to_json();
        let mut observation = &json[0];
        for _ in 0..DEEPEST {
            assert_eq!(observation["deeper"], Json::Null);
            observation = &observation["children"][0];
        }
        assert_eq!(
            (&observation["deeper"], &observation["children"]),
            (&json!(deeper), &json!([]))
        );
        let nested = format!("[[[{json}]]]");
        assert!(serde_json::from_str::<Json>(&nested).is_ok(), "too deep to be read");
    };
    let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(drawing).unwrap();
    thread.join().unwrap();
}

#[test]
fn branches_are_drawn_along_every_open_level() {
    let tree = TerminalTree::new();
    for (span, parent) in [(1, 0), (2, 1), (3, 2), (4, 3), (5, 2), (6, 1), (7, 6)] {
        tree.collect(numbered(span, parent));
    }
    let lines: Vec<_> =
        tree.render().lines().map(|line| line.split(" [").next().unwrap().to_owned()).collect();
    let expected = [
        "span 1",
        "├─ span 2",
        "│  ├─ span 3",
        "│  │  └─ span 4",
        "│  └─ span 5",
        "└─ span 6",
        "   └─ span 7",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn a_trace_over_the_capacity_loses_its_oldest_spans_only() {
    let mut collected = Collected::default();
    for span in 1..=CAPACITY as u64 + 5 {
        collected.add(numbered(span, 0));
    }
    let names: Vec<_> = collected.in_order().flatten().map(|span| span.name.clone()).collect();
    assert_eq!((names.len(), &names[0][..]), (CAPACITY, "span 6"));
    assert_eq!(names.last().unwrap(), &format!("span {}", CAPACITY + 5));
    assert_eq!((collected.stats.dropped, collected.stats.delivered), (5, CAPACITY as u64));
}

#[test]
fn large_spans_are_bounded_by_their_bytes_and_the_newest_stays() {
    let mut collected = Collected::default();
    for span in 1..=40 {
        collected.add(with_input(numbered(span, 0), 1 << 20));
        assert!(collected.bytes() <= CAPACITY_BYTES);
    }
    assert_eq!(collected.spans(), 15);
    collected.add(with_input(numbered(41, 0), CAPACITY_BYTES));
    collected.add(Span { trace_id: vec![2; 16], ..with_input(numbered(42, 0), CAPACITY_BYTES) });
    let names: Vec<_> = collected.in_order().flatten().map(|span| &span.name[..]).collect();
    assert_eq!(names, ["span 42"]);
    assert_eq!(collected.stats.accepted, collected.stats.delivered + collected.stats.dropped);
}

#[test]
fn nothing_that_steers_a_terminal_is_drawn() {
    let bad = "a\u{1b}[2J\n\r\u{202e}\u{2066}\u{200f}b";
    let mut span = numbered(1, 0);
    span.name = bad.to_owned();
    for key in [
        "langfuse.observation.type",
        "langfuse.observation.status_message",
        "langfuse.observation.metadata.stop",
    ] {
        span.attributes.push(value::attribute(key, value::text(bad)));
    }
    // A list is drawn as JSON, which does not escape what turns text around.
    let list = value::list(vec![value::text(bad)]).unwrap();
    span.attributes.push(value::attribute("langfuse.observation.metadata.attempt", list));
    let tree = TerminalTree::new();
    tree.collect(span);
    let text = tree.render();
    assert_eq!(text.lines().count(), 1, "{text:?}");
    let steering = |char: char| char.is_control() || "\u{202e}\u{2066}\u{200f}".contains(char);
    assert_eq!(text.trim_end_matches('\n').find(steering), None, "{text:?}");
}
