//! The operations of a framed turn, for a service and for a handler; and what a connection keeps
//! between two turns.

use std::future::Future;

use bytes::BytesMut;

use crate::accept::address::Address;
use crate::close_reason::CloseReason;
use crate::conn::notifier::ConnNotifier;
use crate::conn::server_state::BytesPermit;

/// What frames mean: a codec with a service, or with a handler.
///
/// `serve` calls these functions from a turn, in the order of the path in the head of `framed`.
/// A function that returns a [`CloseReason`] as its error has the turn close the connection.
pub(crate) trait FrameProtocol: Send + Sync + 'static {
    /// What is kept of a connection between two turns.
    type Idle: Send + 'static;
    type Frame: Send;
    /// Serves the frames of one turn.
    type TurnService: Send;
    type Response: Send;

    /// Whether the server may send without a request: before the first byte, and at any time later.
    /// `true` for a handler.
    const SERVER_FIRST: bool;

    /// Whether the codec itself bounds its frames. Otherwise `max_frame_size` does.
    const CODEC_LIMITS_FRAMES: bool = false;

    /// Whether a connection closes although a part of a frame has come. Otherwise a shutdown waits for
    /// the rest.
    const CLOSES_WITHIN_FRAMES: bool = false;

    /// Makes the state of a new connection.
    fn on_accept(&self, address: Address, notifier: ConnNotifier) -> Self::Idle;

    fn turn_service(&self, idle: &Self::Idle) -> Self::TurnService;

    /// Runs `on_open` of a handler in the first turn; does nothing in later turns.
    fn open(
        &self,
        service: &mut Self::TurnService,
    ) -> impl Future<Output = Result<(), CloseReason>> + Send;

    /// Takes the next frame out of `input`. `end` says that the peer will send nothing more.
    fn decode(
        &self,
        idle: &mut Self::Idle,
        input: &mut BytesMut,
        end: bool,
    ) -> Result<Option<Self::Frame>, CloseReason>;

    fn call(
        &self,
        service: &mut Self::TurnService,
        frame: Self::Frame,
    ) -> impl Future<Output = Result<Self::Response, CloseReason>> + Send;

    /// Appends a response to `output`.
    fn encode(
        &self,
        idle: &mut Self::Idle,
        response: Self::Response,
        output: &mut BytesMut,
    ) -> Result<(), CloseReason>;

    /// Notes that user code is being polled, or was. What `Connection`s send meanwhile is collected after
    /// the poll without a push.
    fn polls_call(&self, _idle: &Self::Idle, _polls: bool) {}

    /// Moves the frames that `Connection`s have sent to the end of `output`, and their bytes to
    /// `permit`.
    fn collect(
        &self,
        idle: &mut Self::Idle,
        output: &mut BytesMut,
        permit: &mut Option<BytesPermit>,
    );

    /// Returns whether `Connection::close` was called: then no more frames are served.
    fn is_closing(&self, idle: &Self::Idle) -> bool;

    /// Stores how many bytes of the turn's output are not written yet, and wakes the senders that
    /// have room now. Called after each write that has written something.
    fn unwritten(&self, idle: &mut Self::Idle, bytes: usize);

    /// The place where a turn leaves bytes for the next turn.
    fn saved<'a>(&self, idle: &'a mut Self::Idle) -> &'a mut Option<Box<SavedBytes>>;

    /// Appends the last frame of a connection that closes for `reason`, if the protocol has one.
    /// Returns whether the peer answers that frame, so that the close waits for the peer.
    fn last_frame(
        &self,
        _idle: &mut Self::Idle,
        _reason: CloseReason,
        _output: &mut BytesMut,
    ) -> bool {
        false
    }

    /// Discards unsent frames, and refuses sends from now on. Called before a connection lingers.
    fn close_output(&self, idle: &mut Self::Idle);

    /// Ends the connection. Called once, also after a panic (F7).
    fn on_close(&self, idle: Self::Idle, reason: CloseReason);
}

/// What a connection keeps besides its socket while a frame or a write is incomplete.
#[derive(Default)]
pub(crate) struct SavedBytes {
    /// The bytes of an incomplete frame, in an allocation of at most twice their size.
    pub(super) input: BytesMut,
    /// What the peer has not taken yet.
    pub(super) output: BytesMut,
    /// A frame has begun. `input` may be empty, since the codec may hold its bytes.
    pub(super) partial_frame: bool,
    /// How many bytes of that frame the codec has taken.
    pub(super) consumed: usize,
    /// The connection is closed for this reason, and lingers until the peer has gone.
    pub(super) lingers: Option<CloseReason>,
    /// Counts `output` against `send_buffer_total`.
    pub(super) permit: Option<BytesPermit>,
}
