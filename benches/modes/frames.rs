//! What goes over the wire: frames of 64 bytes, which come back as they are.

use std::io;

use bytes::{Buf, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

pub const FRAME: usize = 64;

/// The codec of the servers that have one. A frame of a fixed size is a value: neither it nor a part of the
/// buffer is allocated for it.
#[derive(Clone, Copy)]
pub struct Fixed64;

impl Decoder for Fixed64 {
    type Item = [u8; FRAME];
    type Error = io::Error;

    fn decode(&mut self, bytes: &mut BytesMut) -> io::Result<Option<[u8; FRAME]>> {
        let frame = bytes.first_chunk().copied();
        if frame.is_some() {
            bytes.advance(FRAME);
        }
        Ok(frame)
    }
}

impl Encoder<[u8; FRAME]> for Fixed64 {
    type Error = io::Error;

    fn encode(&mut self, frame: [u8; FRAME], bytes: &mut BytesMut) -> io::Result<()> {
        bytes.extend_from_slice(&frame);
        Ok(())
    }
}

/// A request: its number on its connection, when it was sent, its connection, and a filling that
/// follows from these.
pub fn request(number: u64, stamp: u64, connection: u64) -> [u8; FRAME] {
    let seed = number ^ connection.rotate_left(32) ^ stamp.rotate_left(16);
    let filling = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut frame = [0; FRAME];
    for (at, word) in frame.chunks_exact_mut(8).enumerate() {
        let value = match at {
            0 => number,
            1 => stamp,
            2 => connection,
            _ => filling.rotate_left(8 * at as u32),
        };
        word.copy_from_slice(&value.to_le_bytes());
    }
    frame
}

pub fn number_of(answer: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(answer.get(..8)?.try_into().ok()?))
}

/// The stamp, if this answers just that request.
pub fn stamp_of(answer: &[u8], number: u64, connection: u64) -> Option<u64> {
    let stamp = u64::from_le_bytes(answer.get(8..16)?.try_into().ok()?);
    (answer == request(number, stamp, connection)).then_some(stamp)
}
