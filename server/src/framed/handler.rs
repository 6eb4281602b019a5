//! Frames served by a handler, which may send at any time.

use std::future::Future;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio_util::codec::{Decoder, Encoder};

use crate::accept::address::Address;
use crate::close_reason::CloseReason;
use crate::conn::notifier::ConnNotifier;
use crate::conn::server_state::BytesPermit;
use crate::framed::FrameProtocol;
use crate::framed::connection::{CapacityFut, Connection, DynConnection, TrySendError};
use crate::framed::serve::SavedBytes;
use crate::framed::service::{BoxError, decode, decode_failed, failed};
use crate::panic::catch;
use crate::settings::SlowReader;
use crate::sync::Mutex;

/// What a server does with its connections, where answers to frames are not all it sends.
///
/// The same handler runs in both modes. The calls for one connection come one after another, each
/// as part of a turn: `on_open` before any frame, then its frames in order, and
/// `on_close` last, exactly once for each connection, also one whose `on_open` has failed or never
/// began.
///
/// A panic, or an error, closes the connection and costs nothing else.
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
    /// What the codec reads.
    type In: Send;
    /// What the codec writes.
    type Out: Send + 'static;
    /// Kept for each connection; see [`Connection::state`].
    type State: Default + Send + Sync + 'static;

    /// A connection has come; after the handshake, where there is one.
    ///
    /// # Errors
    ///
    /// Close the connection.
    fn on_open(
        &self,
        connection: &Connection<Self::Out, Self::State>,
    ) -> impl Future<Output = Result<(), BoxError>> + Send {
        let _ = connection;
        async { Ok(()) }
    }

    /// A frame has come.
    ///
    /// # Errors
    ///
    /// Close the connection.
    fn on_frame(
        &self,
        connection: &Connection<Self::Out, Self::State>,
        frame: Self::In,
    ) -> impl Future<Output = Result<(), BoxError>> + Send;

    /// The connection is gone. For short work: it runs where the end was noticed, in a job, a task
    /// or a thread that drops the server; never inside of a call of a [`Connection`].
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

/// A codec and a handler.
pub(crate) struct HandlerProtocol<C, H> {
    pub(crate) codec: C,
    pub(crate) handler: Arc<H>,
}

/// A connection's state besides its socket. Its [`Connection`]s share it.
pub(crate) struct ConnShared<C, S> {
    address: Address,
    state: S,
    notifier: ConnNotifier,
    capacity: Notify,
    inner: Mutex<Inner<C>>,
}

struct Inner<C> {
    /// Reads and writes, which may depend on each other. Runs under the connection's own lock.
    codec: C,
    output: BytesMut,
    permit: BytesPermit,
    /// Of what a turn has collected.
    unwritten: usize,
    opened: bool,
    /// [`Connection::close`] was called.
    is_closing: bool,
    closed: bool,
}

/// A connection at rest.
pub(crate) struct IdleConn<C, S> {
    shared: Arc<ConnShared<C, S>>,
    saved: Option<Box<SavedBytes>>,
}

/// Serves the frames of one turn.
pub(crate) struct HandlerCall<C, H: Handler> {
    shared: Arc<ConnShared<C, H::State>>,
    connection: Connection<H::Out, H::State>,
}

impl<C, H> FrameProtocol for HandlerProtocol<C, H>
where
    H: Handler,
    C: Decoder<Item = H::In, Error: Into<BoxError>> + Clone + Send + Sync + 'static,
    C: Encoder<H::Out, Error: Into<BoxError>>,
{
    type Idle = IdleConn<C, H::State>;
    type Frame = H::In;
    type TurnService = HandlerCall<C, H>;
    type Response = ();

    const SERVER_FIRST: bool = true;

    fn on_accept(&self, address: Address, notifier: ConnNotifier) -> Self::Idle {
        let inner = Inner {
            codec: self.codec.clone(),
            output: BytesMut::new(),
            permit: notifier.server().empty_permit(),
            unwritten: 0,
            opened: false,
            is_closing: false,
            closed: false,
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

    fn collect(&self, idle: &mut Self::Idle, output: &mut BytesMut) {
        let mut inner = idle.shared.inner.lock();
        if !inner.output.is_empty() {
            output.unsplit(std::mem::take(&mut inner.output));
            inner.unwritten = output.len();
            // Who waits for it to be given back is woken without the lock.
            let none = idle.shared.notifier.server().empty_permit();
            let permit = std::mem::replace(&mut inner.permit, none);
            drop(inner);
            drop(permit);
        }
    }

    fn is_closing(&self, idle: &Self::Idle) -> bool {
        idle.shared.inner.lock().is_closing
    }

    fn unwritten(&self, idle: &mut Self::Idle, bytes: usize) {
        let limit = idle.shared.notifier.server().settings.send_buffer;
        let mut inner = idle.shared.inner.lock();
        inner.unwritten = bytes;
        let capacity = inner.output.len() + bytes < limit;
        drop(inner);
        if capacity {
            idle.shared.capacity.notify_waiters();
        }
    }

    fn saved<'a>(&self, idle: &'a mut Self::Idle) -> &'a mut Option<Box<SavedBytes>> {
        &mut idle.saved
    }

    fn close_output(&self, idle: &mut Self::Idle) {
        let mut inner = idle.shared.inner.lock();
        inner.closed = true;
        inner.output = BytesMut::new();
        let permit =
            std::mem::replace(&mut inner.permit, idle.shared.notifier.server().empty_permit());
        drop(inner);
        drop(permit);
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
        if inner.output.len() + inner.unwritten >= server.settings.send_buffer {
            drop(inner);
            if server.settings.slow_reader == SlowReader::Close {
                self.notifier.close(CloseReason::SlowReader);
                return Err(TrySendError::Closed(frame));
            }
            return Err(TrySendError::Full(frame));
        }
        if server.is_over_limit() {
            let slow = inner.output.len() + inner.unwritten > 0;
            drop(inner);
            if slow && server.settings.slow_reader == SlowReader::Close {
                self.notifier.close(CloseReason::SlowReader);
                return Err(TrySendError::Closed(frame));
            }
            return Err(TrySendError::Full(frame));
        }
        let Inner { codec, output, permit, .. } = &mut *inner;
        let before = output.len();
        // A codec that panics would else leave half a frame, in a sender that has nothing to do
        // with this connection.
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
        drop(inner);
        // Who finds some there knows that its turn is under way.
        if before == 0 {
            self.notifier.push();
        }
        Ok(())
    }

    fn capacity(&self) -> CapacityFut<'_> {
        CapacityFut { own: self.capacity.notified(), all: self.notifier.server().below_limit() }
    }

    fn close(&self) {
        self.inner.lock().is_closing = true;
        self.notifier.close(CloseReason::ClosedByServer);
    }
}
