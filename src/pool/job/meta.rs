//! What a job carries beside its future: the place of its submit, its span, its priority, key and
//! deadline, its name and that of its group.
//!
//! Most jobs have a place alone, so the rest is in a box that they do not have.
//!
//! # Deadlines
//!
//! A job is *expired* when its deadline has passed. Before the first poll, any deadline counts: the poll
//! then ends the job instead. After it, the deadline counts if the job asked for that
//! ([`JobOptions::expire_running`]): a timer of the job is polled after the future, and wakes the job.
//!
//! While a thread polls a job, the job's deadline is the thread's. A job that is made there inherits it.

use std::cell::Cell;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Context;

use tokio::task::coop;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::pool::options::{Deadline, JobOptions, Requirements};
use crate::sync::{failpoint, without};
use crate::trace::{JobSpan, Place};

thread_local! {
    /// The deadline of the job that this thread polls.
    static DEADLINE: Cell<Option<Deadline>> = const { Cell::new(None) };
}

/// Where a job was submitted, and what it carries beside its future.
pub(crate) struct Meta {
    extra: Option<Box<Extra>>,
    place: Place,
}

struct Extra {
    span: JobSpan,
    /// Without the deadline and the place.
    requirements: Requirements,
    /// The name of the job's group, if the group was given one.
    group: Option<Arc<str>>,
    deadline: Option<Deadline>,
    /// Both flags belong to the token's holder (S2), so each access is Relaxed.
    started: AtomicBool,
    expired: AtomicBool,
    /// Wakes the job at its deadline. Made when the job is first suspended.
    timer: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl Meta {
    /// Makes the part of a job that is submitted here and now. `with_span` says whether the job runs
    /// inside the current span.
    #[inline(always)]
    pub(crate) fn new(
        with_span: bool,
        place: Place,
        options: Option<&JobOptions>,
        group: Option<&Arc<str>>,
    ) -> Self {
        let with_span = with_span && !without("span capture");
        let plain = !(with_span && JobSpan::may_exist())
            && options.is_none()
            && group.is_none()
            && DEADLINE.get().is_none();
        let extra = if plain { None } else { Self::extra(with_span, options, group) };
        Self { extra, place }
    }

    #[cold]
    fn extra(
        with_span: bool,
        options: Option<&JobOptions>,
        group: Option<&Arc<str>>,
    ) -> Option<Box<Extra>> {
        let default = JobOptions::new();
        let options = options.unwrap_or(&default);
        let outer = DEADLINE.get().filter(|_| !failpoint("a deadline is not inherited"));
        let (span, deadline) = (JobSpan::current(with_span), options.resolve(outer));
        let requirements = options.requirements();
        let is_plain = requirements == Requirements::default() && group.is_none();
        if span.is_none() && deadline.is_none() && is_plain {
            return None;
        }
        Some(Box::new(Extra {
            span,
            requirements,
            group: group.cloned(),
            deadline,
            started: AtomicBool::new(false),
            expired: AtomicBool::new(false),
            timer: Mutex::new(None),
        }))
    }

    /// The place of the submit.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// What the limiter must know of the job.
    pub(crate) fn requirements(&self) -> Requirements {
        let place = Some(self.place);
        let Some(extra) = &self.extra else { return Requirements { place, ..Default::default() } };
        let deadline = extra.deadline.map(|deadline| deadline.at);
        Requirements { deadline, place, ..extra.requirements }
    }

    /// The job's own deadline, or the one that it inherited.
    pub(super) fn own_deadline(&self) -> Option<Deadline> {
        self.extra.as_ref()?.deadline
    }

    /// The name of the job's group, if the group was given one.
    pub(super) fn group(&self) -> Option<&Arc<str>> {
        self.extra.as_ref()?.group.as_ref()
    }

    /// Whether the job has a place alone.
    #[inline(always)]
    pub(super) fn is_plain(&self) -> bool {
        self.extra.is_none()
    }

    /// Calls `f` inside the job's span, with the job's deadline as the thread's.
    #[inline(always)]
    pub(super) fn in_scope(&self, mut f: impl FnMut()) {
        match &self.extra {
            None => f(),
            Some(extra) => extra.in_scope(&mut f),
        }
    }

    /// Notes that the job is about to be polled. Returns whether the deadline has passed before the first
    /// poll.
    pub(super) fn is_late_to_start(&self) -> bool {
        let Some((extra, deadline)) = self.deadline() else { return false };
        let is_late = !extra.started.swap(true, Relaxed)
            && deadline.at <= Instant::now()
            && !failpoint("a late job starts");
        if is_late {
            extra.expired.store(true, Relaxed);
        }
        is_late
    }

    /// Asks to be woken at the deadline, if the job is to be cancelled then. Returns whether it has
    /// passed; once only.
    pub(super) fn poll_expired(&self, cx: &mut Context<'_>) -> bool {
        let Some((extra, deadline)) = self.deadline() else { return false };
        if !deadline.expire_running || extra.expired.load(Relaxed) {
            return false;
        }
        let mut timer = extra.timer.lock().unwrap_or_else(PoisonError::into_inner);
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(deadline.at)));
        // Without tokio's budget, which the job may have spent: a timer that is not polled is not set.
        let expired = pin!(coop::unconstrained(timer.as_mut())).poll(cx).is_ready();
        extra.expired.store(expired, Relaxed);
        expired
    }

    /// Drops the timer of a job that ends. The timer has the job's waker, so it would keep the job.
    pub(super) fn drop_timer(&self) {
        let Some(extra) = &self.extra else { return };
        let timer = extra.timer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if failpoint("the timer of a job stays") {
            std::mem::forget(timer);
        }
    }

    /// Notes that the job is about to be cancelled because its deadline has passed.
    pub(super) fn mark_expired(&self) {
        if let Some(extra) = &self.extra {
            extra.expired.store(true, Relaxed);
        }
    }

    /// Whether the job ends because its deadline has passed.
    pub(super) fn is_expired(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.expired.load(Relaxed))
    }

    fn deadline(&self) -> Option<(&Extra, Deadline)> {
        let extra = self.extra.as_deref()?;
        extra.deadline.map(|deadline| (extra, deadline))
    }
}

impl Drop for Meta {
    // Inlined, so that a job with a place alone costs one test.
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(extra) = self.extra.take() {
            drop_extra(extra);
        }
    }
}

#[cold]
fn drop_extra(extra: Box<Extra>) {
    drop(extra);
}

impl Extra {
    fn in_scope(&self, f: &mut dyn FnMut()) {
        with_deadline(self.deadline, || self.span.in_scope(f))
    }
}

/// Calls `f` with the deadline of a job as the thread's.
pub(crate) fn with_deadline<R>(deadline: Option<Deadline>, f: impl FnOnce() -> R) -> R {
    struct Restore(Option<Deadline>);

    impl Drop for Restore {
        fn drop(&mut self) {
            DEADLINE.set(self.0);
        }
    }

    let _restore = Restore(DEADLINE.replace(deadline));
    f()
}
