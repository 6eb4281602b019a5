//! `http::serve`, the short way to a server.

use std::future::{Future, IntoFuture, poll_fn};
use std::marker::PhantomData;
use std::pin::{Pin, pin};

use tokio_util::sync::CancellationToken;

use crate::accept::listen::{IntoListen, Listen};
use crate::error::StartError;
use crate::http::into_service::IntoHttpService;
use crate::http::server::Server;
use crate::status::ShutdownReport;

/// Serves with all defaults, in the [event-driven mode](crate::Mode::EventDriven).
///
/// Takes the place of `axum::serve`. `listener` is anything that converts into a [`Listen`]: a text, an
/// address, a bound listener of tokio or of the standard library. [`ServerBuilder`](crate::http::ServerBuilder)
/// has the settings.
///
/// # Limits
///
/// `axum::serve` has no limits of its own. This server has the following ones, and the
/// [`ServerBuilder`](crate::http::ServerBuilder) has a setting for each:
///
/// | limit | default | what happens beyond it |
/// |---|---|---|
/// | [`max_connections`](crate::http::ServerBuilder::max_connections) | half of the descriptors that the process may open; [`raise_descriptor_limit`](crate::raise_descriptor_limit) | 503, and close; an event |
/// | [`pool`](crate::http::ServerBuilder::pool) | 1,024 requests of HTTP/1 in their services | requests wait |
/// | [`first_byte_timeout`](crate::http::ServerBuilder::first_byte_timeout) | 10 s | close |
/// | [`header_read_timeout`](crate::http::ServerBuilder::header_read_timeout) | 10 s | 408, and close |
/// | [`max_header_size`](crate::http::ServerBuilder::max_header_size) | 408 KiB | 431, and close |
/// | [`body_timeout`](crate::http::ServerBuilder::body_timeout) | 30 s without a byte | 408, and close |
/// | [`write_timeout`](crate::http::ServerBuilder::write_timeout) | 30 s in which the peer takes nothing | close |
/// | [`keep_alive_timeout`](crate::http::ServerBuilder::keep_alive_timeout) | 75 s between requests | close |
/// | [`shutdown_grace`](crate::http::ServerBuilder::shutdown_grace) | 500 ms after the signal, for idle connections | close |
/// | [`drain_timeout`](crate::http::ServerBuilder::drain_timeout) | 30 s after the signal | close |
///
/// No limit holds for the size of a body, nor for the time that the service takes. Layers of tower-http
/// have such limits.
///
/// The server starts when the returned [`Serve`] is awaited. It runs until the future is dropped, or until
/// the signal of [`with_graceful_shutdown`](Serve::with_graceful_shutdown).
///
/// ```
/// use axum::Router;
/// use tokio::net::TcpListener;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = TcpListener::bind("127.0.0.1:0").await?;
/// # let signal = async {};
/// let report = millpond_server::http::serve(listener, Router::new())
///     .with_graceful_shutdown(signal)
///     .await?;
/// assert_eq!(report.still_open, 0);
/// # Ok(())
/// # }
/// ```
///
/// # Cancel safety
///
/// Dropping the future closes all connections at once.
///
/// # Errors
///
/// The future resolves to a [`StartError`] if the listener cannot be bound.
///
/// # Panics
///
/// The future panics outside of a tokio runtime with I/O and time enabled.
#[doc(alias = "axum::serve")]
pub fn serve<S, Form>(
    listener: impl IntoListen,
    service: S,
) -> Serve<S, Form, std::future::Pending<()>>
where
    S: IntoHttpService<Form>,
{
    let (listen, signal) = (listener.into_listen(), std::future::pending());
    Serve { listen, service, signal, form: PhantomData }
}

/// A server that starts when it is awaited; from [`serve`].
///
/// The future resolves to a [`ShutdownReport`] after a graceful shutdown.
#[must_use = "the server starts when this is awaited"]
#[derive(Debug)]
pub struct Serve<S, Form, F> {
    listen: Listen,
    service: S,
    signal: F,
    form: PhantomData<fn() -> Form>,
}

impl<S, Form, F> Serve<S, Form, F> {
    /// Shuts down gracefully when `signal` is ready.
    ///
    /// The server then accepts no more. Idle connections close after a
    /// [grace](crate::http::ServerBuilder::shutdown_grace) of 500 ms. Requests under way may finish for up
    /// to 30 s; after that the server closes the rest.
    #[doc(alias = "graceful")]
    pub fn with_graceful_shutdown<G>(self, signal: G) -> Serve<S, Form, G>
    where
        G: Future<Output = ()> + Send + 'static,
    {
        let Self { listen, service, form, .. } = self;
        Serve { listen, service, signal, form }
    }
}

impl<S, Form, F> IntoFuture for Serve<S, Form, F>
where
    S: IntoHttpService<Form> + Send + 'static,
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
            // The server may end without the signal: see `Server::wait`.
            let (mut wait, mut signal) = (pin!(server.wait()), pin!(signal));
            let report = poll_fn(|cx| {
                if !token.is_cancelled() && signal.as_mut().poll(cx).is_ready() {
                    token.cancel();
                }
                wait.as_mut().poll(cx)
            });
            Ok(report.await)
        })
    }
}
