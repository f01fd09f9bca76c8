//! What a swarm tells: all there, degraded, critical, cut by its deadline or quorum, dropped.

use std::time::Duration;

use buttress::{
    Swarm, SwarmBuilder, TimeoutLayer,
    test_util::{Answer, Scripted},
};
use tower::Layer as _;

use super::seen::{Seen, observe};

const SECOND: Duration = Duration::from_secs(1);

fn script(answer: Answer<&'static str>) -> Scripted<&'static str> {
    Scripted::new([answer])
}

fn fine() -> Scripted<&'static str> {
    script(Answer::ok("fine"))
}

fn hanging() -> Scripted<&'static str> {
    script(Answer::hang())
}

fn reset() -> Scripted<&'static str> {
    script(Answer::error("reset"))
}

fn research() -> SwarmBuilder<&'static str, &'static str> {
    Swarm::builder("research_swarm")
}

fn full() -> Seen {
    observe(async || {
        let swarm = research()
            .metadata(r#"{"ticker":"AAPL"}"#)
            .required("technical", TimeoutLayer::new(SECOND).layer(fine()))
            .optional("sentiment", fine());
        assert_eq!(swarm.build().unwrap().invoke("AAPL").await.unwrap().findings().len(), 2);
    })
}

fn degraded() -> Seen {
    observe(async || {
        let swarm = research()
            .required("technical", fine())
            .required("news", fine())
            .optional("sentiment", reset());
        assert_eq!(swarm.build().unwrap().invoke("AAPL").await.unwrap().findings().len(), 2);
    })
}

fn critical() -> Seen {
    observe(async || {
        let swarm = research()
            .required("technical", reset())
            .required("news", hanging())
            .optional("sentiment", fine())
            .concurrency(2);
        assert!(swarm.build().unwrap().invoke("AAPL").await.is_err());
    })
}

fn late() -> Seen {
    observe(async || {
        let swarm = research()
            .required("technical", fine())
            .optional("sentiment", hanging())
            .optional("news", fine())
            .concurrency(1)
            .deadline(SECOND);
        assert_eq!(swarm.build().unwrap().invoke("AAPL").await.unwrap().findings().len(), 1);
    })
}

fn enough() -> Seen {
    observe(async || {
        let swarm =
            research().required("technical", fine()).optional("sentiment", hanging()).quorum(1);
        assert_eq!(swarm.build().unwrap().invoke("AAPL").await.unwrap().findings().len(), 1);
    })
}

fn dropped() -> Seen {
    observe(async || {
        let swarm = research().required("technical", hanging()).build().unwrap();
        assert!(tokio::time::timeout(SECOND, swarm.invoke("AAPL")).await.is_err());
    })
}

fn panicked() -> Seen {
    observe(async || {
        let swarm = research()
            .required("technical", fine())
            .optional("sentiment", script(Answer::panic_in_poll()));
        assert_eq!(swarm.build().unwrap().invoke("AAPL").await.unwrap().findings().len(), 1);
    })
}

scenarios![full, degraded, critical, late, enough, dropped, panicked];

#[test]
fn a_full_swarm_is_told() {
    full().check(
        r#"
research_swarm_with_degradation CHAIN DEFAULT
  {"degradation_level":0,"failed_agents":[],"optional_agents_count":1,"outcome":"success","required_agents_count":1,"success_rate":1,"successful_agents":2,"ticker":"AAPL","total_agents":2}
  swarm_agent AGENT DEFAULT
    {"agent_id":"technical","outcome":"success","required":true,"ticker":"AAPL"}
    timeout_protected_call SPAN DEFAULT
      {"outcome":"success","timeout_seconds":1}
  swarm_agent AGENT DEFAULT
    {"agent_id":"sentiment","outcome":"success","required":false,"ticker":"AAPL"}
"#,
        &[],
    );
}

#[test]
fn a_degraded_swarm_is_told() {
    degraded().check(
        r#"
research_swarm_with_degradation CHAIN WARNING: Success rate: 66.7%
  {"degradation_level":1,"failed_agents":["sentiment"],"optional_agents_count":1,"outcome":"success","required_agents_count":2,"success_rate":0.6666666666666666,"successful_agents":2,"total_agents":3}
  swarm_agent AGENT DEFAULT
    {"agent_id":"technical","outcome":"success","required":true}
  swarm_agent AGENT DEFAULT
    {"agent_id":"news","outcome":"success","required":true}
  swarm_agent AGENT WARNING: Optional agent sentiment failed: reset
    {"agent_id":"sentiment","error":"reset","error_type":"transient","failure_kind":"transient","outcome":"failure","required":false}
"#,
        &["WARN Optional agent sentiment failed: reset"],
    );
}

#[test]
fn a_critical_swarm_is_told() {
    critical().check(
        r#"
research_swarm_with_degradation CHAIN ERROR: Too many required agents failed
  {"error":"too many required agents failed: technical: reset","error_type":"transient","failed_agents":["technical"],"failure_kind":"transient","failure_rate":0.5,"optional_agents_count":1,"outcome":"failure","required_agents_count":2,"threshold":0.3,"total_agents":3}
  swarm_agent AGENT ERROR: Required agent technical failed: reset
    {"agent_id":"technical","error":"reset","error_type":"transient","failure_kind":"transient","outcome":"failure","required":true}
  swarm_agent AGENT DEFAULT
    {"agent_id":"news","outcome":"cancelled","required":true}
"#,
        &["ERROR Required agent technical failed: reset"],
    );
}

#[test]
fn a_late_swarm_is_told() {
    late().check(
        r#"
research_swarm_with_degradation CHAIN WARNING: Success rate: 33.3%
  {"degradation_level":2,"failed_agents":["sentiment","news"],"optional_agents_count":2,"outcome":"success","required_agents_count":1,"success_rate":0.3333333333333333,"successful_agents":1,"total_agents":3}
  swarm_agent AGENT DEFAULT
    {"agent_id":"technical","outcome":"success","required":true}
  swarm_agent AGENT WARNING: Optional agent sentiment failed: timed out after 1s
    {"agent_id":"sentiment","error":"timed out after 1s","error_type":"timeout","failure_kind":"timeout","outcome":"failure","required":false}
  swarm_agent AGENT WARNING: Optional agent news failed: timed out after 1s
    {"agent_id":"news","error":"timed out after 1s","error_type":"timeout","failure_kind":"timeout","outcome":"failure","required":false}
"#,
        &["WARN Optional agent sentiment failed: timed out after 1s", "WARN Optional agent news failed: timed out after 1s"],
    );
}

#[test]
fn a_swarm_that_has_enough_is_told() {
    enough().check(
        r#"
research_swarm_with_degradation CHAIN DEFAULT
  {"degradation_level":0,"failed_agents":[],"optional_agents_count":1,"outcome":"success","required_agents_count":1,"success_rate":1,"successful_agents":1,"total_agents":2}
  swarm_agent AGENT DEFAULT
    {"agent_id":"technical","outcome":"success","required":true}
  swarm_agent AGENT DEFAULT
    {"agent_id":"sentiment","outcome":"cancelled","required":false}
"#,
        &[],
    );
}

#[test]
fn a_dropped_swarm_is_told() {
    dropped().check(
        r#"
research_swarm_with_degradation CHAIN DEFAULT
  {"optional_agents_count":0,"outcome":"cancelled","required_agents_count":1,"total_agents":1}
  swarm_agent AGENT DEFAULT
    {"agent_id":"technical","outcome":"cancelled","required":true}
"#,
        &[],
    );
}

#[test]
fn a_swarm_with_a_panic_is_told() {
    panicked().check(
        r#"
research_swarm_with_degradation CHAIN WARNING: Success rate: 50.0%
  {"degradation_level":1,"failed_agents":["sentiment"],"optional_agents_count":1,"outcome":"success","required_agents_count":1,"success_rate":0.5,"successful_agents":1,"total_agents":2}
  swarm_agent AGENT DEFAULT
    {"agent_id":"technical","outcome":"success","required":true}
  swarm_agent AGENT WARNING: Optional agent sentiment failed: the agent panicked
    {"agent_id":"sentiment","error":"the agent panicked","error_type":"panicked","failure_kind":"panicked","outcome":"panicked","required":false}
"#,
        &["WARN Optional agent sentiment failed: the agent panicked"],
    );
}
