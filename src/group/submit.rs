//! The futures of [`Group::schedule`](crate::Group::schedule) and
//! [`Group::try_go`](crate::Group::try_go).
//!
//! Both are the pool's futures with a [`MemberSink`]: the outcome goes to the group.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::error::SubmitError;
use crate::group::state::{GroupState, MemberSink};
use crate::group::ticket::JobTicket;
use crate::pool::{ScheduleInner, Shared, TryGoInner};

/// Waits for room; made by [`Group::schedule`](crate::Group::schedule).
///
/// Dropped before it resolves, it takes its job along and passes its place to the next waiter.
#[must_use = "futures do nothing unless polled"]
pub struct GroupSchedule<'a, F>(ScheduleInner<&'a Shared, F, MemberSink<F::Output>>)
where
    F: Future + Send + 'static,
    F::Output: Send + 'static;

impl<'a, F> GroupSchedule<'a, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[track_caller]
    pub(super) fn new(group: &'a Arc<GroupState<F::Output>>, job: F) -> Self {
        Self(ScheduleInner::new(&*group.shared, job, MemberSink::new(group)))
    }
}

impl<F> Future for GroupSchedule<'_, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    type Output = Result<JobTicket, SubmitError<F>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(cx)
    }
}

// The job is in its cell, so this future never pins it.
impl<F> Unpin for GroupSchedule<'_, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
}

pin_project! {
    /// Runs a job in the pool, or in the caller if the pool or the quota is full; made by
    /// [`Group::try_go`](crate::Group::try_go).
    ///
    /// Dropping this future cancels a job that runs in the caller; a job that the pool has taken
    /// goes on.
    #[must_use = "futures do nothing unless polled"]
    pub struct GroupTryGo<'a, F>
    where
        F: Future,
        F: Send,
        F: 'static,
        F::Output: Send,
        F::Output: 'static,
    {
        #[pin]
        inner: TryGoInner<&'a Shared, F, MemberSink<F::Output>>,
    }
}

impl<'a, F> GroupTryGo<'a, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[track_caller]
    pub(super) fn new(group: &'a Arc<GroupState<F::Output>>, job: F) -> Self {
        Self { inner: TryGoInner::new(&*group.shared, job, MemberSink::new(group)) }
    }
}

impl<F> Future for GroupTryGo<'_, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    type Output = Result<JobTicket, SubmitError<F>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().inner.poll(cx)
    }
}

impl<F> fmt::Debug for GroupSchedule<'_, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupSchedule").finish_non_exhaustive()
    }
}

impl<F> fmt::Debug for GroupTryGo<'_, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupTryGo").finish_non_exhaustive()
    }
}
