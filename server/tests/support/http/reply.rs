//! Replies, as a client parses them.

use super::app::digest_of;

pub enum Parsed {
    /// The length of the reply in bytes.
    Whole(Reply, usize),
    Partial,
    Broken(String),
}

pub struct Reply {
    pub status: u16,
    /// The status line.
    line: String,
    headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    trailers: String,
}

/// What a parser must know of a reply: its body depends on the request and on the end of the
/// stream.
#[derive(Clone, Copy, Default)]
pub struct Reading {
    /// The request was HEAD.
    pub head: bool,
    /// The stream has ended.
    pub ended: bool,
}

pub fn parse(bytes: &[u8], reading: Reading) -> Parsed {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return Parsed::Partial };
    let Ok(text) = std::str::from_utf8(&bytes[..end]) else {
        return Parsed::Broken("a head that is no text".to_owned());
    };
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default().to_owned();
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
    let Some(status) = status else { return Parsed::Broken(format!("not a reply: {line:?}")) };
    let mut headers = Vec::new();
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            return Parsed::Broken(format!("not a header: {line:?}"));
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut reply = Reply { status, line, headers, body: Vec::new(), trailers: String::new() };
    let rest = &bytes[end + 4..];
    let framed = match () {
        () if reading.head || status < 200 || status == 204 || status == 304 => Ok(Some(0)),
        () if reply.header("transfer-encoding").is_some() => unchunk(rest, &mut reply),
        () => match reply.header("content-length").map(str::parse::<usize>) {
            Some(Ok(length)) => Ok((rest.len() >= length).then(|| {
                reply.body = rest[..length].to_vec();
                length
            })),
            Some(Err(_)) => Err("content-length is no number".to_owned()),
            None => Ok(reading.ended.then(|| {
                reply.body = rest.to_vec();
                rest.len()
            })),
        },
    };
    match framed {
        Ok(Some(length)) => Parsed::Whole(reply, end + 4 + length),
        Ok(None) => Parsed::Partial,
        Err(error) => Parsed::Broken(error),
    }
}

/// Reads a chunked body, if that is complete.
fn unchunk(bytes: &[u8], reply: &mut Reply) -> Result<Option<usize>, String> {
    let (mut at, mut pieces) = (0, Vec::new());
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let line = String::from_utf8_lossy(&bytes[at..at + end]);
        let Ok(length) = usize::from_str_radix(&line, 16) else {
            return Err(format!("not a chunk: {line:?}"));
        };
        at += end + 2;
        if length == 0 {
            break;
        }
        let Some(after) = bytes.get(at + length..at + length + 2) else { return Ok(None) };
        if after != b"\r\n" {
            return Err(format!("after a chunk: {after:?}"));
        }
        pieces.push(at..at + length);
        at += length + 2;
    }
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        reply.trailers += &String::from_utf8_lossy(&bytes[at..at + end]);
        at += end + 2;
        if end == 0 {
            break;
        }
        reply.trailers += "\n";
    }
    reply.body = pieces.into_iter().flat_map(|piece| bytes[piece].iter().copied()).collect();
    Ok(Some(at))
}

pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, what)
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The part that all servers must agree on: all but the date and the order of headers.
    pub fn lines(&self) -> String {
        let mut headers: Vec<_> = self.headers.iter().filter(|(name, _)| name != "date").collect();
        headers.sort();
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let body = match std::str::from_utf8(&self.body) {
            Ok(text) if text.len() < 1000 => format!("{text:?}"),
            _ => digest_of(&self.body),
        };
        format!("{} [{}] {body} {}", self.line, headers.join("; "), self.trailers)
            .trim_end()
            .to_owned()
    }
}
