//! Jobs that submit to their own pool and wait for it.

use millpond::{Pool, ScheduleError};

#[derive(Debug, PartialEq)]
pub enum Nest {
    Ran(u32),
    WouldDeadlock,
}

/// Submits from within, and waits for the outcome.
pub async fn nest(pool: Pool, value: u32) -> Nest {
    match pool.schedule(async move { value }).await {
        Ok(handle) => Nest::Ran(handle.await.unwrap()),
        Err(ScheduleError::WouldDeadlock(job)) => {
            assert_eq!(job.await, value, "the job comes back");
            Nest::WouldDeadlock
        }
        Err(error) => panic!("{error:?}"),
    }
}
