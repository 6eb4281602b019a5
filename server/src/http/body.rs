//! Bodies, which tell how far they are.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use crate::http::progress::{
    ConnProgress, ProgressGuard, REQUEST_BODY, REQUEST_BODY_DROPPED, REQUEST_BODY_PENDING,
    RESPONSE_BODY, RESPONSE_BODY_PENDING, UNFLUSHED, Unsent,
};

/// The body of a request, as it comes in.
///
/// A body that is dropped before its end is not read any further, and the connection is closed
/// behind the response unless the rest was there already, as hyper does it. Where the connection
/// goes on, it keeps its HTTP state until it is closed.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Incoming,
    guard: Option<ProgressGuard>,
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, progress: &Arc<ConnProgress>) -> Self {
        let guard = match incoming.is_end_stream() {
            true => None,
            false => Some(ProgressGuard::new(
                progress.clone(),
                REQUEST_BODY | REQUEST_BODY_PENDING,
                REQUEST_BODY_DROPPED,
            )),
        };
        Self { incoming, guard }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        // Hyper itself might tell of the end no sooner than the next request comes.
        if this.incoming.is_end_stream() {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut this.incoming).poll_frame(cx);
        if let Some(guard) = &mut this.guard {
            match &polled {
                Poll::Pending => guard.progress.set(REQUEST_BODY_PENDING),
                Poll::Ready(Some(Ok(_))) if !this.incoming.is_end_stream() => {
                    guard.progress.clear(REQUEST_BODY_PENDING);
                }
                Poll::Ready(polled) => {
                    if matches!(polled, Some(Err(_))) {
                        guard.progress.note_cut();
                    }
                    guard.set_at_end = 0;
                    this.guard = None;
                }
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

pin_project! {
    /// The body of a response.
    pub(crate) struct TrackedBody<B> {
        #[pin]
        body: B,
        guard: ProgressGuard,
    }
}

impl<B: Body> TrackedBody<B> {
    /// `guard`: that of the call it comes from.
    pub(crate) fn new(body: B, guard: ProgressGuard) -> Self {
        Self { body, guard: guard.continue_as(RESPONSE_BODY | RESPONSE_BODY_PENDING, UNFLUSHED) }
    }
}

/// Bytes of an answer. HTTP/2 may keep them for long after the body has ended: until its peer has
/// room for them. The connection is not idle meanwhile.
pub(crate) struct Piece<D> {
    data: D,
    /// None for HTTP/1, where the answer is under way until all of it is written.
    _unsent: Option<Unsent>,
}

impl<D: Buf> Buf for Piece<D> {
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        self.data.copy_to_bytes(count)
    }
}

impl<B: Body> Body for TrackedBody<B> {
    type Data = Piece<B::Data>;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, B::Error>>> {
        let this = self.project();
        this.guard.progress.clear(REQUEST_BODY_PENDING | RESPONSE_BODY_PENDING);
        let polled = this.body.poll_frame(cx);
        if polled.is_pending() {
            this.guard.progress.set(RESPONSE_BODY_PENDING);
        }
        let progress = &this.guard.progress;
        let piece =
            |data| Piece { data, _unsent: progress.is_left().then(|| Unsent::new(progress)) };
        polled.map_ok(|frame| frame.map_data(piece))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
