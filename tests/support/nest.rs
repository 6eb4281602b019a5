//! Jobs that submit to their own pool and wait for it.

use millpond::{Pool, SubmitError, SubmitErrorKind};

#[derive(Debug, PartialEq)]
pub enum Nest {
    Ran(u32),
    WouldDeadlock,
}

/// Submits from within, and waits for the outcome.
pub async fn nest(pool: Pool, value: u32) -> Nest {
    match pool.schedule(async move { value }).await.map_err(SubmitError::into_parts) {
        Ok(handle) => Nest::Ran(handle.await.unwrap()),
        Err((SubmitErrorKind::WouldDeadlock, job)) => {
            assert_eq!(job.await, value, "the job comes back");
            Nest::WouldDeadlock
        }
        Err((kind, _)) => panic!("{kind}"),
    }
}
