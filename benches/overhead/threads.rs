//! Cases on several threads.

use std::{sync::Barrier, thread};

/// Makes so many calls on each of some threads at once; `prepare` makes what one thread calls.
pub(crate) fn on_threads<T>(threads: usize, calls: usize, prepare: impl Fn() -> T + Sync)
where
    T: FnMut(),
{
    let start = Barrier::new(threads);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut one = prepare();
                start.wait();
                for _ in 0..calls {
                    one();
                }
            });
        }
    });
}

/// Returns how many threads contention is measured with: 1 and 2, and 4 and 8 where there are
/// cores for them.
pub(crate) fn thread_counts() -> Vec<usize> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    [1, 2, 4, 8].into_iter().filter(|threads| *threads <= cores.max(2)).collect()
}
