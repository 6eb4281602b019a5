//! A connection with hyper's state.

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

pub(crate) struct Http1Conn<W: Transport, A: HttpService> {
    hyper: UpgradeableConnection<LentIo<W>, HyperService<A>>,
    pub(crate) shared: Arc<Shared<W>>,
    /// Hyper was asked to end it after what is under way.
    is_last: bool,
    /// None while it is in the pool.
    gauge: Option<GaugeGuard>,
}

impl<W: Transport, A: HttpService> Http1Conn<W, A> {
    /// For a socket, of which `first` was read already.
    pub(crate) fn new(
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
        let (shared, connect_info) = (Shared::new(), protocol.connect_info);
        let service = HyperService {
            service: protocol.service.clone(),
            progress: shared.progress.clone(),
            connect_info,
        };
        let builder = if is_last { &protocol.http1_last } else { &protocol.http1 };
        let hyper = builder.serve_connection(LentIo(shared.clone()), service).with_upgrades();
        Box::new(Self { hyper, shared, is_last, gauge: None })
    }

    /// Whether another connection can have it, once its socket was taken away clean.
    pub(crate) fn is_reusable(&self) -> bool {
        !self.is_last && self.shared.progress.is_at_rest() && self.shared.progress.cuts() == 0
    }

    /// Puts it into the pool, for another connection.
    pub(crate) fn recycle(mut self: Box<Self>, protocol: &HttpProtocol<A>) {
        self.gauge = None;
        self.shared.progress.unbind();
        protocol.conn_pool.put(self);
    }

    pub(crate) fn is_last(&self) -> bool {
        self.is_last
    }

    pub(crate) fn poll(&mut self) -> Poll<hyper::Result<()>> {
        let mut cx = Context::from_waker(&self.shared.waker);
        Pin::new(&mut self.hyper).poll(&mut cx)
    }

    /// Has it end behind the request that is under way, or at once where there is none.
    pub(crate) fn graceful_shutdown(&mut self) {
        if !replace(&mut self.is_last, true) {
            Pin::new(&mut self.hyper).graceful_shutdown();
        }
    }

    /// Takes the socket away, and hands it over with what hyper has read and not used. It must be
    /// idle after a request.
    ///
    /// Where a body was cut, only hyper knows which bytes belong to that body. The socket stays
    /// with hyper then.
    pub(crate) fn into_io(mut self: Box<Self>) -> Result<(MaybeTls<W>, Bytes), Box<Self>> {
        if self.is_last || self.shared.progress.cuts() != 0 {
            return Err(self);
        }
        let io = self.take_io();
        let rest = self.hyper.into_parts().map(|parts| parts.read_buf).unwrap_or_default();
        Ok((io, rest))
    }

    pub(crate) fn take_io(&mut self) -> MaybeTls<W> {
        replace(&mut self.shared.lent().io, MaybeTls::Taken)
    }

    /// Once it is done: whether an upgrade has detached it.
    pub(crate) fn ends_upgraded(self) -> bool {
        self.hyper.into_parts().is_none()
    }
}
