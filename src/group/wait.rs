//! The futures of [`Group::wait`](crate::Group::wait), [`Group::try_join`](crate::Group::try_join)
//! and [`Group::next`](crate::Group::next).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::task::coop;

use crate::group::outcome::Outcome;
use crate::group::report::{GroupError, GroupReport};
use crate::group::state::{Event, GroupState};

/// A waiter's entry in the group, removed on drop.
struct WaiterGuard<'a, T> {
    group: &'a GroupState<T>,
    key: Option<usize>,
    /// The first failure cancels the jobs that are left. Unset once that has happened.
    cancels: bool,
}

impl<'a, T> WaiterGuard<'a, T> {
    fn new(group: &'a GroupState<T>, cancels: bool) -> Self {
        Self { group, key: None, cancels }
    }

    /// Registers the task for the event. Returns `false` if the event has happened.
    fn register_waiter(&mut self, event: Event, cx: &Context<'_>) -> bool {
        self.group.register_waiter(&mut self.key, event, cx.waker())
    }

    /// Waits until no job is running and `take` returns something. Cancels the jobs at the first
    /// failure, if the waiter is to do so.
    fn poll_all<R>(
        &mut self,
        cx: &mut Context<'_>,
        take: impl Fn(&GroupState<T>) -> Option<R>,
    ) -> Poll<R> {
        let budget = ready!(coop::poll_proceed(cx));
        loop {
            if self.cancels && self.group.has_failed() {
                self.cancels = false;
                self.group.cancel();
            }
            if let Some(result) = take(self.group) {
                budget.made_progress();
                return Poll::Ready(result);
            }
            let event = if self.cancels { Event::Failure } else { Event::All };
            if self.register_waiter(event, cx) {
                return Poll::Pending;
            }
        }
    }
}

impl<T> Drop for WaiterGuard<'_, T> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.group.remove_waiter(key);
        }
    }
}

/// Waits for the end of every job; made by [`Group::wait`](crate::Group::wait) and
/// [`Group::wait_or_cancel_on_failure`](crate::Group::wait_or_cancel_on_failure).
#[must_use = "futures do nothing unless polled"]
pub struct Wait<'a, T>(WaiterGuard<'a, T>);

impl<'a, T> Wait<'a, T> {
    pub(crate) fn new(group: &'a GroupState<T>, cancels: bool) -> Self {
        Self(WaiterGuard::new(group, cancels))
    }
}

impl<T> Future for Wait<'_, T> {
    type Output = GroupReport;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<GroupReport> {
        self.0.poll_all(cx, GroupState::final_report)
    }
}

/// Waits for the values of every job; made by [`Group::try_join`](crate::Group::try_join).
#[must_use = "futures do nothing unless polled"]
pub struct TryJoin<'a, T>(WaiterGuard<'a, T>);

impl<'a, T> TryJoin<'a, T> {
    pub(crate) fn new(group: &'a GroupState<T>) -> Self {
        Self(WaiterGuard::new(group, true))
    }
}

impl<T> Future for TryJoin<'_, T> {
    type Output = Result<Vec<T>, GroupError<T>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_all(cx, GroupState::take_values)
    }
}

/// Waits for the end of any job; made by [`Group::next`](crate::Group::next).
#[must_use = "futures do nothing unless polled"]
pub struct Next<'a, T>(WaiterGuard<'a, T>);

impl<'a, T> Next<'a, T> {
    pub(crate) fn new(group: &'a GroupState<T>) -> Self {
        Self(WaiterGuard::new(group, false))
    }
}

impl<T> Future for Next<'_, T> {
    type Output = Option<Outcome<T>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let budget = ready!(coop::poll_proceed(cx));
        loop {
            let next = match self.0.group.take_next() {
                (None, true) if self.0.register_waiter(Event::Next, cx) => return Poll::Pending,
                (None, true) => continue,
                (next, _) => next,
            };
            budget.made_progress();
            return Poll::Ready(next);
        }
    }
}

impl<T> fmt::Debug for Wait<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for TryJoin<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TryJoin").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Next<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}
