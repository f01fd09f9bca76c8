//! Bodies of gRPC answers: kept within the caller's deadline, and ended with trailers where they fail.
#![cfg(all(feature = "full", feature = "test-util"))]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    convert::Infallible,
    future::{Pending, pending},
    io,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use buttress::{
    BudgetLimit, CallBudget, Error, ErrorKind,
    grpc::{DeadlineBody, GrpcDeadlineLayer, GrpcStatusLayer, StatusBody},
};
use bytes::Bytes;
use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, StreamBody};
use tokio::time::{Instant, advance};
use tower::{Layer as _, Service, ServiceExt as _, service_fn};

/// Shows by its count whether the body that holds it is there still.
type Held = Arc<()>;

fn data() -> Result<Frame<Bytes>, io::Error> {
    Ok(Frame::data(Bytes::from_static(b"item")))
}

fn trailers() -> Result<Frame<Bytes>, io::Error> {
    Ok(Frame::trailers(HeaderMap::from_iter([(
        "grpc-status".parse().unwrap(),
        "0".parse().unwrap(),
    )])))
}

/// Answers with these frames, through a layer of deadlines.
async fn within<S>(timeout: Option<&str>, frames: S) -> DeadlineBody<StreamBody<S>>
where
    S: Stream<Item = Result<Frame<Bytes>, io::Error>>,
{
    let mut frames = Some(frames);
    let service = service_fn(move |_: Request<()>| {
        let body = StreamBody::new(frames.take().unwrap());
        std::future::ready(Ok::<_, Infallible>(Response::new(body)))
    });
    let mut request = Request::new(());
    if let Some(timeout) = timeout {
        request.headers_mut().insert("grpc-timeout", timeout.parse().unwrap());
    }
    let service = GrpcDeadlineLayer::new().margin(Duration::ZERO).layer(service);
    service.oneshot(request).await.unwrap().into_body()
}

fn is_deadline(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::BudgetExhausted { limit: BudgetLimit::Deadline, .. })
}

#[tokio::test(start_paused = true)]
async fn a_body_that_waits_is_dropped_when_the_deadline_is_over_and_then_told_so() {
    let held = Held::default();
    let inside = Arc::clone(&held);
    let frames = stream::iter([data()]).chain(stream::poll_fn(move |_| {
        let _inside = &inside;
        Poll::Pending
    }));
    let mut body = pin!(within(Some("3S"), frames).await);
    assert!(body.frame().await.unwrap().is_ok());
    let started = tokio::time::Instant::now();
    let error = body.frame().await.unwrap().unwrap_err();
    assert_eq!((started.elapsed(), Arc::strong_count(&held)), (Duration::from_secs(3), 1));
    assert!(matches!(error.kind(), ErrorKind::Interrupted { items: 1, .. }), "{error:?}");
    assert!(is_deadline(error.downcast_ref::<Error>().unwrap()));
    assert!(!error.failure().is_retryable());
    assert!(body.is_end_stream() && body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_body_without_a_frame_runs_out_of_the_budget_itself() {
    let mut body = pin!(within(Some("3S"), stream::pending()).await);
    let error = body.frame().await.unwrap().unwrap_err();
    assert!(is_deadline(&error) && !error.failure().trips(), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_always_has_more_is_cut_too_and_one_that_ends_is_let_end() {
    let mut endless = pin!(within(Some("1S"), stream::repeat_with(data)).await);
    assert!(endless.frame().await.unwrap().is_ok());
    advance(Duration::from_secs(1)).await;
    assert!(endless.frame().await.unwrap().is_err());

    let mut ending = pin!(within(Some("1S"), stream::iter([data(), trailers()])).await);
    assert!(ending.frame().await.unwrap().unwrap().is_data());
    advance(Duration::from_secs(1)).await;
    assert!(ending.frame().await.unwrap().unwrap().is_trailers());
    assert!(ending.frame().await.is_none());
}

#[test]
fn without_a_deadline_there_is_no_timer_and_no_end_but_the_bodys_own() {
    // No runtime: a timer would panic.
    let frames = stream::iter([data()]).chain(stream::pending());
    let mut body = pin!(within(None, frames).now_or_never().unwrap());
    let mut cx = Context::from_waker(Waker::noop());
    assert!(body.as_mut().poll_frame(&mut cx).is_ready());
    assert!(body.as_mut().poll_frame(&mut cx).is_pending());
}

#[tokio::test(start_paused = true)]
async fn the_error_of_a_body_says_how_much_came_before() {
    let broken = stream::iter([data(), data(), Err(io::Error::other("reset"))]);
    let mut body = pin!(within(Some("1S"), broken).await);
    let error = loop {
        if let Err(error) = body.frame().await.unwrap() {
            break error;
        }
    };
    assert!(matches!(error.kind(), ErrorKind::Interrupted { items: 2, .. }));
    assert_eq!(error.downcast_ref::<io::Error>().unwrap().to_string(), "reset");
}

async fn answered<S>(frames: S) -> StatusBody<StreamBody<S>>
where
    S: Stream<Item = Result<Frame<Bytes>, io::Error>>,
{
    let mut frames = Some(frames);
    let service = service_fn(move |()| {
        let body = StreamBody::new(frames.take().unwrap());
        std::future::ready(Ok::<_, Error>(Response::new(body)))
    });
    GrpcStatusLayer::new().layer(service).oneshot(()).await.unwrap().into_body()
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_is_dropped_and_ends_with_trailers() {
    let held = Held::default();
    let inside = Arc::clone(&held);
    let frames = stream::iter([data(), Err(io::Error::other("the key sk-1"))]).map(move |frame| {
        let _inside = &inside;
        frame
    });
    let mut body = pin!(answered(frames).await);
    assert!(body.frame().await.unwrap().unwrap().is_data());
    assert!(!body.is_end_stream());
    let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(Arc::strong_count(&held), 1);
    assert_eq!(
        (&trailers["grpc-status"], &trailers["grpc-message"]),
        (&"14".parse().unwrap(), &"transient".parse().unwrap())
    );
    assert!(body.is_end_stream() && body.frame().await.is_none());
}

#[tokio::test]
async fn a_body_that_ends_well_passes_as_it_is() {
    let mut body = pin!(answered(stream::iter([data(), trailers()])).await);
    assert!(body.frame().await.unwrap().unwrap().is_data());
    let trailers = body.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert!(body.frame().await.is_none());
    // A server would promise the length of a body that may be cut.
    let exact = StatusBody::<http_body_util::Full<Bytes>>::default();
    assert_eq!(exact.size_hint().exact(), None);
}

/// Asks a service that hangs; says after how long it was cut, and whether it was dropped by then.
async fn cut_after(request: Request<()>) -> Duration {
    let held = Held::default();
    let inside = Arc::clone(&held);
    let service = service_fn(move |_: Request<()>| {
        let inside = Arc::clone(&inside);
        async move {
            let _inside = inside;
            pending::<Result<Response<String>, Infallible>>().await
        }
    });
    let started = Instant::now();
    let mut service = GrpcDeadlineLayer::new().layer(service);
    let mut call = pin!(service.ready().await.unwrap().call(request));
    let error = call.as_mut().await.unwrap_err();
    assert!(is_deadline(&error), "{error:?}");
    // The service holds one, and its call none any more, though it is there still.
    assert_eq!(Arc::strong_count(&held), 2);
    started.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_call_is_dropped_when_the_first_of_its_deadlines_is_over() {
    let within = |header: &str, budget: Option<Duration>| {
        let mut request = Request::builder().header("grpc-timeout", header).body(()).unwrap();
        if let Some(budget) = budget {
            request.extensions_mut().insert(CallBudget::new().deadline(budget));
        }
        request
    };
    let millis = Duration::from_millis;
    assert_eq!(cut_after(within("100m", None)).await, millis(95));
    // Of a short time half is left to the call.
    assert_eq!(cut_after(within("8m", None)).await, millis(4));
    assert_eq!(cut_after(within("0n", None)).await, Duration::ZERO);
    // Whoever set a budget before may be more impatient.
    assert_eq!(cut_after(within("100S", Some(millis(20)))).await, millis(20));
    assert_eq!(cut_after(within("100m", Some(millis(2_000)))).await, millis(95));
    assert_eq!(cut_after(within("99999999H", Some(millis(20)))).await, millis(20));
}

/// tower: what has failed to become ready is not asked once more.
#[tokio::test]
async fn an_error_of_readiness_is_kept_for_the_call() {
    struct Failed(bool);
    impl Service<()> for Failed {
        type Response = Response<String>;
        type Error = io::Error;
        type Future = Pending<Result<Response<String>, io::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
            assert!(!std::mem::replace(&mut self.0, true), "it has failed");
            Poll::Ready(Err(io::Error::other("the key sk-1")))
        }

        fn call(&mut self, (): ()) -> Self::Future {
            panic!("it is not ready")
        }
    }
    let mut service = GrpcStatusLayer::new().layer(Failed(false));
    for _ in 0..2 {
        service.ready().await.unwrap();
    }
    let answer = service.call(()).await.unwrap();
    assert_eq!(
        (&answer.headers()["grpc-status"], &answer.headers()["grpc-message"]),
        (&"14".parse().unwrap(), &"transient".parse().unwrap())
    );
    assert!(answer.body().is_end_stream());
}

/// Frames whose reader panics when it asks on behind their end.
fn ended_once() -> impl Stream<Item = Result<Frame<Bytes>, io::Error>> {
    let mut has_ended = false;
    stream::poll_fn(move |_| {
        assert!(!std::mem::replace(&mut has_ended, true), "asked behind the end");
        Poll::Ready(None)
    })
}

#[tokio::test]
async fn a_body_that_has_ended_is_dropped_and_not_asked_again() {
    let mut body = pin!(within(None, ended_once()).await);
    assert!(body.frame().await.is_none() && body.frame().await.is_none());
    let mut body = pin!(answered(ended_once()).await);
    assert!(body.frame().await.is_none() && body.frame().await.is_none());
}
