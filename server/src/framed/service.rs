//! Frames served by a tower service.

use std::error::Error;
use std::future::poll_fn;

use bytes::BytesMut;
use tokio_util::codec::{Decoder, Encoder};
use tower_service::Service;

use crate::accept::address::Address;
use crate::close_reason::CloseReason;
use crate::conn::notifier::Nudge;
use crate::framed::Frames;
use crate::framed::serve::Rest;
use crate::trace::event;

/// Any error; what services, handlers and codecs may fail by.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A codec and a service; each connection has a clone of the codec, each burst one of the service.
pub(crate) struct Framed<C, S> {
    pub(crate) codec: C,
    pub(crate) service: S,
}

/// A connection at rest.
pub(crate) struct Still<C> {
    codec: C,
    rest: Option<Box<Rest>>,
}

impl<C, S, R> Frames for Framed<C, S>
where
    C: Decoder<Item: Send, Error: Into<BoxError>> + Clone + Send + Sync + 'static,
    C: Encoder<R::Item, Error: Into<BoxError>>,
    S: Service<C::Item, Response = R, Error: Into<BoxError>, Future: Send>,
    S: Clone + Send + Sync + 'static,
    R: IntoIterator + Send,
{
    type Idle = Still<C>;
    type Frame = C::Item;
    type Caller = S;
    type Answer = R;

    const OPENS: bool = false;

    fn arrive(&self, _address: Address, _nudge: Nudge) -> Still<C> {
        Still { codec: self.codec.clone(), rest: None }
    }

    fn caller(&self, _idle: &Still<C>) -> S {
        self.service.clone()
    }

    async fn open(&self, _caller: &mut S) -> Result<(), CloseReason> {
        Ok(())
    }

    fn decode(
        &self,
        idle: &mut Still<C>,
        input: &mut BytesMut,
        end: bool,
    ) -> Result<Option<C::Item>, CloseReason> {
        decode(&mut idle.codec, input, end).map_err(undecoded)
    }

    async fn call(&self, caller: &mut S, frame: C::Item) -> Result<R, CloseReason> {
        let wrong = |error: S::Error| failed("service", error.into(), CloseReason::Service);
        poll_fn(|cx| caller.poll_ready(cx).map_err(wrong)).await?;
        caller.call(frame).await.map_err(wrong)
    }

    fn answer(
        &self,
        idle: &mut Still<C>,
        answer: R,
        output: &mut BytesMut,
    ) -> Result<(), CloseReason> {
        for frame in answer {
            let before = output.len();
            if let Err(error) = idle.codec.encode(frame, output) {
                output.truncate(before);
                return Err(failed("encoder", error.into(), CloseReason::Codec));
            }
        }
        Ok(())
    }

    fn collect(&self, _idle: &mut Still<C>, _output: &mut BytesMut) {}

    fn leaves(&self, _idle: &Still<C>) -> bool {
        false
    }

    fn unwritten(&self, _idle: &mut Still<C>, _bytes: usize) {}

    fn rest<'a>(&self, idle: &'a mut Still<C>) -> &'a mut Option<Box<Rest>> {
        &mut idle.rest
    }

    fn mute(&self, _idle: &mut Still<C>) {}

    fn closed(&self, _idle: Still<C>, _reason: CloseReason) {}
}

pub(crate) fn decode<C: Decoder>(
    codec: &mut C,
    input: &mut BytesMut,
    end: bool,
) -> Result<Option<C::Item>, C::Error> {
    match end {
        false => codec.decode(input),
        true => codec.decode_eof(input),
    }
}

pub(crate) fn undecoded(error: impl Into<BoxError>) -> CloseReason {
    failed("decoder", error.into(), CloseReason::Codec)
}

/// Says what went wrong, and gives the reason to close for.
pub(crate) fn failed(what: &'static str, error: BoxError, reason: CloseReason) -> CloseReason {
    if reason == CloseReason::Service {
        event!(WARN, what, error = %error, "connection fails");
    } else {
        event!(DEBUG, what, error = %error, "connection fails");
    }
    let _ = (what, error);
    reason
}
