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
use crate::http::body::{AnswerBody, RequestBody};
use crate::http::progress::{BODY_WAITS, CALL, CALL_WAITS, Flow, Share};

/// A service for HTTP.
pub(crate) trait App:
    Service<
        Request<RequestBody>,
        Response = Response<Self::Answer>,
        Error: Into<BoxError>,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
    type Answer: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;
}

impl<S, B> App for S
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Answer = B;
}

/// The service of one connection.
pub(crate) struct Gate<A> {
    pub(crate) app: A,
    pub(crate) flow: Arc<Flow>,
    /// Whether requests tell who the peer is.
    pub(crate) connect_info: bool,
}

impl<A: App> hyper::service::Service<Request<Incoming>> for Gate<A> {
    type Response = Response<AnswerBody<A::Answer>>;
    type Error = BoxError;
    type Future = Call<A>;

    fn call(&self, request: Request<Incoming>) -> Call<A> {
        let upgrade = request.extensions().get::<OnUpgrade>().is_some();
        // Of other requests hyper remembers more than that they are over.
        let is_plain = request.version() == Version::HTTP_11 && !upgrade;
        let body = request.body().size_hint().exact().filter(|_| is_plain);
        self.flow.begin(body, upgrade);
        let mut request = request.map(|incoming| RequestBody::new(incoming, &self.flow));
        if let Some(peer) = self.connect_info.then(|| self.flow.peer()).flatten() {
            request.extensions_mut().insert(peer);
            #[cfg(feature = "axum")]
            if let Address::Tcp(peer) = peer {
                request.extensions_mut().insert(axum::extract::ConnectInfo(peer));
            }
        }
        let share = Some(Share::new(self.flow.clone(), CALL | CALL_WAITS, 0));
        let mut app = self.app.clone();
        // Most are always ready: those are called without being put aside first. The streams of
        // HTTP/2 have tasks of their own, and only those should suffer from what they call.
        let ready = match request.version() {
            Version::HTTP_2 => Poll::Pending,
            _ => app.poll_ready(&mut Context::from_waker(Waker::noop())),
        };
        let stage = match ready {
            Poll::Ready(Ok(())) => Stage::Called { future: app.call(request) },
            Poll::Ready(Err(error)) => Stage::Failed { error: Some(error.into()) },
            Poll::Pending => Stage::Waits { app, request: Some(request) },
        };
        Call { stage, share }
    }
}

pin_project! {
    pub(crate) struct Call<A>
    where
        A: Service<Request<RequestBody>>,
    {
        #[pin]
        stage: Stage<A, A::Future>,
        // None once there is an answer.
        share: Option<Share>,
    }
}

pin_project! {
    #[project = StageNow]
    enum Stage<A, F> {
        Waits { app: A, request: Option<Request<RequestBody>> },
        Called { #[pin] future: F },
        Failed { error: Option<BoxError> },
    }
}

impl<A: App> Future for Call<A> {
    type Output = Result<Response<AnswerBody<A::Answer>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let share = this.share.as_ref().expect("it was not answered yet");
        share.flow.clear(BODY_WAITS);
        let answered = loop {
            match this.stage.as_mut().project() {
                StageNow::Called { future } => break future.poll(cx).map_err(Into::into),
                StageNow::Failed { error } => break Poll::Ready(Err(error.take().expect("once"))),
                StageNow::Waits { app, request } => match app.poll_ready(cx).map_err(Into::into)? {
                    Poll::Pending => break Poll::Pending,
                    Poll::Ready(()) => {
                        let request = request.take().expect("it was not called yet");
                        let future = app.call(request);
                        this.stage.set(Stage::Called { future });
                    }
                },
            }
        };
        let Poll::Ready(answered) = answered else {
            share.flow.set(CALL_WAITS);
            return Poll::Pending;
        };
        let share = this.share.take().expect("it was not answered yet");
        Poll::Ready(answered.map(|answer| answer.map(|body| AnswerBody::new(body, share))))
    }
}
