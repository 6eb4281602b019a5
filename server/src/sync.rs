//! The mutex of the crate, without poisoning, with a list of its uses; and failpoints.
//!
//! | lock | data |
//! |---|---|
//! | `conn::ListenerConns::state` | the connection table of a listener, its timer wheel, its totals and its wakers |
//! | `conn::WarmList` | the connections that the timer looks at because they may be warm |
//! | `conn::ServerState::conns` | counts of a server: connections per address, refusals, close reasons |
//! | `conn::BufferPool` | free buffers |
//! | `framed::ConnShared::inner` | a handler's connection: the codec, and the frames to be sent |
//! | `conn::TlsAccept::acceptor` | the TLS configuration of new connections |
//! | `http::lent_io`, `http::progress` | the socket that hyper borrows; wakers of the turn and of hyper |
//!
//! The heads of these files say what may run under their locks. A guard of `std` is not `Send`, so
//! the compiler refuses a task that holds a lock across an `.await`.

pub(crate) use std::sync::MutexGuard;

/// A mutex whose lock never fails.
///
/// A panic of user code cannot leave the data half changed: under the locks of this crate user code
/// runs only where the change of the data does not depend on its end.
#[derive(Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        match self.0.lock() {
            Ok(guard) => guard,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

/// Whether the failpoint `name` is on. The code then makes a slip, and a test must fail:
/// `scripts/mutants` knows which.
///
/// The environment variable `MILLPOND_FAILPOINT` names the failpoint. Without the feature `__mutants`
/// every failpoint is off, and the branch compiles to nothing.
#[cfg(feature = "__mutants")]
pub(crate) fn failpoint(name: &str) -> bool {
    static NAME: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    NAME.get_or_init(|| std::env::var("MILLPOND_FAILPOINT").ok()).as_deref() == Some(name)
}

#[cfg(not(feature = "__mutants"))]
#[inline(always)]
pub(crate) fn failpoint(_name: &str) -> bool {
    false
}
