//! Descriptors that are not tokio's own, watched by its reactor.

use std::io;
use std::os::fd::AsRawFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers `inner` for reading. It must give the same open descriptor as long as it lives, as
/// everything does that owns one.
// Its replacement asks for that promise by being unsafe, which this module does without.
#[allow(deprecated)]
pub(crate) fn async_fd<T: AsRawFd>(inner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(inner, Interest::READABLE)
}
