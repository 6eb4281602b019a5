//! A job on its way into the pool: in its cell, and not yet the pool's.

use std::future::Future;
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;

use crate::pool::job::join::{Claim, JobWatch};
use crate::pool::job::refs::{JobPtr, JobRef};
use crate::pool::job::{Cell, Header, Home, NOWHERE, SCHEDULED, Sink, Stage, Terms, alloc_cache};
use crate::sync::UnsafeCell;
use crate::sync::atomic::AtomicU32;
use crate::sync::atomic::Ordering::Relaxed;
use crate::trace::JobSpan;

/// A job in a cell of its own that was not admitted yet, and can still be taken out again.
pub(crate) struct Offered<F: Future, S> {
    job: JobRef,
    claim: Claim<F::Output>,
    types: PhantomData<fn(F, S)>,
}

/// Puts a job into a cell.
#[inline]
pub(crate) fn offer<F, S>(job: F, span: JobSpan) -> Offered<F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: Sink<F::Output>,
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
            terms: AtomicU32::new(0),
            ticket: AtomicU32::new(NOWHERE),
            seat: AtomicU32::new(NOWHERE),
            home: UnsafeCell::new(None),
            hold: UnsafeCell::new(None),
        });
        (&raw mut (*raw).awaiter).write(UnsafeCell::new(None));
        (&raw mut (*raw).span).write(span);
        (&raw mut (*raw).stage).write(UnsafeCell::new(Stage::Job(job)));
        (&raw mut (*raw).sink).write(UnsafeCell::new(None));
    }
    let ptr = JobPtr(cell.cast());
    let claim = Claim { watch: JobWatch(ptr), output: PhantomData };
    Offered { job: JobRef(ptr), claim, types: PhantomData }
}

impl<F, S> Offered<F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: Sink<F::Output>,
{
    /// Makes it one that stands in line, before anybody can look for it there.
    pub(crate) fn enter_line(&self, home: impl FnOnce() -> Arc<dyn Home>, ticket: usize) {
        self.job.enter_line(home, ticket);
    }

    /// Admits the job: from here on it is the pool's, and the claim its submitter's.
    #[inline]
    pub(crate) fn admit(self, mut sink: S, terms: Terms) -> (JobRef, Claim<F::Output>) {
        sink.enlist(Some(&self.claim.watch));
        if terms != Terms::Slot {
            self.job.0.header().terms.store(terms.pack(), Relaxed);
        }
        if S::STAYS {
            // SAFETY: the cell was made for these types by `offer`, and the token is still here.
            let cell = unsafe { self.job.0.0.cast::<Cell<F, S>>().as_ref() };
            // SAFETY: the token's holder has `sink` to itself.
            cell.sink.with_mut(|place| unsafe { *place = Some(sink) });
        }
        (self.job, self.claim)
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
