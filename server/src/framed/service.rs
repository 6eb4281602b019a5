//! Frames served by a tower service: each frame is a request, and gets one response.

use std::error::Error;
use std::future::poll_fn;

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};
use tower_service::Service;

use crate::accept::address::Address;
use crate::close_reason::CloseReason;
use crate::conn::notifier::ConnNotifier;
use crate::conn::server_state::BytesPermit;
use crate::framed::protocol::{FrameProtocol, SavedBytes};
use crate::trace::event;

/// The error type of services, handlers and codecs: any error.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A codec and a service. Each connection has a clone of the codec, each turn a clone of the
/// service.
pub(crate) struct ServiceProtocol<C, S> {
    pub(crate) codec: C,
    pub(crate) service: S,
}

/// What is kept of a connection between two turns.
pub(crate) struct IdleConn<C> {
    codec: C,
    saved: Option<Box<SavedBytes>>,
}

impl<C, S, R> FrameProtocol for ServiceProtocol<C, S>
where
    C: Decoder<Item: Send, Error: Into<BoxError>> + Clone + Send + Sync + 'static,
    C: Encoder<R::Item, Error: Into<BoxError>>,
    S: Service<C::Item, Response = R, Error: Into<BoxError>, Future: Send>,
    S: Clone + Send + Sync + 'static,
    R: IntoIterator + Send,
{
    type Idle = IdleConn<C>;
    type Frame = C::Item;
    type TurnService = S;
    type Response = R;

    const SERVER_FIRST: bool = false;

    fn on_accept(&self, _address: Address, _notifier: ConnNotifier) -> IdleConn<C> {
        IdleConn { codec: self.codec.clone(), saved: None }
    }

    fn turn_service(&self, _idle: &IdleConn<C>) -> S {
        self.service.clone()
    }

    async fn open(&self, _service: &mut S) -> Result<(), CloseReason> {
        Ok(())
    }

    fn decode(
        &self,
        idle: &mut IdleConn<C>,
        input: &mut BytesMut,
        end: bool,
    ) -> Result<Option<C::Item>, CloseReason> {
        decode(&mut idle.codec, input, end).map_err(decode_failed)
    }

    async fn call(&self, service: &mut S, frame: C::Item) -> Result<R, CloseReason> {
        let call_failed = |error: S::Error| failed("service", error.into(), CloseReason::Service);
        poll_fn(|cx| service.poll_ready(cx).map_err(call_failed)).await?;
        service.call(frame).await.map_err(call_failed)
    }

    fn encode(
        &self,
        idle: &mut IdleConn<C>,
        response: R,
        output: &mut BytesMut,
    ) -> Result<(), CloseReason> {
        for frame in response {
            let before = output.len();
            if let Err(error) = idle.codec.encode(frame, output) {
                // The peer gets whole frames only.
                output.truncate(before);
                return Err(failed("encoder", error.into(), CloseReason::Codec));
            }
        }
        Ok(())
    }

    fn collect(
        &self,
        _idle: &mut IdleConn<C>,
        _output: &mut BytesMut,
        _permit: &mut Option<BytesPermit>,
    ) {
    }

    fn is_closing(&self, _idle: &IdleConn<C>) -> bool {
        false
    }

    fn unwritten(&self, _idle: &mut IdleConn<C>, _bytes: usize) {}

    fn saved<'a>(&self, idle: &'a mut IdleConn<C>) -> &'a mut Option<Box<SavedBytes>> {
        &mut idle.saved
    }

    fn close_output(&self, _idle: &mut IdleConn<C>) {}

    fn on_close(&self, _idle: IdleConn<C>, _reason: CloseReason) {}
}

/// Calls the decoder. At the end of the stream the decoder may return frames that it has held back.
pub(super) fn decode<C: Decoder>(
    codec: &mut C,
    input: &mut BytesMut,
    end: bool,
) -> Result<Option<C::Item>, C::Error> {
    match end {
        false => codec.decode(input),
        true => codec.decode_eof(input),
    }
}

pub(super) fn decode_failed(error: impl Into<BoxError>) -> CloseReason {
    failed("decoder", error.into(), CloseReason::Codec)
}

/// Logs the error, and returns `reason`. The peer can cause codec errors at will, so those are
/// logged at a lower level.
pub(super) fn failed(what: &'static str, error: BoxError, reason: CloseReason) -> CloseReason {
    if reason == CloseReason::Service {
        event!(WARN, what, error = %error, "connection fails");
    } else {
        event!(DEBUG, what, error = %error, "connection fails");
    }
    let _ = (what, error);
    reason
}

/// A protocol of lines, for tests of a part that serves none.
#[cfg(test)]
pub(crate) type Lines = ServiceProtocol<
    tokio_util::codec::LinesCodec,
    tower::util::BoxCloneSyncService<String, Vec<String>, std::io::Error>,
>;

#[cfg(test)]
pub(crate) fn lines() -> Lines {
    let service = tower::service_fn(|line: String| async { Ok(vec![line]) });
    let service = tower::util::BoxCloneSyncService::new(service);
    ServiceProtocol { codec: Default::default(), service }
}
