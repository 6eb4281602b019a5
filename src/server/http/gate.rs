//! Where requests pass from hyper to the service.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::super::address::Address;
use super::super::service::BoxError;
use super::body::{AnswerBody, RequestBody};
use super::flow::{BODY_WAITS, CALL, CALL_WAITS, Flow, Share};

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
pub(super) struct Gate<A> {
    pub(super) app: A,
    pub(super) flow: Arc<Flow>,
    pub(super) address: Address,
}

impl<A: App> hyper::service::Service<Request<Incoming>> for Gate<A> {
    type Response = Response<AnswerBody<A::Answer>>;
    type Error = A::Error;
    type Future = Call<A>;

    fn call(&self, request: Request<Incoming>) -> Call<A> {
        let upgrade = request.extensions().get::<OnUpgrade>().is_some();
        self.flow.begin(request.body().size_hint().exact(), upgrade);
        let mut request = request.map(|incoming| RequestBody::new(incoming, &self.flow));
        request.extensions_mut().insert(self.address);
        #[cfg(feature = "axum")]
        if let Address::Tcp(address) = self.address {
            request.extensions_mut().insert(axum::extract::ConnectInfo(address));
        }
        let share = Share::new(self.flow.clone(), CALL | CALL_WAITS, 0);
        Call { app: self.app.clone(), request: Some(request), future: None, share }
    }
}

pin_project! {
    pub(super) struct Call<A>
    where
        A: Service<Request<RequestBody>>,
    {
        app: A,
        request: Option<Request<RequestBody>>,
        #[pin]
        future: Option<A::Future>,
        share: Share,
    }
}

impl<A: App> Future for Call<A> {
    type Output = Result<Response<AnswerBody<A::Answer>>, A::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let flow = &this.share.flow;
        flow.clear(BODY_WAITS);
        if this.future.is_none() {
            if this.app.poll_ready(cx)?.is_pending() {
                flow.set(CALL_WAITS);
                return Poll::Pending;
            }
            let request = this.request.take().expect("it was not called yet");
            this.future.set(Some(this.app.call(request)));
        }
        let Poll::Ready(answered) = this.future.as_pin_mut().expect("it was called").poll(cx)
        else {
            flow.set(CALL_WAITS);
            return Poll::Pending;
        };
        flow.clear(CALL_WAITS);
        Poll::Ready(answered.map(|answer| answer.map(|body| AnswerBody::new(body, flow.clone()))))
    }
}
