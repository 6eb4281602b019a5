//! Submission: from the call of a verb to a job in the pool.
//!
//! [`Pool`](crate::Pool), [`Group`](crate::Group) and the tower layer offer the same verbs. They
//! differ in the sink of the output alone: a handle, a group's list of outcomes, or a call of the
//! layer. Each verb is therefore one [`Submission`](submission::Submission) of a job and a sink.
//! This module asks the [limiter](crate::pool::limiter) for admission, wakes a worker through
//! [`Shared`](crate::pool::scheduler::shared::Shared), and gives a refused job back to the caller.
//!
//! | file | content |
//! |---|---|
//! | `submission` | a job on its way in; the verbs that do not wait |
//! | `schedule` | `schedule`, the future that waits with its job; `anyway_go` |
//! | `try_go` | `try_go`, the future that may run its job itself |
//! | `within` | `schedule_within`, `schedule` with a limit for the wait |
//! | `caller_runs` | a job that its caller polls |
//! | `reserver` | slots before their jobs, for `poll_ready` |
//! | `slot` | a reserved slot as a value |
//! | `slot_guard` | a slot beyond the end of its job |
//!
//! # Stages of a submission
//!
//! ```text
//!              admit, admit_waiting            take_handle
//!   Allocated ────────────────────▶ Admitted ─────────────▶ Taken
//!       │                                                     ▲
//!       └─────────────────────────────────────────────────────┘
//!         take_job after a refusal; take_in_caller after RunInCaller
//! ```
//!
//! - **Allocated**: the job is in its cell, which the caller owns. The cell keeps the job out of the
//!   caller's future, which may wait for long.
//! - **Admitted**: the pool owns the token, the sink went with the job. The join handle is left.
//! - **Taken**: the result of the verb has been returned.
//!
//! `schedule` inside a job of the pool is admitted to the wait list at once, if there is no room: the
//! limiter may have to start the job while the submitter has no slot to be polled. The future then
//! waits in `Admitted` until the job starts, and its `Drop` withdraws the job. A close gives the job
//! back: `take_job` then takes it out of the cell by the join handle.
//!
//! # Stages of a slot without a job
//!
//! ```text
//!               poll_reserve                 grant, poll_reserve            submit_reserved
//!   Nothing ───────────────────▶ Waiting ───────────────────────▶ Reserved ─────────────────▶ Nothing
//!      ▲  └────────── a slot is free ─────────────────────────────────▲ │
//!      └──────────────── release, or Drop: also from Waiting ───────────┘
//! ```
//!
//! # Invariants
//!
//! - **P1, one offer.** The limiter sees a job at most once in `Submission::admit` or
//!   `submit_reserved`. A waiting job comes a second time, by `submit_granted` under its key. After
//!   a refusal the job is still here, and the verb returns it. Tests:
//!   `every_verb_gives_the_job_back`, `try_schedule_gives_the_job_back`.
//! - **P2, the group decides at the admission.** `OutputSink::on_admit` counts the job in or refuses
//!   it, under the group's lock. So the order of a submit and a close is that of this lock. The check
//!   before the offer only saves the work. A caller is checked again before it joins the wait list,
//!   and a close rejects the callers there. Tests:
//!   `a_closed_group_lets_nothing_in_and_leaves_the_pool_open`,
//!   `nothing_starts_after_close_and_wait`.
//! - **P3, a key is a place.** `Progress` of a `schedule` and `State` of a reserver hold keys of live
//!   entries of the wait list. The future or the reserver gives its key up with the use of a granted
//!   slot, and its `Drop` or the end of its time cancels a key that is left. So a waiter that was
//!   granted a slot and goes away passes the slot on. Tests: `every_future_dropped_after_k_polls`,
//!   `a_granted_slot_passes_on`, `a_reserver_dropped_while_waiting_passes_its_slot_on`.
//! - **P4, one end in the caller.** The limiter counts a job as `in_caller` from the outcome
//!   `RunInCaller` to the one `CompletionGuard::record_end`. The job is dropped before that, also
//!   when its future is dropped. Tests: `in_caller_in_poll_and_destructor`,
//!   `try_go_runs_in_the_caller`.
//! - **P5, one use of a slot.** A reserved slot is spent on one job, or released once.
//!   `submit_reserved` spends or releases it in every case. `SlotGuard` releases a held slot after
//!   the job's end, whichever of the two comes last. Tests:
//!   `a_reserved_slot_is_taken_until_it_is_used_or_given_back`,
//!   `whichever_comes_second_frees_the_slot`.

pub(crate) mod caller_runs;
pub(crate) mod reserver;
pub(crate) mod schedule;
pub(crate) mod slot;
pub(crate) mod slot_guard;
pub(crate) mod submission;
pub(crate) mod try_go;
pub(crate) mod within;
