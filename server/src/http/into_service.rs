//! [`IntoHttpService`]: what an HTTP server accepts as its service.
//!
//! Programs that move from `axum::serve` have a make service: `into_make_service_with_connect_info`. Its
//! bounds fail at a service of requests, with an error that names neither of them. The trait here takes
//! both, and has an error of its own for all else. Its parameter only keeps the implementations apart.

use std::marker::PhantomData;

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::framed::service::BoxError;
use crate::http::RequestBody;

/// What an HTTP server can serve: a tower service of requests, such as `axum::Router`, and with the feature
/// `axum` the make services of axum.
///
/// The parameter tells these forms apart; the compiler finds it.
///
/// | form | what a request gets |
/// |---|---|
/// | a `Service<Request<RequestBody>>` | a clone of the service |
/// | `Router::into_make_service()` | a clone of the router |
/// | `Router::into_make_service_with_connect_info::<C>()`, where `C: Connected<SocketAddr>` | a clone of the router with a `ConnectInfo<C>`; over TCP only. Turns [`connect_info`](crate::http::ServerBuilder::connect_info) on. The router itself gets a `ConnectInfo<SocketAddr>` too, at less cost |
#[diagnostic::on_unimplemented(
    message = "an HTTP server cannot serve `{Self}`",
    label = "not a service of HTTP requests",
    note = "pass an `axum::Router` whose state was given with `with_state`, or a tower service of \
            `http::Request<millpond_server::http::RequestBody>` that is `Clone + Send + Sync`",
    note = "with the feature `axum`, requests carry a `ConnectInfo<SocketAddr>` already, and \
            `into_make_service_with_connect_info::<C>()` works where `C: Connected<SocketAddr>`"
)]
pub trait IntoHttpService<Form> {
    /// The body of responses.
    type Body: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;

    /// The service of requests.
    type Service: Service<
            Request<RequestBody>,
            Response = Response<Self::Body>,
            Error: Into<BoxError>,
            Future: Send + 'static,
        > + Clone
        + Send
        + Sync
        + 'static;

    /// Whether the service needs the peer's address in the extensions of each request.
    const NEEDS_PEER: bool = false;

    /// Converts into the service.
    fn into_http_service(self) -> Self::Service;
}

/// The form of a service that answers requests itself.
#[derive(Debug)]
pub struct Direct<B>(PhantomData<B>);

impl<S, B> IntoHttpService<Direct<B>> for S
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Body = B;
    type Service = S;

    fn into_http_service(self) -> S {
        self
    }
}

#[cfg(feature = "axum")]
mod make {
    use std::convert::Infallible;
    use std::future::Future;
    use std::net::SocketAddr;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use axum::extract::connect_info::IntoMakeServiceWithConnectInfo;
    use axum::routing::IntoMakeService;

    use super::*;
    use crate::Address;

    /// The form of a make service.
    #[derive(Debug)]
    pub struct Make<S>(PhantomData<S>);

    impl<S, B> IntoHttpService<Make<B>> for IntoMakeService<S>
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        type Body = B;
        type Service = S;

        fn into_http_service(mut self) -> S {
            made(self.call(()))
        }
    }

    impl<S, C, M, B> IntoHttpService<Make<(M, B)>> for IntoMakeServiceWithConnectInfo<S, C>
    where
        Self: Service<SocketAddr, Response = M, Error = Infallible>,
        S: Clone + Send + Sync + 'static,
        C: 'static,
        M: Service<Request<RequestBody>, Response = Response<B>> + Send + 'static,
        M::Error: Into<BoxError>,
        M::Future: Send + 'static,
        B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    {
        type Body = B;
        type Service = WithConnectInfo<Self>;

        const NEEDS_PEER: bool = true;

        fn into_http_service(self) -> WithConnectInfo<Self> {
            WithConnectInfo(self)
        }
    }

    /// A router that gets a `ConnectInfo` with each request.
    #[derive(Debug, Clone)]
    pub struct WithConnectInfo<Make>(Make);

    impl<Make, M, B> Service<Request<RequestBody>> for WithConnectInfo<Make>
    where
        Make: Service<SocketAddr, Response = M, Error = Infallible>,
        M: Service<Request<RequestBody>, Response = Response<B>> + Send + 'static,
        M::Error: Into<BoxError>,
        M::Future: Send + 'static,
        B: Send + 'static,
    {
        type Response = Response<B>;
        type Error = BoxError;
        type Future = Pin<Box<dyn Future<Output = Result<Response<B>, BoxError>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<RequestBody>) -> Self::Future {
            let Some(Address::Tcp(peer)) = request.extensions().get::<Address>().copied() else {
                let error = "`into_make_service_with_connect_info` needs a peer with a TCP address";
                return Box::pin(std::future::ready(Err(error.into())));
            };
            let mut service = made(self.0.call(peer));
            Box::pin(async move {
                std::future::poll_fn(|cx| service.poll_ready(cx)).await.map_err(Into::into)?;
                service.call(request).await.map_err(Into::into)
            })
        }
    }

    /// Returns the service of a make service of axum, which is ready at once.
    fn made<S>(making: impl Future<Output = Result<S, Infallible>>) -> S {
        match pin!(making).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(service)) => service,
            Poll::Ready(Err(never)) => match never {},
            Poll::Pending => unreachable!("axum's make services are always ready"),
        }
    }
}
