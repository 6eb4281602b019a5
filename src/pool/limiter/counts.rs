//! The counters of a pool and the accounting law that they obey.
//!
//! [`Counters`] are running totals. Each shard has one set under its own lock, for what happens
//! there without the state lock. The state has one more set under the state lock. A job may start
//! in one shard and end in another, so only the sums over all sets mean anything.
//!
//! [`Counts`] is a snapshot of the sums. `StateGuard::counts` takes the snapshot under the state lock
//! and all shard locks at once. No job can then end in one shard while the next one is read.
//!
//! # The accounting law (L9)
//!
//! Each offered job adds one to `submitted`. At every moment the job is in exactly one other place:
//!
//! ```text
//! submitted = refused + withdrawn                              (never ran, given back or dropped)
//!           + queued + waiting + granted + reserved            (has no slot yet, or no job yet)
//!           + running + lent + overflow + in_caller            (started)
//!           + completed + panicked + cancelled + expired       (ended)
//! ```
//!
//! An entry point moves a job between places under one lock, in one critical section. A reserved
//! slot counts as a submitted job from its reservation on. A held slot counts nowhere in the law,
//! because its job has ended.

use std::time::Duration;

use tokio::time::Instant;

use crate::pool::job::End;

/// Running totals. Only `refused` ever decreases: when a refused job runs in its caller.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    pub(crate) submitted: u64,
    /// Jobs that received a slot.
    pub(crate) started: u64,
    /// Jobs that ended with a slot.
    pub(crate) ended: u64,
    pub(crate) completed: u64,
    pub(crate) panicked: u64,
    pub(crate) cancelled: u64,
    pub(crate) expired: u64,
    pub(crate) overflow_started: u64,
    pub(crate) overflow_ended: u64,
    pub(crate) refused: u64,
    pub(crate) withdrawn: u64,
    /// Slots that were reserved for later jobs.
    pub(crate) reserved: u64,
    /// Reserved slots that a job used, or that were released without a job.
    pub(crate) reservations_ended: u64,
    /// Those that were released without a job.
    pub(crate) reservations_unused: u64,
    /// Slots that stayed taken when their job ended.
    pub(crate) held_slots: u64,
    /// Held slots that were released.
    pub(crate) held_released: u64,
}

/// Why a slot without a running job is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReleaseReason {
    /// The slot was reserved, and no job came.
    Unused,
    /// The slot was reserved, and the pool was closed when the job came.
    Refused,
    /// The slot was held beyond the end of its job.
    Held,
}

/// Why a job or a caller leaves the wait list without a slot, and without an end of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeaveReason {
    /// Its future was dropped, or gave the place up.
    Dropped,
    /// The limit of the wait is over: the job goes back to its submitter.
    TimedOut,
}

impl Counters {
    pub(super) fn add(&mut self, other: &Self) {
        self.submitted += other.submitted;
        self.started += other.started;
        self.ended += other.ended;
        self.completed += other.completed;
        self.panicked += other.panicked;
        self.cancelled += other.cancelled;
        self.expired += other.expired;
        self.overflow_started += other.overflow_started;
        self.overflow_ended += other.overflow_ended;
        self.refused += other.refused;
        self.withdrawn += other.withdrawn;
        self.reserved += other.reserved;
        self.reservations_ended += other.reservations_ended;
        self.reservations_unused += other.reservations_unused;
        self.held_slots += other.held_slots;
        self.held_released += other.held_released;
    }

    /// Counts the release of a slot that has no running job.
    pub(super) fn release(&mut self, reason: ReleaseReason) {
        match reason {
            ReleaseReason::Unused => self.withdrawn += 1,
            ReleaseReason::Refused => self.refused += 1,
            ReleaseReason::Held => {
                self.held_released += 1;
                return;
            }
        }
        self.reservations_ended += 1;
        self.reservations_unused += 1;
    }

    /// Counts a waiter that left the wait list.
    pub(super) fn leave(&mut self, reason: LeaveReason) {
        match reason {
            LeaveReason::Dropped => self.withdrawn += 1,
            LeaveReason::TimedOut => self.refused += 1,
        }
    }

    /// Counts how a job ended. The caller counts the job's slot.
    pub(crate) fn end(&mut self, end: End) {
        match end {
            End::Completed => self.completed += 1,
            End::Panicked => self.panicked += 1,
            End::Cancelled => self.cancelled += 1,
            End::Expired => self.expired += 1,
        }
    }
}

/// All numbers of a pool at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) size: usize,
    pub(crate) queue_capacity: usize,
    pub(crate) queued: usize,
    pub(crate) waiting: usize,
    /// Slots kept for callers that were told to come and have not looked yet.
    pub(crate) granted: usize,
    pub(crate) waiting_reservers: usize,
    pub(crate) running: usize,
    /// Jobs without a slot, because they lent it.
    pub(crate) lent: usize,
    pub(crate) overflow: usize,
    /// Jobs in their callers, and jobs that left the wait list to be cancelled.
    pub(crate) in_caller: usize,
    pub(crate) reserved: usize,
    pub(crate) held_slots: usize,
    pub(crate) paused: bool,
    /// When the oldest waiter joined the wait list.
    pub(crate) oldest_since: Option<Instant>,
    /// How long a caller that joins the wait list now will wait.
    pub(crate) expected_wait: Duration,
    pub(crate) jobs: Counters,
}

impl Counts {
    /// Returns whether no job is left. Reservers and reserved slots do not count: a reserver may
    /// never be polled again, so a wait for it could last forever.
    pub(crate) fn is_idle(&self) -> bool {
        let waiting = self.waiting + self.granted - self.waiting_reservers;
        let live = self.running + self.lent + self.overflow + self.in_caller + self.held_slots;
        self.queued + waiting + live == 0
    }
}
