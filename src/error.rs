//! The errors of the crate, as concrete types.
//!
//! [`JobError`] and [`JobPanic`] tell how a job ended. [`ClosedError`], [`ScheduleError`] and
//! [`TryScheduleError`] are refusals of the verbs, for pools and groups alike. [`ConfigError`] comes
//! from the builders of this crate, of `millpond-server`, and of any crate that reports settings so.
//! A refusal must give the job back: the job never started and was not dropped.
//! No lock of this file is ever taken: the mutex in `JobPanic` only makes the payload `Sync`.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::{Mutex, PoisonError};

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

    /// Returns the panic that ended the job.
    ///
    /// # Errors
    ///
    /// Returns `self` if the job was cancelled.
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

/// The refusal of a closed pool or group. Contains the job, which never started.
///
/// Returned by [`try_go`](crate::Pool::try_go) and [`anyway_go`](crate::Pool::anyway_go), which refuse
/// for no other reason.
pub struct ClosedError<J>(pub J);

/// Why [`schedule`](crate::Pool::schedule) refused a job. Contains the job, which never started.
#[non_exhaustive]
pub enum ScheduleError<J> {
    /// The pool (or the group) is closed.
    Closed(J),
    /// Every slot is held by a job that itself waits for a slot, and the caller is such a job. The
    /// wait would never end. See [`OnDeadlock`](crate::OnDeadlock).
    WouldDeadlock(J),
}

/// Why a verb that never waits refused a job. Contains the job, which never started.
///
/// # Examples
///
/// ```
/// use millpond::{Pool, TryScheduleError};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let pool = Pool::new(1);
/// let first = pool.try_schedule(std::future::pending::<()>());
/// let Err(TryScheduleError::Full(job)) = pool.try_schedule(async { 5 }) else { unreachable!() };
/// assert_eq!(job.await, 5); // the job came back
/// # drop(first);
/// # }
/// ```
#[non_exhaustive]
pub enum TryScheduleError<J> {
    /// The pool (or the group) is closed.
    Closed(J),
    /// No slot and no place in the queue is free, other callers wait already, or the overflow limit
    /// is reached.
    Full(J),
}

macro_rules! refusal {
    ($name:ident { $($variant:ident => $text:literal),+ }) => {
        impl<J> $name<J> {
            /// Returns the job, for another attempt or another pool.
            pub fn into_job(self) -> J {
                match self { $(Self::$variant(job) => job),+ }
            }

            /// Returns the same refusal with another job, or with none (`map_job(drop)`).
            ///
            /// A `Box<dyn Error + Send + Sync>` needs a refusal whose job is `Sync`.
            pub fn map_job<K>(self, f: impl FnOnce(J) -> K) -> $name<K> {
                match self { $(Self::$variant(job) => $name::$variant(f(job))),+ }
            }
        }

        impl<J> fmt::Debug for $name<J> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $(Self::$variant(_) => f.write_str(concat!(stringify!($variant), "(..)"))),+ }
            }
        }

        impl<J> fmt::Display for $name<J> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant(_) => $text),+ })
            }
        }

        impl<J> Error for $name<J> {}
    };
}

refusal!(ScheduleError {
    Closed => "the pool is closed",
    WouldDeadlock => "waiting would deadlock: every slot is held by a job that waits for one"
});
refusal!(TryScheduleError {
    Closed => "the pool is closed",
    Full => "the pool is full"
});

impl<J> ClosedError<J> {
    /// Returns the job, for another pool.
    pub fn into_job(self) -> J {
        self.0
    }

    /// Returns the same refusal with another job.
    pub fn map_job<K>(self, f: impl FnOnce(J) -> K) -> ClosedError<K> {
        ClosedError(f(self.0))
    }
}

impl<J> fmt::Debug for ClosedError<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClosedError(..)")
    }
}

impl<J> fmt::Display for ClosedError<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the pool is closed")
    }
}

impl<J> Error for ClosedError<J> {}

impl<J> From<ClosedError<J>> for ScheduleError<J> {
    fn from(ClosedError(job): ClosedError<J>) -> Self {
        Self::Closed(job)
    }
}

impl<J> From<ClosedError<J>> for TryScheduleError<J> {
    fn from(ClosedError(job): ClosedError<J>) -> Self {
        Self::Closed(job)
    }
}

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
