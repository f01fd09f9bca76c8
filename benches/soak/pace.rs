//! The schedule of the load: when each call is to start, whatever became of those before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::{
    sync::mpsc::{self, UnboundedReceiver},
    time::Instant,
};

/// One of the two routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Bare,
    Guarded,
}

/// One call that is due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) route: Route,
    /// Which call it is on its route.
    pub(crate) index: u64,
    /// When it was to start.
    pub(crate) intended: Instant,
}

/// Hands out the calls of a time at a rate; the routes take turns. Ends early when told to stop.
///
/// On a thread of its own: a runtime's timers are good to a millisecond only.
pub(crate) fn slots(rps: u32, time: Duration, stop: Arc<AtomicBool>) -> UnboundedReceiver<Slot> {
    let (due, slots) = mpsc::unbounded_channel();
    thread::spawn(move || {
        let start = Instant::now();
        let places = (0_u64..).map(|place| {
            let route = if place % 2 == 0 { Route::Bare } else { Route::Guarded };
            (route, place / 2, offset(place, rps))
        });
        for (route, index, offset) in places.take_while(|(_, _, offset)| *offset < time) {
            let intended = start + offset;
            wait_until(intended);
            // Fails when nobody takes them any more.
            let is_over = stop.load(Ordering::Relaxed);
            if is_over || due.send(Slot { route, index, intended }).is_err() {
                return;
            }
        }
    });
    slots
}

/// Returns when the call at a place is due; there are two in each turn.
fn offset(place: u64, rps: u32) -> Duration {
    let per_second = 2 * u64::from(rps);
    let seconds = Duration::from_secs(place / per_second);
    seconds + Duration::from_nanos((place % per_second) * 1_000_000_000 / per_second)
}

#[expect(clippy::disallowed_methods, reason = "the thread is no runtime's")]
fn wait_until(intended: Instant) {
    thread::sleep(intended.saturating_duration_since(Instant::now()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_does_not_drift() {
        assert_eq!(offset(0, 3), Duration::ZERO);
        assert_eq!(offset(1, 500), Duration::from_millis(1));
        assert_eq!(offset(6 * 3_600, 3), Duration::from_secs(3_600));
    }

    #[test]
    fn the_routes_take_turns() {
        let mut slots = slots(1_000, Duration::from_millis(2), Arc::default());
        let all: Vec<(Route, u64)> = std::iter::from_fn(|| slots.blocking_recv())
            .map(|slot| (slot.route, slot.index))
            .collect();
        let expected =
            [(Route::Bare, 0), (Route::Guarded, 0), (Route::Bare, 1), (Route::Guarded, 1)];
        assert_eq!(all, expected);
    }
}
