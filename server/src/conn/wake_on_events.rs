//! The wrapper of a suspended future of a connection: events wake the future. A kill ends it, and a close that
//! drops user code ends a turn.
//!
//! A turn may wait for user code. In the dedicated mode, a turn may also wait for a slot of the
//! pool. Meanwhile the entry stays `Active`. [`WakeOnEvents`] stores the waker of such a future in
//! `State::suspended` or `State::waiting`. `guard` wraps each turn, and [`schedule`] each wait for
//! a slot. Neither may outlive its server: each pending poll reads `killed` (C8).

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use crate::close_reason::CloseReason;
use crate::conn::events::Events;
use crate::conn::key::ConnKey;
use crate::conn::listener_conns::ListenerConns;
use crate::conn::protocol::{Protocol, WakeEvents};
use crate::conn::task_entry::TaskEntry;
use crate::trace::ConnSpan;
use millpond::{JobHandle, Pool, SubmitError};

/// Schedules a turn as a job of the pool, and waits for its slot. Returns `None` if the server was
/// killed meanwhile.
pub(crate) async fn schedule<P: Protocol, F>(
    conns: &ListenerConns<P>,
    key: ConnKey,
    pool: &Pool,
    job: F,
) -> Option<Result<JobHandle<F::Output>, SubmitError<F>>>
where
    F: Future<Output: Send> + Send + 'static,
{
    let (span, future): (&ConnSpan, _) = (&Default::default(), pin!(pool.schedule(job)));
    let (wake_events, task) = (None, None);
    WakeOnEvents { conns, key, span, future, wake_events, task, suspended: false }.await.ok()
}

/// A turn, or a wait for a slot. Resolves to an error if the server was killed meanwhile, or the turn cut off.
pub(crate) struct WakeOnEvents<'a, P: Protocol, F> {
    pub(crate) conns: &'a ListenerConns<P>,
    pub(crate) key: ConnKey,
    pub(crate) span: &'a ConnSpan,
    pub(crate) future: Pin<&'a mut F>,
    /// The turn's set of events that woke it, or `None` for a wait for a slot.
    pub(crate) wake_events: Option<&'a WakeEvents>,
    /// The connection's task, if that polls this future: the events wake it in any case.
    pub(crate) task: Option<&'a TaskEntry>,
    /// Whether the waker of this future is stored.
    pub(crate) suspended: bool,
}

impl<P: Protocol, F: Future> Future for WakeOnEvents<'_, P, F> {
    type Output = Result<F::Output, CloseReason>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut events = Events::NONE;
        if std::mem::take(&mut this.suspended) {
            events = this.conns.resume(this.key, this.wake_events.is_some());
        }
        if let Some((task, _)) = this.task.zip(this.wake_events) {
            events = task.take_events(P::INTEREST);
        }
        this.wake_events.iter().for_each(|wake_events| wake_events.add(events));
        if let Poll::Ready(output) = this.span.in_scope(|| this.future.as_mut().poll(cx)) {
            return Poll::Ready(Ok(output));
        }
        // After the poll: a turn that notices the request itself ends in its own way.
        let is_asked = events.any(Events::CLOSE_REQUESTED);
        if let Some(reason) = is_asked.then(|| this.conns.cut_off(this.key)).flatten() {
            return Poll::Ready(Err(reason));
        }
        if this.task.is_none() {
            this.suspended = true;
            this.conns.suspend(this.key, cx.waker(), this.wake_events.is_some());
        }
        // Read after the waker is stored: a kill sets the flag first and takes the wakers then
        // (C8).
        match this.conns.is_killed() {
            true => Poll::Ready(Err(CloseReason::Aborted)),
            false => Poll::Pending,
        }
    }
}

impl<P: Protocol, F> Drop for WakeOnEvents<'_, P, F> {
    fn drop(&mut self) {
        if self.suspended {
            self.conns.resume(self.key, self.wake_events.is_some());
        }
    }
}
