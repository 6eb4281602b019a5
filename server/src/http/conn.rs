//! An HTTP/1 connection of hyper, and the proof that its socket may leave it.
//!
//! `serve_turn.rs` makes, polls and takes apart an [`Http1Conn`]. Each serves one connection of the server,
//! so no state of a peer is ever another's (`H3`). One owner has it at a time, so nothing here is locked
//! (`H4`): a turn, or the idle state of a connection.
//!
//! What must never happen: a connection gives up its socket while a byte of its last request is still to
//! come (`H1`). [`Http1Conn::into_io`] is the only way out for a socket that serves another request.

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
use crate::sync::failpoint;

pub(super) struct Http1Conn<W: Transport, A: HttpService> {
    hyper: UpgradeableConnection<LentIo<W>, HyperService<A>>,
    pub(super) shared: Arc<Shared<W>>,
    /// Hyper ends the connection after the request that is under way.
    is_last: bool,
    pub(super) gauge: GaugeGuard,
}

impl<W: Transport, A: HttpService> Http1Conn<W, A> {
    /// Gives the socket to a new hyper connection. `first` was read already.
    ///
    /// With `is_last` the first request is the last. A graceful shutdown before the first read would close
    /// the connection at once.
    pub(super) fn new(
        protocol: &HttpProtocol<A>,
        is_last: bool,
        target: (ConnNotifier, Option<Address>),
        io: MaybeTls<W>,
        first: FirstBytes,
    ) -> Box<Self> {
        let shared = Shared::new(protocol.progress(target), io, first);
        let service = protocol.hyper_service(shared.progress.clone());
        let builder = if is_last { &protocol.http1_last } else { &protocol.http1 };
        let hyper = builder.serve_connection(LentIo(shared.clone()), service).with_upgrades();
        let gauge = protocol.http_states.acquire();
        Box::new(Self { hyper, shared, is_last, gauge })
    }

    pub(super) fn is_last(&self) -> bool {
        self.is_last
    }

    /// Polls hyper with the waker of the progress.
    pub(super) fn poll(&mut self) -> Poll<hyper::Result<()>> {
        let mut cx = Context::from_waker(&self.shared.waker);
        let _poll = self.shared.progress.enter_poll();
        Pin::new(&mut self.hyper).poll(&mut cx)
    }

    /// Has hyper end the connection after the request that is under way, or at once if there is none.
    pub(super) fn graceful_shutdown(&mut self) {
        if !replace(&mut self.is_last, true) {
            Pin::new(&mut self.hyper).graceful_shutdown();
        }
    }

    /// Whether hyper needs its socket no more: the last request is whole. Called when it is answered and
    /// flushed. A connection in its graceful shutdown ends by itself.
    pub(super) fn may_end(&self) -> bool {
        !self.is_last && (self.shared.progress.is_whole() || failpoint("a cut body is forgotten"))
    }

    /// Takes hyper apart. Returns the socket and the bytes that hyper has read and not used: the beginning
    /// of the next request (`H1`). Gives the connection back unless it [`may_end`](Self::may_end).
    pub(super) fn into_io(mut self: Box<Self>) -> Result<(MaybeTls<W>, Bytes), Box<Self>> {
        if !self.may_end() {
            return Err(self);
        }
        let io = self.take_io();
        let rest = self.hyper.into_parts().map(|parts| parts.read_buf).unwrap_or_default();
        if failpoint("a socket leaves its bytes") {
            return Ok((io, Bytes::new()));
        }
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
