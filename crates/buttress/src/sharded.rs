//! What every call of a service owns together with the service.
//!
//! A future outlives the `call` that made it, so it owns an `Arc` of what its layer knows. One
//! count for all threads would cost each call a cache line that travels between their cores. So
//! the value is kept up to [`SHARDS`] times, each copy with a count on a line of its own, and a
//! thread always takes the same one. A copy is made when its first thread asks for it.

use std::{
    cell::Cell,
    fmt,
    ops::Deref,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

/// How many copies there are at most; threads beyond that share.
const SHARDS: usize = 16;

/// A value of which each call gets a handle; made from a prototype.
pub(crate) struct Sharded<P, V> {
    table: Arc<Table<P, V>>,
}

struct Table<P, V> {
    prototype: P,
    shards: [OnceLock<Handle<V>>; SHARDS],
}

/// One copy of the value, kept alive for as long as a call needs it.
pub(crate) struct Handle<V>(Arc<Line<V>>);

/// Keeps the counts of an `Arc` on a cache line that nothing else stands on.
#[repr(align(64))]
struct Line<V>(V);

// ===== impl Sharded =====

impl<P, V> Sharded<P, V> {
    pub(crate) fn new(prototype: P) -> Self {
        let table = Table { prototype, shards: [const { OnceLock::new() }; SHARDS] };
        Self { table: Arc::new(table) }
    }

    /// Returns what the copies are made from.
    #[inline]
    pub(crate) fn prototype(&self) -> &P {
        &self.table.prototype
    }

    /// Returns a handle of this thread's copy, which is made if it is the first.
    #[inline]
    pub(crate) fn handle(&self, make: impl FnOnce(&P) -> V) -> Handle<V> {
        let shard = &self.table.shards[shard_of_this_thread()];
        match shard.get() {
            Some(handle) => handle.clone(),
            None => self.first_handle(shard, make),
        }
    }

    #[cold]
    fn first_handle(&self, shard: &OnceLock<Handle<V>>, make: impl FnOnce(&P) -> V) -> Handle<V> {
        shard.get_or_init(|| Handle(Arc::new(Line(make(&self.table.prototype))))).clone()
    }
}

impl<P, V> Clone for Sharded<P, V> {
    #[inline]
    fn clone(&self) -> Self {
        Self { table: Arc::clone(&self.table) }
    }
}

impl<P: fmt::Debug, V> fmt::Debug for Sharded<P, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table.prototype.fmt(f)
    }
}

// ===== impl Handle =====

impl<V> Clone for Handle<V> {
    #[inline]
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<V> Deref for Handle<V> {
    type Target = V;

    #[inline]
    fn deref(&self) -> &V {
        &self.0.0
    }
}

impl<V: fmt::Debug> fmt::Debug for Handle<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.0.fmt(f)
    }
}

/// Returns the place of this thread: threads are spread evenly as they come.
#[inline]
fn shard_of_this_thread() -> usize {
    thread_local! {
        static SHARD: Cell<usize> = const { Cell::new(usize::MAX) };
    }

    #[cold]
    fn first_time() -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let shard = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS;
        SHARD.set(shard);
        shard
    }

    let shard = SHARD.get();
    if shard < SHARDS { shard } else { first_time() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_one_copy_and_another_thread_has_its_own() {
        let made = AtomicUsize::new(0);
        let sharded = Sharded::<u32, u32>::new(7);
        let take = || {
            sharded.handle(|prototype| {
                made.fetch_add(1, Ordering::Relaxed);
                *prototype
            })
        };
        let (first, second) = (take(), take());
        assert!(Arc::ptr_eq(&first.0, &second.0));
        std::thread::scope(|scope| {
            let other = scope.spawn(take).join().unwrap();
            assert!(!Arc::ptr_eq(&first.0, &other.0));
            assert_eq!((*first, *other), (7, 7));
        });
        assert_eq!(made.into_inner(), 2);
    }

    #[test]
    fn more_threads_than_copies_share_them() {
        let made = AtomicUsize::new(0);
        let sharded = Sharded::<(), ()>::new(());
        std::thread::scope(|scope| {
            for _ in 0..10 * SHARDS {
                scope.spawn(|| sharded.handle(|()| _ = made.fetch_add(1, Ordering::Relaxed)));
            }
        });
        assert!(made.into_inner() <= SHARDS);
    }

    #[test]
    fn a_handle_outlives_what_it_came_from() {
        let sharded = Sharded::<String, String>::new("rules".to_owned());
        let handle = sharded.handle(Clone::clone);
        drop(sharded);
        assert_eq!(*handle, "rules");
    }
}
