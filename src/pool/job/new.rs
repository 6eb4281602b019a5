//! A job on its way into the pool: in its cell, and not yet the pool's.

use std::future::Future;
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;

use crate::pool::job::join::{JobArc, RawJoinHandle};
use crate::pool::job::refs::{RawJob, Runnable};
use crate::pool::job::{
    Cell, Header, JobScheduler, NO_KEY, OutputSink, SCHEDULED, SlotKind, Stage, alloc_cache,
};
use crate::sync::UnsafeCell;
use crate::sync::atomic::AtomicU32;
use crate::sync::atomic::Ordering::Relaxed;
use crate::trace::JobSpan;

/// A job in a cell of its own that was not admitted yet, and can still be taken out again.
pub(crate) struct NewJob<F: Future, S> {
    job: Runnable,
    join: RawJoinHandle<F::Output>,
    types: PhantomData<fn(F, S)>,
}

/// Puts a job into a cell.
#[inline]
pub(crate) fn allocate_job<F, S>(job: F, span: JobSpan) -> NewJob<F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    let cell = alloc_cache::allocate::<Cell<F, S>>();
    let raw = cell.as_ptr();
    // Field by field: built on the stack and moved, a cell costs twice as much.
    // SAFETY: `raw` is valid for writes, and every field is written.
    unsafe {
        (&raw mut (*raw).header).write(Header {
            vtable: const { &Cell::<F, S>::VTABLE },
            state: AtomicU32::new(SCHEDULED),
            refs: AtomicU32::new(2),
            slot_kind: AtomicU32::new(0),
            waiter_key: AtomicU32::new(NO_KEY),
            suspended_key: AtomicU32::new(NO_KEY),
            scheduler: UnsafeCell::new(None),
            slot_hold: UnsafeCell::new(None),
        });
        (&raw mut (*raw).join_waker).write(UnsafeCell::new(None));
        (&raw mut (*raw).span).write(span);
        (&raw mut (*raw).stage).write(UnsafeCell::new(Stage::Job(job)));
        (&raw mut (*raw).sink).write(UnsafeCell::new(None));
    }
    let ptr = RawJob(cell.cast());
    let join = RawJoinHandle { job: JobArc(ptr), output: PhantomData };
    NewJob { job: Runnable(ptr), join, types: PhantomData }
}

impl<F, S> NewJob<F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    /// Makes it one that stands in the wait list, before anybody can look for it there.
    pub(crate) fn enter_wait_list(
        &self,
        scheduler: impl FnOnce() -> Arc<dyn JobScheduler>,
        waiter_key: usize,
    ) {
        self.job.enter_wait_list(scheduler, waiter_key);
    }

    /// Admits the job: from here on it is the pool's, and the join handle its submitter's.
    #[inline]
    pub(crate) fn admit(
        self,
        mut sink: S,
        slot_kind: SlotKind,
    ) -> (Runnable, RawJoinHandle<F::Output>) {
        sink.on_admit(Some(&self.join.job));
        if slot_kind != SlotKind::Plain {
            self.job.0.header().slot_kind.store(slot_kind.pack(), Relaxed);
        }
        if S::DROPPED_AT_END {
            // SAFETY: the cell was made for these types by `allocate_job`, and the token is still here.
            let cell = unsafe { self.job.0.0.cast::<Cell<F, S>>().as_ref() };
            // SAFETY: the token's holder has `sink` to itself.
            cell.sink.with_mut(|place| unsafe { *place = Some(sink) });
        }
        (self.job, self.join)
    }

    /// Takes the job out of the cell again.
    pub(crate) fn take_back(self) -> F {
        // SAFETY: as in `admit`.
        let cell = unsafe { self.job.0.0.cast::<Cell<F, S>>().as_ref() };
        // SAFETY: the token's holder has `stage` to itself, and a job that was never polled is
        // not pinned yet.
        match cell.stage.with_mut(|stage| unsafe { ptr::replace(stage, Stage::Taken) }) {
            Stage::Job(job) => job,
            Stage::Ended(_) | Stage::Taken => unreachable!("an offered job was not run"),
        }
    }
}
