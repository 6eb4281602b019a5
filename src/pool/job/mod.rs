//! The storage of one job: future, output, waker and state in one allocation, a *cell*.
//!
//! This is the crate's only module with unsafe code. `pool/submit` allocates jobs here. The limiter
//! and the scheduler move the token of a job. Handles, groups and [`blocking`](crate::blocking) hold
//! counted references. Two threads must never poll one future. A cell must never be freed while a
//! reference is left.
//!
//! | file | content |
//! |---|---|
//! | `state` | the state word and every transition |
//! | `raw` | the cell and its table of functions |
//! | `refs` | token, plain pointer, counted reference, waker |
//! | `join` | the join handle |
//! | `new` | a job before its admission |
//! | `meta` | what a job carries beside its future: place, span, priority, deadline |
//! | `history` | how long a job waited, and how often it was polled |
//! | `alloc_cache` | the memory of cells |
//!
//! # References
//!
//! | type | number | counted | right |
//! |---|---|---|---|
//! | [`Runnable`], the *token* | one | yes | poll, suspend, cancel, publish |
//! | [`RawJoinHandle`] | at most one | yes | wait for the output, take the output |
//! | [`JobArc`] | any | yes | abort, defer aborts, see the state |
//! | `Waker` | any | yes | wake |
//! | [`RawJob`] | any | no | make a counted reference; request an abort |
//!
//! A cell starts with two references: a [`NewJob`] stands for both, until its `admit` returns the token
//! and the join handle. The waker that a poll receives borrows the token's count; its clones count.
//! While a job is idle no `Runnable` exists: the state word keeps the token and its count.
//!
//! # States
//!
//! ```text
//!                 leave_wait_list     start_poll
//!         WAITING ──────────────▶ SCHEDULED ─────▶ RUNNING ───────────▶ COMPLETE
//!            ▲                    │   ▲   ▲           │     complete
//!            └────────────────────┘   │   └───────────┤
//!              enter_wait_list        │   finish_poll │ finish_poll
//!                                     │   (woken)     ▼
//!                                     └───────────── idle
//!                                     wake, request_abort
//! ```
//!
//! - **SCHEDULED**: the token is in a run queue or a worker's local queue, or on its way there. Beside
//!   `RUNNING` the bit means that the running job was woken.
//! - **RUNNING**: one thread polls the job, with the token in hand.
//! - **idle** (none of the bits): the job waits for its waker. The scheduler's slab has a `RawJob`.
//! - **WAITING**: the token stands in the limiter's wait list: before the job's first poll, or after the
//!   job lent its slot and was woken. A wake in this state only sets `SCHEDULED`.
//! - **COMPLETE**: the output is published. A cancelled job may come here from any other state; its
//!   old bit stays.
//!
//! Four more parts of the word are independent of these:
//!
//! - **ABORT**: the job is to be cancelled. The next poll cancels the job instead.
//! - **the count of deferred aborts**: while it is not zero, polls ignore `ABORT`. A closure on a
//!   blocking thread cannot be stopped, so its job must not end before the closure.
//! - **JOIN_WAKER**: the join handle left a waker (S4).
//! - **JOIN_DROPPED**: the join handle is gone and left the output to the completing thread (S10).
//!
//! # An abort
//!
//! 1. A waiting job is withdrawn under the limiter's lock, and cancelled.
//! 2. An idle job is taken out of the state word and scheduled; its poll cancels the job.
//! 3. A scheduled job is cancelled by its next poll.
//! 4. A running job is scheduled once its poll returns `Pending`, and cancelled by the next one.
//! 5. A complete job stays as it is.
//!
//! A job whose submitter still waits may be refused while it stands in the wait list. It is marked as
//! given back under the limiter's lock, and is complete without an output after that. The submitter
//! then takes the future out: it was never polled.
//!
//! # The way of the output
//!
//! 1. The worker polls the future, or cancels it. A sink that inspects sees the output,
//!    still before the slot is released. [`Step::Ended`] says that the future is dropped and
//!    that the output is in its place. No other thread sees this yet.
//! 2. The scheduler releases the slot, removes the job from its slab and reports a panic.
//! 3. [`Runnable::publish`] passes the output on. The output stays in the cell, the sink is
//!    dropped, `COMPLETE` is set, and the join waker is woken. An [`OutputSink`] that pushes receives the
//!    output instead, after `COMPLETE`: a waiter of its group must find each ticket finished.
//! 4. The join handle takes the output. Without a join handle the output is dropped at once (S10).
//!
//! The order matters to users: a resolved handle means that the destructor ran and the slot is free.
//!
//! # Invariants
//!
//! `// SAFETY:` comments cite these numbers. The tests named are those that fail first.
//!
//! - **S1, one token.** A cell has one token: a `Runnable`, a pointer in an [`AtomicJobSlot`], or the
//!   state word of an idle job. Three places make a `Runnable`: `NewJob::admit`, the one
//!   transition that took an idle job, and the one swap that empties a slot.
//!   Tests: `a_wake_while_polled_is_kept` (loom), `the_first_wake_of_an_idle_job_takes_the_token`.
//! - **S2, the token's fields.** Before `COMPLETE`, the token's holder alone uses `stage`, `sink`,
//!   `slot_hold`, `slot_kind`, `suspended_key` and, outside of the wait list, `waiter_key`. The thread that
//!   polls acts for the holder; a thread that runs a closure of the job does not. A list of jobs only reads
//!   the two keys. After `COMPLETE`, `stage` belongs to the join handle (S10), and the others are no longer
//!   used.
//!   Tests: `a_handle_is_woken` (loom), `aborts_race_with_completion_both_ways`.
//! - **S3, pinned.** The future stays at its address from the first poll to its drop in place.
//!   Test: `in_the_destructor_of_the_future`.
//! - **S4, the join waker.** While `JOIN_WAKER` is unset, `join_waker` belongs to the join handle.
//!   While the bit is set, the handle and the completing thread only read. The completing thread
//!   reads only if `complete` found the bit. The handle writes only after it unset the bit and found
//!   the job not complete. The waker is dropped with the cell.
//!   Tests: `a_handle_is_woken` (loom), `the_last_waker_is_the_one_woken`.
//! - **S5, the scheduler.** The token's holder writes `scheduler` once, before the job is first idle or
//!   waiting. Other threads read the field only after they found such a state.
//!   Tests: `a_wake_while_polled_is_kept` (loom), `waiting`, `suspended`.
//! - **S6, counted references.** `refs` counts tokens, join handles, `JobArc`s and wakers. The last one
//!   frees the cell. A new reference is made from one that is counted for as long. A `RawJob` is
//!   dereferenced only while a counted reference exists. Two places outside of this module keep one.
//!   `pool/context.rs` keeps the job of the current poll, until that poll returns. The
//!   scheduler's slab keeps suspended jobs: the entry goes, under the shard's lock, before the token
//!   is given up. The wait list compares addresses and dereferences none.
//!   Tests: all under AddressSanitizer (`scripts/asan`), `at_any_moment_under_load`.
//! - **S7, types.** `Cell::allocate` makes each cell, of a `Send` future, output and sink. The header
//!   comes first, and its table is that of the cell's type.
//! - **S8, memory.** Memory from `alloc_cache` has one owner. A free list has blocks of its own size
//!   class alone, without an owner, and belongs to one thread.
//!   Tests: those of `alloc_cache.rs`.
//! - **S9, panics.** Polls, drops of futures and outputs, sinks and foreign wakers are user code and may
//!   panic. Every call is caught in the cell, and costs that job alone. No lock is held meanwhile.
//!   Tests: `tests/pool/panics.rs`.
//! - **S10, an output without a reader.** The join handle's reference is the bit `JOIN` of `refs`. Once
//!   the bit is unset, the token's holder drops the output before `COMPLETE`. A join handle that is
//!   dropped beside other references sets `JOIN_DROPPED`. Of that and `COMPLETE`, the second one
//!   drops the output. So no abort handle and no waker keeps an output alive.
//!   Tests: `a_dropped_handle_drops_the_output` (loom), `memory::an_abort_handle_keeps_no_output`.
//! - **S11, places.** An [`AtomicPlace`] is null or has the address of a `&'static Location`.

mod alloc_cache;
mod history;
mod join;
mod meta;
mod new;
mod raw;
mod refs;
mod state;

use std::sync::Arc;
use std::task::Waker;

pub(crate) use crate::pool::job::alloc_cache::trim as trim_cache;
pub(crate) use crate::pool::job::history::History;
pub(crate) use crate::pool::job::join::RawJoinHandle;
pub(crate) use crate::pool::job::meta::{Meta, with_deadline};
pub(crate) use crate::pool::job::new::{AdmittedJob, NewJob, allocate_job, finished_job};
pub(crate) use crate::pool::job::refs::{AtomicJobSlot, AtomicPlace, JobArc, RawJob, Runnable};
pub(crate) use crate::pool::job::state::SlotHold;

use crate::error::{JobError, SubmitErrorKind};
use crate::pool::options::JobOptions;

/// What a waker or an abort calls for a suspended or waiting job.
pub(crate) trait JobScheduler: Send + Sync {
    /// Takes back a suspended job that was woken or is to be cancelled.
    fn schedule(&self, job: Runnable);

    /// Takes the job under `waiter_key` out of the wait list and ends it. Returns `false` if the job
    /// does not stand there any more, or has started and the reason is for waiting jobs alone.
    fn withdraw(&self, job: RawJob, waiter_key: usize, reason: WithdrawReason) -> bool;

    /// Leaves `waker` with the job under `waiter_key`, to be woken when the job leaves the wait list.
    /// Returns `false` if the job does not stand there any more.
    fn await_start(&self, job: RawJob, waiter_key: usize, waker: &Waker) -> bool;
}

/// The group of a job, as far as the pool needs it.
///
/// The limiter calls these methods under its locks, so they take the lock of the group alone.
pub(crate) trait JobGroup: Send + Sync {
    /// A number that no other living group has, and that is not zero.
    fn tag(&self) -> usize;

    /// The quota that limits the jobs of the group.
    fn quota(&self) -> Option<usize>;

    /// The options of jobs that have none of their own.
    fn options(&self) -> Option<&JobOptions>;

    /// The name that the group was given, if it was.
    fn name(&self) -> Option<&Arc<str>>;

    /// Why the group takes no more jobs, or `None` if the group takes jobs.
    fn refusal(&self) -> Option<SubmitErrorKind>;

    /// Notes that a caller joins the wait list, unless the group takes no more jobs. A group that
    /// refuses jobs later calls `Limiter::reject_group` then.
    fn enter_line(&self) -> Option<SubmitErrorKind>;
}

/// The receiver of a job's output: a handle, a group, or a call of the layer.
pub(crate) trait OutputSink<T>: Send + 'static {
    /// Whether the output goes to [`push_output`](Self::push_output) instead of waiting for a handle.
    const PUSHES: bool;

    /// Whether the output is shown to [`inspect`](Self::inspect).
    const INSPECTS: bool = Self::PUSHES;

    /// Whether the sink stays with the job, and is dropped when the job has ended.
    const DROPPED_AT_END: bool = Self::PUSHES;

    /// What the submitter gets.
    type Handle;

    /// The group of the job.
    fn group(&self) -> Option<&dyn JobGroup> {
        None
    }

    /// The name that stands with the job in [`Pool::jobs`](crate::Pool::jobs).
    fn label(&self) -> Option<&Arc<str>> {
        self.group().and_then(JobGroup::name)
    }

    /// Whether the job serves a request of limited patience: its caller may be refused under overload,
    /// although the pool has no target of its own.
    fn is_request(&self) -> bool {
        false
    }

    /// Notes that the job is admitted and is about to run, unless the group takes no more jobs.
    /// Returns the job's index in its group, for the handle.
    /// `job` is `None` for a job that runs in its caller. Called under the limiter's locks.
    fn on_admit(&mut self, job: Option<&JobArc>) -> Result<usize, SubmitErrorKind>;

    /// Makes the handle of an admitted job.
    fn handle(join: RawJoinHandle<T>, index: usize) -> Self::Handle;

    /// Sees the output of a job that ended in the pool, before the job's slot is released. Called
    /// only if the sink [`INSPECTS`](Self::INSPECTS), without a lock.
    fn inspect(&mut self, _output: &Result<T, JobError>) {}

    /// Makes the handle of a job that ran in its caller.
    fn finished_handle(self, output: Result<T, JobError>) -> Self::Handle;

    /// Receives the output, if [`PUSHES`](Self::PUSHES).
    fn push_output(self, output: Result<T, JobError>);

    /// Notes that the submitter went away before the job left the wait list, or gets the job back. The
    /// job leaves no outcome.
    fn withdraw(self)
    where
        Self: Sized,
    {
    }
}

/// Why a job is taken out of the wait list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WithdrawReason {
    /// The job was aborted: it ends as cancelled, also if it has started and waits to resume.
    Abort,
    /// The waiting jobs were cancelled: it ends as cancelled.
    AbortWaiting,
    /// The future that submitted the job was dropped: the job was never submitted.
    SubmitterDropped,
    /// The wait took longer than the submitter allows: the submitter takes the job back.
    TimedOut,
}

impl WithdrawReason {
    /// Whether a job that has started and waits to resume is taken out, too.
    pub(crate) fn ends_started(self) -> bool {
        self == Self::Abort
    }
}

/// What a job does at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activity {
    /// The job stands in the wait list.
    Waiting,
    /// The job is to be polled.
    Ready,
    /// A thread polls the job.
    Polled,
    /// The job waits for its waker.
    Suspended,
}

/// The result of one poll of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Pending,
    Ended(End),
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Completed,
    Panicked,
    Cancelled,
    /// The deadline passed before the job ended.
    Expired,
}

/// Which slot an admitted job holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotKind {
    /// A slot.
    Plain,
    /// A slot and a part of this quota.
    Quota(usize),
    /// No slot: the job runs beyond the pool's size.
    Overflow,
    /// No slot: the job lent it, and is cancelled before it received one again.
    Lent,
}

impl SlotKind {
    pub(crate) fn for_quota(quota: Option<usize>) -> Self {
        quota.map_or(Self::Plain, Self::Quota)
    }

    pub(crate) fn quota(self) -> Option<usize> {
        match self {
            Self::Quota(quota) => Some(quota),
            Self::Plain | Self::Overflow | Self::Lent => None,
        }
    }

    fn pack(self) -> u32 {
        match self {
            Self::Plain => 0,
            Self::Overflow => 1,
            Self::Lent => 2,
            Self::Quota(quota) => quota as u32 + 3,
        }
    }

    fn unpack(packed: u32) -> Self {
        match packed {
            0 => Self::Plain,
            1 => Self::Overflow,
            2 => Self::Lent,
            quota => Self::Quota(quota as usize - 3),
        }
    }
}
