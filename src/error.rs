//! What can go wrong, as concrete types: a refusal hands the caller's job back.

use std::any::Any;
use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// How a job ended other than by returning a value.
///
/// A panic of a job costs that job alone: its worker and its slot go on.
#[derive(Debug)]
#[non_exhaustive]
pub enum JobError {
    /// The job was aborted, or its pool, group or runtime was shut down before it could finish.
    Cancelled,
    /// The job panicked, in its body or in its destructor.
    Panicked(JobPanic),
}

impl JobError {
    /// Whether the job was cancelled.
    pub fn is_cancelled(&self) -> bool {
        matches!(self, Self::Cancelled)
    }

    /// Whether the job panicked.
    pub fn is_panic(&self) -> bool {
        matches!(self, Self::Panicked(_))
    }

    /// The panic, if that is how the job ended; otherwise the error itself.
    ///
    /// # Errors
    ///
    /// Gives `self` back when the job was cancelled.
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

/// A panic caught in a job: its message and its payload.
pub struct JobPanic(Box<Caught>);

struct Caught {
    message: Option<Cow<'static, str>>,
    // Payloads need not be `Sync`, errors do: the mutex lends them that and is never locked.
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

    /// The panic's message, if it was a string, as the ones of [`panic!`] are.
    pub fn message(&self) -> Option<&str> {
        self.0.message.as_deref()
    }

    /// What was passed to the panic.
    pub fn into_payload(self) -> Box<dyn Any + Send> {
        self.0.payload.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on panicking with the same payload, in the caller.
    ///
    /// # Panics
    ///
    /// Always: that is its purpose.
    pub fn resume(self) -> ! {
        std::panic::resume_unwind(self.into_payload())
    }
}

impl fmt::Debug for JobPanic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobPanic").field("message", &self.message()).finish_non_exhaustive()
    }
}

/// Refused: the pool (or the group) is closed. Holds the job, which never started.
pub struct ClosedError<J>(pub J);

/// Why [`schedule`](crate::Pool::schedule) did not take a job. Holds the job, which never started.
#[non_exhaustive]
pub enum ScheduleError<J> {
    /// The pool (or the group) is closed.
    Closed(J),
    /// Every slot is held by a job that itself waits in the wait list, the caller among them: waiting
    /// could never end. See [`OnDeadlock`](crate::OnDeadlock).
    WouldDeadlock(J),
}

/// Why a job that may not wait was refused. Holds the job, which never started.
#[non_exhaustive]
pub enum TryScheduleError<J> {
    /// The pool (or the group) is closed.
    Closed(J),
    /// No slot and no place in the queue is free, the overflow limit is reached, or others
    /// wait already.
    Full(J),
}

macro_rules! refusal {
    ($name:ident { $($variant:ident => $text:literal),+ }) => {
        impl<J> $name<J> {
            /// The job, to be tried again or elsewhere.
            pub fn into_job(self) -> J {
                match self { $(Self::$variant(job) => job),+ }
            }

            /// The same refusal around another job, or around none (`map_job(drop)`): an error
            /// that is passed on as a `Box<dyn Error + Send + Sync>` needs one that is `Sync`.
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
    /// The job, to be tried elsewhere.
    pub fn into_job(self) -> J {
        self.0
    }

    /// The same refusal around another job.
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

/// A setting that cannot be: names the field, the value it was given and what is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    field: &'static str,
    value: String,
    accepted: &'static str,
}

impl ConfigError {
    #[doc(hidden)]
    pub fn new(field: &'static str, value: impl ToString, accepted: &'static str) -> Self {
        Self { field, value: value.to_string(), accepted }
    }

    /// The setting's name, as on the builder.
    pub fn field(&self) -> &str {
        self.field
    }

    /// The value it was given.
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What would be accepted.
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
