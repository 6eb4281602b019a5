//! The futures of [`Group::schedule`](crate::Group::schedule),
//! [`Group::schedule_within`](crate::Group::schedule_within) and
//! [`Group::try_go`](crate::Group::try_go), which borrow the group, and those of
//! [`Group::schedule_owned`](crate::Group::schedule_owned) and
//! [`Group::try_go_owned`](crate::Group::try_go_owned), which keep a handle.
//!
//! All are the pool's futures with a [`MemberSink`]: the outcome goes to the group.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::error::SubmitError;
use crate::group::Group;
use crate::group::state::{GroupState, MemberSink};
use crate::group::ticket::JobTicket;
use crate::pool::{ScheduleInner, Shared, TryGoInner, WithinInner};
use crate::trace::Place;

/// The group of the borrowing futures.
struct GroupRef<'a, T>(&'a GroupState<T>);

impl<T> Clone for GroupRef<'_, T> {
    fn clone(&self) -> Self {
        Self(self.0)
    }
}

impl<T> Deref for GroupRef<'_, T> {
    type Target = Shared;

    #[inline]
    fn deref(&self) -> &Shared {
        &self.0.shared
    }
}

/// The handle of the owning futures. It keeps the group's jobs from being cancelled.
struct OwnedGroup<T: Send + 'static>(Group<T>);

impl<T: Send + 'static> Clone for OwnedGroup<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Send + 'static> Deref for OwnedGroup<T> {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0.state.shared
    }
}

/// Waits for room; made by [`Group::schedule`](crate::Group::schedule).
///
/// Dropped before it resolves, it takes its job along and passes its place to the next waiter.
#[must_use = "futures do nothing unless polled"]
pub struct GroupSchedule<'a, F>(ScheduleInner<GroupRef<'a, F::Output>, F, MemberSink<F::Output>>)
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
        Self(ScheduleInner::new(GroupRef(group), job, MemberSink::new(group)))
    }
}

impl<F> Future for GroupSchedule<'_, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    type Output = Result<JobTicket, SubmitError<F>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.0.poll(cx);
        if let Poll::Ready(result) = &polled {
            self.0.pool().0.count_refusal(result);
        }
        polled
    }
}

/// Waits for room, for a limited time; made by
/// [`Group::schedule_within`](crate::Group::schedule_within).
///
/// Dropped before it resolves, it takes its job along and passes its place to the next waiter.
#[must_use = "futures do nothing unless polled"]
pub struct GroupScheduleWithin<'a, F>(
    WithinInner<GroupRef<'a, F::Output>, F, MemberSink<F::Output>>,
)
where
    F: Future + Send + 'static,
    F::Output: Send + 'static;

impl<'a, F> GroupScheduleWithin<'a, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[track_caller]
    pub(super) fn new(group: &'a Arc<GroupState<F::Output>>, limit: Duration, job: F) -> Self {
        let (sink, place) = (MemberSink::new(group), Place::caller());
        Self(WithinInner::with(GroupRef(group), limit, job, sink, place, None))
    }
}

impl<F> Future for GroupScheduleWithin<'_, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    type Output = Result<JobTicket, SubmitError<F>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.0.poll(cx);
        if let Poll::Ready(result) = &polled {
            self.0.pool().0.count_refusal(result);
        }
        polled
    }
}

impl<F> fmt::Debug for GroupScheduleWithin<'_, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupScheduleWithin").finish_non_exhaustive()
    }
}

/// [`GroupSchedule`] with a handle of its group; made by
/// [`Group::schedule_owned`](crate::Group::schedule_owned).
#[must_use = "futures do nothing unless polled"]
pub struct GroupScheduleOwned<F>(ScheduleInner<OwnedGroup<F::Output>, F, MemberSink<F::Output>>)
where
    F: Future + Send + 'static,
    F::Output: Send + 'static;

impl<F> GroupScheduleOwned<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[track_caller]
    pub(super) fn new(group: Group<F::Output>, job: F) -> Self {
        let sink = MemberSink::new(&group.state);
        Self(ScheduleInner::new(OwnedGroup(group), job, sink))
    }
}

impl<F> Future for GroupScheduleOwned<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    type Output = Result<JobTicket, SubmitError<F>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.0.poll(cx);
        if let Poll::Ready(result) = &polled {
            self.0.pool().0.state.count_refusal(result);
        }
        polled
    }
}

pin_project! {
    /// [`GroupTryGo`] with a handle of its group; made by
    /// [`Group::try_go_owned`](crate::Group::try_go_owned).
    #[must_use = "futures do nothing unless polled"]
    pub struct GroupTryGoOwned<F>
    where
        F: Future,
        F: Send,
        F: 'static,
        F::Output: Send,
        F::Output: 'static,
    {
        #[pin]
        inner: TryGoInner<OwnedGroup<F::Output>, F, MemberSink<F::Output>>,
    }
}

impl<F> GroupTryGoOwned<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[track_caller]
    pub(super) fn new(group: Group<F::Output>, job: F) -> Self {
        let sink = MemberSink::new(&group.state);
        Self { inner: TryGoInner::new(OwnedGroup(group), job, sink) }
    }
}

impl<F> Future for GroupTryGoOwned<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    type Output = Result<JobTicket, SubmitError<F>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut inner = self.project().inner;
        let polled = inner.as_mut().poll(cx);
        if let Poll::Ready(result) = &polled {
            inner.pool().0.state.count_refusal(result);
        }
        polled
    }
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
        inner: TryGoInner<GroupRef<'a, F::Output>, F, MemberSink<F::Output>>,
    }
}

impl<'a, F> GroupTryGo<'a, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[track_caller]
    pub(super) fn new(group: &'a Arc<GroupState<F::Output>>, job: F) -> Self {
        Self { inner: TryGoInner::new(GroupRef(group), job, MemberSink::new(group)) }
    }
}

impl<F> Future for GroupTryGo<'_, F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    type Output = Result<JobTicket, SubmitError<F>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut inner = self.project().inner;
        let polled = inner.as_mut().poll(cx);
        if let Poll::Ready(result) = &polled {
            inner.pool().0.count_refusal(result);
        }
        polled
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

impl<F> fmt::Debug for GroupScheduleOwned<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupScheduleOwned").finish_non_exhaustive()
    }
}

impl<F> fmt::Debug for GroupTryGoOwned<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupTryGoOwned").finish_non_exhaustive()
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
