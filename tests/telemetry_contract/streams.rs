//! What streams tell: their spans last until the stream ends, whatever the call came to.

use std::{io, time::Duration};

use buttress::{AgentLayer, CircuitBreakerLayer, Error, FirstItemLayer, StreamTimeoutLayer};
use futures_util::{StreamExt as _, stream};
use tower::{ServiceBuilder, ServiceExt as _};

use super::seen::{Seen, observe};

/// What a model says: each item after a second, and then it hangs if it does not end.
#[derive(Clone, Copy)]
struct Model {
    items: &'static [Result<&'static str, &'static str>],
    hangs: bool,
}

/// Asks a model and reads so many items of its answer.
async fn ask(model: Model, most: usize) -> Result<(), Error> {
    let agent = ServiceBuilder::new()
        .layer(AgentLayer::new("research"))
        .layer(CircuitBreakerLayer::new("model").agent_id("research").settle_at_stream_end())
        .layer(StreamTimeoutLayer::new().idle(Duration::from_secs(5)).agent_id("research"))
        .layer(FirstItemLayer::new().agent_id("research").metadata(r#"{"ticker":"AAPL"}"#))
        .service_fn(move |_: &'static str| async move {
            let items = stream::iter(model.items).then(|item| async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                item.map_err(io::Error::other)
            });
            let end = stream::pending().take(usize::from(model.hangs));
            Ok::<_, io::Error>(Box::pin(items.chain(end)))
        });
    let mut answer = std::pin::pin!(agent.oneshot("AAPL").await?.take(most));
    while let Some(item) = answer.next().await {
        item?;
    }
    Ok(())
}

fn streamed() -> Seen {
    observe(async || ask(Model { items: &[Ok("up"), Ok("!")], hangs: false }, 9).await.unwrap())
}

fn cut() -> Seen {
    observe(async || {
        let error = ask(Model { items: &[Ok("up"), Err("reset")], hangs: false }, 9).await;
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "agent \"research\": the stream was cut after 1 item");
    })
}

fn silent() -> Seen {
    observe(async || {
        let error = ask(Model { items: &[Ok("up")], hangs: true }, 9).await.unwrap_err();
        assert!(error.is_timeout());
    })
}

fn failed_before_its_first_item() -> Seen {
    observe(async || {
        ask(Model { items: &[Err("reset")], hangs: false }, 9).await.unwrap_err();
    })
}

fn dropped_after_an_item() -> Seen {
    observe(async || ask(Model { items: &[Ok("up"), Ok("!")], hangs: true }, 1).await.unwrap())
}

scenarios![streamed, cut, silent, failed_before_its_first_item, dropped_after_an_item];

#[test]
fn a_stream_is_told_to_its_end() {
    streamed().check(
        r#"
agent_research AGENT DEFAULT
  {"agent_id":"research","outcome":"success","success":true}
  circuit_breaker_call SPAN DEFAULT
    {"agent_id":"research","circuit_key":"model","circuit_state":"closed","circuit_state_at_start":"closed","failure_count":0,"outcome":"success","success_count":0}
    timeout_protected_call SPAN DEFAULT
      {"agent_id":"research","outcome":"success","timeout_seconds":30}
      streamed_call SPAN DEFAULT
        {"agent_id":"research","first_item_seconds":1,"items":2,"outcome":"success","ticker":"AAPL"}
"#,
        &[],
    );
}

#[test]
fn a_stream_that_is_cut_is_told() {
    cut().check(
        r#"
agent_research AGENT DEFAULT
  {"agent_id":"research","outcome":"success","success":true}
  circuit_breaker_call SPAN ERROR: Circuit breaker recorded failure: the stream was cut after 1 item: reset
    {"agent_id":"research","circuit_key":"model","circuit_state":"closed","circuit_state_at_start":"closed","error":"the stream was cut after 1 item: reset","error_type":"transient","failure_count":1,"failure_kind":"transient","outcome":"failure","success_count":0}
    timeout_protected_call SPAN DEFAULT
      {"agent_id":"research","error":"the stream was cut after 1 item: reset","error_type":"transient","failure_kind":"transient","outcome":"failure","timeout_seconds":30}
      streamed_call SPAN ERROR: the stream was cut after 1 item: reset
        {"agent_id":"research","error":"the stream was cut after 1 item: reset","error_type":"transient","failure_kind":"transient","first_item_seconds":1,"items":1,"outcome":"failure","ticker":"AAPL"}
"#,
        &[],
    );
}

#[test]
fn a_stream_that_falls_silent_is_told() {
    silent().check(
        r#"
agent_research AGENT DEFAULT
  {"agent_id":"research","outcome":"success","success":true}
  circuit_breaker_call SPAN ERROR: Circuit breaker recorded failure: the stream was cut after 1 item: no further item for 5s
    {"agent_id":"research","circuit_key":"model","circuit_state":"closed","circuit_state_at_start":"closed","error":"the stream was cut after 1 item: no further item for 5s","error_type":"timeout","failure_count":1,"failure_kind":"timeout","outcome":"failure","success_count":0}
    timeout_protected_call SPAN ERROR: Agent timed out after 5s
      {"agent_id":"research","error":"the stream was cut after 1 item: no further item for 5s","error_type":"timeout","failure_kind":"timeout","outcome":"failure","timeout_seconds":30}
      streamed_call SPAN DEFAULT
        {"agent_id":"research","first_item_seconds":1,"items":1,"outcome":"success","ticker":"AAPL"}
"#,
        &["ERROR Agent timed out after 5s"],
    );
}

#[test]
fn a_stream_without_a_first_item_is_told_as_the_failure_of_its_call() {
    failed_before_its_first_item().check(
        r#"
agent_research AGENT ERROR: Agent research failed after all fault tolerance attempts
  {"agent_id":"research","error":"reset","error_type":"transient","failure_kind":"transient","outcome":"failure","success":false}
  circuit_breaker_call SPAN ERROR: Circuit breaker recorded failure: reset
    {"agent_id":"research","circuit_key":"model","circuit_state":"closed","circuit_state_at_start":"closed","error":"reset","error_type":"transient","failure_count":1,"failure_kind":"transient","outcome":"failure","success_count":0}
    timeout_protected_call SPAN DEFAULT
      {"agent_id":"research","error":"reset","error_type":"transient","failure_kind":"transient","outcome":"failure","timeout_seconds":30}
      streamed_call SPAN ERROR: reset
        {"agent_id":"research","error":"reset","error_type":"transient","failure_kind":"transient","items":0,"outcome":"failure","ticker":"AAPL"}
"#,
        &["ERROR Agent research failed after all fault tolerance attempts"],
    );
}

#[test]
fn a_stream_that_is_dropped_after_an_item_is_told_as_a_success() {
    dropped_after_an_item().check(
        r#"
agent_research AGENT DEFAULT
  {"agent_id":"research","outcome":"success","success":true}
  circuit_breaker_call SPAN DEFAULT
    {"agent_id":"research","circuit_key":"model","circuit_state":"closed","circuit_state_at_start":"closed","failure_count":0,"outcome":"success","success_count":0}
    timeout_protected_call SPAN DEFAULT
      {"agent_id":"research","outcome":"success","timeout_seconds":30}
      streamed_call SPAN DEFAULT
        {"agent_id":"research","first_item_seconds":1,"items":1,"outcome":"success","ticker":"AAPL"}
"#,
        &[],
    );
}
