//! The job that the current thread polls.
//!
//! The scheduler enters this context around each poll of a job, and a job in its caller enters the
//! context again. The limiter reads the context to find waits inside the pool's own jobs, and
//! [`Pool::hold_slot`](crate::Pool::hold_slot) reads it to find the slot to hold.

use std::cell::Cell;

use crate::pool::job::RawJob;

/// The job that this thread polls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Current {
    /// The id of the job's pool.
    pool: usize,
    pub(crate) job: RawJob,
    /// Another job runs inside this one, as its caller.
    pub(crate) in_caller: bool,
}

impl Current {
    /// Whether the job belongs to the pool of this id.
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

/// Returns the job that this thread polls, or `None` outside of a poll.
pub(crate) fn current() -> Option<Current> {
    CURRENT.with(Cell::get)
}

/// Calls `poll` with `job` as the current job. `poll` must not panic.
#[inline]
pub(crate) fn enter<R>(pool: usize, job: RawJob, poll: impl FnOnce() -> R) -> R {
    CURRENT.with(|cell| {
        let outer = cell.replace(Some(Current { pool, job, in_caller: false }));
        let polled = poll();
        cell.set(outer);
        polled
    })
}

/// Calls `poll` for a job that runs in its caller.
///
/// If the inner job waits, its enclosing job waits too, so deadlock checks use the enclosing job.
/// The inner job holds no slot itself, so `in_caller` forbids it to hold the enclosing job's slot.
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
