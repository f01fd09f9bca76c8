//! What may be done until the first item.

use super::*;

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
