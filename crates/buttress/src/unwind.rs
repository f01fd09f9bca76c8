//! What a layer does when what is inside it panics.

/// Runs `f`; if it panics, runs `unwound` before the panic goes on.
///
/// The guard stands on the stack around the one call or poll and is disarmed on return, so that a
/// future that is dropped while something else unwinds is never taken for one that panicked.
#[inline(always)]
pub(crate) fn on_unwind<T>(f: impl FnOnce() -> T, unwound: impl FnOnce()) -> T {
    struct Guard<U: FnOnce()>(Option<U>);
    impl<U: FnOnce()> Drop for Guard<U> {
        #[inline(always)]
        fn drop(&mut self) {
            if let Some(unwound) = self.0.take() {
                run(unwound);
            }
        }
    }

    #[cold]
    fn run(unwound: impl FnOnce()) {
        unwound();
    }

    let mut guard = Guard(Some(unwound));
    let result = f();
    guard.0 = None;
    result
}
