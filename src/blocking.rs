//! Blocking closures as jobs.
//!
//! The closure runs on tokio's blocking threads, and the job awaits it. While the closure runs, the
//! future defers aborts of the job around it, so that the job keeps its slot.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::task::JoinHandle;

use crate::pool::{Current, JobArc, current, enter_closure};
use crate::trace::JobSpan;

/// Turns a closure that blocks or computes for long into a future, for use as a job.
///
/// The closure runs on the runtime's blocking threads, by [`tokio::task::spawn_blocking`]. The future
/// resolves to the value that the closure returns.
///
/// The job keeps its slot until the closure has returned, even if its handle is aborted. A closure
/// that has started cannot be stopped. With its slot freed, more closures could run than the pool
/// has slots. `spawn_blocking` under a semaphore has that fault if the caller keeps the permit.
///
/// Outside of a pool the future works too, and keeps no slot.
///
/// # Cancel safety
///
/// If the future is dropped before its first poll, the closure never runs. If the future is dropped
/// later, the closure runs to its end, and its value is lost. From that drop on, the closure no
/// longer keeps the slot of a job that continues.
///
/// # Panics
///
/// A panic of the closure continues in the awaiting job. A poll outside of a tokio runtime panics.
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

/// The future of a blocking closure; from [`blocking`].
#[must_use = "futures do nothing unless polled"]
pub struct Blocking<F, T> {
    state: State<F, T>,
}

enum State<F, T> {
    Ready(Option<F>),
    Running { closure: JoinHandle<T>, deferral: Option<AbortDeferral> },
}

/// Defers aborts of the job that awaits a running closure, until dropped.
struct AbortDeferral(JobArc);

impl AbortDeferral {
    /// Defers aborts of the current job. Returns `None` outside of a pool, and in a closure: its own future
    /// defers them, or the job may go on without it.
    fn new() -> Option<Self> {
        current().filter(Current::is_polled_here).map(|current| {
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

/// The job that awaits a closure, for the closure's thread. A blocking verb in the closure then counts as
/// a wait of that job.
struct ClosureContext(Option<(Current, JobArc)>);

impl ClosureContext {
    fn new() -> Self {
        Self(current().map(|current| (current, current.job.to_arc())))
    }

    fn run<T>(self, f: impl FnOnce() -> T) -> T {
        // The counted reference keeps the job's cell alive on this thread.
        enter_closure(self.0.as_ref().map(|(current, _)| *current), f)
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
            let context = ClosureContext::new();
            let closure = tokio::task::spawn_blocking(move || context.run(|| span.in_scope(f)));
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
                // The runtime shuts down and never ran the closure. The shutdown drops the job, too.
                Err(_) => Poll::Pending,
            },
        }
    }
}

// The closure moves to its thread and is never pinned.
impl<F, T> Unpin for Blocking<F, T> {}

impl<F, T> fmt::Debug for Blocking<F, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blocking").finish_non_exhaustive()
    }
}
