//! Turns of a framed connection over a transport that plays a script, for tests and fuzzing.
//!
//! [`play`] stands in for both modes: it runs turn after turn until the connection closes, and parks
//! in between. A [`Script`] stands in for the socket: it says when bytes come and how many the peer
//! takes. So the cuts and the moments at which a socket would block are free to choose, and a run
//! with the same script has the same end. No runtime is needed.
//!
//! The tests below and the fuzz targets in `fuzz/` call `play`. The module exists in test builds and
//! under `--cfg fuzzing` alone; it is no part of the public API.

use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::codec::{Decoder, Encoder};
use tower_service::Service;

use crate::Address;
use crate::close_reason::CloseReason;
use crate::conn::events::{Events, ParkReason};
use crate::conn::notifier::ConnNotifier;
use crate::conn::protocol::Outcome;
use crate::conn::server_state::{Counters, ServerState};
use crate::conn::transport::{MaybeTls, Transport};
use crate::conn::wait::TurnInput;
use crate::framed::FrameProtocol;
use crate::framed::serve::serve_turn;
use crate::framed::service::{BoxError, ServiceProtocol};
use crate::settings::{Deadlines, Settings, SlowReader, Ticks};

/// A step of the script: what the peer does.
#[derive(Debug, Clone)]
pub enum Event {
    /// The peer sends these bytes, which arrive together.
    Sends(Vec<u8>),
    /// The peer sends nothing for now: a read would block.
    Pauses,
    /// The peer takes this many bytes more. Beyond them a write would block.
    Takes(usize),
}

/// The settings that matter to a turn.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub max_frame_size: usize,
    pub read_budget_bytes: usize,
    pub read_budget_frames: usize,
}

/// The result of a script.
#[derive(Debug, PartialEq, Eq)]
pub struct Played {
    pub output: Vec<u8>,
    pub reason: CloseReason,
    /// Whether the peer got the whole alert that ends the session, before the connection was closed.
    pub ended: bool,
    /// The server's count of bytes that wait for peers. 0 after the end, if no permit was lost.
    pub send_buffered: usize,
}

/// The size of the alert that ends the session. It needs room like output.
const ALERT: usize = 24;

struct Script {
    events: VecDeque<Event>,
    /// How many bytes the peer takes until the next `Takes`.
    room: usize,
    output: Vec<u8>,
    /// How many bytes of the alert are still to be written.
    alert: usize,
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.events.front_mut() {
            None => Poll::Ready(Ok(())),
            Some(Event::Sends(bytes)) => {
                let count = bytes.len().min(buffer.remaining());
                buffer.put_slice(&bytes[..count]);
                bytes.drain(..count);
                if bytes.is_empty() {
                    self.events.pop_front();
                }
                // An empty read would mean the end of the stream.
                if count == 0 { Poll::Pending } else { Poll::Ready(Ok(())) }
            }
            Some(_) => Poll::Pending,
        }
    }
}

impl AsyncWrite for Script {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = bytes.len().min(self.room);
        if count == 0 {
            return Poll::Pending;
        }
        self.room -= count;
        self.output.extend_from_slice(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let count = self.alert.min(self.room);
        self.room -= count;
        self.alert -= count;
        if self.alert == 0 { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl Transport for Script {
    fn force_io(&mut self, _forced: bool) {}

    fn made_progress(&mut self) -> bool {
        false // no deadline passes in a script
    }

    #[cfg(feature = "http")]
    const REGISTERS_WAKER: bool = false;

    #[cfg(feature = "http")]
    fn peer_addr(&self) -> io::Result<Address> {
        Ok(Address::Unix)
    }
}

/// Delivers no events: a script has no other code that could wake its connection.
struct Nowhere(std::sync::Arc<ServerState>);

impl crate::conn::notifier::Notify for Nowhere {
    fn deliver(&self, _key: crate::conn::key::ConnKey, _events: Events) {}
    fn request_close(&self, _key: crate::conn::key::ConnKey, _reason: CloseReason) {}
    #[cfg(feature = "http")]
    fn register(&self, _key: crate::conn::key::ConnKey, _waker: &Waker) {}
    #[cfg(feature = "http")]
    fn count_request(&self, _key: crate::conn::key::ConnKey) -> u32 {
        0
    }
    #[cfg(feature = "http")]
    fn id(&self) -> u64 {
        0
    }
    #[cfg(feature = "http")]
    fn close_requested(&self, _key: crate::conn::key::ConnKey) -> Option<CloseReason> {
        None
    }
    fn server(&self) -> &ServerState {
        &self.0
    }
}

/// Serves a connection to its end, turn after turn. Returns what the peer got, and why it ended.
///
/// # Panics
///
/// If the service waits: there is no runtime to wake the turn. A panic of the service continues here.
#[cfg_attr(not(feature = "rustls"), allow(irrefutable_let_patterns))]
pub fn play<C, S, R>(codec: C, service: S, limits: Limits, events: Vec<Event>) -> Played
where
    C: Decoder<Item: Send, Error: Into<BoxError>> + Clone + Send + Sync + 'static,
    C: Encoder<R::Item, Error: Into<BoxError>>,
    S: Service<C::Item, Response = R, Error: Into<BoxError>, Future: Send>,
    S: Clone + Send + Sync + 'static,
    R: IntoIterator + Send + 'static,
{
    let settings = Settings {
        max_frame_size: limits.max_frame_size,
        read_budget_bytes: limits.read_budget_bytes,
        read_budget_frames: limits.read_budget_frames,
        send_buffer: 1 << 20,
        send_buffer_total: 1 << 30,
        slow_reader: SlowReader::Wait,
        max_age: None,
        max_age_grace: None,
        shutdown_grace: std::time::Duration::ZERO,
        ticks: Ticks::new(&Deadlines {
            idle: Some(Duration::from_secs(1)),
            ..Deadlines::default()
        }),
    };
    let server = std::sync::Arc::new(ServerState::new(settings, 1, None));
    let protocol = ServiceProtocol { codec, service };
    let key = crate::conn::key::ConnKey { index: 0, generation: 0 };
    let notifier = ConnNotifier::new(std::sync::Arc::new(Nowhere(server.clone())), key);
    let mut idle = protocol.on_accept(Address::Unix, notifier);
    let script = Script { events: events.into(), room: 0, output: Vec::new(), alert: ALERT };
    let mut io = MaybeTls::Plain(script);
    let (events, park_reason) = (Events::READABLE, ParkReason::FirstByte);
    let mut input =
        TurnInput { events, park_reason, expired: None, close_requested: None, is_busy: false };
    let reason = loop {
        let outcome = {
            let mut counters = Counters::default();
            let turn =
                pin!(serve_turn(&server, &protocol, &mut io, &mut idle, input, &mut counters));
            match turn.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(outcome) => outcome,
                Poll::Pending => panic!("a turn is pending, although its service never waits"),
            }
        };
        let MaybeTls::Plain(script) = &mut io else { unreachable!("the script is not TLS") };
        match outcome {
            Outcome::Close(reason) => break reason,
            #[cfg(feature = "http")]
            Outcome::Detached(_) | Outcome::Warm => {
                unreachable!("a framed connection keeps its place")
            }
            Outcome::Panicked(payload) => std::panic::resume_unwind(payload),
            Outcome::Park { park_reason, .. } if park_reason.is_turn() => {
                input.park_reason = park_reason.wait()
            }
            Outcome::Park { park_reason: ParkReason::Write, .. } => {
                input.park_reason = ParkReason::Write;
                script.room = script.take().unwrap_or(usize::MAX);
            }
            // The connection waits for the peer: the next bytes of the script wake it.
            Outcome::Park { park_reason, .. } => {
                input.park_reason = park_reason;
                script.go_on();
            }
        }
    };
    let MaybeTls::Plain(script) = io else { unreachable!("the script is not TLS") };
    drop(idle);
    let (output, ended) = (script.output, script.alert == 0);
    Played { output, reason, ended, send_buffered: server.send_buffered() }
}

impl Script {
    /// Drops the steps before the next bytes. The bytes that the peer takes meanwhile count.
    fn go_on(&mut self) {
        while let Some(event) = self.events.front() {
            match event {
                Event::Sends(bytes) if !bytes.is_empty() => return,
                Event::Takes(count) => self.room = self.room.saturating_add(*count),
                _ => {}
            }
            self.events.pop_front();
        }
    }

    /// Takes out the next `Takes`. Returns how many bytes that is, or `None` without one.
    fn take(&mut self) -> Option<usize> {
        let at = self.events.iter().position(|event| matches!(event, Event::Takes(_)))?;
        match self.events.remove(at) {
            Some(Event::Takes(count)) => Some(count.max(1)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::BytesMut;
    use proptest::prelude::*;
    use tokio_util::codec::{LengthDelimitedCodec, LinesCodec};

    use super::*;

    fn split(bytes: &[u8], cuts: &[(u8, u8, u8)]) -> Vec<Event> {
        let mut events = Vec::new();
        let mut rest = bytes;
        for (size, pause, take) in cuts {
            let (now, later) = rest.split_at((*size as usize).min(rest.len()));
            events.push(Event::Sends(now.to_vec()));
            if pause % 3 == 0 {
                events.push(Event::Pauses);
            }
            if take % 2 == 0 {
                events.push(Event::Takes(*take as usize));
            }
            rest = later;
        }
        events.push(Event::Sends(rest.to_vec()));
        events
    }

    fn cuts() -> impl Strategy<Value = Vec<(u8, u8, u8)>> {
        prop::collection::vec((0..40u8, any::<u8>(), any::<u8>()), 0..60)
    }

    fn limits() -> impl Strategy<Value = Limits> {
        (1..200usize, 1..8usize).prop_map(|(read_budget_bytes, read_budget_frames)| Limits {
            max_frame_size: 4096,
            read_budget_bytes,
            read_budget_frames,
        })
    }

    proptest! {
        /// The answers and their order do not depend on the cuts, on the moments at which reads or
        /// writes would block, or on the budget of a turn.
        #[test]
        fn lines_are_answered_whatever_the_cuts(
            lines in prop::collection::vec("[a-z]{0,30}", 0..40),
            last in "[a-z]{0,10}",
            cuts in cuts(),
            limits in limits(),
        ) {
            let mut input = String::new();
            let mut expected = String::new();
            for line in &lines {
                input += &format!("{line}\n");
                expected += &format!("{line}\n{}\n", line.len());
            }
            input += &last;
            if !last.is_empty() {
                expected += &format!("{last}\n{}\n", last.len());
            }
            let twice = tower::service_fn(|line: String| async move {
                let length = line.len().to_string();
                Ok::<_, Infallible>([line, length])
            });
            let played = play(LinesCodec::new(), twice, limits, split(input.as_bytes(), &cuts));
            prop_assert_eq!(String::from_utf8(played.output).unwrap(), expected);
            prop_assert_eq!((played.reason, played.send_buffered), (CloseReason::Peer, 0));
            prop_assert!(played.ended);
        }

        #[test]
        fn a_frame_is_too_large_whatever_the_cuts(
            length in prop_oneof![4080..4110u32, 4110..9000u32],
            cuts in cuts(),
            limits in limits(),
        ) {
            let mut input = length.to_be_bytes().to_vec();
            input.resize(4 + length as usize, 7);
            let echo = tower::service_fn(|frame: BytesMut| async move {
                Ok::<_, Infallible>(Some(frame.freeze()))
            });
            let mut codec = LengthDelimitedCodec::new();
            codec.set_max_frame_length(4096);
            let played = play(codec, echo, limits, split(&input, &cuts));
            // The codec's limit excludes its header of four bytes, the server's limit includes them.
            let expected = match length {
                ..=4092 => CloseReason::Peer,
                4093..=4096 => CloseReason::FrameTooLarge,
                _ => CloseReason::Codec,
            };
            let allowed = expected == CloseReason::Peer;
            prop_assert_eq!(played.output, if allowed { input } else { Vec::new() });
            prop_assert_eq!((played.reason, played.send_buffered), (expected, 0));
            prop_assert!(played.ended);
        }
    }
}
