//! Catching the panics of user code.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls `f` and catches a panic. Returns `None` after a panic.
///
/// The payload is dropped. If that drop panics too, the second payload is leaked: its drop could
/// panic without end.
///
/// Called around wakers, destructors and callbacks of users, where an unwinding would skip our own
/// steps.
pub(crate) fn catch_panic<R>(f: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(value) => Some(value),
        Err(payload) => {
            if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                std::mem::forget(again);
            }
            None
        }
    }
}
