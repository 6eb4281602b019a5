//! The state word of a job: its bits, and every transition by name.
//!
//! This file owns the bits. `raw.rs`, `refs.rs` and `join.rs` call the transitions and see no bit.
//! No lock protects the word: a transition is one atomic read-modify-write. The one exception,
//! [`State::start_poll_unshared`], needs a job that no other thread can reach.
//! The head of `mod.rs` tells what each state allows; "token" is explained there.
//! A transition must never hand the token to two threads: that would poll one future twice.
//!
//! The file also holds [`SlotHold`], the handshake between the end of a job and its slot guard.
//!
//! # Orderings
//!
//! Every read-modify-write is `AcqRel`, for one reason per side:
//!
//! - *Release*: this thread gives up fields. Their next owner sees all that this thread did to them.
//! - *Acquire*: this thread sees all that the previous holder did to the fields it receives.
//!
//! Read-modify-writes continue the release sequence of the stores before them. So a transition
//! synchronizes with all earlier ones, not only with the latest.

use std::sync::Arc;

use crate::pool::job::Activity;
use crate::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use crate::sync::atomic::{AtomicBool, AtomicU32};
use crate::sync::failpoint;

/// The token is in a run queue, or the running job was woken.
const SCHEDULED: u32 = 1;
/// A thread polls the job. Stays set when that poll ends the job.
const RUNNING: u32 = 1 << 1;
/// The job has ended and its output is published. Never unset.
const COMPLETE: u32 = 1 << 2;
/// The job is to be cancelled. Never unset.
const ABORT: u32 = 1 << 3;
/// The token is in the wait list, from where an abort withdraws it.
const WAITING: u32 = 1 << 4;
/// The join handle left a waker. The bit decides which side may use that field (S4).
const JOIN_WAKER: u32 = 1 << 5;
/// The join handle was dropped while other references were left: the completing thread drops the
/// output (S10).
const JOIN_DROPPED: u32 = 1 << 6;
/// The job left the wait list because it is refused: it never runs, and its submitter gets the future.
const GIVEN_BACK: u32 = 1 << 7;
/// One unit of the count in the upper bits: an abort waits until the count is zero.
const ABORT_DEFERRED: u32 = 1 << 8;
const ABORT_DEFERRED_MASK: u32 = !(ABORT_DEFERRED - 1);

/// The state of a job, in one word.
///
/// | bit | set by | unset by |
/// |---|---|---|
/// | `SCHEDULED` | `new`, `wake`, `request_abort`, `finish_poll`, `leave_wait_list` | `start_poll`, `enter_wait_list` |
/// | `RUNNING` | `start_poll` | `finish_poll` |
/// | `COMPLETE` | `complete` | never |
/// | `ABORT` | `request_abort` | never |
/// | `WAITING` | `enter_wait_list` | `leave_wait_list` |
/// | `JOIN_WAKER` | `set_join_waker` | `unset_join_waker` |
/// | `JOIN_DROPPED` | `drop_join` | never |
/// | `GIVEN_BACK` | `give_back` | never |
/// | the upper 24 bits, a count | `defer_abort` | `allow_abort` |
///
/// A job is *idle* while `SCHEDULED`, `RUNNING`, `COMPLETE` and `WAITING` are all unset. The word
/// then holds the token, and the transition that leaves this state takes the token out (S1).
///
/// | transition | caller | before | after |
/// |---|---|---|---|
/// | `enter_wait_list` | token | scheduled | waiting |
/// | `leave_wait_list` | token | waiting | scheduled |
/// | `start_poll` | token | scheduled | running |
/// | `finish_poll` | token | running | idle |
/// | `finish_poll` | token | running, and woken or to be cancelled | scheduled |
/// | `wake`, `request_abort` | any reference | idle | scheduled; the caller has the token |
/// | `wake`, `request_abort` | any reference | running | running and woken |
/// | `request_abort` | any reference | waiting | waiting, with `ABORT` |
/// | `give_back` | token | waiting | waiting, with `GIVEN_BACK` |
/// | `complete` | token | any but complete | complete |
///
/// A job that is cancelled without a poll stays scheduled or waiting until it is complete.
pub(super) struct State(AtomicU32);

/// The word as a load found it: another thread may have changed the word since.
#[derive(Clone, Copy)]
pub(super) struct Snapshot(u32);

impl State {
    /// The state of a new job: scheduled.
    #[inline]
    pub(super) fn new() -> Self {
        Self(AtomicU32::new(SCHEDULED))
    }

    /// Reads the word.
    #[inline]
    pub(super) fn load(&self) -> Snapshot {
        // For readers of the output, the acquire pairs with `complete`. For readers of the scheduler
        // and the waiter key, it pairs with `enter_wait_list`.
        Snapshot(self.0.load(Acquire))
    }

    /// Starts a poll. Returns whether the job is to be cancelled instead.
    #[inline]
    #[must_use]
    pub(super) fn start_poll(&self) -> bool {
        // A wake of a scheduled job ends at the word. So the acquire pairs with that `wake`: this
        // poll sees what the waking thread wrote before. The release lets `wake` find `RUNNING`.
        // `SCHEDULED` is set and `RUNNING` is not: the sum exchanges the two and keeps the rest.
        let before = Snapshot(self.0.fetch_add(RUNNING - SCHEDULED, AcqRel));
        before.debug_assert_scheduled();
        before.should_cancel() && !failpoint("an abort before a poll is not seen")
    }

    /// As [`start_poll`](Self::start_poll), for a job that no other thread can reach: no counted
    /// reference but the token's, and no pointer in the scheduler's slab.
    #[inline]
    #[must_use]
    pub(super) fn start_poll_unshared(&self) -> bool {
        // Relaxed suffices: no other thread changes the word meanwhile. What threads with dropped
        // references did comes before, by the acquire load in `Runnable::is_unique`.
        let before = Snapshot(self.0.load(Relaxed));
        before.debug_assert_scheduled();
        self.0.store(before.0 + (RUNNING - SCHEDULED), Relaxed);
        before.should_cancel()
    }

    /// Ends a poll that returned `Pending`. Returns whether the caller keeps the token: the job was
    /// woken or is to be cancelled meanwhile, and is scheduled again.
    ///
    /// After `false` the word holds the token. Another thread may already have taken the token
    /// out, so the caller must not touch the job again.
    #[inline]
    #[must_use]
    pub(super) fn finish_poll(&self) -> bool {
        // Relaxed suffices here: the exchange below checks the value.
        let mut now = Snapshot(self.0.load(Relaxed));
        loop {
            // A `request_abort` during the poll sets `SCHEDULED`, too. The `allow_abort` that lets an
            // earlier request proceed wakes the job.
            let again = now.has(SCHEDULED) && !failpoint("suspend without recheck");
            let after = now.0 & !RUNNING | if again { SCHEDULED } else { 0 };
            // The release pairs with the `wake` or `request_abort` that takes the token out: its
            // thread finds the future as this poll left it. The acquire pairs with a `wake` during
            // the poll: the next poll sees what the waking thread wrote before.
            match self.0.compare_exchange_weak(now.0, after, AcqRel, Acquire) {
                Ok(_) => return again,
                Err(actual) => now = Snapshot(actual),
            }
        }
    }

    /// Schedules the job if it is idle; notes the wake if it is running. Returns whether the caller
    /// now has the token, and has to hand it to the scheduler.
    #[inline]
    #[must_use]
    pub(super) fn wake(&self) -> bool {
        // The release pairs with the `start_poll` or `finish_poll` that finds the bit. The acquire
        // pairs with the `finish_poll` that left the token here.
        let before = Snapshot(self.0.fetch_or(SCHEDULED, AcqRel));
        before.is_idle()
    }

    /// Asks for the job's cancellation, unless the job is complete. Returns whether the caller now
    /// has the token, and has to hand it to the scheduler.
    ///
    /// A waiting job stays in place: the poll after `leave_wait_list` finds the request.
    #[must_use]
    pub(super) fn request_abort(&self) -> bool {
        let mut now = self.load();
        loop {
            if now.has(COMPLETE) {
                return false;
            }
            let unseen = now.has(RUNNING) && failpoint("an abort during a poll is not seen");
            let after = now.0 | ABORT | if now.has(WAITING) || unseen { 0 } else { SCHEDULED };
            // The release pairs with the `start_poll` or `finish_poll` that finds `ABORT`. The
            // acquire pairs with the `finish_poll` that left the token here.
            match self.0.compare_exchange_weak(now.0, after, AcqRel, Acquire) {
                Ok(_) => return now.is_idle(),
                Err(actual) => now = Snapshot(actual),
            }
        }
    }

    /// Asks for the cancellation of a job that is not idle: its next poll finds the request. Leaves an
    /// idle job alone, so no token changes hands.
    pub(super) fn request_abort_unless_idle(&self) {
        let mut now = self.load();
        while !now.is_idle() && !now.has(COMPLETE) {
            let after = now.0 | ABORT | if now.has(WAITING) { 0 } else { SCHEDULED };
            // The release pairs with the `start_poll` or `finish_poll` that finds `ABORT`.
            match self.0.compare_exchange_weak(now.0, after, AcqRel, Acquire) {
                Ok(_) => return,
                Err(actual) => now = Snapshot(actual),
            }
        }
    }

    /// Moves a new job from scheduled to waiting.
    pub(super) fn enter_wait_list(&self) {
        // The release pairs with the acquire of `load`: a thread that finds `WAITING` may read the
        // scheduler and the waiter key.
        // `SCHEDULED` is set and `WAITING` is not: the sum exchanges the two and keeps the rest.
        let before = Snapshot(self.0.fetch_add(WAITING - SCHEDULED, AcqRel));
        before.debug_assert_scheduled();
    }

    /// Moves a job that left the wait list from waiting to scheduled.
    pub(super) fn leave_wait_list(&self) {
        // The acquire pairs with a `request_abort` or a `wake` meanwhile. The release carries that on
        // to `start_poll`. A job that resumes may have been woken, so `SCHEDULED` may be set already.
        let before = Snapshot(self.0.fetch_or(SCHEDULED, AcqRel));
        debug_assert!(before.has(WAITING) && !before.has(RUNNING | COMPLETE));
        self.0.fetch_and(!WAITING, AcqRel);
    }

    /// Notes that the job is refused. See `Runnable::mark_given_back`.
    pub(super) fn give_back(&self) {
        // The submitter looks after it had the same lock, or after `complete`.
        let before = Snapshot(self.0.fetch_or(GIVEN_BACK, AcqRel));
        debug_assert!(before.is_waiting());
    }

    /// Publishes the output. Returns the word before: the caller may have to wake the join waker, or
    /// to drop the output.
    #[inline]
    #[must_use]
    pub(super) fn complete(&self) -> Snapshot {
        // The release pairs with `load` and with the join handle's transitions: the handle sees the
        // output. The acquire pairs with `set_join_waker`: this thread sees the waker.
        Snapshot(self.0.fetch_or(COMPLETE, AcqRel))
    }

    /// Leaves the output to the completing thread. Returns whether the job is complete: then the
    /// output still belongs to the join handle.
    #[must_use]
    pub(super) fn drop_join(&self) -> bool {
        // The acquire pairs with a `complete` that came first: the handle then drops the output. A
        // later `complete` finds the bit.
        Snapshot(self.0.fetch_or(JOIN_DROPPED, AcqRel)).has(COMPLETE)
    }

    /// Hands the join waker to the completing thread. Returns whether the job is complete: then the
    /// waker came too late, and nothing will wake it.
    #[inline]
    #[must_use]
    pub(super) fn set_join_waker(&self) -> bool {
        // The release pairs with `complete`, which then reads the waker. The acquire pairs with a
        // `complete` that came first: the handle then reads the output.
        Snapshot(self.0.fetch_or(JOIN_WAKER, AcqRel)).has(COMPLETE)
            && !failpoint("join without recheck")
    }

    /// Takes the join waker back. Returns whether the job is complete: then the completing thread
    /// may be reading the waker, and the handle must leave that field alone.
    #[inline]
    #[must_use]
    pub(super) fn unset_join_waker(&self) -> bool {
        // The acquire pairs with a `complete` that came first: the handle then reads the output.
        // A later `complete` does not find the bit, and leaves the waker alone.
        Snapshot(self.0.fetch_and(!JOIN_WAKER, AcqRel)).has(COMPLETE)
    }

    /// Makes aborts wait for one more [`allow_abort`](Self::allow_abort).
    pub(super) fn defer_abort(&self) {
        // Pairs with `start_poll`, which reads the count together with `ABORT`.
        self.0.fetch_add(ABORT_DEFERRED, AcqRel);
    }

    /// Takes one [`defer_abort`](Self::defer_abort) back. Returns whether an abort waited for this
    /// call: the caller then has to wake the job.
    #[must_use]
    pub(super) fn allow_abort(&self) -> bool {
        // The acquire pairs with the `request_abort` that had to wait; `wake` passes it on.
        let before = self.0.fetch_sub(ABORT_DEFERRED, AcqRel);
        debug_assert!(before >= ABORT_DEFERRED);
        Snapshot(before - ABORT_DEFERRED).should_cancel()
            && !failpoint("a deferred abort wakes nothing")
    }
}

impl Snapshot {
    /// Whether the output is published.
    #[inline]
    pub(super) fn is_complete(self) -> bool {
        self.has(COMPLETE)
    }

    /// Whether the job stands in the wait list, or was withdrawn from there and not cancelled yet.
    pub(super) fn is_waiting(self) -> bool {
        self.has(WAITING) && !self.has(COMPLETE)
    }

    /// Whether the job is refused.
    pub(super) fn is_given_back(self) -> bool {
        self.has(GIVEN_BACK)
    }

    /// Whether the job is to be cancelled.
    pub(super) fn is_abort_requested(self) -> bool {
        self.has(ABORT)
    }

    /// Whether the join handle left a waker.
    #[inline]
    pub(super) fn has_join_waker(self) -> bool {
        self.has(JOIN_WAKER)
    }

    /// Whether the join handle was dropped and left the output to the completing thread.
    #[inline]
    pub(super) fn is_join_dropped(self) -> bool {
        self.has(JOIN_DROPPED) && !failpoint("complete without the dropped handle")
    }

    /// Whether an abort would have to wait.
    pub(super) fn is_abort_deferred(self) -> bool {
        self.has(ABORT_DEFERRED_MASK)
    }

    /// What the job does, as far as this word tells.
    pub(super) fn activity(self) -> Activity {
        match self {
            now if now.has(RUNNING) => Activity::Polled,
            now if now.has(WAITING) => Activity::Waiting,
            now if now.has(SCHEDULED) => Activity::Ready,
            _ => Activity::Suspended,
        }
    }

    /// Whether any of these bits is set.
    fn has(self, bits: u32) -> bool {
        self.0 & bits != 0
    }

    fn is_idle(self) -> bool {
        !self.has(SCHEDULED | RUNNING | COMPLETE | WAITING)
    }

    fn should_cancel(self) -> bool {
        self.has(ABORT) && !self.has(ABORT_DEFERRED_MASK)
    }

    fn debug_assert_scheduled(self) {
        debug_assert!(self.has(SCHEDULED) && !self.has(RUNNING | COMPLETE | WAITING));
    }
}

/// The handshake of a job and its slot guard, which share one slot: the second of the two to end
/// releases the slot.
///
/// The guard keeps this value and not the job: the output of a job may contain the job's own guard.
#[derive(Debug)]
pub(crate) struct SlotHold(
    /// Whether one side has ended. Each side swaps once. The `AcqRel` swaps pair with each other:
    /// the second side sees all that the first did before.
    AtomicBool,
);

impl SlotHold {
    pub(super) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Whether neither side has ended.
    pub(crate) fn is_kept(&self) -> bool {
        // The acquire pairs with the swap of a guard that was dropped.
        !self.0.load(Acquire)
    }

    /// A number that no other value has while this one is referenced.
    pub(crate) fn id(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }

    /// Ends the job's side. Returns whether the guard still keeps the slot.
    pub(super) fn end_job(&self) -> bool {
        !self.0.swap(true, AcqRel)
    }

    /// Ends the guard's side. Returns whether the job has ended: then the caller releases the slot.
    pub(crate) fn release(&self) -> bool {
        self.0.swap(true, AcqRel) && !failpoint("guard released without recheck")
    }
}

#[cfg(all(test, not(millpond_loom)))]
mod tests {
    use super::*;

    /// A job that was polled once and is idle.
    fn idle() -> State {
        let state = State::new();
        assert!(!state.start_poll());
        assert!(!state.finish_poll(), "nothing happened during the poll");
        state
    }

    #[test]
    fn the_first_wake_of_an_idle_job_takes_the_token() {
        let state = idle();
        assert!(state.wake());
        assert!(!state.wake(), "the token is out");
        assert!(!state.request_abort(), "the token is out");
        assert!(state.start_poll(), "the abort is found");
    }

    #[test]
    fn a_wake_during_the_poll_schedules_again() {
        let state = State::new();
        assert!(!state.start_poll_unshared());
        assert!(!state.wake(), "the token is with the poll");
        assert!(state.finish_poll());
        assert!(!state.start_poll());
        assert!(!state.finish_poll(), "one wake schedules once");
    }

    #[test]
    fn an_abort_takes_the_token_of_an_idle_job_only() {
        let state = State::new();
        assert!(!state.request_abort());
        assert!(state.start_poll_unshared());
        assert!(idle().request_abort());

        let running = State::new();
        assert!(!running.start_poll());
        assert!(!running.request_abort());
        assert!(running.finish_poll());
    }

    #[test]
    fn an_abort_waits_for_the_last_deferral() {
        let state = State::new();
        assert!(!state.start_poll());
        state.defer_abort();
        state.defer_abort();
        assert!(!state.finish_poll());
        assert!(state.request_abort());
        assert!(!state.start_poll(), "the abort is deferred");
        assert!(state.load().is_abort_deferred());
        assert!(!state.finish_poll());
        assert!(!state.allow_abort());
        assert!(state.allow_abort());
        assert!(state.wake());
        assert!(state.start_poll());
    }

    #[test]
    fn without_an_abort_the_last_deferral_wakes_nothing() {
        let state = idle();
        state.defer_abort();
        assert!(!state.allow_abort());
        assert!(!state.load().is_abort_deferred());
    }

    #[test]
    fn an_abort_leaves_a_waiting_job_where_it_is() {
        let state = State::new();
        state.enter_wait_list();
        assert!(state.load().is_waiting());
        assert!(!state.request_abort());
        state.leave_wait_list();
        assert!(!state.load().is_waiting());
        assert!(state.start_poll());
    }

    #[test]
    fn a_complete_job_is_not_waiting() {
        let state = State::new();
        state.enter_wait_list();
        assert!(!state.complete().has_join_waker());
        assert!(!state.load().is_waiting());
    }

    #[test]
    fn a_complete_job_never_gives_its_token_out() {
        let state = State::new();
        assert!(!state.start_poll());
        assert!(!state.complete().has_join_waker());
        assert!(!state.wake());
        assert!(!state.request_abort());
        assert!(state.load().is_complete());
    }

    #[test]
    fn the_join_waker_is_woken_if_it_came_first() {
        let state = State::new();
        assert!(!state.set_join_waker());
        assert!(state.load().has_join_waker());
        assert!(state.complete().has_join_waker());
        assert!(state.unset_join_waker(), "the completing thread may read it");

        let state = State::new();
        assert!(!state.set_join_waker());
        assert!(!state.unset_join_waker());
        assert!(!state.complete().has_join_waker(), "the waker was taken back");
        assert!(state.set_join_waker(), "the waker came too late");
    }

    #[test]
    fn the_second_of_the_end_and_the_dropped_handle_has_the_output() {
        let state = State::new();
        assert!(!state.drop_join(), "the completing thread comes second");
        assert!(state.complete().is_join_dropped());

        let state = State::new();
        assert!(!state.complete().is_join_dropped());
        assert!(state.drop_join(), "the handle comes second");
    }

    #[test]
    fn the_second_side_of_a_slot_hold_releases_the_slot() {
        let hold = SlotHold::new();
        assert!(hold.end_job(), "the guard keeps the slot");
        assert!(hold.release());

        let hold = SlotHold::new();
        assert!(!hold.release());
        assert!(!hold.end_job(), "the guard is gone");
    }
}
