//! What each layer of the core tells, once for a success and once for each way to fail.

use std::{
    panic::AssertUnwindSafe,
    task::{Context, Waker},
    time::Duration,
};

use buttress::{
    AgentLayer, AnyError, CircuitBreakerLayer, Failure, FailureKind, FallbackLayer,
    FaultTolerantAgent, Outcome, RetryBudget, RetryLayer, TimeoutLayer,
    test_util::{Answer, Scripted},
};
use tower::{Layer as _, ServiceBuilder, ServiceExt as _};

use super::seen::{Seen, observe};

const SECOND: Duration = Duration::from_secs(1);

fn script(answers: impl IntoIterator<Item = Answer<&'static str>>) -> Scripted<&'static str> {
    Scripted::new(answers)
}

fn reset() -> Answer<&'static str> {
    Answer::error("reset")
}

fn failure(kind: FailureKind, message: &'static str) -> Answer<&'static str> {
    Answer::failure(Failure::new(kind).with_message(message))
}

fn retry(attempts: usize) -> RetryLayer<AnyError, [Duration; 1]> {
    RetryLayer::new(attempts).backoff([Duration::from_millis(250)]).agent_id("research")
}

fn answered() -> Seen {
    observe(async || {
        let agent = FaultTolerantAgent::builder("research")
            .metadata(r#"{"ticker":"AAPL"}"#)
            .fallback("small", script([Answer::ok("backup")]))
            .service(script([Answer::ok("fine")]));
        assert_eq!(agent.invoke("AAPL").await.unwrap(), "fine");
    })
}

fn rescued_by_a_retry() -> Seen {
    observe(async || {
        let agent = FaultTolerantAgent::builder("research")
            .retry(retry(3))
            .service(script([reset(), Answer::ok("fine")]));
        assert_eq!(agent.invoke("AAPL").await.unwrap(), "fine");
    })
}

fn rescued_by_a_fallback() -> Seen {
    observe(async || {
        let agent = FaultTolerantAgent::builder("research")
            .retry(retry(2))
            .fallback("small", script([Answer::ok("backup")]))
            .service(script([reset()]));
        assert_eq!(agent.invoke("AAPL").await.unwrap(), "backup");
    })
}

fn exhausted() -> Seen {
    observe(async || {
        let agent = FaultTolerantAgent::builder("research")
            .max_attempts(1)
            .fallback("small", script([failure(FailureKind::Overloaded, "busy")]))
            .service(script([reset()]));
        assert!(agent.invoke("AAPL").await.is_err());
    })
}

fn ended_by_its_predicate() -> Seen {
    observe(async || {
        let agent = FallbackLayer::new()
            .agent_id("research")
            .or("small", script([failure(FailureKind::InvalidRequest, "no such field")]))
            .or("large", script([Answer::ok("never")]))
            .layer(script([reset()]));
        assert!(agent.invoke("AAPL").await.is_err());
    })
}

fn timed_out() -> Seen {
    observe(async || {
        let agent = ServiceBuilder::new()
            .layer(AgentLayer::new("research"))
            .layer(TimeoutLayer::new(SECOND).agent_id("research"))
            .service(script([Answer::hang()]));
        assert!(agent.oneshot("AAPL").await.unwrap_err().is_timeout());
    })
}

/// Opens a circuit, runs into it, and lets two probes close it.
fn opened_and_closed() -> Seen {
    observe(async || {
        let layer = CircuitBreakerLayer::new("model").consecutive_failures(2).agent_id("research");
        let agent = layer.layer(script([reset(), reset(), Answer::ok("fine")]));
        for _ in 0..3 {
            assert!(agent.clone().oneshot("AAPL").await.is_err());
        }
        tokio::time::advance(30 * SECOND).await;
        for _ in 0..2 {
            assert_eq!(agent.clone().oneshot("AAPL").await.unwrap(), "fine");
        }
    })
}

fn rejected() -> Seen {
    observe(async || {
        let layer = CircuitBreakerLayer::new("model");
        let circuit = layer.circuit();
        let agent = FaultTolerantAgent::builder("research")
            .circuit_breaker(layer)
            .service(script([Answer::ok("fine")]));
        // Without a span around it, the event is a trace of its own.
        circuit.trip();
        assert!(agent.invoke("AAPL").await.unwrap_err().is_circuit_open());
    })
}

fn cancelled() -> Seen {
    observe(async || {
        let agent = FaultTolerantAgent::builder("research")
            .retry(retry(2))
            .fallback("small", script([Answer::ok("backup")]))
            .service(script([reset(), Answer::hang()]));
        let limit = tokio::time::timeout(SECOND, agent.invoke("AAPL"));
        assert!(limit.await.is_err());
    })
}

fn panicked() -> Seen {
    observe(async || {
        let agent = ServiceBuilder::new()
            .layer(AgentLayer::new("research"))
            .layer(retry(2))
            .layer(CircuitBreakerLayer::new("model").consecutive_failures(1))
            .layer(TimeoutLayer::default())
            .service(script([Answer::panic_in_poll()]));
        let mut call = Box::pin(agent.oneshot("AAPL"));
        let mut cx = Context::from_waker(Waker::noop());
        let poll = AssertUnwindSafe(|| call.as_mut().poll(&mut cx));
        assert!(std::panic::catch_unwind(poll).is_err());
    })
}

fn caught() -> Seen {
    observe(async || {
        let agent = FaultTolerantAgent::builder("research")
            .max_attempts(1)
            .service(script([Answer::panic_in_poll()]));
        assert!(agent.invoke("AAPL").await.is_err());
    })
}

fn an_answer_that_is_a_failure() -> Seen {
    observe(async || {
        let empty = |result: Result<&&'static str, &Failure>| match result {
            Ok(&"") => Failure::new(FailureKind::Transient).with_message("empty answer").into(),
            Ok(_) => Outcome::Success,
            Err(failure) => failure.clone().into(),
        };
        let agent = FaultTolerantAgent::builder("research")
            .classify(empty)
            .retry(retry(2))
            .service(script([Answer::ok("")]));
        assert_eq!(agent.invoke("AAPL").await.unwrap(), "");
    })
}

/// Each way in which a series ends before its attempts are made.
fn stopped() -> Seen {
    observe(async || {
        let wait = Failure::new(FailureKind::RateLimited).with_message("slow down");
        let long = wait.with_retry_after(61 * SECOND);
        let layers = [
            (retry(3), failure(FailureKind::Permanent, "no such model")),
            (retry(3).deadline(Duration::from_millis(100)), reset()),
            (retry(3).budget(RetryBudget::tokens(10)), reset()),
            (retry(3), Answer::failure(long)),
        ];
        for (layer, answer) in layers {
            assert!(layer.layer(script([answer])).oneshot("AAPL").await.is_err());
        }
    })
}

scenarios![
    answered,
    rescued_by_a_retry,
    rescued_by_a_fallback,
    exhausted,
    ended_by_its_predicate,
    timed_out,
    opened_and_closed,
    rejected,
    cancelled,
    panicked,
    caught,
    an_answer_that_is_a_failure,
    stopped,
];

#[test]
fn answered_is_told() {
    answered().check(
        r#"
agent_research AGENT DEFAULT
  {"agent_id":"research","circuit_breaker_threshold":5,"has_fallbacks":true,"max_retries":3,"outcome":"success","success":true,"ticker":"AAPL","timeout_seconds":30}
  fallback_chain SPAN DEFAULT
    {"agent_id":"research","fallback_level":0,"outcome":"success","primary_failed":false,"total_agents":2}
    fallback_attempt SPAN DEFAULT
      {"agent_id":"research","agent_index":0,"agent_type":"primary","outcome":"success"}
      retry_execution SPAN DEFAULT
        {"agent_id":"research","attempts_needed":1,"max_attempts":3,"outcome":"success","stop":"success"}
        retry_attempt SPAN DEFAULT
          {"agent_id":"research","attempt":1,"outcome":"success"}
          circuit_breaker_call SPAN DEFAULT
            {"agent_id":"research","circuit_key":"research","circuit_state":"closed","circuit_state_at_start":"closed","failure_count":0,"outcome":"success","success_count":0}
            timeout_protected_call SPAN DEFAULT
              {"agent_id":"research","outcome":"success","timeout_seconds":30}
"#,
        &[],
    );
}

#[test]
fn rescued_by_a_retry_is_told() {
    rescued_by_a_retry().check(
        r#"
agent_research AGENT DEFAULT
  {"agent_id":"research","circuit_breaker_threshold":5,"has_fallbacks":false,"max_retries":3,"outcome":"success","success":true,"timeout_seconds":30}
  fallback_chain SPAN DEFAULT
    {"agent_id":"research","fallback_level":0,"outcome":"success","primary_failed":false,"total_agents":1}
    fallback_attempt SPAN DEFAULT
      {"agent_id":"research","agent_index":0,"agent_type":"primary","outcome":"success"}
      retry_execution SPAN WARNING: Retry succeeded on attempt 2
        {"agent_id":"research","attempts_needed":2,"max_attempts":3,"outcome":"success","retry_history":[{"attempt":1,"error":"reset","error_type":"transient"}],"retry_succeeded":true,"stop":"success"}
        retry_attempt SPAN WARNING: Attempt 1 failed, retrying in 0.25s
          {"agent_id":"research","attempt":1,"delay_seconds":0.25,"error":"reset","error_type":"transient","failure_kind":"transient","outcome":"failure"}
          circuit_breaker_call SPAN ERROR: Circuit breaker recorded failure: reset
            {"agent_id":"research","circuit_key":"research","circuit_state":"closed","circuit_state_at_start":"closed","error":"reset","error_type":"transient","failure_count":1,"failure_kind":"transient","outcome":"failure","success_count":0}
            timeout_protected_call SPAN DEFAULT
              {"agent_id":"research","error":"reset","error_type":"transient","failure_kind":"transient","outcome":"failure","timeout_seconds":30}
        retry_attempt SPAN DEFAULT
          {"agent_id":"research","attempt":2,"outcome":"success"}
          circuit_breaker_call SPAN DEFAULT
            {"agent_id":"research","circuit_key":"research","circuit_state":"closed","circuit_state_at_start":"closed","failure_count":0,"outcome":"success","success_count":0}
            timeout_protected_call SPAN DEFAULT
              {"agent_id":"research","outcome":"success","timeout_seconds":30}
"#,
        &[
            "WARN Attempt 1 failed: reset. Retrying in 0.25s...",
            "INFO Retry succeeded on attempt 2",
        ],
    );
}

#[test]
fn rescued_by_a_fallback_is_told() {
    rescued_by_a_fallback().check(
        r#"
agent_research AGENT DEFAULT
  {"agent_id":"research","circuit_breaker_threshold":5,"has_fallbacks":true,"max_retries":2,"outcome":"success","success":true,"timeout_seconds":30}
  fallback_chain SPAN WARNING: Primary agent failed, fallback #1 succeeded
    {"agent_id":"research","fallback_history":[{"agent_index":0,"agent_type":"primary","error":"reset","error_type":"transient"}],"fallback_level":1,"fallback_succeeded":true,"outcome":"success","primary_failed":true,"total_agents":2}
    fallback_attempt SPAN WARNING: Agent 0 (primary) failed: reset
      {"agent_id":"research","agent_index":0,"agent_type":"primary","error":"reset","error_type":"transient","failure_kind":"transient","outcome":"failure"}
      retry_execution SPAN ERROR: All 2 attempts failed
        {"agent_id":"research","attempts_needed":2,"error":"reset","error_type":"transient","failure_kind":"transient","final_error":"reset","max_attempts":2,"outcome":"failure","retry_history":[{"attempt":1,"error":"reset","error_type":"transient"},{"attempt":2,"error":"reset","error_type":"transient"}],"retry_succeeded":false,"stop":"attempts"}
        retry_attempt SPAN WARNING: Attempt 1 failed, retrying in 0.25s
          {"agent_id":"research","attempt":1,"delay_seconds":0.25,"error":"reset","error_type":"transient","failure_kind":"transient","outcome":"failure"}
          circuit_breaker_call SPAN ERROR: Circuit breaker recorded failure: reset
            {"agent_id":"research","circuit_key":"research","circuit_state":"closed","circuit_state_at_start":"closed","error":"reset","error_type":"transient","failure_count":1,"failure_kind":"transient","outcome":"failure","success_count":0}
            timeout_protected_call SPAN DEFAULT
              {"agent_id":"research","error":"reset","error_type":"transient","failure_kind":"transient","outcome":"failure","timeout_seconds":30}
        retry_attempt SPAN ERROR: Attempt 2 failed: reset
          {"agent_id":"research","attempt":2,"error":"reset","error_type":"transient","failure_kind":"transient","outcome":"failure"}
          circuit_breaker_call SPAN ERROR: Circuit breaker recorded failure: reset
            {"agent_id":"research","circuit_key":"research","circuit_state":"closed","circuit_state_at_start":"closed","error":"reset","error_type":"transient","failure_count":2,"failure_kind":"transient","outcome":"failure","success_count":0}
            timeout_protected_call SPAN DEFAULT
              {"agent_id":"research","error":"reset","error_type":"transient","failure_kind":"transient","outcome":"failure","timeout_seconds":30}
    fallback_attempt SPAN DEFAULT
      {"agent_id":"research","agent_index":1,"agent_type":"fallback_1","outcome":"success"}
      retry_execution SPAN DEFAULT
        {"agent_id":"research","attempts_needed":1,"max_attempts":2,"outcome":"success","stop":"success"}
        retry_attempt SPAN DEFAULT
          {"agent_id":"research","attempt":1,"outcome":"success"}
          circuit_breaker_call SPAN DEFAULT
            {"agent_id":"research","circuit_key":"research/small","circuit_state":"closed","circuit_state_at_start":"closed","failure_count":0,"outcome":"success","success_count":0}
            timeout_protected_call SPAN DEFAULT
              {"agent_id":"research","outcome":"success","timeout_seconds":30}
"#,
        &[
            "WARN Attempt 1 failed: reset. Retrying in 0.25s...",
            "ERROR All 2 attempts failed. Last error: reset",
            "WARN Agent 0 failed: reset",
            "INFO Trying fallback agent #1...",
            "WARN Primary agent failed, fallback #1 succeeded",
        ],
    );
}

#[test]
fn exhausted_is_told() {
    exhausted().check(
        r#"
agent_research AGENT ERROR: Agent research failed after all fault tolerance attempts
  {"agent_id":"research","circuit_breaker_threshold":5,"error":"all 2 agents failed: primary: reset; small: busy","error_type":"overloaded","failure_kind":"overloaded","has_fallbacks":true,"max_retries":1,"outcome":"failure","success":false,"timeout_seconds":30}
  fallback_chain SPAN ERROR: All fallback agents exhausted
    {"agent_id":"research","error":"all 2 agents failed: primary: reset; small: busy","error_type":"overloaded","failure_kind":"overloaded","fallback_history":[{"agent_index":0,"agent_type":"primary","error":"reset","error_type":"transient"},{"agent_index":1,"agent_type":"fallback_1","error":"busy","error_type":"overloaded"}],"fallback_succeeded":false,"outcome":"failure","primary_failed":true,"total_agents":2}
    fallback_attempt SPAN WARNING: Agent 0 (primary) failed: reset
      {"agent_id":"research","agent_index":0,"agent_type":"primary","error":"reset","error_type":"transient","failure_kind":"transient","outcome":"failure"}
      retry_execution SPAN ERROR: All 1 attempts failed
        {"agent_id":"research","attempts_needed":1,"error":"reset","error_type":"transient","failure_kind":"transient","final_error":"reset","max_attempts":1,"outcome":"failure","retry_history":[{"attempt":1,"error":"reset","error_type":"transient"}],"stop":"attempts"}
        retry_attempt SPAN ERROR: Attempt 1 failed: reset
          {"agent_id":"research","attempt":1,"error":"reset","error_type":"transient","failure_kind":"transient","outcome":"failure"}
          circuit_breaker_call SPAN ERROR: Circuit breaker recorded failure: reset
            {"agent_id":"research","circuit_key":"research","circuit_state":"closed","circuit_state_at_start":"closed","error":"reset","error_type":"transient","failure_count":1,"failure_kind":"transient","outcome":"failure","success_count":0}
            timeout_protected_call SPAN DEFAULT
              {"agent_id":"research","error":"reset","error_type":"transient","failure_kind":"transient","outcome":"failure","timeout_seconds":30}
    fallback_attempt SPAN ERROR: Agent 1 (fallback_1) failed: busy
      {"agent_id":"research","agent_index":1,"agent_type":"fallback_1","error":"busy","error_type":"overloaded","failure_kind":"overloaded","outcome":"failure"}
      retry_execution SPAN ERROR: All 1 attempts failed
        {"agent_id":"research","attempts_needed":1,"error":"busy","error_type":"overloaded","failure_kind":"overloaded","final_error":"busy","max_attempts":1,"outcome":"failure","retry_history":[{"attempt":1,"error":"busy","error_type":"overloaded"}],"stop":"attempts"}
        retry_attempt SPAN ERROR: Attempt 1 failed: busy
          {"agent_id":"research","attempt":1,"error":"busy","error_type":"overloaded","failure_kind":"overloaded","outcome":"failure"}
          circuit_breaker_call SPAN ERROR: Circuit breaker recorded failure: busy
            {"agent_id":"research","circuit_key":"research/small","circuit_state":"closed","circuit_state_at_start":"closed","error":"busy","error_type":"overloaded","failure_count":1,"failure_kind":"overloaded","outcome":"failure","success_count":0}
            timeout_protected_call SPAN DEFAULT
              {"agent_id":"research","error":"busy","error_type":"overloaded","failure_kind":"overloaded","outcome":"failure","timeout_seconds":30}
"#,
        &[
            "ERROR All 1 attempts failed. Last error: reset",
            "WARN Agent 0 failed: reset",
            "INFO Trying fallback agent #1...",
            "ERROR All 1 attempts failed. Last error: busy",
            "WARN Agent 1 failed: busy",
            "ERROR Agent research failed after all fault tolerance attempts",
        ],
    );
}

#[test]
fn ended_by_its_predicate_is_told() {
    ended_by_its_predicate().check(
        r#"
fallback_chain SPAN ERROR: Agent 1 (fallback_1) ended the chain: no such field
  {"agent_id":"research","error":"no such field","error_type":"invalid_request","failure_kind":"invalid_request","fallback_history":[{"agent_index":0,"agent_type":"primary","error":"reset","error_type":"transient"},{"agent_index":1,"agent_type":"fallback_1","error":"no such field","error_type":"invalid_request"}],"fallback_succeeded":false,"outcome":"failure","primary_failed":true,"total_agents":3}
  fallback_attempt SPAN WARNING: Agent 0 (primary) failed: reset
    {"agent_id":"research","agent_index":0,"agent_type":"primary","error":"reset","error_type":"transient","failure_kind":"transient","outcome":"failure"}
  fallback_attempt SPAN ERROR: Agent 1 (fallback_1) failed: no such field
    {"agent_id":"research","agent_index":1,"agent_type":"fallback_1","error":"no such field","error_type":"invalid_request","failure_kind":"invalid_request","outcome":"failure"}
"#,
        &[
            "WARN Agent 0 failed: reset",
            "INFO Trying fallback agent #1...",
            "WARN Agent 1 failed: no such field",
        ],
    );
}

#[test]
fn timed_out_is_told() {
    timed_out().check(
        r#"
agent_research AGENT ERROR: Agent research failed after all fault tolerance attempts
  {"agent_id":"research","error":"timed out after 1s","error_type":"timeout","failure_kind":"timeout","outcome":"failure","success":false}
  timeout_protected_call SPAN ERROR: Agent timed out after 1s
    {"agent_id":"research","error":"timed out after 1s","error_type":"timeout","failure_kind":"timeout","outcome":"failure","timeout_seconds":1}
"#,
        &[
            "ERROR Agent timed out after 1s",
            "ERROR Agent research failed after all fault tolerance attempts",
        ],
    );
}

#[test]
fn opened_and_closed_is_told() {
    opened_and_closed().check(
        r#"
circuit_breaker_call SPAN ERROR: Circuit breaker recorded failure: reset
  {"agent_id":"research","circuit_key":"model","circuit_state":"closed","circuit_state_at_start":"closed","error":"reset","error_type":"transient","failure_count":1,"failure_kind":"transient","outcome":"failure","success_count":0}
circuit_breaker_call SPAN ERROR: Circuit breaker recorded failure: reset
  {"agent_id":"research","circuit_key":"model","circuit_state":"open","circuit_state_at_start":"closed","error":"reset","error_type":"transient","failure_count":2,"failure_kind":"transient","outcome":"failure","retry_after_seconds":30,"state_transition":"CLOSED -> OPEN","success_count":0}
  circuit_breaker.opened EVENT DEFAULT
    {"agent_id":"research","circuit_key":"model","outcome":"success","reason":"consecutive_failures","state_transition":"CLOSED -> OPEN"}
circuit_breaker_call SPAN ERROR: Circuit breaker is OPEN for agent research
  {"agent_id":"research","circuit_key":"model","circuit_state":"open","circuit_state_at_start":"open","error":"circuit \"model\" is open, retry in 30.0s","error_type":"circuit_open","failure_count":2,"failure_kind":"circuit_open","outcome":"rejected","retry_after_seconds":30,"success_count":0}
circuit_breaker_call SPAN DEFAULT
  {"agent_id":"research","circuit_key":"model","circuit_state":"half_open","circuit_state_at_start":"open","failure_count":2,"outcome":"success","state_transition":"OPEN -> HALF_OPEN","success_count":1}
  circuit_breaker.half_opened EVENT DEFAULT
    {"agent_id":"research","circuit_key":"model","outcome":"success","reason":"open_time_over","state_transition":"OPEN -> HALF_OPEN"}
circuit_breaker_call SPAN DEFAULT
  {"agent_id":"research","circuit_key":"model","circuit_state":"closed","circuit_state_at_start":"half_open","failure_count":0,"outcome":"success","state_transition":"HALF_OPEN -> CLOSED","success_count":0}
  circuit_breaker.closed EVENT DEFAULT
    {"agent_id":"research","circuit_key":"model","outcome":"success","reason":"probes_succeeded","state_transition":"HALF_OPEN -> CLOSED"}
"#,
        &[
            "ERROR Circuit breaker OPEN for agent research",
            "INFO Circuit breaker CLOSED for agent research",
        ],
    );
}

#[test]
fn rejected_is_told() {
    rejected().check(
        r#"
circuit_breaker.opened EVENT DEFAULT
  {"circuit_key":"model","outcome":"success","reason":"manual","state_transition":"CLOSED -> OPEN"}
agent_research AGENT ERROR: Agent research failed after all fault tolerance attempts
  {"agent_id":"research","circuit_breaker_threshold":5,"error":"circuit \"model\" is open, retry in 30.0s","error_type":"circuit_open","failure_kind":"circuit_open","has_fallbacks":false,"max_retries":3,"outcome":"rejected","success":false,"timeout_seconds":30}
  fallback_chain SPAN ERROR: Primary agent failed: circuit "model" is open, retry in 30.0s
    {"agent_id":"research","error":"circuit \"model\" is open, retry in 30.0s","error_type":"circuit_open","failure_kind":"circuit_open","fallback_history":[{"agent_index":0,"agent_type":"primary","error":"circuit \"model\" is open, retry in 30.0s","error_type":"circuit_open"}],"fallback_succeeded":false,"outcome":"rejected","primary_failed":true,"total_agents":1}
    fallback_attempt SPAN ERROR: Agent 0 (primary) failed: circuit "model" is open, retry in 30.0s
      {"agent_id":"research","agent_index":0,"agent_type":"primary","error":"circuit \"model\" is open, retry in 30.0s","error_type":"circuit_open","failure_kind":"circuit_open","outcome":"rejected"}
      retry_execution SPAN ERROR: Attempt 1 failed and is not retried
        {"agent_id":"research","attempts_needed":1,"error":"circuit \"model\" is open, retry in 30.0s","error_type":"circuit_open","failure_kind":"circuit_open","final_error":"circuit \"model\" is open, retry in 30.0s","max_attempts":3,"outcome":"rejected","retry_history":[{"attempt":1,"error":"circuit \"model\" is open, retry in 30.0s","error_type":"circuit_open"}],"stop":"not_retryable"}
        retry_attempt SPAN ERROR: Attempt 1 failed: circuit "model" is open, retry in 30.0s
          {"agent_id":"research","attempt":1,"error":"circuit \"model\" is open, retry in 30.0s","error_type":"circuit_open","failure_kind":"circuit_open","outcome":"rejected"}
          circuit_breaker_call SPAN ERROR: Circuit breaker is OPEN for agent research
            {"agent_id":"research","circuit_key":"model","circuit_state":"open","circuit_state_at_start":"open","error":"circuit \"model\" is open, retry in 30.0s","error_type":"circuit_open","failure_count":0,"failure_kind":"circuit_open","outcome":"rejected","retry_after_seconds":30,"success_count":0}
"#,
        &[
            "ERROR Circuit breaker OPEN for agent model",
            "ERROR Attempt 1 failed and is not retried. Last error: circuit \"model\" is open, retry in 30.0s",
            "WARN Agent 0 failed: circuit \"model\" is open, retry in 30.0s",
            "ERROR Agent research failed after all fault tolerance attempts",
        ],
    );
}

#[test]
fn cancelled_is_told() {
    cancelled().check(
        r#"
agent_research AGENT DEFAULT
  {"agent_id":"research","circuit_breaker_threshold":5,"has_fallbacks":true,"max_retries":2,"outcome":"cancelled","timeout_seconds":30}
  fallback_chain SPAN DEFAULT
    {"agent_id":"research","outcome":"cancelled","total_agents":2}
    fallback_attempt SPAN DEFAULT
      {"agent_id":"research","agent_index":0,"agent_type":"primary","outcome":"cancelled"}
      retry_execution SPAN DEFAULT
        {"agent_id":"research","attempts_needed":2,"max_attempts":2,"outcome":"cancelled","retry_history":[{"attempt":1,"error":"reset","error_type":"transient"}]}
        retry_attempt SPAN WARNING: Attempt 1 failed, retrying in 0.25s
          {"agent_id":"research","attempt":1,"delay_seconds":0.25,"error":"reset","error_type":"transient","failure_kind":"transient","outcome":"failure"}
          circuit_breaker_call SPAN ERROR: Circuit breaker recorded failure: reset
            {"agent_id":"research","circuit_key":"research","circuit_state":"closed","circuit_state_at_start":"closed","error":"reset","error_type":"transient","failure_count":1,"failure_kind":"transient","outcome":"failure","success_count":0}
            timeout_protected_call SPAN DEFAULT
              {"agent_id":"research","error":"reset","error_type":"transient","failure_kind":"transient","outcome":"failure","timeout_seconds":30}
        retry_attempt SPAN DEFAULT
          {"agent_id":"research","attempt":2,"outcome":"cancelled"}
          circuit_breaker_call SPAN DEFAULT
            {"agent_id":"research","circuit_key":"research","circuit_state":"closed","circuit_state_at_start":"closed","failure_count":1,"outcome":"cancelled","success_count":0}
            timeout_protected_call SPAN DEFAULT
              {"agent_id":"research","outcome":"cancelled","timeout_seconds":30}
"#,
        &["WARN Attempt 1 failed: reset. Retrying in 0.25s..."],
    );
}

#[test]
fn panicked_is_told() {
    panicked().check(
        r#"
agent_research AGENT ERROR: The call panicked
  {"agent_id":"research","error_type":"panicked","failure_kind":"panicked","outcome":"panicked"}
  retry_execution SPAN ERROR: The call panicked
    {"agent_id":"research","attempts_needed":1,"error_type":"panicked","failure_kind":"panicked","max_attempts":2,"outcome":"panicked"}
    retry_attempt SPAN ERROR: The call panicked
      {"agent_id":"research","attempt":1,"error_type":"panicked","failure_kind":"panicked","outcome":"panicked"}
      circuit_breaker_call SPAN ERROR: The call panicked
        {"circuit_key":"model","circuit_state":"open","circuit_state_at_start":"closed","error_type":"panicked","failure_count":1,"failure_kind":"panicked","outcome":"panicked","retry_after_seconds":30,"state_transition":"CLOSED -> OPEN","success_count":0}
        timeout_protected_call SPAN ERROR: The call panicked
          {"error_type":"panicked","failure_kind":"panicked","outcome":"panicked","timeout_seconds":30}
        circuit_breaker.opened EVENT DEFAULT
          {"circuit_key":"model","outcome":"success","reason":"consecutive_failures","state_transition":"CLOSED -> OPEN"}
"#,
        &[
            "ERROR Circuit breaker OPEN for agent model",
        ],
    );
}

#[test]
fn caught_is_told() {
    caught().check(
        r#"
agent_research AGENT ERROR: Agent research failed after all fault tolerance attempts
  {"agent_id":"research","circuit_breaker_threshold":5,"error":"the agent panicked","error_type":"panicked","failure_kind":"panicked","has_fallbacks":false,"max_retries":1,"outcome":"panicked","success":false,"timeout_seconds":30}
  fallback_chain SPAN ERROR: Primary agent failed: the agent panicked
    {"agent_id":"research","error":"the agent panicked","error_type":"panicked","failure_kind":"panicked","fallback_history":[{"agent_index":0,"agent_type":"primary","error":"the agent panicked","error_type":"panicked"}],"fallback_succeeded":false,"outcome":"panicked","primary_failed":true,"total_agents":1}
    fallback_attempt SPAN ERROR: Agent 0 (primary) failed: the agent panicked
      {"agent_id":"research","agent_index":0,"agent_type":"primary","error":"the agent panicked","error_type":"panicked","failure_kind":"panicked","outcome":"panicked"}
      retry_execution SPAN ERROR: All 1 attempts failed
        {"agent_id":"research","attempts_needed":1,"error":"the agent panicked","error_type":"panicked","failure_kind":"panicked","final_error":"the agent panicked","max_attempts":1,"outcome":"panicked","retry_history":[{"attempt":1,"error":"the agent panicked","error_type":"panicked"}],"stop":"attempts"}
        retry_attempt SPAN ERROR: Attempt 1 failed: the agent panicked
          {"agent_id":"research","attempt":1,"error":"the agent panicked","error_type":"panicked","failure_kind":"panicked","outcome":"panicked"}
          circuit_breaker_call SPAN ERROR: Circuit breaker recorded failure: the agent panicked
            {"agent_id":"research","circuit_key":"research","circuit_state":"closed","circuit_state_at_start":"closed","error":"the agent panicked","error_type":"panicked","failure_count":1,"failure_kind":"panicked","outcome":"panicked","success_count":0}
            timeout_protected_call SPAN DEFAULT
              {"agent_id":"research","error":"the agent panicked","error_type":"panicked","failure_kind":"panicked","outcome":"panicked","timeout_seconds":30}
"#,
        &[
            "ERROR All 1 attempts failed. Last error: the agent panicked",
            "WARN Agent 0 failed: the agent panicked",
            "ERROR Agent research failed after all fault tolerance attempts",
        ],
    );
}

#[test]
fn an_answer_that_is_a_failure_is_told() {
    an_answer_that_is_a_failure().check(
        r#"
agent_research AGENT ERROR: Agent research failed after all fault tolerance attempts
  {"agent_id":"research","circuit_breaker_threshold":5,"error":"empty answer","error_type":"transient","failure_kind":"transient","has_fallbacks":false,"max_retries":2,"outcome":"failure","success":false,"timeout_seconds":30}
  fallback_chain SPAN ERROR: Primary agent failed: empty answer
    {"agent_id":"research","error":"empty answer","error_type":"transient","failure_kind":"transient","fallback_history":[{"agent_index":0,"agent_type":"primary","error":"empty answer","error_type":"transient"}],"fallback_succeeded":false,"outcome":"failure","primary_failed":true,"total_agents":1}
    fallback_attempt SPAN ERROR: Agent 0 (primary) failed: empty answer
      {"agent_id":"research","agent_index":0,"agent_type":"primary","error":"empty answer","error_type":"transient","failure_kind":"transient","outcome":"failure"}
      retry_execution SPAN ERROR: All 2 attempts failed
        {"agent_id":"research","attempts_needed":2,"error":"empty answer","error_type":"transient","failure_kind":"transient","final_error":"empty answer","max_attempts":2,"outcome":"failure","retry_history":[{"attempt":1,"error":"empty answer","error_type":"transient"},{"attempt":2,"error":"empty answer","error_type":"transient"}],"retry_succeeded":false,"stop":"attempts"}
        retry_attempt SPAN WARNING: Attempt 1 failed, retrying in 0.25s
          {"agent_id":"research","attempt":1,"delay_seconds":0.25,"error":"empty answer","error_type":"transient","failure_kind":"transient","outcome":"failure"}
          circuit_breaker_call SPAN ERROR: Circuit breaker recorded failure: empty answer
            {"agent_id":"research","circuit_key":"research","circuit_state":"closed","circuit_state_at_start":"closed","error":"empty answer","error_type":"transient","failure_count":1,"failure_kind":"transient","outcome":"failure","success_count":0}
            timeout_protected_call SPAN DEFAULT
              {"agent_id":"research","outcome":"success","timeout_seconds":30}
        retry_attempt SPAN ERROR: Attempt 2 failed: empty answer
          {"agent_id":"research","attempt":2,"error":"empty answer","error_type":"transient","failure_kind":"transient","outcome":"failure"}
          circuit_breaker_call SPAN ERROR: Circuit breaker recorded failure: empty answer
            {"agent_id":"research","circuit_key":"research","circuit_state":"closed","circuit_state_at_start":"closed","error":"empty answer","error_type":"transient","failure_count":2,"failure_kind":"transient","outcome":"failure","success_count":0}
            timeout_protected_call SPAN DEFAULT
              {"agent_id":"research","outcome":"success","timeout_seconds":30}
"#,
        &[
            "WARN Attempt 1 failed: empty answer. Retrying in 0.25s...",
            "ERROR All 2 attempts failed. Last error: empty answer",
            "WARN Agent 0 failed: empty answer",
            "ERROR Agent research failed after all fault tolerance attempts",
        ],
    );
}

#[test]
fn stopped_is_told() {
    stopped().check(
        r#"
retry_execution SPAN ERROR: Attempt 1 failed and is not retried
  {"agent_id":"research","attempts_needed":1,"error":"no such model","error_type":"permanent","failure_kind":"permanent","final_error":"no such model","max_attempts":3,"outcome":"failure","retry_history":[{"attempt":1,"error":"no such model","error_type":"permanent"}],"stop":"not_retryable"}
  retry_attempt SPAN ERROR: Attempt 1 failed: no such model
    {"agent_id":"research","attempt":1,"error":"no such model","error_type":"permanent","failure_kind":"permanent","outcome":"failure"}
retry_execution SPAN ERROR: Attempt 1 failed and the deadline leaves no other
  {"agent_id":"research","attempts_needed":1,"error":"reset","error_type":"transient","failure_kind":"transient","final_error":"reset","max_attempts":3,"outcome":"failure","retry_history":[{"attempt":1,"error":"reset","error_type":"transient"}],"stop":"deadline"}
  retry_attempt SPAN ERROR: Attempt 1 failed: reset
    {"agent_id":"research","attempt":1,"error":"reset","error_type":"transient","failure_kind":"transient","outcome":"failure"}
retry_execution SPAN ERROR: Attempt 1 failed and the retry budget is spent
  {"agent_id":"research","attempts_needed":1,"error":"reset","error_type":"transient","failure_kind":"transient","final_error":"reset","max_attempts":3,"outcome":"failure","retry_history":[{"attempt":1,"error":"reset","error_type":"transient"}],"stop":"budget"}
  retry_attempt SPAN ERROR: Attempt 1 failed: reset
    {"agent_id":"research","attempt":1,"error":"reset","error_type":"transient","failure_kind":"transient","outcome":"failure"}
retry_execution SPAN ERROR: Attempt 1 failed and the service asks for too long a wait
  {"agent_id":"research","attempts_needed":1,"error":"slow down","error_type":"rate_limited","failure_kind":"rate_limited","final_error":"slow down","max_attempts":3,"outcome":"failure","retry_history":[{"attempt":1,"error":"slow down","error_type":"rate_limited"}],"stop":"retry_after_over_cap"}
  retry_attempt SPAN ERROR: Attempt 1 failed: slow down
    {"agent_id":"research","attempt":1,"error":"slow down","error_type":"rate_limited","failure_kind":"rate_limited","outcome":"failure"}
"#,
        &[
            "ERROR Attempt 1 failed and is not retried. Last error: no such model",
            "ERROR Attempt 1 failed and the deadline leaves no other. Last error: reset",
            "ERROR Attempt 1 failed and the retry budget is spent. Last error: reset",
            "ERROR Attempt 1 failed and the service asks for too long a wait. Last error: slow down",
        ],
    );
}
