//! Cases on several threads.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use buttress_benches::measure::{Meter, Taken};
use tokio::runtime::Handle;

/// Makes so many calls on each of some threads at once; `prepare` makes what one thread calls.
///
/// The clock of each thread runs from where all are ready, and the slowest one's time is that of
/// all. Allocations are counted on the threads that make them.
pub(crate) fn on_threads<T>(
    threads: usize,
    calls: usize,
    meter: Meter,
    prepare: impl Fn() -> T + Sync,
) -> Taken
where
    T: FnMut(),
{
    let ready = AtomicUsize::new(0);
    // Timers of others are made in the context of a runtime.
    let runtime = Handle::try_current().ok();
    let run = || {
        let _entered = runtime.as_ref().map(Handle::enter);
        let mut one = prepare();
        // To be woken takes longer than many calls, so nobody sleeps here.
        ready.fetch_add(1, Ordering::AcqRel);
        while ready.load(Ordering::Acquire) < threads {
            thread::yield_now();
        }
        meter.of(calls, || {
            for _ in 0..calls {
                one();
            }
        })
    };
    let taken: Vec<Taken> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        running.into_iter().map(|thread| thread.join().expect("no call panics")).collect()
    });
    let slowest = taken.iter().map(|taken| taken.ns).fold(0.0, f64::max);
    Taken { ns: slowest, ..Taken::mean(taken.into_iter()) }
}

/// Returns how many threads contention is measured with: 1 and 2, and 4 and 8 where there are
/// cores for them.
pub(crate) fn thread_counts() -> Vec<usize> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    [1, 2, 4, 8].into_iter().filter(|threads| *threads <= cores.max(2)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_of_every_thread_are_counted_and_told_for_one_call() {
        let taken = on_threads(2, 100, Meter::Allocations, || {
            drop(std::hint::black_box(Box::new(1_u64)));
            || drop(std::hint::black_box(Box::new([0_u64; 3])))
        });
        assert_eq!((taken.allocs, taken.bytes), (1.0, 24.0));
    }
}
