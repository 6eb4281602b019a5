//! The jobs of a pool, one by one: [`Pool::jobs`].
//!
//! Nothing is kept for this list but the place and the history of each job, and what the pool needs anyway:
//! the wait list, the run queues, the suspended jobs of each shard, the jobs in their callers, and the place
//! of the job that a worker polls for the first time. The list is made under one lock after another. No job
//! is polled, dropped or moved for it. [`Longest`] bounds what is copied.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use crate::pool::Pool;
use crate::pool::job::{Activity, History, RawJob, SlotKind};
use crate::pool::options::{Priority, Requirements};
use crate::pool::timings::Moment;
use crate::sync::failpoint;
use crate::trace::Place;

/// What a job does; see [`JobInfo`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum JobState {
    /// The job waits for a slot: in the queue, in the wait list, or because it lent its slot.
    Waiting,
    /// The job has a slot and is to be polled.
    Ready,
    /// A thread polls the job. If that takes long, the job computes or blocks its thread.
    Polled,
    /// The job waits for its waker.
    Suspended,
    /// The job runs in its caller, which may poll it just now.
    InCaller,
}

/// One job of a pool; from [`Pool::jobs`].
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct JobInfo {
    /// Where the job was submitted.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_text"))]
    pub place: &'static Location<'static>,
    /// The name by [`JobOptions::name`](crate::JobOptions::name). `None` during a job's first poll.
    pub name: Option<&'static str>,
    /// The name of the job's group, if the group was given one; for a call of a layer with a name, the
    /// layer's name. `None` during a job's first poll.
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_str"))]
    pub group: Option<Arc<str>>,
    /// The priority. `Normal` during a job's first poll.
    pub priority: Priority,
    /// What the job does.
    pub state: JobState,
    /// The job runs beyond the pool's size. `false` during a job's first poll.
    pub is_overflow: bool,
    /// For a job that waits for its first slot: the time since its submit. For a job that was polled: the
    /// time since its first poll began. Zero for a job that is ready and was never polled.
    ///
    /// Where jobs start quickly, not each one is [measured](crate::Timings). Then the age begins at a
    /// reading of the clock up to sixteen turns of the worker earlier. While a job is in its first poll, it may
    /// begin at the first look.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::histogram::seconds"))]
    pub age: Duration,
    /// How long the job waited for its slot: from its submit to its first poll, or up to now. Zero for a job
    /// that got a slot at once. `None` during a job's first poll, and while the job waits for the slot that
    /// it lent.
    ///
    /// Exact to half a percent and a few microseconds, up to 26 days. The end of the wait is the begin of the
    /// [`age`](Self::age), and as exact as that.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::histogram::some_seconds"))]
    pub waited: Option<Duration>,
    /// How often the job was polled so far, a present poll included. 262,144 stands for that or more. `None`
    /// for a job in its caller, and while the job waits for the slot that it lent.
    pub polls: Option<u32>,
}

#[cfg(feature = "serde")]
fn as_text<S: serde::Serializer>(
    place: &&'static Location<'static>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(place)
}

#[cfg(feature = "serde")]
fn as_str<S: serde::Serializer>(name: &Option<Arc<str>>, serializer: S) -> Result<S::Ok, S::Error> {
    serde::Serialize::serialize(&name.as_deref(), serializer)
}

impl JobInfo {
    /// Makes the entry of a job of which these requirements are known.
    pub(crate) fn of_requirements(
        requirements: Requirements,
        group: Option<Arc<str>>,
        state: JobState,
        age: Duration,
    ) -> Option<Self> {
        let Requirements { place, name, priority, .. } = requirements;
        let (place, is_overflow) = (place?.0, false);
        let (waited, polls) = match state {
            JobState::InCaller => (Duration::ZERO, None),
            _ => (age, Some(0)),
        };
        let waited = Some(waited);
        Some(Self { place, name, group, priority, state, is_overflow, age, waited, polls })
    }

    /// Makes the entry of a job in its first poll.
    pub(crate) fn of_place(place: Place, age: Duration) -> Self {
        let (state, priority) = (JobState::Polled, Priority::Normal);
        let (place, is_overflow, waited, polls) = (place.0, false, None, Some(1));
        Self { place, name: None, group: None, priority, state, is_overflow, age, waited, polls }
    }

    /// Makes the entry of a job that was suspended, and that a counted reference keeps alive.
    pub(crate) fn of_suspended(job: RawJob, age: Duration) -> Self {
        let history = job.history();
        let (waited, polls) = (history.map(History::waited), history.map(History::polls));
        Self { waited, polls, ..Self::of_job(job, age) }
    }

    /// Makes the entry of a job that has a slot and was never polled, and that a counted reference keeps
    /// alive.
    pub(crate) fn of_unpolled(job: RawJob, now: Moment) -> Self {
        let waited = job.waits_since().map_or(0, |since| now.nanos_since(since));
        let (waited, polls) = (Some(Duration::from_nanos(waited)), Some(0));
        Self { waited, polls, ..Self::of_job(job, Duration::ZERO) }
    }

    fn of_job(job: RawJob, age: Duration) -> Self {
        let state = match job.activity() {
            Activity::Waiting => JobState::Waiting,
            Activity::Ready => JobState::Ready,
            Activity::Polled => JobState::Polled,
            Activity::Suspended => JobState::Suspended,
        };
        let is_overflow = job.slot_kind() == SlotKind::Overflow;
        let Requirements { name, priority, .. } = job.requirements();
        let (place, group, waited, polls) = (job.place().0, job.group(), None, None);
        Self { place, name, group, priority, state, is_overflow, age, waited, polls }
    }
}

/// The jobs with the greatest ages, up to a limit.
pub(crate) struct Longest {
    limit: usize,
    /// The youngest one is on top.
    jobs: BinaryHeap<ByAge>,
}

struct ByAge(JobInfo);

impl Ord for ByAge {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.age.cmp(&self.0.age)
    }
}

impl PartialOrd for ByAge {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByAge {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for ByAge {}

impl Longest {
    /// Takes a job of this age, if it is among the longest.
    pub(crate) fn offer(&mut self, age: Duration, job: impl FnOnce() -> Option<JobInfo>) {
        if self.jobs.len() == self.limit {
            let is_short = |youngest: &ByAge| age <= youngest.0.age;
            if self.jobs.peek().is_none_or(is_short) != failpoint("the shortest jobs are listed") {
                return;
            }
            self.jobs.pop();
        }
        self.jobs.extend(job().map(ByAge));
    }
}

/// The jobs that have come to a limit of their age.
pub(crate) struct SlowJobs {
    now: Moment,
    limit: u64,
    /// The nanoseconds until the next job comes to the limit.
    next: u64,
    pub(crate) found: Vec<JobInfo>,
}

impl SlowJobs {
    pub(crate) fn new(now: Moment, limit: Duration) -> Self {
        let limit = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX);
        Self { now, limit, next: limit, found: Vec::new() }
    }

    pub(crate) fn now(&self) -> Moment {
        self.now
    }

    /// Returns the time until the next job comes to the limit.
    pub(crate) fn next(&self) -> Duration {
        Duration::from_nanos(self.next)
    }

    /// Returns the age of a job that began at `since`, if it has come to the limit.
    pub(crate) fn age(&mut self, since: Moment) -> Option<Duration> {
        let age = self.now.nanos_since(since);
        if age < self.limit {
            self.next = self.next.min(self.limit - age);
            return None;
        }
        Some(Duration::from_nanos(age))
    }
}

impl Pool {
    /// Returns the jobs that run or wait, the longest first, at most `limit`.
    ///
    /// The list looks at each job of the pool under the pool's locks, so a million jobs hold up the pool for
    /// some milliseconds. Jobs that are handed from one thread to another during the look may be missing or
    /// listed twice, such as the few that a worker has taken from its queue.
    /// [`status`](Self::status) has exact numbers. Reserved slots and [`Reserver`](crate::Reserver)s are no
    /// jobs.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    ///
    /// use millpond::{JobOptions, JobState, Pool};
    ///
    /// let pool = Pool::builder().size(1).queue(1).build()?;
    /// let options = JobOptions::new().name("import");
    /// pool.with(options).schedule(std::future::pending::<()>()).await?;
    /// tokio::time::sleep(Duration::from_secs(2)).await;
    /// pool.schedule(async {}).await?; // is queued
    ///
    /// let jobs = pool.jobs(20);
    /// assert_eq!((jobs[0].name, jobs[0].state), (Some("import"), JobState::Suspended));
    /// assert!(jobs[0].place.line() < jobs[1].place.line());
    /// assert!(jobs[0].age >= Duration::from_secs(2));
    /// assert_eq!(jobs[1].state, JobState::Waiting);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "console")]
    #[doc(alias = "tasks")]
    pub fn jobs(&self, limit: usize) -> Vec<JobInfo> {
        let mut longest = Longest { limit, jobs: BinaryHeap::new() };
        self.shared().list_jobs(&mut longest);
        longest.jobs.into_sorted_vec().into_iter().map(|job| job.0).collect()
    }
}
