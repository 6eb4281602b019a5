//! Why a call gave no response.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::error::{JobError, JobPanic, SubmitErrorKind};

/// Why a call gave no response.
///
/// Converts into tower's `BoxError` if `E` can be printed. The inner error is part of the text and
/// not the [`source`](Error::source), so `E` need not be an [`Error`].
#[derive(Debug)]
#[non_exhaustive]
pub enum CallError<E> {
    /// The pool is full. The call has not started.
    Overloaded,
    /// The quota of the layer's group is used up. The call has not started.
    GroupOverloaded,
    /// The pool is overloaded: calls wait for longer than
    /// [`target_wait`](crate::PoolBuilder::target_wait). The call has not started.
    Shed {
        /// How long the calls that wait now will take, for a `Retry-After`.
        retry_after: Duration,
    },
    /// The deadline of the call passed. The call has not started, unless it asked to be cancelled
    /// while it runs.
    Expired,
    /// The pool is closed. The call has not started.
    Closed,
    /// The layer's group is closed. The call has not started.
    GroupClosed,
    /// A job of the layer's group failed, and the group takes no more calls because of that. The
    /// call has not started.
    GroupFailed,
    /// The runtime of the pool has shut down. The call has not started.
    RuntimeGone,
    /// The call panicked.
    Panicked(JobPanic),
    /// The call was cancelled: by its group, or by the shutdown of the pool or the runtime.
    Cancelled,
    /// The wrapped service failed.
    Inner(E),
}

impl<E> CallError<E> {
    /// Whether the call has not started. If so, trying it again is safe, here or elsewhere.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// use millpond::Pool;
    /// use millpond::layer::{CallError, PoolLayer};
    /// use tower::{BoxError, Layer, ServiceExt, service_fn};
    ///
    /// let pool = Pool::new(1);
    /// let service = PoolLayer::try_schedule(&pool)
    ///     .layer(service_fn(|(): ()| async { Ok::<_, std::io::Error>(()) }));
    /// let held = pool.try_schedule(std::future::pending::<()>())?;
    /// let error = service.oneshot(()).await.unwrap_err();
    /// assert!(error.is_refusal());
    /// // The error is found behind layers that box their errors, too.
    /// let boxed = BoxError::from(error);
    /// assert!(boxed.downcast_ref::<CallError<std::io::Error>>().unwrap().is_refusal());
    /// # held.abort();
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "is_retryable")]
    pub fn is_refusal(&self) -> bool {
        self.refusal().is_some()
    }

    /// Returns why the pool or the group refused the call, or `None` if the call has started.
    pub fn refusal(&self) -> Option<SubmitErrorKind> {
        match self {
            Self::Overloaded => Some(SubmitErrorKind::Full),
            Self::GroupOverloaded => Some(SubmitErrorKind::GroupFull),
            Self::Shed { retry_after } => Some(SubmitErrorKind::Shed { retry_after: *retry_after }),
            Self::Closed => Some(SubmitErrorKind::Closed),
            Self::GroupClosed => Some(SubmitErrorKind::GroupClosed),
            Self::GroupFailed => Some(SubmitErrorKind::GroupFailed),
            Self::RuntimeGone => Some(SubmitErrorKind::RuntimeGone),
            Self::Panicked(_) | Self::Cancelled | Self::Expired | Self::Inner(_) => None,
        }
    }

    /// Returns how long a client should wait before another attempt, if the pool knows.
    pub fn retry_after(&self) -> Option<Duration> {
        self.refusal().and_then(SubmitErrorKind::retry_after)
    }

    /// Returns the error of the wrapped service.
    ///
    /// # Errors
    ///
    /// Returns `self` if the error is not [`Inner`](Self::Inner).
    pub fn into_inner(self) -> Result<E, Self> {
        match self {
            Self::Inner(error) => Ok(error),
            other => Err(other),
        }
    }
}

impl CallError<Infallible> {
    /// Converts into the error of a service whose own errors are `E`.
    pub(crate) fn with_inner<E>(self) -> CallError<E> {
        match self {
            Self::Overloaded => CallError::Overloaded,
            Self::GroupOverloaded => CallError::GroupOverloaded,
            Self::Shed { retry_after } => CallError::Shed { retry_after },
            Self::Expired => CallError::Expired,
            Self::Closed => CallError::Closed,
            Self::GroupClosed => CallError::GroupClosed,
            Self::GroupFailed => CallError::GroupFailed,
            Self::RuntimeGone => CallError::RuntimeGone,
            Self::Panicked(panic) => CallError::Panicked(panic),
            Self::Cancelled => CallError::Cancelled,
            Self::Inner(never) => match never {},
        }
    }
}

impl<E> From<SubmitErrorKind> for CallError<E> {
    fn from(kind: SubmitErrorKind) -> Self {
        match kind {
            // A layer runs a call in its caller where waiting would deadlock.
            SubmitErrorKind::Full | SubmitErrorKind::TimedOut | SubmitErrorKind::WouldDeadlock => {
                Self::Overloaded
            }
            SubmitErrorKind::GroupFull => Self::GroupOverloaded,
            SubmitErrorKind::Shed { retry_after } => Self::Shed { retry_after },
            SubmitErrorKind::Expired => Self::Expired,
            SubmitErrorKind::Closed => Self::Closed,
            SubmitErrorKind::GroupClosed => Self::GroupClosed,
            SubmitErrorKind::GroupFailed => Self::GroupFailed,
            SubmitErrorKind::RuntimeGone => Self::RuntimeGone,
        }
    }
}

impl<E> From<JobError> for CallError<E> {
    fn from(error: JobError) -> Self {
        match error {
            JobError::Panicked(panic) => Self::Panicked(panic),
            JobError::Cancelled => Self::Cancelled,
            JobError::Expired => Self::Expired,
        }
    }
}

impl<E: fmt::Display> fmt::Display for CallError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(kind) = self.refusal() {
            return kind.fmt(f);
        }
        match self {
            Self::Panicked(panic) => match panic.message() {
                Some(message) => write!(f, "the call panicked: {message}"),
                None => f.write_str("the call panicked"),
            },
            Self::Cancelled => f.write_str("the call was cancelled"),
            Self::Expired => f.write_str("the deadline of the call passed"),
            Self::Inner(error) => error.fmt(f),
            _ => unreachable!("the other errors are refusals"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> Error for CallError<E> {}
