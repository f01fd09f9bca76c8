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

use crate::agent::SEED;

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

/// The most calls of each route in one shuffled block.
const BLOCK: u32 = 50;

/// Hands out the calls of a time at a rate. Ends early when told to stop.
///
/// The routes are shuffled in blocks: if they took turns, what begins when a guarded call ends,
/// such as the delivery of its spans, would always fall on a bare one.
///
/// On a thread of its own: a runtime's timers are good to a millisecond only.
pub(crate) fn slots(rps: u32, time: Duration, stop: Arc<AtomicBool>) -> UnboundedReceiver<Slot> {
    let (due, slots) = mpsc::unbounded_channel();
    thread::spawn(move || {
        let start = Instant::now();
        let (mut bare, mut guarded) = (0_u64.., 0_u64..);
        let places = routes(rps).zip(0_u64..).map(|(route, place)| (route, offset(place, rps)));
        for (route, offset) in places.take_while(|(_, offset)| *offset < time) {
            let intended = start + offset;
            wait_until(intended);
            let indices = if route == Route::Bare { &mut bare } else { &mut guarded };
            let Some(index) = indices.next() else { return };
            // Fails when nobody takes them any more.
            let is_over = stop.load(Ordering::Relaxed);
            if is_over || due.send(Slot { route, index, intended }).is_err() {
                return;
            }
        }
    });
    slots
}

/// Lists the routes in the order of their calls, always the same.
fn routes(rps: u32) -> impl Iterator<Item = Route> {
    let calls = rps.clamp(1, BLOCK) as usize;
    let mut random = fastrand::Rng::with_seed(SEED);
    std::iter::repeat_with(move || {
        let mut block = [[Route::Bare, Route::Guarded]; BLOCK as usize].concat();
        block.truncate(2 * calls);
        random.shuffle(&mut block);
        block
    })
    .flatten()
}

/// Returns when the call at a place is due; there are two for each of a route.
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
    use crate::run::WARM_UP;

    #[test]
    fn the_schedule_does_not_drift() {
        assert_eq!(offset(0, 3), Duration::ZERO);
        assert_eq!(offset(1, 500), Duration::from_millis(1));
        assert_eq!(offset(6 * 3_600, 3), Duration::from_secs(3_600));
    }

    #[test]
    fn each_block_has_as_many_calls_of_each_route() {
        let all: Vec<Route> = routes(500).take(1_000).collect();
        for block in all.chunks(100) {
            assert_eq!(block.iter().filter(|route| **route == Route::Bare).count(), 50);
        }
        let after_guarded = all.windows(2).filter(|two| two[0] == Route::Guarded);
        let bare = after_guarded.filter(|two| two[1] == Route::Bare).count();
        assert!((200..300).contains(&bare), "{bare} bare calls follow guarded ones");
    }

    #[test]
    fn both_routes_are_called_while_the_server_warms_up() {
        for rps in [1, 2, 3, 49, 50, 51, 500, 20_000] {
            let warm_up =
                routes(rps).zip(0..).take_while(|(_, place)| offset(*place, rps) < WARM_UP);
            let called: Vec<Route> = warm_up.map(|(route, _)| route).collect();
            assert!(called.contains(&Route::Bare) && called.contains(&Route::Guarded), "{rps}");
        }
    }

    #[test]
    fn calls_of_a_route_are_numbered_in_order() {
        let mut slots = slots(1_000, Duration::from_millis(20), Arc::default());
        let all: Vec<Slot> = std::iter::from_fn(|| slots.blocking_recv()).collect();
        assert_eq!(all.len(), 40);
        for route in [Route::Bare, Route::Guarded] {
            let indices = all.iter().filter(|slot| slot.route == route).map(|slot| slot.index);
            assert!(indices.eq(0..all.iter().filter(|slot| slot.route == route).count() as u64));
        }
    }
}
