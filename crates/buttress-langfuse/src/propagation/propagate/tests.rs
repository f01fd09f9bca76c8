use opentelemetry_proto::tonic::trace::v1::Span as Sent;
use serde_json::{Value as Json, json};
use tracing::{Instrument as _, info_span, subscriber::with_default};
use tracing_subscriber::{layer::SubscriberExt as _, registry};

use super::*;
use crate::{
    Langfuse,
    notice::captured,
    propagation::{InTrace as _, spawn, trace_id_from_seed},
    testing::{MemorySink, get, langfuse},
};

const APP_ROOT: &str = "langfuse.internal.is_app_root";
const TRACE_NAME: &str = "langfuse.trace.name";

fn within(run: impl FnOnce(&Langfuse)) -> Arc<MemorySink> {
    let (langfuse, sink) = langfuse();
    with_default(registry().with(langfuse.layer()), || run(&langfuse));
    sink
}

fn span(name: &'static str) -> tracing::Span {
    info_span!(target: "buttress", "span", otel.name = name)
}

fn user(sent: &Sent) -> Json {
    get(sent, "user.id")
}

#[test]
fn a_scope_speaks_for_spans_that_start_in_it_and_for_the_one_around_it() {
    let sink = within(|_| {
        span("outermost").in_scope(|| {
            span("around").in_scope(|| {
                span("before").in_scope(|| ());
                let open = span("open");
                open.in_scope(|| ());
                let all = Propagate::new().session("s").user("u").tag("a").tags(["b", "a"]);
                let all = all.trace_name("t").version("2").environment("prod");
                all.metadata("n", 1).metadata("text", "x").in_scope(|| {
                    span("within").in_scope(|| span("below").in_scope(|| ()));
                });
                span("after").in_scope(|| ());
            });
        });
    });
    for name in ["within", "below", "around"] {
        let span = sink.span(name);
        assert_eq!((get(&span, "session.id"), user(&span)), (json!("s"), json!("u")), "{name}");
        assert_eq!(get(&span, "langfuse.trace.tags"), json!(["a", "b"]));
        assert_eq!(
            (get(&span, TRACE_NAME), get(&span, "langfuse.version")),
            (json!("t"), json!("2"))
        );
        assert_eq!(get(&span, "langfuse.environment"), "prod");
        assert_eq!(get(&span, "langfuse.trace.metadata.n"), "1");
        assert_eq!(get(&span, "langfuse.trace.metadata.text"), "x");
    }
    for name in ["before", "open", "outermost", "after"] {
        assert_eq!(user(&sink.span(name)), Json::Null, "{name}");
    }
}

#[test]
fn of_scopes_in_each_other_the_inner_one_counts_and_tags_and_metadata_add_up() {
    let sink = within(|_| {
        let outer = Propagate::new().user("outer").session("s").tag("a").metadata("x", "1");
        outer.metadata("y", "1").in_scope(|| {
            span("first").in_scope(|| ());
            let inner = Propagate::new().user("inner").tag("b").metadata("y", "2");
            inner.in_scope(|| span("second").in_scope(|| ()));
            span("third").in_scope(|| ());
        });
        span("outside").in_scope(|| ());
    });
    let second = sink.span("second");
    assert_eq!((user(&second), get(&second, "session.id")), (json!("inner"), json!("s")));
    assert_eq!(get(&second, "langfuse.trace.tags"), json!(["a", "b"]));
    let entry = |key: &str| get(&second, &format!("langfuse.trace.metadata.{key}"));
    assert_eq!((entry("x"), entry("y")), (json!("1"), json!("2")));
    for (name, expected) in
        [("first", json!("outer")), ("third", json!("outer")), ("outside", Json::Null)]
    {
        assert_eq!(user(&sink.span(name)), expected, "{name}");
    }
}

#[tokio::test]
async fn a_future_is_in_its_scope_at_every_poll_and_nothing_else_is() {
    let (langfuse, sink) = langfuse();
    let guard = tracing::subscriber::set_default(registry().with(langfuse.layer()));
    let one = async |name: &'static str| {
        for _ in 0..3 {
            tokio::task::yield_now().await;
            span(name).in_scope(|| ());
        }
    };
    let (ada, bob) = (Propagate::new().user("ada"), Propagate::new().user("bob"));
    // A span that is made outside of the scope and starts in it belongs to it.
    let bobs = bob.scope(one("bob's").instrument(span("bob's own")));
    tokio::join!(ada.scope(one("ada's")), bobs, one("nobody's"));
    drop(guard);
    assert_eq!(sink.spans().len(), 10);
    for span in sink.spans() {
        let owner = span.name.split_once('\'').map(|(name, _)| name);
        let expected =
            owner.filter(|name| *name != "nobody").map_or(Json::Null, |name| json!(name));
        assert_eq!(user(&span), expected, "{}", span.name);
    }
}

#[tokio::test]
async fn spawned_tasks_stay_in_span_and_scope() {
    let (langfuse, sink) = langfuse();
    let guard = tracing::subscriber::set_default(registry().with(langfuse.layer()));
    let work = async {
        span("root").in_scope(|| {
            let inner = Propagate::new().tag("inner");
            inner.in_scope(|| {
                let task = async {
                    tokio::task::yield_now().await;
                    span("spawned").in_scope(|| ());
                    spawn(async { span("again").in_scope(|| ()) }).await.unwrap();
                };
                (spawn(task), tokio::spawn(async { span("tokio's").in_scope(|| ()) }.in_trace()))
            })
        })
    };
    let (ours, tokios) = Propagate::new().user("u").scope(work).await;
    ours.await.unwrap();
    tokios.await.unwrap();
    tokio::spawn(async { span("alone").in_scope(|| ()) }).await.unwrap();
    drop(guard);
    let root = sink.span("root");
    for name in ["spawned", "again", "tokio's"] {
        let span = sink.span(name);
        assert_eq!(span.parent_span_id, root.span_id, "{name}");
        assert_eq!(
            (user(&span), get(&span, "langfuse.trace.tags")),
            (json!("u"), json!(["inner"]))
        );
    }
    let alone = sink.span("alone");
    assert_eq!((user(&alone), alone.parent_span_id.len()), (Json::Null, 0));
}

#[test]
fn a_seed_begins_a_trace_of_its_own_id_without_a_parent() {
    let sink = within(|_| {
        span("other").in_scope(|| {
            Propagate::new().trace_seed("order-7").user("u").in_scope(|| {
                span("root").in_scope(|| {
                    // The trace is there already.
                    let again = Propagate::new().trace_seed("order-7");
                    again.in_scope(|| span("child").in_scope(|| ()));
                });
                info_span!("request").in_scope(|| span("below").in_scope(|| ()));
            });
            span("others").in_scope(|| ());
        });
    });
    let id = trace_id_from_seed("order-7");
    let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let root = sink.span("root");
    assert_eq!((hex(&root.trace_id), root.parent_span_id.len()), (id.clone(), 0));
    assert_eq!((get(&root, APP_ROOT), get(&root, TRACE_NAME)), (Json::Null, json!("root")));
    assert_eq!((user(&root), root.flags), (json!("u"), 0x101));
    let child = sink.span("child");
    assert_eq!((child.trace_id, child.parent_span_id), (root.trace_id.clone(), root.span_id));
    let below = sink.span("below");
    assert_eq!((&below.trace_id, get(&below, APP_ROOT)), (&root.trace_id, json!(true)));
    let (other, others) = (sink.span("other"), sink.span("others"));
    assert_eq!(others.parent_span_id, other.span_id);
    assert!(other.trace_id == others.trace_id && other.trace_id != root.trace_id);
    assert_eq!(user(&other), Json::Null);
}

#[test]
fn what_is_too_long_is_left_out_with_one_line() {
    let long = "\u{e4}".repeat(201);
    let propagate = Propagate::new().session("first").session(&*long).version(long.clone());
    let propagate = propagate.version("\u{e4}".repeat(200)).session(long).environment("Prod");
    assert_eq!(propagate.says.session.as_deref(), Some("first"));
    assert_eq!(propagate.says.version.map(|version| version.chars().count()), Some(200));
    assert_eq!(propagate.says.environment, None);
    let lines = captured::take();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].contains("session") && lines[0].contains("200"), "{lines:?}");
    assert!(!lines.concat().contains('\u{e4}'));
    let shown = format!("{:?}", Propagate::new().user("ada"));
    assert!(!shown.contains("ada"), "{shown}");
}

#[test]
fn a_scope_without_langfuse_runs_what_is_in_it() {
    assert_eq!(Propagate::new().user("u").trace_seed("x").in_scope(|| 7), 7);
}
