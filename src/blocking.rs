//! Blocking closures as jobs.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::task::JoinHandle;

use crate::pool::{JobArc, current};
use crate::trace::JobSpan;

/// Makes a job of a closure that blocks or computes for long: it runs on the runtime's threads
/// for such work, and the job ends when it has returned.
///
/// The job's slot stays taken until then, also when its handle is aborted: a closure that has
/// started cannot be stopped, and a bound that forgot about it would be none. (That is where
/// `spawn_blocking` under a semaphore goes wrong when the permit stays with the caller.)
///
/// Outside of a pool the future works all the same, with nothing to hold.
///
/// # Cancel safety
///
/// Dropped before its first poll, the closure never runs. Dropped later, it runs to its end
/// unobserved; if only this future is dropped and the job around it goes on, the closure no
/// longer keeps the job's slot.
///
/// # Panics
///
/// A panic of the closure goes on in the awaiting job. Polling the future outside of a tokio
/// runtime panics.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = millpond::Pool::new(4);
/// let sum = pool.schedule(millpond::blocking(|| (1..=10).sum::<u32>())).await?.await?;
/// assert_eq!(sum, 55);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "spawn_blocking")]
pub fn blocking<F, T>(f: F) -> Blocking<F, T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    Blocking { state: State::Ready(Some(f)) }
}

/// The future of a blocking closure; made by [`blocking`].
#[must_use = "futures do nothing unless polled"]
pub struct Blocking<F, T> {
    state: State<F, T>,
}

enum State<F, T> {
    Ready(Option<F>),
    Running { closure: JoinHandle<T>, deferral: Option<AbortDeferral> },
}

/// Keeps the job around a running closure from being cancelled.
struct AbortDeferral(JobArc);

impl AbortDeferral {
    fn new() -> Option<Self> {
        current().map(|current| {
            let job = current.job.to_arc();
            job.defer_abort();
            Self(job)
        })
    }
}

impl Drop for AbortDeferral {
    fn drop(&mut self) {
        self.0.allow_abort();
    }
}

impl<F, T> Future for Blocking<F, T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        if let State::Ready(f) = &mut self.state {
            let f = f.take().expect("`Blocking` polled after a panic");
            let span = JobSpan::current(true);
            let closure = tokio::task::spawn_blocking(move || span.in_scope(f));
            self.state = State::Running { closure, deferral: AbortDeferral::new() };
        }
        let State::Running { closure, deferral } = &mut self.state else {
            unreachable!("just set")
        };
        let joined = ready!(Pin::new(closure).poll(cx));
        *deferral = None;
        match joined {
            Ok(value) => Poll::Ready(value),
            Err(error) => match error.try_into_panic() {
                Ok(payload) => std::panic::resume_unwind(payload),
                // The runtime is shutting down and never ran the closure; the job goes with it.
                Err(_) => Poll::Pending,
            },
        }
    }
}

// The closure is moved to its thread, never pinned.
impl<F, T> Unpin for Blocking<F, T> {}

impl<F, T> fmt::Debug for Blocking<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocking").finish_non_exhaustive()
    }
}
