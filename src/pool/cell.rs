//! The storage of one job: future, waker, result and handle state in one allocation.
//!
//! This is the crate's only unsafe module. What it must get right:
//!
//! * **One token.** A [`JobRef`] is the pool's single right to run, suspend or end a job. It is
//!   not `Clone`. While a job is suspended the token rests in the state word, and whoever moves
//!   the word from idle to `SCHEDULED` takes it out again. Everything in `stage` belongs to the
//!   token's holder until `DONE` is set, and to the one handle from then on.
//! * **Counted references.** `refs` counts the token, the handle, abort handles and wakers. The
//!   allocation goes when the last one does, never earlier.
//! * **User code is fenced.** Polls and drops of the future, drops of its output and wakes of
//!   foreign wakers may panic; each is caught here and costs the job alone.
//!
//! States of the word, apart from the flags:
//!
//! ```text
//!            start            begin            suspend
//!   LINE ───────────▶ SCHEDULED ─────▶ RUNNING ───────▶ (idle: neither bit)
//!                        ▲                │ end              │
//!                        │                ▼                  │ wake / abort
//!                        │              DONE                 │
//!                        └──────────────────────────────────┘
//! ```
//!
//! A wake of a running job sets `SCHEDULED` beside `RUNNING`; `suspend` then finds it and the
//! job goes straight back to the queue.

use std::future::Future;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

use crate::error::{JobError, Panic};
use crate::observe::JobSpan;
use crate::pool::effects::fenced;
use crate::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use crate::sync::atomic::{AtomicPtr, AtomicU32, fence};
use crate::sync::UnsafeCell;

/// In the run queue, or woken while running.
const SCHEDULED: u32 = 1;
/// A worker polls it.
const RUNNING: u32 = 1 << 1;
/// Ended; the outcome is in place.
const DONE: u32 = 1 << 2;
/// Somebody asked for its end.
const ABORT: u32 = 1 << 3;
/// Stands in a waiting line, where it can be withdrawn.
const LINE: u32 = 1 << 4;
/// The handle left a waker in `awaiter`, which is the ender's to read while this is set, and the
/// handle's to write while it is not.
const AWAITED: u32 = 1 << 5;

/// The rest of the word counts what cannot be stopped in the job: an abort waits until it is over.
const SHIELD: u32 = 1 << 6;
const SHIELDED: u32 = !(SHIELD - 1);

/// The seat or ticket of a job that has none.
const NOWHERE: u32 = u32::MAX;

/// Where suspended and waiting jobs belong: what a waker or an abort has to call.
pub(crate) trait Home: Send + Sync {
    /// Takes back a suspended job that was woken or is to be aborted.
    fn resume(&self, job: JobRef);

    /// Takes the job that stands in line under `ticket` out of it and cancels it. `false` if it
    /// does not stand there any more.
    fn withdraw(&self, job: JobPtr, ticket: usize) -> bool;

    /// Has `waker` woken when the job that stands in line under `ticket` leaves it. `false` if it
    /// does not stand there any more.
    fn await_start(&self, job: JobPtr, ticket: usize, waker: &Waker) -> bool;
}

/// Who receives the outcome of a job.
pub(crate) trait Sink<T>: Send + 'static {
    /// Whether the outcome goes to [`deliver`](Self::deliver) instead of waiting for a handle.
    const DELIVERS: bool;

    /// What the submitter gets.
    type Handle;

    /// The quota the job is held to.
    fn quota(&self) -> Option<usize> {
        None
    }

    /// The job was admitted and is about to run: in the pool if there is something to watch, else
    /// in its caller.
    fn enlist(&mut self, _watch: Option<&JobWatch>) {}

    /// The handle of a job that was admitted.
    fn handle(claim: Claim<T>) -> Self::Handle;

    /// The handle of a job that ran in its caller.
    fn inline(self, outcome: Result<T, JobError>) -> Self::Handle;

    fn deliver(self, outcome: Result<T, JobError>);
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
    /// [`Terms`], packed; fixed when the job is admitted.
    terms: AtomicU32,
    /// Written once, by the token's holder, before the job is first idle or in line; read by
    /// whoever finds it so.
    home: UnsafeCell<Option<Arc<dyn Home>>>,
    /// The job's ticket in its home's waiting line: a hint for `withdraw`, which checks it.
    ticket: AtomicU32,
    /// The job's seat among its home's suspended jobs. Only the token's holder uses it.
    seat: AtomicU32,
}

/// On what terms a job was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terms {
    /// It holds a slot.
    Slot,
    /// It holds a slot and a part of this quota.
    Share(usize),
    /// It runs beyond the pool's size, without a slot.
    Overflow,
}

impl Terms {
    pub(crate) fn slot(quota: Option<usize>) -> Self {
        quota.map_or(Self::Slot, Self::Share)
    }

    pub(crate) fn quota(self) -> Option<usize> {
        match self {
            Self::Share(quota) => Some(quota),
            Self::Slot | Self::Overflow => None,
        }
    }

    fn pack(self) -> u32 {
        match self {
            Self::Slot => 0,
            Self::Overflow => 1,
            Self::Share(quota) => quota as u32 + 2,
        }
    }

    fn unpack(packed: u32) -> Self {
        match packed {
            0 => Self::Slot,
            1 => Self::Overflow,
            quota => Self::Share(quota as usize - 2),
        }
    }
}

struct VTable {
    poll: unsafe fn(NonNull<Header>, &mut Context<'_>) -> Step,
    cancel: unsafe fn(NonNull<Header>) -> End,
    publish: unsafe fn(NonNull<Header>),
    awaiter: unsafe fn(NonNull<Header>) -> *const UnsafeCell<Option<Waker>>,
    panic: unsafe fn(NonNull<Header>, &mut dyn FnMut(&Panic)),
    /// Moves the outcome to the `Option<Result<T, JobError>>` behind the pointer.
    take: unsafe fn(NonNull<Header>, *mut ()),
    free: unsafe fn(NonNull<Header>),
    delivers: bool,
}

// `repr(C)` puts the header first, so that a pointer to it is a pointer to the cell.
#[repr(C)]
struct Cell<F: Future, S> {
    header: Header,
    awaiter: UnsafeCell<Option<Waker>>,
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
    S: Sink<F::Output>,
{
    const VTABLE: VTable = VTable {
        poll: Self::poll,
        cancel: Self::cancel,
        publish: Self::publish,
        awaiter: Self::awaiter,
        panic: Self::panic,
        take: Self::take,
        free: Self::free,
        delivers: S::DELIVERS,
    };

    /// # Safety
    ///
    /// The caller holds the token and the job is `RUNNING`.
    unsafe fn poll(ptr: NonNull<Header>, cx: &mut Context<'_>) -> Step {
        // SAFETY: `ptr` was made by `allocate` for this very type, and a reference is counted.
        let cell = unsafe { ptr.cast::<Self>().as_ref() };
        let outcome = cell.stage.with_mut(|stage| {
            // SAFETY: the token's holder has `stage` to itself until `DONE`.
            let Stage::Job(job) = (unsafe { &mut *stage }) else { unreachable!("polled after its end") };
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
                    fenced(|| drop(outcome));
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
        if S::DELIVERS {
            // SAFETY: the token's holder has `sink` and `stage` to itself until `DONE`.
            let sink = cell.sink.with_mut(|sink| unsafe { (*sink).take() });
            let stage = cell.stage.with_mut(|stage| unsafe { ptr::replace(stage, Stage::Taken) });
            if let (Some(sink), Stage::Ended(outcome)) = (sink, stage) {
                sink.deliver(outcome);
            }
        }
        // Without another reference there is nobody to see it.
        let alone = !S::DELIVERS && cell.header.refs.load(Acquire) == 1;
        if !alone && cell.header.state.fetch_or(DONE, AcqRel) & AWAITED != 0 {
            // SAFETY: with both bits set nobody writes the waker any more.
            cell.awaiter.with(|waker| fenced(|| unsafe { (*waker).as_ref().map(Waker::wake_by_ref) }));
        }
    }

    unsafe fn awaiter(ptr: NonNull<Header>) -> *const UnsafeCell<Option<Waker>> {
        // SAFETY: as in `poll`; the field is projected without touching the others.
        unsafe { &raw const (*ptr.cast::<Self>().as_ptr()).awaiter }
    }

    /// # Safety
    ///
    /// The caller holds the token.
    unsafe fn panic(ptr: NonNull<Header>, look: &mut dyn FnMut(&Panic)) {
        // SAFETY: as in `poll`.
        let cell = unsafe { ptr.cast::<Self>().as_ref() };
        // SAFETY: the token's holder has `stage` to itself until `DONE`.
        cell.stage.with(|stage| match unsafe { &*stage } {
            Stage::Ended(Err(JobError::Panicked(panic))) => look(panic),
            _ => {}
        });
    }

    /// # Safety
    ///
    /// The job is `DONE`, the caller is its one handle, and `out` is an
    /// `Option<Result<F::Output, JobError>>`.
    unsafe fn take(ptr: NonNull<Header>, out: *mut ()) {
        // SAFETY: as in `poll`.
        let cell = unsafe { ptr.cast::<Self>().as_ref() };
        // SAFETY: after `DONE` the handle has `stage` to itself.
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
        // SAFETY: `allocate` leaked this very box.
        let cell = unsafe { Box::from_raw(ptr.cast::<Self>().as_ptr()) };
        // An output nobody took is dropped here, and its drop may panic.
        fenced(|| drop(cell));
    }
}

/// A pointer to a job that is known to be alive, without a reference of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JobPtr(NonNull<Header>);

// SAFETY: cells hold `Send` futures, outputs and sinks only (`allocate`), and every field that
// more than one thread reaches is atomic or handed over with the token.
unsafe impl Send for JobPtr {}
// SAFETY: as above.
unsafe impl Sync for JobPtr {}

/// The pool's one token for a job. See the module's head.
#[derive(Debug)]
pub(crate) struct JobRef(JobPtr);

/// A place where one job can be left for whoever takes it first.
#[derive(Debug)]
pub(crate) struct Berth(AtomicPtr<Header>);

impl Berth {
    pub(crate) fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// Leaves a job here. The berth must be empty.
    pub(crate) fn put(&self, job: JobRef) {
        let job = ManuallyDrop::new(job);
        debug_assert!(self.0.load(Relaxed).is_null());
        self.0.store(job.0.0.as_ptr(), Release);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.load(Relaxed).is_null()
    }

    pub(crate) fn take(&self) -> Option<JobRef> {
        // The pointer stands for the token that `put` was given; swapped out, it is ours alone.
        NonNull::new(self.0.swap(ptr::null_mut(), AcqRel)).map(|job| JobRef(JobPtr(job)))
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// A counted reference to a job, for handles: it can ask for the job's end and for its outcome.
#[derive(Debug)]
pub(crate) struct JobWatch(JobPtr);

/// A job in a cell of its own that was not admitted yet, and can still be taken out again.
pub(crate) struct Offered<F: Future, S> {
    job: JobRef,
    claim: Claim<F::Output>,
    types: PhantomData<fn(F, S)>,
}

/// Puts a job into a cell.
#[inline]
pub(crate) fn offer<F, S>(job: F, span: JobSpan) -> Offered<F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: Sink<F::Output>,
{
    let mut cell = Box::<Cell<F, S>>::new_uninit();
    let at = cell.as_mut_ptr();
    // Field by field: built on the stack and moved, a cell costs twice as much.
    // SAFETY: `at` is valid for writes, and every field is written.
    unsafe {
        (&raw mut (*at).header).write(Header {
            vtable: const { &Cell::<F, S>::VTABLE },
            state: AtomicU32::new(SCHEDULED),
            refs: AtomicU32::new(2),
            terms: AtomicU32::new(0),
            ticket: AtomicU32::new(NOWHERE),
            seat: AtomicU32::new(NOWHERE),
            home: UnsafeCell::new(None),
        });
        (&raw mut (*at).awaiter).write(UnsafeCell::new(None));
        (&raw mut (*at).span).write(span);
        (&raw mut (*at).stage).write(UnsafeCell::new(Stage::Job(job)));
        (&raw mut (*at).sink).write(UnsafeCell::new(None));
    }
    // SAFETY: initialized just now.
    let cell = Box::leak(unsafe { cell.assume_init() });
    let ptr = JobPtr(NonNull::from(cell).cast());
    let claim = Claim { watch: JobWatch(ptr), output: PhantomData };
    Offered { job: JobRef(ptr), claim, types: PhantomData }
}

impl<F, S> Offered<F, S>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
    S: Sink<F::Output>,
{
    /// Admits the job: from here on it is the pool's, and the claim its submitter's.
    #[inline]
    pub(crate) fn admit(self, mut sink: S, terms: Terms) -> (JobRef, Claim<F::Output>) {
        sink.enlist(Some(&self.claim.watch));
        if terms != Terms::Slot {
            self.job.0.header().terms.store(terms.pack(), Relaxed);
        }
        if S::DELIVERS {
            // SAFETY: the cell was made for these types by `offer`, and the token is still here.
            let cell = unsafe { self.job.0.0.cast::<Cell<F, S>>().as_ref() };
            // SAFETY: the token's holder has `sink` to itself.
            cell.sink.with_mut(|place| unsafe { *place = Some(sink) });
        }
        (self.job, self.claim)
    }

    /// Takes the job out of the cell again.
    pub(crate) fn take_back(self) -> F {
        // SAFETY: as in `admit`.
        let cell = unsafe { self.job.0.0.cast::<Cell<F, S>>().as_ref() };
        // SAFETY: the token's holder has `stage` to itself, and a job that was never polled is
        // not pinned yet.
        match cell.stage.with_mut(|stage| unsafe { ptr::replace(stage, Stage::Taken) }) {
            Stage::Job(job) => job,
            Stage::Ended(_) | Stage::Taken => unreachable!("an offered job was not run"),
        }
    }
}

impl JobPtr {
    fn header(&self) -> &Header {
        // SAFETY: whoever holds a `JobPtr` keeps a reference counted for as long.
        unsafe { self.0.as_ref() }
    }

    pub(crate) fn terms(self) -> Terms {
        Terms::unpack(self.header().terms.load(Relaxed))
    }

    /// Tells jobs apart while they live.
    pub(crate) fn id(self) -> usize {
        self.0.as_ptr() as usize
    }

    /// Asks for the job's end. Returns the token if the job was suspended, for the caller to
    /// have it cancelled.
    pub(crate) fn request_abort(self) -> Option<JobRef> {
        let before = self.header().state.fetch_or(ABORT | SCHEDULED, AcqRel);
        debug_assert!(before & LINE == 0, "jobs in line are withdrawn instead");
        (before & (SCHEDULED | RUNNING | DONE) == 0).then(|| JobRef(self))
    }

    /// A reference of its own, for a job that is known to be alive now.
    pub(crate) fn watch(self) -> JobWatch {
        self.add_ref();
        JobWatch(self)
    }

    fn add_ref(self) {
        // A new reference is made from one that is counted, so nothing has to be ordered.
        let before = self.header().refs.fetch_add(1, Relaxed);
        if before > i32::MAX as u32 {
            std::process::abort();
        }
    }

    /// Gives one reference up.
    fn drop_ref(self) {
        if self.header().refs.fetch_sub(1, Release) == 1 {
            // Everything the others did with the cell comes before its end.
            fence(Acquire);
            self.free();
        }
    }

    fn free(self) {
        // SAFETY: the last reference is gone.
        unsafe { (self.header().vtable.free)(self.0) }
    }

    /// Moves an idle job back to its home's queue; does nothing in any other state.
    fn wake(self) {
        let before = self.header().state.fetch_or(SCHEDULED, AcqRel);
        if before & (SCHEDULED | RUNNING | DONE) == 0 {
            self.home().resume(JobRef(self));
        }
    }

    /// # Panics
    ///
    /// Panics if the job has no home: it was never idle nor in line.
    fn home(&self) -> &Arc<dyn Home> {
        // SAFETY: written once, before any state in which others come to read it.
        let home = self.header().home.with(|home| unsafe { (*home).as_ref() });
        home.expect("a job that was idle or in line has a home")
    }
}

impl JobRef {
    pub(crate) fn ptr(&self) -> JobPtr {
        self.0
    }

    pub(crate) fn terms(&self) -> Terms {
        self.0.terms()
    }

    /// Polls the job once, or cancels it if that was asked for.
    pub(crate) fn poll(&self) -> Step {
        let header = self.0.header();
        let before = if self.is_sole() && self.seat().is_none() {
            // Nobody else is left who could touch the word, nor does its home know the job yet.
            let state = header.state.load(Relaxed);
            header.state.store(state - SCHEDULED + RUNNING, Relaxed);
            state
        } else {
            // `SCHEDULED` is set and `RUNNING` is not: the sum exchanges them, flags untouched.
            header.state.fetch_add(RUNNING - SCHEDULED, AcqRel)
        };
        if is_due(before) {
            return Step::Ended(self.cancel());
        }
        // SAFETY: the waker's vtable counts from here; this one is never dropped, so it borrows
        // the token's reference.
        let waker = ManuallyDrop::new(unsafe { Waker::from_raw(raw_waker(self.0)) });
        let mut cx = Context::from_waker(&waker);
        // SAFETY: `self` is the token and the job is `RUNNING`.
        unsafe { (header.vtable.poll)(self.0.0, &mut cx) }
    }

    /// Ends the job without polling it.
    pub(crate) fn cancel(&self) -> End {
        // SAFETY: `self` is the token.
        unsafe { (self.0.header().vtable.cancel)(self.0.0) }
    }

    /// Where its home keeps the job between polls, if it has been suspended before.
    pub(crate) fn seat(&self) -> Option<usize> {
        let seat = self.0.header().seat.load(Relaxed);
        (seat != NOWHERE).then_some(seat as usize)
    }

    /// Gives the job a seat, before it is suspended for the first time.
    pub(crate) fn sit(&self, home: impl FnOnce() -> Arc<dyn Home>, seat: usize) {
        self.0.header().seat.store(seat as u32, Relaxed);
        self.settle(home);
    }

    /// Marks a job that is about to be put into a line.
    pub(crate) fn enter_line(&self, home: impl FnOnce() -> Arc<dyn Home>, ticket: usize) {
        let header = self.0.header();
        header.ticket.store(ticket as u32, Relaxed);
        self.settle(home);
        let before = header.state.fetch_add(LINE - SCHEDULED, AcqRel);
        debug_assert!(before & (LINE | RUNNING | DONE) == 0 && before & SCHEDULED != 0);
    }

    fn settle(&self, home: impl FnOnce() -> Arc<dyn Home>) {
        let place = &self.0.header().home;
        // SAFETY: the token's holder is the only one to write; others read only in a state that
        // comes after the first write, and there is no second.
        if place.with(|place| unsafe { (*place).is_none() }) {
            let home = home();
            // SAFETY: as above.
            place.with_mut(|place| unsafe { *place = Some(home) });
        }
    }

    /// Whether an abort has to wait.
    pub(crate) fn is_shielded(&self) -> bool {
        self.0.header().state.load(Acquire) & SHIELDED != 0
    }

    /// Lets go of a job that returned `Pending`. Gives it back if it is to run at once: it was
    /// woken or aborted in the meantime.
    pub(crate) fn suspend(self) -> Option<JobRef> {
        let state = &self.0.header().state;
        let mut now = state.load(Relaxed);
        loop {
            let again = now & SCHEDULED != 0 || is_due(now);
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

    /// Marks a job that left its line to run.
    pub(crate) fn leave_line(&self) {
        let header = self.0.header();
        let before = header.state.fetch_sub(LINE - SCHEDULED, AcqRel);
        debug_assert!(before & LINE != 0 && before & SCHEDULED == 0);
    }

    /// Whether nobody could tell when this job ends: no handle, no group, no waker is left.
    pub(crate) fn is_sole(&self) -> bool {
        // Whoever gave up a reference did so with `Release`.
        self.0.header().refs.load(Acquire) == 1
    }

    /// Shows the panic that ended the job, if one did.
    pub(crate) fn with_panic(&self, mut look: impl FnMut(&Panic)) {
        // SAFETY: `self` is the token.
        unsafe { (self.0.header().vtable.panic)(self.0.0, &mut look) };
    }

    /// Whether nobody can see the job's end: no handle and no group is left.
    pub(crate) fn is_unseen(&self) -> bool {
        self.is_sole() && !self.0.header().vtable.delivers
    }

    /// Lets the outcome of an ended job be seen, and lets go of the job.
    pub(crate) fn publish(self) {
        // SAFETY: the job has ended and the token is given up here.
        unsafe { (self.0.header().vtable.publish)(self.0.0) };
    }
}

impl Drop for JobRef {
    fn drop(&mut self) {
        if self.is_sole() {
            self.0.free();
        } else {
            self.0.drop_ref();
        }
    }
}

impl JobWatch {
    /// Has aborts wait until [`unshield`](Self::unshield), once for each call.
    pub(crate) fn shield(&self) {
        self.0.header().state.fetch_add(SHIELD, AcqRel);
    }

    pub(crate) fn unshield(&self) {
        self.0.header().state.fetch_sub(SHIELD, AcqRel);
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.0.header().state.load(Acquire) & DONE != 0
    }

    /// Asks for the job's end.
    pub(crate) fn abort(&self) {
        let header = self.0.header();
        let mut now = header.state.load(Acquire);
        loop {
            if now & DONE != 0 {
                return;
            }
            let mut after = now | ABORT | SCHEDULED;
            if now & LINE != 0 {
                let ticket = header.ticket.load(Relaxed) as usize;
                if self.0.home().withdraw(self.0, ticket) {
                    return;
                }
                // It is on its way out of the line, where it is looked at again before it runs.
                now = header.state.load(Acquire);
                after = if now & LINE != 0 { now | ABORT } else { now | ABORT | SCHEDULED };
            }
            match header.state.compare_exchange_weak(now, after, AcqRel, Acquire) {
                Ok(_) if now & (LINE | SCHEDULED | RUNNING | DONE) == 0 => {
                    return self.0.home().resume(JobRef(self.0));
                }
                Ok(_) => return,
                Err(actual) => now = actual,
            }
        }
    }

    /// Waits until the job has left its line.
    pub(crate) fn poll_started(&self, cx: &mut Context<'_>) -> Poll<()> {
        let header = self.0.header();
        if header.state.load(Acquire) & LINE == 0 {
            return Poll::Ready(());
        }
        let ticket = header.ticket.load(Relaxed) as usize;
        match self.0.home().await_start(self.0, ticket, cx.waker()) {
            true => Poll::Pending,
            false => Poll::Ready(()),
        }
    }
}

/// The one right to the outcome a job's cell keeps. There is none for a sink that delivers.
#[derive(Debug)]
pub(crate) struct Claim<T> {
    watch: JobWatch,
    output: PhantomData<fn() -> T>,
}

impl<T> Claim<T> {
    pub(crate) fn watch(&self) -> &JobWatch {
        &self.watch
    }

    pub(crate) fn into_watch(self) -> JobWatch {
        self.watch
    }

    /// Waits until the outcome is there.
    pub(crate) fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let header = self.watch.0.header();
        let state = &header.state;
        if state.load(Acquire) & DONE != 0 {
            return Poll::Ready(());
        }
        // SAFETY: this reference keeps the cell alive.
        let awaiter = unsafe { &*(header.vtable.awaiter)(self.watch.0.0) };
        if state.load(Acquire) & AWAITED != 0 {
            // SAFETY: only this claim writes the waker, so that it may always read it.
            let kept = awaiter.with(|waker| unsafe { (*waker).as_ref().is_some_and(|old| old.will_wake(cx.waker())) });
            if kept {
                return Poll::Pending;
            }
            // Taken back before it is changed; if the job ended first, it is the ender's for good.
            if state.fetch_and(!AWAITED, AcqRel) & DONE != 0 {
                return Poll::Ready(());
            }
        }
        let waker = cx.waker().clone();
        // SAFETY: `AWAITED` is not set, and there is one claim.
        let old = awaiter.with_mut(|place| unsafe { (*place).replace(waker) });
        let done = state.fetch_or(AWAITED, AcqRel) & DONE != 0;
        drop(old);
        if done { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Takes the outcome of a job that is done, once.
    pub(crate) fn take(&mut self) -> Option<Result<T, JobError>> {
        let mut out: Option<Result<T, JobError>> = None;
        if self.watch.is_finished() {
            let ptr = self.watch.0;
            // SAFETY: the job is `DONE`, claims are made by `allocate` with the type of the
            // job's output, and there is one for each job.
            unsafe { (ptr.header().vtable.take)(ptr.0, (&raw mut out).cast()) };
        }
        out
    }
}

impl Clone for JobWatch {
    fn clone(&self) -> Self {
        self.0.watch()
    }
}

impl Drop for JobWatch {
    fn drop(&mut self) {
        self.0.drop_ref();
    }
}

/// Whether the job is to be cancelled now.
fn is_due(state: u32) -> bool {
    state & ABORT != 0 && state & SHIELDED == 0
}

fn raw_waker(ptr: JobPtr) -> RawWaker {
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

fn from_waker(data: *const ()) -> JobPtr {
    // SAFETY: only `raw_waker` makes these, from a pointer that is not null.
    JobPtr(unsafe { NonNull::new_unchecked(data as *mut Header) })
}
