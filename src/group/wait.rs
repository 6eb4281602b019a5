//! Waiting for a group, as named futures.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::group::outcome::Outcome;
use crate::group::state::{Event, Members};

/// One who waits; leaves the list of waiters when dropped.
struct Waiting<'a, T: Send + 'static> {
    members: &'a Members<T>,
    key: Option<usize>,
}

impl<'a, T: Send + 'static> Waiting<'a, T> {
    /// Whether the event has not happened yet: then the waker is in place.
    fn register_waiter(&mut self, event: Event, cx: &Context<'_>) -> bool {
        self.members.register_waiter(&mut self.key, event, cx.waker())
    }
}

impl<T: Send + 'static> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.members.forget(key);
        }
    }
}

/// Waits for the end of every job; made by [`Group::wait`](crate::Group::wait) and
/// [`Group::wait_or_cancel`](crate::Group::wait_or_cancel).
#[must_use = "futures do nothing unless polled"]
pub struct Wait<'a, T: Send + 'static> {
    waiting: Waiting<'a, T>,
    /// The rest is to be cancelled at the first failure.
    cancels: bool,
}

impl<'a, T: Send + 'static> Wait<'a, T> {
    pub(crate) fn new(members: &'a Members<T>, cancels: bool) -> Self {
        Self { waiting: Waiting { members, key: None }, cancels }
    }
}

impl<T: Send + 'static> Future for Wait<'_, T> {
    type Output = Vec<Outcome<T>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let members = self.waiting.members;
        loop {
            if self.cancels && members.has_failed() {
                self.cancels = false;
                members.cancel();
            }
            if let Some(outcomes) = members.take_all() {
                return Poll::Ready(outcomes);
            }
            let event = if self.cancels { Event::Failure } else { Event::All };
            if self.waiting.register_waiter(event, cx) {
                return Poll::Pending;
            }
        }
    }
}

/// Waits for the end of any job; made by [`Group::next`](crate::Group::next).
#[must_use = "futures do nothing unless polled"]
pub struct Next<'a, T: Send + 'static>(Waiting<'a, T>);

impl<'a, T: Send + 'static> Next<'a, T> {
    pub(crate) fn new(members: &'a Members<T>) -> Self {
        Self(Waiting { members, key: None })
    }
}

impl<T: Send + 'static> Future for Next<'_, T> {
    type Output = Option<Outcome<T>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match self.0.members.take_next() {
                (Some(outcome), _) => return Poll::Ready(Some(outcome)),
                (None, false) => return Poll::Ready(None),
                (None, true) if self.0.register_waiter(Event::Next, cx) => return Poll::Pending,
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
