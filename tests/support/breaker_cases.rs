//! Runs cases of the format `buttress-breaker-cases/1` through the public API of the breaker.

use std::{
    collections::HashMap,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use buttress::{
    AfterLease, Circuit, CircuitBreaker, CircuitBreakerConfig, CircuitBreakerLayer, Error,
    ErrorKind, Failure, FailureKind, HalfOpen, Window, circuit_breaker::Subscription,
};
use serde::Deserialize;
use serde_json::Value;
use tower::{Layer, Service};

/// A period that outlasts every case: the format's "no lease".
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    config: Config,
    steps: Vec<Step>,
    #[serde(rename = "source")]
    _source: Option<String>,
    #[serde(rename = "note")]
    _note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    window: WindowConfig,
    open_ms: u64,
    half_open: HalfOpenConfig,
    slow: Option<Slow>,
    drop_is_failure_after_ms: Option<u64>,
    open_backoff: Option<OpenBackoff>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WindowConfig {
    kind: WindowKind,
    /// Failures in a row: the rule of kind `consecutive`, beside the rate of the others.
    #[serde(alias = "consecutive", alias = "consecutive_failures")]
    failures: Option<u32>,
    size: Option<usize>,
    span_ms: Option<u64>,
    buckets: Option<usize>,
    min_calls: Option<u64>,
    failure_rate: Option<f64>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "snake_case")]
enum WindowKind {
    Consecutive,
    Count,
    Time,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HalfOpenConfig {
    permits: u32,
    successes: Option<u32>,
    judge: Judge,
    max_ms: Option<u64>,
    then: Option<Then>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Judge {
    Consecutive,
    Rate,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Then {
    Open,
    Closed,
    HalfOpen,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Slow {
    threshold_ms: u64,
    rate: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenBackoff {
    multiplier: f64,
    max_ms: u64,
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum Step {
    Start { id: String, expect: Option<Expect> },
    Finish { id: String, outcome: Outcome, expect: Option<Expect> },
    Drop { id: String, expect: Option<Expect> },
    Call { outcome: Outcome, repeat: Option<u32>, took_ms: Option<u64>, expect: Option<Expect> },
    AdvanceMs { ms: u64, expect: Option<Expect> },
    Force { to: Force, ms: Option<u64>, expect: Option<Expect> },
    Configure { config: Config, expect: Option<Expect> },
    State { expect: Option<Expect> },
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Ok,
    Err,
    Ignored,
    Panic,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Force {
    Open,
    HalfOpen,
    ForcedOpen,
    Disabled,
    MetricsOnly,
    Closed,
    Reset,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    permitted: Option<bool>,
    reason: Option<String>,
    state: Option<String>,
    retry_after_ms: Option<u64>,
    not_permitted: Option<u64>,
    late: Option<u64>,
    cancelled: Option<u64>,
    ignored: Option<u64>,
    calls: Option<u64>,
    failure_rate: Option<f64>,
    slow_rate: Option<f64>,
    consecutive_failures: Option<u32>,
    transitions: Option<Vec<String>>,
}

/// Runs every case; returns how many ran.
///
/// # Panics
///
/// If a case does not hold, or holds something that this runner does not understand.
pub async fn run(cases: &Value) -> usize {
    assert_eq!(cases["format"], "buttress-breaker-cases/1");
    let cases = cases["cases"].as_array().expect("`cases` is a list");
    for case in cases {
        let name = case["name"].as_str().unwrap_or("?").to_owned();
        let case = Case::deserialize(case)
            .unwrap_or_else(|error| panic!("{name}: not understood: {error}"));
        Bench::new(&case.config).run(&case).await;
    }
    cases.len()
}

/// A service whose answers the case gives.
#[derive(Clone, Default)]
struct Held {
    /// Where the answer of the call that is made next comes from.
    next: Arc<Mutex<Option<Answer>>>,
}

type Answer = Arc<Mutex<Option<Outcome>>>;

struct HeldFuture(Answer);

impl Service<()> for Held {
    type Response = ();
    type Error = Failure;
    type Future = HeldFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> HeldFuture {
        HeldFuture(self.next.lock().unwrap().clone().expect("a call is prepared"))
    }
}

impl Future for HeldFuture {
    type Output = Result<(), Failure>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        match *self.0.lock().unwrap() {
            None => Poll::Pending,
            Some(Outcome::Ok) => Poll::Ready(Ok(())),
            Some(Outcome::Err) => Poll::Ready(Err(Failure::new(FailureKind::Transient))),
            Some(Outcome::Ignored) => Poll::Ready(Err(Failure::new(FailureKind::InvalidRequest))),
            // Unwinds as a panic does, without the message of the panic hook.
            Some(Outcome::Panic) => std::panic::resume_unwind(Box::new("scripted")),
        }
    }
}

type Call = Pin<Box<<CircuitBreaker<Held> as Service<()>>::Future>>;

struct Bench {
    service: CircuitBreaker<Held>,
    held: Held,
    circuit: Circuit,
    running: HashMap<String, (Call, Answer)>,
    transitions: Arc<Mutex<Vec<String>>>,
    _subscription: Subscription,
    /// The rejection of the last call, if it was one.
    rejection: Option<Error>,
}

impl Bench {
    fn new(config: &Config) -> Self {
        let layer = config.layer();
        let circuit = layer.circuit();
        let transitions = Arc::new(Mutex::new(Vec::new()));
        let subscription = circuit.subscribe({
            let transitions = Arc::clone(&transitions);
            move |change| {
                transitions.lock().unwrap().push(format!("{}->{}", change.from, change.to));
            }
        });
        let held = Held::default();
        Self {
            service: layer.layer(held.clone()),
            held,
            circuit,
            running: HashMap::new(),
            transitions,
            _subscription: subscription,
            rejection: None,
        }
    }

    async fn run(&mut self, case: &Case) {
        for (place, step) in case.steps.iter().enumerate() {
            let expect = self.step(step).await;
            if let Some(expect) = expect {
                self.check(&format!("{}, step {place}", case.name), expect);
            }
        }
    }

    async fn step<'a>(&mut self, step: &'a Step) -> Option<&'a Expect> {
        match step {
            Step::Start { id, expect } => {
                if let Some(running) = self.start() {
                    assert!(self.running.insert(id.clone(), running).is_none(), "{id} runs twice");
                }
                expect.as_ref()
            }
            Step::Finish { id, outcome, expect } => {
                let (call, answer) = self.running.remove(id).expect("a call of this id runs");
                finish(call, &answer, *outcome);
                expect.as_ref()
            }
            Step::Drop { id, expect } => {
                drop(self.running.remove(id).expect("a call of this id runs"));
                expect.as_ref()
            }
            Step::Call { outcome, repeat, took_ms, expect } => {
                for _ in 0..repeat.unwrap_or(1) {
                    let running = self.start();
                    if let Some(took) = took_ms {
                        tokio::time::advance(Duration::from_millis(*took)).await;
                    }
                    if let Some((call, answer)) = running {
                        finish(call, &answer, *outcome);
                    }
                }
                expect.as_ref()
            }
            Step::AdvanceMs { ms, expect } => {
                tokio::time::advance(Duration::from_millis(*ms)).await;
                expect.as_ref()
            }
            Step::Force { to, ms, expect } => {
                self.force(*to, *ms);
                expect.as_ref()
            }
            Step::Configure { config, expect } => {
                self.circuit.reconfigure(config.for_reconfigure()).expect("a valid config");
                expect.as_ref()
            }
            Step::State { expect } => expect.as_ref(),
        }
    }

    /// Starts a call; nothing if it was rejected.
    fn start(&mut self) -> Option<(Call, Answer)> {
        let answer = Answer::default();
        *self.held.next.lock().unwrap() = Some(Arc::clone(&answer));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(self.service.poll_ready(&mut cx), Poll::Ready(Ok(()))), "always ready");
        let mut call = Box::pin(self.service.call(()));
        match call.as_mut().poll(&mut cx) {
            Poll::Pending => {
                self.rejection = None;
                Some((call, answer))
            }
            Poll::Ready(Err(error)) if error.is_circuit_open() => {
                self.rejection = Some(error);
                None
            }
            Poll::Ready(other) => panic!("a held call does not answer: {other:?}"),
        }
    }

    fn force(&self, to: Force, ms: Option<u64>) {
        match (to, ms) {
            (Force::Open, None) => self.circuit.trip(),
            (Force::Open, Some(ms)) => self.circuit.trip_for(Duration::from_millis(ms)),
            (Force::HalfOpen, None) => self.circuit.force_half_open(),
            (Force::ForcedOpen, None) => self.circuit.force_open(),
            (Force::Disabled, None) => self.circuit.disable(),
            (Force::MetricsOnly, None) => self.circuit.metrics_only(),
            (Force::Closed | Force::Reset, None) => self.circuit.reset(),
            (_, Some(_)) => panic!("only `open` is forced for a time"),
        }
    }

    fn check(&self, place: &str, expect: &Expect) {
        let now = self.circuit.snapshot();
        let reason = self.rejection.as_ref().map(|error| match error.kind() {
            ErrorKind::CircuitOpen { reason, .. } => reason.as_str().to_owned(),
            other => panic!("{place}: not a rejection: {other:?}"),
        });
        let retry_after = match &self.rejection {
            Some(error) => error.retry_after(),
            None => now.retry_after,
        };
        same(place, "permitted", expect.permitted, self.rejection.is_none());
        same(place, "reason", expect.reason.clone().map(Some), reason);
        same(place, "state", expect.state.clone(), now.state.as_str().to_owned());
        let expected_wait = expect.retry_after_ms.map(|ms| Some(Duration::from_millis(ms)));
        same(place, "retry_after_ms", expected_wait, retry_after.or(now.retry_after));
        same(place, "not_permitted", expect.not_permitted, now.not_permitted);
        same(place, "late", expect.late, now.late);
        same(place, "cancelled", expect.cancelled, now.cancelled);
        same(place, "ignored", expect.ignored, now.ignored);
        same(place, "calls", expect.calls, now.calls);
        close(place, "failure_rate", expect.failure_rate, now.failure_rate);
        close(place, "slow_rate", expect.slow_rate, now.slow_rate);
        let failures = now.consecutive_failures;
        same(place, "consecutive_failures", expect.consecutive_failures, failures);
        let transitions = self.transitions.lock().unwrap().clone();
        same(place, "transitions", expect.transitions.clone(), transitions);
    }
}

fn finish(mut call: Call, answer: &Answer, outcome: Outcome) {
    *answer.lock().unwrap() = Some(outcome);
    let mut cx = Context::from_waker(Waker::noop());
    let poll = AssertUnwindSafe(|| call.as_mut().poll(&mut cx));
    let result = std::panic::catch_unwind(poll);
    assert_eq!(result.is_err(), outcome == Outcome::Panic, "only a panic unwinds");
    if let Ok(poll) = result {
        assert!(poll.is_ready(), "an answered call is done");
    }
}

#[track_caller]
fn same<T: PartialEq + std::fmt::Debug>(place: &str, what: &str, expect: Option<T>, is: T) {
    if let Some(expect) = expect {
        assert!(expect == is, "{place}: {what} is {is:?}, not {expect:?}");
    }
}

#[track_caller]
fn close(place: &str, what: &str, expect: Option<f64>, is: f64) {
    if let Some(expect) = expect {
        assert!((expect - is).abs() < 1e-9, "{place}: {what} is {is}, not {expect}");
    }
}

impl Config {
    fn layer(&self) -> CircuitBreakerLayer {
        let millis = Duration::from_millis;
        let mut layer = CircuitBreakerLayer::new("case")
            .open_for(millis(self.open_ms))
            .max_open(FOR_EVER)
            .half_open(self.half_open.half_open())
            .half_open_lease(self.half_open.lease(), self.half_open.after());
        if let Some(failures) = self.window.failures {
            layer = layer.consecutive_failures(failures);
        }
        if let Some(rate) = self.window.failure_rate {
            layer = layer.failure_rate(rate);
        }
        if let Some(calls) = self.window.min_calls {
            layer = layer.minimum_calls(calls);
        }
        if let Some(window) = self.window.window() {
            layer = layer.window(window);
        }
        if let Some(slow) = &self.slow {
            layer = layer.slow_call(millis(slow.threshold_ms), slow.rate);
        }
        if let Some(after) = self.drop_is_failure_after_ms {
            layer = layer.drop_is_failure_after(millis(after));
        }
        if let Some(growth) = &self.open_backoff {
            layer = layer.open_growth(growth.multiplier, millis(growth.max_ms));
        }
        layer
    }

    fn for_reconfigure(&self) -> CircuitBreakerConfig {
        let millis = Duration::from_millis;
        let window = &self.window;
        let mut config = CircuitBreakerConfig::default();
        config.consecutive_failures = window.failures;
        config.failure_rate = window.failure_rate;
        config.minimum_calls = window.min_calls;
        config.window_calls = window.size;
        config.window_time = window.span_ms.map(millis);
        config.window_buckets = window.buckets;
        config.open_for = Some(millis(self.open_ms));
        config.max_open = Some(FOR_EVER);
        config.half_open_permits = Some(self.half_open.permits);
        config.half_open_successes = self.half_open.successes;
        config.half_open = Some(match self.half_open.judge {
            Judge::Consecutive => "consecutive".to_owned(),
            Judge::Rate => "rate".to_owned(),
        });
        config.half_open_lease = Some(self.half_open.lease());
        config.after_lease = Some(match self.half_open.after() {
            AfterLease::Open => "open".to_owned(),
            AfterLease::Closed => "closed".to_owned(),
            _ => "renew".to_owned(),
        });
        config.slow_call = self.slow.as_ref().map(|slow| millis(slow.threshold_ms));
        config.slow_call_rate = self.slow.as_ref().map(|slow| slow.rate);
        config.drop_is_failure_after = self.drop_is_failure_after_ms.map(millis);
        config.open_growth = self.open_backoff.as_ref().map(|growth| growth.multiplier);
        config.open_growth_max = self.open_backoff.as_ref().map(|growth| millis(growth.max_ms));
        config
    }
}

impl WindowConfig {
    fn window(&self) -> Option<Window> {
        match self.kind {
            WindowKind::Consecutive => {
                assert!(self.failures.is_some(), "a consecutive window names its failures");
                None
            }
            WindowKind::Count => Some(Window::calls(self.size.expect("a count has a size"))),
            WindowKind::Time => {
                let span = Duration::from_millis(self.span_ms.expect("a time has a span"));
                let window = Window::time(span);
                Some(self.buckets.map_or(window, |buckets| window.buckets(buckets)))
            }
        }
    }
}

impl HalfOpenConfig {
    fn half_open(&self) -> HalfOpen {
        match self.judge {
            Judge::Consecutive => {
                HalfOpen::consecutive(self.permits, self.successes.unwrap_or(self.permits))
            }
            Judge::Rate => HalfOpen::rate(self.permits),
        }
    }

    fn lease(&self) -> Duration {
        match self.max_ms {
            None | Some(0) => FOR_EVER,
            Some(ms) => Duration::from_millis(ms),
        }
    }

    const fn after(&self) -> AfterLease {
        match self.then {
            Some(Then::Open) => AfterLease::Open,
            Some(Then::Closed) => AfterLease::Closed,
            None | Some(Then::HalfOpen) => AfterLease::Renew,
        }
    }
}
