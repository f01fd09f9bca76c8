//! HTTP bodies, frame by frame: what the layers for bodies make of what no well-behaved server sends.
#![cfg(all(feature = "full", feature = "test-util"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use buttress::{
    BodyTimeoutLayer, CircuitBreakerLayer, Error, ErrorKind, FailureKind, FirstFrameLayer,
    HalfOpen, LlmClassifier, TimeLimit,
    circuit_breaker::State,
    observe::{ObserveLayer, Observed},
};
use bytes::Bytes;
use http::{HeaderMap, Response, header::CONTENT_TYPE};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tower::{Layer as _, Service, ServiceBuilder, ServiceExt as _, service_fn};
use tracing_subscriber::{Registry, layer::SubscriberExt as _};

/// What a body does next.
#[derive(Debug, Clone)]
enum Step {
    Data(&'static str),
    Trailers,
    Fail,
    Hang,
    Panic,
}

use Step::{Data, Fail, Hang, Panic, Trailers};

/// A body that does what it is told, and panics when it is asked for more than its end.
#[derive(Debug, Default)]
struct Script {
    steps: VecDeque<Step>,
    /// Whether it says when its last frame was handed out.
    knows_its_end: bool,
    has_ended: bool,
    /// Told by its count.
    _alive: Option<Arc<()>>,
}

impl Body for Script {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        assert!(!self.has_ended, "polled after its end");
        Poll::Ready(Some(match self.steps.pop_front() {
            Some(Data(data)) => Ok(Frame::data(Bytes::from_static(data.as_bytes()))),
            Some(Trailers) => Ok(Frame::trailers(HeaderMap::new())),
            Some(Fail) => Err(io::Error::other("connection reset")),
            Some(Panic) => panic!("the body panics"),
            Some(Hang) => {
                self.steps.push_front(Hang);
                return Poll::Pending;
            }
            None => {
                self.has_ended = true;
                return Poll::Ready(None);
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.knows_its_end && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.steps.iter().map(|step| if let Data(data) = step { data.len() } else { 0 });
        SizeHint::with_exact(left.sum::<usize>() as u64)
    }
}

/// A body that streams shows nothing of itself.
impl AsRef<[u8]> for Script {
    fn as_ref(&self) -> &[u8] {
        &[]
    }
}

fn script(steps: &[Step]) -> Script {
    Script { steps: steps.iter().cloned().collect(), ..Script::default() }
}

/// A model that answers every call with the same events.
fn model(
    steps: &[Step],
) -> impl Service<(), Response = Response<Script>, Error = io::Error, Future: Send> + Clone + use<>
{
    let steps = steps.to_vec();
    service_fn(move |()| {
        let answer = Response::builder().header(CONTENT_TYPE, "text/event-stream");
        let answer = answer.body(script(&steps)).unwrap();
        async move { Ok(answer) }
    })
}

const A: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
const PING: &str = "data: {\"type\":\"ping\"}\n\n";
const DONE: &str = "data: [DONE]\n\n";
const ERROR: &str = "data: {\"error\":{\"type\":\"overloaded_error\"}}\n\n";

fn interrupted(error: &Error) -> u64 {
    let ErrorKind::Interrupted { items, .. } = error.kind() else { panic!("{error:?}") };
    *items
}

async fn read<B: Body<Data = Bytes>>(body: B) -> (String, Option<B::Error>) {
    let mut body = std::pin::pin!(body);
    let mut text = String::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                let data = frame.into_data().unwrap_or_default();
                text.push_str(std::str::from_utf8(&data).unwrap());
            }
            Err(error) => return (text, Some(error)),
        }
    }
    (text, None)
}

/// Whoever asks once more gets the same answer, and the body within is not asked.
#[tokio::test(start_paused = true)]
async fn a_body_that_has_ended_stays_ended() {
    async fn check<B: Body<Data = Bytes>>(layer: &str, body: B)
    where
        B::Error: std::fmt::Debug,
    {
        let mut body = std::pin::pin!(body);
        while let Some(frame) = body.frame().await {
            frame.unwrap();
        }
        assert!(body.frame().await.is_none() && body.is_end_stream(), "{layer}");
        assert_eq!(body.size_hint().exact(), Some(0), "{layer}");
    }
    let steps = [Data(A), Data(DONE), Trailers];
    let body = BodyTimeoutLayer::new().layer(model(&steps)).oneshot(()).await.unwrap();
    check("limits", body.into_body()).await;
    let body = FirstFrameLayer::new().layer(model(&steps)).oneshot(()).await.unwrap();
    check("first frame", body.into_body()).await;
    let layer = CircuitBreakerLayer::new("model").settle_at_body_end();
    let body = layer.layer(model(&steps)).oneshot(()).await.unwrap();
    check("breaker", body.into_body()).await;
}

/// What failed is gone when its reader hears of it.
#[tokio::test(start_paused = true)]
async fn a_body_that_has_failed_is_dropped_and_has_ended() {
    async fn check<B: Body<Data = Bytes>>(layer: &str, body: B, alive: &Arc<()>) {
        let mut body = std::pin::pin!(body);
        assert_eq!(Arc::strong_count(alive), 3, "{layer}");
        while body.frame().await.is_some_and(|frame| frame.is_ok()) {}
        assert_eq!(Arc::strong_count(alive), 2, "{layer}");
        assert!(body.frame().await.is_none() && body.is_end_stream(), "{layer}");
    }
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let failing = model(&[Data(A), Fail, Data(A)]).map_response(move |answer| {
        answer.map(|body: Script| Script { _alive: Some(Arc::clone(&held)), ..body })
    });
    let body = BodyTimeoutLayer::new().layer(failing.clone()).oneshot(()).await.unwrap();
    check("limits", body.into_body(), &alive).await;
    let body = FirstFrameLayer::new().layer(failing.clone()).oneshot(()).await.unwrap();
    check("first frame", body.into_body(), &alive).await;
    let layer = CircuitBreakerLayer::new("model").settle_at_body_end();
    let body = layer.layer(failing.clone()).oneshot(()).await.unwrap();
    check("breaker", body.into_body(), &alive).await;

    // One that fails before it begins is gone with its call.
    let held = Arc::clone(&alive);
    let failing = model(&[Fail]).map_response(move |answer| {
        answer.map(|body: Script| Script { _alive: Some(Arc::clone(&held)), ..body })
    });
    let mut call = std::pin::pin!(FirstFrameLayer::new().layer(failing).call(()));
    call.as_mut().await.unwrap_err();
    assert_eq!(Arc::strong_count(&alive), 2, "this one, and that of the first service");
}

/// A length that is known does not hide the failure behind the last byte.
#[tokio::test(start_paused = true)]
async fn a_body_of_known_length_without_its_mark_fails_at_its_end() {
    let answers = model(&[Data(A)]).map_response(|answer: Response<Script>| {
        answer.map(|body| Script { knows_its_end: true, ..body })
    });
    let layer = FirstFrameLayer::new().classify(LlmClassifier::new());
    let mut body = layer.layer(answers.clone()).oneshot(()).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    assert!(!body.is_end_stream());
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(error.failure().message(), Some("the stream ends without its mark"));
    assert!(body.is_end_stream());
    // Where nobody reads events, there is nothing to tell.
    let mut body = FirstFrameLayer::new().layer(answers).oneshot(()).await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    assert!(body.is_end_stream());
}

/// HTTP/2 knows frames without data; they are no beginning, and are not kept.
#[tokio::test(start_paused = true)]
async fn frames_without_data_begin_nothing() {
    let steps = [Data(""), Data(""), Fail];
    let error = FirstFrameLayer::new().layer(model(&steps)).oneshot(()).await.unwrap_err();
    assert!(error.failure().is_retryable() && !error.failure().after_output(), "{error:?}");

    let steps = [vec![Data(""); 100_000], vec![Data(A), Data(DONE)]].concat();
    let layer = FirstFrameLayer::new().classify(LlmClassifier::new());
    let mut body = layer.layer(model(&steps)).oneshot(()).await.unwrap().into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, A);
}

/// What announces an answer is kept back, but not without end; and what is kept is handed on whole.
#[tokio::test(start_paused = true)]
async fn no_more_than_64_kib_are_kept_back() {
    let pings = 64 * 1024 / PING.len();
    let layer = FirstFrameLayer::new().classify(LlmClassifier::new());
    // In time: the error is that of the call.
    let steps = [vec![Data(PING); pings - 1], vec![Data(ERROR)]].concat();
    let error = layer.clone().layer(model(&steps)).oneshot(()).await.unwrap_err();
    assert_eq!(error.failure().kind(), FailureKind::Overloaded);
    assert!(!error.failure().after_output());
    // Too late.
    let steps = [vec![Data(PING); pings + 1], vec![Data(ERROR)]].concat();
    let body = layer.layer(model(&steps)).oneshot(()).await.unwrap().into_body();
    let total = (PING.len() * (pings + 1) + ERROR.len()) as u64;
    assert_eq!(body.size_hint().exact(), Some(total));
    let (text, error) = read(body).await;
    assert_eq!(text, PING.repeat(pings + 1));
    let error = error.unwrap();
    assert_eq!(interrupted(&error), pings as u64 + 1);
    assert_eq!(error.downcast_ref::<buttress::Failure>().unwrap().kind(), FailureKind::Overloaded);
}

#[tokio::test(start_paused = true)]
async fn the_total_cuts_frames_that_come_without_a_wait() {
    let layer = BodyTimeoutLayer::new().total(Duration::from_secs(60));
    let agent = layer.layer(model(&[const { Data(A) }; 9]));
    let mut body = std::pin::pin!(agent.oneshot(()).await.unwrap().into_body());
    for _ in 0..4 {
        body.frame().await.unwrap().unwrap();
        tokio::time::advance(Duration::from_secs(20)).await;
    }
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!(interrupted(&error), 4);
    let limit = error.downcast_ref::<Error>().map(Error::kind);
    assert!(matches!(limit, Some(ErrorKind::Timeout { limit: TimeLimit::Total, .. })), "{limit:?}");
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn each_layer_names_its_agent_in_what_it_makes_of_a_failure() {
    for (steps, hangs) in [(&[Data(A), Hang], true), (&[Data(A), Fail], false)] {
        let layer = BodyTimeoutLayer::new().agent_id("writer");
        let body = layer.layer(model(steps)).oneshot(()).await.unwrap().into_body();
        assert_eq!(read(body).await.1.unwrap().agent(), Some("writer"));
        if hangs {
            continue;
        }
        let layer = FirstFrameLayer::new().agent_id("reader");
        let body = layer.layer(model(steps)).oneshot(()).await.unwrap().into_body();
        assert_eq!(read(body).await.1.unwrap().agent(), Some("reader"));
        let error = layer.layer(model(&[Fail])).oneshot(()).await.unwrap_err();
        assert_eq!(error.agent(), Some("reader"));
        let layer = CircuitBreakerLayer::new("model").agent_id("guarded").settle_at_body_end();
        let body = layer.layer(model(steps)).oneshot(()).await.unwrap().into_body();
        assert_eq!(read(body).await.1.unwrap().agent(), Some("guarded"));
    }
}

/// axum's body and others wrap what went wrong in an error of their own.
#[tokio::test(start_paused = true)]
async fn what_a_body_says_of_its_failure_is_found_behind_the_error_of_a_wrapper() {
    let wrapped = || {
        let layer = FirstFrameLayer::new().classify(LlmClassifier::new());
        let limited = "data: {\"error\":{\"code\":429}}\n\n";
        let begun = layer.layer(model(&[Data(A), Data(limited)]));
        begun.map_response(|answer: Response<_>| answer.map(axum::body::Body::new))
    };
    let check = |error: &Error| {
        assert_eq!((interrupted(error), error.failure().kind()), (1, FailureKind::RateLimited));
        assert!(error.failure().after_output());
    };
    let body = BodyTimeoutLayer::new().layer(wrapped()).oneshot(()).await.unwrap().into_body();
    check(&read(body).await.1.unwrap());
    let body = FirstFrameLayer::new().layer(wrapped()).oneshot(()).await.unwrap().into_body();
    check(&read(body).await.1.unwrap());
    // A limit of the caller's is no fault of the service.
    let layer = CircuitBreakerLayer::new("model").consecutive_failures(1);
    let circuit = layer.circuit();
    let layer = layer.settle_at_body_end();
    let body = layer.layer(wrapped()).oneshot(()).await.unwrap().into_body();
    check(&read(body).await.1.unwrap());
    assert_eq!((circuit.state(), circuit.snapshot().ignored), (State::Closed, 1));
}

// ===== circuits =====

/// A half-open circuit with one permit, and the layer for it.
async fn half_open()
-> (buttress::Circuit, CircuitBreakerLayer<LlmClassifier, buttress::circuit_breaker::AtBodyEnd>) {
    let layer = CircuitBreakerLayer::new("model")
        .half_open(HalfOpen::consecutive(1, 1))
        .open_for(Duration::from_secs(10));
    let circuit = layer.circuit();
    circuit.trip();
    tokio::time::sleep(Duration::from_secs(10)).await;
    (circuit, layer.classify(LlmClassifier::new()).settle_at_body_end())
}

/// However a body ends, the one permit is given back once, with the right verdict.
#[tokio::test(start_paused = true)]
async fn a_permit_comes_back_once_however_a_body_ends() {
    let cases: [(&[Step], usize, State); 12] = [
        (&[Data(A), Data(DONE)], 9, State::Closed),
        (&[Data(A), Data(DONE), Trailers], 9, State::Closed),
        (&[Data(A), Data(DONE), Trailers], 1, State::Closed),
        (&[Data(A), Hang], 1, State::Closed),
        (&[Hang], 0, State::HalfOpen),
        (&[Data(A), Data(DONE)], 0, State::HalfOpen),
        (&[Data(A)], 9, State::Open),
        (&[], 9, State::Open),
        (&[Data(A), Data(ERROR), Data(A), Data(DONE)], 9, State::Open),
        (&[Data(A), Fail], 9, State::Open),
        (&[Fail], 9, State::Open),
        (&[Data(A), Panic], 9, State::Open),
    ];
    for knows_its_end in [false, true] {
        for (steps, most, expected) in cases {
            let (circuit, layer) = half_open().await;
            let answers = model(steps).map_response(move |answer: Response<Script>| {
                answer.map(|body| Script { knows_its_end, ..body })
            });
            let task = async move {
                let answer = layer.layer(answers).oneshot(()).await.unwrap();
                let mut body = answer.into_body();
                for _ in 0..most {
                    if body.frame().await.is_none_or(|frame| frame.is_err()) {
                        break;
                    }
                }
            };
            assert_eq!(
                tokio::spawn(task).await.is_err(),
                steps.iter().any(|step| matches!(step, Panic))
            );
            // A body that knows that it is empty is judged by its head and that.
            assert_eq!(circuit.state(), expected, "{steps:?}, {most} read");
            let seen = circuit.snapshot();
            let cancelled = u64::from(expected == State::HalfOpen);
            assert_eq!((seen.late, seen.cancelled), (0, cancelled), "{steps:?}, {most} read");
        }
    }
}

// ===== spans =====

/// The spans of one run: name, outcome, items, and whether the first item was timed.
fn spans(run: impl AsyncFnOnce()) -> Vec<(&'static str, String, Option<i64>, bool)> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let layer = ObserveLayer::new(move |span: &Observed| {
        let outcome = span.str("outcome").unwrap_or("none").to_owned();
        let timed = span.f64("first_item_seconds").is_some();
        sink.lock().unwrap().push((span.name(), outcome, span.i64("items"), timed));
    });
    observed(layer, run);
    std::mem::take(&mut seen.lock().unwrap())
}

fn observed(
    layer: impl tracing_subscriber::Layer<Registry> + Send + Sync,
    run: impl AsyncFnOnce(),
) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, || runtime.unwrap().block_on(run()));
}

#[test]
fn each_way_in_which_a_body_ends_is_told_once() {
    let cases: [(&[Step], usize, &str, i64, bool); 7] = [
        (&[Data(PING), Data(ERROR)], 0, "failure", 0, false),
        (&[Data(A), Data(DONE)], 9, "success", 2, true),
        (&[Data(A), Hang], 1, "success", 1, true),
        (&[Data(A), Data(DONE)], 0, "cancelled", -1, true),
        (&[Data(A), Data(ERROR)], 9, "failure", 1, true),
        (&[Data(A)], 9, "failure", 1, true),
        (&[Data(A), Panic], 9, "panicked", -1, true),
    ];
    for (steps, most, outcome, items, is_timed) in cases {
        let told = spans(async || {
            let layer = FirstFrameLayer::new().classify(LlmClassifier::new());
            let answers = model(steps);
            let read = async move {
                let Ok(answer) = layer.layer(answers).oneshot(()).await else { return };
                let mut body = answer.into_body();
                for _ in 0..most {
                    if body.frame().await.is_none_or(|frame| frame.is_err()) {
                        break;
                    }
                }
            };
            drop(tokio::spawn(read).await);
        });
        let items = (items >= 0).then_some(items);
        let expected = ("streamed_call", outcome.to_owned(), items, is_timed);
        assert_eq!(told, [expected], "{steps:?}, {most} read");
    }
}

/// The spans end when the body does, and not when its reader lets go of it.
#[test]
fn the_end_of_a_body_ends_its_spans() {
    // A body that says what its last frame is ends with it.
    let cases: [(&[Step], bool, usize); 4] = [
        (&[Data(A), Data(A)], false, 3),
        (&[Data(A), Data(A)], true, 2),
        (&[], false, 0),
        (&[], true, 0),
    ];
    for (steps, knows_its_end, reads) in cases {
        let (ended, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (count, sink) = (Arc::clone(&ended), Arc::clone(&seen));
        let layer = ObserveLayer::new(move |span: &Observed| {
            count.fetch_add(1, Ordering::Relaxed);
            sink.lock().unwrap().push(span.str("outcome").unwrap_or("none").to_owned());
        });
        observed(layer, async || {
            let agent = ServiceBuilder::new()
                .layer(CircuitBreakerLayer::new("model").settle_at_body_end())
                .layer(BodyTimeoutLayer::new())
                .layer(FirstFrameLayer::new())
                .map_response(move |answer: Response<Script>| {
                    answer.map(|body| Script { knows_its_end, ..body })
                })
                .service(model(steps));
            let mut body = std::pin::pin!(agent.oneshot(()).await.unwrap().into_body());
            for read in 0..reads {
                assert_eq!(ended.load(Ordering::Relaxed), 0, "{steps:?}, {read} read");
                body.frame().await.transpose().unwrap();
            }
            assert_eq!(ended.load(Ordering::Relaxed), 3, "{steps:?}, {knows_its_end}");
        });
        assert_eq!(*seen.lock().unwrap(), ["success"; 3], "{steps:?}, {knows_its_end}");
    }
    // Alone, where no layer further out lets go of it.
    let ended = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&ended);
    let layer = ObserveLayer::new(move |_: &Observed| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    observed(layer, async || {
        let agent = FirstFrameLayer::new().layer(model(&[Data(A)]));
        let mut body = agent.oneshot(()).await.unwrap().into_body();
        body.frame().await.unwrap().unwrap();
        assert_eq!(ended.load(Ordering::Relaxed), 0);
        assert!(body.frame().await.is_none());
        assert_eq!(ended.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_body_without_frames_has_no_first_one() {
    let told = spans(async || {
        let body = FirstFrameLayer::new().layer(model(&[])).oneshot(()).await.unwrap().into_body();
        assert!(read(body).await.1.is_none());
    });
    assert_eq!(told, [("streamed_call", "success".to_owned(), Some(0), false)]);
}

#[test]
fn a_call_that_is_dropped_before_its_answer_begins_was_cancelled() {
    let told = spans(async || {
        let agent = ServiceBuilder::new()
            .layer(CircuitBreakerLayer::new("model").settle_at_body_end())
            .layer(BodyTimeoutLayer::new())
            .layer(FirstFrameLayer::new().classify(LlmClassifier::new()))
            .service(model(&[Data(PING), Hang]));
        let second = Duration::from_secs(1);
        tokio::time::timeout(second, agent.oneshot(())).await.unwrap_err();
    });
    let cancelled = |name| (name, "cancelled".to_owned(), None, false);
    let mut names: Vec<_> = told;
    names.sort_unstable();
    let expected = ["circuit_breaker_call", "streamed_call", "timeout_protected_call"];
    assert_eq!(names, expected.map(cancelled));
}
