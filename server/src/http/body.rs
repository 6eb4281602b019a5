//! Bodies, which tell how far they are.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use crate::http::progress::{ANSWER, ANSWER_WAITS, BODY, BODY_WAITS, CUT, Flow, Share, UNFLUSHED};

/// The body of a request, as it comes in.
///
/// A body that is dropped before its end is not read any further, and the connection is closed
/// behind the response unless the rest was there already, as hyper does it.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Incoming,
    share: Option<Share>,
}

impl RequestBody {
    pub(crate) fn new(incoming: Incoming, flow: &Arc<Flow>) -> Self {
        let share = match incoming.is_end_stream() {
            true => None,
            false => Some(Share::new(flow.clone(), BODY | BODY_WAITS, CUT)),
        };
        Self { incoming, share }
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
        if let Some(share) = &mut this.share {
            match &polled {
                Poll::Pending => share.flow.set(BODY_WAITS),
                Poll::Ready(Some(Ok(_))) if !this.incoming.is_end_stream() => {
                    share.flow.clear(BODY_WAITS);
                }
                Poll::Ready(_) => {
                    share.over = 0;
                    this.share = None;
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
    pub(crate) struct AnswerBody<B> {
        #[pin]
        body: B,
        share: Share,
    }
}

impl<B: Body> AnswerBody<B> {
    /// `share`: that of the call it comes from.
    pub(crate) fn new(body: B, share: Share) -> Self {
        Self { body, share: share.go_on(ANSWER | ANSWER_WAITS, UNFLUSHED) }
    }
}

impl<B: Body> Body for AnswerBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        this.share.flow.clear(BODY_WAITS | ANSWER_WAITS);
        let polled = this.body.poll_frame(cx);
        if polled.is_pending() {
            this.share.flow.set(ANSWER_WAITS);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
