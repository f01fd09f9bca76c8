//! What one reader is sent: everything first, then what has changed.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::response::sse::Event;
use futures_util::stream::{self, Stream};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{self, Instant},
};

use crate::{
    board::Cursor,
    shared::{Pulse, Shared},
};

/// How long nothing is sent after an event: what happens meanwhile is in the next one.
const GAP: Duration = Duration::from_millis(200);
/// How often circuits are looked at when nobody tells of a change.
const TICK: Duration = Duration::from_millis(800);
/// How long a reader goes without an event: it keeps proxies from closing the connection, and a page
/// that hears nothing for longer knows that it shows what is old.
const QUIET: Duration = Duration::from_secs(10);
/// When a browser asks again after its connection was lost.
const RETRY: Duration = Duration::from_secs(1);

/// One reader. It keeps how far it has read and nothing of what it has not.
struct Reader {
    shared: Arc<Shared>,
    pulse: watch::Receiver<Pulse>,
    read: Option<Cursor>,
    sent: Instant,
    _place: OwnedSemaphorePermit,
}

/// Returns the events for one reader, who gives its place back with them.
pub(crate) fn events(
    shared: Arc<Shared>,
    place: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let pulse = shared.pulse();
    let reader = Reader { pulse, shared, read: None, sent: Instant::now(), _place: place };
    stream::unfold(reader, |mut reader| async {
        let event = reader.next().await?;
        Some((Ok(event), reader))
    })
}

impl Reader {
    async fn next(&mut self) -> Option<Event> {
        loop {
            let is_first = self.read.is_none();
            if !is_first {
                time::sleep(GAP).await;
                // A pulse whose sender is gone, like one that does not come, leaves it to the look.
                drop(time::timeout(TICK, self.pulse.changed()).await);
            }
            if self.pulse.borrow_and_update().is_closed {
                return None;
            }
            let now = Instant::now();
            let is_quiet = now.saturating_duration_since(self.sent) >= QUIET;
            if let Some((cursor, json)) = self.shared.news(self.read, is_quiet) {
                (self.read, self.sent) = (Some(cursor), now);
                let event = Event::default().data(json);
                let name = if is_first { "snapshot" } else { "update" };
                return Some(event.event(name).retry(RETRY));
            }
        }
    }
}
