//! The wrapper of a suspended future of a connection: events wake the future, and a kill ends it.
//!
//! A turn may wait for user code. In the dedicated mode, a turn may also wait for a slot of the
//! pool. Meanwhile the entry stays `Active`. [`WakeOnEvents`] stores the waker of such a future in
//! `State::suspended` or `State::waiting`. `guard` wraps each turn, and [`schedule`] each wait for
//! a slot. Neither may outlive its server: each pending poll reads `killed` (C8).

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use crate::conn::listener_conns::ListenerConns;
use crate::conn::protocol::{Pause, Protocol, WakeEvents};
#[cfg(feature = "http")]
use crate::conn::rest::Rest;
#[cfg(feature = "http")]
use crate::conn::table::Delivery;
use crate::conn::table::ConnKey;
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
    let (wake_events, pause) = (None, None);
    WakeOnEvents { conns, key, span, future, wake_events, pause, suspended: false }.await
}

/// A turn, or a wait for a slot. Resolves to `None` if the server was killed meanwhile.
pub(crate) struct WakeOnEvents<'a, P: Protocol, F> {
    pub(crate) conns: &'a ListenerConns<P>,
    pub(crate) key: ConnKey,
    pub(crate) span: &'a ConnSpan,
    pub(crate) future: Pin<&'a mut F>,
    /// The turn's set of events that woke it, or `None` for a wait for a slot.
    pub(crate) wake_events: Option<&'a WakeEvents>,
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    pub(crate) pause: Option<&'a Pause>,
    /// Whether the waker of this future is stored.
    pub(crate) suspended: bool,
}

impl<P: Protocol, F: Future> Future for WakeOnEvents<'_, P, F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if std::mem::take(&mut this.suspended) {
            let events = this.conns.resume(this.key, this.wake_events.is_some());
            this.wake_events.iter().for_each(|wake_events| wake_events.add(events));
        }
        #[cfg(feature = "http")]
        if let Some(pause) = this.pause.filter(|pause| pause.is_parked()) {
            // Whatever has woken the task: the turn finds out. A kill alone has taken the entry before.
            let Some(input) = this.conns.take(this.key, true) else { return Poll::Ready(None) };
            pause.end(input);
        }
        if let Poll::Ready(output) = this.span.in_scope(|| this.future.as_mut().poll(cx)) {
            return Poll::Ready(Some(output));
        }
        #[cfg(feature = "http")]
        if let Some((park_reason, counters)) = this.pause.and_then(Pause::begins) {
            let rest = Rest::Task(cx.waker().clone());
            let delivery = this.conns.park(this.key, rest, park_reason, &counters);
            if delivery == Delivery::Ready {
                cx.waker().wake_by_ref();
            }
            // Read after the park, for the reason below.
            return if this.conns.is_killed() { Poll::Ready(None) } else { Poll::Pending };
        }
        this.suspended = true;
        this.conns.suspend(this.key, cx.waker(), this.wake_events.is_some());
        // Read after the waker is stored: a kill sets the flag first and takes the wakers then
        // (C8).
        match this.conns.is_killed() {
            true => Poll::Ready(None),
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
