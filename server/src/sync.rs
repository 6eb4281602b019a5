//! A mutex that cannot be poisoned.

pub(crate) use std::sync::MutexGuard;

/// A mutex whose lock never fails. No user code runs under this crate's locks, so a panic while a
/// lock is held is a bug of this crate, and the data is still whole.
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        match self.0.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}
