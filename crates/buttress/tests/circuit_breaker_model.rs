//! The breaker against a plain, slow model of its rules, over random sequences of events.
#![cfg(all(feature = "full", feature = "test-util"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use buttress::{
    AfterLease, CircuitBreaker, CircuitBreakerLayer, Failure, FailureKind, HalfOpen, Window,
};
use proptest::prelude::*;
use tower::{Layer, Service};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    Ok,
    Err,
    Ignored,
    Panic,
    Dropped,
}

#[derive(Debug, Clone)]
enum Event {
    Start,
    /// Ends the n-th of the calls that are on their way.
    End(usize, Outcome),
    Advance(u64),
    Trip,
    TripFor(u64),
    ForceOpen,
    Disable,
    MetricsOnly,
    Reset,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Consecutive,
    Count { size: usize },
    Time { span: u64, buckets: u64 },
}

#[derive(Debug, Clone)]
struct Rules {
    kind: Kind,
    consecutive: Option<u32>,
    rate: Option<f64>,
    slow: Option<(u64, f64)>,
    minimum: u64,
    open: u64,
    growth: Option<(u32, u64)>,
    permits: u32,
    /// None: judged by rate.
    successes: Option<u32>,
    lease: u64,
    after: AfterLease,
    drop_fails: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Closed,
    Open { until: u64 },
    HalfOpen { since: u64 },
    ForcedOpen,
    Disabled,
    MetricsOnly,
}

/// The model: every result ever, judged from scratch each time.
struct Model {
    rules: Rules,
    now: u64,
    state: State,
    generation: u64,
    /// Time, failed, slow; of this generation.
    results: Vec<(u64, bool, bool)>,
    in_flight: u32,
    opened: u32,
    late: u64,
    cancelled: u64,
    ignored: u64,
    not_permitted: u64,
}

impl Model {
    fn new(rules: Rules) -> Self {
        Self {
            rules,
            now: 0,
            state: State::Closed,
            generation: 0,
            results: Vec::new(),
            in_flight: 0,
            opened: 0,
            late: 0,
            cancelled: 0,
            ignored: 0,
            not_permitted: 0,
        }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
        self.in_flight = 0;
        // An open circuit still shows what opened it.
        if !matches!(state, State::Open { .. } | State::ForcedOpen | State::HalfOpen { .. }) {
            self.results.clear();
            self.opened = 0;
        } else if matches!(state, State::HalfOpen { .. }) {
            self.results.retain(|_| false);
        }
    }

    fn open(&mut self, at: u64, time: Option<u64>) {
        let grown = match self.rules.growth {
            None => self.rules.open,
            Some((factor, max)) => {
                let factor = u64::from(factor).saturating_pow(self.opened.min(40));
                self.rules.open.saturating_mul(factor).min(max)
            }
        };
        self.opened += 1;
        self.enter(State::Open { until: at + time.unwrap_or(grown) });
    }

    fn catch_up(&mut self) {
        loop {
            match self.state {
                State::Open { until } if self.now >= until => {
                    self.enter(State::HalfOpen { since: until });
                }
                State::HalfOpen { since } if self.now >= since + self.rules.lease => {
                    let due = since + self.rules.lease;
                    match self.rules.after {
                        AfterLease::Open => self.open(due, None),
                        AfterLease::Closed => self.enter(State::Closed),
                        _ => self.enter(State::HalfOpen { since: due }),
                    }
                }
                _ => return,
            }
        }
    }

    fn start(&mut self) -> Option<(u64, u64)> {
        self.catch_up();
        let admitted = match self.state {
            State::Closed | State::Disabled | State::MetricsOnly => true,
            State::Open { .. } | State::ForcedOpen => false,
            State::HalfOpen { .. } => {
                let done = u32::try_from(self.results.len()).unwrap();
                match self.rules.successes {
                    Some(needed) => {
                        self.in_flight < self.rules.permits && self.in_flight + done < needed
                    }
                    None => self.in_flight + done < self.rules.permits,
                }
            }
        };
        if !admitted {
            self.not_permitted += 1;
            return None;
        }
        self.in_flight += 1;
        Some((self.generation, self.now))
    }

    fn end(&mut self, (generation, start): (u64, u64), outcome: Outcome) {
        self.catch_up();
        if generation != self.generation {
            self.late += 1;
            return;
        }
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.state == State::Disabled {
            return;
        }
        let took = self.now - start;
        let failed = match outcome {
            Outcome::Ok => false,
            Outcome::Err | Outcome::Panic => true,
            Outcome::Ignored => {
                self.ignored += 1;
                return;
            }
            Outcome::Dropped if self.rules.drop_fails.is_some_and(|after| took >= after) => true,
            Outcome::Dropped => {
                self.cancelled += 1;
                return;
            }
        };
        let slow = self.rules.slow.is_some_and(|(limit, _)| took > limit);
        self.results.push((self.now, failed, slow));
        match self.state {
            State::Closed if self.trips() => self.open(self.now, None),
            State::HalfOpen { .. } => self.judge(failed),
            _ => (),
        }
    }

    fn judge(&mut self, failed: bool) {
        match self.rules.successes {
            Some(_) if failed => self.open(self.now, None),
            Some(needed) if self.results.len() >= needed as usize => self.enter(State::Closed),
            Some(_) => (),
            None if self.results.len() >= self.rules.permits as usize => {
                let (calls, failures, slow) = count(&self.results);
                let by_slow = self.rules.slow.is_some_and(|(_, limit)| slow / calls >= limit);
                let limit = self.rules.rate.or(self.rules.slow.is_none().then_some(0.5));
                if by_slow || limit.is_some_and(|limit| failures / calls >= limit) {
                    self.open(self.now, None);
                } else {
                    self.enter(State::Closed);
                }
            }
            None => (),
        }
    }

    fn window(&self) -> Vec<(u64, bool, bool)> {
        if self.rules.rate.is_none() && self.rules.slow.is_none() {
            return Vec::new();
        }
        match self.rules.kind {
            Kind::Consecutive => {
                let oldest = (self.now / 6_000).saturating_sub(9);
                self.results.iter().filter(|(at, ..)| at / 6_000 >= oldest).copied().collect()
            }
            Kind::Count { size } => {
                self.results[self.results.len().saturating_sub(size)..].to_vec()
            }
            Kind::Time { span, buckets } => {
                // Buckets are counted from the first result of the generation.
                let Some((origin, ..)) = self.results.first() else { return Vec::new() };
                let width = span / buckets;
                let current = (self.now - origin) / width;
                let oldest = (current + 1).saturating_sub(buckets);
                let fits = |at: u64| (at - origin) / width >= oldest;
                self.results.iter().filter(|(at, ..)| fits(*at)).copied().collect()
            }
        }
    }

    fn consecutive(&self) -> usize {
        self.results.iter().rev().take_while(|(_, failed, _)| *failed).count()
    }

    fn trips(&self) -> bool {
        if self.rules.consecutive.is_some_and(|limit| self.consecutive() >= limit as usize) {
            return true;
        }
        let window = self.window();
        let minimum = match self.rules.kind {
            Kind::Count { size } => self.rules.minimum.min(size as u64),
            _ => self.rules.minimum,
        };
        if (window.len() as u64) < minimum || window.is_empty() {
            return false;
        }
        let (calls, failures, slow) = count(&window);
        self.rules.rate.is_some_and(|limit| failures / calls >= limit)
            || self.rules.slow.is_some_and(|(_, limit)| slow / calls >= limit)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a few hundred results")]
fn count(results: &[(u64, bool, bool)]) -> (f64, f64, f64) {
    let failures = results.iter().filter(|(_, failed, _)| *failed).count();
    let slow = results.iter().filter(|(.., slow)| *slow).count();
    (results.len() as f64, failures as f64, slow as f64)
}

type Answer = Arc<Mutex<Option<Outcome>>>;

#[derive(Clone, Default)]
struct Held(Arc<Mutex<Answer>>);

struct HeldFuture(Answer);

impl Service<()> for Held {
    type Response = ();
    type Error = Failure;
    type Future = HeldFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> HeldFuture {
        let answer = Answer::default();
        *self.0.lock().unwrap() = Arc::clone(&answer);
        HeldFuture(answer)
    }
}

impl Future for HeldFuture {
    type Output = Result<(), Failure>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        match *self.0.lock().unwrap() {
            None | Some(Outcome::Dropped) => Poll::Pending,
            Some(Outcome::Ok) => Poll::Ready(Ok(())),
            Some(Outcome::Err) => Poll::Ready(Err(Failure::new(FailureKind::Transient))),
            Some(Outcome::Ignored) => Poll::Ready(Err(Failure::new(FailureKind::NotFound))),
            Some(Outcome::Panic) => std::panic::resume_unwind(Box::new("scripted")),
        }
    }
}

type Call = Pin<Box<<CircuitBreaker<Held> as Service<()>>::Future>>;

fn layer(rules: &Rules) -> CircuitBreakerLayer {
    let millis = Duration::from_millis;
    let mut layer = CircuitBreakerLayer::new("model")
        .open_for(millis(rules.open))
        .max_open(Duration::from_secs(1 << 30))
        .minimum_calls(rules.minimum)
        .half_open(match rules.successes {
            Some(successes) => HalfOpen::consecutive(rules.permits, successes),
            None => HalfOpen::rate(rules.permits),
        })
        .half_open_lease(millis(rules.lease), rules.after);
    layer = match rules.kind {
        Kind::Consecutive => layer,
        Kind::Count { size } => layer.window(Window::calls(size)),
        Kind::Time { span, buckets } => {
            layer.window(Window::time(millis(span)).buckets(usize::try_from(buckets).unwrap()))
        }
    };
    if let Some(failures) = rules.consecutive {
        layer = layer.consecutive_failures(failures);
    }
    if let Some(rate) = rules.rate {
        layer = layer.failure_rate(rate);
    }
    if let Some((limit, rate)) = rules.slow {
        layer = layer.slow_call(millis(limit), rate);
    }
    if let Some((factor, max)) = rules.growth {
        layer = layer.open_growth(f64::from(factor), millis(max));
    }
    if let Some(after) = rules.drop_fails {
        layer = layer.drop_is_failure_after(millis(after));
    }
    layer
}

async fn compare(rules: Rules, events: Vec<Event>) {
    let layer = layer(&rules);
    let circuit = layer.circuit();
    let held = Held::default();
    let mut service = layer.layer(held.clone());
    let mut model = Model::new(rules);
    let mut running: Vec<(Call, Answer, (u64, u64))> = Vec::new();
    let mut cx = Context::from_waker(Waker::noop());
    for (step, event) in events.into_iter().enumerate() {
        let shown = format!("step {step}: {event:?}");
        match event {
            Event::Start => {
                assert!(service.poll_ready(&mut cx).is_ready());
                let mut call: Call = Box::pin(service.call(()));
                let admitted = call.as_mut().poll(&mut cx).is_pending();
                let expected = model.start();
                assert_eq!(admitted, expected.is_some(), "{shown}: admitted");
                if let Some(permit) = expected {
                    running.push((call, Arc::clone(&held.0.lock().unwrap()), permit));
                }
            }
            Event::End(place, outcome) if !running.is_empty() => {
                let (mut call, answer, permit) = running.remove(place % running.len());
                model.end(permit, outcome);
                *answer.lock().unwrap() = Some(outcome);
                let poll = AssertUnwindSafe(|| {
                    drop(call.as_mut().poll(&mut cx));
                    drop(call);
                });
                let unwound = std::panic::catch_unwind(poll).is_err();
                assert_eq!(unwound, outcome == Outcome::Panic, "{shown}");
            }
            Event::End(..) => (),
            Event::Advance(ms) => {
                tokio::time::advance(Duration::from_millis(ms)).await;
                model.now += ms;
            }
            Event::Trip | Event::TripFor(_) => {
                model.catch_up();
                let time = if let Event::TripFor(ms) = event { Some(ms) } else { None };
                match time {
                    None => circuit.trip(),
                    Some(ms) => circuit.trip_for(Duration::from_millis(ms)),
                }
                if !matches!(model.state, State::Open { .. }) {
                    model.open(model.now, time);
                }
            }
            Event::ForceOpen => {
                circuit.force_open();
                model.catch_up();
                model.enter(State::ForcedOpen);
            }
            Event::Disable => {
                circuit.disable();
                model.catch_up();
                model.enter(State::Disabled);
            }
            Event::MetricsOnly => {
                circuit.metrics_only();
                model.catch_up();
                model.enter(State::MetricsOnly);
            }
            Event::Reset => {
                circuit.reset();
                model.catch_up();
                model.enter(State::Closed);
            }
        }
        model.catch_up();
        let now = circuit.snapshot();
        let state = match model.state {
            State::Closed => "closed",
            State::Open { .. } => "open",
            State::HalfOpen { .. } => "half_open",
            State::ForcedOpen => "forced_open",
            State::Disabled => "disabled",
            State::MetricsOnly => "metrics_only",
        };
        assert_eq!(now.state.as_str(), state, "{shown}: state");
        if let State::Open { until } = model.state {
            let left = Duration::from_millis(until - model.now);
            assert_eq!(now.retry_after, Some(left), "{shown}: retry_after");
        }
        let counters = (now.late, now.cancelled, now.ignored, now.not_permitted);
        let expected = (model.late, model.cancelled, model.ignored, model.not_permitted);
        assert_eq!(counters, expected, "{shown}: late, cancelled, ignored, not permitted");
        if matches!(model.state, State::Closed | State::MetricsOnly) {
            assert_eq!(now.consecutive_failures as usize, model.consecutive(), "{shown}: failures");
            assert_eq!(now.calls, model.window().len() as u64, "{shown}: calls");
        }
    }
}

fn rules() -> impl Strategy<Value = Rules> {
    let kind = prop_oneof![
        Just(Kind::Consecutive),
        (1_usize..8).prop_map(|size| Kind::Count { size }),
        (1_u64..5, 1_u64..5)
            .prop_map(|(width, buckets)| Kind::Time { span: width * 500 * buckets, buckets }),
    ];
    let rate = prop_oneof![Just(0.3), Just(0.5), Just(1.0)];
    let half_open = prop_oneof![
        (1_u32..4, 0_u32..3).prop_map(|(permits, more)| (permits, Some(permits + more))),
        (1_u32..4).prop_map(|permits| (permits, None)),
    ];
    let after =
        prop_oneof![Just(AfterLease::Open), Just(AfterLease::Closed), Just(AfterLease::Renew)];
    (
        (kind, proptest::option::of(1_u32..5), proptest::option::of(rate.clone())),
        (proptest::option::of((0_u64..1_500, rate)), 1_u64..6, 1_u64..5),
        (proptest::option::of((1_u32..4, 1_u64..20)), half_open),
        (1_u64..6, after, proptest::option::of(0_u64..2_000)),
    )
        .prop_map(
            |((kind, consecutive, rate), (slow, minimum, open), (growth, half), rest)| {
                let (lease, after, drop_fails) = rest;
                let open = open * 700;
                // A window is one of results, so a rule without a rate has none.
                let (rate, slow) = match kind {
                    Kind::Consecutive => (None, None),
                    _ => (rate, slow),
                };
                let consecutive = match (rate, slow, consecutive) {
                    (None, None, None) => Some(5),
                    (.., consecutive) => consecutive,
                };
                Rules {
                    kind,
                    consecutive,
                    rate,
                    slow,
                    minimum,
                    open,
                    growth: growth.map(|(factor, max)| (factor, max * 1_000)),
                    permits: half.0,
                    successes: half.1,
                    lease: lease * 900,
                    after,
                    drop_fails,
                }
            },
        )
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let outcome = prop_oneof![
        4 => Just(Outcome::Ok),
        5 => Just(Outcome::Err),
        1 => Just(Outcome::Ignored),
        1 => Just(Outcome::Panic),
        1 => Just(Outcome::Dropped),
    ];
    let event = prop_oneof![
        20 => Just(Event::Start),
        20 => (0_usize..4, outcome).prop_map(|(place, outcome)| Event::End(place, outcome)),
        8 => (0_u64..2_500).prop_map(Event::Advance),
        1 => Just(Event::Trip),
        1 => (1_u64..5_000).prop_map(Event::TripFor),
        1 => prop_oneof![
            Just(Event::ForceOpen),
            Just(Event::Disable),
            Just(Event::MetricsOnly),
            Just(Event::Reset)
        ],
        2 => Just(Event::Reset),
    ];
    proptest::collection::vec(event, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_breaker_does_what_the_model_does(rules in rules(), events in events()) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(compare(rules, events));
    }
}
