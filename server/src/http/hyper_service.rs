//! The way of a request from hyper to the user's service, and of the response back.
//!
//! Hyper calls [`HyperService`] inside of its poll. The service wraps both bodies (`body.rs`) and reports
//! each step to [`ConnProgress`]. For HTTP/1 the turn polls [`ServiceFuture`] through hyper; for HTTP/2 a
//! task of each stream does. No lock is held while the user's service runs.
//!
//! A request carries what user code sees of the server: the peer's address in its extensions and a
//! [`RequestBody`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue};
use http::{Extensions, Method, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
#[cfg(feature = "ws")]
use hyper::upgrade::OnUpgrade;
use pin_project_lite::pin_project;
use tower_service::Service;

#[cfg(feature = "axum")]
use crate::accept::address::Address;
use crate::close_reason::CloseReason;
use crate::framed::service::BoxError;
use crate::http::body::{RequestBody, TrackedBody};
use crate::http::progress::{
    ConnProgress, ProgressGuard, REQUEST_BODY_PENDING, SERVICE, SERVICE_PENDING,
};
use crate::http::stalls;
#[cfg(feature = "ws")]
use crate::http::websocket;
use crate::sync::failpoint;
#[cfg(feature = "ws")]
use crate::ws::upgrade::{Accepted, Parks};

/// The bounds of the user's service under one name.
pub(crate) trait HttpService:
    Service<
        Request<RequestBody>,
        Response = Response<Self::ResponseBody>,
        Error: Into<BoxError>,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
    type ResponseBody: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;
}

impl<S, B> HttpService for S
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type ResponseBody = B;
}

/// The user's service as hyper calls it, for one hyper connection.
pub(super) struct HyperService<A> {
    pub(super) service: A,
    pub(super) progress: Arc<ConnProgress>,
    /// Whether requests carry the peer's address.
    pub(super) connect_info: bool,
    /// How long a body of HTTP/2 may stall.
    pub(super) body_timeout: Option<Duration>,
    pub(super) max_requests: Option<u32>,
}

impl<A: HttpService> HyperService<A> {
    /// Wraps the body, and adds the peer's address and what a WebSocket needs.
    #[inline(always)]
    fn wrap(&self, request: Request<Incoming>) -> Request<RequestBody> {
        let timeout = self.body_timeout.filter(|_| request.version() == Version::HTTP_2);
        let mut request =
            request.map(|incoming| RequestBody::new(incoming, &self.progress, timeout));
        #[cfg(feature = "ws")]
        if request.extensions().get::<OnUpgrade>().is_some() {
            request.extensions_mut().insert(Parks);
        }
        if self.connect_info {
            self.tell_peer(request.extensions_mut());
        }
        request
    }

    /// Adds the peer's address to a request.
    fn tell_peer(&self, extensions: &mut Extensions) {
        let Some(peer) = self.progress.peer() else { return };
        extensions.insert(peer);
        #[cfg(feature = "axum")]
        if let Address::Tcp(peer) = peer {
            extensions.insert(axum::extract::ConnectInfo(peer));
        }
    }
}

impl<A: HttpService> hyper::service::Service<Request<Incoming>> for HyperService<A> {
    type Response = Response<TrackedBody<A::ResponseBody>>;
    type Error = BoxError;
    type Future = ServiceFuture<A>;

    fn call(&self, request: Request<Incoming>) -> ServiceFuture<A> {
        self.progress.begin(request.body().size_hint().exact());
        let is_http2 = request.version() == Version::HTTP_2;
        let max = self.max_requests.unwrap_or(u32::MAX);
        let is_last = max != u32::MAX && self.progress.count_request() >= max;
        // HTTP/2 says goodbye by frames of its own.
        let close = match () {
            () if is_http2 => SayClose::Never,
            () if request.method() == Method::CONNECT => SayClose::Tunnel,
            () if is_last => SayClose::Always,
            () => SayClose::IfStopping,
        };
        if is_http2 && is_last && !failpoint("streams have no number") {
            self.progress.close(CloseReason::MaxRequests);
        }
        let guard = Some(ProgressGuard::new(self.progress.clone(), SERVICE | SERVICE_PENDING, 0));
        let mut service = self.service.clone();
        // Most services are always ready. Calling such a service here saves moving the request into a
        // state of its own. HTTP/2 calls it in the stream's task: a panic then ends the stream alone.
        let ready = match is_http2 {
            true => Poll::Pending,
            false => service.poll_ready(&mut Context::from_waker(Waker::noop())),
        };
        // Each arm makes the whole future: a request or a stage in a variable would be copied once more.
        match ready {
            Poll::Ready(Ok(())) => {
                let future = service.call(self.wrap(request));
                ServiceFuture { stage: Stage::Called { future }, guard, close }
            }
            Poll::Ready(Err(error)) => {
                ServiceFuture { stage: Stage::Failed { error: Some(error.into()) }, guard, close }
            }
            Poll::Pending => {
                let request = Some(self.wrap(request));
                ServiceFuture { stage: Stage::NotReady { service, request }, guard, close }
            }
        }
    }
}

/// Whether a response says that its connection closes.
pub(super) enum SayClose {
    Never,
    /// To a CONNECT: never. A tunnel has no later request.
    Tunnel,
    Always,
    /// If a shutdown has begun when the response is there.
    IfStopping,
}

pin_project! {
    /// Waits for the service's readiness and then for its response.
    pub(super) struct ServiceFuture<A>
    where
        A: Service<Request<RequestBody>>,
    {
        #[pin]
        stage: Stage<A, A::Future>,
        // None after completion: the response body has the guard then.
        guard: Option<ProgressGuard>,
        close: SayClose,
    }
}

pin_project! {
    #[project = StageProjection]
    enum Stage<A, F> {
        NotReady { service: A, request: Option<Request<RequestBody>> },
        Called { #[pin] future: F },
        Failed { error: Option<BoxError> },
    }
}

impl<A: HttpService> Future for ServiceFuture<A> {
    type Output = Result<Response<TrackedBody<A::ResponseBody>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let guard = this.guard.as_ref().expect("polled after completion");
        // A poll of the service sets the bit again if the service reads the body and waits.
        guard.progress.clear(REQUEST_BODY_PENDING);
        let polled = loop {
            match this.stage.as_mut().project() {
                StageProjection::Called { future } => break future.poll(cx),
                StageProjection::Failed { error } => {
                    return Poll::Ready(Err(error.take().expect("polled after completion")));
                }
                StageProjection::NotReady { service, request } => {
                    match service.poll_ready(cx).map_err(Into::into)? {
                        Poll::Pending => break Poll::Pending,
                        Poll::Ready(()) => {
                            let request = request.take().expect("called once");
                            let future = service.call(request);
                            this.stage.set(Stage::Called { future });
                        }
                    }
                }
            }
        };
        let Poll::Ready(result) = polled else {
            guard.progress.set(SERVICE_PENDING);
            stalls::note_body(&Poll::<()>::Pending);
            return Poll::Pending;
        };
        let guard = this.guard.take().expect("polled after completion");
        let mut response = match result {
            Ok(response) => response,
            Err(error) => return Poll::Ready(Err(error.into())),
        };
        #[cfg(feature = "ws")]
        if let Some(accepted) = response.extensions_mut().remove::<Accepted>() {
            websocket::accept(&guard.progress, response.status(), &accepted);
        }
        let (closes, is_tunnel) = match this.close {
            SayClose::Never => (false, false),
            SayClose::Tunnel => (false, response.status().is_success()),
            SayClose::Always => (true, false),
            SayClose::IfStopping => (guard.progress.is_stopping(), false),
        };
        let switches = is_tunnel || response.status() == StatusCode::SWITCHING_PROTOCOLS;
        guard.progress.set_switches(switches);
        // Hyper closes the connection after a response with this header.
        if closes && !switches {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Poll::Ready(Ok(response.map(|body| TrackedBody::new(body, guard))))
    }
}
