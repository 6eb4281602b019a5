//! The handle of a connection, for handlers and for code that pushes.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::accept::address::Address;

/// A connection, to send on from anywhere; from a [`Handler`](crate::Handler).
///
/// Clones are the same connection. A handle does not keep its connection open: after the end, sends
/// are refused. Handles of the same connection are equal, and have the same hash.
///
/// What is sent waits in memory until the peer takes it, up to
/// [`send_buffer`](crate::ServerBuilder::send_buffer) bytes and one frame. Frames of one sender
/// arrive in the order in which they were sent. They go out in turns; sending itself does no I/O.
pub struct Connection<Out, State = ()>(pub(crate) Arc<dyn DynConnection<Out, State>>);

/// The connection behind the handle; hides the codec.
pub(crate) trait DynConnection<Out, State>: Send + Sync {
    fn address(&self) -> Address;
    fn state(&self) -> &State;
    fn is_closed(&self) -> bool;
    fn try_send(&self, frame: Out) -> Result<(), TrySendError<Out>>;
    fn capacity(&self) -> CapacityFut<'_>;
    fn close(&self);
}

/// What a send that found no room waits for.
pub(crate) struct CapacityFut<'a> {
    pub(crate) own: tokio::sync::futures::Notified<'a>,
    pub(crate) all: tokio::sync::futures::Notified<'a>,
}

impl<Out, State> Connection<Out, State> {
    /// Where the connection comes from.
    pub fn address(&self) -> Address {
        self.0.address()
    }

    /// What the handler keeps for this connection; made by `Default` when it came.
    pub fn state(&self) -> &State {
        self.0.state()
    }

    /// Whether the connection is gone, or closes.
    pub fn is_closed(&self) -> bool {
        self.0.is_closed()
    }

    /// Sends a frame if there is room for it.
    ///
    /// # Errors
    ///
    /// [`TrySendError::Full`] if [`send_buffer`](crate::ServerBuilder::send_buffer) bytes wait for
    /// the peer already, or [`send_buffer_total`](crate::ServerBuilder::send_buffer_total) for all
    /// peers; [`TrySendError::Closed`] if the connection is gone, or has just been closed because
    /// its peer reads too slowly ([`SlowReader::Close`](crate::SlowReader::Close)). Both hold the
    /// frame. [`TrySendError::Encode`] if the codec refused it.
    pub fn try_send(&self, frame: Out) -> Result<(), TrySendError<Out>> {
        self.0.try_send(frame)
    }

    /// Sends a frame, and waits for room first.
    ///
    /// # Errors
    ///
    /// As [`try_send`](Self::try_send), but for `Full`.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it resolves, nothing was sent and the frame is lost.
    pub async fn send(&self, frame: Out) -> Result<(), SendError<Out>> {
        let mut frame = frame;
        loop {
            let CapacityFut { own, all } = self.0.capacity();
            frame = match self.0.try_send(frame) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Closed(frame)) => return Err(SendError::Closed(frame)),
                Err(TrySendError::Encode(error)) => return Err(SendError::Encode(error)),
                Err(TrySendError::Full(frame)) => frame,
            };
            let (mut own, mut all) = (std::pin::pin!(own), std::pin::pin!(all));
            std::future::poll_fn(|cx| {
                let own = own.as_mut().poll(cx).is_ready();
                match own || all.as_mut().poll(cx).is_ready() {
                    true => std::task::Poll::Ready(()),
                    false => std::task::Poll::Pending,
                }
            })
            .await;
        }
    }

    /// Closes the connection once what was sent has gone out. From now on sends are refused, and
    /// frames that come in are not served.
    pub fn close(&self) {
        self.0.close();
    }
}

impl<Out, State> Clone for Connection<Out, State> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// Handles are equal if they are of the same connection.
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

/// Why a frame was not sent.
#[non_exhaustive]
pub enum SendError<F> {
    /// The connection is gone. Holds the frame.
    Closed(F),
    /// The codec could not write the frame.
    Encode(Box<dyn std::error::Error + Send + Sync>),
}

/// Why a frame was not sent at once.
#[non_exhaustive]
pub enum TrySendError<F> {
    /// Too much waits to go out already. Holds the frame.
    Full(F),
    /// The connection is gone. Holds the frame.
    Closed(F),
    /// The codec could not write the frame.
    Encode(Box<dyn std::error::Error + Send + Sync>),
}

macro_rules! unsent {
    ($name:ident { $($variant:ident => $text:literal),+ }) => {
        impl<F> $name<F> {
            /// The frame, unless the codec has had it.
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
                    Self::Encode(_) => f.write_str("the codec could not write the frame"),
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

unsent!(SendError { Closed => "the connection is closed" });
unsent!(TrySendError {
    Full => "too much waits to go out already",
    Closed => "the connection is closed"
});
