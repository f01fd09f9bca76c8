//! What spans tell of a stream.

use super::*;

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
