//! What the layers cost where there is nothing to carry.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    task::{Context, Poll, Waker},
};

use buttress_langfuse::{ExtractLayer, InjectLayer};
use http::{Request, Response};
use tower::{Layer, Service};

/// Answers at once.
struct Fine;

impl Service<Request<()>> for Fine {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = Ready<Result<Response<()>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        assert!(request.headers().is_empty());
        ready(Ok(Response::new(())))
    }
}

#[track_caller]
fn check<L>(layer: &L)
where
    L: Layer<Fine, Service: Service<Request<()>, Error = Infallible>>,
{
    let mut service = layer.layer(Fine);
    let mut call = || {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(service.poll_ready(&mut cx).is_ready());
        let mut answer = std::pin::pin!(service.call(Request::new(())));
        assert!(answer.as_mut().poll(&mut cx).is_ready());
    };
    // What a thread makes once.
    call();
    let info = allocation_counter::measure(|| (0..100).for_each(|_| call()));
    assert_eq!(info.count_total, 0);
}

#[test]
fn without_a_header_or_a_span_nothing_is_allocated() {
    check(&ExtractLayer::new());
    check(&InjectLayer::new());
}
