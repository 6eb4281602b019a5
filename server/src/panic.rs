//! Catching the panics of user code.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Calls `f` and catches a panic. Returns `None` after a panic.
///
/// The payload is dropped. If that drop panics too, the second payload is leaked: its drop could
/// panic without end.
///
/// Called around callbacks, codecs and subscribers of users, where an unwinding would skip steps of
/// the server, such as the release of a permit.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_that_panics_is_caught_too() {
        struct Bomb;

        impl Drop for Bomb {
            fn drop(&mut self) {
                std::panic::resume_unwind(Box::new("again"));
            }
        }

        assert_eq!(catch(|| 5), Some(5));
        assert_eq!(catch(|| -> u8 { std::panic::resume_unwind(Box::new(Bomb)) }), None);
    }
}
