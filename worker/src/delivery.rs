//! One delivery: run the message's code with a group, wait for its jobs, decide, settle.
//!
//! [`Processor`] is what all messages of a worker share. The worker polls [`Processor::deliver`] for each
//! message, or for each key, in a starter or in a task of its own. No slot of the pool and no lock is held
//! meanwhile. A settlement must never start while jobs of the message run (W5 of `claims`).

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use millpond::{GroupBuilder, GroupError, JobError, Pool, SubmitErrorKind};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::Jobs;
use crate::backoff::Backoff;
use crate::claims::Claim;
use crate::failpoint::failpoint;
use crate::failure::Failure;
use crate::receipt::{DeadReason, Receipt};
use crate::report::Counters;
use crate::trace::event;

/// How long jobs have to end after the drain deadline has cancelled them.
pub(crate) const GRACE: Duration = Duration::from_millis(50);

/// What all deliveries of a worker share.
pub(crate) struct Processor<F> {
    pub(crate) pool: Pool,
    /// The settings of each message's group.
    pub(crate) group: GroupBuilder<Result<(), Failure>>,
    pub(crate) code: F,
    pub(crate) retry: Backoff,
    /// No message is started, and none is tried again in place.
    pub(crate) drain: CancellationToken,
    /// The drain deadline: what runs is cancelled and given back.
    pub(crate) cut: CancellationToken,
}

/// The message once more, for another attempt in place, and how it is cloned.
type Again<M> = Option<(M, fn(&M) -> M)>;

/// How an attempt ended.
enum Attempt {
    Succeeded,
    Failed(Failure),
    /// The claim was lost.
    Lost,
    /// The worker stops. No fault of the message.
    Stopped,
}

impl<F> Processor<F> {
    /// Whether the pool was closed. One that the end of another runtime has closed opens again with the
    /// next job.
    pub(crate) fn is_closed(&self) -> bool {
        let refused = || self.pool.try_schedule(async {}).map_err(|error| error.kind());
        self.pool.is_closed()
            && (failpoint("a pool never opens again")
                || matches!(refused(), Err(SubmitErrorKind::Closed)))
    }

    /// Works on a message and settles it, but for an acknowledgement: the caller gets the
    /// claim for it. With `again`, a message that fails is tried again in place, and keeps its claim
    /// meanwhile.
    pub(crate) async fn deliver<M, Fut, R>(
        &self,
        counters: &Counters,
        message: M,
        claim: Claim<R>,
        again: Option<fn(&M) -> M>,
    ) -> Option<Claim<R>>
    where
        F: Fn(M, Jobs) -> Fut,
        Fut: Future<Output = Result<(), Failure>>,
        R: Receipt,
    {
        let kept = again.map(|clone| clone(&message));
        match self.attempt(counters, message, &claim).await {
            Attempt::Succeeded => Some(claim),
            // In a box, as most messages do without, and each is as large as its longest way.
            ended => Box::pin(self.settle(counters, ended, claim, kept.zip(again))).await,
        }
    }

    /// Settles a message that did not succeed, or tries it again, with `again`, until it does.
    async fn settle<M, Fut, R>(
        &self,
        counters: &Counters,
        mut ended: Attempt,
        claim: Claim<R>,
        mut again: Again<M>,
    ) -> Option<Claim<R>>
    where
        F: Fn(M, Jobs) -> Fut,
        Fut: Future<Output = Result<(), Failure>>,
        R: Receipt,
    {
        let mut delivery = claim.deliveries;
        loop {
            let failure = match ended {
                Attempt::Succeeded => return Some(claim),
                Attempt::Stopped => {
                    claim.nack(Duration::ZERO).await;
                    return None;
                }
                Attempt::Lost => return None,
                Attempt::Failed(failure) => failure,
            };
            if failpoint("a failure is acknowledged") {
                return Some(claim);
            }
            let is_last = self.retry.is_last(delivery) && !failpoint("no attempt is the last");
            if failure.is_dead() && !failpoint("what is dead is tried again") || is_last {
                event!(ERROR, %failure, delivery, "message goes to the dead letters");
                let (reason, place) = (failure.to_string(), failure.place());
                claim.dead(&DeadReason { reason, deliveries: delivery, place }).await;
                return None;
            }
            let pause = self.retry.pause(delivery);
            event!(WARN, %failure, delivery, ?pause, "message failed");
            let Some((message, clone)) = again else {
                claim.nack(pause).await;
                return None;
            };
            let end_of_pause = Instant::now() + pause;
            tokio::select! {
                () = claim.lost() => return None,
                drained = timeout_at(end_of_pause, self.drain.cancelled()) => {
                    if drained.is_ok() {
                        claim.nack(end_of_pause - Instant::now()).await;
                        return None;
                    }
                }
            }
            delivery += 1;
            again = Some((clone(&message), clone));
            ended = self.attempt(counters, message, &claim).await;
        }
    }

    /// Runs the code and waits for its jobs, unless the claim is lost already. Returns when all jobs
    /// have ended.
    async fn attempt<M, Fut, R>(&self, counters: &Counters, message: M, claim: &Claim<R>) -> Attempt
    where
        F: Fn(M, Jobs) -> Fut,
        Fut: Future<Output = Result<(), Failure>>,
        R: Receipt,
    {
        if claim.is_lost() && !failpoint("a late message is started") {
            return Attempt::Lost;
        }
        let jobs: Jobs =
            self.group.clone().build().expect("a group without a quota has no invalid setting");
        let ended = {
            // Pinned here, as a move costs more than what most messages do.
            let mut process = pin!(self.process(message, &jobs));
            tokio::select! {
                biased;
                // First, as most messages end without a look at the others.
                result = process.as_mut() => match result {
                    Ok(()) => Attempt::Succeeded,
                    // The jobs were refused or cancelled with their pool.
                    Err(_) if self.pool.is_closed() => Attempt::Stopped,
                    Err(failure) => Attempt::Failed(failure),
                },
                () = claim.lost(), if !failpoint("the loser goes on") => Attempt::Lost,
                () = self.cut.cancelled() => Attempt::Stopped,
            }
        };
        if matches!(ended, Attempt::Lost | Attempt::Stopped) {
            Box::pin(self.stop(&jobs)).await;
        }
        counters.jobs(&jobs.report());
        ended
    }

    /// Cancels jobs and waits for their ends; at the drain deadline for [`GRACE`] at most.
    async fn stop(&self, jobs: &Jobs) {
        jobs.close();
        jobs.cancel();
        if failpoint("given back before its jobs ended") {
            return;
        }
        tokio::select! {
            _ = jobs.wait() => {}
            () = async { self.cut.cancelled().await; sleep(GRACE).await } => {}
        }
    }

    /// Calls the code, then waits for its jobs. Returns the first failure in time.
    async fn process<M, Fut>(&self, message: M, jobs: &Jobs) -> Result<(), Failure>
    where
        F: Fn(M, Jobs) -> Fut,
        Fut: Future<Output = Result<(), Failure>>,
    {
        // The call itself may panic, too.
        let code = pin!(async { (self.code)(message, jobs.clone()).await });
        let result = AssertUnwindSafe(code).catch_unwind().await.unwrap_or_else(|payload| {
            let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
            let text = text.unwrap_or_else(|| "no message".to_owned());
            Err(Failure::without_place(format!("the code panicked: {text}")))
        });
        jobs.close();
        match result {
            // Most likely the code stopped because a job had failed. That failure tells more.
            Err(failure) if !jobs.is_failed() => {
                if !failpoint("a failed code leaves its jobs") {
                    jobs.cancel();
                }
                jobs.wait().await;
                Err(failure)
            }
            _ => jobs.try_join().await.map(drop).map_err(failure_of),
        }
    }
}

/// Makes the failure of a message from that of its job.
fn failure_of(error: GroupError<Result<(), Failure>>) -> Failure {
    let index = error.index();
    match error.into_result() {
        Some(Ok(Err(failure))) => failure.of_job(index),
        Some(Err(JobError::Panicked(panic))) => {
            Failure::without_place(JobError::Panicked(panic)).of_job(index)
        }
        Some(Err(error)) => Failure::without_place(error).of_job(index),
        // The code has read the outcome. It is known to be a failure.
        Some(Ok(Ok(()))) | None => Failure::without_place("the job failed").of_job(index),
    }
}
