//! The group's ways in that wait.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use crate::error::{ClosedError, ScheduleError};
use crate::group::state::{GroupState, MemberSink};
use crate::pool::{AbortHandle, ScheduleInner, TryGoInner};

/// Waits for room; made by [`Group::schedule`](crate::Group::schedule).
#[must_use = "futures do nothing unless polled"]
pub struct GroupSchedule<'a, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    inner: ScheduleInner<'a, F, MemberSink<F::Output>>,
    group: &'a Arc<GroupState<F::Output>>,
}

impl<'a, F> GroupSchedule<'a, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[track_caller]
    pub(crate) fn new(group: &'a Arc<GroupState<F::Output>>, job: F) -> Self {
        let inner = ScheduleInner::new(&group.shared, job, MemberSink::new(group));
        Self { inner, group }
    }
}

impl<F> Future for GroupSchedule<'_, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    type Output = Result<AbortHandle, ScheduleError<F>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.group.is_closed() {
            if let Some(job) = self.inner.take_back() {
                return Poll::Ready(Err(ScheduleError::Closed(job)));
            }
        }
        self.inner.poll(cx)
    }
}

// The job is moved into the pool before it is first polled, so it is never pinned in here.
impl<F> Unpin for GroupSchedule<'_, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
}

pin_project! {
    /// Runs a job in the pool, or here if that is full; made by
    /// [`Group::try_go`](crate::Group::try_go).
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
        inner: TryGoInner<'a, F, MemberSink<F::Output>>,
        group: &'a Arc<GroupState<F::Output>>,
    }
}

impl<'a, F> GroupTryGo<'a, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    pub(crate) fn new(group: &'a Arc<GroupState<F::Output>>, job: F) -> Self {
        Self { inner: TryGoInner::new(&group.shared, job), group }
    }
}

impl<F> Future for GroupTryGo<'_, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    type Output = Result<AbortHandle, ClosedError<F>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let group = *this.group;
        let mut inner = this.inner;
        if group.is_closed() {
            if let Some(job) = inner.as_mut().take_back() {
                return Poll::Ready(Err(ClosedError(job)));
            }
        }
        inner.poll_with(cx, || MemberSink::new(group))
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
