//! Lets one retry layer keep those inside it from retrying too.
//!
//! Nested retries multiply: 3 attempts around 3 attempts are 9. The outermost one sets a flag of
//! its thread for as long as it polls or calls what is inside, so the flag holds for the same task
//! only.

use std::cell::Cell;

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Returns whether an outermost retry is at work further out.
#[inline]
pub(super) fn is_inside() -> bool {
    INSIDE.get()
}

/// Sets the flag until it is dropped, also by a panic.
pub(super) struct Inside {
    before: bool,
}

impl Inside {
    pub(super) fn enter() -> Self {
        Self { before: INSIDE.replace(true) }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(self.before);
    }
}
