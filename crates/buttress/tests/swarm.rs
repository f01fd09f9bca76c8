//! A swarm: thresholds, bounds, deadline, quorum, and agents that behave badly.
#![cfg(all(feature = "swarm", feature = "test-util", feature = "agent"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use buttress::{
    CircuitBreakerLayer, DegradationLevel, Error, ErrorKind, Failure, FailureKind, Outcome, Swarm,
    SwarmBuilder, SwarmReport, TimeoutLayer,
    test_util::{Answer, Readiness, Scripted},
};
use tokio::time::Instant;
use tower::{Layer as _, Service, service_fn};

const SECOND: Duration = Duration::from_secs(1);

type Script = Scripted<&'static str>;

fn script(answer: Answer<&'static str>) -> Script {
    Scripted::new([answer])
}

fn fine() -> Script {
    script(Answer::ok("fine"))
}

fn broken() -> Script {
    script(Answer::error("reset"))
}

fn hanging() -> Script {
    script(Answer::hang())
}

fn builder() -> SwarmBuilder<&'static str, &'static str> {
    Swarm::builder("research_swarm")
}

/// A swarm of so many agents, of which the first ones fail.
fn some_fail(required: usize, failing: usize) -> Swarm<&'static str, &'static str> {
    let agents = (0..required).map(|n| if n < failing { broken() } else { fine() });
    let add = |swarm: SwarmBuilder<_, _>, (n, agent)| swarm.required(format!("agent_{n}"), agent);
    agents.enumerate().fold(builder(), add).build().unwrap()
}

fn failed<'a>(report: &'a SwarmReport<&'static str>) -> Vec<&'a str> {
    report.failures().iter().map(|failure| failure.agent()).collect()
}

fn failed_of(error: &Error) -> Vec<&str> {
    match error.kind() {
        ErrorKind::CriticalDegradation { failures, .. } => {
            failures.iter().map(|failure| failure.agent()).collect()
        }
        kind => panic!("{kind:?}"),
    }
}

fn found<'a>(report: &'a SwarmReport<&'static str>) -> Vec<&'a str> {
    report.findings().iter().map(|finding| finding.agent()).collect()
}

// ===== thresholds =====

#[tokio::test(start_paused = true)]
async fn three_of_ten_required_failing_is_not_critical_and_four_are() {
    let report = some_fail(10, 3).invoke("AAPL").await.unwrap();
    assert_eq!(failed(&report), ["agent_0", "agent_1", "agent_2"]);
    assert_eq!(report.level(), DegradationLevel::Degraded);

    let error = some_fail(10, 4).invoke("AAPL").await.unwrap_err();
    let ErrorKind::CriticalDegradation { swarm, failures, failure_rate, threshold, .. } =
        error.kind()
    else {
        panic!("{error:?}")
    };
    assert_eq!((&**swarm, *failure_rate, *threshold), ("research_swarm", 0.4, 0.3));
    assert_eq!(failures.len(), 4);
    assert_eq!(
        error.to_string(),
        r#"swarm "research_swarm": too many required agents failed: agent_0, agent_1, agent_2, agent_3"#
    );
    assert!(error.is_critical_degradation());
}

#[tokio::test(start_paused = true)]
async fn the_level_changes_at_a_half_and_at_four_fifths() {
    use DegradationLevel::{Degraded, Full, Minimal};
    for (agents, failing, level, score) in [
        (5, 1, Full, 0),
        (10, 2, Full, 0),
        (100, 20, Full, 0),
        (100, 21, Degraded, 1),
        (10, 5, Degraded, 1),
        (2, 1, Degraded, 1),
        (100, 51, Minimal, 2),
        (3, 2, Minimal, 2),
        (1, 0, Full, 0),
    ] {
        let optional = |swarm: SwarmBuilder<_, _>, n| {
            swarm.optional(format!("agent_{n}"), if n < failing { broken() } else { fine() })
        };
        let swarm = (0..agents).fold(builder(), optional).build().unwrap();
        let report = swarm.invoke("AAPL").await.unwrap();
        assert_eq!(report.level(), level, "{failing} of {agents}");
        assert_eq!(report.level().as_i64(), score);
        let expected = f64::from(agents - failing) / f64::from(agents);
        assert!((report.success_rate() - expected).abs() < 1e-12);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rate_of_one_is_never_critical_and_of_zero_with_the_first_failure() {
    let swarm = |rate| {
        let swarm = builder().required("a", broken()).required("b", broken());
        swarm.required("c", hanging()).critical_failure_rate(rate).deadline(SECOND).build().unwrap()
    };
    let report = swarm(1.0).invoke("AAPL").await.unwrap();
    assert_eq!((report.findings().len(), report.failures().len()), (0, 3));
    let error = swarm(0.0).invoke("AAPL").await.unwrap_err();
    assert_eq!(failed_of(&error).len(), 1);
}

// ===== who is there =====

#[tokio::test(start_paused = true)]
async fn optional_agents_alone_are_never_critical() {
    let swarm = builder().optional("a", broken()).optional("b", broken()).build().unwrap();
    let report = swarm.invoke("AAPL").await.unwrap();
    assert_eq!(failed(&report), ["a", "b"]);
    assert_eq!((report.level(), report.success_rate()), (DegradationLevel::Minimal, 0.0));
    assert!(report.failures().iter().all(|failure| !failure.is_required()));
}

#[tokio::test(start_paused = true)]
async fn a_mixed_swarm_reports_every_failure_with_its_error() {
    let swarm = builder()
        .required("technical", fine())
        .required("news", fine())
        .optional("sentiment", script(Answer::failure(Failure::new(FailureKind::Overloaded))))
        .build()
        .unwrap();
    let report = swarm.invoke("AAPL").await.unwrap();
    assert_eq!(found(&report), ["technical", "news"]);
    let [failure] = report.failures() else { panic!() };
    assert_eq!(failure.error().agent(), Some("sentiment"));
    assert_eq!(failure.failure().kind(), FailureKind::Overloaded);
    assert!(failure.error().downcast_ref::<Failure>().is_some());
    assert!(!format!("{report:?}").contains("fine"), "answers are not shown");
}

#[tokio::test(start_paused = true)]
async fn when_all_fail_the_error_reaches_each_failure() {
    let quota = Failure::new(FailureKind::QuotaExhausted).with_message("no credit");
    let swarm = builder()
        .optional("sentiment", broken())
        .required("technical", script(Answer::failure(quota)))
        .concurrency(2)
        .build()
        .unwrap();
    let error = swarm.invoke("AAPL").await.unwrap_err();
    assert_eq!(error.failure().kind(), FailureKind::QuotaExhausted);
    assert_eq!(error.downcast_ref::<Failure>().unwrap().message(), Some("no credit"));
    assert!(std::error::Error::source(&error).unwrap().is::<Error>());
}

#[test]
fn what_cannot_be_built_says_why() {
    let some = || builder().required("a", fine()).optional("b", fine());
    for (swarm, field) in [
        (builder(), "agents"),
        (Swarm::builder("").required("a", fine()), "name"),
        (some().optional("a", fine()), "agents"),
        (some().optional("", fine()), "agents"),
        (some().critical_failure_rate(-0.1), "critical_failure_rate"),
        (some().critical_failure_rate(1.1), "critical_failure_rate"),
        (some().critical_failure_rate(f64::NAN), "critical_failure_rate"),
        (some().concurrency(0), "concurrency"),
        (some().deadline(Duration::ZERO), "deadline"),
        (some().quorum(0), "quorum"),
        (some().quorum(3), "quorum"),
    ] {
        assert_eq!(swarm.build().unwrap_err().field(), field);
    }
    let error = some().optional("a", fine()).build().unwrap_err();
    assert_eq!(error.to_string(), r#"agents: "a" stands twice"#);
}

// ===== when it ends =====

#[tokio::test(start_paused = true)]
async fn a_deadline_takes_what_is_there() {
    let slow = script(Answer::ok("late").after(2 * SECOND));
    let swarm = builder()
        .required("fast", script(Answer::ok("fine").after(SECOND / 2)))
        .optional("slow", slow.clone())
        .optional("waits", fine())
        .concurrency(2)
        .optional("hangs", hanging())
        .deadline(SECOND)
        .build()
        .unwrap();
    let start = Instant::now();
    let report = swarm.invoke("AAPL").await.unwrap();
    assert_eq!(start.elapsed(), SECOND);
    assert_eq!(found(&report), ["fast", "waits"]);
    assert_eq!(failed(&report), ["slow", "hangs"]);
    assert!(report.failures().iter().all(|failure| failure.error().is_timeout()));
    assert_eq!(slow.dropped(), 1);
}

#[tokio::test(start_paused = true)]
async fn when_all_hang_the_deadline_counts_also_those_that_never_started() {
    let agents = || (0..5).map(|_| hanging()).collect::<Vec<_>>();
    let scripts = agents();
    let add = |swarm: SwarmBuilder<_, _>, (n, agent): (usize, &Script)| {
        swarm.optional(format!("agent_{n}"), agent.clone())
    };
    let swarm = scripts.iter().enumerate().fold(builder(), add).concurrency(2).deadline(SECOND);
    let report = swarm.build().unwrap().invoke("AAPL").await.unwrap();
    assert_eq!(failed(&report), ["agent_0", "agent_1", "agent_2", "agent_3", "agent_4"]);
    assert_eq!(scripts.iter().map(Scripted::calls).collect::<Vec<_>>(), [1, 1, 0, 0, 0]);

    let swarm = agents()
        .into_iter()
        .enumerate()
        .fold(builder(), |swarm, (n, agent)| swarm.required(format!("agent_{n}"), agent));
    let error = swarm.deadline(SECOND).build().unwrap().invoke("AAPL").await.unwrap_err();
    assert_eq!(failed_of(&error).len(), 5);
    assert!(error.is_timeout());
}

#[tokio::test(start_paused = true)]
async fn a_critical_degradation_does_not_wait_for_an_agent_that_hangs() {
    let hangs = hanging();
    let optional = fine();
    let swarm = builder()
        .required("hangs", hangs.clone())
        .optional("optional", optional.clone())
        .required("fails", script(Answer::error("reset").after(SECOND)))
        .concurrency(2)
        .build()
        .unwrap();
    let start = Instant::now();
    let error = swarm.invoke("AAPL").await.unwrap_err();
    assert_eq!(start.elapsed(), SECOND);
    assert_eq!(failed_of(&error), ["fails"]);
    // Required agents start first; the rest is cancelled.
    assert_eq!((hangs.dropped(), optional.calls()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_quorum_ends_early_and_what_is_not_needed_does_not_count() {
    let hangs = hanging();
    let swarm = builder()
        .required("first", script(Answer::ok("fine").after(SECOND)))
        .required("hangs", hangs.clone())
        .optional("fails", broken())
        .optional("second", fine())
        .quorum(2)
        .critical_failure_rate(0.9)
        .build()
        .unwrap();
    let report = swarm.invoke("AAPL").await.unwrap();
    assert_eq!(found(&report), ["first", "second"]);
    assert_eq!(failed(&report), ["fails"]);
    assert_eq!(report.not_needed().collect::<Vec<_>>(), ["hangs"]);
    assert!((report.success_rate() - 2.0 / 3.0).abs() < 1e-12);
    assert_eq!(report.level(), DegradationLevel::Degraded);
    assert_eq!(hangs.dropped(), 1);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_future_cancels_every_agent() {
    let scripts: Vec<_> = (0..10).map(|_| hanging()).collect();
    let add = |swarm: SwarmBuilder<_, _>, (n, agent): (usize, &Script)| {
        swarm.required(format!("agent_{n}"), agent.clone())
    };
    let swarm = scripts.iter().enumerate().fold(builder(), add).concurrency(8).build().unwrap();
    {
        let mut call = pin!(swarm.invoke("AAPL"));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(call.as_mut().poll(&mut cx).is_pending());
    }
    let dropped: Vec<_> = scripts.iter().map(Scripted::dropped).collect();
    assert_eq!(dropped, [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
}

// ===== side by side =====

/// Counts how many of its calls run at the same time.
#[derive(Clone, Default)]
struct Gauge {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Gauge {
    async fn run(self, wait: Duration) -> Result<&'static str, Failure> {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        tokio::time::sleep(wait).await;
        self.now.fetch_sub(1, Ordering::Relaxed);
        Ok("fine")
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_run_than_the_bound_allows() {
    for (bound, most, seconds) in [(1, 1, 7), (3, 3, 3), (7, 7, 1), (100, 7, 1)] {
        let gauge = Gauge::default();
        let swarm = (0..7).fold(builder(), |swarm, n| {
            let gauge = gauge.clone();
            swarm.required(format!("{n}"), service_fn(move |_| gauge.clone().run(SECOND)))
        });
        let swarm = swarm.concurrency(bound).build().unwrap();
        let start = Instant::now();
        assert_eq!(swarm.invoke("AAPL").await.unwrap().findings().len(), 7);
        assert_eq!(gauge.most.load(Ordering::Relaxed), most, "bound {bound}");
        assert_eq!(start.elapsed(), seconds * SECOND, "bound {bound}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_report_keeps_the_order_in_which_agents_were_added() {
    let after = |n| Answer::ok("fine").after(n * SECOND);
    let swarm = builder()
        .optional("a", script(after(4)))
        .required("b", script(after(2)))
        .optional("c", script(Answer::error("reset").after(3 * SECOND)))
        .required("d", script(after(1)))
        .optional("e", broken())
        .build()
        .unwrap();
    let report = swarm.invoke("AAPL").await.unwrap();
    assert_eq!((found(&report), failed(&report)), (vec!["a", "b", "d"], vec!["c", "e"]));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_agents_answer_and_each_is_polled_only_when_woken() {
    let polls = Arc::new(AtomicUsize::new(0));
    let swarm = (0..1_000_u64).fold(Swarm::builder("research_swarm"), |swarm, n| {
        let polls = Arc::clone(&polls);
        let agent = service_fn(move |request: u64| {
            let polls = Arc::clone(&polls);
            async move {
                let mut sleep = pin!(tokio::time::sleep(Duration::from_millis(n + 1)));
                std::future::poll_fn(|cx| {
                    polls.fetch_add(1, Ordering::Relaxed);
                    sleep.as_mut().poll(cx)
                })
                .await;
                Ok::<_, Failure>(request + n)
            }
        });
        swarm.required(format!("agent_{n}"), agent)
    });
    let swarm = swarm.concurrency(1_000).build().unwrap();
    let report = swarm.invoke(7).await.unwrap();
    let values = report.into_findings().into_iter().map(|finding| finding.into_value());
    assert!(values.eq(7..1_007));
    assert_eq!(polls.load(Ordering::Relaxed), 2_000);
}

#[tokio::test(start_paused = true)]
async fn each_agent_but_the_last_gets_a_clone_of_the_request() {
    #[derive(Default)]
    struct Counted(Arc<AtomicUsize>);
    impl Clone for Counted {
        fn clone(&self) -> Self {
            self.0.fetch_add(1, Ordering::Relaxed);
            Self(Arc::clone(&self.0))
        }
    }
    let agent = service_fn(|_: Counted| async { Ok::<_, Failure>(()) });
    let swarm = Swarm::builder("s").required("a", agent).optional("b", agent).optional("c", agent);
    let request = Counted::default();
    let clones = Arc::clone(&request.0);
    let swarm = swarm.concurrency(1).build().unwrap();
    assert_eq!(swarm.invoke(request).await.unwrap().findings().len(), 3);
    assert_eq!(clones.load(Ordering::Relaxed), 2);
}

// ===== agents that are hard to serve =====

#[tokio::test(start_paused = true)]
async fn a_strict_service_is_called_only_when_ready() {
    let strict = fine().readiness(Readiness::After(3));
    let swarm = builder().required("a", strict.clone()).required("b", strict.clone());
    let swarm = swarm.build().unwrap();
    for _ in 0..3 {
        assert_eq!(swarm.invoke("AAPL").await.unwrap().findings().len(), 2);
    }
    assert_eq!((strict.calls(), strict.unready_calls()), (6, 0));
}

#[tokio::test(start_paused = true)]
async fn a_failed_readiness_is_the_failure_of_that_agent() {
    let failure = Failure::new(FailureKind::Unauthorized);
    let never = fine().readiness(Readiness::FailsAfterCalls(0, failure));
    let swarm = builder().required("a", fine()).optional("b", never).build().unwrap();
    let report = swarm.invoke("AAPL").await.unwrap();
    assert_eq!(report.failures()[0].failure().kind(), FailureKind::Unauthorized);
}

/// Panics when it is asked for readiness.
#[derive(Clone)]
struct PanicsInPollReady;

impl Service<&'static str> for PanicsInPollReady {
    type Response = &'static str;
    type Error = Failure;
    type Future = std::future::Ready<Result<&'static str, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        panic!("panic in poll_ready")
    }

    fn call(&mut self, _: &'static str) -> Self::Future {
        std::future::ready(Ok("never"))
    }
}

/// Panics when it is cloned to be called.
struct PanicsInClone(bool);

impl Clone for PanicsInClone {
    fn clone(&self) -> Self {
        assert!(!self.0, "panic in clone");
        Self(true)
    }
}

impl Service<&'static str> for PanicsInClone {
    type Response = &'static str;
    type Error = Failure;
    type Future = std::future::Ready<Result<&'static str, Failure>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: &'static str) -> Self::Future {
        std::future::ready(Ok("never"))
    }
}

/// Panics when its call is dropped.
async fn panics_when_dropped(_: &'static str) -> Result<&'static str, Failure> {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("panic in drop")
        }
    }
    let _bomb = Bomb;
    std::future::pending().await
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_the_failure_of_that_agent() {
    let swarm = builder()
        .required("fine", fine())
        .optional("clone", PanicsInClone(true))
        .optional("poll_ready", PanicsInPollReady)
        .optional("call", script(Answer::panic_in_call()))
        .optional("poll", script(Answer::panic_in_poll()))
        .optional("drop", service_fn(panics_when_dropped))
        .deadline(SECOND)
        .build()
        .unwrap();
    let report = swarm.invoke("AAPL").await.unwrap();
    assert_eq!(found(&report), ["fine"]);
    let kinds: Vec<_> = report.failures().iter().map(|one| one.failure().kind()).collect();
    use FailureKind::{Panicked, Timeout};
    assert_eq!(kinds, [Panicked, Panicked, Panicked, Panicked, Timeout]);
    // The next call goes on as if nothing had been.
    assert_eq!(found(&swarm.invoke("AAPL").await.unwrap()), ["fine"]);
}

#[tokio::test(start_paused = true)]
async fn agents_have_layers_of_their_own() {
    let breaker = CircuitBreakerLayer::new("model").consecutive_failures(1);
    let circuit = breaker.circuit();
    let swarm = builder()
        .required("technical", fine())
        .optional("guarded", breaker.layer(broken()))
        .optional("bounded", TimeoutLayer::new(SECOND).layer(hanging()))
        .build()
        .unwrap();
    let report = swarm.invoke("AAPL").await.unwrap();
    assert_eq!(report.failures()[0].failure().kind(), FailureKind::Transient);
    assert!(report.failures()[1].error().is_timeout());
    // The breaker lives as long as the swarm.
    assert_eq!(circuit.state(), buttress::circuit_breaker::State::Open);
    let report = swarm.invoke("AAPL").await.unwrap();
    assert!(report.failures()[0].error().is_circuit_open());
}

#[tokio::test(start_paused = true)]
async fn an_answer_can_be_a_failure() {
    let empty = |result: Result<&&'static str, &Failure>| match result {
        Ok(&"") => Failure::new(FailureKind::ContentPolicy).with_message("empty answer").into(),
        Ok(_) => Outcome::Success,
        Err(failure) => failure.clone().into(),
    };
    let swarm = builder().classify(empty).required("a", fine());
    let report =
        swarm.optional("b", script(Answer::ok(""))).build().unwrap().invoke("AAPL").await.unwrap();
    assert_eq!(report.failures()[0].failure().kind(), FailureKind::ContentPolicy);
    assert_eq!(report.failures()[0].failure().message(), Some("empty answer"));
}

#[tokio::test(start_paused = true)]
async fn synthesize_makes_the_report_of_the_caller() {
    let swarm = builder()
        .required("technical", fine())
        .optional("sentiment", broken())
        .synthesize(|report| {
            let failed: Vec<_> =
                report.failures().iter().map(|one| one.agent().to_owned()).collect();
            let level = report.level().as_i64();
            (level, failed, report.into_findings().len())
        })
        .build()
        .unwrap();
    let expected = (1, vec!["sentiment".to_owned()], 1);
    assert_eq!(swarm.invoke("AAPL").await.unwrap(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_swarm_can_be_an_agent_of_another() {
    let first = |report: SwarmReport<&'static str>| *report.findings()[0].value();
    let inner = |agent| {
        let inner = Swarm::builder("inner").required("a", agent).synthesize(first);
        inner.build().unwrap()
    };
    let swarm = builder().required("sound", inner(fine())).optional("ill", inner(broken()));
    let report = swarm.build().unwrap().invoke("AAPL").await.unwrap();
    assert_eq!(report.finding("sound"), Some(&"fine"));
    let error = report.failures()[0].error();
    assert_eq!(
        error.to_string(),
        r#"agent "ill": swarm "inner": too many required agents failed: a"#
    );
    assert!(error.is_critical_degradation());
}

#[tokio::test(start_paused = true)]
async fn an_error_names_no_more_than_ten_agents() {
    let agents = (0..40).fold(builder(), |swarm, n| {
        swarm.required(format!("a{n}"), if n < 20 { broken() } else { fine() })
    });
    let error = agents.build().unwrap().invoke("AAPL").await.unwrap_err();
    assert!(error.to_string().ends_with("a8, a9 and 3 more"), "{error}");
}

// ===== scores =====

/// Keeps the score events, each with the name of the span around it.
#[derive(Clone, Default)]
struct Scores(Arc<std::sync::Mutex<Vec<String>>>);

impl<S> tracing_subscriber::Layer<S> for Scores
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    fn on_event(&self, event: &tracing::Event<'_>, cx: tracing_subscriber::layer::Context<'_, S>) {
        if event.metadata().target() == buttress::telemetry::SCORE_TARGET {
            let span = cx.event_span(event).map(|span| span.name().to_owned());
            let mut line = span.unwrap_or_default();
            event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
                line += &format!(" {}={value:?}", field.name());
            });
            self.0.lock().unwrap().push(line);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_level_is_scored_on_the_span_of_the_swarm() {
    use tracing_subscriber::layer::SubscriberExt as _;

    let scores = Scores::default();
    let subscriber = tracing_subscriber::registry().with(scores.clone());
    let _guard = tracing::subscriber::set_default(subscriber);
    let swarm = builder().required("a", fine()).required("b", fine()).optional("c", broken());
    drop(swarm.build().unwrap().invoke("AAPL").await.unwrap());
    // One that fails has no level.
    assert!(some_fail(1, 1).invoke("AAPL").await.is_err());
    let expected = concat!(
        r#"swarm_with_degradation name="degradation_level" value=1 "#,
        "comment=Success rate: 66.7%"
    );
    assert_eq!(*scores.0.lock().unwrap(), [expected]);
}

#[test]
fn swarms_and_their_futures_go_to_other_threads() {
    fn shared<T: Send + Sync + Clone>(_: &T) {}
    fn sent<T: Send>(_: &T) {}
    let mut swarm = builder().required("a", fine()).build().unwrap();
    shared(&swarm);
    sent(&swarm.call("AAPL"));
    sent(&swarm.invoke("AAPL"));
}

#[cfg(feature = "http")]
#[tokio::test(start_paused = true)]
async fn a_critical_degradation_answers_over_http_as_its_failure_does() {
    let swarm = builder().required("hangs", hanging()).deadline(SECOND).build().unwrap();
    let error = swarm.invoke("AAPL").await.unwrap_err();
    assert_eq!(error.status(), 504);
    let error = some_fail(1, 1).invoke("AAPL").await.unwrap_err();
    assert_eq!(error.to_response().status(), 502);
}
