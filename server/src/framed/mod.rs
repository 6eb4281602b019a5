//! What frames mean to the turn that serves them.

pub(crate) mod connection;
pub(crate) mod handler;
pub(crate) mod serve;
pub(crate) mod service;

use std::future::Future;

use bytes::BytesMut;

use crate::accept::address::Address;
use crate::close_reason::CloseReason;
use crate::conn::events::Events;
use crate::conn::notifier::ConnNotifier;
use crate::conn::protocol::{Outcome, Protocol, Turn};
use crate::conn::transport::Transport;
use crate::framed::serve::{SavedBytes, serve_turn};

/// What frames mean: a codec with a service, or with a handler.
pub(crate) trait FrameProtocol: Send + Sync + 'static {
    /// What is kept of a connection while nobody works for it.
    type Idle: Send + 'static;
    type Frame: Send;

    /// Whether there is something to do before the first byte comes.
    const SERVER_FIRST: bool;

    /// What serves the frames of one turn.
    type TurnService: Send;
    type Response: Send;

    fn on_accept(&self, address: Address, notifier: ConnNotifier) -> Self::Idle;

    fn turn_service(&self, idle: &Self::Idle) -> Self::TurnService;

    /// What is to be done before the first frame; nothing if it was done.
    fn open(
        &self,
        service: &mut Self::TurnService,
    ) -> impl Future<Output = Result<(), CloseReason>> + Send;

    fn decode(
        &self,
        idle: &mut Self::Idle,
        input: &mut BytesMut,
        end: bool,
    ) -> Result<Option<Self::Frame>, CloseReason>;

    fn call(
        &self,
        service: &mut Self::TurnService,
        frame: Self::Frame,
    ) -> impl Future<Output = Result<Self::Response, CloseReason>> + Send;

    /// Appends an answer to `output`.
    fn encode(
        &self,
        idle: &mut Self::Idle,
        response: Self::Response,
        output: &mut BytesMut,
    ) -> Result<(), CloseReason>;

    /// Moves what others want sent to the end of `output`.
    fn collect(&self, idle: &mut Self::Idle, output: &mut BytesMut);

    /// Whether the connection is to be closed, and no more frames served.
    fn is_closing(&self, idle: &Self::Idle) -> bool;

    /// Tells how much of what was collected is not written yet.
    fn unwritten(&self, idle: &mut Self::Idle, bytes: usize);

    fn saved<'a>(&self, idle: &'a mut Self::Idle) -> &'a mut Option<Box<SavedBytes>>;

    /// Nothing more is sent: the connection only waits for the peer to go.
    fn close_output(&self, idle: &mut Self::Idle);

    /// The connection is gone. Called once, also after a panic.
    fn on_close(&self, idle: Self::Idle, reason: CloseReason);
}

impl<F: FrameProtocol> Protocol for F {
    type Idle = <F as FrameProtocol>::Idle;

    const SERVER_FIRST: bool = F::SERVER_FIRST;

    /// Only what was pushed can go out while user code waits.
    const INTEREST: Events = match F::SERVER_FIRST {
        true => Events::PUSHED.with(Events::WRITABLE),
        false => Events::NONE,
    };

    fn on_accept(&self, address: Address, notifier: ConnNotifier) -> Self::Idle {
        FrameProtocol::on_accept(self, address, notifier)
    }

    fn serve_turn<W: Transport>(
        &self,
        turn: Turn<'_, W, Self::Idle>,
    ) -> impl Future<Output = Outcome> + Send {
        serve_turn(turn.server, self, turn.io, turn.idle, turn.input, turn.counters)
    }

    fn on_close(&self, idle: Self::Idle, reason: CloseReason) {
        FrameProtocol::on_close(self, idle, reason);
    }
}
