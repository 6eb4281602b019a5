//! Where requests pass from hyper to the service.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http::{Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use pin_project_lite::pin_project;
use tower_service::Service;

#[cfg(feature = "axum")]
use crate::accept::address::Address;
use crate::framed::service::BoxError;
use crate::http::body::{RequestBody, TrackedBody};
use crate::http::progress::{
    ConnProgress, ProgressGuard, REQUEST_BODY_PENDING, SERVICE, SERVICE_PENDING,
};

/// A service for HTTP.
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

/// The service of one connection.
pub(crate) struct HyperService<A> {
    pub(crate) service: A,
    pub(crate) progress: Arc<ConnProgress>,
    /// Whether requests tell who the peer is.
    pub(crate) connect_info: bool,
}

impl<A: HttpService> hyper::service::Service<Request<Incoming>> for HyperService<A> {
    type Response = Response<TrackedBody<A::ResponseBody>>;
    type Error = BoxError;
    type Future = ServiceFuture<A>;

    fn call(&self, request: Request<Incoming>) -> ServiceFuture<A> {
        let upgrade = request.extensions().get::<OnUpgrade>().is_some();
        // Of other requests hyper remembers more than that they are over.
        let is_plain = request.version() == Version::HTTP_11 && !upgrade;
        let body = request.body().size_hint().exact().filter(|_| is_plain);
        self.progress.begin(body);
        let mut request = request.map(|incoming| RequestBody::new(incoming, &self.progress));
        if let Some(peer) = self.connect_info.then(|| self.progress.peer()).flatten() {
            request.extensions_mut().insert(peer);
            #[cfg(feature = "axum")]
            if let Address::Tcp(peer) = peer {
                request.extensions_mut().insert(axum::extract::ConnectInfo(peer));
            }
        }
        let guard = Some(ProgressGuard::new(self.progress.clone(), SERVICE | SERVICE_PENDING, 0));
        let mut service = self.service.clone();
        // Most are always ready: those are called without being put aside first. The streams of
        // HTTP/2 have tasks of their own, and only those should suffer from what they call.
        let ready = match request.version() {
            Version::HTTP_2 => Poll::Pending,
            _ => service.poll_ready(&mut Context::from_waker(Waker::noop())),
        };
        let stage = match ready {
            Poll::Ready(Ok(())) => Stage::Called { future: service.call(request) },
            Poll::Ready(Err(error)) => Stage::Failed { error: Some(error.into()) },
            Poll::Pending => Stage::Waits { service, request: Some(request) },
        };
        ServiceFuture { stage, guard }
    }
}

pin_project! {
    pub(crate) struct ServiceFuture<A>
    where
        A: Service<Request<RequestBody>>,
    {
        #[pin]
        stage: Stage<A, A::Future>,
        // None once there is an answer.
        guard: Option<ProgressGuard>,
    }
}

pin_project! {
    #[project = StageProjection]
    enum Stage<A, F> {
        Waits { service: A, request: Option<Request<RequestBody>> },
        Called { #[pin] future: F },
        Failed { error: Option<BoxError> },
    }
}

impl<A: HttpService> Future for ServiceFuture<A> {
    type Output = Result<Response<TrackedBody<A::ResponseBody>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let guard = this.guard.as_ref().expect("it was not answered yet");
        guard.progress.clear(REQUEST_BODY_PENDING);
        let answered = loop {
            match this.stage.as_mut().project() {
                StageProjection::Called { future } => break future.poll(cx).map_err(Into::into),
                StageProjection::Failed { error } => {
                    break Poll::Ready(Err(error.take().expect("once")));
                }
                StageProjection::Waits { service, request } => {
                    match service.poll_ready(cx).map_err(Into::into)? {
                        Poll::Pending => break Poll::Pending,
                        Poll::Ready(()) => {
                            let request = request.take().expect("it was not called yet");
                            let future = service.call(request);
                            this.stage.set(Stage::Called { future });
                        }
                    }
                }
            }
        };
        let Poll::Ready(answered) = answered else {
            guard.progress.set(SERVICE_PENDING);
            return Poll::Pending;
        };
        let guard = this.guard.take().expect("it was not answered yet");
        Poll::Ready(answered.map(|answer| answer.map(|body| TrackedBody::new(body, guard))))
    }
}
