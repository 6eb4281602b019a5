//! Waits that a lost wake-up fails: a future is polled after its own wake-ups alone, and the timer
//! comes first.
//!
//! `tokio::time::timeout` polls its future once more when the time is up, and a task polls all of its
//! futures when any of them wakes it. Either poll finds a result that was ready long ago, and hides
//! that its wake-up was lost.

use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::patience;

/// A future that is polled once, and then only after its waker was called.
pub struct Woken<F> {
    future: Pin<Box<F>>,
    signal: Arc<Signal>,
    waker: Waker,
}

struct Signal {
    woken: AtomicBool,
    task: Mutex<Waker>,
}

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, SeqCst);
        let task = self.task.lock().unwrap().clone();
        task.wake();
    }
}

pub fn woken<F: Future>(future: F) -> Woken<F> {
    let task = Mutex::new(Waker::noop().clone());
    let signal = Arc::new(Signal { woken: AtomicBool::new(true), task });
    Woken { future: Box::pin(future), waker: signal.clone().into(), signal }
}

impl<F: Future> Future for Woken<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.signal.task.lock().unwrap().clone_from(cx.waker());
        if !self.signal.woken.swap(false, SeqCst) {
            return Poll::Pending;
        }
        let this = &mut *self;
        this.future.as_mut().poll(&mut Context::from_waker(&this.waker))
    }
}

/// Returns the future's output, or `None` when the time is up: also for a future that is ready by
/// then, but has not woken its task.
pub async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    before(tokio::time::sleep(limit), future).await
}

/// Returns the future's output, or `None` at the end of the limit.
async fn before<F: Future>(limit: impl Future<Output = ()>, future: F) -> Option<F::Output> {
    let future = woken(future);
    tokio::select! {
        biased;
        () = limit => None,
        output = future => Some(output),
    }
}

/// Fails if the future takes too long: on a paused clock at once when nothing else can happen.
#[track_caller]
pub fn soon<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let at = Location::caller();
    async move {
        match before(patience::sleep(Duration::from_secs(10)), future).await {
            Some(output) => output,
            None => panic!("hangs: {at}"),
        }
    }
}
