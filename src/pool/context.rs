//! Which job the current thread is polling: how nested submits are noticed.

use std::cell::Cell;

use super::cell::{JobPtr, Terms};

/// The job that is being polled on this thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Current {
    /// The pool it belongs to.
    pub(crate) pool: usize,
    pub(crate) job: JobPtr,
    pub(crate) terms: Terms,
}

/// A slot-holding job of a pool that asks the same pool for room.
#[derive(Debug, Clone, Copy)]
pub(super) struct Within {
    pub(super) job: usize,
    pub(super) quota: Option<usize>,
}

thread_local! {
    static CURRENT: Cell<Option<Current>> = const { Cell::new(None) };
}

/// The job that is being polled on this thread, if one is.
pub(crate) fn current() -> Option<Current> {
    CURRENT.with(Cell::get)
}

/// Marks a job as the one that is being polled, until dropped.
pub(super) struct Enter(Option<Current>);

impl Enter {
    pub(super) fn new(current: Current) -> Self {
        Self(CURRENT.with(|cell| cell.replace(Some(current))))
    }
}

impl Drop for Enter {
    fn drop(&mut self) {
        CURRENT.with(|cell| cell.set(self.0));
    }
}

/// The job of this very pool that is asking, if it holds a slot.
pub(super) fn within(pool: usize) -> Option<Within> {
    let current = current()?;
    (current.pool == pool && current.terms != Terms::Overflow)
        .then(|| Within { job: current.job.id(), quota: current.terms.quota() })
}
