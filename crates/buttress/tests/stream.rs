//! Streams: when they begin, how long they may take, and what a circuit learns of their end.
#![cfg(all(feature = "full", feature = "test-util"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use buttress::{
    Circuit, CircuitBreakerLayer, Error, ErrorKind, Failure, FailureKind, FallbackService,
    FirstItemLayer, HalfOpen, Outcome, RetryLayer, StreamTimeoutLayer, TimeLimit,
    circuit_breaker::State,
};
use futures_core::Stream;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::time::Instant;
use tower::{BoxError, Layer as _, Service, ServiceBuilder, ServiceExt as _, service_fn};

/// What a stream does next.
#[derive(Debug, Clone, Copy)]
enum Step {
    Item(u32),
    Wait(u64),
    Fail,
    Panic,
    Hang,
}

use Step::{Fail, Hang, Item, Panic, Wait};

type Items = Pin<Box<dyn Stream<Item = Result<u32, io::Error>> + Send>>;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A stream that does what it is told, and then ends.
fn items(steps: Vec<Step>) -> Items {
    let steps = stream::unfold(steps.into_iter(), |mut steps| async move {
        loop {
            return match steps.next()? {
                Item(item) => Some((Ok(item), steps)),
                Fail => Some((Err(io::Error::other("connection reset")), steps)),
                Panic => panic!("the stream panics"),
                Hang => std::future::pending().await,
                Wait(time) => {
                    tokio::time::sleep(seconds(time)).await;
                    continue;
                }
            };
        }
    });
    Box::pin(steps)
}

/// A model whose calls answer with one script after the other.
#[derive(Clone)]
struct Model {
    scripts: Arc<Mutex<Vec<Vec<Step>>>>,
    calls: Arc<AtomicUsize>,
}

impl Model {
    fn new(scripts: &[&[Step]]) -> Self {
        let scripts = scripts.iter().rev().map(|script| script.to_vec()).collect();
        Self { scripts: Arc::new(Mutex::new(scripts)), calls: Arc::default() }
    }

    fn service(
        &self,
    ) -> impl Service<(), Response = Items, Error = io::Error, Future: Send> + Clone + Send + Sync + use<>
    {
        let Self { scripts, calls } = self.clone();
        service_fn(move |()| {
            calls.fetch_add(1, Ordering::Relaxed);
            let script = scripts.lock().unwrap().pop();
            async move { Ok(items(script.expect("the model is asked too often"))) }
        })
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

async fn collect<T, E>(stream: impl Stream<Item = Result<T, E>>) -> (Vec<T>, Vec<E>) {
    let (mut items, mut errors) = (Vec::new(), Vec::new());
    let mut stream = std::pin::pin!(stream);
    while let Some(item) = stream.next().await {
        match item {
            Ok(item) => items.push(item),
            Err(error) => errors.push(error),
        }
    }
    (items, errors)
}

fn interrupted(error: &Error) -> u64 {
    let ErrorKind::Interrupted { items, .. } = error.kind() else { panic!("{error:?}") };
    *items
}

fn limit(error: &Error) -> (TimeLimit, Duration) {
    let mut next = Some(error as &(dyn std::error::Error + 'static));
    while let Some(error) = next {
        if let Some(ErrorKind::Timeout { limit, after, .. }) =
            error.downcast_ref::<Error>().map(Error::kind)
        {
            return (*limit, *after);
        }
        next = error.source();
    }
    panic!("{error:?}")
}

// ===== first item =====

#[tokio::test]
async fn a_retry_acts_before_the_first_item() {
    let model = Model::new(&[&[Fail], &[], &[Item(1), Item(2)]]);
    let agent = ServiceBuilder::new()
        .layer(RetryLayer::new(3).backoff([Duration::ZERO; 2]))
        .layer(FirstItemLayer::new())
        .service(model.service());
    let (items, errors) = collect(agent.oneshot(()).await.unwrap()).await;
    assert_eq!((items, errors.len(), model.calls()), (vec![1, 2], 0, 3));
}

#[tokio::test]
async fn a_fallback_takes_over_silently_before_the_first_item_and_not_after_it() {
    let primary = Model::new(&[&[Fail], &[Item(1), Fail]]);
    let backup = Model::new(&[&[Item(7)]]);
    let layer = FirstItemLayer::new();
    let mut chain = FallbackService::new(layer.layer(primary.service()))
        .or("backup", layer.layer(backup.service()));
    let (items, errors) = collect(chain.ready().await.unwrap().call(()).await.unwrap()).await;
    assert_eq!((items, errors.len()), (vec![7], 0));

    let (items, errors) = collect(chain.ready().await.unwrap().call(()).await.unwrap()).await;
    assert_eq!((items, errors.len(), backup.calls()), (vec![1], 1, 1));
    assert_eq!(interrupted(&errors[0]), 1);
    assert_eq!(errors[0].downcast_ref::<io::Error>().unwrap().to_string(), "connection reset");
    let failure = errors[0].failure();
    assert!(failure.after_output() && !failure.is_retryable(), "{failure:?}");
    assert_eq!(errors[0].to_string(), "the stream was cut after 1 item");
}

/// An agent that reads its stream itself, and hands on what it hears.
#[tokio::test]
async fn a_chain_ends_with_an_agent_that_has_handed_on_part_of_its_answer() {
    let model = Model::new(&[&[Item(1), Fail]]);
    let streamed = FirstItemLayer::new().layer(model.service());
    let primary = service_fn(move |()| {
        let streamed = streamed.clone();
        async move { collect(streamed.oneshot(()).await?).await.1.pop().map_or(Ok(0), Err) }
    });
    let backup = service_fn(async |()| -> Result<u32, Error> { panic!("nobody asks") });
    let error = FallbackService::new(primary).or("backup", backup).oneshot(()).await.unwrap_err();
    assert_eq!(interrupted(&error), 1);
}

#[tokio::test]
async fn an_empty_stream_is_a_failure_unless_it_may_be_empty() {
    let model = Model::new(&[&[], &[]]);
    let layer = FirstItemLayer::new();
    let agent = ServiceBuilder::new().layer(layer.clone()).service(model.service());
    let error = agent.oneshot(()).await.unwrap_err();
    assert_eq!(interrupted(&error), 0);
    assert!(error.failure().is_retryable() && !error.failure().after_output());

    let agent = ServiceBuilder::new().layer(layer.allow_empty()).service(model.service());
    let (items, errors) = collect(agent.oneshot(()).await.unwrap()).await;
    assert_eq!((items.len(), errors.len()), (0, 0));
}

/// Takes item 13 as an error that came in an answer.
fn thirteen(item: Result<&u32, &io::Error>) -> Outcome {
    match item {
        Ok(13) => Failure::new(FailureKind::Overloaded).with_message("overloaded").into(),
        Ok(_) => Outcome::Success,
        Err(_) => Failure::new(FailureKind::Transient).into(),
    }
}

#[tokio::test]
async fn an_item_that_is_a_failure_is_one_before_the_first_item_and_after_it() {
    let model = Model::new(&[&[Item(13)], &[Item(1), Item(13), Item(2)]]);
    let agent = ServiceBuilder::new()
        .layer(RetryLayer::new(2).backoff([Duration::ZERO]))
        .layer(FirstItemLayer::new().classify_items(thirteen))
        .service(model.service());
    let (items, errors) = collect(agent.oneshot(()).await.unwrap()).await;
    assert_eq!((items, errors.len()), (vec![1], 1));
    assert_eq!(interrupted(&errors[0]), 1);
    assert_eq!(errors[0].failure().kind(), FailureKind::Overloaded);
    assert_eq!(errors[0].downcast_ref::<Failure>().unwrap().message(), Some("overloaded"));
}

#[tokio::test]
async fn a_stream_that_has_ended_stays_ended() {
    let model = Model::new(&[&[Item(1), Fail, Item(2)]]);
    let agent = ServiceBuilder::new().layer(FirstItemLayer::new()).service(model.service());
    let mut stream = agent.oneshot(()).await.unwrap();
    assert_eq!(stream.size_hint(), (1, None));
    assert_eq!(stream.next().await.unwrap().unwrap(), 1);
    stream.next().await.unwrap().unwrap_err();
    assert!(stream.next().await.is_none() && stream.next().await.is_none());
    assert_eq!(stream.size_hint(), (0, Some(0)));
}

// ===== limits =====

#[tokio::test(start_paused = true)]
async fn each_limit_cuts_what_it_is_for() {
    let layer = StreamTimeoutLayer::new().first_item(seconds(20)).idle(seconds(5));
    let layer = layer.total(seconds(60));
    let cases: [(&[Step], usize, TimeLimit, u64); 4] = [
        (&[Hang], 0, TimeLimit::FirstItem, 20),
        (&[Wait(19), Item(1), Wait(4), Item(2), Hang], 2, TimeLimit::Idle, 19 + 4 + 5),
        (&[Item(1), Wait(6), Item(2)], 1, TimeLimit::Idle, 5),
        (&[Item(1), Wait(4), Item(2)].repeat(20), 15, TimeLimit::Total, 60),
    ];
    for (steps, expected, which, after) in cases {
        let model = Model::new(&[steps]);
        let agent = ServiceBuilder::new().layer(layer.clone()).service(model.service());
        let started = Instant::now();
        let (items, errors) = collect(agent.oneshot(()).await.unwrap()).await;
        assert_eq!(started.elapsed(), seconds(after), "{which}");
        let (found, time) = limit(&errors[0]);
        let times = [(TimeLimit::FirstItem, 20), (TimeLimit::Idle, 5), (TimeLimit::Total, 60)];
        assert!(found == which && times.contains(&(found, time.as_secs())), "{:?}", errors[0]);
        assert!(errors[0].is_timeout() && errors.len() == 1);
        assert_eq!(errors[0].failure().kind(), FailureKind::Timeout);
        match expected {
            0 => assert_eq!(errors[0].to_string(), "no first item after 20s"),
            _ => assert!(interrupted(&errors[0]) > 0 && !items.is_empty()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_the_first_item_counts_from_the_call() {
    let layer = StreamTimeoutLayer::new().first_item(seconds(20));
    let agent = ServiceBuilder::new().layer(layer).layer(FirstItemLayer::new()).service_fn(
        |head: u64| async move {
            tokio::time::sleep(seconds(head)).await;
            Ok::<_, io::Error>(items(vec![Wait(8), Item(1)]))
        },
    );
    let started = Instant::now();
    // 12 s until the answer and 8 s until its first item are in time.
    let answer = agent.clone().oneshot(11).await.unwrap();
    assert_eq!(collect(answer).await.0, [1]);
    assert_eq!(started.elapsed(), seconds(19));
    for head in [13, 30] {
        let started = Instant::now();
        let error = agent.clone().oneshot(head).await.unwrap_err();
        assert_eq!(limit(&error), (TimeLimit::FirstItem, seconds(20)));
        assert_eq!(started.elapsed(), seconds(20));
        assert!(error.failure().is_retryable());
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_its_time_is_not_idle() {
    let layer = StreamTimeoutLayer::new().idle(seconds(5));
    let model = Model::new(&[&[Item(1), Wait(4), Item(2), Wait(4), Item(3)]]);
    let agent = ServiceBuilder::new().layer(layer).service(model.service());
    let mut stream = std::pin::pin!(agent.oneshot(()).await.unwrap());
    for item in 1..=3 {
        assert_eq!(stream.next().await.unwrap().unwrap(), item);
        tokio::time::sleep(seconds(100)).await;
    }
    assert!(stream.next().await.is_none());
}

/// A model that talks faster than its reader reads is never waited for.
#[tokio::test(start_paused = true)]
async fn the_total_cuts_items_that_come_without_a_wait() {
    let layer = StreamTimeoutLayer::new().total(seconds(60));
    let agent = ServiceBuilder::new()
        .layer(layer)
        .service_fn(async |()| Ok::<_, io::Error>(stream::repeat_with(|| Ok::<_, io::Error>(1))));
    let mut stream = std::pin::pin!(agent.oneshot(()).await.unwrap());
    // The last second still counts.
    for _ in 0..4 {
        assert_eq!(stream.next().await.unwrap().unwrap(), 1);
        tokio::time::advance(seconds(20)).await;
    }
    let error = stream.next().await.unwrap().unwrap_err();
    assert_eq!((interrupted(&error), limit(&error)), (4, (TimeLimit::Total, seconds(60))));
    assert!(stream.next().await.is_none());
}

/// The end that a reader comes to late is no failure.
#[tokio::test(start_paused = true)]
async fn the_total_does_not_cut_a_stream_that_has_said_everything() {
    let layer = StreamTimeoutLayer::new().total(seconds(60));
    let model = Model::new(&[&[Wait(1), Item(1)]]);
    let agent = ServiceBuilder::new().layer(layer).service(model.service());
    let mut stream = std::pin::pin!(agent.oneshot(()).await.unwrap());
    stream.next().await.unwrap().unwrap();
    tokio::time::advance(seconds(100)).await;
    assert!(stream.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_cut_is_dropped_before_its_reader_hears_of_it() {
    struct Dropped(Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let held = Arc::clone(&dropped);
    let agent = ServiceBuilder::new().layer(StreamTimeoutLayer::new()).service_fn(move |()| {
        let held = Dropped(Arc::clone(&held));
        async move {
            Ok::<_, io::Error>(Box::pin(stream::pending::<Result<u32, io::Error>>().map(
                move |item| {
                    let _ = &held;
                    item
                },
            )))
        }
    });
    let mut stream = std::pin::pin!(agent.oneshot(()).await.unwrap());
    stream.next().await.unwrap().unwrap_err();
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
    assert!(stream.next().await.is_none());
}

/// The timer of the first item stands when the next one is waited for, for less long.
#[tokio::test(start_paused = true)]
async fn a_timer_that_is_set_for_later_is_set_for_the_nearer_limit() {
    let layer = StreamTimeoutLayer::new().first_item(seconds(30)).idle(seconds(5));
    let model = Model::new(&[&[Wait(1), Item(1), Hang]]);
    let agent = ServiceBuilder::new().layer(layer).service(model.service());
    let started = Instant::now();
    let (_, errors) = collect(agent.oneshot(()).await.unwrap()).await;
    assert_eq!(limit(&errors[0]), (TimeLimit::Idle, seconds(5)));
    assert_eq!(started.elapsed(), seconds(1 + 5));
}

/// Counts how many of it are alive.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whatever ends a call or a stream: what is behind it is gone when its caller hears of it, and not only
/// when the caller lets go of it.
#[tokio::test(start_paused = true)]
async fn what_has_ended_is_dropped_before_its_caller_hears_of_it() {
    let alive = Arc::new(AtomicUsize::new(0));
    let (one, other) = (Arc::clone(&alive), Arc::clone(&alive));
    let streams = service_fn(move |steps: &'static [Step]| {
        let held = Alive::new(&one);
        let stream = items(steps.to_vec()).map(move |item| {
            let _ = &held;
            item
        });
        async move { Ok::<_, io::Error>(stream) }
    });
    // A call that never answers.
    let calls = service_fn(move |()| {
        let held = Alive::new(&other);
        async move {
            let _held = held;
            std::future::pending::<Result<Items, io::Error>>().await
        }
    });
    let alive = || alive.load(Ordering::Relaxed);
    let mut call = std::pin::pin!(StreamTimeoutLayer::new().layer(calls).oneshot(()));
    call.as_mut().await.unwrap_err();
    assert_eq!(alive(), 0);

    for steps in [&[Item(1)][..], &[Item(1), Fail]] {
        let breaker = CircuitBreakerLayer::new("model").settle_at_stream_end();
        let mut settling = breaker.layer(streams.clone()).oneshot(steps).await.unwrap();
        let mut begun = FirstItemLayer::new().layer(streams.clone()).oneshot(steps).await.unwrap();
        let timed = StreamTimeoutLayer::new().layer(streams.clone());
        let mut timed = std::pin::pin!(timed.oneshot(steps).await.unwrap());
        assert_eq!(alive(), 3);
        while settling.next().await.is_some_and(|item| item.is_ok()) {}
        assert_eq!(alive(), 2, "breaker, {steps:?}");
        while begun.next().await.is_some_and(|item| item.is_ok()) {}
        assert_eq!(alive(), 1, "first item, {steps:?}");
        while timed.next().await.is_some_and(|item| item.is_ok()) {}
        assert_eq!(alive(), 0, "limits, {steps:?}");
        assert!(settling.next().await.is_none() && begun.next().await.is_none());
        assert!(timed.next().await.is_none());
    }
}

#[test]
fn a_limit_of_zero_is_refused() {
    type Set = fn(StreamTimeoutLayer) -> StreamTimeoutLayer;
    let setters: [Set; 3] = [
        |layer| layer.first_item(Duration::ZERO),
        |layer| layer.idle(Duration::ZERO),
        |layer| layer.total(Duration::ZERO),
    ];
    for set in setters {
        let panicked = std::panic::catch_unwind(|| set(StreamTimeoutLayer::new())).unwrap_err();
        let message = panicked.downcast_ref::<String>().unwrap();
        assert!(message.ends_with("must be longer than zero"), "{message}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_beyond_every_clock_is_none() {
    let layer = StreamTimeoutLayer::new().first_item(Duration::MAX).idle(Duration::MAX);
    let model = Model::new(&[&[Wait(1_000_000), Item(1), Wait(1_000_000), Item(2)]]);
    let agent = ServiceBuilder::new().layer(layer.total(Duration::MAX)).service(model.service());
    assert_eq!(collect(agent.oneshot(()).await.unwrap()).await.0, [1, 2]);
}

/// A stream that is busy without an item uses up all that its task may do in one go, so that a timer
/// asked after it does not answer.
#[tokio::test(start_paused = true)]
async fn a_limit_cuts_a_stream_that_is_busy_for_ever() {
    let agent = StreamTimeoutLayer::new().layer(service_fn(async |()| {
        let mut polls = 0;
        Ok::<_, io::Error>(stream::poll_fn(move |cx| {
            polls += 1;
            assert!(polls < 10_000, "nobody cuts it");
            while std::pin::pin!(tokio::task::coop::consume_budget()).poll(cx).is_ready() {}
            std::task::Poll::<Option<io::Result<u32>>>::Pending
        }))
    }));
    // The clock does not stand still though nobody is idle.
    let clock = tokio::spawn(async {
        loop {
            tokio::time::advance(seconds(1)).await;
        }
    });
    let errors = collect(agent.oneshot(()).await.unwrap()).await.1;
    assert_eq!(limit(&errors[0]), (TimeLimit::FirstItem, seconds(30)));
    clock.abort();
}

/// Of the call and of the stream.
#[tokio::test(start_paused = true)]
async fn each_layer_names_its_agent_in_what_it_makes_of_a_failure() {
    let steps: [(&[Step], bool); 4] =
        [(&[Hang], false), (&[Item(1), Hang], true), (&[Fail], false), (&[Item(1), Fail], true)];
    for (steps, is_interrupted) in steps {
        let timed = StreamTimeoutLayer::new().agent_id("writer");
        let timed = timed.layer(Model::new(&[steps]).service());
        let errors = collect(timed.oneshot(()).await.unwrap()).await.1;
        assert_eq!(errors[0].agent(), Some("writer"), "{steps:?}");
        let kind = errors[0].kind();
        assert_eq!(matches!(kind, ErrorKind::Interrupted { .. }), is_interrupted, "{kind:?}");

        let begun = FirstItemLayer::new().agent_id("reader");
        let begun = begun.layer(Model::new(&[steps]).service());
        let layer = StreamTimeoutLayer::new().agent_id("writer");
        let error = match layer.layer(begun).oneshot(()).await {
            Ok(stream) => collect(stream).await.1.remove(0),
            Err(error) => error,
        };
        let is_late = error.is_timeout();
        assert_eq!(error.agent(), Some(if is_late { "writer" } else { "reader" }), "{steps:?}");
    }
}

// ===== a circuit =====

struct Guarded<S> {
    circuit: Circuit,
    agent: S,
}

/// A model behind a circuit that opens with the first failure.
fn guarded(
    model: &Model,
) -> Guarded<
    impl Service<
        (),
        Response: Stream<Item = Result<u32, Error>> + Send + Unpin + 'static,
        Error = Error,
    > + Clone
    + use<>,
> {
    let layer = CircuitBreakerLayer::new("model")
        .consecutive_failures(1)
        .half_open(HalfOpen::consecutive(1, 1))
        .open_for(seconds(10));
    let circuit = layer.circuit();
    let agent = ServiceBuilder::new().layer(layer.settle_at_stream_end()).service(model.service());
    Guarded { circuit, agent }
}

#[tokio::test(start_paused = true)]
async fn a_circuit_learns_of_a_stream_at_its_end() {
    let model = Model::new(&[&[Item(1), Fail]]);
    let Guarded { circuit, agent } = guarded(&model);
    let mut stream = agent.oneshot(()).await.unwrap();
    stream.next().await.unwrap().unwrap();
    assert_eq!(circuit.state(), State::Closed);
    let error = stream.next().await.unwrap().unwrap_err();
    assert_eq!((circuit.state(), interrupted(&error)), (State::Open, 1));
    drop(stream);
    assert_eq!(circuit.snapshot().late, 0);
}

/// Makes a half-open circuit whose one probe is the next call.
async fn half_open(circuit: &Circuit) {
    circuit.trip();
    tokio::time::sleep(seconds(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_holds_its_permit_until_the_stream_ends() {
    let model = Model::new(&[&[Item(1), Item(2)], &[Item(3)]]);
    let Guarded { circuit, mut agent } = guarded(&model);
    half_open(&circuit).await;
    let mut stream = agent.ready().await.unwrap().call(()).await.unwrap();
    stream.next().await.unwrap().unwrap();
    let error = agent.ready().await.unwrap().call(()).await.err().unwrap();
    assert!(error.is_circuit_open());
    stream.next().await.unwrap().unwrap();
    assert_eq!(circuit.state(), State::HalfOpen);
    assert!(stream.next().await.is_none());
    assert_eq!(circuit.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_dropped_gives_its_permit_back() {
    let model = Model::new(&[&[Item(1), Hang], &[Hang], &[Item(1)]]);
    let Guarded { circuit, mut agent } = guarded(&model);
    // After an item: clients stop at the mark of the end.
    half_open(&circuit).await;
    let mut stream = agent.ready().await.unwrap().call(()).await.unwrap();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    assert_eq!(circuit.state(), State::Closed);
    // Before one: nobody knows.
    half_open(&circuit).await;
    let mut stream = agent.ready().await.unwrap().call(()).await.unwrap();
    assert!(stream.next().now_or_never().is_none());
    drop(stream);
    assert_eq!((circuit.state(), circuit.snapshot().cancelled), (State::HalfOpen, 1));
    let stream = agent.ready().await.unwrap().call(()).await.unwrap();
    collect(stream).await;
    assert_eq!(circuit.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn an_idle_gap_is_a_failure_of_the_circuit() {
    let layer = CircuitBreakerLayer::new("model").consecutive_failures(1);
    let circuit = layer.circuit();
    let model = Model::new(&[&[Item(1), Hang]]);
    let agent = ServiceBuilder::new()
        .layer(layer.settle_at_stream_end())
        .layer(StreamTimeoutLayer::new())
        .layer(FirstItemLayer::new())
        .service(model.service());
    let (items, errors) = collect(agent.oneshot(()).await.unwrap()).await;
    assert_eq!((items, circuit.state()), (vec![1], State::Open));
    // One error, as the layer furthest in made it.
    assert_eq!(interrupted(&errors[0]), 1);
    assert_eq!(limit(&errors[0]), (TimeLimit::Idle, seconds(30)));
}

#[tokio::test(start_paused = true)]
async fn an_item_that_is_a_failure_opens_the_circuit_and_is_handed_on() {
    let layer = CircuitBreakerLayer::new("model").consecutive_failures(1).settle_at_stream_end();
    let layer = layer.classify_items(thirteen);
    let circuit = layer.circuit();
    let model = Model::new(&[&[Item(1), Item(13), Item(2)]]);
    let agent = ServiceBuilder::new().layer(layer).service(model.service());
    let mut stream = agent.oneshot(()).await.unwrap();
    stream.next().await.unwrap().unwrap();
    assert_eq!(circuit.state(), State::Closed);
    assert_eq!(stream.next().await.unwrap().unwrap(), 13);
    assert_eq!(circuit.state(), State::Open);
    assert_eq!(collect(stream).await.0, [2]);
    assert_eq!(circuit.snapshot().late, 0);
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_a_stream_is_a_failure_and_goes_on_unwinding() {
    let model = Model::new(&[&[Item(1), Panic]]);
    let Guarded { circuit, agent } = guarded(&model);
    let mut stream = agent.oneshot(()).await.unwrap();
    stream.next().await.unwrap().unwrap();
    let next = tokio::spawn(async move { stream.next().await });
    assert!(next.await.unwrap_err().is_panic());
    assert_eq!(circuit.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_a_failure_is_counted_once() {
    let layer = CircuitBreakerLayer::new("model").consecutive_failures(3);
    let circuit = layer.circuit();
    let failed = |result: Result<&Items, &io::Error>| match result {
        Ok(_) => Failure::new(FailureKind::Overloaded).into(),
        Err(_) => Outcome::Neutral,
    };
    let model = Model::new(&[&[Item(1), Fail], &[Item(1)]]);
    let layer = layer.classify(failed).settle_at_stream_end();
    let agent = ServiceBuilder::new().layer(layer).service(model.service());
    // Whatever its stream comes to.
    for (failures, errors) in [(1, 1), (2, 0)] {
        let (items, found) = collect(agent.clone().oneshot(()).await.unwrap()).await;
        assert_eq!((items, found.len()), (vec![1], errors));
        assert_eq!(circuit.snapshot().consecutive_failures, failures);
    }
}

#[tokio::test(start_paused = true)]
async fn each_key_has_its_streams_settled() {
    let layer = CircuitBreakerLayer::keyed("models", |model: &&'static str| *model)
        .like(&CircuitBreakerLayer::new("rules").consecutive_failures(1))
        .settle_at_stream_end();
    let circuits = layer.circuits();
    let mut agent = ServiceBuilder::new().layer(layer).service_fn(|model| async move {
        let steps = if model == "good" { vec![Item(1)] } else { vec![Item(1), Fail] };
        Ok::<_, BoxError>(items(steps))
    });
    for model in ["good", "bad"] {
        collect(agent.ready().await.unwrap().call(model).await.unwrap()).await;
    }
    let state = |model| circuits.get(&model).unwrap().state();
    assert_eq!((state("good"), state("bad")), (State::Closed, State::Open));
}

#[tokio::test(start_paused = true)]
async fn a_stream_from_before_the_circuit_opened_changes_nothing() {
    let model = Model::new(&[&[Item(1), Fail], &[Fail]]);
    let Guarded { circuit, mut agent } = guarded(&model);
    let mut old = agent.ready().await.unwrap().call(()).await.unwrap();
    old.next().await.unwrap().unwrap();
    collect(agent.ready().await.unwrap().call(()).await.unwrap()).await;
    half_open(&circuit).await;
    circuit.reset();
    old.next().await.unwrap().unwrap_err();
    assert_eq!((circuit.state(), circuit.snapshot().late), (State::Closed, 1));
}

/// A stream in each of its states, dropped there: the one permit comes back, and is taken for what the
/// stream had come to.
#[tokio::test(start_paused = true)]
async fn a_stream_can_be_dropped_in_every_state() {
    let steps = [Wait(1), Item(1), Wait(1), Item(2), Wait(1)];
    // After so many half seconds the call and then its stream are dropped.
    for halves in 0..8 {
        let model = Model::new(&[&steps, &[Item(7)]]);
        let layer = CircuitBreakerLayer::new("model")
            .half_open(HalfOpen::consecutive(1, 1))
            .open_for(seconds(10));
        let circuit = layer.circuit();
        let mut agent = ServiceBuilder::new()
            .layer(RetryLayer::new(3))
            .layer(layer.settle_at_stream_end())
            .layer(StreamTimeoutLayer::new().total(seconds(60)))
            .layer(FirstItemLayer::new())
            .service(model.service());
        half_open(&circuit).await;
        let read = async {
            let stream = agent.ready().await.unwrap().call(()).await.unwrap();
            collect(stream).await
        };
        let patience = Duration::from_millis(500) * halves + Duration::from_millis(1);
        let ended = tokio::time::timeout(patience, read).await;
        // The first item comes after one second, the end after three.
        assert_eq!(ended.is_ok(), halves >= 6, "{halves}");
        let expected = if halves < 2 { State::HalfOpen } else { State::Closed };
        assert_eq!(circuit.state(), expected, "{halves}");
        let seen = circuit.snapshot();
        assert_eq!((seen.cancelled, seen.late), (u64::from(halves < 2), 0), "{halves}");
        let (items, errors) = collect(agent.ready().await.unwrap().call(()).await.unwrap()).await;
        assert_eq!((items, errors.len(), circuit.state()), (vec![7], 0, State::Closed));
    }
}

#[tokio::test(start_paused = true)]
async fn a_drop_before_the_first_item_is_a_failure_where_the_circuit_says_so() {
    for (steps, waits, expected) in [
        (&[Hang][..], 4, State::Closed),
        (&[Hang], 5, State::Open),
        (&[Item(1), Hang], 9, State::Closed),
    ] {
        let layer = CircuitBreakerLayer::new("model").consecutive_failures(1);
        let layer = layer.drop_is_failure_after(seconds(5));
        let circuit = layer.circuit();
        let model = Model::new(&[steps]);
        let agent =
            ServiceBuilder::new().layer(layer.settle_at_stream_end()).service(model.service());
        let stream = agent.oneshot(()).await.unwrap();
        tokio::time::timeout(seconds(waits), collect(stream)).await.unwrap_err();
        assert_eq!(circuit.state(), expected, "{steps:?}, {waits} s");
        assert_eq!(circuit.snapshot().cancelled, u64::from(waits == 4));
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_outlives_its_lease_is_late_and_holds_nobody_up() {
    let model = Model::new(&[&[Item(1), Wait(61), Item(2)], &[Item(3)]]);
    let Guarded { circuit, mut agent } = guarded(&model);
    half_open(&circuit).await;
    let mut old = agent.ready().await.unwrap().call(()).await.unwrap();
    old.next().await.unwrap().unwrap();
    let old = tokio::spawn(collect(old));
    tokio::time::sleep(seconds(60)).await;
    let new = agent.ready().await.unwrap().call(()).await.unwrap();
    assert_eq!(old.await.unwrap().0, [2]);
    assert_eq!((circuit.state(), circuit.snapshot().late), (State::HalfOpen, 1));
    collect(new).await;
    assert_eq!((circuit.state(), circuit.snapshot().late), (State::Closed, 1));
}

/// An idle gap exactly as long as its limit is none where the item is there by then.
#[tokio::test(start_paused = true)]
async fn an_item_in_the_last_moment_is_in_time() {
    let layer = StreamTimeoutLayer::new().first_item(seconds(2)).idle(seconds(3));
    let model = Model::new(&[&[Wait(2), Item(1), Wait(3), Item(2), Wait(3), Item(3), Wait(4)]]);
    let agent = ServiceBuilder::new().layer(layer).service(model.service());
    let started = Instant::now();
    let (items, errors) = collect(agent.oneshot(()).await.unwrap()).await;
    assert_eq!(items, [1, 2, 3]);
    assert_eq!((interrupted(&errors[0]), limit(&errors[0])), (3, (TimeLimit::Idle, seconds(3))));
    assert_eq!(started.elapsed(), seconds(2 + 3 + 3 + 3));
}

/// A reader that looks for an item now and then, and has other things to do in between.
#[tokio::test(start_paused = true)]
async fn a_reader_that_comes_back_finds_the_item_that_came_meanwhile() {
    let (items, stream) = tokio::sync::mpsc::unbounded_channel();
    let stream = tokio::sync::Mutex::new(Some(stream));
    let layer = StreamTimeoutLayer::new().idle(seconds(5));
    let agent = ServiceBuilder::new().layer(layer).service(service_fn(|()| {
        let mut queue = stream.try_lock().unwrap().take().unwrap();
        async move { Ok::<_, io::Error>(stream::poll_fn(move |cx| queue.poll_recv(cx))) }
    }));
    let mut stream = std::pin::pin!(agent.oneshot(()).await.unwrap());
    for item in 0..3 {
        assert!(stream.next().now_or_never().is_none());
        tokio::time::advance(seconds(4)).await;
        items.send(Ok::<_, io::Error>(item)).unwrap();
        tokio::time::advance(seconds(100)).await;
        assert_eq!(stream.next().await.unwrap().unwrap(), item);
    }
}

/// What a layer of ours says of a stream counts once, however many layers it goes through.
#[tokio::test(start_paused = true)]
async fn stacked_layers_count_the_items_and_the_failure_once() {
    let layer = CircuitBreakerLayer::new("model");
    let circuit = layer.circuit();
    let model = Model::new(&[&[Item(1), Item(2), Fail]]);
    let agent = ServiceBuilder::new()
        .layer(FirstItemLayer::new().agent_id("outer"))
        .layer(RetryLayer::new(3))
        .layer(layer.agent_id("model").settle_at_stream_end())
        .layer(FirstItemLayer::new())
        .service(model.service());
    let (items, errors) = collect(agent.oneshot(()).await.unwrap()).await;
    assert_eq!((items, errors.len(), model.calls()), (vec![1, 2], 1, 1));
    assert_eq!((interrupted(&errors[0]), errors[0].agent()), (2, Some("model")));
    assert_eq!(circuit.snapshot().consecutive_failures, 1);
    let source = std::error::Error::source(&errors[0]).unwrap();
    assert!(source.is::<io::Error>(), "one interruption with its cause: {source:?}");
}

// ===== spans =====

/// The outcome of each span of one run, as they end.
fn outcomes(run: impl AsyncFnOnce(&Mutex<Vec<String>>)) -> Vec<String> {
    use buttress::observe::{ObserveLayer, Observed};
    use tracing_subscriber::layer::SubscriberExt as _;

    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let layer = ObserveLayer::new(move |span: &Observed| {
        sink.lock().unwrap().push(span.str("outcome").unwrap_or("none").to_owned());
    });
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, || runtime.block_on(run(&seen)));
    std::mem::take(&mut seen.lock().unwrap())
}

/// The spans end when the stream does, and not when its reader lets go of it.
#[test]
fn the_end_of_a_stream_ends_its_spans() {
    for steps in [&[Item(1), Item(2)][..], &[]] {
        let ended = outcomes(async |seen| {
            let agent = ServiceBuilder::new()
                .layer(CircuitBreakerLayer::new("model").settle_at_stream_end())
                .layer(StreamTimeoutLayer::new())
                .layer(FirstItemLayer::new().allow_empty())
                .service(Model::new(&[steps]).service());
            let mut stream = std::pin::pin!(agent.oneshot(()).await.unwrap());
            while let Some(item) = stream.next().await {
                item.unwrap();
                assert_eq!(seen.lock().unwrap().len(), 0);
            }
            assert_eq!(*seen.lock().unwrap(), ["success"; 3], "{steps:?}");
        });
        assert_eq!(ended.len(), 3, "{steps:?}");
    }
    // Alone, where no layer further out lets go of it.
    outcomes(async |seen| {
        let agent = FirstItemLayer::new().layer(Model::new(&[&[Item(1)]]).service());
        let mut stream = agent.oneshot(()).await.unwrap();
        stream.next().await.unwrap().unwrap();
        assert!(stream.next().await.is_none());
        assert_eq!(*seen.lock().unwrap(), ["success"]);
    });
}

/// A failure that comes as an answer is told when it is there, whatever its stream comes to.
#[test]
fn an_answer_that_is_a_failure_is_told_as_one() {
    let failed = |_: Result<&Items, &io::Error>| Failure::new(FailureKind::Overloaded).into();
    let told = outcomes(async |seen| {
        let agent = StreamTimeoutLayer::new().classify(failed);
        let agent = agent.layer(Model::new(&[&[Item(1)]]).service());
        let stream = agent.oneshot(()).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), ["failure"]);
        assert_eq!(collect(stream).await.0, [1]);

        let agent = FirstItemLayer::new().classify(failed);
        let agent = agent.layer(Model::new(&[&[Item(1)]]).service());
        let stream = agent.oneshot(()).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), ["failure"; 2]);
        assert_eq!(collect(stream).await.0, [1]);
    });
    assert_eq!(told, ["failure"; 2]);
}
