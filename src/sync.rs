//! One place to switch the primitives between `std` and loom's models of them.

#[cfg(not(millpond_loom))]
pub(crate) use std::sync::atomic;

#[cfg(millpond_loom)]
pub(crate) use loom::sync::atomic;

/// A mutex that cannot be poisoned: no user code ever runs under millpond's locks, so a panic
/// while one is held would be a bug of ours, and the data would still be whole.
pub(crate) struct Mutex<T>(Inner<T>);

#[cfg(not(millpond_loom))]
type Inner<T> = std::sync::Mutex<T>;
#[cfg(not(millpond_loom))]
pub(crate) type MutexGuard<'a, T> = std::sync::MutexGuard<'a, T>;

#[cfg(millpond_loom)]
type Inner<T> = loom::sync::Mutex<T>;
#[cfg(millpond_loom)]
pub(crate) type MutexGuard<'a, T> = loom::sync::MutexGuard<'a, T>;

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Inner::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        match self.0.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

/// `std`'s cell behind loom's closure interface, so that loom can check every access.
#[cfg(not(millpond_loom))]
#[derive(Debug)]
pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

#[cfg(not(millpond_loom))]
impl<T> UnsafeCell<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    #[inline(always)]
    pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    #[inline(always)]
    pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}

#[cfg(millpond_loom)]
pub(crate) use loom::cell::UnsafeCell;

/// Whether the code is to be broken in the way of this name, to see that a model notices. Outside of
/// the models there is no such thing.
#[cfg(millpond_loom)]
pub(crate) fn mutant(name: &str) -> bool {
    static MUTANT: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    MUTANT.get_or_init(|| std::env::var("MILLPOND_MUTANT").ok()).as_deref() == Some(name)
}

#[cfg(not(millpond_loom))]
#[inline(always)]
pub(crate) fn mutant(_name: &str) -> bool {
    false
}
