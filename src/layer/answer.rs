//! What a call resolves to when the wrapped service gave no response: an error, or one made here.

use std::fmt;

use crate::error::{JobError, ScheduleError};
use crate::layer::CallError;

/// What is answered in place of the wrapped service: for refused calls, and for those that panicked
/// or were cancelled. `()` fails with a [`CallError`].
///
/// Set by [`PoolLayer::shed_with`](crate::layer::PoolLayer::shed_with) and
/// [`PoolLayer::panic_with`](crate::layer::PoolLayer::panic_with).
#[derive(Clone, Copy, Default)]
pub struct Answers<S = (), P = ()> {
    shed: S,
    panic: P,
}

/// Answers with a response made by this closure.
#[derive(Clone, Copy)]
pub struct With<F>(F);

impl<P> Answers<(), P> {
    pub(crate) fn shed_with<F>(self, answer: F) -> Answers<With<F>, P> {
        Answers { shed: With(answer), panic: self.panic }
    }
}

impl<S> Answers<S> {
    pub(crate) fn panic_with<F>(self, answer: F) -> Answers<S, With<F>> {
        Answers { shed: self.shed, panic: With(answer) }
    }
}

impl<S, P> fmt::Debug for Answers<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}

impl<F> fmt::Debug for With<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("With").finish_non_exhaustive()
    }
}

/// Why a call did not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[doc(hidden)]
pub enum Refusal {
    Overloaded,
    Closed,
    WouldDeadlock,
}

impl From<ScheduleError<()>> for Refusal {
    fn from(error: ScheduleError<()>) -> Self {
        match error {
            ScheduleError::Closed(()) => Self::Closed,
            ScheduleError::WouldDeadlock(()) => Self::WouldDeadlock,
        }
    }
}

impl<E> From<Refusal> for CallError<E> {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Overloaded => Self::Overloaded,
            Refusal::Closed => Self::Closed,
            Refusal::WouldDeadlock => Self::WouldDeadlock,
        }
    }
}

/// Decides what a call of a service with request `Q`, response `R` and error `E` resolves to.
/// Implemented by the combinations of [`Answers`]; sealed.
pub trait Answer<Q, R, E>: Clone + sealed::Sealed {
    /// The error of the service in the pool.
    type Error;

    /// Whether a closed pool is an error of `poll_ready`.
    #[doc(hidden)]
    fn closed() -> Option<Self::Error>;

    #[doc(hidden)]
    fn refused(&self, refusal: Refusal, request: Q) -> Result<R, Self::Error>;

    #[doc(hidden)]
    fn ended(&self, error: JobError) -> Result<R, Self::Error>;

    #[doc(hidden)]
    fn inner(error: E) -> Self::Error;
}

/// What an answering closure may return for a response `R`: one, or one whose body is wrapped by
/// [`hold_until_body_end`](crate::layer::PoolLayer::hold_until_body_end).
pub trait Reply<R> {
    #[doc(hidden)]
    fn into_reply(self) -> R;
}

impl<R> Reply<R> for R {
    fn into_reply(self) -> R {
        self
    }
}

mod sealed {
    pub trait Sealed {}

    impl<S, P> Sealed for super::Answers<S, P> {}
}

impl<Q, R, E> Answer<Q, R, E> for Answers {
    type Error = CallError<E>;

    fn closed() -> Option<Self::Error> {
        Some(CallError::Closed)
    }

    fn refused(&self, refusal: Refusal, _: Q) -> Result<R, Self::Error> {
        Err(refusal.into())
    }

    fn ended(&self, error: JobError) -> Result<R, Self::Error> {
        Err(error.into())
    }

    fn inner(error: E) -> Self::Error {
        CallError::Inner(error)
    }
}

impl<Q, R, E, F, T> Answer<Q, R, E> for Answers<With<F>>
where
    F: Fn(Q) -> T + Clone,
    T: Reply<R>,
{
    type Error = CallError<E>;

    fn closed() -> Option<Self::Error> {
        None
    }

    fn refused(&self, _: Refusal, request: Q) -> Result<R, Self::Error> {
        Ok((self.shed.0)(request).into_reply())
    }

    fn ended(&self, error: JobError) -> Result<R, Self::Error> {
        Err(error.into())
    }

    fn inner(error: E) -> Self::Error {
        CallError::Inner(error)
    }
}

impl<Q, R, E, G, U> Answer<Q, R, E> for Answers<(), With<G>>
where
    G: Fn(JobError) -> U + Clone,
    U: Reply<R>,
{
    type Error = CallError<E>;

    fn closed() -> Option<Self::Error> {
        Some(CallError::Closed)
    }

    fn refused(&self, refusal: Refusal, _: Q) -> Result<R, Self::Error> {
        Err(refusal.into())
    }

    fn ended(&self, error: JobError) -> Result<R, Self::Error> {
        Ok((self.panic.0)(error).into_reply())
    }

    fn inner(error: E) -> Self::Error {
        CallError::Inner(error)
    }
}

impl<Q, R, E, F, T, G, U> Answer<Q, R, E> for Answers<With<F>, With<G>>
where
    F: Fn(Q) -> T + Clone,
    T: Reply<R>,
    G: Fn(JobError) -> U + Clone,
    U: Reply<R>,
{
    type Error = E;

    fn closed() -> Option<Self::Error> {
        None
    }

    fn refused(&self, _: Refusal, request: Q) -> Result<R, Self::Error> {
        Ok((self.shed.0)(request).into_reply())
    }

    fn ended(&self, error: JobError) -> Result<R, Self::Error> {
        Ok((self.panic.0)(error).into_reply())
    }

    fn inner(error: E) -> Self::Error {
        error
    }
}
