//! Timers behind calls.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep};

/// Polls the timer of a call that is pending.
///
/// A call that is busy may have used up what its task may do in one go (tokio's cooperative budget): then
/// the timer is pending though its time is over, at each poll anew. So the clock is read where it is.
pub(crate) fn poll_timer(mut timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<()> {
    match timer.as_mut().poll(cx) {
        Poll::Pending if timer.deadline() < Instant::now() => Poll::Ready(()),
        poll => poll,
    }
}
