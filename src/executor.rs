//! A pool as an executor for hyper.

use std::future::Future;

use crate::pool::Pool;
use crate::trace::event;

/// Hands what hyper spawns (connections, HTTP/2 streams, upgrades) to the pool, as
/// [`Pool::anyway_go`] does: counted, never waiting, never refused but by a closed pool, which
/// drops it.
///
/// **Every connection and every stream needs a slot as long as it lives.** On a pool that is full
/// of connections nothing else of them runs, their streams least of all: give connections a pool
/// of their own, large enough.
impl<F> hyper::rt::Executor<F> for Pool
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        if self.anyway_go(future).is_err() {
            event!(DEBUG, pool = self.name(), "a closed pool drops what it was to execute");
        }
    }
}
