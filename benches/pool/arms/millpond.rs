//! The crate under test, used as its documentation shows it.

use millpond::{JobError, JobHandle, Pool};

use super::{Job, Submit};

#[derive(Clone)]
pub struct Millpond(Pool);

impl Submit for Millpond {
    type Lost = JobError;
    type Handle = JobHandle<()>;

    fn new(size: usize) -> Self {
        Self(Pool::new(size))
    }

    async fn feed<J: Job>(&self, jobs: impl Iterator<Item = J> + Send) {
        for job in jobs {
            drop(self.0.schedule(job).await.expect("the pool is open"));
        }
    }

    async fn submit(&self, job: impl Job) -> Self::Handle {
        let Ok(handle) = self.0.schedule(job).await else { panic!("the pool was closed") };
        handle
    }
}
