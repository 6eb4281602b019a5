//! What frames mean to the burst that serves them.

pub(crate) mod connection;
pub(crate) mod handler;
pub(crate) mod serve;
pub(crate) mod service;

use std::future::Future;

use bytes::BytesMut;

use crate::accept::address::Address;
use crate::close_reason::CloseReason;
use crate::conn::events::Signal;
use crate::conn::notifier::Nudge;
use crate::conn::protocol::{Outcome, Protocol, Turn};
use crate::conn::transport::Wire;
use crate::framed::serve::{Rest, burst};

/// What frames mean: a codec with a service, or with a handler.
pub(crate) trait Frames: Send + Sync + 'static {
    /// What is kept of a connection while nobody works for it.
    type Idle: Send + 'static;
    type Frame: Send;

    /// Whether there is something to do before the first byte comes.
    const OPENS: bool;

    /// What serves the frames of one burst.
    type Caller: Send;
    type Answer: Send;

    fn arrive(&self, address: Address, nudge: Nudge) -> Self::Idle;

    fn caller(&self, idle: &Self::Idle) -> Self::Caller;

    /// What is to be done before the first frame; nothing if it was done.
    fn open(
        &self,
        caller: &mut Self::Caller,
    ) -> impl Future<Output = Result<(), CloseReason>> + Send;

    fn decode(
        &self,
        idle: &mut Self::Idle,
        input: &mut BytesMut,
        end: bool,
    ) -> Result<Option<Self::Frame>, CloseReason>;

    fn call(
        &self,
        caller: &mut Self::Caller,
        frame: Self::Frame,
    ) -> impl Future<Output = Result<Self::Answer, CloseReason>> + Send;

    /// Appends an answer to `output`.
    fn answer(
        &self,
        idle: &mut Self::Idle,
        answer: Self::Answer,
        output: &mut BytesMut,
    ) -> Result<(), CloseReason>;

    /// Moves what others want sent to the end of `output`.
    fn collect(&self, idle: &mut Self::Idle, output: &mut BytesMut);

    /// Whether the connection is to be closed, and no more frames served.
    fn leaves(&self, idle: &Self::Idle) -> bool;

    /// Tells how much of what was collected is not written yet.
    fn unwritten(&self, idle: &mut Self::Idle, bytes: usize);

    fn rest<'a>(&self, idle: &'a mut Self::Idle) -> &'a mut Option<Box<Rest>>;

    /// Nothing more is sent: the connection only waits for the peer to go.
    fn mute(&self, idle: &mut Self::Idle);

    /// The connection is gone. Called once, also after a panic.
    fn closed(&self, idle: Self::Idle, reason: CloseReason);
}

impl<F: Frames> Protocol for F {
    type Idle = <F as Frames>::Idle;

    const OPENS: bool = F::OPENS;

    /// Only what was pushed can go out while user code waits.
    const HEARS: Signal = match F::OPENS {
        true => Signal::PUSHED.with(Signal::WRITABLE),
        false => Signal::NONE,
    };

    fn arrive(&self, address: Address, nudge: Nudge) -> Self::Idle {
        Frames::arrive(self, address, nudge)
    }

    fn burst<W: Wire>(
        &self,
        turn: Turn<'_, W, Self::Idle>,
    ) -> impl Future<Output = Outcome> + Send {
        burst(turn.hub, self, turn.io, turn.idle, turn.order, turn.tally)
    }

    fn closed(&self, idle: Self::Idle, reason: CloseReason) {
        Frames::closed(self, idle, reason);
    }
}
