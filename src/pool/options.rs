//! What a job may ask for beside a slot: a priority, a key, and a deadline.
//!
//! [`JobOptions`] is the public form. A job carries its [`Deadline`] in its cell. The limiter needs
//! the [`Requirements`] alone.

use std::time::Duration;

use tokio::time::Instant;

use crate::trace::Place;

/// How important a job is beside the others that wait.
///
/// A free slot goes to the highest priority that has a waiter; within a priority, the order is first
/// come, first served; [keys](JobOptions::key) take turns. No priority starves: while a lower one waits, it
/// receives a sixteenth of the slots at least. A running job is never stopped for another one.
///
/// The five classes follow Failsafe's `Priority`.
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// Work that only fills what the others leave.
    Background,
    /// Work that may be late.
    Low,
    /// What a job has without options.
    #[default]
    Normal,
    /// Work that is waited for.
    High,
    /// Work that the rest depends on, such as health checks.
    Critical,
}

/// The number of priorities.
pub(crate) const PRIORITIES: usize = Priority::Critical as usize + 1;

/// What a job asks for beside a slot; given to [`Pool::with`](crate::Pool::with) and
/// [`GroupBuilder::options`](crate::GroupBuilder::options).
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
///
/// use millpond::{JobError, JobOptions, Pool, Priority};
///
/// let pool = Pool::new(1);
/// let stuck = pool.schedule(std::future::pending::<()>()).await?;
/// let options = JobOptions::new().priority(Priority::High).timeout(Duration::from_millis(10));
/// // No slot is free for 10 ms, so the job never runs.
/// let handle = pool.with(options).anyway_go(async { 7 })?.into_handle();
/// assert!(matches!(handle.await, Err(JobError::Expired)));
/// stuck.abort();
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use = "options do nothing until they are given to a pool or a group"]
pub struct JobOptions {
    priority: Priority,
    key: Option<u64>,
    deadline: Option<Instant>,
    expire_running: bool,
    own_deadline: bool,
    name: Option<&'static str>,
}

impl JobOptions {
    /// Makes the options of a job without options.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the priority. Default [`Priority::Normal`].
    pub fn priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Sets the key of the tenant, user or client that the job is for. Default: none.
    ///
    /// Among waiters of a priority, the keys take turns. Each key that waits has one slot in each round,
    /// however many jobs of other keys wait. Within a key the order is first come, first served. So a
    /// tenant that floods the pool makes its own jobs wait, and not those of the others. A job costs one
    /// turn, however long it runs (deficit round robin with jobs of one cost). A key that begins to wait goes
    /// before those that always wait, which still have one slot in 64. All jobs of the priority
    /// without a key count as one key. While no job with a key waits, nothing changes.
    ///
    /// The keys that wait stand in a table of a bounded size, for any number of keys. While more than
    /// about 200 keys of a priority wait at once, some of them share a turn. Which ones is decided by a secret
    /// of the pool, and anew after each time that the line was empty.
    ///
    /// Keys order the waiters for slots. Places in the [`queue`](crate::PoolBuilder::queue) stay first come,
    /// first served, so use a short queue, or none. So do the waiters of a group whose
    /// [`quota`](crate::GroupBuilder::quota) is used up.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use std::sync::{Arc, Mutex};
    ///
    /// use millpond::{JobOptions, Pool};
    ///
    /// let pool = Pool::new(1);
    /// let held = pool.reserve().await?;
    /// let order = Arc::new(Mutex::new(Vec::new()));
    /// let mut handles = Vec::new();
    /// for tenant in [1, 1, 1, 2] {
    ///     let order = order.clone();
    ///     let view = pool.with(JobOptions::new().key(tenant));
    ///     let job = async move { order.lock().unwrap().push(tenant) };
    ///     handles.push(view.anyway_go(job)?.into_handle());
    /// }
    /// drop(held);
    /// for handle in handles {
    ///     handle.await?;
    /// }
    /// assert_eq!(*order.lock().unwrap(), [1, 2, 1, 1]);
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "tenant")]
    #[doc(alias = "fair")]
    pub fn key(mut self, key: u64) -> Self {
        self.key = Some(key);
        self
    }

    /// Sets the moment after which the job does not start any more. Default: none.
    ///
    /// A job that waits for a slot until then never runs. A submit that still waits gives the job back as
    /// [`Expired`](crate::SubmitErrorKind::Expired), and an admitted job ends as
    /// [`JobError::Expired`](crate::JobError::Expired); both at once. A running job goes on, unless
    /// [`expire_running`](Self::expire_running) is set.
    ///
    /// The jobs that a job submits, to any pool, have its deadline too, or an earlier one of their own. So
    /// the budget of a request bounds all that the request fans out to. A task of its own, and a job that
    /// was given [`own_deadline`](Self::own_deadline), inherit nothing.
    ///
    /// Deadlines follow tokio's clock, also where it is paused.
    pub fn deadline(mut self, at: Instant) -> Self {
        self.deadline = Some(at);
        self
    }

    /// Sets the [`deadline`](Self::deadline) so far from now. A deadline beyond what the clock can tell is
    /// none.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.deadline = Instant::now().checked_add(limit);
        self
    }

    /// Sets whether a job that runs is cancelled at its deadline, and ends as
    /// [`JobError::Expired`](crate::JobError::Expired). Default `false`. A job that runs in its caller is
    /// not cancelled: drop the future of `try_go` for that.
    pub fn expire_running(mut self, expire_running: bool) -> Self {
        self.expire_running = expire_running;
        self
    }

    /// Sets whether the job ignores the deadline of the job that submits it. Default `false`.
    pub fn own_deadline(mut self, own_deadline: bool) -> Self {
        self.own_deadline = own_deadline;
        self
    }

    /// Sets a name for the job in [`Pool::jobs`](crate::Pool::jobs) and in the event of
    /// [`PoolBuilder::slow_job`](crate::PoolBuilder::slow_job). Default: none, and the place of the
    /// submit tells the job.
    pub fn name(mut self, name: &'static str) -> Self {
        self.name = Some(name);
        self
    }

    /// Returns the deadline of a job with these options that a job with the deadline `outer` submits.
    pub(crate) fn resolve(&self, outer: Option<Deadline>) -> Option<Deadline> {
        let own = self.deadline.map(|at| Deadline { at, expire_running: self.expire_running });
        let outer = outer.filter(|_| !self.own_deadline);
        match (own, outer) {
            (Some(own), Some(outer)) if outer.at < own.at => Some(outer),
            (own, outer) => own.or(outer),
        }
    }

    /// What the limiter must know of a job with these options, but for the deadline and the place.
    pub(crate) fn requirements(&self) -> Requirements {
        let Self { priority, key, name, .. } = *self;
        Requirements { priority, key, name, ..Requirements::default() }
    }
}

/// The deadline of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    /// The job is cancelled then if it runs.
    pub(crate) expire_running: bool,
}

/// What the limiter must know of a job that waits, and what it tells of a job that it knows nothing else
/// of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Requirements {
    pub(crate) priority: Priority,
    pub(crate) key: Option<u64>,
    pub(crate) deadline: Option<Instant>,
    /// Under overload the caller may be refused, although it asked for no target.
    pub(crate) is_request: bool,
    /// Where the job was submitted; `None` for a reserver.
    pub(crate) place: Option<Place>,
    pub(crate) name: Option<&'static str>,
}

impl Requirements {
    /// The index of the priority.
    #[inline]
    pub(crate) fn class(&self) -> usize {
        self.priority as usize
    }
}
