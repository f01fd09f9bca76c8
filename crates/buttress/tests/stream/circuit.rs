//! A circuit that learns of a stream at its end.

use super::*;

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
