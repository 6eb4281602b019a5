//! The pool's side of a job: the one token, and the waker made from it.

use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::task::{Context, RawWaker, RawWakerVTable, Waker};

use crate::error::JobPanic;
use crate::pool::job::join::JobArc;
use crate::pool::job::{
    ABORT, ABORT_DEFERRED_MASK, COMPLETE, End, Header, JobScheduler, NO_KEY, RUNNING, SCHEDULED,
    SlotHold, SlotKind, Step, WAITING,
};
use crate::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::atomic::{AtomicPtr, fence};
use crate::sync::failpoint;

/// A pointer to a job that is known to be alive, without a reference of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawJob(pub(crate) NonNull<Header>);

// SAFETY: cells hold `Send` futures, outputs and sinks only (`allocate_job`), and every field that
// more than one thread reaches is atomic or handed over with the token.
unsafe impl Send for RawJob {}
// SAFETY: as above.
unsafe impl Sync for RawJob {}

/// The pool's one token for a job. See the module's head.
#[derive(Debug)]
pub(crate) struct Runnable(pub(crate) RawJob);

impl RawJob {
    pub(crate) fn header(&self) -> &Header {
        // SAFETY: whoever holds a `RawJob` keeps a reference counted for as long.
        unsafe { self.0.as_ref() }
    }

    pub(crate) fn slot_kind(self) -> SlotKind {
        SlotKind::unpack(self.header().slot_kind.load(Relaxed))
    }

    /// Has the job's slot stay taken when it ends, until the hold is let go. `None` if the job has
    /// no slot, or that was done already.
    ///
    /// Only from within the job's own poll.
    pub(crate) fn hold_slot(self) -> Option<Arc<SlotHold>> {
        if self.slot_kind() == SlotKind::Overflow {
            return None;
        }
        // SAFETY: this thread polls the job, so it acts for the token's holder.
        self.header().slot_hold.with_mut(|place| {
            let place = unsafe { &mut *place };
            let fresh = place.is_none().then(|| Arc::new(SlotHold::new()))?;
            *place = Some(fresh.clone());
            Some(fresh)
        })
    }

    /// Tells jobs apart while they live.
    pub(crate) fn id(self) -> usize {
        self.0.as_ptr() as usize
    }

    /// Asks for the job's end. Returns the token if the job was suspended, for the caller to
    /// have it cancelled.
    pub(crate) fn request_abort(self) -> Option<Runnable> {
        let before = self.header().state.fetch_or(ABORT | SCHEDULED, AcqRel);
        debug_assert!(before & WAITING == 0, "waiting jobs are withdrawn instead");
        (before & (SCHEDULED | RUNNING | COMPLETE) == 0).then(|| Runnable(self))
    }

    /// A reference of its own, for a job that is known to be alive now.
    pub(crate) fn to_arc(self) -> JobArc {
        self.add_ref();
        JobArc(self)
    }

    pub(crate) fn add_ref(self) {
        // A new reference is made from one that is counted, so nothing has to be ordered.
        let before = self.header().refs.fetch_add(1, Relaxed);
        if before > i32::MAX as u32 {
            std::process::abort();
        }
    }

    /// Gives one reference up.
    pub(crate) fn drop_ref(self) {
        if self.header().refs.fetch_sub(1, Release) == 1 {
            // Everything the others did with the cell comes before its end.
            fence(Acquire);
            self.free();
        }
    }

    pub(crate) fn free(self) {
        // SAFETY: the last reference is gone.
        unsafe { (self.header().vtable.free)(self.0) }
    }

    /// Moves an idle job back to its scheduler's queue; does nothing in any other state.
    pub(crate) fn wake(self) {
        let before = self.header().state.fetch_or(SCHEDULED, AcqRel);
        if before & (SCHEDULED | RUNNING | COMPLETE) == 0 {
            self.scheduler().schedule(Runnable(self));
        }
    }

    /// # Panics
    ///
    /// Panics if the job has no scheduler: it was never idle nor in the wait list.
    pub(crate) fn scheduler(&self) -> &Arc<dyn JobScheduler> {
        // SAFETY: written once, before any state in which others come to read it.
        let scheduler = self.header().scheduler.with(|scheduler| unsafe { (*scheduler).as_ref() });
        scheduler.expect("a job that was idle or waiting has a scheduler")
    }
}

impl Runnable {
    pub(crate) fn ptr(&self) -> RawJob {
        self.0
    }

    pub(crate) fn slot_kind(&self) -> SlotKind {
        self.0.slot_kind()
    }

    /// Polls the job once, or cancels it if that was asked for.
    pub(crate) fn poll(&self) -> Step {
        let header = self.0.header();
        let before = if self.is_unique() && self.suspended_key().is_none() {
            // Nobody else is left who could touch the word, nor does its scheduler know the job yet.
            let state = header.state.load(Relaxed);
            header.state.store(state - SCHEDULED + RUNNING, Relaxed);
            state
        } else {
            // `SCHEDULED` is set and `RUNNING` is not: the sum exchanges them, flags untouched.
            header.state.fetch_add(RUNNING - SCHEDULED, AcqRel)
        };
        if should_cancel(before) {
            return Step::Ended(self.cancel());
        }
        // SAFETY: the waker's vtable counts from here; this one is never dropped, so it borrows
        // the token's reference.
        let waker = ManuallyDrop::new(unsafe { Waker::from_raw(raw_waker(self.0)) });
        let mut cx = Context::from_waker(&waker);
        // SAFETY: `self` is the token and the job is `RUNNING`.
        unsafe { (header.vtable.poll)(self.0.0, &mut cx) }
    }

    /// Whether the slot of this ended job stays taken.
    pub(crate) fn keeps_slot(&self) -> bool {
        // SAFETY: the token's holder has it to itself.
        let slot_hold = self.0.header().slot_hold.with_mut(|place| unsafe { (*place).take() });
        slot_hold.is_some_and(|slot_hold| slot_hold.end())
    }

    /// Ends the job without polling it.
    pub(crate) fn cancel(&self) -> End {
        // SAFETY: `self` is the token.
        unsafe { (self.0.header().vtable.cancel)(self.0.0) }
    }

    /// Where its scheduler keeps the job between polls, if it has been suspended before.
    pub(crate) fn suspended_key(&self) -> Option<usize> {
        let suspended_key = self.0.header().suspended_key.load(Relaxed);
        (suspended_key != NO_KEY).then_some(suspended_key as usize)
    }

    /// Gives the job a suspended key, before it is suspended for the first time.
    pub(crate) fn set_suspended_key(
        &self,
        scheduler: impl FnOnce() -> Arc<dyn JobScheduler>,
        suspended_key: usize,
    ) {
        // Four billion suspended jobs: there is no memory for them, and no way to go on.
        let Ok(suspended_key) = u32::try_from(suspended_key) else { std::process::abort() };
        self.0.header().suspended_key.store(suspended_key, Relaxed);
        self.set_scheduler(scheduler);
    }

    /// Marks a job that is about to be put into a wait list.
    pub(crate) fn enter_wait_list(
        &self,
        scheduler: impl FnOnce() -> Arc<dyn JobScheduler>,
        waiter_key: usize,
    ) {
        let header = self.0.header();
        header.waiter_key.store(waiter_key as u32, Relaxed);
        self.set_scheduler(scheduler);
        let before = header.state.fetch_add(WAITING - SCHEDULED, AcqRel);
        debug_assert!(before & (WAITING | RUNNING | COMPLETE) == 0 && before & SCHEDULED != 0);
    }

    fn set_scheduler(&self, scheduler: impl FnOnce() -> Arc<dyn JobScheduler>) {
        let place = &self.0.header().scheduler;
        // SAFETY: the token's holder is the only one to write; others read only in a state that
        // comes after the first write, and there is no second.
        if place.with(|place| unsafe { (*place).is_none() }) {
            let scheduler = scheduler();
            // SAFETY: as above.
            place.with_mut(|place| unsafe { *place = Some(scheduler) });
        }
    }

    /// Whether an abort has to wait.
    pub(crate) fn is_abort_deferred(&self) -> bool {
        self.0.header().state.load(Acquire) & ABORT_DEFERRED_MASK != 0
    }

    /// Lets go of a job that returned `Pending`. Gives it back if it is to run at once: it was
    /// woken or aborted in the meantime.
    pub(crate) fn suspend(self) -> Option<Runnable> {
        let state = &self.0.header().state;
        let mut now = state.load(Relaxed);
        loop {
            let again = (now & SCHEDULED != 0 || should_cancel(now))
                && !failpoint("suspend without recheck");
            let after = if again { now & !RUNNING | SCHEDULED } else { now & !RUNNING };
            match state.compare_exchange_weak(now, after, AcqRel, Acquire) {
                Ok(_) if again => return Some(self),
                Ok(_) => {
                    // The token now rests in the state word; another thread may have it already.
                    std::mem::forget(self);
                    return None;
                }
                Err(actual) => now = actual,
            }
        }
    }

    /// Marks a job that left its wait list to run.
    pub(crate) fn leave_wait_list(&self) {
        let header = self.0.header();
        let before = header.state.fetch_sub(WAITING - SCHEDULED, AcqRel);
        debug_assert!(before & WAITING != 0 && before & SCHEDULED == 0);
    }

    /// Whether nobody could tell when this job ends: no handle, no group, no waker is left.
    pub(crate) fn is_unique(&self) -> bool {
        // Whoever gave up a reference did so with `Release`.
        self.0.header().refs.load(Acquire) == 1
    }

    /// Shows the panic that ended the job, if one did.
    pub(crate) fn with_panic(&self, mut visit: impl FnMut(&JobPanic)) {
        // SAFETY: `self` is the token.
        unsafe { (self.0.header().vtable.panic)(self.0.0, &mut visit) };
    }

    /// Whether nobody can see the job's end: no handle and no group is left.
    pub(crate) fn is_detached(&self) -> bool {
        self.is_unique() && !self.0.header().vtable.has_observer
    }

    /// Lets the outcome of an ended job be seen, and lets go of the job.
    pub(crate) fn publish(self) {
        // SAFETY: the job has ended and the token is given up here.
        unsafe { (self.0.header().vtable.publish)(self.0.0) };
    }
}

impl Drop for Runnable {
    fn drop(&mut self) {
        if self.is_unique() {
            self.0.free();
        } else {
            self.0.drop_ref();
        }
    }
}

/// A place where one job can be left for whoever takes it first.
#[derive(Debug)]
pub(crate) struct AtomicJobSlot(AtomicPtr<Header>);

impl AtomicJobSlot {
    pub(crate) fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Leaves a job here. The slot must be empty.
    pub(crate) fn put(&self, job: Runnable) {
        let job = ManuallyDrop::new(job);
        debug_assert!(self.0.load(Relaxed).is_null());
        self.0.store(job.0.0.as_ptr(), Release);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.load(Relaxed).is_null()
    }

    pub(crate) fn take(&self) -> Option<Runnable> {
        // The pointer stands for the token that `put` was given; swapped out, it is ours alone.
        NonNull::new(self.0.swap(ptr::null_mut(), AcqRel)).map(|job| Runnable(RawJob(job)))
    }
}

impl Drop for AtomicJobSlot {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// Whether the job is to be cancelled now.
fn should_cancel(state: u32) -> bool {
    state & ABORT != 0 && state & ABORT_DEFERRED_MASK == 0
}

fn raw_waker(ptr: RawJob) -> RawWaker {
    RawWaker::new(ptr.0.as_ptr().cast::<()>(), &WAKER)
}

static WAKER: RawWakerVTable = RawWakerVTable::new(
    |data| {
        let ptr = from_waker(data);
        ptr.add_ref();
        raw_waker(ptr)
    },
    |data| {
        let ptr = from_waker(data);
        ptr.wake();
        ptr.drop_ref();
    },
    |data| from_waker(data).wake(),
    |data| from_waker(data).drop_ref(),
);

fn from_waker(data: *const ()) -> RawJob {
    // SAFETY: only `raw_waker` makes these, from a pointer that is not null.
    RawJob(unsafe { NonNull::new_unchecked(data as *mut Header) })
}
