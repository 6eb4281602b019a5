//! HTTP/2 connections: each has a task of its own for as long as it lasts, since its state is not
//! idle between requests.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http2::{Builder, Connection};
use tokio::time::{Sleep, sleep};

use crate::Address;
use crate::conn::notifier::ConnNotifier;
use crate::conn::protocol::Outcome;
use crate::conn::transport::{MaybeTls, Transport};
use crate::http::hyper_service::{HttpService, HyperService};
use crate::http::lent_io::{LentIo, Shared};
use crate::http::progress::{ConnProgress, SocketWaiter};
use crate::http::{GaugeGuard, HttpProtocol};

/// How long a connection may take for its end, once no request is under way.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
pub(crate) struct Spawn;

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Spawn {
    fn execute(&self, future: F) {
        tokio::spawn(future);
    }
}

type Hyper<W, A> = Connection<LentIo<W>, HyperService<A>, Spawn>;

struct Task<W: Transport, A: HttpService> {
    hyper: Pin<Box<Hyper<W, A>>>,
    progress: Arc<ConnProgress>,
    keep_alive: Option<Duration>,
    /// Runs while no request is under way.
    idle: Option<Pin<Box<Sleep>>>,
    is_last: bool,
    _gauge: GaugeGuard,
}

/// Leaves the connection to a task.
pub(crate) fn serve<W: Transport, A: HttpService>(
    protocol: &HttpProtocol<A>,
    (notifier, peer): (ConnNotifier, Option<Address>),
    io: MaybeTls<W>,
    first: Bytes,
) -> Outcome {
    let shared = Shared::new();
    shared.bind((notifier, peer), io, (first, None));
    let progress = shared.progress.clone();
    let service = HyperService {
        service: protocol.service.clone(),
        progress: progress.clone(),
        connect_info: protocol.connect_info,
    };
    let hyper = Box::pin(Builder::new(Spawn).serve_connection(LentIo(shared.clone()), service));
    let (keep_alive, is_last) = (protocol.keep_alive, false);
    let task = Task {
        hyper,
        progress,
        keep_alive,
        idle: None,
        is_last,
        _gauge: protocol.http_states.acquire(),
    };
    Outcome::Detached(Box::new(move |entry_guard| {
        shared.detach(entry_guard);
        tokio::spawn(task);
    }))
}

impl<W: Transport, A: HttpService> Future for Task<W, A> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.progress.register(SocketWaiter::Task, cx.waker());
        loop {
            if !this.is_last && this.progress.close_requested().is_some() {
                this.end();
            }
            if this.hyper.as_mut().poll(cx).is_ready() || this.progress.is_killed() {
                return Poll::Ready(());
            }
            if this.progress.is_busy() {
                this.idle = None;
                return Poll::Pending;
            }
            let timeout = if this.is_last { Some(SHUTDOWN_TIMEOUT) } else { this.keep_alive };
            let Some(timeout) = timeout else { return Poll::Pending };
            let idle = this.idle.get_or_insert_with(|| Box::pin(sleep(timeout)));
            if idle.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if this.is_last {
                return Poll::Ready(());
            }
            this.end();
        }
    }
}

impl<W: Transport, A: HttpService> Task<W, A> {
    fn end(&mut self) {
        self.is_last = true;
        self.idle = None;
        self.hyper.as_mut().graceful_shutdown();
    }
}
