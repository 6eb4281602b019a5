//! The futures of [`Group::wait`](crate::Group::wait) and [`Group::next`](crate::Group::next).

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::group::outcome::Outcome;
use crate::group::state::{Event, GroupState};
use crate::pool::note_wait;

/// A waiter's entry in the group, removed on drop.
struct WaiterGuard<'a, T: Send + 'static> {
    group: &'a GroupState<T>,
    key: Option<usize>,
}

impl<'a, T: Send + 'static> WaiterGuard<'a, T> {
    /// Registers the task for the event. Returns `false` if the event has happened.
    fn register_waiter(&mut self, event: Event, cx: &Context<'_>) -> bool {
        self.group.register_waiter(&mut self.key, event, cx.waker())
    }
}

impl<T: Send + 'static> Drop for WaiterGuard<'_, T> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.group.remove_waiter(key);
        }
    }
}

/// Waits for the end of every job; made by [`Group::wait`](crate::Group::wait) and
/// [`Group::wait_or_cancel_on_failure`](crate::Group::wait_or_cancel_on_failure).
#[must_use = "futures do nothing unless polled"]
pub struct Wait<'a, T: Send + 'static> {
    waiter: WaiterGuard<'a, T>,
    /// The first failure cancels the jobs that are left. Unset once that has happened.
    cancels: bool,
}

impl<'a, T: Send + 'static> Wait<'a, T> {
    pub(crate) fn new(group: &'a GroupState<T>, cancels: bool) -> Self {
        Self { waiter: WaiterGuard { group, key: None }, cancels }
    }
}

impl<T: Send + 'static> Future for Wait<'_, T> {
    type Output = Vec<Outcome<T>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let group = self.waiter.group;
        loop {
            if self.cancels && group.has_failed() {
                self.cancels = false;
                group.cancel();
            }
            if let Some(outcomes) = group.take_all() {
                return Poll::Ready(outcomes);
            }
            let event = if self.cancels { Event::Failure } else { Event::All };
            if self.waiter.register_waiter(event, cx) {
                note_wait(group.shared.id());
                return Poll::Pending;
            }
        }
    }
}

/// Waits for the end of any job; made by [`Group::next`](crate::Group::next).
#[must_use = "futures do nothing unless polled"]
pub struct Next<'a, T: Send + 'static>(WaiterGuard<'a, T>);

impl<'a, T: Send + 'static> Next<'a, T> {
    pub(crate) fn new(group: &'a GroupState<T>) -> Self {
        Self(WaiterGuard { group, key: None })
    }
}

impl<T: Send + 'static> Future for Next<'_, T> {
    type Output = Option<Outcome<T>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match self.0.group.take_next() {
                (Some(outcome), _) => return Poll::Ready(Some(outcome)),
                (None, false) => return Poll::Ready(None),
                (None, true) if self.0.register_waiter(Event::Next, cx) => {
                    note_wait(self.0.group.shared.id());
                    return Poll::Pending;
                }
                (None, true) => {}
            }
        }
    }
}

impl<T: Send + 'static> fmt::Debug for Wait<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait").finish_non_exhaustive()
    }
}

impl<T: Send + 'static> fmt::Debug for Next<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").finish_non_exhaustive()
    }
}
