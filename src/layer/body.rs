//! Slots that are kept until a response's body has ended, for `hold_until_body_end`.
//!
//! [`Hold`] wraps the service inside the pool, so it runs in the call's job. There it takes the
//! job's slot by [`Pool::hold_slot`], and moves the guard into the body. [`HeldBody`] drops the
//! guard at the end of the body, or with itself, so no path keeps a slot without a body.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::layer::on_error::Reply;
use crate::pool::{Pool, SlotGuard};
use crate::sync::failpoint;

/// Marks a layer with `hold_until_body_end`.
#[derive(Debug, Clone, Copy)]
pub struct Holding(pub(crate) ());

/// Wraps the bodies of a service's responses, inside the pool.
#[derive(Debug, Clone)]
pub struct Hold<S> {
    inner: S,
    pool: Pool,
}

impl<S> Hold<S> {
    pub(crate) fn new(inner: S, pool: Pool) -> Self {
        Self { inner, pool }
    }

    /// Returns the wrapped service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S, Q, B> Service<Q> for Hold<S>
where
    S: Service<Q, Response = Response<B>>,
    B: Body,
{
    type Response = Response<HeldBody<B>>;
    type Error = S::Error;
    type Future = HoldFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Q) -> Self::Future {
        HoldFuture { inner: self.inner.call(request), pool: self.pool.clone() }
    }
}

pin_project! {
    /// The future of [`Hold`].
    pub struct HoldFuture<F> {
        #[pin]
        inner: F,
        pool: Pool,
    }
}

impl<F, B, E> Future for HoldFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
{
    type Output = Result<Response<HeldBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        Poll::Ready(Ok(response.map(|body| {
            let slot = if body.is_end_stream() { None } else { this.pool.hold_slot() };
            HeldBody { body, slot }
        })))
    }
}

pin_project! {
    /// A body that keeps the slot of its call until the body has ended, has failed or is dropped;
    /// from [`PoolLayer::hold_until_body_end`](crate::layer::PoolLayer::hold_until_body_end).
    ///
    /// A call beyond the size or in its caller has no slot, so its body keeps none.
    pub struct HeldBody<B> {
        #[pin]
        body: B,
        slot: Option<SlotGuard>,
    }
}

impl<B> Reply<Response<HeldBody<B>>> for Response<B> {
    fn into_reply(self) -> Response<HeldBody<B>> {
        self.map(|body| HeldBody { body, slot: None })
    }
}

impl<B: Body> Body for HeldBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        let over = !matches!(frame, Some(Ok(_))) && !failpoint("a failed body keeps its slot");
        if over || this.body.is_end_stream() {
            *this.slot = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<F> fmt::Debug for HoldFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HoldFuture").finish_non_exhaustive()
    }
}

impl<B> fmt::Debug for HeldBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldBody").field("holds", &self.slot.is_some()).finish_non_exhaustive()
    }
}
