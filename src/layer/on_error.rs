//! What a call resolves to when the wrapped service gave no result.
//!
//! The type parameter `A` of [`PoolLayer`](crate::layer::PoolLayer) is [`ReturnError`] or
//! [`OnError`]. Neither type has visible documentation: a program names them only to store a layer
//! in a struct.

use std::convert::Infallible;
use std::fmt;

use crate::error::SubmitErrorKind;
use crate::layer::CallError;
use crate::pool::JobOptions;

/// Fails with a [`CallError`]: the policy of a layer without `on_error`.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReturnError(());

/// Responds by a closure; set by [`PoolLayer::on_error`](crate::layer::PoolLayer::on_error).
#[derive(Clone, Copy)]
pub struct OnError<F>(pub(crate) F);

impl<F> fmt::Debug for OnError<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnError").finish_non_exhaustive()
    }
}

/// Sets the options of each call by a closure; set by
/// [`PoolLayer::options`](crate::layer::PoolLayer::options).
#[derive(Clone, Copy)]
pub struct WithOptions<A, F> {
    pub(crate) on_error: A,
    pub(crate) options: F,
}

impl<A: fmt::Debug, F> fmt::Debug for WithOptions<A, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WithOptions").field("on_error", &self.on_error).finish_non_exhaustive()
    }
}

/// Decides the result of a call of a service with request `Q`, response `R` and error `E`. Sealed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not answer calls of a service with the request `{Q}`, the response \
               `{R}` and the error `{E}`",
    label = "`PoolLayer::on_error` does not fit the wrapped service",
    note = "the closure of `on_error` takes `(CallError<Infallible>, Option<{Q}>)` and returns \
            `{R}`"
)]
pub trait HandleError<Q, R, E>: Clone + sealed::Sealed {
    /// The error of the service on the pool.
    type Error;

    /// Returns the error that `poll_ready` gives for a refusal that lasts. `None` leaves the answer to
    /// `call`.
    fn closed(refusal: SubmitErrorKind) -> Option<Self::Error>;

    /// Returns the result of a call that was refused, panicked or was cancelled.
    fn failed(&self, error: CallError<Infallible>, request: Option<Q>) -> Result<R, Self::Error>;

    /// Converts an error of the wrapped service.
    fn inner(error: E) -> Self::Error;

    /// Returns the options of a call; set by [`PoolLayer::options`](crate::layer::PoolLayer::options).
    fn options(&self, _request: &Q) -> Option<JobOptions> {
        None
    }
}

mod sealed {
    pub trait Sealed {}

    impl Sealed for super::ReturnError {}
    impl<F> Sealed for super::OnError<F> {}
    impl<A: Sealed, F> Sealed for super::WithOptions<A, F> {}
}

impl<Q, R, E> HandleError<Q, R, E> for ReturnError {
    type Error = CallError<E>;

    fn closed(refusal: SubmitErrorKind) -> Option<Self::Error> {
        Some(refusal.into())
    }

    fn failed(&self, error: CallError<Infallible>, _: Option<Q>) -> Result<R, Self::Error> {
        Err(error.with_inner())
    }

    fn inner(error: E) -> Self::Error {
        CallError::Inner(error)
    }
}

impl<Q, R, E, F, T> HandleError<Q, R, E> for OnError<F>
where
    F: Fn(CallError<Infallible>, Option<Q>) -> T + Clone,
    T: Reply<R>,
{
    type Error = E;

    fn closed(_: SubmitErrorKind) -> Option<Self::Error> {
        None
    }

    fn failed(&self, error: CallError<Infallible>, request: Option<Q>) -> Result<R, Self::Error> {
        Ok((self.0)(error, request).into_reply())
    }

    fn inner(error: E) -> Self::Error {
        error
    }
}

impl<Q, R, E, A, F> HandleError<Q, R, E> for WithOptions<A, F>
where
    A: HandleError<Q, R, E>,
    F: Fn(&Q) -> JobOptions + Clone,
{
    type Error = A::Error;

    fn closed(refusal: SubmitErrorKind) -> Option<Self::Error> {
        A::closed(refusal)
    }

    fn failed(&self, error: CallError<Infallible>, request: Option<Q>) -> Result<R, Self::Error> {
        self.on_error.failed(error, request)
    }

    fn inner(error: E) -> Self::Error {
        A::inner(error)
    }

    fn options(&self, request: &Q) -> Option<JobOptions> {
        Some((self.options)(request))
    }
}

/// What the closure may return for a response `R`: `R` itself, or a response whose body
/// [`hold_until_body_end`](crate::layer::PoolLayer::hold_until_body_end) wraps.
#[diagnostic::on_unimplemented(
    message = "the closure of `PoolLayer::on_error` returns `{Self}`, but the wrapped service \
               responds with `{R}`",
    label = "`on_error` returns `{Self}` instead of `{R}`",
    note = "return a `{R}` from the closure; on axum, `.into_response()` makes one"
)]
pub trait Reply<R> {
    /// Converts into the service's response.
    fn into_reply(self) -> R;
}

impl<R> Reply<R> for R {
    fn into_reply(self) -> R {
        self
    }
}
