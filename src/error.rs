//! The errors of the crate, as concrete types.
//!
//! [`JobError`] and [`JobPanic`] tell how a job ended. [`SubmitError`] is the refusal of all verbs,
//! for pools and groups alike; [`SubmitErrorKind`] is its reason, which the limiter or a sink gives.
//! [`ConfigError`] comes from the builders of this crate, of `millpond-server`, and of any crate
//! that reports settings so.
//! A refusal must give the job back: the job never started and was not dropped.
//! No lock of this file is ever taken: the mutex in `JobPanic` only makes the payload `Sync`.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sync_wrapper::SyncWrapper;

/// How a job ended without an output.
///
/// A panic of a job ends that job alone. Its worker continues, and its slot is free again.
#[derive(Debug)]
#[non_exhaustive]
pub enum JobError {
    /// The job was aborted, or its pool, group or runtime was shut down before it could finish.
    Cancelled,
    /// The job panicked, in its body or in its destructor.
    Panicked(JobPanic),
    /// The deadline of the job passed. The job never ran, unless
    /// [`expire_running`](crate::JobOptions::expire_running) was set: then it may have been cancelled
    /// while it ran.
    Expired,
}

impl JobError {
    /// Returns whether the job was cancelled.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled)
    }

    /// Returns whether the job panicked.
    pub fn is_panic(&self) -> bool {
        matches!(self, Self::Panicked(_))
    }

    /// Returns whether the deadline of the job passed.
    pub fn is_expired(&self) -> bool {
        matches!(self, Self::Expired)
    }

    /// Returns the panic that ended the job.
    ///
    /// # Errors
    ///
    /// Returns `self` if the job did not panic.
    pub fn into_panic(self) -> Result<JobPanic, Self> {
        match self {
            Self::Panicked(panic) => Ok(panic),
            other => Err(other),
        }
    }

    pub(crate) fn panicked(payload: Box<dyn Any + Send>) -> Self {
        Self::Panicked(JobPanic::new(payload))
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled => f.write_str("the job was cancelled"),
            Self::Expired => f.write_str("the deadline of the job passed"),
            Self::Panicked(panic) => match panic.message() {
                Some(message) => write!(f, "the job panicked: {message}"),
                None => f.write_str("the job panicked"),
            },
        }
    }
}

impl Error for JobError {}

/// The panic of a job: its message and its payload.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let pool = millpond::Pool::new(1);
/// let handle = pool.schedule(async { panic!("no input") }).await?;
/// let panic = handle.await.unwrap_err().into_panic().unwrap();
/// assert_eq!(panic.message(), Some("no input"));
/// # Ok(())
/// # }
/// ```
pub struct JobPanic(Box<Caught>);

struct Caught {
    message: Option<Cow<'static, str>>,
    // An error has to be `Sync`, and a payload need not be. The mutex adds that, and is never locked.
    payload: Mutex<Box<dyn Any + Send>>,
}

impl JobPanic {
    pub(crate) fn new(payload: Box<dyn Any + Send>) -> Self {
        let message = match payload.downcast_ref::<&'static str>() {
            Some(message) => Some(Cow::Borrowed(*message)),
            None => payload.downcast_ref::<String>().map(|message| Cow::Owned(message.clone())),
        };
        Self(Box::new(Caught { message, payload: Mutex::new(payload) }))
    }

    /// Returns the message, if the payload is a string. The payloads of [`panic!`] are strings.
    pub fn message(&self) -> Option<&str> {
        self.0.message.as_deref()
    }

    /// Returns the payload of the panic.
    pub fn into_payload(self) -> Box<dyn Any + Send> {
        self.0.payload.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Continues the panic in the caller, with the same payload.
    ///
    /// # Panics
    ///
    /// Always panics.
    pub fn resume(self) -> ! {
        std::panic::resume_unwind(self.into_payload())
    }
}

impl fmt::Debug for JobPanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobPanic").field("message", &self.message()).finish_non_exhaustive()
    }
}

/// Why a verb refused a job; from [`SubmitError::kind`].
///
/// The texts of all kinds differ. A kind is an [`Error`], so a program that has no use for the job
/// can pass the kind on: `pool.try_schedule(job).map_err(|refused| refused.kind())?`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SubmitErrorKind {
    /// No slot and no place in the queue is free, other callers wait already, or the overflow limit
    /// is reached. Verbs that wait never return this.
    Full,
    /// The quota of the group is used up; its pool may have room. Verbs that wait never return this.
    GroupFull,
    /// No slot came within the limit of the wait. Another attempt may succeed.
    TimedOut,
    /// The deadline of the job passed before a slot came. See
    /// [`JobOptions::deadline`](crate::JobOptions::deadline).
    Expired,
    /// The pool is overloaded: callers wait for longer than
    /// [`target_wait`](crate::PoolBuilder::target_wait). Another attempt may succeed later.
    Shed {
        /// How long the callers that wait now will take. Earlier attempts are likely to be in vain.
        retry_after: Duration,
    },
    /// The pool is closed.
    Closed,
    /// The group is closed; its pool may be open.
    GroupClosed,
    /// A job of the group failed, and the group takes no more jobs because of that.
    GroupFailed,
    /// The runtime of the pool has shut down.
    RuntimeGone,
    /// The caller is a job of this pool that reserves a slot, or blocks its thread, and every other
    /// slot is held by such a job as well. The wait would never end. A job that awaits `schedule`, a
    /// handle or a group lends its slot instead.
    WouldDeadlock,
}

impl SubmitErrorKind {
    /// Whether room was missing. Another attempt may succeed.
    pub fn is_full(self) -> bool {
        matches!(self, Self::Full | Self::GroupFull | Self::TimedOut | Self::Shed { .. })
    }

    /// Whether no attempt can succeed any more on this pool or group: all kinds but
    /// [`Full`](Self::Full), [`GroupFull`](Self::GroupFull), [`TimedOut`](Self::TimedOut),
    /// [`Shed`](Self::Shed), [`Expired`](Self::Expired) and [`WouldDeadlock`](Self::WouldDeadlock).
    pub fn is_closed(self) -> bool {
        !(self.is_full() || matches!(self, Self::Expired | Self::WouldDeadlock))
    }

    /// Returns how long to wait before another attempt, if the pool knows: it was overloaded.
    pub fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Shed { retry_after } => Some(retry_after),
            _ => None,
        }
    }
}

impl fmt::Display for SubmitErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the pool is full",
            Self::GroupFull => "the group is full: its quota is used up",
            Self::TimedOut => "no slot was free within the limit of the wait",
            Self::Expired => "the deadline of the job passed before a slot was free",
            Self::Shed { .. } => "the pool is overloaded: callers wait for longer than its target",
            Self::Closed => "the pool is closed",
            Self::GroupClosed => "the group is closed",
            Self::GroupFailed => {
                "the group failed: one of its jobs failed, and it takes no more jobs"
            }
            Self::RuntimeGone => {
                "the pool's runtime has shut down; a pool runs jobs only while its runtime lives"
            }
            Self::WouldDeadlock => {
                "waiting would deadlock: every slot is held by a job that waits for a slot and cannot lend its own"
            }
        })
    }
}

impl Error for SubmitErrorKind {}

/// A refusal: why a verb refused a job, and the job, which never started.
///
/// All verbs of pools, groups, reservers and slots return this type. It is `Send + Sync + 'static`
/// for every job that a pool takes, so `?` works in functions that return an `anyhow::Result` or a
/// `Box<dyn Error + Send + Sync>`. Its text does not depend on the job.
///
/// # Examples
///
/// [`into_parts`](Self::into_parts) gives the reason and the job at once, and no arm of the `match`
/// loses the job:
///
/// ```
/// use millpond::{Pool, SubmitError, SubmitErrorKind};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let pool = Pool::new(1);
/// let first = pool.try_schedule(std::future::pending::<u32>());
/// let value = match pool.try_schedule(async { 5 }).map_err(SubmitError::into_parts) {
///     Ok(handle) => handle.await.unwrap_or(0),
///     Err((SubmitErrorKind::Full, job)) => job.await,
///     Err((kind, job)) => {
///         eprintln!("the job runs here: {kind}");
///         job.await
///     }
/// };
/// assert_eq!(value, 5);
/// # drop(first);
/// # }
/// ```
///
/// The job of a boxed future that is not `Sync`:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
/// use std::{future::Future, pin::Pin};
///
/// let pool = millpond::Pool::new(4);
/// let job: Pin<Box<dyn Future<Output = u32> + Send>> = Box::pin(async { 7 });
/// assert_eq!(pool.schedule(job).await?.await?, 7);
/// # Ok(())
/// # }
/// ```
#[doc(alias = "TrySendError")]
pub struct SubmitError<J = ()> {
    kind: SubmitErrorKind,
    // An error has to be `Sync`, and a job need not be.
    job: SyncWrapper<J>,
}

impl<J> SubmitError<J> {
    pub(crate) fn new(kind: SubmitErrorKind, job: J) -> Self {
        Self { kind, job: SyncWrapper::new(job) }
    }

    /// Returns why the job was refused.
    pub fn kind(&self) -> SubmitErrorKind {
        self.kind
    }

    /// Returns the job, for another attempt or another pool.
    pub fn into_job(self) -> J {
        self.job.into_inner()
    }

    /// Returns the reason and the job, for a `match` that loses neither.
    pub fn into_parts(self) -> (SubmitErrorKind, J) {
        (self.kind, self.job.into_inner())
    }

    /// Returns the same refusal with another job, or with none (`map_job(drop)`).
    pub fn map_job<K>(self, f: impl FnOnce(J) -> K) -> SubmitError<K> {
        SubmitError::new(self.kind, f(self.into_job()))
    }

    /// Whether room was missing; see [`SubmitErrorKind::is_full`].
    pub fn is_full(&self) -> bool {
        self.kind.is_full()
    }

    /// Whether no attempt can succeed any more; see [`SubmitErrorKind::is_closed`].
    pub fn is_closed(&self) -> bool {
        self.kind.is_closed()
    }
}

impl<J> fmt::Debug for SubmitError<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubmitError").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl<J> fmt::Display for SubmitError<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }
}

impl<J> Error for SubmitError<J> {}

/// An invalid setting. Names the field, its value and the accepted values.
///
/// # Examples
///
/// ```
/// let error = millpond::Pool::builder().size(0).build().unwrap_err();
/// assert_eq!((error.field(), error.value()), ("size", "0"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    field: &'static str,
    value: String,
    accepted: &'static str,
}

impl ConfigError {
    /// Makes the error of a setting, for builders of other crates on top of a pool. `accepted`
    /// completes the sentence "accepted is ...".
    ///
    /// # Examples
    ///
    /// ```
    /// use millpond::ConfigError;
    ///
    /// fn checked_workers(workers: usize) -> Result<usize, ConfigError> {
    ///     match workers {
    ///         1..=64 => Ok(workers),
    ///         _ => Err(ConfigError::new("workers", workers, "a number from 1 to 64")),
    ///     }
    /// }
    ///
    /// let error = checked_workers(0).unwrap_err();
    /// assert_eq!(error.to_string(), "`workers` cannot be 0: accepted is a number from 1 to 64");
    /// ```
    pub fn new(field: &'static str, value: impl ToString, accepted: &'static str) -> Self {
        Self { field, value: value.to_string(), accepted }
    }

    /// Returns the name of the setting, as on the builder.
    pub fn field(&self) -> &str {
        self.field
    }

    /// Returns the refused value.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Returns the accepted values.
    pub fn accepted(&self) -> &str {
        self.accepted
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` cannot be {}: accepted is {}", self.field, self.value, self.accepted)
    }
}

impl Error for ConfigError {}
