//! Frames with a length before them: whatever the cuts, the answers are those to the input in one
//! piece, and it ends for the same reason.
#![no_main]

mod common;

use std::convert::Infallible;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use millpond_server::scripted::play;
use tokio_util::codec::LengthDelimitedCodec;

use common::{Case, GENEROUS, MAX_FRAME};

fuzz_target!(|case: Case| {
    let mut codec = LengthDelimitedCodec::builder();
    let codec = codec.length_field_length(2).max_frame_length(MAX_FRAME).new_codec();
    let echo = tower::service_fn(|frame: BytesMut| async move {
        let twice = [frame.clone().freeze(), frame.freeze()];
        Ok::<_, Infallible>(twice)
    });
    let whole = play(codec.clone(), echo, GENEROUS, case.whole());
    let cut = play(codec, echo, case.limits(), case.events());
    // What was answered before an error may or may not have gone out.
    let common = whole.output.len().min(cut.output.len());
    assert_eq!(whole.output[..common], cut.output[..common]);
    assert_eq!(whole.reason, cut.reason);
    if whole.reason == millpond_server::CloseReason::Peer {
        assert_eq!(whole.output.len(), cut.output.len());
    }
    assert_eq!((whole.send_buffered, cut.send_buffered), (0, 0));
});
