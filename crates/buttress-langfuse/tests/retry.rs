//! A series of attempts of buttress itself, as it is shown.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use buttress::retry::RetryLayer;
use buttress_langfuse::{Langfuse, TerminalTree};
use tower::{Layer as _, ServiceExt as _, service_fn};
use tracing_subscriber::layer::SubscriberExt as _;

#[tokio::test]
async fn a_rescued_series_is_a_warning_above_its_attempts() {
    let tree = TerminalTree::new();
    let langfuse = Langfuse::to_terminal(tree.clone());
    let guard =
        tracing::subscriber::set_default(tracing_subscriber::registry().with(langfuse.layer()));
    let calls = AtomicUsize::new(0);
    let agent = service_fn(|(): ()| {
        let is_first = calls.fetch_add(1, Ordering::Relaxed) == 0;
        std::future::ready(if is_first { Err("no answer") } else { Ok("fine") })
    });
    let layer = RetryLayer::new(3).backoff([Duration::ZERO; 3]).agent_id("research");
    let answer = layer.layer(agent).oneshot(()).await;
    drop(guard);
    assert_eq!(answer, Ok("fine"));
    let series = &tree.to_json()[0];
    assert_eq!((&series["name"], &series["level"]), (&"retry_execution".into(), &"WARNING".into()));
    assert_eq!(series["metadata"]["attempts_needed"], 2);
    assert_eq!(series["metadata"]["agent_id"], "research");
    assert_eq!(series["metadata"]["retry_history"][0]["error"], "no answer");
    let attempts = series["children"].as_array().expect("a list");
    assert_eq!(attempts.len(), 2, "{series:#}");
    assert_eq!(
        (&attempts[0]["level"], &attempts[1]["level"]),
        (&"WARNING".into(), &"DEFAULT".into())
    );
}
