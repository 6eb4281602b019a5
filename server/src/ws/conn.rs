//! An open WebSocket that the server parks: the codec and the user's handler, as a framed protocol.
//!
//! `http/serve_turn.rs` takes the socket out of hyper after a 101, and keeps a [`WsConn`] as the
//! connection's idle state. `http/mod.rs` gives the turns of such a connection to [`WsConn::serve`].
//! The turn itself is that of `framed`; this file translates between its waits and those of an HTTP
//! server. Nothing here is locked but the codec.
//!
//! | the framed turn waits for | the connection is parked as | deadline |
//! |---|---|---|
//! | the next message | `Message`, so that it never becomes warm | `websocket_ping_interval` |
//! | the rest of a message, or of a frame | `Body` | `body_timeout`; each byte restarts it |
//!
//! What must never happen:
//!
//! - bytes that come while the handler waits start no turn.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use crate::accept::address::Address;
use crate::close_reason::{CloseReason, Deadline};
use crate::conn::edge_socket::EdgeSocket;
use crate::conn::events::{Events, ParkReason};
use crate::conn::notifier::ConnNotifier;
use crate::conn::protocol::{Outcome, WakeEvents};
use crate::conn::server_state::{Counters, ServerState};
use crate::conn::tokio_socket::TokioSocket;
use crate::conn::transport::{MaybeTls, Transport};
use crate::conn::wait::TurnInput;
use crate::framed::FrameProtocol;
use crate::framed::connection::Connection;
use crate::framed::handler::{Handler, HandlerProtocol, IdleConn};
use crate::framed::serve::serve_turn;
use crate::framed::service::BoxError;
use crate::sync::failpoint;
use crate::ws::codec::{CloseFirst, Limits, WsCodec};
use crate::ws::message::Message;
use crate::ws::stream::Stream;

/// A handler that waits for its WebSocket.
pub(crate) trait StartWs: Send + Sync {
    /// Makes the state of the connection. `input` was read already. May call user code.
    fn start(
        self: Box<Self>,
        address: Address,
        notifier: ConnNotifier,
        input: Box<[u8]>,
    ) -> Box<dyn WsConn>;
}

/// What a connection keeps between two turns, with the types of handler and protocol hidden.
pub(crate) trait WsConn: Send {
    fn serve<'a>(&'a mut self, io: AnyIo<'a>, turn: WsTurn<'a>) -> ServeTurn<'a>;

    fn on_close(self: Box<Self>, reason: CloseReason);
}

pub(crate) type ServeTurn<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// The stream of a connection: in either mode, or over HTTP/2.
pub(crate) enum AnyIo<'a> {
    Edge(&'a mut MaybeTls<EdgeSocket>),
    Tokio(&'a mut MaybeTls<TokioSocket>),
    Stream(&'a mut MaybeTls<Stream>),
}

/// What a turn may use besides the stream.
pub(crate) struct WsTurn<'a> {
    pub(crate) server: &'a ServerState,
    pub(crate) input: TurnInput,
    pub(crate) counters: &'a mut Counters,
    pub(crate) wake_events: &'a WakeEvents,
}

/// A user's handler and its limits, before the WebSocket is open.
pub(super) struct Waiting<H> {
    pub(super) handler: H,
    pub(super) limits: Limits,
}

impl<H: Handler<In = Message, Out = Message>> StartWs for Waiting<H> {
    fn start(
        self: Box<Self>,
        address: Address,
        notifier: ConnNotifier,
        input: Box<[u8]>,
    ) -> Box<dyn WsConn> {
        let mut open = open(*self, address, notifier);
        open.idle.save_input(&input);
        Box::new(open)
    }
}

type WsProtocol<H, N> = HandlerProtocol<Answering<H>, N, CloseFirst>;

/// An open WebSocket.
struct Open<H: Handler, N> {
    protocol: WsProtocol<H, N>,
    idle: IdleConn<WsCodec, H::State>,
}

/// Makes the state of a connection. The closure has no size: each connection has one.
fn open<H: Handler<In = Message, Out = Message>>(
    Waiting { handler, limits }: Waiting<H>,
    address: Address,
    notifier: ConnNotifier,
) -> Open<H, impl NewCodec> {
    let protocol = HandlerProtocol::new(Answering(handler), WsCodec::new);
    let idle = FrameProtocol::on_accept(&protocol, address, notifier);
    idle.with_codec(|codec: &mut WsCodec| codec.limits = limits);
    Open { protocol, idle }
}

trait NewCodec: Fn() -> WsCodec + Send + Sync + 'static {}

impl<N: Fn() -> WsCodec + Send + Sync + 'static> NewCodec for N {}

impl<H: Handler<In = Message, Out = Message>, N: NewCodec> WsConn for Open<H, N> {
    fn serve<'a>(&'a mut self, io: AnyIo<'a>, turn: WsTurn<'a>) -> ServeTurn<'a> {
        match io {
            AnyIo::Edge(io) => Box::pin(self.turn(io, turn)),
            AnyIo::Tokio(io) => Box::pin(self.turn(io, turn)),
            AnyIo::Stream(io) => Box::pin(self.turn(io, turn)),
        }
    }

    fn on_close(self: Box<Self>, reason: CloseReason) {
        let Self { protocol, idle } = *self;
        FrameProtocol::on_close(&protocol, idle, reason);
    }
}

impl<H: Handler<In = Message, Out = Message>, N: NewCodec> Open<H, N> {
    async fn turn<W: Transport>(&mut self, io: &mut MaybeTls<W>, turn: WsTurn<'_>) -> Outcome {
        let WsTurn { server, mut input, counters, wake_events } = turn;
        let Self { protocol, idle } = self;
        if input.park_reason == ParkReason::Message
            && input.expired == Some(Deadline::Idle)
            && !idle.with_codec(|codec| codec.pinged)
            && !failpoint("a silent peer gets no ping")
        {
            input.expired = None;
            // Other output begins the deadline anew when the peer takes it.
            let is_pinged = idle.send_alone(Message::Ping(Bytes::new()));
            idle.with_codec(|codec| codec.pinged = is_pinged);
        }
        let before = counters.read;
        let outcome = serve_turn(server, protocol, io, idle, input, counters).await;
        // `Protocol::INTEREST` of HTTP takes events of bytes while the handler waits. A framed turn
        // expects to find them in the entry.
        let events = wake_events.take();
        let has_more = events.any(Events::READABLE | Events::CLOSING)
            && !failpoint("events of a waiting handler are lost");
        if let Some(transport) = io.transport().filter(|_| has_more) {
            transport.on_ready(events);
        }
        let has_read = counters.read > before;
        let (closes, peer_first, has_part) = idle.with_codec(|codec| {
            codec.pinged &= !has_read;
            (codec.has_sent_close(), codec.peer_closed_first(), codec.has_part())
        });
        match outcome {
            Outcome::Close(CloseReason::ClosedByServer) if peer_first => {
                Outcome::Close(CloseReason::Peer)
            }
            Outcome::Park { park_reason, moved } if !idle.lingers() => {
                if closes {
                    // When the peer has the close, it is to answer within the linger timeout.
                    idle.close();
                }
                let (park_reason, moved) = match park_reason {
                    ParkReason::Idle | ParkReason::Frame if has_more => (ParkReason::Turn, moved),
                    // A message has the deadline of its reads, and these have come.
                    ParkReason::FrameTurn => (ParkReason::Turn, true),
                    // A control frame within a message is whole, and the message is not.
                    ParkReason::Idle | ParkReason::FirstByte if !has_part => {
                        (ParkReason::Message, moved)
                    }
                    ParkReason::Idle | ParkReason::FirstByte | ParkReason::Frame => {
                        (ParkReason::Body, has_read)
                    }
                    park_reason => (park_reason, moved),
                };
                Outcome::Park { park_reason, moved }
            }
            outcome => outcome,
        }
    }
}

/// Answers pings and closes around a user's handler.
struct Answering<H>(H);

impl<H: Handler<In = Message, Out = Message>> Handler for Answering<H> {
    type In = Message;
    type Out = Message;
    type State = H::State;

    fn on_open(
        &self,
        connection: &Connection<Message, H::State>,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        self.0.on_open(connection)
    }

    async fn on_frame(
        &self,
        connection: &Connection<Message, H::State>,
        message: Message,
    ) -> Result<(), BoxError> {
        match &message {
            // After a close of the server a ping has no answer.
            Message::Ping(bytes) if !failpoint("pings have no answer") => {
                let _ = connection.send(Message::Pong(bytes.clone())).await;
            }
            Message::Close(frame) => {
                let answer = Message::Close(frame.clone());
                let served = self.0.on_frame(connection, message).await;
                let _ = connection.send(answer).await;
                connection.close();
                return served;
            }
            _ => {}
        }
        self.0.on_frame(connection, message).await
    }

    fn on_close(&self, connection: &Connection<Message, H::State>, reason: CloseReason) {
        self.0.on_close(connection, reason);
    }
}
