//! Streams: answers that come in parts, and may stop in the middle.
//!
//! A language model answers with a stream: the call succeeds, and what fails comes later. A retry, a
//! breaker or a timeout around such a call sees a success after the first line of the answer and
//! learns nothing of the rest. Three things mend that:
//!
//! | | for a response that is a `Stream` | for `http::Response<B>` |
//! |---|---|---|
//! | the answer succeeds when it begins | [`FirstItemLayer`] | `FirstFrameLayer` |
//! | limits until the beginning, between two items, in all | [`StreamTimeoutLayer`] | `BodyTimeoutLayer` |
//! | a circuit learns how the stream ends | [`settle_at_stream_end`] | `settle_at_body_end` |
//!
//! Until the first item a failure is that of the call, so that retries and fallbacks act. After it
//! the stream ends with [`Interrupted`](crate::ErrorKind::Interrupted), which says how many items were
//! handed on and what cut it, and which nobody retries: whoever reads the stream decides.
//!
//! The layers for `http::Response` need the feature `http`.
//!
//! # Ordering
//!
//! Retry, fallback, breaker, limits, first item, service: from the outside to the inside.
//!
//! # Examples
//!
//! ```
//! use std::time::Duration;
//! use buttress::{CircuitBreakerLayer, ErrorKind, FirstItemLayer, RetryLayer, StreamTimeoutLayer};
//! use futures_util::{StreamExt, stream};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), buttress::Error> {
//! let agent = ServiceBuilder::new()
//!     .layer(RetryLayer::new(3))
//!     .layer(CircuitBreakerLayer::new("gpt-large").settle_at_stream_end())
//!     .layer(StreamTimeoutLayer::new().first_item(Duration::from_secs(20)).idle(Duration::from_secs(5)))
//!     .layer(FirstItemLayer::new())
//!     .service_fn(|prompt: &'static str| async move {
//!         let words = stream::iter([Ok::<_, std::io::Error>(prompt), Ok("rises")]);
//!         // The model says two words and hangs.
//!         Ok::<_, std::io::Error>(words.chain(stream::pending()))
//!     });
//!
//! let mut answer = std::pin::pin!(agent.oneshot("AAPL").await?);
//! assert_eq!(answer.next().await.unwrap()?, "AAPL");
//! assert_eq!(answer.next().await.unwrap()?, "rises");
//! let error = answer.next().await.unwrap().unwrap_err();
//! assert!(matches!(error.kind(), ErrorKind::Interrupted { items: 2, .. }));
//! assert!(error.is_timeout() && answer.next().await.is_none());
//! # Ok(())
//! # }
//! ```
//!
//! [`settle_at_stream_end`]: crate::CircuitBreakerLayer::settle_at_stream_end

#[cfg(feature = "http")]
mod body_timeout;
#[cfg(feature = "config")]
mod config;
mod course;
#[cfg(feature = "http")]
mod first_frame;
mod first_item;
mod limits;
mod timed_call;
mod timeout;
mod told;

#[cfg(feature = "config")]
pub use self::config::StreamTimeoutConfig;
#[cfg(feature = "circuit-breaker")]
pub(crate) use self::course::{Course, Watcher};
#[cfg(all(feature = "circuit-breaker", feature = "http"))]
pub(crate) use self::first_frame::read_frame;
#[cfg(feature = "http")]
pub use self::{
    body_timeout::{BodyTimeout, BodyTimeoutFuture, BodyTimeoutLayer, TimedBody},
    first_frame::{BegunBody, FirstFrame, FirstFrameFuture, FirstFrameLayer},
};
pub use self::{
    first_item::{FirstItem, FirstItemFuture, FirstItemLayer, FirstItemStream},
    timeout::{StreamTimeout, StreamTimeoutFuture, StreamTimeoutLayer, TimedStream},
};
