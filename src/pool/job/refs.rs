//! The references to a job that do not know its type.
//!
//! [`Runnable`] is the pool's one token: workers, run queues and the wait list hold it. [`RawJob`] is
//! a plain pointer for the scheduler's slab and for the thread that polls. [`JobArc`] is the counted
//! reference of handles, groups and deferred aborts. Wakers are counted references as well.
//! No lock protects them: `state.rs` decides which caller gets the token, and `refs` decides which
//! caller frees the cell. A `RawJob` must never outlive the reference that it borrows from (S6).

use std::mem::ManuallyDrop;
use std::panic::Location;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

use crate::error::JobPanic;
use crate::pool::context::{Current, PoolId, current, note_wait};
use crate::pool::job::history::{History, NO_KEY};
use crate::pool::job::raw::{Header, REF};
use crate::pool::job::state::SlotHold;
use crate::pool::job::{Activity, End, JobScheduler, SlotKind, Step, WithdrawReason};
use crate::pool::options::Requirements;
use crate::pool::timings::Moment;
use crate::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::atomic::{AtomicPtr, fence};
use crate::sync::failpoint;
use crate::trace::Place;

/// Beside the slot kind: the job counts as waiting for its own pool.
const BLOCKED: u32 = 1 << 31;

/// Beside the slot kind: the job's run is measured, and its end must be.
const MEASURED: u32 = 1 << 30;

/// Beside the slot kind: the job has waited for its own pool.
const WAITED: u32 = 1 << 29;

/// The bits beside the slot kind.
const MARKS: u32 = BLOCKED | MEASURED | WAITED;

/// A pointer to a job that some counted reference keeps alive (S6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawJob(pub(super) NonNull<Header>);

// SAFETY: futures, outputs and sinks are `Send` (S7). The fields of a cell are atomic, or change
// hands with the state word (S2, S4, S5).
unsafe impl Send for RawJob {}
// SAFETY: a `RawJob` is `Copy`, so sharing it permits no more than sending it (S6).
unsafe impl Sync for RawJob {}

/// The token of a job: the one right to poll it, suspend it or end it (S1).
#[derive(Debug)]
pub(crate) struct Runnable(pub(super) RawJob);

/// A counted reference to a job. It can abort the job and see the job's state.
#[derive(Debug)]
pub(crate) struct JobArc(pub(super) RawJob);

impl RawJob {
    pub(super) fn header(&self) -> &Header {
        // SAFETY: a counted reference keeps the cell alive while this pointer is used (S6).
        unsafe { self.0.as_ref() }
    }

    /// Which slot the job holds.
    pub(crate) fn slot_kind(self) -> SlotKind {
        // Relaxed suffices: the token's holder alone writes the field (S2), and sees its own writes. The
        // thread of a closure reads a hint; the limiter's lock decides.
        SlotKind::unpack(self.header().slot_kind.load(Relaxed) & !MARKS)
    }

    /// Fixes which slot the job holds. Called by the token's holder: when the job is admitted, and when
    /// a job that lent its slot is cancelled.
    pub(crate) fn set_slot_kind(self, slot_kind: SlotKind) {
        // Relaxed suffices: the lock of the run queue or wait list hands the token on.
        let (word, packed) = (&self.header().slot_kind, slot_kind.pack());
        debug_assert!(packed & MARKS == 0, "there are that many quotas");
        word.store(packed | word.load(Relaxed) & (MEASURED | WAITED), Relaxed);
    }

    /// Keeps the job's slot beyond the job's end, until the guard releases it. Returns `None` if the
    /// job has no slot or already has a guard.
    ///
    /// Called only by the thread that polls or cancels the job.
    pub(crate) fn hold_slot(self) -> Option<Arc<SlotHold>> {
        // The destructor of a job that lent its slot and is cancelled may call this, too.
        if matches!(self.slot_kind(), SlotKind::Overflow | SlotKind::Lent) {
            return None;
        }
        self.header().slot_hold.with_mut(|place| {
            // SAFETY: this thread polls the job, on behalf of the token's holder (S2).
            let place = unsafe { &mut *place };
            let fresh = place.is_none().then(|| Arc::new(SlotHold::new()))?;
            *place = Some(fresh.clone());
            Some(fresh)
        })
    }

    /// The pool that the job was submitted to.
    pub(crate) fn pool(self) -> PoolId {
        self.header().pool
    }

    /// Whether the job has ended and its output is published.
    pub(crate) fn is_complete(self) -> bool {
        self.header().state.load().is_complete()
    }

    /// Whether an abort has to wait, since the future of a closure lives.
    pub(crate) fn is_abort_deferred(self) -> bool {
        self.header().state.load().is_abort_deferred()
    }

    /// Where the job was submitted.
    #[inline]
    pub(crate) fn place(self) -> Place {
        self.header().meta.place()
    }

    /// What the limiter must know of the job, and its name.
    pub(crate) fn requirements(self) -> Requirements {
        self.header().meta.requirements()
    }

    /// The name of the job's group, if the group was given one.
    pub(crate) fn group(self) -> Option<Arc<str>> {
        self.header().meta.group().cloned()
    }

    /// What the job does just now: a hint.
    pub(crate) fn activity(self) -> Activity {
        self.header().state.load().activity()
    }

    /// A number that no other live job has.
    pub(crate) fn id(self) -> usize {
        self.0.as_ptr() as usize
    }

    /// Asks for the job's cancellation. Returns the token if the job was idle; the caller then has
    /// it cancelled.
    ///
    /// The job must not stand in the wait list: [`JobScheduler::withdraw`] is for those.
    pub(crate) fn request_abort(self) -> Option<Runnable> {
        self.header().state.request_abort().then(|| Runnable(self))
    }

    /// Makes a counted reference. The job is alive now, by the reference this pointer borrows from.
    pub(crate) fn to_arc(self) -> JobArc {
        self.add_ref();
        JobArc(self)
    }

    fn add_ref(self) {
        // Relaxed suffices: the reference this pointer borrows from is counted for as long, so the
        // count cannot reach zero meanwhile.
        let before = self.header().refs.fetch_add(REF, Relaxed);
        if before > i32::MAX as u32 {
            std::process::abort();
        }
    }

    fn drop_ref(self) {
        self.drop_refs(REF);
    }

    /// Gives up a reference of this weight: `REF`, or `JOIN` for the join handle.
    pub(super) fn drop_refs(self, weight: u32) {
        // The release pairs with the fence below, in the thread that drops the last reference. It
        // also pairs with the acquire loads of `Runnable::is_unique` and `Cell::publish`.
        if self.header().refs.fetch_sub(weight, Release) == weight {
            // The acquire pairs with the releases of all others: their accesses come before the end.
            fence(Acquire);
            // SAFETY: that was the last reference (S6).
            unsafe { self.free() }
        }
    }

    /// # Safety
    ///
    /// The caller gave up the last reference.
    pub(super) unsafe fn free(self) {
        // SAFETY: the table belongs to this cell (S7), and no reference is left (S6).
        unsafe { (self.header().vtable.free)(self.0) }
    }

    /// Hands an idle job back to its scheduler. A running job is scheduled once its poll returns.
    fn wake(self) {
        if self.header().state.wake() {
            // The word held the token, and `wake` took it out (S1).
            self.scheduler().schedule(Runnable(self));
        }
    }

    /// Makes a new job a waiting job. Called by the token's holder before the job is put into the wait
    /// list, under the limiter's lock.
    pub(super) fn enter_wait_list(
        self,
        scheduler: &dyn Fn() -> Arc<dyn JobScheduler>,
        waiter_key: usize,
    ) {
        let header = self.header();
        // Relaxed suffices: the release of `State::enter_wait_list` publishes the key.
        header.waiter_key.store(waiter_key as u32, Relaxed);
        self.set_scheduler(scheduler);
        header.state.enter_wait_list();
    }

    /// Writes the scheduler, unless the job has one already. Called by the token's holder.
    fn set_scheduler(self, scheduler: impl FnOnce() -> Arc<dyn JobScheduler>) {
        let place = &self.header().scheduler;
        // SAFETY: only the token's holder writes the field, so that holder may always read it (S5).
        if place.with(|place| unsafe { (*place).is_none() }) {
            let scheduler = scheduler();
            // SAFETY: the job was neither idle nor waiting yet, so no other thread reads (S5).
            place.with_mut(|place| unsafe { *place = Some(scheduler) });
        }
    }

    /// Where the job stands in the wait list.
    fn waiter_key(self) -> usize {
        // Relaxed suffices: `enter_wait_list` stores the key before it sets `WAITING`, and the
        // caller has found that bit with an acquire load.
        self.header().waiter_key.load(Relaxed) as usize
    }

    /// The scheduler of a job that was idle or in the wait list.
    ///
    /// # Panics
    ///
    /// Panics if the job was neither before.
    fn scheduler(&self) -> &Arc<dyn JobScheduler> {
        // SAFETY: the caller has found the job idle or waiting. The field was written before that,
        // and is never written again (S5).
        let scheduler = self.header().scheduler.with(|scheduler| unsafe { (*scheduler).as_ref() });
        scheduler.expect("a job that was idle or waiting has a scheduler")
    }
}

impl Runnable {
    /// The job, without the token.
    pub(crate) fn ptr(&self) -> RawJob {
        self.0
    }

    /// Which slot the job holds.
    pub(crate) fn slot_kind(&self) -> SlotKind {
        self.0.slot_kind()
    }

    /// Whether the job holds a plain slot, and its end is neither measured nor a matter of the limiter.
    #[inline]
    pub(crate) fn has_simple_end(&self) -> bool {
        // Relaxed suffices: only the token's holder uses the field (S2). `Plain` is packed as 0.
        self.0.header().slot_kind.load(Relaxed) & !WAITED == 0
    }

    /// Polls the job once, or cancels it if that was asked for.
    pub(crate) fn poll(&self) -> Step {
        let header = self.0.header();
        // A job without a suspended key is not in the scheduler's slab, whose pointers do not count.
        let to_cancel = if self.is_unique() && self.suspended_key().is_none() {
            header.state.start_poll_unshared()
        } else {
            header.state.start_poll()
        };
        if to_cancel {
            return Step::Ended(self.cancel());
        }
        // SAFETY: the functions of `WAKER` accept a pointer from `raw_waker`. This waker is never
        // dropped, so it borrows the token's reference; its clones count (S6).
        let waker = ManuallyDrop::new(unsafe { Waker::from_raw(raw_waker(self.0)) });
        let mut cx = Context::from_waker(&waker);
        // SAFETY: `self` is the token (S1), the poll was started above, and the table belongs to
        // this cell (S7).
        unsafe { (header.vtable.poll)(self.0.0, &mut cx) }
    }

    /// Ends a poll that returned `Pending`. Returns the token if the job is to run again at once: it
    /// was woken or aborted during the poll. Otherwise the state word keeps the token.
    pub(crate) fn suspend(self) -> Option<Runnable> {
        let job = ManuallyDrop::new(self);
        // After `false`, another thread may have freed the cell: the token went into the word (S1).
        job.0.header().state.finish_poll().then(|| ManuallyDrop::into_inner(job))
    }

    /// Whether the job counts as waiting for its own pool: it may have lent its slot, so the limiter
    /// must be asked before the next poll or end.
    #[inline]
    pub(crate) fn is_blocked(&self) -> bool {
        // Relaxed suffices: only the token's holder uses the bit (S2).
        self.0.header().slot_kind.load(Relaxed) & BLOCKED != 0
    }

    pub(crate) fn set_blocked(&self, is_blocked: bool) {
        // Relaxed suffices: only the token's holder uses the field (S2).
        let word = &self.0.header().slot_kind;
        let others = word.load(Relaxed) & !BLOCKED;
        word.store(others | if is_blocked { BLOCKED } else { 0 }, Relaxed);
    }

    /// Whether the job has waited for its own pool in an earlier poll, or in this one.
    #[inline]
    pub(crate) fn has_waited(&self) -> bool {
        // Relaxed suffices: only the token's holder uses the bit (S2).
        self.0.header().slot_kind.load(Relaxed) & WAITED != 0
            && !failpoint("a wait that is not polled is forgotten")
    }

    /// Notes for good that the job has waited for its own pool.
    pub(crate) fn set_waited(&self) {
        // Relaxed suffices: only the token's holder uses the field (S2).
        let word = &self.0.header().slot_kind;
        word.store(word.load(Relaxed) | WAITED, Relaxed);
    }

    /// Whether the end of the job's run is to be measured.
    #[inline]
    pub(crate) fn is_measured(&self) -> bool {
        // Relaxed suffices: only the token's holder uses the field (S2).
        self.0.header().slot_kind.load(Relaxed) & MEASURED != 0
    }

    /// Notes that the end of the job's run is to be measured. Called before its first suspension.
    pub(crate) fn set_measured(&self) {
        // Relaxed suffices: only the token's holder uses the field (S2).
        let word = &self.0.header().slot_kind;
        word.store(word.load(Relaxed) | MEASURED, Relaxed);
    }

    /// The handshake with the slot guard of this job, if it has or had one.
    pub(crate) fn slot_hold(&self) -> Option<Arc<SlotHold>> {
        // SAFETY: `slot_hold` belongs to the token's holder (S2).
        self.0.header().slot_hold.with(|place| unsafe { (*place).clone() })
    }

    /// Whether the next poll cancels the job.
    pub(crate) fn is_abort_due(&self) -> bool {
        let now = self.0.header().state.load();
        now.is_abort_requested() && !now.is_abort_deferred()
    }

    /// Gives up the token of a job that was taken out of the wait list because its submitter went
    /// away. The sink hears that no outcome comes; the join handle drops the future.
    pub(crate) fn discard(self) {
        // SAFETY: `self` is the token (S1), and the table belongs to this cell (S7).
        unsafe { (self.0.header().vtable.discard)(self.0.0) };
    }

    /// Notes that the job is refused. Called when the job leaves the wait list: under the limiter's lock,
    /// or by the thread of its submitter. [`give_back`](Self::give_back) follows.
    pub(crate) fn mark_given_back(&self) {
        self.0.header().state.give_back();
    }

    /// Gives up the token of a job that is refused. The sink hears that no outcome comes; the submitter
    /// takes the future out with the join handle.
    pub(crate) fn give_back(self) {
        // SAFETY: `self` is the token (S1), and the table belongs to this cell (S7).
        unsafe { (self.0.header().vtable.give_back)(self.0.0) };
    }

    /// Notes that the job is about to be cancelled because its deadline has passed.
    pub(crate) fn mark_expired(&self) {
        // SAFETY: `self` is the token (S1), and the table belongs to this cell (S7).
        unsafe { (self.0.header().vtable.mark_expired)(self.0.0) };
    }

    /// Ends the job without a poll.
    pub(crate) fn cancel(&self) -> End {
        // SAFETY: `self` is the token (S1), and the table belongs to this cell (S7).
        unsafe { (self.0.header().vtable.cancel)(self.0.0) }
    }

    /// Whether a slot guard keeps the slot of this ended job.
    pub(crate) fn keeps_slot(&self) -> bool {
        // SAFETY: `slot_hold` belongs to the token's holder (S2).
        let slot_hold = self.0.header().slot_hold.with_mut(|place| unsafe { (*place).take() });
        slot_hold.is_some_and(|slot_hold| slot_hold.end_job())
    }

    /// Shows the panic that ended the job, if one did.
    pub(crate) fn with_panic(&self, mut visit: impl FnMut(&JobPanic, Place)) {
        // SAFETY: `self` is the token (S1), and the table belongs to this cell (S7).
        unsafe { (self.0.header().vtable.visit_panic)(self.0.0, &mut visit) };
    }

    /// Publishes the output of an ended job, and gives up the token.
    pub(crate) fn publish(self) {
        // SAFETY: `self` is the token (S1) and is given up here; the table belongs to this cell (S7).
        unsafe { (self.0.header().vtable.publish)(self.0.0) };
    }

    /// Where the scheduler keeps the job between polls, if the job was suspended before.
    pub(crate) fn suspended_key(&self) -> Option<usize> {
        // Relaxed suffices: only the token's holder uses the field (S2).
        let suspended_key = self.0.header().suspended_key.load(Relaxed);
        (suspended_key & NO_KEY == 0).then_some(suspended_key as usize)
    }

    /// Gives the job a suspended key. Called before the job is suspended for the first time, after a poll
    /// that began at `began`.
    pub(crate) fn set_suspended_key(
        &self,
        scheduler: impl FnOnce() -> Arc<dyn JobScheduler>,
        suspended_key: usize,
        began: Moment,
    ) {
        self.end_wait(began);
        // Two billion suspended jobs exceed the memory, and no smaller key is left to give.
        if suspended_key >= NO_KEY as usize {
            std::process::abort();
        }
        // Relaxed suffices: only the token's holder uses the field (S2).
        self.0.header().suspended_key.store(suspended_key as u32, Relaxed);
        self.0.set_scheduler(scheduler);
    }

    /// Makes a scheduled job that lent its slot a waiting job. Called before the job is put into the
    /// wait list, under the limiter's lock. Returns what the wait list keeps for the job meanwhile.
    pub(crate) fn wait_again(&self, waiter_key: usize) -> History {
        let (header, history) = (self.0.header(), self.history_word());
        // Relaxed suffices: the release of `State::enter_wait_list` publishes the key.
        header.waiter_key.store(waiter_key as u32, Relaxed);
        header.state.enter_wait_list();
        history
    }

    /// Makes a waiting job a scheduled job. Called between the wait list and the run queue, when the
    /// job received a slot.
    pub(crate) fn leave_wait_list(&self) {
        self.0.header().state.leave_wait_list();
    }

    /// Whether an abort has to wait.
    pub(crate) fn is_abort_deferred(&self) -> bool {
        self.0.is_abort_deferred()
    }

    /// Whether the token is the last counted reference: no handle, abort handle or waker is left.
    fn is_unique(&self) -> bool {
        // The acquire pairs with the release of `drop_ref`: what the others did comes before.
        self.0.header().refs.load(Acquire) == REF
    }

    /// Whether no reader of the job's end is left: no handle, no group, no layer.
    pub(crate) fn is_detached(&self) -> bool {
        self.is_unique() && !self.0.header().vtable.has_observer
    }
}

impl Drop for Runnable {
    fn drop(&mut self) {
        // The load of `is_unique` is cheaper than a read-modify-write, and most tokens are the last.
        if self.is_unique() {
            // SAFETY: this was the last reference, and a new one needs an old one (S6).
            unsafe { self.0.free() }
        } else {
            self.0.drop_ref();
        }
    }
}

impl JobArc {
    /// Makes aborts wait until [`allow_abort`](Self::allow_abort), which has to follow each call.
    pub(crate) fn defer_abort(&self) {
        self.0.header().state.defer_abort();
    }

    /// Takes one [`defer_abort`](Self::defer_abort) back. The last call lets a waiting abort proceed.
    pub(crate) fn allow_abort(&self) {
        let is_due = self.0.header().state.allow_abort();
        // A job that waits for its own pool does not lend its slot meanwhile. After a deferral that ends
        // elsewhere, the next poll of the job notes the wait once more.
        let is_own = |current: Current| current.job == self.0 && current.is_polled_here();
        if is_due || !current().is_some_and(is_own) {
            self.0.wake();
        }
    }

    /// Whether the job has ended and its output is published.
    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_complete()
    }

    /// Asks for the job's cancellation.
    pub(crate) fn abort(&self) {
        let job = self.0;
        let is_waiting = job.header().state.load().is_waiting();
        if is_waiting && job.scheduler().withdraw(job, job.waiter_key(), WithdrawReason::Abort) {
            return;
        }
        // A waiting job that could not be withdrawn is on its way to a run queue, or is being
        // cancelled. Its next poll finds the request.
        if let Some(token) = job.request_abort() {
            job.scheduler().schedule(token);
        }
    }

    /// Takes the job out of the wait list, because the future that submitted it is dropped. A job that
    /// has started goes on.
    pub(crate) fn withdraw(&self) {
        let job = self.0;
        let reason = WithdrawReason::SubmitterDropped;
        if job.header().state.load().is_waiting() && !failpoint("a dropped submit leaves its job") {
            let _ = job.scheduler().withdraw(job, job.waiter_key(), reason);
        }
    }

    /// Takes the job out of the wait list, because the submitter's time is over. Returns whether the job is
    /// given back; otherwise it has left the wait list before.
    pub(crate) fn time_out(&self) -> bool {
        let job = self.0;
        let is_waiting = job.header().state.load().is_waiting();
        is_waiting && job.scheduler().withdraw(job, job.waiter_key(), WithdrawReason::TimedOut)
    }

    /// Whether the job left the wait list because it is refused. Exact for a job that does not stand in
    /// the wait list any more.
    pub(crate) fn is_given_back(&self) -> bool {
        self.0.header().state.load().is_given_back()
    }

    /// Makes sure that the job does not start any more. Calls no scheduler, so it may be called under
    /// a lock. A job that has started is cancelled by its next poll, unless it is suspended: the
    /// caller calls [`abort`](Self::abort) afterwards.
    pub(crate) fn request_abort_unless_idle(&self) {
        self.0.header().state.request_abort_unless_idle();
    }

    /// Cancels the job if it waits for its first slot. Returns whether it did.
    pub(crate) fn abort_waiting(&self) -> bool {
        let job = self.0;
        let is_waiting = job.header().state.load().is_waiting();
        is_waiting && job.scheduler().withdraw(job, job.waiter_key(), WithdrawReason::AbortWaiting)
    }

    /// Waits until the job has left the wait list.
    pub(crate) fn poll_started(&self, cx: &mut Context<'_>) -> Poll<()> {
        let job = self.0;
        let is_waiting = job.header().state.load().is_waiting();
        if is_waiting && job.scheduler().await_start(job, job.waiter_key(), cx.waker()) {
            note_wait(job.pool());
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl Clone for JobArc {
    fn clone(&self) -> Self {
        self.0.to_arc()
    }
}

impl Drop for JobArc {
    fn drop(&mut self) {
        self.0.drop_ref();
    }
}

/// A place for one token, which any thread may take out.
#[derive(Debug)]
pub(crate) struct AtomicJobSlot(AtomicPtr<Header>);

impl AtomicJobSlot {
    pub(crate) fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Puts a job here. The slot must be empty, and one thread alone puts jobs here.
    pub(crate) fn put(&self, job: Runnable) {
        let job = ManuallyDrop::new(job);
        debug_assert!(self.0.load(Relaxed).is_null());
        // The release pairs with the acquire of `take`: the taker sees the job as it is now.
        self.0.store(job.0.0.as_ptr(), Release);
    }

    /// Whether the slot looked empty just now.
    pub(crate) fn is_empty(&self) -> bool {
        // Relaxed suffices: the answer is a hint, and `take` decides.
        self.0.load(Relaxed).is_null()
    }

    /// Takes the job, if one is here.
    pub(crate) fn take(&self) -> Option<Runnable> {
        // The pointer stands for the token that `put` received, and one swap alone gets it (S1).
        // The acquire pairs with the release of `put`.
        NonNull::new(self.0.swap(ptr::null_mut(), AcqRel)).map(|job| Runnable(RawJob(job)))
    }
}

impl Drop for AtomicJobSlot {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// The place of the job that a worker polls, for other threads.
#[derive(Debug)]
pub(crate) struct AtomicPlace(AtomicPtr<Location<'static>>);

impl AtomicPlace {
    pub(crate) fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    #[inline]
    pub(crate) fn set(&self, place: Option<Place>) {
        let place = place.map_or(ptr::null(), |place| ptr::from_ref(place.0));
        // Relaxed, without a partner: the answer of `get` is a hint, and a place never changes.
        self.0.store(place.cast_mut(), Relaxed);
    }

    pub(crate) fn get(&self) -> Option<Place> {
        // SAFETY: the pointer is null, or comes from a reference that lives forever (S11).
        unsafe { self.0.load(Relaxed).as_ref() }.map(Place)
    }
}

fn raw_waker(job: RawJob) -> RawWaker {
    RawWaker::new(job.0.as_ptr().cast::<()>(), &WAKER)
}

/// The functions of a job's waker. Each clone is a counted reference (S6).
static WAKER: RawWakerVTable = RawWakerVTable::new(
    |data| {
        let job = from_waker(data);
        job.add_ref();
        raw_waker(job)
    },
    |data| {
        let job = from_waker(data);
        job.wake();
        job.drop_ref();
    },
    |data| from_waker(data).wake(),
    |data| from_waker(data).drop_ref(),
);

fn from_waker(data: *const ()) -> RawJob {
    // SAFETY: `raw_waker` alone makes these pointers, from the header of a live cell (S6).
    RawJob(unsafe { NonNull::new_unchecked(data as *mut Header) })
}
