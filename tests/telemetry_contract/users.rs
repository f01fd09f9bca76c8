//! What the user's own spans tell within a layer's: an LLM call, input and output, for whom it runs.

use std::io;

use buttress::AgentLayer;
use buttress_langfuse::{CaptureIoLayer, Propagate};
use serde_json::json;
use tower::{ServiceBuilder, ServiceExt as _};
use tracing::{Instrument as _, info_span};

use super::seen::{Seen, observe};

/// An LLM call in the words of the contract.
async fn generation() {
    let span = info_span!(
        target: "buttress",
        "llm_call",
        observation_type = "generation",
        model = "large-2",
        model_parameters = r#"{"temperature":0.2}"#,
        usage = r#"{"input":12,"output":30}"#,
        cost = r#"{"total":0.002}"#,
        completion_start_time = "2025-11-24T16:00:00.250Z",
        prompt_name = "analyst",
        prompt_version = 3_i64,
        input = "AAPL?",
        output = "up",
    );
    async {}.instrument(span).await;
}

/// The same in those of OpenTelemetry's conventions.
async fn generation_of_others() {
    let span = info_span!(
        target: "other",
        "llm_call of an older program",
        gen_ai.operation.name = "chat",
        gen_ai.request.model = "large-2",
        gen_ai.response.model = "large-2-0901",
        gen_ai.usage.input_tokens = 12_i64,
        gen_ai.usage.output_tokens = 30_i64,
    );
    async {}.instrument(span).await;
}

fn asked_a_model() -> Seen {
    observe(async || {
        let agent = ServiceBuilder::new()
            .layer(AgentLayer::new("research"))
            .layer(CaptureIoLayer::new())
            .service_fn(|_: &'static str| async {
                generation().await;
                generation_of_others().await;
                Ok::<_, io::Error>("up")
            });
        let scope = Propagate::new().session("chat-7").user("ada").tag("stocks");
        let scope = scope.trace_name("trading").version("2").metadata("ticker", "AAPL");
        scope.scope(agent.oneshot("AAPL")).await.unwrap();
    })
}

scenarios![asked_a_model];

#[test]
fn a_model_that_was_asked_is_told() {
    let seen = asked_a_model();
    seen.check(
        r#"
agent_research AGENT DEFAULT
  {"agent_id":"research","outcome":"success","success":true,"ticker":"AAPL"}
  llm_call GENERATION DEFAULT
    {"ticker":"AAPL"}
  llm_call of an older program GENERATION DEFAULT
    {"ticker":"AAPL"}
"#,
        &[],
    );
    let row = |name: &str| seen.observations.iter().find(|one| one.name() == name).unwrap().row();
    let call = row("llm_call");
    assert_eq!((&call["modelName"], &call["promptName"]), (&json!("large-2"), &json!("analyst")));
    assert_eq!((&call["input"], &call["output"]), (&json!("AAPL?"), &json!("up")));
    assert_eq!(call["modelParameters"], json!({ "temperature": 0.2 }));
    assert_eq!(call["providedUsageDetails"], json!({ "input": 12, "output": 30 }));
    assert_eq!(call["providedCostDetails"], json!({ "total": 0.002 }));
    assert_eq!(call["completionStartTime"], "2025-11-24T16:00:00.250Z");
    assert_eq!(call["promptVersion"], 3);
    let call = row("llm_call of an older program");
    assert_eq!(call["modelName"], "large-2-0901");
    assert_eq!(call["providedUsageDetails"], json!({ "input": 12, "output": 30 }));
    let agent = row("agent_research");
    assert_eq!((&agent["input"], &agent["output"]), (&json!("AAPL"), &json!("up")));
    for one in &seen.observations {
        let said =
            ["traceName", "sessionId", "userId", "version", "tags"].map(|key| one.field(key));
        let all = [json!("trading"), json!("chat-7"), json!("ada"), json!("2"), json!(["stocks"])];
        assert_eq!(said, all.each_ref(), "{}", one.name());
    }
}
