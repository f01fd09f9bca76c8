//! Runs cases of the format `buttress-retry-cases/1` through the public API of the retry.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, SystemTime},
};

use buttress::{
    AnyError, BoxError, Classify, ExponentialBackoff, Failure, FailureKind, Jitter, LlmClassifier,
    Outcome, OverCap, RetryBudget, RetryLayer, Stop, TimeoutLayer,
};
use bytes::Bytes;
use http::Response;
use serde::Deserialize;
use serde_json::Value;
use tower::{Layer, Service, ServiceExt};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    config: Config,
    responses: Vec<Reply>,
    expect: Expect,
    #[serde(rename = "source")]
    _source: Option<String>,
    #[serde(rename = "note")]
    _note: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    max_attempts: usize,
    base_ms: u64,
    factor: f64,
    max_delay_ms: u64,
    jitter: Spread,
    retry_after: RetryAfter,
    deadline_ms: Option<u64>,
    #[serde(default = "yes")]
    idempotent: bool,
    budget: Option<Budget>,
    #[serde(default)]
    already_retried_by_outer: bool,
    attempt_timeout_ms: Option<u64>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Spread {
    None,
    Minus25,
    Full,
    Equal,
    Decorrelated,
    Plusminus50Capped,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RetryAfter {
    cap_ms: u64,
    over: Over,
    mode: Option<Mode>,
    add_ms: Option<u64>,
    jitter_up: Option<f64>,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Over {
    Stop,
    Backoff,
    Clamp,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum Mode {
    ClampAboveBackoff,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Budget {
    Token {
        capacity: u64,
        tokens: u64,
        cost: HashMap<String, u64>,
        success_refill: u64,
    },
    Ratio {
        max_ratio: f64,
        min_concurrency: usize,
        in_flight_retries: usize,
        in_flight_total: usize,
    },
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct Reply {
    status: Option<u16>,
    kind: Option<Kind>,
    code: Option<String>,
    #[serde(default)]
    headers: HashMap<String, String>,
    #[serde(default)]
    took_ms: u64,
    content_sent: Option<bool>,
}

#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Connect,
    Reset,
    Timeout,
    Cancelled,
    CircuitOpen,
    StreamError,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Expect {
    attempts: Option<usize>,
    outcome: Option<String>,
    stop: Option<String>,
    delays_ms: Option<Vec<[u64; 2]>>,
    tokens_left: Option<u64>,
}

/// Runs every case; returns how many ran.
///
/// # Panics
///
/// If a case does not hold, or holds something that this runner does not understand.
pub async fn run(cases: &Value) -> usize {
    assert_eq!(cases["format"], "buttress-retry-cases/1");
    let cases = cases["cases"].as_array().expect("`cases` is a list");
    for case in cases {
        let name = case["name"].as_str().unwrap_or("?").to_owned();
        let case = Case::deserialize(case)
            .unwrap_or_else(|error| panic!("{name}: not understood: {error}"));
        // Randomness must stay in its bounds whatever the seed.
        for seed in 0..if case.config.is_random() { 32 } else { 1 } {
            case.run(seed).await;
        }
    }
    cases.len()
}

/// What a finished series told its listener.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Option<(usize, Vec<Duration>, Stop)>>>);

impl Case {
    async fn run(&self, seed: u64) {
        let told = Told::default();
        let budget = self.config.budget.as_ref().map(Budget::build);
        let layer = self.layer(seed, budget.clone(), told.clone());
        let held = self.hold(&layer).await;
        let service = Provider::new(self.responses.clone());
        let outcome = match (self.config.attempt_timeout_ms, self.config.already_retried_by_outer) {
            (None, false) => judge(layer.layer(service).oneshot(()).await),
            (None, true) => {
                let outer = RetryLayer::new(1).outermost();
                judge(outer.layer(layer.layer(service)).oneshot(()).await)
            }
            (Some(ms), outer) => {
                assert!(!outer, "{}: a timeout inside nested retries is not used", self.name);
                let timeout = TimeoutLayer::new(Duration::from_millis(ms)).classify(classifier());
                judge(layer.layer(timeout.layer(service)).oneshot(()).await)
            }
        };
        drop(held);
        self.check(&told, &outcome, budget.as_ref());
    }

    fn layer(
        &self,
        seed: u64,
        budget: Option<RetryBudget>,
        told: Told,
    ) -> RetryLayer<LlmClassifier> {
        let config = &self.config;
        let millis = Duration::from_millis;
        let mut layer = RetryLayer::new(config.max_attempts)
            .backoff(
                ExponentialBackoff::new(millis(config.base_ms))
                    .factor(config.factor)
                    .max(millis(config.max_delay_ms))
                    .jitter(config.jitter.jitter()),
            )
            .seed(seed)
            .idempotent(config.idempotent)
            .max_retry_after(millis(config.retry_after.cap_ms))
            .over_cap(match config.retry_after.over {
                Over::Stop => OverCap::Stop,
                Over::Backoff => OverCap::Backoff,
                Over::Clamp => OverCap::Clamp,
            })
            .on_finish(move |report| {
                let told = &mut *told.0.lock().unwrap();
                *told = Some((report.attempts, report.delays.to_vec(), report.stop));
            });
        match (config.retry_after.mode, config.retry_after.add_ms) {
            (None, None) => (),
            (Some(Mode::ClampAboveBackoff), Some(add)) => {
                layer = layer.retry_after_within(millis(add));
            }
            _ => panic!("{}: `mode` and `add_ms` belong together", self.name),
        }
        if let Some(share) = config.retry_after.jitter_up {
            layer = layer.retry_after_jitter(share);
        }
        if let Some(ms) = config.deadline_ms {
            layer = layer.deadline(millis(ms));
        }
        if let Some(budget) = budget {
            layer = layer.budget(budget);
        }
        layer.classify(classifier())
    }

    /// Puts the calls on their way that a budget by share counts: some in their first attempt,
    /// some in a retry. The case's own call is one of the total.
    async fn hold(
        &self,
        layer: &RetryLayer<LlmClassifier>,
    ) -> Vec<Pin<Box<dyn Future<Output = ()>>>> {
        let Some(Budget::Ratio { in_flight_retries, in_flight_total, .. }) = self.config.budget
        else {
            return Vec::new();
        };
        let mut held: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
        let layer = layer.clone().backoff([Duration::ZERO]).on_finish(|_| ());
        for place in 0..in_flight_total {
            let fails = usize::from(place < in_flight_retries);
            let service = layer.layer(Hanging { fails, calls: Arc::default() });
            let mut call: Pin<Box<dyn Future<Output = ()>>> = Box::pin(async move {
                drop(service.oneshot(()).await);
            });
            let mut cx = Context::from_waker(Waker::noop());
            assert!(call.as_mut().poll(&mut cx).is_pending(), "{}: a held call hangs", self.name);
            held.push(call);
        }
        held
    }

    fn check(&self, told: &Told, outcome: &str, budget: Option<&RetryBudget>) {
        let name = &self.name;
        let told = told.0.lock().unwrap();
        let (attempts, delays, stop) = told.as_ref().expect("a series tells its listener");
        let expect = &self.expect;
        if let Some(expected) = expect.attempts {
            assert_eq!(*attempts, expected, "{name}: attempts");
        }
        if let Some(expected) = &expect.outcome {
            assert_eq!(outcome, expected, "{name}: outcome");
        }
        if let Some(expected) = &expect.stop {
            assert_eq!(stop.as_str(), expected, "{name}: stop");
        }
        if let Some(bounds) = &expect.delays_ms {
            assert_eq!(delays.len(), bounds.len(), "{name}: number of delays, {delays:?}");
            for (delay, [min, max]) in delays.iter().zip(bounds) {
                let range = Duration::from_millis(*min)..=Duration::from_millis(*max);
                assert!(range.contains(delay), "{name}: {delay:?} is not in {range:?}");
            }
        }
        if let Some(expected) = expect.tokens_left {
            let budget = budget.expect("tokens are of a budget");
            assert_eq!(budget.available(), expected, "{name}: tokens left");
        }
        let max = Duration::from_millis(self.config.max_delay_ms);
        if self.config.max_attempts > 1_000 {
            assert!(delays[100..].iter().all(|delay| *delay == max), "{name}: late delays");
        }
    }
}

impl Config {
    fn is_random(&self) -> bool {
        !matches!(self.jitter, Spread::None) || self.retry_after.jitter_up.is_some()
    }
}

impl Spread {
    const fn jitter(self) -> Jitter {
        match self {
            Self::None => Jitter::None,
            Self::Minus25 => Jitter::Proportional { below: 0.25, above: 0.0 },
            Self::Full => Jitter::Full,
            Self::Equal => Jitter::Equal,
            Self::Decorrelated => Jitter::Decorrelated,
            Self::Plusminus50Capped => Jitter::Proportional { below: 0.5, above: 0.5 },
        }
    }
}

impl Budget {
    fn build(&self) -> RetryBudget {
        match self {
            Self::Token { capacity, tokens, cost, success_refill } => {
                let mut budget = RetryBudget::tokens(*capacity).refill(*success_refill);
                for (kind, cost) in cost {
                    budget = match kind.as_str() {
                        "default" => budget.cost(*cost),
                        kind => budget.cost_of(kind_of(kind), *cost),
                    };
                }
                budget.starting_at(*tokens)
            }
            Self::Ratio { max_ratio, min_concurrency, .. } => {
                RetryBudget::share(*max_ratio).at_least(*min_concurrency)
            }
        }
    }
}

/// Answers as the case says: the replies in their order, the last one repeats.
#[derive(Clone)]
struct Provider {
    replies: Arc<Vec<Reply>>,
    calls: Arc<AtomicUsize>,
}

impl Provider {
    fn new(replies: Vec<Reply>) -> Self {
        Self { replies: Arc::new(replies), calls: Arc::default() }
    }
}

impl Service<()> for Provider {
    type Response = Response<Bytes>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Bytes>, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        let place = self.calls.fetch_add(1, Ordering::Relaxed);
        let reply = self.replies[place.min(self.replies.len() - 1)].clone();
        Box::pin(async move {
            if reply.took_ms > 0 {
                tokio::time::sleep(Duration::from_millis(reply.took_ms)).await;
            }
            reply.give()
        })
    }
}

impl Reply {
    fn give(self) -> Result<Response<Bytes>, Failure> {
        let kind = match (self.status, self.kind) {
            (Some(status), None) => {
                let mut response = Response::builder().status(status);
                for (name, value) in &self.headers {
                    response = response.header(name, value);
                }
                let body = self.code.map_or_else(Bytes::new, |code| {
                    let error = serde_json::json!({"code": code, "type": code, "message": "x"});
                    Bytes::from(serde_json::json!({ "error": error }).to_string())
                });
                return Ok(response.body(body).expect("a valid answer"));
            }
            (None, Some(kind)) => kind,
            _ => panic!("a reply has a status or a kind"),
        };
        Err(match kind {
            Kind::Connect => Failure::new(FailureKind::Transient).with_unprocessed(true),
            Kind::Reset => Failure::new(FailureKind::Transient),
            Kind::Timeout => Failure::new(FailureKind::Timeout),
            Kind::Cancelled => Failure::new(FailureKind::Cancelled),
            Kind::CircuitOpen => Failure::new(FailureKind::CircuitOpen),
            Kind::StreamError => {
                let sent = self.content_sent.expect("a stream error says what was sent");
                // An error event of a stream is classified as the same error in an answer is.
                let code = self.code.expect("a stream error has a code");
                let body = serde_json::json!({"type": "error", "error": {"type": code}});
                let status = http::StatusCode::INTERNAL_SERVER_ERROR;
                let outcome = classifier().classify_body(
                    status,
                    &http::HeaderMap::new(),
                    body.to_string().as_bytes(),
                );
                let Outcome::Failure(failure) = outcome else { panic!("an error is a failure") };
                failure.with_after_output(sent)
            }
        })
    }
}

/// Fails some calls at once, then hangs.
#[derive(Clone)]
struct Hanging {
    fails: usize,
    calls: Arc<AtomicUsize>,
}

impl Service<()> for Hanging {
    type Response = Response<Bytes>;
    type Error = Failure;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Bytes>, Failure>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        if self.calls.fetch_add(1, Ordering::Relaxed) < self.fails {
            return Box::pin(std::future::ready(Err(Failure::new(FailureKind::Transient))));
        }
        Box::pin(std::future::pending())
    }
}

fn classifier() -> LlmClassifier {
    LlmClassifier::new().clock(|| SystemTime::UNIX_EPOCH + Duration::from_secs(1_696_004_797))
}

/// Says in the cases' words what came through.
fn judge<E: Into<BoxError> + 'static>(result: Result<Response<Bytes>, E>) -> String {
    let outcome = match &result {
        Ok(_) => classifier().classify(result.as_ref()),
        Err(error) => <AnyError as Classify<(), E>>::classify(&AnyError, Err(error)),
    };
    let failure = match outcome {
        Outcome::Success => return "ok".to_owned(),
        Outcome::Failure(failure) => failure,
        other => panic!("neither success nor failure: {other:?}"),
    };
    if failure.after_output() {
        return "partial_output".to_owned();
    }
    word_of(failure.kind()).to_owned()
}

/// The cases' words for kinds that have another name there.
const WORDS: [(&str, FailureKind); 4] = [
    ("quota", FailureKind::QuotaExhausted),
    ("auth", FailureKind::Unauthorized),
    ("invalid", FailureKind::InvalidRequest),
    ("context_window", FailureKind::ContextWindowExceeded),
];

fn word_of(kind: FailureKind) -> &'static str {
    WORDS.iter().find(|(_, other)| *other == kind).map_or(kind.as_str(), |(word, _)| word)
}

fn kind_of(word: &str) -> FailureKind {
    FailureKind::ALL
        .into_iter()
        .find(|kind| word_of(*kind) == word)
        .unwrap_or_else(|| panic!("unknown kind of failure: {word}"))
}
