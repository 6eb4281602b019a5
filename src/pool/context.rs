//! The job that the current thread polls.
//!
//! The scheduler enters this context around each poll of a job, and a job in its caller enters the
//! context again. The limiter reads the context to find waits inside the pool's own jobs, and
//! [`Pool::hold_slot`](crate::Pool::hold_slot) reads it to find the slot to hold.
//!
//! A future that waits for a job of a pool, or for room in a pool, calls [`note_wait`] before it
//! returns `Pending`. The scheduler learns of the wait when the poll of the job has returned: a job
//! that waits for its own pool may lend its slot (`limiter::lending`).

use std::cell::Cell;

use crate::pool::job::RawJob;

/// A number that tells a pool from the others.
pub(crate) type PoolId = u32;

/// The id that no pool has.
pub(crate) const NO_POOL: PoolId = 0;

/// The number of jobs in their callers that one poll may nest. A level takes up to a kilobyte of the
/// stack besides the job's own need, and a thread of tokio has two megabytes.
const MAX_CALLER_DEPTH: u32 = 128;

/// The job that this thread polls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Current {
    pool: PoolId,
    pub(crate) job: RawJob,
    /// Another job runs inside this one, as its caller.
    in_caller: bool,
    /// The thread blocks, so the job cannot lend its slot while it waits.
    pub(crate) blocks: bool,
    /// The thread runs a closure of the job and does not poll the job. So it may not use the fields of
    /// the token's holder (S2 of `job`), and the job may end meanwhile.
    in_closure: bool,
    /// A future inside this poll waits for the job's own pool.
    waits: bool,
}

impl Current {
    /// Whether the job belongs to this pool.
    pub(crate) fn is_of(&self, pool: PoolId) -> bool {
        self.pool == pool
    }

    /// Whether this thread polls the job, and not a closure of it.
    pub(crate) fn is_polled_here(&self) -> bool {
        !self.in_closure
    }

    /// Whether this thread polls the job itself, and no other job inside of it.
    pub(crate) fn is_innermost(&self) -> bool {
        self.is_polled_here() && !self.in_caller
    }
}

#[cfg(not(millpond_loom))]
thread_local! {
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
    static CALLER_DEPTH: Cell<u32> = const { Cell::new(0) };
}

#[cfg(millpond_loom)]
loom::thread_local! {
    static CURRENT: Cell<Option<Current>> = Cell::new(None);
    static CALLER_DEPTH: Cell<u32> = Cell::new(0);
}

/// Returns the job that this thread polls, or `None` outside of a poll.
pub(crate) fn current() -> Option<Current> {
    CURRENT.with(Cell::get)
}

/// Returns the job that this thread polls, if the job belongs to this pool.
pub(crate) fn current_of(pool: PoolId) -> Option<Current> {
    current().filter(|current| current.is_of(pool))
}

/// Notes that the current job waits for `pool`, if the job belongs to that pool. Called by futures
/// that are about to return `Pending`.
pub(crate) fn note_wait(pool: PoolId) {
    CURRENT.with(|cell| {
        if let Some(current) = cell.get().filter(|current| current.is_of(pool)) {
            cell.set(Some(Current { waits: true, ..current }));
        }
    });
}

/// Calls `poll` with `job` as the current job. Returns its result, and whether the job waits for its
/// own pool. `poll` must not panic.
#[inline]
pub(crate) fn enter<R>(pool: PoolId, job: RawJob, poll: impl FnOnce() -> R) -> (R, bool) {
    CURRENT.with(|cell| {
        let current =
            Current { pool, job, in_caller: false, blocks: false, in_closure: false, waits: false };
        let outer = cell.replace(Some(current));
        let polled = poll();
        let waits = cell.replace(outer).is_some_and(|current| current.waits);
        (polled, waits)
    })
}

/// Puts the outer context back, with the waits that were noted inside.
struct Restore(Option<Current>);

impl Drop for Restore {
    fn drop(&mut self) {
        CURRENT.with(|cell| {
            let waits = cell.get().is_some_and(|inner| inner.waits);
            cell.set(self.0.map(|outer| Current { waits: outer.waits || waits, ..outer }));
        });
    }
}

/// Calls `poll` for a job that runs in its caller.
///
/// If the inner job waits, its enclosing job waits too, so the enclosing job may lend its slot. The
/// inner job holds no slot itself, so `in_caller` forbids it to hold the enclosing job's slot.
pub(crate) fn enter_in_caller<R>(poll: impl FnOnce() -> R) -> R {
    struct Depth(u32);

    impl Drop for Depth {
        fn drop(&mut self) {
            CALLER_DEPTH.with(|depth| depth.set(self.0));
        }
    }

    let _depth = Depth(CALLER_DEPTH.with(|depth| depth.replace(depth.get() + 1)));
    let outer = current();
    let _restore = Restore(outer);
    CURRENT.with(|cell| cell.set(outer.map(|outer| Current { in_caller: true, ..outer })));
    poll()
}

/// Returns whether another job may run in its caller here. Beyond the limit the stack could overflow,
/// so the job is committed to the wait list instead.
pub(crate) fn may_run_in_caller() -> bool {
    CALLER_DEPTH.with(Cell::get) < MAX_CALLER_DEPTH
}

/// Calls `block`, which blocks the thread that polls the current job, or that runs a closure of it.
pub(crate) fn enter_blocking<R>(block: impl FnOnce() -> R) -> R {
    let outer = current();
    let _restore = Restore(outer);
    CURRENT.with(|cell| cell.set(outer.map(|outer| Current { blocks: true, ..outer })));
    block()
}

/// Calls `run`, a closure that `job` has left to this blocking thread. The caller keeps the job's cell.
pub(crate) fn enter_closure<R>(job: Option<Current>, run: impl FnOnce() -> R) -> R {
    let _restore = Restore(current());
    let in_closure = |job| Current { blocks: true, in_closure: true, ..job };
    CURRENT.with(|cell| cell.set(job.map(in_closure)));
    run()
}
