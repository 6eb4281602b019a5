//! The bodies of requests and responses, which report to [`ConnProgress`] how far they are.
//!
//! `hyper_service.rs` wraps both bodies of a request. User code polls and drops a [`RequestBody`], on any
//! task and at any time; hyper polls and drops a [`TrackedBody`] inside of its own poll. Each has a
//! [`ProgressGuard`], whose drop ends its part. Nothing here is locked.
//!
//! What must never happen: a request body counts as read to its end, and hyper has not read it so far (`H1`).

use std::future::Future;
use std::io::{self, IoSlice};
use std::mem::replace;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};

use crate::framed::service::BoxError;
use crate::http::progress::{
    BODY, ConnProgress, ProgressGuard, REQUEST_BODY_PENDING, RESPONSE_BODY, RESPONSE_BODY_PENDING,
    UNFLUSHED, UnsentGuard,
};
use crate::http::stalls::{self, Moves};
use crate::sync::failpoint;

/// The body of a request, as it arrives.
///
/// A request of an HTTP server's service has this body type. `axum::Router` converts it by itself; other
/// code reads it by the methods of [`http_body::Body`] or of `http_body_util::BodyExt`.
///
/// While user code waits for more of the body, the connection holds no slot of the pool, and the
/// [body timeout](crate::http::ServerBuilder::body_timeout) runs.
///
/// # Other tasks
///
/// A task of its own may read the body: a job of a pool, or that of a proxy. The server does not see what
/// such a task does between two reads. A task that has begun to wait for the body is taken to wait until it
/// reads more or drops the body. So over HTTP/1 the body timeout also closes the connection of a task that
/// has begun to wait, and then leaves the body unread for that long while no byte moves.
///
/// # Dropping
///
/// A body may be dropped before its end, by any task. If all of the rest has arrived, hyper skips the rest,
/// and the connection goes on; after a body of unknown length the connection keeps its HTTP state in memory
/// until it has served another request. Otherwise the connection closes after the response, as under plain
/// hyper.
///
/// # Errors
///
/// Fails as hyper's `Incoming` does: if the peer closes within the body, or sends chunks that are malformed.
/// The error is a `hyper::Error` then. Over HTTP/2 the body also fails after the body timeout, with an
/// `std::io::Error` of the kind `TimedOut`. Over HTTP/1 the connection is closed then.
#[derive(Debug)]
pub struct RequestBody {
    incoming: Incoming,
    /// The number of the request on its connection.
    request: u64,
    /// None after the end.
    guard: Option<ProgressGuard>,
    /// None over HTTP/1, and without a body timeout.
    stall: Option<Box<Stall>>,
}

/// The deadline of a body over HTTP/2. It runs while the reader waits for the peer.
#[derive(Debug)]
struct Stall {
    timeout: Duration,
    /// None while the reader does not wait.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    /// Ready when the reader has waited for the timeout.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(self.timeout)));
        timer.as_mut().poll(cx)
    }
}

impl RequestBody {
    /// `timeout`: the body timeout, if the body is to keep that itself.
    pub(super) fn new(
        incoming: Incoming,
        progress: &Arc<ConnProgress>,
        timeout: Option<Duration>,
    ) -> Self {
        let request = progress.requests();
        // Nothing is to come of an empty body: `ConnProgress::is_whole` knows by its length.
        if incoming.is_end_stream() {
            return Self { incoming, request, guard: None, stall: None };
        }
        let stall = timeout.map(|timeout| Box::new(Stall { timeout, timer: None }));
        let guard = Some(ProgressGuard::new(progress.clone(), BODY, 0));
        Self { incoming, request, guard, stall }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        // Hyper may report this end only when the next request arrives.
        if this.incoming.is_end_stream() {
            return Poll::Ready(None);
        }
        let mut polled = Pin::new(&mut this.incoming).poll_frame(cx).map_err(BoxError::from);
        if let Some(stall) = &mut this.stall {
            if polled.is_ready() {
                stall.timer = None;
            } else if stall.poll(cx).is_ready() {
                let error = "the peer has sent nothing of the body for the body timeout";
                let error = io::Error::new(io::ErrorKind::TimedOut, error);
                polled = Poll::Ready(Some(Err(error.into())));
            }
        }
        if let Some(guard) = &this.guard {
            match &polled {
                Poll::Pending => guard.progress.body_waits(this.request),
                Poll::Ready(Some(Ok(_))) if !this.incoming.is_end_stream() => {
                    guard.progress.body_brings(this.request);
                }
                // Hyper has seen an error itself, and ends the connection after the response.
                Poll::Ready(Some(Err(_))) => this.guard = None,
                // Hyper drops its end of the body, or has passed on all of a length: behind its last byte.
                Poll::Ready(_) => {
                    guard.progress.note_whole(this.request);
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

/// The largest part of a response that HTTP/2 gets at once: a frame. Hyper passes a part on when the peer
/// has room for some of it, and h2 keeps what has no room yet.
const PART: usize = 16 * 1024;

pin_project! {
    /// The body of a response. Hyper drops it after its last frame.
    pub(super) struct TrackedBody<B: Body> {
        #[pin]
        body: B,
        // What is left of a frame that HTTP/2 gets in parts.
        rest: Option<B::Data>,
        // None over HTTP/1, before the first frame, without a write timeout, and if there is one frame only.
        moves: Option<Moves>,
        guard: ProgressGuard,
    }
}

impl<B: Body> TrackedBody<B> {
    /// Wraps a response body. `guard` is the guard of the service's future.
    pub(super) fn new(body: B, guard: ProgressGuard) -> Self {
        let guard = guard.continue_as(RESPONSE_BODY | RESPONSE_BODY_PENDING, UNFLUSHED);
        Self { body, rest: None, moves: None, guard }
    }
}

/// Bytes of a response. HTTP/2 may keep them until the peer has room for them, long after the body has
/// ended. The connection is not idle meanwhile.
pub(super) struct TrackedData<D> {
    data: Data<D>,
    /// None for HTTP/1: there `UNFLUSHED` and a blocked socket tell of unsent bytes.
    unsent: Option<UnsentGuard>,
}

enum Data<D> {
    Frame(D),
    Part(Bytes),
}

impl<D: Buf> Buf for TrackedData<D> {
    fn remaining(&self) -> usize {
        match &self.data {
            Data::Frame(data) => data.remaining(),
            Data::Part(part) => part.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match &self.data {
            Data::Frame(data) => data.chunk(),
            Data::Part(part) => part.chunk(),
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        match &self.data {
            Data::Frame(data) => data.chunks_vectored(slices),
            Data::Part(part) => part.chunks_vectored(slices),
        }
    }

    fn advance(&mut self, count: usize) {
        if let Some(unsent) = &self.unsent {
            unsent.moved();
        }
        match &mut self.data {
            Data::Frame(data) => data.advance(count),
            Data::Part(part) => part.advance(count),
        }
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        match &mut self.data {
            Data::Frame(data) => data.copy_to_bytes(count),
            Data::Part(part) => part.copy_to_bytes(count),
        }
    }
}

impl<B: Body> Body for TrackedBody<B> {
    type Data = TrackedData<B::Data>;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, B::Error>>> {
        let mut this = self.project();
        let progress = &this.guard.progress;
        // Only an HTTP/2 connection is detached while it has responses.
        let is_http2 = progress.is_detached();
        // A poll of the body sets the first bit again if the body reads the request and waits.
        progress.clear(REQUEST_BODY_PENDING | RESPONSE_BODY_PENDING);
        let mut polled = match this.rest.take() {
            Some(rest) => Poll::Ready(Some(Ok(Frame::data(rest)))),
            None => this.body.as_mut().poll_frame(cx),
        };
        if polled.is_pending() {
            progress.set(RESPONSE_BODY_PENDING);
        }
        let mut part = None;
        if is_http2 {
            stalls::note_body(&polled);
            let data = match &mut polled {
                Poll::Ready(Some(Ok(frame))) => frame.data_mut(),
                _ => None,
            };
            let in_parts = !failpoint("HTTP/2 gets a response at once");
            if let Some(data) = data.filter(|data| in_parts && data.remaining() > PART) {
                part = Some(data.copy_to_bytes(PART));
                *this.rest = match replace(&mut polled, Poll::Pending) {
                    Poll::Ready(Some(Ok(frame))) => frame.into_data().ok(),
                    _ => None,
                };
            }
            let is_frame = part.is_some() || matches!(polled, Poll::Ready(Some(Ok(_))));
            // The task of a stream ends when hyper passes its last frame on.
            let goes_on = || part.is_some() || !this.body.is_end_stream();
            if is_frame && this.moves.is_none() && progress.clock() > 0 && goes_on() {
                *this.moves = Some(stalls::begin_moves());
            }
        }
        let moves = this.moves.as_ref();
        let track = |data| {
            let unsent = is_http2.then(|| UnsentGuard::new(progress, moves));
            TrackedData { data, unsent }
        };
        match part {
            Some(part) => Poll::Ready(Some(Ok(Frame::data(track(Data::Part(part)))))),
            None => polled.map_ok(|frame| frame.map_data(|data| track(Data::Frame(data)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.as_ref());
        let rest = rest.map_or(0, Buf::remaining) as u64;
        let upper = hint.upper().and_then(|upper| upper.checked_add(rest));
        hint.set_lower(hint.lower().saturating_add(rest));
        if let Some(upper) = upper {
            hint.set_upper(upper);
        }
        hint
    }
}
