//! A pool as hyper's executor.

use std::future::Future;

use crate::pool::Pool;
use crate::trace::event;

/// Runs the futures that hyper spawns as jobs: connections, HTTP/2 streams and upgrades.
///
/// Each future is submitted by [`Pool::anyway_go`]: without waiting, and with a place in the wait list
/// while the pool is full. A closed pool drops the future.
///
/// **Every connection and every stream needs a slot as long as it lives.** If connections take all
/// slots, their own streams wait forever. Give connections a pool of their own, larger than the
/// number of connections and streams.
impl<F> hyper::rt::Executor<F> for Pool
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        if self.anyway_go(future).is_err() {
            event!(DEBUG, pool = self.name(), "a closed pool drops a future of hyper");
        }
    }
}
