//! Frames served by a handler, which may send at any time.

use std::future::Future;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio_util::codec::{Decoder, Encoder};

use crate::accept::address::Address;
use crate::close_reason::CloseReason;
use crate::conn::notifier::Nudge;
use crate::conn::server_state::Charge;
use crate::framed::Frames;
use crate::framed::connection::{Outlet, Peer, Room, TrySendError};
use crate::framed::serve::Rest;
use crate::framed::service::{BoxError, decode, failed, undecoded};
use crate::panic::fenced;
use crate::settings::SlowReader;
use crate::sync::Mutex;

/// What a server does with its connections, where answers to frames are not all it sends.
///
/// The same handler runs in both modes. The calls for one connection come one after another, each
/// as part of a burst: `on_open` before any frame, then its frames in order, and
/// `on_close` last, exactly once for each connection, also one whose `on_open` has failed or never
/// began.
///
/// A panic, or an error, closes the connection and costs nothing else.
///
/// # Examples
///
/// ```
/// use millpond_server::{BoxError, Handler, Peer, Server};
/// use tokio_util::codec::LinesCodec;
///
/// struct Greeter;
///
/// impl Handler for Greeter {
///     type In = String;
///     type Out = String;
///     type State = ();
///
///     async fn on_open(&self, peer: &Peer<String>) -> Result<(), BoxError> {
///         Ok(peer.send(format!("hello, {}", peer.address())).await?)
///     }
///
///     async fn on_frame(&self, peer: &Peer<String>, line: String) -> Result<(), BoxError> {
///         Ok(peer.send(line.to_uppercase()).await?)
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let server =
///     Server::builder().listen("127.0.0.1:0").codec(LinesCodec::new()).handle(Greeter)?;
/// # server.shutdown(std::time::Duration::from_secs(1)).await;
/// # Ok(())
/// # }
/// ```
pub trait Handler: Send + Sync + 'static {
    /// What the codec reads.
    type In: Send;
    /// What the codec writes.
    type Out: Send + 'static;
    /// Kept for each connection; see [`Peer::state`].
    type State: Default + Send + Sync + 'static;

    /// A connection has come; after the handshake, where there is one.
    ///
    /// # Errors
    ///
    /// Close the connection.
    fn on_open(
        &self,
        peer: &Peer<Self::Out, Self::State>,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = peer;
        async { Ok(()) }
    }

    /// A frame has come.
    ///
    /// # Errors
    ///
    /// Close the connection.
    fn on_frame(
        &self,
        peer: &Peer<Self::Out, Self::State>,
        frame: Self::In,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// The connection is gone. For short work: it runs where the end was noticed, in a job, a task
    /// or a thread that drops the server; never inside of a call of a [`Peer`].
    fn on_close(&self, peer: &Peer<Self::Out, Self::State>, reason: CloseReason) {
        let _ = (peer, reason);
    }
}

impl<H: Handler> Handler for Arc<H> {
    type In = H::In;
    type Out = H::Out;
    type State = H::State;

    fn on_open(
        &self,
        peer: &Peer<Self::Out, Self::State>,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        H::on_open(self, peer)
    }

    fn on_frame(
        &self,
        peer: &Peer<Self::Out, Self::State>,
        frame: Self::In,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        H::on_frame(self, peer, frame)
    }

    fn on_close(&self, peer: &Peer<Self::Out, Self::State>, reason: CloseReason) {
        H::on_close(self, peer, reason);
    }
}

/// A codec and a handler.
pub(crate) struct Handled<C, H> {
    pub(crate) codec: C,
    pub(crate) handler: Arc<H>,
}

/// A connection's state besides its socket. Shared with its peers.
pub(crate) struct Line<C, S> {
    address: Address,
    state: S,
    nudge: Nudge,
    room: Notify,
    inner: Mutex<Inner<C>>,
}

struct Inner<C> {
    /// Reads and writes, which may depend on each other. Runs under the connection's own lock.
    codec: C,
    output: BytesMut,
    charge: Charge,
    /// Of what a burst has collected.
    unwritten: usize,
    opened: bool,
    /// [`Peer::close`] was called.
    leaves: bool,
    closed: bool,
}

/// A connection at rest.
pub(crate) struct Still<C, S> {
    line: Arc<Line<C, S>>,
    rest: Option<Box<Rest>>,
}

/// Serves the frames of one burst.
pub(crate) struct Caller<C, H: Handler> {
    line: Arc<Line<C, H::State>>,
    peer: Peer<H::Out, H::State>,
}

impl<C, H> Frames for Handled<C, H>
where
    H: Handler,
    C: Decoder<Item = H::In, Error: Into<BoxError>> + Clone + Send + Sync + 'static,
    C: Encoder<H::Out, Error: Into<BoxError>>,
{
    type Idle = Still<C, H::State>;
    type Frame = H::In;
    type Caller = Caller<C, H>;
    type Answer = ();

    const OPENS: bool = true;

    fn arrive(&self, address: Address, nudge: Nudge) -> Self::Idle {
        let inner = Inner {
            codec: self.codec.clone(),
            output: BytesMut::new(),
            charge: nudge.hub().no_charge(),
            unwritten: 0,
            opened: false,
            leaves: false,
            closed: false,
        };
        let (state, room, inner) = (H::State::default(), Notify::new(), Mutex::new(inner));
        Still { line: Arc::new(Line { address, state, nudge, room, inner }), rest: None }
    }

    fn caller(&self, idle: &Self::Idle) -> Self::Caller {
        Caller { line: idle.line.clone(), peer: Peer(idle.line.clone()) }
    }

    async fn open(&self, caller: &mut Self::Caller) -> Result<(), CloseReason> {
        if std::mem::replace(&mut caller.line.inner.lock().opened, true) {
            return Ok(());
        }
        let opened = self.handler.on_open(&caller.peer).await;
        opened.map_err(|error| failed("handler", error, CloseReason::Service))
    }

    fn decode(
        &self,
        idle: &mut Self::Idle,
        input: &mut BytesMut,
        end: bool,
    ) -> Result<Option<H::In>, CloseReason> {
        let decoded = decode(&mut idle.line.inner.lock().codec, input, end);
        decoded.map_err(undecoded)
    }

    async fn call(&self, caller: &mut Self::Caller, frame: H::In) -> Result<(), CloseReason> {
        let served = self.handler.on_frame(&caller.peer, frame).await;
        served.map_err(|error| failed("handler", error, CloseReason::Service))
    }

    fn answer(
        &self,
        _idle: &mut Self::Idle,
        (): (),
        _output: &mut BytesMut,
    ) -> Result<(), CloseReason> {
        Ok(())
    }

    fn collect(&self, idle: &mut Self::Idle, output: &mut BytesMut) {
        let mut inner = idle.line.inner.lock();
        if !inner.output.is_empty() {
            output.unsplit(std::mem::take(&mut inner.output));
            inner.unwritten = output.len();
            // Who waits for it to be given back is woken without the lock.
            let none = idle.line.nudge.hub().no_charge();
            let charge = std::mem::replace(&mut inner.charge, none);
            drop(inner);
            drop(charge);
        }
    }

    fn leaves(&self, idle: &Self::Idle) -> bool {
        idle.line.inner.lock().leaves
    }

    fn unwritten(&self, idle: &mut Self::Idle, bytes: usize) {
        let limit = idle.line.nudge.hub().settings.outgoing;
        let mut inner = idle.line.inner.lock();
        inner.unwritten = bytes;
        let room = inner.output.len() + bytes < limit;
        drop(inner);
        if room {
            idle.line.room.notify_waiters();
        }
    }

    fn rest<'a>(&self, idle: &'a mut Self::Idle) -> &'a mut Option<Box<Rest>> {
        &mut idle.rest
    }

    fn mute(&self, idle: &mut Self::Idle) {
        let mut inner = idle.line.inner.lock();
        inner.closed = true;
        inner.output = BytesMut::new();
        let charge = std::mem::replace(&mut inner.charge, idle.line.nudge.hub().no_charge());
        drop(inner);
        drop(charge);
        idle.line.room.notify_waiters();
    }

    fn closed(&self, mut idle: Self::Idle, reason: CloseReason) {
        self.mute(&mut idle);
        let peer = Peer(idle.line);
        fenced(|| self.handler.on_close(&peer, reason));
    }
}

impl<C, Out, S> Outlet<Out, S> for Line<C, S>
where
    C: Encoder<Out, Error: Into<BoxError>> + Send,
    S: Send + Sync,
{
    fn address(&self) -> Address {
        self.address
    }

    fn state(&self) -> &S {
        &self.state
    }

    fn is_closed(&self) -> bool {
        let inner = self.inner.lock();
        inner.closed || inner.leaves
    }

    fn try_send(&self, frame: Out) -> Result<(), TrySendError<Out>> {
        let hub = self.nudge.hub();
        let mut inner = self.inner.lock();
        if inner.closed || inner.leaves {
            return Err(TrySendError::Closed(frame));
        }
        if inner.output.len() + inner.unwritten >= hub.settings.outgoing {
            drop(inner);
            if hub.settings.slow_reader == SlowReader::Close {
                self.nudge.close(CloseReason::SlowReader);
                return Err(TrySendError::Closed(frame));
            }
            return Err(TrySendError::Full(frame));
        }
        if hub.is_sated() {
            let slow = inner.output.len() + inner.unwritten > 0;
            drop(inner);
            if slow && hub.settings.slow_reader == SlowReader::Close {
                self.nudge.close(CloseReason::SlowReader);
                return Err(TrySendError::Closed(frame));
            }
            return Err(TrySendError::Full(frame));
        }
        let Inner { codec, output, charge, .. } = &mut *inner;
        let before = output.len();
        // A codec that panics would else leave half a frame, in a sender that has nothing to do
        // with this connection.
        match fenced(|| codec.encode(frame, output)) {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                output.truncate(before);
                return Err(TrySendError::Encode(error.into()));
            }
            None => {
                output.truncate(before);
                drop(inner);
                self.nudge.close(CloseReason::Panicked);
                return Err(TrySendError::Encode("the codec panicked".into()));
            }
        }
        charge.add(output.len() - before);
        drop(inner);
        // Who finds some there knows that its burst is under way.
        if before == 0 {
            self.nudge.push();
        }
        Ok(())
    }

    fn room(&self) -> Room<'_> {
        Room { own: self.room.notified(), all: self.nudge.hub().relief() }
    }

    fn close(&self) {
        self.inner.lock().leaves = true;
        self.nudge.close(CloseReason::Local);
    }
}
