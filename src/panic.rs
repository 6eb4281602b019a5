//! Catching the panics of user code.

use std::any::Any;
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
            drop_payload(payload);
            None
        }
    }
}

/// Drops `value` and catches a panic of its destructor, as [`catch_panic`] does.
// Of one type there is one such function, however many places call it.
pub(crate) fn drop_caught<T>(value: T) {
    catch_panic(|| drop(value));
}

#[cold]
fn drop_payload(payload: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(again);
    }
}
