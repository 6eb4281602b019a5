//! The headers of a dead letter.
//!
//! A letter has the headers of its message and those that say why it is dead. JetStream interprets headers
//! that begin with `Nats-`: with a copy of `Nats-Expected-Stream`, for one, it would refuse the letter for
//! ever. So a letter has none of them but its id. What the letter says of itself comes first if not all has
//! room, then the message's headers, the short ones first.

use async_nats::HeaderMap;

use crate::trace::event;

/// The most bytes of headers that JetStream takes.
const MOST: usize = u16::MAX as usize;
/// The longest text of a reason.
const LONGEST_REASON: usize = 4096;

/// Returns the headers of a letter. `room` is how many bytes the payload leaves of the server's largest
/// message.
pub(crate) fn headers(own: &[(&str, String)], message: &HeaderMap, room: usize) -> HeaderMap {
    // `NATS/1.0`, and the empty line at the end.
    let mut left = room.min(MOST).saturating_sub(12);
    let mut fits = |size: usize| {
        let fits = size <= left;
        left -= if fits { size } else { 0 };
        fits
    };
    let mut letter = HeaderMap::new();
    for (name, value) in own {
        if fits(size(name, value)) {
            letter.insert(*name, &**value);
        }
    }
    let is_kept = |name: &str| {
        !name.starts_with("Nats-") && own.iter().all(|(own, _)| !own.eq_ignore_ascii_case(name))
    };
    let kept = message.iter().filter(|(name, _)| is_kept(name.as_ref()));
    let mut kept: Vec<_> = kept
        .map(|(name, values)| {
            let sizes = values.iter().map(|value| size(name.as_ref(), value.as_str()));
            (sizes.sum::<usize>(), name, values)
        })
        .collect();
    kept.sort_by_key(|(size, ..)| *size);
    for (size, name, values) in kept {
        if fits(size) {
            values.iter().for_each(|value| letter.append(name.clone(), value.clone()));
        } else {
            event!(
                WARN,
                header = name.as_ref() as &str,
                size,
                "a dead letter has no room for a header"
            );
        }
    }
    letter
}

fn size(name: &str, value: &str) -> usize {
    name.len() + value.len() + ": \r\n".len()
}

/// Returns the text of a reason as one line, cut at [`LONGEST_REASON`].
pub(crate) fn reason(text: &str) -> String {
    let mut end = text.len().min(LONGEST_REASON);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].replace(['\r', '\n'], " ")
}
