//! The storage of a job: one allocation with everything of the job, and its table of functions.
//!
//! [`Cell`] owns the future or output, the sink and the [`Header`] with the [`Meta`]. The type of the
//! header does not depend on the job, so every reference is a thin pointer to a header.
//! `new.rs` allocates cells. `refs.rs` and `join.rs` call the functions of [`VTable`], which know the
//! job's type. No lock protects a cell: each access cites the invariant of `mod.rs` that permits it.
//! A panic of user code must never leave a function of the table: workers call them between jobs.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crate::error::{JobError, JobPanic};
use crate::panic::{catch_panic, drop_caught};
use crate::pool::context::PoolId;
use crate::pool::job::history::NO_KEY;
use crate::pool::job::meta::Meta;
use crate::pool::job::refs::RawJob;
use crate::pool::job::state::{SlotHold, State};
use crate::pool::job::{End, JobScheduler, OutputSink, Step, alloc_cache};
use crate::sync::UnsafeCell;
use crate::sync::atomic::AtomicU32;
use crate::sync::atomic::Ordering::Acquire;
use crate::sync::failpoint;
use crate::trace::Place;

/// The bit of `Header::refs` for the join handle, which keeps the cell alive like a reference. No
/// other reference can take the output.
pub(super) const JOIN: u32 = 1;
/// One reference in `Header::refs` that is not the join handle.
pub(super) const REF: u32 = 2;

/// The part of a cell that is the same for all jobs.
pub(super) struct Header {
    /// The functions of this cell's type (S7).
    pub(super) vtable: &'static VTable,
    pub(super) state: State,
    /// How many references keep the cell alive, in units of `REF`, and the bit `JOIN` (S6, S10).
    pub(super) refs: AtomicU32,
    /// The packed `SlotKind`: written when the job is admitted, by the token's holder (S2). The top
    /// bits are marks of `refs`.
    pub(super) slot_kind: AtomicU32,
    /// The pool that the job was submitted to. Never written again.
    pub(super) pool: PoolId,
    /// The scheduler that wakers and aborts call (S5).
    pub(super) scheduler: UnsafeCell<Option<Arc<dyn JobScheduler>>>,
    /// The handshake with the slot guard, if the job has one (S2).
    pub(super) slot_hold: UnsafeCell<Option<Arc<SlotHold>>>,
    /// The waker of the join handle (S4).
    pub(super) join_waker: UnsafeCell<Option<Waker>>,
    /// The job's key in the wait list: a hint for `JobScheduler::withdraw`, which checks it. Without a key,
    /// a part of the job's history.
    pub(super) waiter_key: AtomicU32,
    /// The job's key in its scheduler's slab of suspended jobs (S2). Without a key, a part of the job's
    /// history.
    pub(super) suspended_key: AtomicU32,
    pub(super) meta: Meta,
}

/// A function that is shown the panic of a job, and where the job was submitted.
pub(super) type PanicVisitor<'a> = &'a mut dyn FnMut(&JobPanic, Place);

/// The functions of a [`Cell`], for callers that do not know its type.
///
/// The pointer must be the header of a live cell with this table (S6, S7). The functions of `Cell`
/// tell what else each one requires.
pub(super) struct VTable {
    pub(super) poll: unsafe fn(NonNull<Header>, &mut Context<'_>) -> Step,
    pub(super) cancel: unsafe fn(NonNull<Header>) -> End,
    pub(super) visit_panic: unsafe fn(NonNull<Header>, PanicVisitor<'_>),
    pub(super) mark_expired: unsafe fn(NonNull<Header>),
    pub(super) discard: unsafe fn(NonNull<Header>),
    pub(super) give_back: unsafe fn(NonNull<Header>),
    pub(super) publish: unsafe fn(NonNull<Header>),
    /// The second pointer is to an `Option<Result<F::Output, JobError>>`.
    pub(super) take_output: unsafe fn(NonNull<Header>, *mut ()),
    pub(super) free: unsafe fn(NonNull<Header>),
    /// Whether the sink sees the job's end, even if no other reference is left.
    pub(super) has_observer: bool,
}

/// A job in memory.
// `repr(C)` puts the header first, so that a pointer to the header is a pointer to the cell (S7).
#[repr(C)]
pub(super) struct Cell<F: Future, S> {
    pub(super) header: Header,
    stage: UnsafeCell<Stage<F>>,
    sink: UnsafeCell<Option<S>>,
}

impl Header {
    /// Shows a panic, inside the job's span.
    fn show_panic(&self, panic: &JobPanic, visit: PanicVisitor<'_>) {
        // A subscriber may panic as it enters the span (S9).
        catch_panic(|| self.meta.in_scope(|| visit(panic, self.meta.place())));
    }

    /// Wakes the join handle.
    ///
    /// # Safety
    ///
    /// The job is complete, and `State::complete` found `JOIN_WAKER`.
    #[inline]
    unsafe fn wake_join(&self) {
        self.join_waker.with(|waker| {
            // SAFETY: from `complete` on, both sides only read (S4).
            catch_panic(|| unsafe { (*waker).as_ref().map(Waker::wake_by_ref) })
        });
    }
}

// These do not depend on the future, so there is one of each for all jobs with an output of one type.

fn withdraw<T, S: OutputSink<T>>(sink: S) {
    catch_panic(|| sink.withdraw());
}

fn push_output<T, S: OutputSink<T>>(sink: S, output: Result<T, JobError>) {
    catch_panic(|| sink.push_output(output));
}

/// What a job is at the moment (S2, S3).
enum Stage<F: Future> {
    Future(F),
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
        visit_panic: Self::visit_panic,
        mark_expired: Self::mark_expired,
        discard: Self::discard,
        give_back: Self::give_back,
        publish: Self::publish,
        take_output: Self::take_output,
        free: Self::free,
        has_observer: S::DROPPED_AT_END,
    };

    /// Moves a future into a new cell. The caller owns two references: the token and the join handle.
    #[inline]
    pub(super) fn allocate(future: F, meta: Meta, pool: PoolId) -> NonNull<Header> {
        let cell = alloc_cache::allocate::<Self>();
        let raw = cell.as_ptr();
        // The fields are written one by one: a cell that is built on the stack and moved costs twice
        // as much.
        // SAFETY: the memory is valid for a `Self` and not shared yet (S8). Every field is written.
        unsafe {
            (&raw mut (*raw).header).write(Header {
                vtable: const { &Self::VTABLE },
                state: State::new(),
                // A sink that pushes leaves nothing to take: that handle is a plain reference.
                refs: AtomicU32::new(REF + if S::PUSHES { REF } else { JOIN }),
                slot_kind: AtomicU32::new(0),
                pool,
                waiter_key: AtomicU32::new(NO_KEY),
                suspended_key: AtomicU32::new(NO_KEY),
                scheduler: UnsafeCell::new(None),
                slot_hold: UnsafeCell::new(None),
                join_waker: UnsafeCell::new(None),
                meta,
            });
            (&raw mut (*raw).stage).write(UnsafeCell::new(Stage::Future(future)));
            (&raw mut (*raw).sink).write(UnsafeCell::new(None));
        }
        cell.cast()
    }

    /// # Safety
    ///
    /// `header` is the header of a live cell of this type (S6, S7).
    #[inline]
    pub(super) unsafe fn from_header<'a>(header: NonNull<Header>) -> &'a Self {
        // SAFETY: the caller vouches for the type (S7) and for the life of the cell (S6).
        unsafe { header.cast::<Self>().as_ref() }
    }

    /// Gives the job the sink of its output.
    ///
    /// # Safety
    ///
    /// The caller holds the token, and the job is not complete.
    #[inline]
    pub(super) unsafe fn set_sink(&self, sink: S) {
        // SAFETY: `sink` belongs to the token's holder (S2).
        self.sink.with_mut(|place| unsafe { *place = Some(sink) });
    }

    /// Takes the future out again.
    ///
    /// # Safety
    ///
    /// The caller holds the token, or the join handle of a complete job. The job was never polled.
    pub(super) unsafe fn take_future(&self) -> F {
        // SAFETY: `stage` belongs to the caller (S2), and no poll has pinned the future (S3).
        match unsafe { self.take_stage() } {
            Stage::Future(future) => future,
            Stage::Ended(_) | Stage::Taken => unreachable!("the future is taken out once"),
        }
    }

    /// Polls the future once, and drops it if that poll ended the job.
    ///
    /// # Safety
    ///
    /// The caller holds the token, the job has not ended, and this thread started the poll.
    unsafe fn poll(ptr: NonNull<Header>, cx: &mut Context<'_>) -> Step {
        // SAFETY: the table's callers pass the header of a live cell of this type (S6, S7).
        let cell = unsafe { Self::from_header(ptr) };
        if !cell.header.meta.is_plain() {
            // SAFETY: the caller's contract is the same (S1, S2).
            return unsafe { cell.poll_timed(cx) };
        }
        // SAFETY: the caller's contract is the same (S1, S2).
        unsafe { cell.poll_future(cx) }
    }

    /// Polls a job that may have a deadline.
    ///
    /// # Safety
    ///
    /// That of [`poll`](Self::poll).
    #[cold]
    unsafe fn poll_timed(&self, cx: &mut Context<'_>) -> Step {
        // SAFETY: the caller holds the token (S2), and a job that has not ended is a future.
        let expire =
            || self.stage.with_mut(|stage| unsafe { self.end(stage, Err(JobError::Expired)) });
        if self.header.meta.is_late_to_start() {
            return Step::Ended(expire());
        }
        // SAFETY: the caller's contract is the same (S1, S2).
        let step = unsafe { self.poll_future(cx) };
        if step != Step::Pending {
            self.header.meta.drop_timer();
            return step;
        }
        if !self.header.meta.poll_expired(cx) {
            return Step::Pending;
        }
        if self.header.state.load().is_abort_deferred() {
            // The end of the last deferral schedules the job, which is then cancelled as expired.
            let _ = RawJob(NonNull::from(&self.header)).request_abort();
            return Step::Pending;
        }
        Step::Ended(expire())
    }

    /// Polls the future once, and drops it if that poll ended the job.
    ///
    /// # Safety
    ///
    /// That of [`poll`](Self::poll).
    #[inline(always)]
    unsafe fn poll_future(&self, cx: &mut Context<'_>) -> Step {
        self.stage.with_mut(|stage| {
            // SAFETY: `stage` belongs to the token's holder (S2).
            let Stage::Future(future) = (unsafe { &mut *stage }) else {
                unreachable!("polled after its end")
            };
            let future: *mut F = future;
            let mut output = None;
            let polled = catch_unwind(AssertUnwindSafe(|| {
                self.header.meta.in_scope(|| {
                    // SAFETY: the future stays in place until it is dropped there (S3).
                    let pinned = unsafe { Pin::new_unchecked(&mut *future) };
                    let Poll::Ready(value) = pinned.poll(cx) else { return };
                    output = Some(Ok(value));
                    // SAFETY: the future is valid and pinned here (S3), and `finish` replaces it
                    // without a second drop.
                    unsafe { ptr::drop_in_place(future) };
                })
            }));
            match (polled, output) {
                (Ok(()), None) => Step::Pending,
                // SAFETY: the caller holds the token (S2), and the future was dropped above.
                (Ok(()), Some(output)) => Step::Ended(unsafe { self.finish(stage, output) }),
                (Err(payload), None) => {
                    // SAFETY: the caller holds the token (S2), and `stage` is still the future.
                    Step::Ended(unsafe { self.end(stage, Err(JobError::panicked(payload))) })
                }
                (Err(payload), Some(output)) => {
                    drop_caught(output);
                    // SAFETY: the caller holds the token (S2); a drop that panicked is not repeated.
                    Step::Ended(unsafe { self.finish(stage, Err(JobError::panicked(payload))) })
                }
            }
        })
    }

    /// Drops the future of a job that is to be cancelled.
    ///
    /// # Safety
    ///
    /// The caller holds the token, and the job has not ended.
    unsafe fn cancel(ptr: NonNull<Header>) -> End {
        // SAFETY: the table's callers pass the header of a live cell of this type (S6, S7).
        let cell = unsafe { Self::from_header(ptr) };
        let error =
            if cell.header.meta.is_expired() { JobError::Expired } else { JobError::Cancelled };
        // SAFETY: the caller holds the token (S2), and a job that has not ended is a future.
        cell.stage.with_mut(|stage| unsafe { cell.end(stage, Err(error)) })
    }

    /// Notes that the job is about to be cancelled because its deadline has passed.
    ///
    /// # Safety
    ///
    /// The caller holds the token, and the job has not ended.
    unsafe fn mark_expired(ptr: NonNull<Header>) {
        // SAFETY: the table's callers pass the header of a live cell of this type (S6, S7).
        unsafe { Self::from_header(ptr) }.header.meta.mark_expired();
    }

    /// Drops the future in place and puts the output there. A panic of that drop becomes the output.
    ///
    /// # Safety
    ///
    /// The caller holds the token, and `stage` is this cell's, and `Future`.
    #[cold]
    unsafe fn end(&self, stage: *mut Stage<F>, output: Result<F::Output, JobError>) -> End {
        // SAFETY: `stage` belongs to the token's holder (S2).
        let Stage::Future(future) = (unsafe { &mut *stage }) else { unreachable!("ended twice") };
        let future: *mut F = future;
        self.header.meta.drop_timer();
        let dropped = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the future is valid and pinned here (S3); `finish` replaces it without a
            // second drop.
            self.header.meta.in_scope(|| unsafe { ptr::drop_in_place(future) })
        }));
        let output = match dropped {
            Ok(()) => output,
            Err(payload) => {
                drop_caught(output);
                Err(JobError::panicked(payload))
            }
        };
        // SAFETY: the caller holds the token (S2), and the future was dropped above.
        unsafe { self.finish(stage, output) }
    }

    /// Ends a job that was never polled, whose future needs no drop.
    ///
    /// # Safety
    ///
    /// The caller holds the token, and the job has not ended.
    pub(super) unsafe fn finish_unpolled(&self, output: Result<F::Output, JobError>) {
        // SAFETY: the caller vouches for the token (S2) and for the future.
        self.stage.with_mut(|stage| unsafe { self.finish(stage, output) });
    }

    /// Puts the output in the place of a future that was dropped there.
    ///
    /// # Safety
    ///
    /// The caller holds the token, `stage` is this cell's, and its future was dropped in place.
    #[inline]
    unsafe fn finish(&self, stage: *mut Stage<F>, output: Result<F::Output, JobError>) -> End {
        if S::INSPECTS {
            self.sink.with_mut(|sink| {
                // SAFETY: `sink` belongs to the token's holder (S2).
                if let Some(sink) = unsafe { (*sink).as_mut() } {
                    catch_panic(|| sink.inspect(&output));
                }
            });
        }
        let end = match &output {
            Ok(_) => End::Completed,
            Err(JobError::Cancelled) => End::Cancelled,
            Err(JobError::Expired) => End::Expired,
            Err(JobError::Panicked(_)) => End::Panicked,
        };
        // SAFETY: `stage` is still ours (S2). Its old content was dropped by the caller, so `=` must
        // not drop that again.
        unsafe { ptr::write(stage, Stage::Ended(output)) };
        end
    }

    /// Shows the panic that ended the job, if one did. The visitor runs inside the job's span.
    ///
    /// # Safety
    ///
    /// The caller holds the token, and the job is not complete.
    unsafe fn visit_panic(ptr: NonNull<Header>, visit: PanicVisitor<'_>) {
        // SAFETY: the table's callers pass the header of a live cell of this type (S6, S7).
        let cell = unsafe { Self::from_header(ptr) };
        cell.stage.with(|stage| {
            // SAFETY: `stage` belongs to the token's holder (S2).
            if let Stage::Ended(Err(JobError::Panicked(panic))) = unsafe { &*stage } {
                cell.header.show_panic(panic, visit);
            }
        });
    }

    /// Tells the sink that the job was never submitted.
    ///
    /// # Safety
    ///
    /// The caller holds the token and gives it up. The job was never polled.
    unsafe fn discard(ptr: NonNull<Header>) {
        // SAFETY: the table's callers pass the header of a live cell of this type (S6, S7).
        let cell = unsafe { Self::from_header(ptr) };
        // SAFETY: `sink` belongs to the token's holder (S2).
        if let Some(sink) = cell.sink.with_mut(|sink| unsafe { (*sink).take() }) {
            withdraw(sink);
        }
    }

    /// Tells the sink that the job was never submitted, and leaves the future to the join handle.
    ///
    /// # Safety
    ///
    /// The caller holds the token and gives it up. The job was never polled.
    unsafe fn give_back(ptr: NonNull<Header>) {
        // SAFETY: the caller's contract is the same (S2, S6, S7).
        unsafe { Self::discard(ptr) };
        // SAFETY: the table's callers pass the header of a live cell of this type (S6, S7), and the
        // caller gives up `stage`.
        unsafe { Self::from_header(ptr).complete() }
    }

    /// Passes the output on: to the sink if that pushes, otherwise to the join handle.
    ///
    /// # Safety
    ///
    /// The caller holds the token, `stage` is `Ended`, and the caller gives up both.
    unsafe fn publish(ptr: NonNull<Header>) {
        // SAFETY: the table's callers pass the header of a live cell of this type (S6, S7).
        let cell = unsafe { Self::from_header(ptr) };
        if S::DROPPED_AT_END {
            // SAFETY: `sink` belongs to the token's holder (S2).
            let sink = cell.sink.with_mut(|sink| unsafe { (*sink).take() });
            if S::PUSHES {
                // SAFETY: `stage` belongs to the token's holder (S2).
                let stage = unsafe { cell.take_stage() };
                // `COMPLETE` comes first: a waiter of the group must find each ticket finished.
                let is_late = failpoint("a ticket ends after its group");
                if !is_late {
                    // SAFETY: the caller has the right to `stage`, and gives it up (S2).
                    unsafe { cell.complete() };
                }
                if let (Some(sink), Stage::Ended(output)) = (sink, stage) {
                    push_output(sink, output);
                }
                if is_late {
                    // SAFETY: the caller has the right to `stage`, and gives it up (S2).
                    unsafe { cell.complete() };
                }
                return;
            }
            drop_caught(sink);
        }
        // The acquire pairs with the release of `RawJob::drop_ref`.
        let refs = cell.header.refs.load(Acquire);
        // A token that is the last reference has no reader to publish to, and `free` comes next.
        if !S::DROPPED_AT_END && refs == REF {
            return;
        }
        if refs & JOIN == 0 {
            // No reader of the output is left, but an abort handle or a waker keeps the cell (S10).
            // SAFETY: `stage` belongs to the token's holder (S2).
            unsafe { cell.drop_output() };
        }
        // SAFETY: the caller has the right to `stage`, and gives it up (S2).
        unsafe { cell.complete() }
    }

    /// Sets `COMPLETE`, and wakes the join handle.
    ///
    /// # Safety
    ///
    /// `stage` belongs to the caller, and the caller gives `stage` up.
    #[inline]
    unsafe fn complete(&self) {
        let before = self.header.state.complete();
        if before.is_join_dropped() {
            // SAFETY: the join handle left `stage` to the completing thread (S10).
            unsafe { self.drop_output() };
        }
        if before.has_join_waker() {
            // SAFETY: `complete` found `JOIN_WAKER`.
            unsafe { self.header.wake_join() };
        }
    }

    /// Drops the output in the cell, if it is still there.
    ///
    /// # Safety
    ///
    /// `stage` belongs to the caller, and no poll has pinned the future if it is `Future`.
    unsafe fn drop_output(&self) {
        // The output is dropped outside of the cell: its destructor may look at the job.
        // SAFETY: the caller vouches for the right to `stage` (S2).
        drop_caught(unsafe { self.take_stage() });
    }

    /// Moves what the job is out of the cell.
    ///
    /// # Safety
    ///
    /// `stage` belongs to the caller, and no poll has pinned the future if it is `Future`.
    #[inline]
    unsafe fn take_stage(&self) -> Stage<F> {
        // SAFETY: the caller vouches for the right to `stage` (S2).
        self.stage.with_mut(|stage| unsafe { ptr::replace(stage, Stage::Taken) })
    }

    /// Moves the output out of the cell, if it is still there.
    ///
    /// # Safety
    ///
    /// The job is complete, the caller has its join handle, and `out` is a valid pointer to an
    /// `Option<Result<F::Output, JobError>>`.
    unsafe fn take_output(ptr: NonNull<Header>, out: *mut ()) {
        // SAFETY: the table's callers pass the header of a live cell of this type (S6, S7).
        let cell = unsafe { Self::from_header(ptr) };
        // SAFETY: after `COMPLETE`, `stage` belongs to the join handle (S2).
        match unsafe { cell.take_stage() } {
            // SAFETY: the caller vouches for `out`, which has this cell's type of output (S7).
            Stage::Ended(output) => unsafe {
                *out.cast::<Option<Result<F::Output, JobError>>>() = Some(output)
            },
            // The future of a refused job, which its submitter did not take.
            stage => drop_caught(stage),
        }
    }

    /// Drops what is left in the cell, and returns its memory.
    ///
    /// # Safety
    ///
    /// The caller gave up the last reference.
    unsafe fn free(ptr: NonNull<Header>) {
        let cell = ptr.cast::<Self>();
        // An output that no handle took is dropped here, and that drop may panic.
        // SAFETY: the cell is initialized, and without a reference no other access is left (S6, S7).
        catch_panic(|| unsafe { cell.drop_in_place() });
        // SAFETY: `allocate` took the memory for this very type, and its content is dropped (S8).
        unsafe { alloc_cache::release(cell) };
    }
}
