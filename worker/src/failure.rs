//! [`Failure`]: why a message, or one of its jobs, failed.

use std::error::Error;
use std::fmt;
use std::panic::Location;

/// Any error that can be sent to another thread.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// Why a message, or one of its jobs, failed; with the line of the code where it arose.
///
/// Every error turns into a failure by `?`; an `anyhow::Error`, which is none, by
/// `.map_err(Failure::new)?`. A failure is tried again, unless it was made by
/// [`dead`](Self::dead).
///
/// # Examples
///
/// ```
/// use millpond_worker::Failure;
///
/// fn parse(text: &str) -> Result<u32, Failure> {
///     let number = text.parse().map_err(Failure::dead)?; // never worth another attempt
///     if number == 0 {
///         return Err(Failure::new("no such order yet"));
///     }
///     Ok(number)
/// }
///
/// assert!(parse("seven").unwrap_err().is_dead());
/// assert!(!parse("0").unwrap_err().is_dead());
/// ```
pub struct Failure {
    reason: BoxError,
    place: Option<&'static Location<'static>>,
    dead: bool,
}

impl Failure {
    /// Makes a failure of an error or a text.
    #[track_caller]
    pub fn new(reason: impl Into<BoxError>) -> Self {
        Self { reason: reason.into(), place: Some(Location::caller()), dead: false }
    }

    /// Makes a failure that no other attempt can mend: the message goes to the dead letters at once.
    /// For messages that cannot be decoded.
    #[track_caller]
    pub fn dead(reason: impl Into<BoxError>) -> Self {
        Self { reason: reason.into(), place: Some(Location::caller()), dead: true }
    }

    /// Makes the failure of a panic, or of a job that was cancelled.
    pub(crate) fn without_place(reason: impl Into<BoxError>) -> Self {
        Self { reason: reason.into(), place: None, dead: false }
    }

    /// Names the job of the group in the text.
    pub(crate) fn of_job(mut self, index: usize) -> Self {
        self.reason = format!("job {index}: {}", self.reason).into();
        self
    }

    /// Whether the message goes to the dead letters at once.
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// Returns the error.
    pub fn reason(&self) -> &(dyn Error + Send + Sync + 'static) {
        &*self.reason
    }

    /// Returns the line where the failure was made, or where `?` took the error. Panics have none.
    pub fn place(&self) -> Option<&'static Location<'static>> {
        self.place
    }
}

// `Failure` is no `Error` itself: otherwise this would contradict `impl From<T> for T`.
impl<E: Error + Send + Sync + 'static> From<E> for Failure {
    #[track_caller]
    fn from(error: E) -> Self {
        Self::new(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failure")
            .field("reason", &self.reason)
            .field("place", &self.place)
            .field("dead", &self.dead)
            .finish()
    }
}
