//! The short way.

use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;

use http::{Request, Response};
use http_body::Body;
use tokio_util::sync::CancellationToken;
use tower_service::Service;

use crate::accept::listen::Listen;
use crate::error::StartError;
use crate::framed::service::BoxError;
use crate::http::RequestBody;
use crate::http::server::Server;
use crate::status::ShutdownReport;

/// Serves with all defaults, in the event-driven mode, until it is dropped or its signal comes.
///
/// `listener` is anything [`Listen`] is made of: a text, an address, a listener that is bound.
#[doc(alias = "axum::serve")]
pub fn serve<S, B>(listener: impl Into<Listen>, service: S) -> Serve<S, B, std::future::Pending<()>>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
{
    let (listen, signal) = (listener.into(), std::future::pending());
    Serve { listen, service, signal, body: PhantomData }
}

/// From [`serve`]; await it.
#[must_use = "it serves when it is awaited"]
#[derive(Debug)]
pub struct Serve<S, B, F> {
    listen: Listen,
    service: S,
    signal: F,
    body: PhantomData<fn() -> B>,
}

impl<S, B, F> Serve<S, B, F> {
    /// When `signal` is ready, shuts down: lets requests finish for up to 30 s.
    pub fn with_graceful_shutdown<G>(self, signal: G) -> Serve<S, B, G>
    where
        G: Future<Output = ()> + Send + 'static,
    {
        let Self { listen, service, body, .. } = self;
        Serve { listen, service, signal, body }
    }
}

impl<S, B, F> IntoFuture for Serve<S, B, F>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    type Output = Result<ShutdownReport, StartError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        let Self { listen, service, signal, .. } = self;
        Box::pin(async move {
            let token = CancellationToken::new();
            let builder = Server::builder().listen(listen);
            let server = builder.shutdown_token(token.clone()).serve(service)?;
            signal.await;
            token.cancel();
            Ok(server.wait().await)
        })
    }
}
