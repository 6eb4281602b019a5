//! [`Connection`]: the server's end of a connection, for handlers and for code that pushes.
//!
//! The handle hides the codec behind `DynConnection`, so its type names the frames alone.
//! `handler` implements that trait for the state that a connection's handles share. Handles live on
//! user code's side: in handlers, in collections, on threads without a runtime. So no function here
//! does I/O, and no function but [`Connection::send`] waits.

use std::fmt;
use std::future::{Future, poll_fn};
use std::hash::{Hash, Hasher};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::futures::Notified;

use crate::accept::address::Address;

/// The server's end of a connection: sends frames to the peer, from anywhere and at any time.
///
/// A [`Handler`](crate::Handler) gets a reference in each of its calls, and may keep clones. Clones
/// are cheap and mean the same connection: they are equal, and have the same hash.
///
/// # Lifetime
///
/// A `Connection` does not keep the connection open. After the end, sends return their frame with
/// `Closed`. A clone keeps the connection's [`state`](Self::state) in memory, but no socket.
/// Dropping a `Connection`, even the last clone, closes nothing; [`close`](Self::close) does.
///
/// # Order
///
/// Frames go out in the order of the sends. Sends that wait for room at the same time resume in no
/// particular order.
///
/// # Backpressure
///
/// A send encodes the frame into the connection's send buffer, and does no I/O. The server writes
/// that buffer in the connection's turns. Two bounds limit what waits in memory:
///
/// - [`send_buffer`](crate::ServerBuilder::send_buffer), 256 KiB by default, for this connection.
///   A send below the bound is accepted whole, so the buffer may exceed the bound by one frame.
/// - [`send_buffer_total`](crate::ServerBuilder::send_buffer_total), 64 MiB by default, for all
///   connections of the server.
///
/// | | buffer full, [`SlowReader::Wait`] (default) | buffer full, [`SlowReader::Close`] | closed |
/// |---|---|---|---|
/// | [`try_send`](Self::try_send) | `Full`, with the frame | closes the connection; `Closed`, with the frame | `Closed`, with the frame |
/// | [`send`](Self::send) | waits for room | closes the connection; `Closed`, with the frame | `Closed`, with the frame |
///
/// A connection with an empty send buffer is not a slow reader. If the bytes of other connections
/// fill `send_buffer_total`, its sends see `Full` or wait, under either policy.
///
/// [`SlowReader::Wait`]: crate::SlowReader::Wait
/// [`SlowReader::Close`]: crate::SlowReader::Close
///
/// # Examples
///
/// A broadcast that skips slow readers and forgets closed connections:
///
/// ```
/// use millpond_server::{Connection, TrySendError};
/// use std::collections::HashSet;
///
/// fn broadcast(connections: &mut HashSet<Connection<String>>, line: &str) {
///     connections.retain(|connection| match connection.try_send(line.to_owned()) {
///         Ok(()) | Err(TrySendError::Full(_)) => true,
///         Err(_) => false,
///     });
/// }
/// # broadcast(&mut HashSet::new(), "hello");
/// ```
#[doc(alias = "sender")]
#[doc(alias = "sink")]
#[doc(alias = "backpressure")]
pub struct Connection<Out, State = ()>(pub(super) Arc<dyn DynConnection<Out, State>>);

/// The shared state behind a [`Connection`]; hides the codec.
pub(super) trait DynConnection<Out, State>: Send + Sync {
    fn address(&self) -> Address;
    fn state(&self) -> &State;
    fn is_closed(&self) -> bool;
    fn try_send(&self, frame: Out) -> Result<(), TrySendError<Out>>;
    fn capacity(&self) -> Capacity<'_>;
    fn close(&self);
}

/// A registered wait for room in the send buffer.
///
/// `Notified` receives every `notify_waiters` since its creation, not since its first poll. So a
/// sender creates this, then looks for room, then waits (F6).
pub(super) struct Capacity<'a> {
    /// Room in the connection's own buffer.
    pub(super) own: Notified<'a>,
    /// Room below `send_buffer_total`.
    pub(super) total: Notified<'a>,
}

impl Capacity<'_> {
    /// Waits until either buffer may have room; the caller looks again.
    async fn wait(self) {
        let (mut own, mut total) = (pin!(self.own), pin!(self.total));
        poll_fn(|cx| {
            if own.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { total.as_mut().poll(cx) }
        })
        .await;
    }
}

impl<Out, State> Connection<Out, State> {
    /// Returns the peer's address.
    pub fn address(&self) -> Address {
        self.0.address()
    }

    /// Returns the [`Handler::State`](crate::Handler::State) of this connection. `Default` has made
    /// it when the connection was accepted.
    pub fn state(&self) -> &State {
        self.0.state()
    }

    /// Returns whether sends are refused: the connection has ended, or [`close`](Self::close) was
    /// called.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Sends a frame if the send buffer has room. Never waits.
    ///
    /// `Ok` says that the frame is in the send buffer, not that the peer has received it.
    ///
    /// # Errors
    ///
    /// - [`TrySendError::Full`]: the connection's send buffer or the server's total is full. Holds
    ///   the frame. Under [`SlowReader::Close`](crate::SlowReader::Close) only a connection with an
    ///   empty send buffer gets this.
    /// - [`TrySendError::Closed`]: the connection has ended or is closing. Holds the frame. Under
    ///   [`SlowReader::Close`](crate::SlowReader::Close) this call may have closed the connection.
    /// - [`TrySendError::Encode`]: the codec returned an error, or panicked. After an error the
    ///   connection stays open, and nothing of the frame is sent. A panic of the codec closes this
    ///   connection, with
    ///   [`CloseReason::Panicked`](crate::CloseReason::Panicked); the panic does not reach the
    ///   caller.
    pub fn try_send(&self, frame: Out) -> Result<(), TrySendError<Out>> {
        self.0.try_send(frame)
    }

    /// Sends a frame, and waits while the send buffer is full.
    ///
    /// A handler's call that waits here lets the server go on writing to the same connection. If
    /// the peer takes no byte for the duration of the
    /// [`write_timeout`](crate::ServerBuilder::write_timeout), the connection ends, and the wait
    /// with it. In a pool, the call keeps its slot while it waits.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] and [`SendError::Encode`], like [`try_send`](Self::try_send).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped while it waits, nothing of the frame is sent, and the frame is
    /// dropped. Use [`try_send`](Self::try_send) in a `select!` that must keep the frame.
    pub async fn send(&self, mut frame: Out) -> Result<(), SendError<Out>> {
        loop {
            let capacity = self.0.capacity();
            frame = match self.0.try_send(frame) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Closed(frame)) => return Err(SendError::Closed(frame)),
                Err(TrySendError::Encode(error)) => return Err(SendError::Encode(error)),
                Err(TrySendError::Full(frame)) => frame,
            };
            capacity.wait().await;
        }
    }

    /// Closes the connection after the frames in the send buffer have gone out.
    ///
    /// From this call on, sends are refused, and no further frame of the peer is served. A call of
    /// the handler that is under way goes on to its end. The write deadline holds for the rest of
    /// the output. The connection ends with
    /// [`CloseReason::ClosedByServer`](crate::CloseReason::ClosedByServer).
    ///
    /// The function returns at once. Further calls have no effect.
    pub fn close(&self) {
        self.0.close();
    }
}

impl<Out, State> Clone for Connection<Out, State> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Two `Connection`s are equal if they mean the same connection.
impl<Out, State> PartialEq for Connection<Out, State> {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.0), Arc::as_ptr(&other.0))
    }
}

impl<Out, State> Eq for Connection<Out, State> {}

impl<Out, State> Hash for Connection<Out, State> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        Arc::as_ptr(&self.0).cast::<()>().hash(hasher);
    }
}

impl<Out, State> fmt::Debug for Connection<Out, State> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("address", &self.address()).finish_non_exhaustive()
    }
}

/// The error of [`Connection::send`].
///
/// `Closed` gives the frame back; [`into_frame`](Self::into_frame) takes it out.
#[non_exhaustive]
pub enum SendError<F> {
    /// The connection has ended or is closing. Holds the frame.
    Closed(F),
    /// The codec did not encode the frame. The frame is lost.
    Encode(Box<dyn std::error::Error + Send + Sync>),
}

/// The error of [`Connection::try_send`].
///
/// `Full` and `Closed` give the frame back; [`into_frame`](Self::into_frame) takes it out.
#[non_exhaustive]
pub enum TrySendError<F> {
    /// The connection's send buffer or the server's total is full. Holds the frame.
    Full(F),
    /// The connection has ended or is closing. Holds the frame.
    Closed(F),
    /// The codec did not encode the frame. The frame is lost.
    Encode(Box<dyn std::error::Error + Send + Sync>),
}

macro_rules! impl_send_error {
    ($name:ident { $($variant:ident => $text:literal),+ }) => {
        impl<F> $name<F> {
            /// Returns the frame; `None` for `Encode`, because the codec has consumed the frame.
            pub fn into_frame(self) -> Option<F> {
                match self {
                    $(Self::$variant(frame) => Some(frame),)+
                    Self::Encode(_) => None,
                }
            }
        }

        impl<F> fmt::Debug for $name<F> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant(_) => f.write_str(concat!(stringify!($variant), "(..)")),)+
                    Self::Encode(error) => f.debug_tuple("Encode").field(error).finish(),
                }
            }
        }

        impl<F> fmt::Display for $name<F> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant(_) => f.write_str($text),)+
                    Self::Encode(_) => f.write_str("the codec did not encode the frame"),
                }
            }
        }

        impl<F> std::error::Error for $name<F> {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                match self {
                    $(Self::$variant(_) => None,)+
                    Self::Encode(error) => Some(&**error),
                }
            }
        }
    };
}

impl_send_error!(SendError { Closed => "the connection is closed" });
impl_send_error!(TrySendError {
    Full => "the send buffer is full",
    Closed => "the connection is closed"
});
