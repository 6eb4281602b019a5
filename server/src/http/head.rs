//! The search for the end of a request's head.
//!
//! `serve_turn.rs` looks at the bytes of a connection that has no hyper state. A partial head stays outside
//! of hyper, as plain bytes, so a slow head costs little memory. `lent_io.rs` uses [`end`] to prove that
//! hyper holds no unused byte (`H1`). So [`end`] must never find another end than hyper's parser does; the
//! property test below compares both.

use crate::sync::failpoint;

use httparse::{EMPTY_HEADER, Request};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The most bytes of a partial head that are kept outside of hyper. Longer heads go to hyper at once.
const HELD: usize = 4096;
/// The most headers that the check for malformed heads parses. Hyper has the same limit.
const HEADERS: usize = 100;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// The bytes may become a head.
    Partial,
    /// Hyper takes over: a whole head, with its length, or bytes that hyper is to judge.
    Whole(Option<usize>),
    /// The preface of HTTP/2.
    Http2,
}

/// Judges the bytes that have arrived since the last request. Only a new connection may speak HTTP/2.
///
/// The first `parsed` of the bytes were found to be partial before. As hyper does, [`look`] does not parse
/// a partial head again before its end: a malformed head that comes in parts is answered at its end.
pub(super) fn look(bytes: &[u8], is_new: bool, parsed: usize) -> Head {
    if is_new && bytes.starts_with(PREFACE) {
        return Head::Http2;
    }
    if may_be_preface(bytes, is_new) || bytes.is_empty() {
        return Head::Partial;
    }
    let end = end(bytes);
    if bytes.len() >= HELD || end.is_some() {
        return Head::Whole(end);
    }
    if parsed > 0 && !has_empty_line(&bytes[parsed.saturating_sub(3)..]) {
        return Head::Partial;
    }
    // Hyper answers at once if the bytes cannot become a head.
    match Request::new(&mut [EMPTY_HEADER; HEADERS]).parse(bytes) {
        Ok(status) if status.is_partial() => Head::Partial,
        _ => Head::Whole(None),
    }
}

/// Whether the bytes begin like the preface of HTTP/2. Hyper parses no such bytes.
pub(super) fn may_be_preface(bytes: &[u8], is_new: bool) -> bool {
    is_new && PREFACE.starts_with(bytes)
}

/// Whether there is an empty line anywhere. Hyper parses a partial head again if so.
fn has_empty_line(bytes: &[u8]) -> bool {
    let has = |end: &[u8]| bytes.windows(end.len()).any(|bytes| bytes == end);
    has(b"\n\n") || has(b"\n\r\n")
}

/// Returns the length of the first head if it is whole: up to the first empty line after a line that is not
/// empty.
pub(super) fn end(bytes: &[u8]) -> Option<usize> {
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    memchr::memchr_iter(b'\n', &bytes[start..]).find_map(|line_end| {
        let at = start + line_end + 1;
        let late = usize::from(at > 1024 && failpoint("long heads end a byte late"));
        match bytes[at..] {
            [b'\n', ..] => Some(at + 1 + late),
            [b'\r', b'\n', ..] => Some(at + 2 + late),
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use httparse::Status;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    #[test]
    fn a_head_ends_at_the_first_empty_line() {
        assert_eq!(end(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody\r\n\r\n"), Some(27));
        assert_eq!(end(b"GET / HTTP/1.1\nHost: a\n\nx"), Some(24));
        assert_eq!(end(b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"), Some(22));
        for partial in [&b""[..], b"\r\n\r\n", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n\r"] {
            assert_eq!(end(partial), None);
        }
    }

    proptest! {
        /// Otherwise hyper's state could keep a part of a request for another connection (`H1`).
        #[test]
        fn hyper_finds_the_same_end(
            words in vec(select(&["GET / HTTP/1.1", "a: b", "a:", "x", ":", " ", "\r", "\n", "\r\n"]), 0..12)
        ) {
            let text = words.concat();
            let bytes = format!("GET / HTTP/1.1{text}\r\n\r\n\n\r\nx");
            for start in [0, 5, 14] {
                let bytes = &bytes.as_bytes()[start..];
                if let Ok(Status::Complete(length)) = Request::new(&mut [EMPTY_HEADER; 20]).parse(bytes) {
                    prop_assert_eq!(end(bytes), Some(length), "{:?}", bytes);
                }
            }
        }
    }

    /// Of heads of any length, among them those beyond hyper's first read.
    #[test]
    fn the_end_of_a_long_head_is_found() {
        for length in (0..20_000).step_by(97) {
            for end_of_line in ["\r\n", "\n"] {
                let filler = format!("x: {}", "y".repeat(length));
                let lines = ["GET / HTTP/1.1", &filler, "host: a", "", "body", "", ""];
                let bytes = lines.join(end_of_line).into_bytes();
                let parsed = Request::new(&mut [EMPTY_HEADER; 20]).parse(&bytes).unwrap();
                assert_eq!(end(&bytes), Some(parsed.unwrap()), "{length} {end_of_line:?}");
            }
        }
    }

    #[test]
    fn only_what_may_become_a_head_is_held() {
        let partial = [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM", b"GET", b"\r\nGET / HT"];
        for bytes in partial {
            assert_eq!(look(bytes, true, 0), Head::Partial, "{bytes:?}");
        }
        for bytes in [&b"GET\0"[..], b"\x16\x03\x01\x02", b"\rGET"] {
            assert_eq!(look(bytes, true, 0), Head::Whole(None), "{bytes:?}");
        }
        assert_eq!(look(b"GET / HTTP/1.1\r\n\r\nbody\r\n\r\n", true, 0), Head::Whole(Some(18)));
        assert_eq!(look(&[PREFACE, b"more"].concat(), true, 0), Head::Http2);
        assert_eq!(look(PREFACE, false, 0), Head::Whole(Some(18)));
        assert_eq!(look(b"PRI * HTTP/2.0\r\n\r\nGET", true, 0), Head::Whole(Some(18)));
        assert_eq!(look(&[b'a'; HELD], true, 0), Head::Whole(None));
    }

    #[test]
    fn a_head_in_parts_is_parsed_at_its_end() {
        let malformed = b"GET / HTTP/1.1\r\nx\r\n";
        assert_eq!(look(malformed, true, 0), Head::Whole(None));
        for parsed in 1..malformed.len() {
            assert_eq!(look(malformed, true, parsed), Head::Partial, "{parsed}");
        }
        let whole = [&malformed[..], b"\r\n"].concat();
        assert_eq!(look(&whole, true, malformed.len()), Head::Whole(Some(whole.len())));
        // Hyper parses again behind empty lines before a head.
        assert_eq!(look(b"\r\n\r\n\0", true, 4), Head::Whole(None));
        assert_eq!(look(b"\r\n\r\nGET\0", true, 7), Head::Partial);
    }
}
