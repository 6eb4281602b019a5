//! Catches panics of user code where a panic would do harm.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs what may panic but may not harm us; a payload that panics in turn is leaked.
pub(crate) fn catch<R>(f: impl FnOnce() -> R) -> Option<R> {
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
