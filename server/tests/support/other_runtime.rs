//! A runtime beside that of the test, which ends while the test goes on.

use std::future::Future;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};
use tokio::sync::oneshot;

/// A runtime that a thread of its own drives until the end.
pub struct OtherRuntime {
    handle: Handle,
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl OtherRuntime {
    /// Starts a runtime of this many threads. 0: the one thread that drives it.
    pub fn new(threads: usize) -> Self {
        Self::drive(match threads {
            0 => Builder::new_current_thread().enable_all().build().unwrap(),
            _ => crate::support::runtime(threads),
        })
    }

    /// Drives this runtime on a new thread.
    pub fn drive(runtime: Runtime) -> Self {
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let _ = runtime.block_on(ended);
        });
        Self { handle, end, thread }
    }

    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Makes this the runtime of the thread, as the start of a server needs it.
    pub fn enter(&self) -> EnterGuard<'_> {
        self.handle.enter()
    }

    /// Runs a future as a task of this runtime. Returns `None` if the runtime ends first.
    pub async fn run<F>(&self, future: F) -> Option<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.handle.spawn(future).await.ok()
    }

    /// Drops the runtime, and waits until nothing of it is left.
    pub async fn end(self) {
        let Self { end, thread, .. } = self;
        drop(end);
        tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
    }
}
