//! Time limits of streams.

use super::*;

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
