//! What an observer hears of the layers, and what it comes to in numbers.
#![cfg(all(feature = "full", feature = "test-util"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    fmt, io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use buttress::{
    AgentLayer, CatchPanicLayer, CircuitBreakerLayer, Failure, FailureKind, FallbackLayer,
    FaultTolerantAgent, FirstItemLayer, HalfOpen, RetryBudget, RetryLayer, Swarm, TimeoutLayer,
    observe::{MetricsLayer, ObserveLayer, Observed},
    test_util::{Answer, PanicsOnDrop, Scripted},
};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use metrics_exporter_prometheus::PrometheusBuilder;
use tower::{Layer as _, ServiceBuilder, ServiceExt as _, service_fn};
use tracing::Instrument as _;
use tracing_subscriber::layer::SubscriberExt as _;

const SECOND: Duration = Duration::from_secs(1);

/// Runs something with the clock paused; returns what `say` makes of every span, in its order.
fn observed<T: Send + 'static>(
    say: impl Fn(&Observed) -> T + Send + Sync + 'static,
    run: impl AsyncFnOnce(),
) -> Vec<T> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let layer = ObserveLayer::new(move |span: &Observed| {
        let said = say(span);
        sink.lock().unwrap().push(said);
    });
    paused(tracing_subscriber::registry().with(layer), run);
    std::mem::take(&mut seen.lock().unwrap())
}

fn paused(subscriber: impl tracing::Subscriber + Send + Sync, run: impl AsyncFnOnce()) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    tracing::subscriber::with_default(subscriber, || runtime.unwrap().block_on(run()));
}

/// Runs something while it is counted; returns what Prometheus would read.
fn counted(layer: impl FnOnce() -> MetricsLayer, run: impl AsyncFnOnce()) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        paused(tracing_subscriber::registry().with(layer()), run);
        recorder.handle().render()
    })
}

#[track_caller]
fn has(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(text.lines().any(|known| known == *line), "no {line} in\n{text}");
    }
}

fn script(answers: impl IntoIterator<Item = Answer<&'static str>>) -> Scripted<&'static str> {
    Scripted::new(answers)
}

#[test]
fn every_span_is_heard_of_once_when_its_layer_is_done_with_it() {
    let said = observed(
        |span| {
            let outcome = span.str("outcome").unwrap_or("none").to_owned();
            (span.name(), outcome, span.agent_id().map(str::to_owned), span.took())
        },
        async || {
            let agent = ServiceBuilder::new()
                .layer(AgentLayer::new("research"))
                .layer(RetryLayer::new(2).backoff([SECOND]))
                .service(script([Answer::error("reset"), Answer::ok("fine")]));
            agent.oneshot("AAPL").await.unwrap();
        },
    );
    let agent = || Some("research".to_owned());
    assert_eq!(
        said,
        [
            ("retry_attempt", "failure".to_owned(), agent(), Duration::ZERO),
            ("retry_attempt", "success".to_owned(), agent(), Duration::ZERO),
            ("retry_execution", "success".to_owned(), agent(), SECOND),
            ("fault_tolerant_agent_invoke", "success".to_owned(), agent(), SECOND),
        ]
    );
}

#[test]
fn what_was_dropped_or_panicked_is_heard_of_and_what_is_of_others_is_not() {
    let said = observed(
        |span| (span.otel_name().to_owned(), span.str("outcome").unwrap_or("none").to_owned()),
        async || {
            let _outer = tracing::info_span!("of others").entered();
            let hang = AgentLayer::new("slow").layer(script([Answer::hang()]));
            assert!(hang.oneshot("AAPL").now_or_never().is_none());
            let panics = service_fn(async |_: &'static str| -> io::Result<()> { panic!("oops") });
            let panics = ServiceBuilder::new()
                .layer(CatchPanicLayer::new())
                .layer(AgentLayer::new("bad"))
                .service(panics);
            panics.oneshot("AAPL").await.unwrap_err();
            // A span that nobody ends by a word ends with its last handle.
            drop(tracing::info_span!(target: "buttress", "llm_call"));
        },
    );
    let expected = [("agent_slow", "cancelled"), ("agent_bad", "panicked"), ("llm_call", "none")];
    assert_eq!(said, expected.map(|(name, outcome)| (name.to_owned(), outcome.to_owned())));
}

#[test]
fn a_panic_of_the_observer_is_no_failure_of_the_agent() {
    let heard = observed(
        |span| {
            // Of an agent that answers, one that panics, and a call that is dropped.
            if span.name() != "nothing" {
                std::panic::panic_any(PanicsOnDrop(3));
            }
        },
        async || {
            let agent = AgentLayer::new("research").layer(script([
                Answer::ok("fine"),
                Answer::panic_in_poll(),
                Answer::hang(),
            ]));
            let agent = CatchPanicLayer::new().layer(agent);
            assert_eq!(agent.clone().oneshot("AAPL").await.unwrap(), "fine");
            assert!(agent.clone().oneshot("AAPL").await.is_err());
            assert!(agent.oneshot("AAPL").now_or_never().is_none());
        },
    );
    assert!(heard.is_empty());
}

/// A text without an end, as a chain of causes that is a circle may be; counts what is written of it.
#[derive(Default)]
struct Endless(AtomicUsize);

impl fmt::Display for Endless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // So that the test ends where nobody stops it.
        while self.0.fetch_add(1, Ordering::Relaxed) < 100_000 {
            f.write_str("and so on, ")?;
        }
        Ok(())
    }
}

#[test]
fn a_text_without_an_end_is_written_no_further_than_it_is_kept() {
    let endless = Endless::default();
    let said = observed(
        |span| (span.str("error").map(str::len), span.str("model").map(str::to_owned)),
        async || {
            let span = tracing::info_span!(target: "buttress", "llm_call", error = tracing::field::Empty, model = %"fine");
            span.record("error", tracing::field::display(&endless));
        },
    );
    // The piece that did not fit was the last.
    assert_eq!(endless.0.into_inner(), 4_096 / "and so on, ".len() + 1);
    assert_eq!(said, [(Some(4_096), Some("fine".to_owned()))]);
}

/// The program's own texts: one panics, and one uses tracing while it is written.
struct Panics;
struct Traces;

impl fmt::Display for Panics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("as far as ")?;
        std::panic::panic_any(PanicsOnDrop(3));
    }
}

impl fmt::Display for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever writes the same span must not wait for itself.
        tracing::Span::current().record("model", "told while it was written");
        f.write_str("told")
    }
}

#[test]
fn what_the_program_does_while_a_text_is_written_is_its_own_business() {
    let said = observed(
        |span| ["error", "status_message", "model"].map(|key| span.str(key).map(str::to_owned)),
        async || {
            let span = tracing::info_span!(
                target: "buttress",
                "llm_call",
                error = tracing::field::display(Panics),
                status_message = tracing::field::Empty,
                model = tracing::field::Empty,
            );
            let _inside = span.enter();
            span.record("status_message", tracing::field::display(Traces));
            span.record("error", tracing::field::display(Panics));
        },
    );
    let texts = ["as far as ", "told", "told while it was written"];
    assert_eq!(said, [texts.map(|text| Some(text.to_owned()))]);
}

#[test]
fn a_field_that_is_recorded_again_replaces_what_it_was() {
    let said = observed(
        |span| {
            (
                format!("{span:?}").matches("items").count(),
                span.i64("items"),
                span.str("model").is_some(),
            )
        },
        async || {
            let span =
                tracing::info_span!(target: "buttress", "llm_call", items = 0, model = "large");
            for items in 1..=1_000 {
                span.record("items", items);
            }
            // Of another kind, too.
            span.record("model", 7);
        },
    );
    assert_eq!(said, [(1, Some(1_000), false)]);
}

#[test]
fn long_texts_are_cut_between_characters() {
    let said = observed(
        |span| span.str("error").map(str::len),
        async || {
            let text = "\u{20ac}".repeat(3_000);
            drop(tracing::info_span!(target: "buttress", "llm_call", error = text.as_str()));
        },
    );
    assert_eq!(said, [Some(4_095)]);
}

#[test]
fn calls_attempts_and_fallbacks_are_counted_by_outcome() {
    let text = counted(MetricsLayer::new, async || {
        let agent = FaultTolerantAgent::builder("research")
            .retry(RetryLayer::new(2).backoff([SECOND]))
            .fallback("small", script([Answer::ok("backup")]))
            .service(script([
                Answer::ok("fine"),
                Answer::error("reset"),
                Answer::ok("fine"),
                Answer::error("reset"),
            ]));
        for _ in 0..3 {
            agent.invoke("AAPL").await.unwrap();
        }
        let slow = TimeoutLayer::new(SECOND).agent_id("slow").layer(script([Answer::hang()]));
        slow.oneshot("AAPL").await.unwrap_err();
        // What ran out further in is a failure of this one, and no time of its own.
        let outer = TimeoutLayer::new(60 * SECOND).agent_id("outer");
        let inner = TimeoutLayer::new(SECOND).agent_id("inner").layer(script([Answer::hang()]));
        outer.layer(inner).oneshot("AAPL").await.unwrap_err();
    });
    has(
        &text,
        &[
            "# HELP buttress_agent_calls Calls of agents.",
            "# TYPE buttress_agent_calls counter",
            r#"buttress_agent_calls{agent="research",outcome="success"} 3"#,
            r#"buttress_retry_series{agent="research",result="first"} 2"#,
            r#"buttress_retry_series{agent="research",result="rescued"} 1"#,
            r#"buttress_retry_series{agent="research",result="failed",stop="attempts"} 1"#,
            r#"buttress_retry_attempts{agent="research",outcome="failure",error_type="transient"} 3"#,
            r#"buttress_fallback_calls{agent="research",outcome="success",level="0"} 2"#,
            r#"buttress_fallback_calls{agent="research",outcome="success",level="1"} 1"#,
            r#"buttress_timeout_calls{agent="slow",outcome="timeout"} 1"#,
            r#"buttress_timeout_calls{agent="inner",outcome="timeout"} 1"#,
            r#"buttress_timeout_calls{agent="outer",outcome="failure"} 1"#,
            r#"buttress_agent_duration_count{agent="research",outcome="success"} 3"#,
            // One second of backoff in each of two calls.
            r#"buttress_agent_duration_sum{agent="research",outcome="success"} 2"#,
        ],
    );
}

#[test]
fn what_a_series_came_to_says_whether_it_was_retried() {
    let text = counted(MetricsLayer::new, async || {
        let layer = RetryLayer::new(3).backoff([SECOND; 2]).agent_id("research");
        let agent = layer
            .clone()
            .layer(script([Answer::failure(Failure::new(FailureKind::InvalidRequest))]));
        agent.oneshot("AAPL").await.unwrap_err();
        // Given up in the first attempt, and in the pause before the second.
        let agent = layer.clone().layer(script([Answer::hang()]));
        assert!(agent.oneshot("AAPL").now_or_never().is_none());
        let agent = layer.clone().layer(script([Answer::error("reset"), Answer::hang()]));
        tokio::time::timeout(2 * SECOND, agent.oneshot("AAPL")).await.unwrap_err();
        let budget = RetryBudget::tokens(1).starting_at(0);
        let agent = layer.budget(budget).layer(script([Answer::error("reset")]));
        agent.oneshot("AAPL").await.unwrap_err();
    });
    let series = r#"buttress_retry_series{agent="research",result="#;
    has(
        &text,
        &[
            &format!(r#"{series}"not_retried",stop="not_retryable"}} 1"#),
            &format!(r#"{series}"not_retried"}} 1"#),
            &format!(r#"{series}"failed"}} 1"#),
            &format!(r#"{series}"not_retried",stop="budget"}} 1"#),
        ],
    );
}

#[test]
fn a_circuit_is_seen_to_open_half_open_and_close() {
    let state =
        |number: u8| format!(r#"buttress_circuit_breaker_state{{circuit="model"}} {number}"#);
    let recorder = PrometheusBuilder::new().build_recorder();
    let render = || recorder.handle().render();
    metrics::with_local_recorder(&recorder, || {
        paused(tracing_subscriber::registry().with(MetricsLayer::new()), async || {
            let layer = CircuitBreakerLayer::new("model")
                .consecutive_failures(1)
                .half_open(HalfOpen::consecutive(1, 1))
                .open_for(10 * SECOND);
            let circuit = layer.circuit();
            let agent = layer.layer(script([
                Answer::ok("fine"),
                Answer::error("reset"),
                Answer::ok("fine"),
            ]));
            agent.clone().oneshot("AAPL").await.unwrap();
            has(&render(), &[&state(0)]);
            agent.clone().oneshot("AAPL").await.unwrap_err();
            agent.clone().oneshot("AAPL").await.unwrap_err();
            has(
                &render(),
                &[
                    &state(2),
                    r#"buttress_circuit_breaker_calls{circuit="model",outcome="rejected"} 1"#,
                ],
            );
            tokio::time::advance(10 * SECOND).await;
            agent.clone().oneshot("AAPL").await.unwrap();
            has(&render(), &[&state(0)]);
            // By hand, without any call.
            circuit.force_open();
            has(&render(), &[&state(2)]);
            circuit.reset();
            has(&render(), &[&state(0)]);
        });
    });
    has(
        &render(),
        &[
            r#"buttress_circuit_breaker_transitions{circuit="model",transition="CLOSED -> OPEN"} 1"#,
            r#"buttress_circuit_breaker_transitions{circuit="model",transition="OPEN -> HALF_OPEN"} 1"#,
            r#"buttress_circuit_breaker_transitions{circuit="model",transition="HALF_OPEN -> CLOSED"} 1"#,
        ],
    );
}

/// What a call through a circuit tells, in its own time.
fn call_of(state: &'static str) -> (tracing::Span, impl FnOnce()) {
    let span = tracing::info_span!(
        target: "buttress",
        "circuit_breaker_call",
        circuit_key = "model",
        circuit_state_at_start = state,
        circuit_state = tracing::field::Empty,
        outcome = tracing::field::Empty,
    );
    let ended = span.clone();
    (span, move || {
        ended.record("circuit_state", state);
        ended.record("outcome", "success");
    })
}

fn opened() {
    drop(tracing::info_span!(
        target: "buttress",
        "circuit_breaker.opened",
        circuit_key = "model",
        state_transition = "CLOSED -> OPEN",
        outcome = "success",
    ));
}

#[test]
fn a_late_call_does_not_take_back_a_change_of_its_circuit() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let is = |number: u8| {
        let line = format!(r#"buttress_circuit_breaker_state{{circuit="model"}} {number}"#);
        has(&recorder.handle().render(), &[&line]);
    };
    metrics::with_local_recorder(&recorder, || {
        paused(tracing_subscriber::registry().with(MetricsLayer::new()), async || {
            // Two calls look at the circuit, and then it opens before they have told what they saw.
            let (first, first_ends) = call_of("closed");
            let (cancelled, _) = call_of("closed");
            opened();
            is(2);
            first_ends();
            is(2);
            // Dropped without a word about the circuit's end.
            cancelled.record("outcome", "cancelled");
            is(2);
            drop((first, cancelled));
            // One that began after the change knows better: changes are told outside every lock, so
            // that a newer one may have come first, and disabling a circuit is told by calls alone.
            let (span, ends) = call_of("half_open");
            ends();
            is(1);
            drop(span);
        });
    });
}

#[test]
fn a_circuit_that_is_disabled_while_open_rejects_nobody() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let is = |number: u8| {
        let line = format!(r#"buttress_circuit_breaker_state{{circuit="other"}} {number}"#);
        has(&recorder.handle().render(), &[&line]);
    };
    metrics::with_local_recorder(&recorder, || {
        paused(tracing_subscriber::registry().with(MetricsLayer::new()), async || {
            // The name that stands for all that are too many may be that of a circuit, too.
            let layer = CircuitBreakerLayer::new("other").consecutive_failures(1);
            let circuit = layer.circuit();
            let agent = layer.layer(script([Answer::error("reset")]));
            agent.clone().oneshot("AAPL").await.unwrap_err();
            is(2);
            circuit.disable();
            agent.clone().oneshot("AAPL").await.unwrap_err();
            is(0);
            circuit.force_open();
            is(2);
            circuit.metrics_only();
            agent.clone().oneshot("AAPL").await.unwrap_err();
            is(0);
            circuit.force_half_open();
            is(1);
            circuit.reset();
            is(0);
        });
    });
}

#[test]
fn swarms_and_streams_are_counted() {
    let text = counted(MetricsLayer::new, async || {
        let swarm = Swarm::builder("research_swarm")
            .required("trend", service_fn(async |_: &'static str| Ok::<_, io::Error>("up")))
            .optional("mood", service_fn(async |_| Err::<&str, _>(io::Error::other("reset"))))
            .build()
            .unwrap();
        swarm.oneshot("AAPL").await.unwrap();
        let cut = |items: usize| {
            let broken = std::iter::once_with(|| Err(io::Error::other("reset")));
            stream::iter(std::iter::repeat_with(|| Ok("a")).take(items).chain(broken))
        };
        let streamed = FirstItemLayer::new().agent_id("writer");
        let fine = streamed.clone().layer(service_fn(async |()| {
            tokio::time::sleep(SECOND).await;
            Ok::<_, io::Error>(stream::iter([Ok::<_, io::Error>("a"), Ok("b")]))
        }));
        fine.oneshot(()).await.unwrap().collect::<Vec<_>>().await;
        for items in [0, 1, 2] {
            let broken = service_fn(async |()| Ok::<_, io::Error>(cut(items)));
            match streamed.clone().layer(broken).oneshot(()).await {
                Ok(stream) => assert_eq!(stream.collect::<Vec<_>>().await.len(), items + 1),
                Err(_) => assert_eq!(items, 0),
            }
        }
    });
    has(
        &text,
        &[
            r#"buttress_swarm_calls{swarm="research_swarm",outcome="success",level="1"} 1"#,
            r#"buttress_swarm_degradation_level{swarm="research_swarm"} 1"#,
            r#"buttress_swarm_agent_calls{agent="trend",outcome="success"} 1"#,
            r#"buttress_swarm_agent_calls{agent="mood",outcome="failure",error_type="transient"} 1"#,
            r#"buttress_stream_items{agent="writer"} 5"#,
            r#"buttress_stream_first_item_duration_sum{agent="writer"} 1"#,
            r#"buttress_stream_calls{agent="writer",outcome="success"} 1"#,
            r#"buttress_stream_calls{agent="writer",outcome="failure",error_type="transient"} 1"#,
            // After an item, so that nobody could try again.
            r#"buttress_stream_calls{agent="writer",outcome="interrupted",error_type="transient"} 2"#,
            r#"buttress_stream_duration_sum{agent="writer",outcome="success"} 1"#,
        ],
    );
}

#[test]
fn names_that_requests_choose_are_bounded() {
    let text = counted(
        || MetricsLayer::new().most_values(3),
        async || {
            let layer = CircuitBreakerLayer::keyed("tenants", |tenant: &u32| *tenant);
            let agent = layer.layer(service_fn(async |_: u32| Ok::<_, io::Error>(())));
            for tenant in 0..100 {
                agent.clone().oneshot(tenant).await.unwrap();
            }
        },
    );
    let calls = text.lines().filter(|line| line.starts_with("buttress_circuit_breaker_calls{"));
    assert_eq!(calls.count(), 4, "{text}");
    has(&text, &[r#"buttress_circuit_breaker_calls{circuit="other",outcome="success"} 97"#]);
    assert!(!text.contains(r#"state{circuit="other"}"#), "{text}");
}

/// A chain alone, and an observer that is not asked for what nobody tells.
#[test]
fn without_an_agent_the_attribute_says_so() {
    let text = counted(MetricsLayer::new, async || {
        let chain = FallbackLayer::new().or("small", script([Answer::ok("fine")]));
        chain.layer(script([Answer::error("reset")])).oneshot("AAPL").await.unwrap();
    });
    has(&text, &[r#"buttress_fallback_calls{agent="unknown",outcome="success",level="1"} 1"#]);
}

#[test]
fn several_observers_of_one_subscriber_hear_of_every_span() {
    let (one, two) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let layer = |sink: &Arc<Mutex<Vec<&'static str>>>| {
        let sink = Arc::clone(sink);
        move |span: &Observed| sink.lock().unwrap().push(span.name())
    };
    // Functions of two types, and the counting layer twice, which counts once.
    let other = layer(&two);
    let subscriber = tracing_subscriber::registry()
        .with(ObserveLayer::new(layer(&one)))
        .with(ObserveLayer::new(move |span: &Observed| other(span)))
        .with(MetricsLayer::new())
        .with(MetricsLayer::new());
    let recorder = PrometheusBuilder::new().build_recorder();
    let text = metrics::with_local_recorder(&recorder, || {
        paused(subscriber, async || {
            let agent = AgentLayer::new("research").layer(script([Answer::ok("fine")]));
            agent.oneshot("AAPL").await.unwrap();
        });
        recorder.handle().render()
    });
    assert_eq!(*one.lock().unwrap(), ["fault_tolerant_agent_invoke"]);
    assert_eq!(*two.lock().unwrap(), ["fault_tolerant_agent_invoke"]);
    has(&text, &[r#"buttress_agent_calls{agent="research",outcome="success"} 1"#]);
}

#[test]
fn the_span_above_is_one_of_the_contract_whatever_stands_between() {
    let said = observed(
        |span| (span.name(), span.id(), span.parent()),
        async || {
            let timed = TimeoutLayer::new(SECOND).layer(script([Answer::ok("fine")]));
            let agent = AgentLayer::new("research").layer(service_fn(move |request| {
                timed.clone().oneshot(request).instrument(tracing::info_span!("of_the_user"))
            }));
            agent.oneshot("AAPL").await.unwrap();
        },
    );
    let [(_, _, above), (_, agent, none)] = said[..] else { panic!("{said:?}") };
    assert_eq!((above, none), (Some(agent), None), "{said:?}");
}

/// What an exporter makes of the names, as the documentation of [`MetricsLayer`] says.
#[test]
fn counters_end_in_total_only_where_the_exporter_is_asked_for_it() {
    for (recommended, name) in
        [(false, "buttress_agent_calls"), (true, "buttress_agent_calls_total")]
    {
        let builder = PrometheusBuilder::new().with_recommended_naming(recommended);
        let recorder = builder.build_recorder();
        let text = metrics::with_local_recorder(&recorder, || {
            paused(tracing_subscriber::registry().with(MetricsLayer::new()), async || {
                let agent = AgentLayer::new("research").layer(script([Answer::ok("fine")]));
                agent.oneshot("AAPL").await.unwrap();
            });
            recorder.handle().render()
        });
        has(&text, &[&format!(r#"{name}{{agent="research",outcome="success"}} 1"#)]);
        let seconds = if recommended { "_seconds" } else { "" };
        let time = format!(
            r#"buttress_agent_duration{seconds}_count{{agent="research",outcome="success"}} 1"#
        );
        has(&text, &[&time]);
    }
}
