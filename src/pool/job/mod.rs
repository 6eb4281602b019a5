//! The storage of one job: future, waker, result and handle state in one allocation.
//!
//! This is the crate's only unsafe module. What it must get right:
//!
//! * **One token.** A [`Runnable`] is the pool's single right to run, suspend or end a job. It is
//!   not `Clone`. While a job is suspended the token rests in the state word, and whoever moves
//!   the word from idle to `SCHEDULED` takes it out again. Everything in `stage` belongs to the
//!   token's holder until `COMPLETE` is set, and to the one handle from then on.
//! * **Counted references.** `refs` counts the token, the handle, abort handles and wakers. The
//!   allocation goes when the last one does, never earlier.
//! * **User code is catch_panic.** Polls and drops of the future, drops of its output and wakes of
//!   foreign wakers may panic; each is caught here and costs the job alone.
//!
//! States of the word, apart from the flags:
//!
//! ```text
//!            start            begin            suspend
//!   WAITING ────────▶ SCHEDULED ─────▶ RUNNING ───────▶ (idle: neither bit)
//!                        ▲                │ end              │
//!                        │                ▼                  │ wake / abort
//!                        │            COMPLETE            │
//!                        └──────────────────────────────────┘
//! ```
//!
//! A wake of a running job sets `SCHEDULED` beside `RUNNING`; `suspend` then finds it and the
//! job goes straight back to the queue.

mod alloc_cache;
mod join;
mod new;
mod refs;
mod slot_hold;

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

pub(crate) use crate::pool::job::join::{JobArc, RawJoinHandle};
pub(crate) use crate::pool::job::new::{NewJob, allocate_job};
pub(crate) use crate::pool::job::refs::{AtomicJobSlot, RawJob, Runnable};
pub(crate) use crate::pool::job::slot_hold::SlotHold;

use crate::error::{JobError, JobPanic};
use crate::panic::catch_panic;
use crate::sync::UnsafeCell;
use crate::sync::atomic::AtomicU32;
use crate::sync::atomic::Ordering::{AcqRel, Acquire};
use crate::trace::JobSpan;

/// In the run queue, or woken while running.
const SCHEDULED: u32 = 1;
/// A worker polls it.
const RUNNING: u32 = 1 << 1;
/// Ended; the outcome is in place.
const COMPLETE: u32 = 1 << 2;
/// Somebody asked for its end.
const ABORT: u32 = 1 << 3;
/// Stands in a wait list, where it can be withdrawn.
const WAITING: u32 = 1 << 4;
/// The handle left a waker in `join_waker`, which is the ender's to read while this is set, and the
/// handle's to write while it is not.
const JOIN_WAKER: u32 = 1 << 5;

/// The rest of the word counts what cannot be stopped in the job: an abort waits until it is over.
const ABORT_DEFERRED: u32 = 1 << 6;
const ABORT_DEFERRED_MASK: u32 = !(ABORT_DEFERRED - 1);

/// The suspended key or waiter key of a job that has none.
const NO_KEY: u32 = u32::MAX;

/// Where suspended and waiting jobs belong: what a waker or an abort has to call.
pub(crate) trait JobScheduler: Send + Sync {
    /// Takes back a suspended job that was woken or is to be aborted.
    fn schedule(&self, job: Runnable);

    /// Takes the job that stands in the wait list under `waiter_key` out of it and cancels it. `false` if it
    /// does not stand there any more.
    fn withdraw(&self, job: RawJob, waiter_key: usize) -> bool;

    /// Has `waker` woken when the job that stands in the wait list under `waiter_key` leaves it. `false` if it
    /// does not stand there any more.
    fn await_start(&self, job: RawJob, waiter_key: usize, waker: &Waker) -> bool;
}

/// Who receives the outcome of a job.
pub(crate) trait OutputSink<T>: Send + 'static {
    /// Whether the outcome goes to [`push_output`](Self::push_output) instead of waiting for a handle.
    const PUSHES: bool;

    /// Whether the sink stays with the job, to be dropped when that has ended.
    const DROPPED_AT_END: bool = Self::PUSHES;

    /// What the submitter gets.
    type Handle;

    /// The quota the job is held to.
    fn quota(&self) -> Option<usize> {
        None
    }

    /// The job was admitted and is about to run: in the pool if there is something to watch, else
    /// in its caller.
    fn on_admit(&mut self, _job: Option<&JobArc>) {}

    /// The handle of a job that was admitted.
    fn handle(join: RawJoinHandle<T>) -> Self::Handle;

    /// The handle of a job that ran in its caller.
    fn finished_handle(self, outcome: Result<T, JobError>) -> Self::Handle;

    fn push_output(self, outcome: Result<T, JobError>);
}

/// How one poll of a job ended.
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
}

pub(crate) struct Header {
    vtable: &'static VTable,
    state: AtomicU32,
    refs: AtomicU32,
    /// [`SlotKind`], packed; fixed when the job is admitted.
    slot_kind: AtomicU32,
    /// Written once, by the token's holder, before the job is first idle or in the wait list; read by
    /// whoever finds it so.
    scheduler: UnsafeCell<Option<Arc<dyn JobScheduler>>>,
    /// What keeps the job's slot beyond its end. Only the token's holder uses it.
    slot_hold: UnsafeCell<Option<Arc<SlotHold>>>,
    /// The job's waiter key in its scheduler's wait list: a hint for `withdraw`, which checks it.
    waiter_key: AtomicU32,
    /// The job's suspended key among its scheduler's suspended jobs. Only the token's holder uses it.
    suspended_key: AtomicU32,
}

/// Which slot an admitted job holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotKind {
    /// It holds a slot.
    Plain,
    /// It holds a slot and a part of this quota.
    Quota(usize),
    /// It runs beyond the pool's size, without a slot.
    Overflow,
}

impl SlotKind {
    pub(crate) fn for_quota(quota: Option<usize>) -> Self {
        quota.map_or(Self::Plain, Self::Quota)
    }

    pub(crate) fn quota(self) -> Option<usize> {
        match self {
            Self::Quota(quota) => Some(quota),
            Self::Plain | Self::Overflow => None,
        }
    }

    fn pack(self) -> u32 {
        match self {
            Self::Plain => 0,
            Self::Overflow => 1,
            Self::Quota(quota) => quota as u32 + 2,
        }
    }

    fn unpack(packed: u32) -> Self {
        match packed {
            0 => Self::Plain,
            1 => Self::Overflow,
            quota => Self::Quota(quota as usize - 2),
        }
    }
}

/// Shown the panic of a job.
type PanicVisitor<'a> = &'a mut dyn FnMut(&JobPanic);

struct VTable {
    poll: unsafe fn(NonNull<Header>, &mut Context<'_>) -> Step,
    cancel: unsafe fn(NonNull<Header>) -> End,
    publish: unsafe fn(NonNull<Header>),
    join_waker: unsafe fn(NonNull<Header>) -> *const UnsafeCell<Option<Waker>>,
    panic: unsafe fn(NonNull<Header>, PanicVisitor<'_>),
    /// Moves the outcome to the `Option<Result<T, JobError>>` behind the pointer.
    take: unsafe fn(NonNull<Header>, *mut ()),
    free: unsafe fn(NonNull<Header>),
    /// Somebody is told of the job's end, even if no handle is left.
    has_observer: bool,
}

// `repr(C)` puts the header first, so that a pointer to it is a pointer to the cell.
#[repr(C)]
struct Cell<F: Future, S> {
    header: Header,
    join_waker: UnsafeCell<Option<Waker>>,
    span: JobSpan,
    stage: UnsafeCell<Stage<F>>,
    sink: UnsafeCell<Option<S>>,
}

enum Stage<F: Future> {
    Job(F),
    Ended(Result<F::Output, JobError>),
    Taken,
}

impl<F, S> Cell<F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: OutputSink<F::Output>,
{
    const VTABLE: VTable = VTable {
        poll: Self::poll,
        cancel: Self::cancel,
        publish: Self::publish,
        join_waker: Self::join_waker,
        panic: Self::panic,
        take: Self::take,
        free: Self::free,
        has_observer: S::DROPPED_AT_END,
    };

    /// # Safety
    ///
    /// The caller holds the token and the job is `RUNNING`.
    unsafe fn poll(ptr: NonNull<Header>, cx: &mut Context<'_>) -> Step {
        // SAFETY: `ptr` was made by `allocate_job` for this very type, and a reference is counted.
        let cell = unsafe { ptr.cast::<Self>().as_ref() };
        let outcome = cell.stage.with_mut(|stage| {
            // SAFETY: the token's holder has `stage` to itself until `COMPLETE`.
            let Stage::Job(job) = (unsafe { &mut *stage }) else {
                unreachable!("polled after its end")
            };
            // SAFETY: the future stays where it is until it is dropped in place in `end`.
            let job = unsafe { Pin::new_unchecked(job) };
            match catch_unwind(AssertUnwindSafe(|| cell.span.in_scope(|| job.poll(cx)))) {
                Ok(Poll::Pending) => None,
                Ok(Poll::Ready(value)) => Some(Ok(value)),
                Err(payload) => Some(Err(JobError::panicked(payload))),
            }
        });
        match outcome {
            None => Step::Pending,
            // SAFETY: passed on.
            Some(outcome) => Step::Ended(unsafe { cell.end(outcome) }),
        }
    }

    /// # Safety
    ///
    /// The caller holds the token and the job has not ended.
    unsafe fn cancel(ptr: NonNull<Header>) -> End {
        // SAFETY: as in `poll`.
        let cell = unsafe { ptr.cast::<Self>().as_ref() };
        // SAFETY: passed on.
        unsafe { cell.end(Err(JobError::Cancelled)) }
    }

    /// Drops the future where it stands and puts the outcome in its place.
    ///
    /// # Safety
    ///
    /// The caller holds the token and `stage` is `Job`.
    unsafe fn end(&self, outcome: Result<F::Output, JobError>) -> End {
        self.stage.with_mut(|stage| {
            // SAFETY: the token's holder has `stage` to itself.
            let Stage::Job(job) = (unsafe { &mut *stage }) else { unreachable!("ended twice") };
            let job: *mut F = job;
            // SAFETY: `job` is valid, pinned, and overwritten below without being dropped again.
            let dropped = catch_unwind(AssertUnwindSafe(|| {
                self.span.in_scope(|| unsafe { ptr::drop_in_place(job) })
            }));
            let outcome = match dropped {
                Ok(()) => outcome,
                Err(payload) => {
                    catch_panic(|| drop(outcome));
                    Err(JobError::panicked(payload))
                }
            };
            let end = match &outcome {
                Ok(_) => End::Completed,
                Err(JobError::Cancelled) => End::Cancelled,
                Err(JobError::Panicked(_)) => End::Panicked,
            };
            // SAFETY: the old content was dropped above, so it must not be dropped by `=`.
            unsafe { ptr::write(stage, Stage::Ended(outcome)) };
            end
        })
    }

    /// Lets the outcome be seen.
    ///
    /// # Safety
    ///
    /// The caller holds the token, `stage` is `Ended`, and it gives both up by this call.
    unsafe fn publish(ptr: NonNull<Header>) {
        // SAFETY: as in `poll`.
        let cell = unsafe { ptr.cast::<Self>().as_ref() };
        if S::DROPPED_AT_END {
            // SAFETY: the token's holder has `sink` and `stage` to itself until `COMPLETE`.
            let sink = cell.sink.with_mut(|sink| unsafe { (*sink).take() });
            if S::PUSHES {
                let stage =
                    cell.stage.with_mut(|stage| unsafe { ptr::replace(stage, Stage::Taken) });
                if let (Some(sink), Stage::Ended(outcome)) = (sink, stage) {
                    catch_panic(|| sink.push_output(outcome));
                }
            } else {
                catch_panic(|| drop(sink));
            }
        }
        // Without another reference there is nobody to see it.
        let alone = !S::DROPPED_AT_END && cell.header.refs.load(Acquire) == 1;
        if !alone && cell.header.state.fetch_or(COMPLETE, AcqRel) & JOIN_WAKER != 0 {
            // SAFETY: with both bits set nobody writes the waker any more.
            cell.join_waker
                .with(|waker| catch_panic(|| unsafe { (*waker).as_ref().map(Waker::wake_by_ref) }));
        }
    }

    unsafe fn join_waker(ptr: NonNull<Header>) -> *const UnsafeCell<Option<Waker>> {
        // SAFETY: as in `poll`; the field is projected without touching the others.
        unsafe { &raw const (*ptr.cast::<Self>().as_ptr()).join_waker }
    }

    /// # Safety
    ///
    /// The caller holds the token.
    unsafe fn panic(ptr: NonNull<Header>, visit: PanicVisitor<'_>) {
        // SAFETY: as in `poll`.
        let cell = unsafe { ptr.cast::<Self>().as_ref() };
        // SAFETY: the token's holder has `stage` to itself until `COMPLETE`.
        cell.stage.with(|stage| {
            if let Stage::Ended(Err(JobError::Panicked(panic))) = unsafe { &*stage } {
                visit(panic);
            }
        });
    }

    /// # Safety
    ///
    /// The job is `COMPLETE`, the caller is its one handle, and `out` is an
    /// `Option<Result<F::Output, JobError>>`.
    unsafe fn take(ptr: NonNull<Header>, out: *mut ()) {
        // SAFETY: as in `poll`.
        let cell = unsafe { ptr.cast::<Self>().as_ref() };
        // SAFETY: after `COMPLETE` the handle has `stage` to itself.
        let stage = cell.stage.with_mut(|stage| unsafe { ptr::replace(stage, Stage::Taken) });
        if let Stage::Ended(outcome) = stage {
            // SAFETY: by the contract above.
            unsafe { *out.cast::<Option<Result<F::Output, JobError>>>() = Some(outcome) };
        }
    }

    /// # Safety
    ///
    /// Nobody else holds a reference.
    unsafe fn free(ptr: NonNull<Header>) {
        let cell = ptr.cast::<Self>();
        // An output nobody took is dropped here, and its drop may panic.
        // SAFETY: the cell is initialized, and with the last reference it is ours.
        catch_panic(|| unsafe { cell.drop_in_place() });
        // SAFETY: `allocate_job` allocated it for this very type.
        unsafe { alloc_cache::release(cell) };
    }
}
