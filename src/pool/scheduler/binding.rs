//! The runtime of a pool: which one it is, and whether it still lives.
//!
//! A pool binds to the runtime of its builder, or to the runtime of its first job. tokio has no event
//! for the end of a runtime: it drops the tasks. So a worker is the pool's witness. The drop of a
//! worker that has not retired marks the binding as gone, and so does a task that is dropped at its
//! spawn. The task that watches deadlines is a witness as well. While no worker lives, the binding is
//! *unwatched*, and the next submit spawns such a task.
//!
//! ```text
//!              first submit              drop of a worker
//!   unbound ─────────────────▶ bound ──────────────────────▶ gone
//!                              ▲   │ last worker retires      │ submit in another runtime,
//!                 it lives     │   ▼                          │ no job is left
//!        builder ──────────▶ unwatched ───▶ gone              └──────────▶ bound
//! ```
//!
//! `Shared` owns the binding. A submit reads the state without a lock; everything else happens under
//! the one lock here. It comes before the idle lock, and no task is spawned under it.
//! A pool must never bind anew while a worker or a job of the old runtime is left: its drop would
//! cancel the jobs of the new one. Nor while a thread closes the pool because the old runtime is gone
//! ([`BindingGuard::begin_loss`]): the close would hit the new one.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::{self, Handle};
use tokio::task::coop;

use crate::panic::catch_panic;
use crate::sync::atomic::AtomicU8;
use crate::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::sync::{Mutex, MutexGuard};

/// What is known about the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum BindingState {
    /// The pool has no runtime yet.
    Unbound,
    /// The runtime lived when it was last looked at, and a worker tells of its end.
    Bound,
    /// No worker lives, so the runtime may have shut down.
    Unwatched,
    /// The runtime has shut down, and the limiter is closed.
    Gone,
}

use BindingState::{Bound, Gone, Unbound, Unwatched};

pub(super) struct Binding {
    /// The `BindingState`; written under the lock of `runtime`.
    state: AtomicU8,
    runtime: Mutex<Runtime>,
}

/// The runtime of a binding.
pub(super) struct Runtime {
    handle: Option<Handle>,
    /// The runtime comes from the builder. The pool stays with it.
    fixed: bool,
    /// The threads that close the pool, because this runtime is gone.
    losses: usize,
}

impl Binding {
    pub(super) fn new(handle: Option<Handle>) -> Self {
        let state = if handle.is_some() { Unwatched } else { Unbound };
        let fixed = handle.is_some();
        let runtime = Mutex::new(Runtime { handle, fixed, losses: 0 });
        Self { state: AtomicU8::new(state as u8), runtime }
    }

    /// Returns whether a submit may go on without a look at the runtime.
    #[inline]
    pub(super) fn is_bound(&self) -> bool {
        // Acquire pairs with the Release in `set`: the submit finds the limiter open again.
        self.state.load(Acquire) == Bound as u8
    }

    pub(super) fn is_gone(&self) -> bool {
        self.state.load(Acquire) == Gone as u8
    }

    pub(super) fn lock(&self) -> BindingGuard<'_> {
        BindingGuard { binding: self, runtime: self.runtime.lock() }
    }

    /// Returns the runtime, if the pool has one.
    pub(super) fn handle(&self) -> Option<Handle> {
        self.runtime.lock().handle.clone()
    }
}

/// The locked binding.
pub(super) struct BindingGuard<'a> {
    binding: &'a Binding,
    runtime: MutexGuard<'a, Runtime>,
}

impl BindingGuard<'_> {
    pub(super) fn state(&self) -> BindingState {
        // Relaxed: the lock orders all writers.
        match self.binding.state.load(Relaxed) {
            state if state == Unbound as u8 => Unbound,
            state if state == Bound as u8 => Bound,
            state if state == Unwatched as u8 => Unwatched,
            _ => Gone,
        }
    }

    pub(super) fn set(&self, state: BindingState) {
        // Release pairs with the Acquire in `is_bound` and `is_gone`.
        self.binding.state.store(state as u8, Release);
    }

    pub(super) fn handle(&self) -> Option<&Handle> {
        self.runtime.handle.as_ref()
    }

    /// Binds to another runtime. Returns the handle of the old one, to drop without the lock.
    pub(super) fn bind(&mut self, handle: Handle) -> Option<Handle> {
        let old = self.runtime.handle.replace(handle);
        self.set(Bound);
        old
    }

    /// Returns whether the pool is bound to this runtime, which has shut down, and no thread has noted
    /// that.
    pub(super) fn is_unaware_of_end(&self, ended: runtime::Id) -> bool {
        self.state() != Gone && self.handle().is_some_and(|handle| handle.id() == ended)
    }

    /// Notes that the runtime is gone. The caller closes the pool and then calls
    /// [`end_loss`](Self::end_loss).
    pub(super) fn begin_loss(&mut self) {
        self.set(Gone);
        self.runtime.losses += 1;
    }

    /// Notes that the caller of [`begin_loss`](Self::begin_loss) has closed the pool.
    pub(super) fn end_loss(&mut self) {
        self.runtime.losses -= 1;
    }

    /// Returns the runtime of this thread, if the pool may move there: another runtime than that of
    /// the binding, with timers.
    pub(super) fn successor(&self) -> Option<Handle> {
        if self.runtime.losses > 0 {
            return None;
        }
        let current = Handle::try_current().ok()?;
        let other = self.handle().is_none_or(|bound| bound.id() != current.id());
        (other && !self.runtime.fixed && has_timers()).then_some(current)
    }
}

/// Returns whether the runtime of this thread has timers, which idle workers need.
fn has_timers() -> bool {
    catch_panic(|| drop(tokio::time::sleep(Duration::ZERO))).is_some()
}

/// Returns whether a runtime lives. A runtime that has shut down drops a new task at once.
pub(super) fn is_alive(runtime: &Handle) -> bool {
    let task = pin!(coop::unconstrained(runtime.spawn(async {})));
    !matches!(task.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)))
}
