//! The outcomes of a group as a stream that ends when the group does.
//!
//! A stream is a reader of its group, and no handle: no job can be submitted through it. So a group
//! whose last handle is gone is as good as closed, and its streams end when it is drained. While a
//! stream is left, the jobs go on. The last of all handles and streams cancels them.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_core::Stream;

use crate::group::outcome::Outcome;
use crate::group::state::{Event, GroupState};
use crate::pool::Pool;

/// The outcomes of a group in the order of completion; from
/// [`Group::outcomes`](crate::Group::outcomes).
///
/// While the group is empty and open, the stream is pending: jobs may still come. The stream ends
/// once no job can come and every outcome was taken. No job can come after
/// [`Group::close`](crate::Group::close), after a failure under
/// [`GroupBuilder::cancel_on_failure`](crate::GroupBuilder::cancel_on_failure), or when the last
/// handle of the group was dropped. A stream is no handle. It keeps the jobs from being cancelled:
/// dropping the last of all handles and streams cancels the jobs that are left, unless the group was
/// detached.
///
/// Each outcome is given out once, to one stream, `next`, `try_join` or `take_outcomes`.
///
/// # Cancel safety
///
/// Dropping the future of [`next`](Self::next) loses no outcome.
#[must_use = "streams do nothing unless polled"]
pub struct Outcomes<T> {
    group: Arc<GroupState<T>>,
    /// This stream's entry among the waiters of the group.
    key: Option<usize>,
    // Keeps the pool open: jobs of the group may still submit jobs.
    _pool: Pool,
}

impl<T> Outcomes<T> {
    pub(super) fn new(group: &Arc<GroupState<T>>, pool: &Pool) -> Self {
        group.add_stream();
        Self { group: group.clone(), key: None, _pool: pool.clone() }
    }

    /// Waits for the next outcome. Returns `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Outcome<T>> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl<T> Stream for Outcomes<T> {
    type Item = Outcome<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Outcome<T>>> {
        // A loop over outcomes that are there already would never yield without a budget.
        let budget = ready!(tokio::task::coop::poll_proceed(cx));
        let this = &mut *self;
        loop {
            if let Some(next) = this.group.take_for_stream() {
                budget.made_progress();
                return Poll::Ready(next);
            }
            if this.group.register_waiter(&mut this.key, Event::Outcome, cx.waker()) {
                return Poll::Pending;
            }
        }
    }
}

impl<T> Drop for Outcomes<T> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.group.remove_waiter(key);
        }
        self.group.drop_stream();
    }
}

// Outcomes are moved out and never pinned.
impl<T> Unpin for Outcomes<T> {}

impl<T> fmt::Debug for Outcomes<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcomes").finish_non_exhaustive()
    }
}
