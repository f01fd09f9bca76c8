//! Calls that are busy without an answer: each poll uses up all that the task may do in one go (tokio's
//! cooperative budget), so that a timer asked after it says nothing.
#![cfg(all(feature = "full", feature = "test-util"))]

use std::{convert::Infallible, future::poll_fn, pin::pin, task::Poll, time::Duration};

use buttress::{Swarm, TimeoutLayer, grpc::GrpcDeadlineLayer};
use http::{Request, Response};
use tokio::task::{AbortHandle, coop::consume_budget};
use tower::{Layer as _, ServiceExt as _, service_fn};

/// Is never ready, and never lets a timer behind it speak.
async fn busy<T>() -> T {
    let mut polls = 0;
    poll_fn(move |cx| {
        polls += 1;
        assert!(polls < 10_000, "nobody cuts it");
        while pin!(consume_budget()).poll(cx).is_ready() {}
        Poll::Pending
    })
    .await
}

/// The clock does not stand still though nobody is idle.
fn clock() -> AbortHandle {
    let ticks = async {
        loop {
            tokio::time::advance(Duration::from_millis(100)).await;
        }
    };
    tokio::spawn(ticks).abort_handle()
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_timeout_cuts_a_call_that_is_busy() {
    let clock = clock();
    let agent = TimeoutLayer::new(SECOND).layer(service_fn(|()| busy::<Result<(), Infallible>>()));
    assert!(agent.oneshot(()).await.unwrap_err().is_timeout());
    clock.abort();
}

#[tokio::test(start_paused = true)]
async fn a_deadline_cuts_a_swarm_that_is_busy() {
    let clock = clock();
    let agent = || service_fn(|()| busy::<Result<&'static str, Infallible>>());
    let swarm = Swarm::builder("research_swarm").required("technical", agent()).deadline(SECOND);
    assert!(swarm.build().unwrap().invoke(()).await.unwrap_err().is_timeout());
    clock.abort();
}

#[tokio::test(start_paused = true)]
async fn a_callers_deadline_cuts_a_call_that_is_busy() {
    let clock = clock();
    let server = GrpcDeadlineLayer::new()
        .layer(service_fn(|_: Request<()>| busy::<Result<Response<String>, Infallible>>()));
    let request = Request::builder().header("grpc-timeout", "1S").body(()).unwrap();
    let error = server.oneshot(request).await.unwrap_err();
    assert_eq!(error.to_string(), "the call's deadline ran out");
    clock.abort();
}
