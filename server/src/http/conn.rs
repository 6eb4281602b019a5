//! An HTTP/1 connection of hyper, which serves one connection of the server after another.
//!
//! `serve_turn.rs` creates, polls and takes apart an [`Http1Conn`]; between connections it lies in the
//! pool (`conn_pool.rs`). One owner has it at a time, so nothing here is locked (`H4`): a turn, the entry of
//! a parked connection, or the pool.
//!
//! What must never happen: a connection with a dropped body gives up its socket or reuses its state (`H2`).
//! [`Http1Conn::into_io`] and [`Http1Conn::is_reusable`] check the count of dropped bodies.

use std::mem::replace;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::server::conn::http1::UpgradeableConnection;

use crate::accept::address::Address;
use crate::conn::notifier::ConnNotifier;
use crate::conn::transport::{MaybeTls, Transport};
use crate::http::hyper_service::{HttpService, HyperService};
use crate::http::lent_io::{FirstBytes, LentIo, Shared};
use crate::http::{GaugeGuard, HttpProtocol};

pub(super) struct Http1Conn<W: Transport, A: HttpService> {
    hyper: UpgradeableConnection<LentIo<W>, HyperService<A>>,
    pub(super) shared: Arc<Shared<W>>,
    /// Hyper ends the connection after the request that is under way.
    is_last: bool,
    /// None in the pool.
    gauge: Option<GaugeGuard>,
}

impl<W: Transport, A: HttpService> Http1Conn<W, A> {
    /// Gives the socket to a pooled hyper connection, or to a new one. `first` was read already.
    ///
    /// With `is_last` the first request is the last. A new hyper connection serves it then: a graceful
    /// shutdown before the first read would close the connection at once.
    pub(super) fn new(
        protocol: &HttpProtocol<A>,
        is_last: bool,
        target: (ConnNotifier, Option<Address>),
        io: MaybeTls<W>,
        first: FirstBytes,
    ) -> Box<Self> {
        let pooled = if is_last { None } else { protocol.conn_pool.take() };
        let mut conn = pooled.unwrap_or_else(|| Self::build(protocol, is_last));
        conn.gauge = Some(protocol.http_states.acquire());
        conn.shared.bind(target, io, first);
        conn
    }

    fn build(protocol: &HttpProtocol<A>, is_last: bool) -> Box<Self> {
        let shared = Shared::new();
        let service = protocol.hyper_service(shared.progress.clone());
        let builder = if is_last { &protocol.http1_last } else { &protocol.http1 };
        let hyper = builder.serve_connection(LentIo(shared.clone()), service).with_upgrades();
        Box::new(Self { hyper, shared, is_last, gauge: None })
    }

    /// Whether another connection may have hyper's state after the socket was taken at a clean point (`H3`).
    pub(super) fn is_reusable(&self) -> bool {
        let progress = &self.shared.progress;
        !self.is_last && progress.is_at_rest() && progress.dropped_bodies() == 0
    }

    /// Puts hyper's state into the pool. The socket is gone already.
    pub(super) fn recycle(mut self: Box<Self>, protocol: &HttpProtocol<A>) {
        self.gauge = None;
        self.shared.progress.unbind();
        protocol.conn_pool.put(self);
    }

    pub(super) fn is_last(&self) -> bool {
        self.is_last
    }

    /// Polls hyper with the waker of the progress.
    pub(super) fn poll(&mut self) -> Poll<hyper::Result<()>> {
        let mut cx = Context::from_waker(&self.shared.waker);
        Pin::new(&mut self.hyper).poll(&mut cx)
    }

    /// Has hyper end the connection after the request that is under way, or at once if there is none.
    pub(super) fn graceful_shutdown(&mut self) {
        if !replace(&mut self.is_last, true) {
            Pin::new(&mut self.hyper).graceful_shutdown();
        }
    }

    /// Takes hyper apart. Returns the socket and the bytes that hyper has read and not used: the beginning
    /// of the next request. Called when all requests are answered and flushed.
    ///
    /// Gives the connection back if hyper must keep the socket. After a dropped body hyper alone knows which
    /// bytes belong to that body (`H2`). A connection in its graceful shutdown ends by itself.
    pub(super) fn into_io(mut self: Box<Self>) -> Result<(MaybeTls<W>, Bytes), Box<Self>> {
        if self.is_last || self.shared.progress.dropped_bodies() != 0 {
            return Err(self);
        }
        let io = self.take_io();
        let rest = self.hyper.into_parts().map(|parts| parts.read_buf).unwrap_or_default();
        Ok((io, rest))
    }

    /// Takes the socket. Hyper cannot go on after that.
    pub(super) fn take_io(&mut self) -> MaybeTls<W> {
        self.shared.lent().take_io()
    }

    /// Whether an upgrade has taken the socket. Called when hyper's future has completed.
    pub(super) fn ends_upgraded(self) -> bool {
        self.hyper.into_parts().is_none()
    }
}
