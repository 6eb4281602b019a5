//! Which job the current thread is polling: how nested submits are noticed.

use std::cell::Cell;

use crate::pool::job::RawJob;

/// The job that is being polled on this thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Current {
    /// The pool it belongs to.
    pool: usize,
    pub(crate) job: RawJob,
    /// Another job runs inside of it, as in its caller.
    pub(crate) in_caller: bool,
}

impl Current {
    /// Whether it is a job of the pool of this id.
    pub(crate) fn is_of(&self, pool: usize) -> bool {
        self.pool == pool
    }
}

#[cfg(not(millpond_loom))]
thread_local! {
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
}

#[cfg(millpond_loom)]
loom::thread_local! {
    static CURRENT: Cell<Option<Current>> = Cell::new(None);
}

/// The job that is being polled on this thread, if one is.
pub(crate) fn current() -> Option<Current> {
    CURRENT.with(Cell::get)
}

/// Polls a job, known as the current one meanwhile. `poll` must not panic.
#[inline]
pub(crate) fn enter<R>(pool: usize, job: RawJob, poll: impl FnOnce() -> R) -> R {
    CURRENT.with(|cell| {
        let outer = cell.replace(Some(Current { pool, job, in_caller: false }));
        let polled = poll();
        cell.set(outer);
        polled
    })
}

/// Polls a job that runs in its caller. The job around it, if there is one, is the one that waits when it
/// waits; but its slot is not its own.
pub(crate) fn enter_in_caller<R>(poll: impl FnOnce() -> R) -> R {
    struct Restore(Option<Current>);

    impl Drop for Restore {
        fn drop(&mut self) {
            CURRENT.with(|cell| cell.set(self.0));
        }
    }

    let outer = current();
    let _restore = Restore(outer);
    CURRENT.with(|cell| cell.set(outer.map(|outer| Current { in_caller: true, ..outer })));
    poll()
}
