//! Lines, the last of which may lack its end: whatever the cuts, the answers are those to the
//! input in one piece.
#![no_main]

mod common;

use std::convert::Infallible;

use libfuzzer_sys::fuzz_target;
use millpond_server::CloseReason;
use millpond_server::scripted::play;
use tokio_util::codec::LinesCodec;

use common::{Case, GENEROUS};

fuzz_target!(|case: Case| {
    let answer = |line: String| async move {
        let lines = (0..line.len() % 3).map(|n| format!("{n} {line}")).collect::<Vec<_>>();
        Ok::<_, Infallible>(lines)
    };
    let service = tower::service_fn(answer);
    let codec = LinesCodec::new_with_max_length(64);
    let whole = play(codec.clone(), service, GENEROUS, case.whole());
    let cut = play(codec, service, case.limits(), case.events());
    let common = whole.output.len().min(cut.output.len());
    assert_eq!(whole.output[..common], cut.output[..common]);
    assert_eq!(whole.reason, cut.reason);
    if whole.reason == CloseReason::Peer {
        assert_eq!(whole.output.len(), cut.output.len());
    }
});
