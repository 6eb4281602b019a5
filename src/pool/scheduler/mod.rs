//! The scheduler: workers that poll jobs, and the policy by which they are woken.
//!
//! The [limiter](crate::pool::limiter) decides which jobs run. The scheduler runs them, on a few
//! tokio tasks. Its callers:
//!
//! * `pool::submit`, `group` and `layer` submit jobs through [`Shared`](shared::Shared).
//! * `pool::job` brings jobs back that were woken or aborted while they were suspended.
//! * `pool::shutdown` cancels what is left at a deadline; tokio drops the workers when a runtime
//!   shuts down.
//!
//! # Files
//!
//! | file | content |
//! |---|---|
//! | `shared` | [`Shared`](shared::Shared): what handles, workers and jobs share; the way in |
//! | `wake` | the wake policy after a push; the stall monitor |
//! | `binding` | the runtime of the pool, and whether it lives |
//! | `idle` | the idle list: which workers exist, which are parked, which shards wait for one |
//! | `worker_handle` | what other threads may do with a worker: wake it, take its jobs |
//! | `worker` | the task that polls jobs in turns |
//! | `complete` | what follows a poll: suspension, or the end of a job |
//! | `expiry` | the task that ends waiters at their deadlines |
//! | `slow` | the task that reports slow jobs |
//! | `poll_times` | an estimate of how long polls take |
//! | `job_timer` | which jobs a worker measures, and which one it polls |
//!
//! A job passes `shared`, the limiter's `shard`, `wake`, `worker`, `complete`. The end of a job may
//! start a waiter, and so wake another worker. This circle (`worker`, `complete`, `shared`, `wake`,
//! `worker`) is the nature of a scheduler, and it does not leave this folder. `idle` and
//! `worker_handle` stand outside of the circle: the idle list returns a
//! [`WakeAction`](idle::WakeAction), and `wake` acts on it.
//!
//! # Parts
//!
//! A **shard** (`limiter::shard`) has free slots and, under the same lock, a run queue of ready jobs.
//! There is one shard per thread of the runtime, fewer if the pool is small. A submit pushes its job
//! into the shard of its own thread. `has_worker` says that a worker will look at the run queue; a
//! push that finds it clear must wake a worker.
//!
//! A **worker** is a tokio task. It serves the shard of the thread that tokio runs it on. It takes up
//! to eight ready jobs under one shard lock into its **local queue**, and polls them without a lock.
//! A job that returns `Pending` keeps its slot, but no worker: it stands in `suspended` of a shard
//! until its waker pushes it again.
//!
//! The **idle list** knows all workers. Parked workers form a stack, so the newest is woken first.
//! A wake-up that finds no worker leaves the shard in `pending_wakeups`.
//!
//! The **stall monitor** is a task that runs only while jobs stand behind busy workers. It moves the
//! jobs of a worker that makes no step, because one of its jobs computes or blocks.
//!
//! # The life of a worker
//!
//! ```text
//!            register, spawn                    shard is empty, no job to steal,
//!                  │                            no pending wake-up
//!                  ▼                           ┌──────────────────────────────┐
//!            ┌───────────┐    next batch    ┌──┴──────┐                  ┌────▼───┐
//!            │ migrating │ ───────────────▶ │ serving │                  │ parked │
//!            └───────────┘                  └──┬──────┘                  └────┬───┘
//!                  ▲  out of budget, handing   │                              │
//!                  │  over, stolen, or a       │                              │
//!                  │  pending wake-up          │                              │
//!                  ├───────────────────────────┘                              │
//!                  │                    wake-up                               │
//!                  └──────────────────────────────────────────────────────────┤
//!                                                                             │ idle timeout, or
//!            dropped by the runtime, from any state                           ▼ pool at its end
//!                  └─▶ cancels every job of the pool                      retired
//! ```
//!
//! 1. **Registered**: the idle list counts the worker; the task is spawned after the idle lock.
//! 2. **Migrating**: tokio may run the task on any thread. The worker moves all ready jobs of the
//!    shard that it was woken for to the shard of that thread, and serves that shard.
//! 3. **Serving**: the worker takes a batch, polls it, records the outcomes under the lock that also
//!    gives the next batch. It yields to tokio when its budget is spent. The unpolled rest of the
//!    batch goes back to the run queue, and the oldest pending shard comes next. On a
//!    runtime of one thread, the worker yields once as well when it leaves an empty shard and its last
//!    slots go to waiters (a *hand-over*): their submitters run next and push at once, so a park would
//!    be followed by a wake-up.
//! 4. **Parked**: the shard is empty. The worker steals half of a long run queue, or serves a pending
//!    shard, or enters the idle list.
//! 5. **Retired**: the worker was idle for the idle timeout and `min_idle` others are left, or the
//!    pool is closed and has no jobs. The task ends. A worker that parks as one of the first
//!    `min_idle` has no timer: those above it in the stack retire first (W10).
//! 6. **Dropped**: the runtime is shutting down. The worker closes the pool and cancels all its jobs,
//!    because no worker will run again. Once no worker and no job is left, a submit in another
//!    runtime opens the pool there, unless the builder named the runtime (`binding`).
//!
//! # After a push
//!
//! 1. The shard had no worker: wake the newest idle worker; or spawn one, up to one per thread; or
//!    leave the shard in `pending_wakeups`.
//! 2. The shard had a worker, or every worker is busy, or a job pushed: request the stall monitor.
//!    If the ready jobs would take long, wake or spawn a second worker, which steals.
//! 3. A worker pushed a waiter's job that it started with a slot it had to pass on: as in 2, since that
//!    worker comes back to the shard.
//!
//! # The local queue, and slots that are released later
//!
//! A lock per job would be most of the cost of a small job. So a worker takes a batch of jobs, and
//! collects the ends that nothing observes: jobs that completed detached with a plain slot. Their
//! slots are *deferred releases*, given back under the lock that takes the next batch.
//!
//! Both would wait for a slow job of the same batch. Therefore both are reachable from outside: the
//! local queue is an array of atomic slots, and the deferred releases are two atomic counts: of slots
//! left by the worker, and of slots released. When the stall monitor sees no step of the worker for a
//! period, it takes the jobs by swaps and pushes them to its own shard. It releases the deferred slots
//! in the worker's place and raises the second count, by which the worker finds nothing left to release.
//!
//! # The end of a job
//!
//! 1. The poll returns an outcome. The future was dropped in its place before that.
//! 2. The next shard lock counts the end and frees the slot. While a flag of the limiter asks for it
//!    (a caller waits for a slot or for an idle pool), the state lock does both instead, after the
//!    shard lock, and hands the slot to the first waiter.
//! 3. Without a lock, the started waiters are pushed and their wakers called.
//! 4. The output is published, and the handle's waker is called.
//! 5. Waiters for an idle pool are notified.
//!
//! # Locks
//!
//! The order is: idle lock, state lock of the limiter, shard lock. `park` reads the limiter's counts
//! under the idle lock. No lock of this folder is taken while a limiter's lock is held.
//!
//! # Why no wake-up is lost
//!
//! A wake-up could be lost where one thread announces something and another goes to rest. Each such
//! pair meets under a lock or in one atomic word, so one of the two sees the other:
//!
//! | announces | goes to rest | meet in |
//! |---|---|---|
//! | `push` adds a job and sets `has_worker` | the worker finds the run queue empty and clears `has_worker` | the shard lock |
//! | `wake_one` finds no idle worker and adds the shard to `pending_wakeups` | `park` finds no pending shard and enters the idle list | the idle lock |
//! | `WorkerHandle::wake` stores the shard, then wakes the task | `take_wakeup` finds none, then the task returns `Pending` | tokio: a task woken during its poll is polled again |
//! | a waker sets `SCHEDULED` in the job's state word | `Runnable::suspend` clears `RUNNING` | the state word |
//! | `push`, then `request_stall_monitor` finds a monitor | the monitor stops, then looks through all shards | the shard lock |
//! | the limiter closes or its last job ends, then `wake_all` | `park` finds the pool open or busy | the idle lock |
//! | `cancel_all` sets a flag, then empties each shard | a push or a suspension finds the flag clear | the shard lock |
//!
//! Take the first pair. If the push has the lock first, the worker finds the job. If the worker has
//! the lock first, the push finds `has_worker` clear and must wake. The other pairs read the same
//! way. The fifth has two words: the submitter unlocks the shard before it loads `stall_monitor`, and
//! the monitor stores `STOPPED` before it locks the shard. If the monitor's lock comes first, the
//! load sees `STOPPED`, and the submitter starts a monitor. If the push comes first, the monitor
//! finds the job and stays.
//!
//! A push that finds `has_worker` set does not wake. It relies on W2 alone.
//!
//! # Invariants
//!
//! * **W1, lock order.** As above. No waker is called, no job is polled or dropped, and no task is
//!   spawned while a lock is held.
//! * **W2, a served shard.** While a run queue has jobs, `has_worker` is set. While it is set, a
//!   worker serves the shard, or has yielded and comes back to it, or was woken or spawned for it, or
//!   the shard is pending.
//! * **W3, no rest beside work.** While `pending_wakeups` has a shard, no worker is parked. A handle
//!   leaves the idle list once per park, and the thread that took it out wakes its worker.
//! * **W4, one taker.** A job in a local queue is taken by one swap, of its worker or of the stall
//!   monitor.
//! * **W5, one release.** A deferred slot is released by its worker or by the stall monitor.
//!   `released` is at most `deferred`, and the exchange that raises it decides.
//! * **W6, end order.** A job's destructor runs before its slot is released, the slot is released
//!   before the output is published, and the output is published before an idle pool is announced.
//! * **W7, a monitor.** A submit that leaves a job behind a busy worker leaves a stall monitor
//!   running or requested, except on a runtime of one thread.
//! * **W8, the last worker.** While the pool has jobs, the last worker does not retire at its idle
//!   timeout. When the runtime shuts down, the drop of a worker cancels all jobs.
//! * **W9, one key.** A job stands in `suspended` of the shard of its first suspension until its end.
//!   The key in the job names shard and place. A job without a key is not left to its wakers.
//! * **W10, timers.** A parked worker above the first `min_idle` has a timer, or the pool has jobs.
//!   No other parked worker has one.
//! * **W11, one runtime.** A pool binds anew only while it has no job, no worker and no stall
//!   monitor of the old runtime, and while no thread closes the pool because of that runtime's end.
//!
//! # Tests
//!
//! | invariant | held by |
//! |---|---|
//! | W1 | `panics_in_callbacks`, `dropped_mid_wait` |
//! | W2 | loom: `a_ready_job_is_seen`; `workers::a_job_that_comes_as_the_workers_leave_is_run` |
//! | W3 | loom: `a_pending_wakeup_is_taken`; the tests in `idle`; `fairness::restless_jobs_starve_no_other_task_and_no_other_job` |
//! | W4, W5 | the test in `worker_handle`; `fairness::jobs_in_front_and_in_the_same_breath` |
//! | W6 | loom: `a_handle_is_woken`; `abort_races::the_slot_is_free_when_the_handle_resolves` |
//! | W7 | the test in `idle`; `fairness::jobs_submitted_behind_a_heavy_one`, `fairness::what_a_heavy_job_submits_before_it_gets_heavy` |
//! | W8 | `runtime_dropped`; `workers::suspended_jobs_go_on_whatever_became_of_the_workers` |
//! | W10 | `workers::an_idle_pool_has_no_timer`, `workers::min_idle_stay` |
//! | W11 | `runtime_reborn` |
//! | W9 | loom: `a_wake_while_polled_is_kept`; `runtime_dropped::with_jobs_in_every_state` |

pub(super) mod binding;
pub(in crate::pool) mod complete;
mod expiry;
mod idle;
mod job_timer;
mod poll_times;
pub(crate) mod shared;
pub(in crate::pool) mod slow;
mod wake;
mod worker;
mod worker_handle;
