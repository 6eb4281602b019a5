//! A snapshot of a pool.

use std::time::Duration;

/// A snapshot of a pool; from [`Pool::status`](crate::Pool::status).
///
/// All numbers belong to the same moment. Every submitted job is in exactly one number on the right:
///
#[doc = include_str!("../../docs/accounting-law.md")]
///
/// [`accounted`](Self::accounted) returns the right-hand side. The slots add up, too:
/// [`used_slots`](Self::used_slots) is `running + reserved + granted + held_slots`, and at most `size`,
/// unless the pool was made smaller and jobs beyond the new size go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PoolStatus {
    /// How many jobs may hold a slot at once.
    pub size: usize,
    /// How many admitted jobs may wait for a slot.
    pub queue: usize,
    /// Tasks that run jobs. A suspended job keeps its slot but no worker, so there are seldom
    /// more workers than the runtime has threads.
    pub workers: usize,
    /// Workers that wait for a job.
    pub idle: usize,
    /// Jobs that hold a slot. More than `size` only while a pool that was made smaller still has
    /// jobs beyond its new size.
    pub running: usize,
    /// Jobs that lent their slots, because every slot belonged to a job that waited for this pool.
    /// Such a job receives a slot again before it goes on.
    pub lent: usize,
    /// Jobs in the queue.
    pub queued: usize,
    /// Callers in the wait list, and committed jobs in the wait list behind the queue.
    pub waiting: usize,
    /// Slots kept for callers that have left the wait list and were told to come. Their next poll uses
    /// the slot.
    pub granted: usize,
    /// How many of `waiting` and `granted` have no job yet; see [`Reserver`](crate::Reserver).
    pub waiting_reservers: usize,
    /// Jobs that run beyond the size.
    pub overflow: usize,
    /// Jobs that run in their callers.
    pub in_caller: usize,
    /// Slots kept for later jobs; see [`Reserver`](crate::Reserver). Each counts as submitted.
    pub reserved: usize,
    /// Slots kept beyond the end of their jobs; see
    /// [`Pool::hold_slot`](crate::Pool::hold_slot). The totals count those jobs already.
    pub held_slots: usize,
    /// No job gets a slot until [`Pool::resume`](crate::Pool::resume).
    pub paused: bool,
    /// Jobs that were submitted so far.
    pub submitted: u64,
    /// Jobs that were given back: the pool was full or closed, the wait took longer than its limit, or
    /// the wait was a deadlock.
    pub refused: u64,
    /// Jobs whose callers were dropped while they waited or had a slot reserved.
    pub withdrawn: u64,
    /// Jobs that returned a value.
    pub completed: u64,
    /// Jobs that panicked.
    pub panicked: u64,
    /// Jobs that were cancelled.
    pub cancelled: u64,
    /// Admitted jobs whose deadline passed; see [`JobOptions::deadline`](crate::JobOptions::deadline).
    pub expired: u64,
    /// How long the first one of `queued` and `waiting` waits. Zero if none waits.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::histogram::seconds"))]
    pub oldest_wait: Duration,
    /// How long a caller that joins the wait list now will wait, by the rate at which the pool served
    /// its waiters last. Zero where that is not measured: without a
    /// [`target_wait`](crate::PoolBuilder::target_wait), while no call of a layer waits.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::histogram::seconds"))]
    pub expected_wait: Duration,
}

impl PoolStatus {
    /// Returns the sum that equals `submitted`.
    pub fn accounted(&self) -> u64 {
        let ahead = self.reserved + self.queued + self.waiting + self.granted;
        let live = ahead + self.running + self.lent + self.overflow + self.in_caller;
        self.refused
            + self.withdrawn
            + live as u64
            + self.completed
            + self.panicked
            + self.cancelled
            + self.expired
    }

    /// Returns how many slots are taken: by running jobs, by reservations, for callers that were told to
    /// come, and beyond the end of their jobs.
    pub fn used_slots(&self) -> usize {
        self.running + self.reserved + self.granted + self.held_slots
    }

    /// Returns whether no job runs, is queued or waits, and no slot is held beyond its job.
    ///
    /// Reserved slots and waiting [`Reserver`](crate::Reserver)s do not count, because their jobs
    /// may never come.
    pub fn is_idle(&self) -> bool {
        let waiting = self.waiting + self.granted - self.waiting_reservers;
        let live = self.running + self.lent + self.overflow + self.in_caller + self.held_slots;
        self.queued + waiting + live == 0
    }
}
