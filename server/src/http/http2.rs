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
use crate::conn::notifier::Nudge;
use crate::conn::protocol::Outcome;
use crate::conn::transport::{Io, Wire};
use crate::http::hyper_service::{App, Gate};
use crate::http::lent_io::{Loan, Shared};
use crate::http::progress::{Flow, Listener};
use crate::http::{One, Web};

/// How long a connection may take for its end, once no request is under way.
const FAREWELL: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
pub(crate) struct Spawn;

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Spawn {
    fn execute(&self, future: F) {
        tokio::spawn(future);
    }
}

type Hyper<W, A> = Connection<Loan<W>, Gate<A>, Spawn>;

struct Task<W: Wire, A: App> {
    hyper: Pin<Box<Hyper<W, A>>>,
    flow: Arc<Flow>,
    keep_alive: Option<Duration>,
    /// Runs while no request is under way.
    idle: Option<Pin<Box<Sleep>>>,
    is_last: bool,
    _one: One,
}

/// Leaves the connection to a task.
pub(crate) fn serve<W: Wire, A: App>(
    web: &Web<A>,
    (nudge, peer): (Nudge, Option<Address>),
    io: Io<W>,
    first: Bytes,
) -> Outcome {
    let shared = Shared::new();
    shared.attach((nudge, peer), io, (first, None));
    let flow = shared.flow.clone();
    let gate = Gate { app: web.app.clone(), flow: flow.clone(), connect_info: web.connect_info };
    let hyper = Box::pin(Builder::new(Spawn).serve_connection(Loan(shared.clone()), gate));
    let (keep_alive, is_last) = (web.keep_alive, false);
    let task = Task { hyper, flow, keep_alive, idle: None, is_last, _one: web.thawed.one() };
    Outcome::Left(Box::new(move |keeper| {
        shared.leave(keeper);
        tokio::spawn(task);
    }))
}

impl<W: Wire, A: App> Future for Task<W, A> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        this.flow.listen(Listener::Task, cx.waker());
        loop {
            if !this.is_last && this.flow.doom().is_some() {
                this.end();
            }
            if this.hyper.as_mut().poll(cx).is_ready() || this.flow.is_killed() {
                return Poll::Ready(());
            }
            if this.flow.is_busy() {
                this.idle = None;
                return Poll::Pending;
            }
            let timeout = if this.is_last { Some(FAREWELL) } else { this.keep_alive };
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

impl<W: Wire, A: App> Task<W, A> {
    fn end(&mut self) {
        self.is_last = true;
        self.idle = None;
        self.hyper.as_mut().graceful_shutdown();
    }
}
