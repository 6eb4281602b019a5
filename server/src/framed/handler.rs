//! [`Handler`], and the state that the turns and the [`Connection`]s of a connection share.
//!
//! `ConnShared` is that state. The turn (`serve`) reaches it through [`FrameProtocol`], senders on
//! any thread reach it through [`DynConnection`]. Its lock, `ConnShared::inner`, guards the codec,
//! the frames to be sent and the flags of the connection's end. Under the lock nothing is awaited
//! and no waker is woken; the codec is the only user code that runs under it (F2, F3).
//!
//! The bytes of a frame that is sent are in one of three places, and each place counts them:
//! 1. in `Outgoing::output`: counted by `Outgoing::permit`, against `send_buffer_total`;
//! 2. in the output of the running turn: counted by `Outgoing::unwritten`, against `send_buffer`;
//! 3. in the connection's `SavedBytes`: counted by `Outgoing::unwritten` and by a permit of their own.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio_util::codec::{Decoder, Encoder};

use crate::accept::address::Address;
use crate::close_reason::CloseReason;
use crate::conn::notifier::ConnNotifier;
use crate::conn::server_state::{BytesPermit, ServerState};
use crate::framed::connection::{Capacity, Connection, DynConnection, TrySendError};
use crate::framed::protocol::{FrameProtocol, SavedBytes};
use crate::framed::service::{BoxError, decode, decode_failed, failed};
use crate::panic::catch;
use crate::settings::SlowReader;
use crate::sync::{Mutex, failpoint};

/// The most bytes that are copied into a buffer, so that the buffer is used again.
const COPIED: usize = 2048;

/// Serves the connections of a server that sends more than responses: greetings, pushes,
/// broadcasts.
///
/// Give a handler to [`ServerBuilder::handle`](crate::ServerBuilder::handle). For one response to
/// each request, a tower service with [`ServerBuilder::serve`](crate::ServerBuilder::serve) is
/// simpler. The same handler runs in both modes.
///
/// # Calls
///
/// One connection's calls come one after another, never two at once:
///
/// 1. [`on_open`](Self::on_open), before any frame;
/// 2. [`on_frame`](Self::on_frame) for each frame, in the order of arrival;
/// 3. [`on_close`](Self::on_close), exactly once.
///
/// `on_close` also comes if `on_open` has failed or was never called. It does not come if
/// `State::default` or the codec's `clone` panicked: then the connection never began.
///
/// Calls of different connections run concurrently. With a pool, a call holds one of its slots.
///
/// # Errors and panics
///
/// An error or a panic closes its connection, and affects no other. Frames that were sent before go
/// out first, as far as the socket takes them without waiting. The close reason is
/// [`CloseReason::Service`] after an error, [`CloseReason::Panicked`] after a panic.
///
/// # Cancel safety
///
/// The server drops the future of `on_open` or `on_frame` in four cases: a write to the peer
/// fails, the write deadline passes, a shutdown's deadline passes, or the
/// [`max_connection_age_grace`](crate::ServerBuilder::max_connection_age_grace) does. While a call
/// is under way the server does not read, so a peer's departure alone cancels no call.
///
/// # Examples
///
/// ```
/// use millpond_server::{BoxError, Handler, Connection, Server};
/// use tokio_util::codec::LinesCodec;
///
/// struct Greeter;
///
/// impl Handler for Greeter {
///     type In = String;
///     type Out = String;
///     type State = ();
///
///     async fn on_open(&self, connection: &Connection<String>) -> Result<(), BoxError> {
///         Ok(connection.send(format!("hello, {}", connection.address())).await?)
///     }
///
///     async fn on_frame(&self, connection: &Connection<String>, line: String) -> Result<(), BoxError> {
///         Ok(connection.send(line.to_uppercase()).await?)
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
    /// The frames that the codec decodes.
    type In: Send;
    /// The frames that the codec encodes.
    type Out: Send + 'static;
    /// A value for each connection, made by `Default`; see [`Connection::state`]. Use `()` if there
    /// is nothing to keep.
    type State: Default + Send + Sync + 'static;

    /// Called once, before the connection's first frame; with TLS, after the handshake.
    ///
    /// The default does nothing and returns `Ok`.
    ///
    /// # Errors
    ///
    /// An error closes the connection.
    fn on_open(
        &self,
        connection: &Connection<Self::Out, Self::State>,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = connection;
        async { Ok(()) }
    }

    /// Called for each frame of the peer. The next frame is decoded after the call has ended.
    ///
    /// # Errors
    ///
    /// An error closes the connection.
    fn on_frame(
        &self,
        connection: &Connection<Self::Out, Self::State>,
        frame: Self::In,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// Called once, after the connection has ended. Sends are refused by then.
    ///
    /// The function must be short, because it runs where the end was noticed: in a job of the pool,
    /// in a task, or on the thread that drops the server. It never runs inside of a method of
    /// [`Connection`]. A panic is caught and has no effect. The default does nothing.
    fn on_close(&self, connection: &Connection<Self::Out, Self::State>, reason: CloseReason) {
        let _ = (connection, reason);
    }
}

impl<H: Handler> Handler for Arc<H> {
    type In = H::In;
    type Out = H::Out;
    type State = H::State;

    fn on_open(
        &self,
        connection: &Connection<Self::Out, Self::State>,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        H::on_open(self, connection)
    }

    fn on_frame(
        &self,
        connection: &Connection<Self::Out, Self::State>,
        frame: Self::In,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        H::on_frame(self, connection, frame)
    }

    fn on_close(&self, connection: &Connection<Self::Out, Self::State>, reason: CloseReason) {
        H::on_close(self, connection, reason);
    }
}

/// How a codec ends a connection.
pub(crate) trait LastFrame<C>: Send + Sync + 'static {
    /// Whether the codec itself bounds its frames. Otherwise `max_frame_size` does.
    const CODEC_LIMITS_FRAMES: bool = false;

    /// Whether a connection closes although a part of a frame has come. The peer learns of the end
    /// by the last frame then.
    const CLOSES_WITHIN_FRAMES: bool = false;

    /// Appends the last frame of a connection that closes for `reason`. Returns whether the peer
    /// answers that frame, so that the close waits for the peer.
    fn encode(_codec: &mut C, _reason: CloseReason, _output: &mut BytesMut) -> bool {
        false
    }
}

/// Of a codec that knows no last frame.
pub(crate) struct NoLastFrame;

impl<C> LastFrame<C> for NoLastFrame {}

/// A handler, and what makes the codec of each connection.
pub(crate) struct HandlerProtocol<H, N, F = NoLastFrame> {
    handler: H,
    new_codec: N,
    last_frame: PhantomData<F>,
}

impl<H, N, F> HandlerProtocol<H, N, F> {
    pub(crate) fn new(handler: H, new_codec: N) -> Self {
        Self { handler, new_codec, last_frame: PhantomData }
    }
}

/// A connection's state besides its socket, shared by its turns and its [`Connection`]s.
pub(crate) struct ConnShared<C, S> {
    address: Address,
    state: S,
    notifier: ConnNotifier,
    /// Notified when `unwritten` falls below `send_buffer`, and at the end.
    capacity: Notify,
    inner: Mutex<Inner<C>>,
}

struct Inner<C> {
    /// One codec decodes and encodes, since either may depend on the other. A codec that uses a
    /// `Connection` of its own connection deadlocks.
    codec: C,
    /// Present while something was sent and is not written. An idle connection keeps none.
    outgoing: Option<Box<Outgoing>>,
    /// `on_open` was called.
    opened: bool,
    /// [`Connection::close`] was called: the output still goes out.
    is_closing: bool,
    /// The connection has ended: nothing goes out any more.
    closed: bool,
    /// The turn polls user code now, and collects when that poll has ended.
    polled: bool,
}

/// The bytes of a connection that were sent and not written.
struct Outgoing {
    /// Frames that no turn has collected.
    output: BytesMut,
    /// Counts `output`.
    permit: BytesPermit,
    /// Bytes that a turn has collected and not written.
    unwritten: usize,
}

impl Outgoing {
    fn new(server: &ServerState) -> Box<Self> {
        let (output, permit) = (BytesMut::new(), server.empty_permit());
        Box::new(Self { output, permit, unwritten: 0 })
    }

    fn len(&self) -> usize {
        self.output.len() + self.unwritten
    }
}

/// What is kept of a connection between two turns.
pub(crate) struct IdleConn<C, S> {
    shared: Arc<ConnShared<C, S>>,
    saved: Option<Box<SavedBytes>>,
}

#[cfg(feature = "ws")]
impl<C, S> IdleConn<C, S> {
    /// Calls a function with the codec, under the lock.
    pub(crate) fn with_codec<R>(&self, call: impl FnOnce(&mut C) -> R) -> R {
        call(&mut self.shared.inner.lock().codec)
    }

    /// Sends a small frame if nothing else is to be sent, also while `send_buffer_total` is full. Returns
    /// whether the frame was sent. Called before a turn, which collects the frame.
    pub(crate) fn send_alone<Out>(&self, frame: Out) -> bool
    where
        C: Encoder<Out>,
    {
        let server = self.shared.notifier.server();
        let mut outgoing = Outgoing::new(server);
        if server.is_over_limit() && failpoint("a full total holds back pings") {
            return true;
        }
        let mut inner = self.shared.inner.lock();
        let has_output = inner.outgoing.as_ref().is_some_and(|outgoing| outgoing.len() > 0);
        if inner.closed || inner.is_closing || has_output {
            return false;
        }
        let is_sent = inner.codec.encode(frame, &mut outgoing.output).is_ok();
        if is_sent {
            outgoing.permit.add(outgoing.output.len());
            inner.outgoing = Some(outgoing);
        }
        is_sent
    }

    /// Closes as [`Connection::close`] does.
    pub(crate) fn close(&self) {
        self.shared.request_close();
    }

    /// Whether the connection is closed, and waits for the peer's end alone.
    pub(crate) fn lingers(&self) -> bool {
        self.saved.as_ref().is_some_and(|saved| saved.lingers.is_some())
    }

    /// Gives the first turn bytes that were read before it.
    pub(crate) fn save_input(&mut self, input: &[u8]) {
        if !input.is_empty() {
            let input = BytesMut::from(input);
            self.saved = Some(Box::new(SavedBytes { input, ..SavedBytes::default() }));
        }
    }
}

impl<C, S> ConnShared<C, S> {
    /// Closes the connection after its output. Only the first call asks the table: a turn whose output the
    /// peer does not take may call again at its end, and each request starts another turn.
    fn request_close(&self) {
        let asked = std::mem::replace(&mut self.inner.lock().is_closing, true);
        if !asked || failpoint("each close starts a turn") {
            self.notifier.close(CloseReason::ClosedByServer);
        }
    }
}

/// Calls the handler for one turn. The turn borrows the idle state at the same time, so this has
/// handles of its own.
pub(crate) struct HandlerCall<C, H: Handler> {
    shared: Arc<ConnShared<C, H::State>>,
    connection: Connection<H::Out, H::State>,
}

impl<C, H, N, F> FrameProtocol for HandlerProtocol<H, N, F>
where
    H: Handler,
    N: Fn() -> C + Send + Sync + 'static,
    F: LastFrame<C>,
    C: Decoder<Item = H::In, Error: Into<BoxError>> + Send + Sync + 'static,
    C: Encoder<H::Out, Error: Into<BoxError>>,
{
    type Idle = IdleConn<C, H::State>;
    type Frame = H::In;
    type TurnService = HandlerCall<C, H>;
    type Response = ();

    const SERVER_FIRST: bool = true;

    const CODEC_LIMITS_FRAMES: bool = F::CODEC_LIMITS_FRAMES;

    const CLOSES_WITHIN_FRAMES: bool = F::CLOSES_WITHIN_FRAMES;

    fn on_accept(&self, address: Address, notifier: ConnNotifier) -> Self::Idle {
        let inner = Inner {
            codec: (self.new_codec)(),
            outgoing: None,
            opened: false,
            is_closing: false,
            closed: false,
            polled: false,
        };
        let (state, capacity, inner) = (H::State::default(), Notify::new(), Mutex::new(inner));
        IdleConn {
            shared: Arc::new(ConnShared { address, state, notifier, capacity, inner }),
            saved: None,
        }
    }

    fn turn_service(&self, idle: &Self::Idle) -> Self::TurnService {
        HandlerCall { shared: idle.shared.clone(), connection: Connection(idle.shared.clone()) }
    }

    async fn open(&self, service: &mut Self::TurnService) -> Result<(), CloseReason> {
        if std::mem::replace(&mut service.shared.inner.lock().opened, true) {
            return Ok(());
        }
        let opened = self.handler.on_open(&service.connection).await;
        opened.map_err(|error| failed("handler", error, CloseReason::Service))
    }

    fn decode(
        &self,
        idle: &mut Self::Idle,
        input: &mut BytesMut,
        end: bool,
    ) -> Result<Option<H::In>, CloseReason> {
        let decoded = decode(&mut idle.shared.inner.lock().codec, input, end);
        decoded.map_err(decode_failed)
    }

    async fn call(&self, service: &mut Self::TurnService, frame: H::In) -> Result<(), CloseReason> {
        let served = self.handler.on_frame(&service.connection, frame).await;
        served.map_err(|error| failed("handler", error, CloseReason::Service))
    }

    fn encode(
        &self,
        _idle: &mut Self::Idle,
        (): (),
        _output: &mut BytesMut,
    ) -> Result<(), CloseReason> {
        Ok(())
    }

    fn polls_call(&self, idle: &Self::Idle, polls: bool) {
        let polls = polls || failpoint("a turn collects for ever");
        idle.shared.inner.lock().polled = polls;
    }

    fn collect(
        &self,
        idle: &mut Self::Idle,
        output: &mut BytesMut,
        permit: &mut Option<BytesPermit>,
    ) {
        let mut inner = idle.shared.inner.lock();
        let Some(outgoing) = inner.outgoing.as_mut().filter(|sent| !sent.output.is_empty()) else {
            return;
        };
        let sent = std::mem::take(&mut outgoing.output);
        // The turn keeps its buffer for a copy of a few bytes: `unsplit` would discard an empty one.
        match sent.len() <= COPIED && sent.len() <= output.capacity() - output.len() {
            true => output.extend_from_slice(&sent),
            false => output.unsplit(sent),
        }
        outgoing.unwritten = output.len();
        let none = idle.shared.notifier.server().empty_permit();
        let collected = std::mem::replace(&mut outgoing.permit, none);
        drop(inner);
        // The bytes count until they are written: a turn may wait long before that.
        match permit {
            _ if failpoint("collected bytes do not count") => {}
            Some(permit) => permit.absorb(collected),
            None => *permit = Some(collected),
        }
    }

    fn is_closing(&self, idle: &Self::Idle) -> bool {
        idle.shared.inner.lock().is_closing
    }

    fn unwritten(&self, idle: &mut Self::Idle, bytes: usize) {
        let limit = idle.shared.notifier.server().settings.send_buffer;
        let mut inner = idle.shared.inner.lock();
        let sent = inner.outgoing.as_mut().map_or(0, |outgoing| {
            outgoing.unwritten = bytes;
            outgoing.len()
        });
        let written = if sent == 0 { inner.outgoing.take() } else { None };
        drop(inner);
        drop(written);
        if sent < limit {
            idle.shared.capacity.notify_waiters();
        }
    }

    fn saved<'a>(&self, idle: &'a mut Self::Idle) -> &'a mut Option<Box<SavedBytes>> {
        &mut idle.saved
    }

    fn last_frame(
        &self,
        idle: &mut Self::Idle,
        reason: CloseReason,
        output: &mut BytesMut,
    ) -> bool {
        F::encode(&mut idle.shared.inner.lock().codec, reason, output)
    }

    fn close_output(&self, idle: &mut Self::Idle) {
        let mut inner = idle.shared.inner.lock();
        inner.closed = true;
        let outgoing = inner.outgoing.take();
        drop(inner);
        drop(outgoing);
        idle.shared.capacity.notify_waiters();
    }

    fn on_close(&self, mut idle: Self::Idle, reason: CloseReason) {
        self.close_output(&mut idle);
        let connection = Connection(idle.shared);
        catch(|| self.handler.on_close(&connection, reason));
    }
}

impl<C, Out, S> DynConnection<Out, S> for ConnShared<C, S>
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
        inner.closed || inner.is_closing
    }

    fn try_send(&self, frame: Out) -> Result<(), TrySendError<Out>> {
        let server = self.notifier.server();
        let mut inner = self.inner.lock();
        if inner.closed || inner.is_closing {
            return Err(TrySendError::Closed(frame));
        }
        let waiting = inner.outgoing.as_ref().map_or(0, |outgoing| outgoing.len());
        if waiting >= server.settings.send_buffer || server.is_over_limit() {
            drop(inner);
            // A connection with nothing to send is not the one that fills the server's total.
            if waiting > 0 && server.settings.slow_reader == SlowReader::Close {
                self.notifier.close(CloseReason::SlowReader);
                return Err(TrySendError::Closed(frame));
            }
            return Err(TrySendError::Full(frame));
        }
        let Inner { codec, outgoing, .. } = &mut *inner;
        let outgoing = outgoing.get_or_insert_with(|| Outgoing::new(server));
        let Outgoing { output, permit, .. } = &mut **outgoing;
        let before = output.len();
        // A sender may serve many connections: this codec's panic must not unwind into it, and must
        // leave no half a frame behind.
        match catch(|| codec.encode(frame, output)) {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                output.truncate(before);
                return Err(TrySendError::Encode(error.into()));
            }
            None => {
                output.truncate(before);
                drop(inner);
                self.notifier.close(CloseReason::Panicked);
                return Err(TrySendError::Encode("the codec panicked".into()));
            }
        }
        permit.add(output.len() - before);
        let collected = inner.polled;
        drop(inner);
        // If there was output before, the sender of that has pushed, and no turn has come yet (F5).
        if before == 0 && !collected {
            self.notifier.push();
        }
        Ok(())
    }

    fn capacity(&self) -> Capacity<'_> {
        Capacity { own: self.capacity.notified(), total: self.notifier.server().below_limit() }
    }

    fn close(&self) {
        self.request_close();
    }
}
