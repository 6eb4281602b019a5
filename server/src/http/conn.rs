//! A connection with hyper's state.

use std::mem::replace;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::server::conn::http1::UpgradeableConnection;

use crate::accept::address::Address;
use crate::conn::notifier::Nudge;
use crate::conn::transport::{Io, Wire};
use crate::http::hyper_service::{App, Gate};
use crate::http::lent_io::{First, Loan, Shared};
use crate::http::progress::CUT;
use crate::http::{One, Web};

pub(crate) struct Thawed<W: Wire, A: App> {
    hyper: UpgradeableConnection<Loan<W>, Gate<A>>,
    pub(crate) shared: Arc<Shared<W>>,
    /// Hyper was asked to end it after what is under way.
    is_last: bool,
    /// None while it is spare.
    one: Option<One>,
}

impl<W: Wire, A: App> Thawed<W, A> {
    /// For a socket, of which `first` was read already.
    pub(crate) fn new(
        web: &Web<A>,
        is_last: bool,
        to: (Nudge, Option<Address>),
        io: Io<W>,
        first: First,
    ) -> Box<Self> {
        let spare = if is_last { None } else { web.spares.take() };
        let mut thawed = spare.unwrap_or_else(|| Self::build(web, is_last));
        thawed.one = Some(web.thawed.one());
        thawed.shared.attach(to, io, first);
        thawed
    }

    fn build(web: &Web<A>, is_last: bool) -> Box<Self> {
        let (shared, connect_info) = (Shared::new(), web.connect_info);
        let gate = Gate { app: web.app.clone(), flow: shared.flow.clone(), connect_info };
        let builder = if is_last { &web.http1_last } else { &web.http1 };
        let hyper = builder.serve_connection(Loan(shared.clone()), gate).with_upgrades();
        Box::new(Self { hyper, shared, is_last, one: None })
    }

    /// Whether another connection can have it, once its socket was taken away clean.
    pub(crate) fn is_reusable(&self) -> bool {
        !self.is_last && self.shared.flow.is_at_rest()
    }

    /// Leaves it to another connection.
    pub(crate) fn spare(mut self: Box<Self>, web: &Web<A>) {
        self.one = None;
        self.shared.flow.detach();
        web.spares.put(self);
    }

    pub(crate) fn is_last(&self) -> bool {
        self.is_last
    }

    pub(crate) fn poll(&mut self) -> Poll<hyper::Result<()>> {
        let mut cx = Context::from_waker(&self.shared.waker);
        Pin::new(&mut self.hyper).poll(&mut cx)
    }

    /// Has it end behind the request that is under way. There must be one.
    pub(crate) fn end_behind(&mut self) {
        if !replace(&mut self.is_last, true) {
            Pin::new(&mut self.hyper).graceful_shutdown();
        }
    }

    /// Takes the socket away, and hands it over with what hyper has read and not used. It must be
    /// idle after a request; where hyper does not agree, it stays as it is.
    pub(crate) fn freeze(mut self: Box<Self>) -> Result<(Io<W>, Bytes), Box<Self>> {
        if self.is_last {
            return Err(self);
        }
        // Where each body was read to its end there is nothing to ask hyper about. At its own end
        // it would also hand the socket to whoever might have been about to upgrade.
        if self.shared.flow.bits() & CUT != 0 {
            if self.shared.flow.may_upgrade() {
                return Err(self);
            }
            self.shared.lent().keeps = true;
            self.end_behind();
            if self.poll().is_pending() {
                self.shared.lent().keeps = false;
                return Err(self);
            }
        }
        let io = self.take_io();
        let rest = self.hyper.into_parts().map(|parts| parts.read_buf).unwrap_or_default();
        Ok((io, rest))
    }

    pub(crate) fn take_io(&mut self) -> Io<W> {
        replace(&mut self.shared.lent().io, Io::Lent)
    }

    /// Once it is done: whether it was left to somebody by an upgrade.
    pub(crate) fn ends_upgraded(self) -> bool {
        self.hyper.into_parts().is_none()
    }
}
