//! The primitives of `std`, or loom's models of them under `--cfg millpond_loom`.
//!
//! Every file that is part of a loom model takes its atomics, mutexes and cells from here.

#[cfg(not(millpond_loom))]
pub(crate) use std::sync::atomic;

#[cfg(millpond_loom)]
pub(crate) use loom::sync::atomic;

/// A mutex without poisoning.
///
/// No user code runs under millpond's locks. So no panic of user code can leave the data half
/// changed.
#[cfg(not(millpond_loom))]
pub(crate) use parking_lot::{Mutex, MutexGuard};

#[cfg(millpond_loom)]
pub(crate) use loom::sync::MutexGuard;

/// loom's mutex, with the interface of `parking_lot`'s.
#[cfg(millpond_loom)]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

#[cfg(millpond_loom)]
impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// `std`'s cell with loom's interface of closures, which lets loom check every access.
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

/// Whether the failpoint `name` is on. The code then makes a slip, and a loom model or a test must
/// fail: `scripts/mutants` knows which.
///
/// The environment variable `MILLPOND_FAILPOINT` names the failpoint. Outside of these builds every
/// failpoint is off, and the branch compiles to nothing.
#[cfg(any(millpond_loom, feature = "__mutants"))]
pub(crate) fn failpoint(name: &str) -> bool {
    static NAME: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    NAME.get_or_init(|| std::env::var("MILLPOND_FAILPOINT").ok()).as_deref() == Some(name)
}

#[cfg(not(any(millpond_loom, feature = "__mutants")))]
#[inline(always)]
pub(crate) fn failpoint(_name: &str) -> bool {
    false
}

/// Whether this build leaves out the mechanism `name`, so that its price can be counted: `scripts/ablations`
/// makes such a build for each mechanism.
#[inline(always)]
pub(crate) fn without(_name: &str) -> bool {
    #[cfg(millpond_ablation)]
    return _name == env!("MILLPOND_WITHOUT");
    #[cfg(not(millpond_ablation))]
    false
}

#[cfg(millpond_loom)]
loom::thread_local! {
    static CURRENT_SHARD: std::cell::Cell<usize> = std::cell::Cell::new(0);
}

/// The shard of the model's current thread.
///
/// Models have no tokio workers, so each thread states its shard.
#[cfg(millpond_loom)]
pub(crate) fn current_shard() -> usize {
    CURRENT_SHARD.with(std::cell::Cell::get)
}

/// Makes `shard` the shard of the model's current thread.
#[cfg(millpond_loom)]
pub(crate) fn set_current_shard(shard: usize) {
    CURRENT_SHARD.with(|current| current.set(shard));
}

/// Runs a future on a new thread of the model, which gets this shard. Replaces `tokio::spawn`.
#[cfg(millpond_loom)]
pub(crate) fn spawn(shard: usize, future: impl Future<Output = ()> + Send + 'static) {
    loom::thread::spawn(move || {
        set_current_shard(shard);
        loom::future::block_on(future);
    });
}
