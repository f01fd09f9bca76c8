use std::{sync::Arc, time::Duration};

use tracing::{info_span, subscriber::with_default};
use tracing_subscriber::{layer::SubscriberExt as _, registry};

use super::*;
use crate::{
    notice::captured,
    testing::{MemorySink, langfuse},
};

const TIMEOUT: Duration = Duration::from_secs(1);

fn shutdowns(sink: &MemorySink) -> Vec<Duration> {
    sink.shutdowns.lock().unwrap().clone()
}

#[test]
fn the_last_handle_shuts_down_once_and_within_bounds() {
    let (langfuse, sink) = langfuse();
    let clone = langfuse.clone();
    drop(langfuse);
    assert!(shutdowns(&sink).is_empty());
    drop(clone);
    assert_eq!(shutdowns(&sink), [DROP_TIMEOUT]);
}

#[test]
fn a_handle_that_was_shut_down_is_dropped_in_silence() {
    let (langfuse, sink) = langfuse();
    langfuse.shutdown(TIMEOUT).unwrap();
    drop(langfuse);
    assert_eq!(shutdowns(&sink), [TIMEOUT]);
    assert_eq!(captured::take(), [""; 0]);
}

#[test]
fn a_span_after_the_last_handle_is_told_once() {
    let (langfuse, _sink) = langfuse();
    let subscriber = registry().with(langfuse.layer());
    drop(langfuse);
    with_default(subscriber, || {
        info_span!(target: "buttress", "late").in_scope(|| ());
        info_span!(target: "buttress", "later").in_scope(|| ());
    });
    let said = captured::take();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].contains("keep the `Langfuse` value"), "{said:?}");
}

#[tokio::test]
async fn shutdown_and_drop_work_inside_a_current_thread_runtime() {
    let (langfuse, sink) = langfuse();
    langfuse.shutdown(TIMEOUT).unwrap();
    drop(langfuse);
    let (other, other_sink) = crate::testing::langfuse();
    drop(other);
    assert_eq!((shutdowns(&sink).len(), shutdowns(&other_sink).len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_and_drop_work_inside_a_multi_thread_runtime() {
    let (langfuse, sink) = langfuse();
    langfuse.shutdown(TIMEOUT).unwrap();
    let moved = tokio::spawn(async move { drop(langfuse) });
    moved.await.unwrap();
    assert_eq!(shutdowns(&sink).len(), 1);
}

#[test]
fn shutdown_works_after_the_runtime_is_gone() {
    let (langfuse, sink) = langfuse();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        with_default(registry().with(langfuse.layer()), || {
            info_span!(target: "buttress", "span").in_scope(|| ());
        });
    });
    drop(runtime);
    langfuse.shutdown(TIMEOUT).unwrap();
    assert_eq!((sink.spans().len(), langfuse.stats().accepted), (1, 1));
}

#[test]
fn the_printer_sees_what_the_sink_gets() {
    let tree = TerminalTree::new();
    let sink = Arc::new(MemorySink::default());
    let defaults = TraceDefaults::default();
    let langfuse = Langfuse::assemble(sink.clone(), defaults, Some(tree.clone()), None);
    with_default(registry().with(langfuse.layer()), || {
        info_span!(target: "buttress", "span").in_scope(|| ());
    });
    assert_eq!((sink.spans().len(), tree.trees().len()), (1, 1));
}

#[test]
fn a_trace_has_an_address_where_the_base_is_known() {
    let link = |project_id: Option<&str>| ProjectLink {
        base_url: "https://lf.example/".to_owned(),
        project_id: project_id.map(str::to_owned),
    };
    assert_eq!(link(Some("p")).trace("ab"), "https://lf.example/project/p/traces/ab");
    assert_eq!(link(None).trace("ab"), "https://lf.example/trace/ab");
    assert_eq!(Langfuse::to_terminal(TerminalTree::new()).trace_url("ab"), None);
}

#[test]
fn debug_shows_counts_and_nothing_that_spans_say() {
    let tree = TerminalTree::new();
    let langfuse = Langfuse::to_terminal(tree.clone());
    let processor = langfuse.span_processor();
    with_default(registry().with(langfuse.layer()), || {
        info_span!(target: "buttress", "first", input = "hush").in_scope(|| ());
        info_span!(target: "buttress", "second").in_scope(|| {
            crate::current().input("hush").session("hush");
            let core = crate::core::Core::live();
            for shown in [format!("{langfuse:?}"), format!("{tree:?}"), format!("{processor:?}")] {
                assert!(!shown.contains("hush"), "{shown}");
            }
            assert!(!format!("{core:?} {:?}", crate::current()).contains("hush"));
        });
    });
    assert!(format!("{langfuse:?}").contains("accepted: 2"), "{langfuse:?}");
    assert!(format!("{tree:?}").contains("spans: 2"), "{tree:?}");
    let base_url = "http://me:hush@host".to_owned();
    let link = ProjectLink { base_url: base_url.clone(), project_id: None };
    let builder = Langfuse::builder().base_url(base_url).public_key("p").secret_key("s");
    assert!(!format!("{link:?} {builder:?}").contains("hush"));
    for builder in [builder.clone(), builder.public_key("")] {
        let error = builder.start().unwrap_err();
        assert!(matches!(error, crate::StartError::UserInBaseUrl), "{error:?}");
    }
}

#[test]
fn switched_off_there_is_a_tree_only_where_one_was_asked_for() {
    for variable in ["LANGFUSE_TRACING_ENABLED", "OTEL_SDK_DISABLED"] {
        let value = if variable == "OTEL_SDK_DISABLED" { "true" } else { "false" };
        let off = || Langfuse::from_vars(|name| (name == variable).then(|| value.to_owned()));
        let without = off().unwrap().start().unwrap();
        let tree = TerminalTree::new();
        let with = off().unwrap().terminal(tree.clone()).sample_rate(0.0).start().unwrap();
        for langfuse in [&without, &with] {
            with_default(registry().with(langfuse.layer()), || {
                info_span!(target: "buttress", "span").in_scope(|| ());
            });
            langfuse.shutdown(TIMEOUT).unwrap();
        }
        assert!(without.terminal().is_none());
        assert_eq!((without.stats().accepted, tree.trees().len()), (0, 1));
    }
}
