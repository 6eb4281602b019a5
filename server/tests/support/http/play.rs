//! Clients that follow scripts, and the transcripts of the servers' replies.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::reply::{Parsed, Reading, find, parse};
use super::script::{Script, Step, TOKEN};
use super::target::{Sent, Up};
use crate::support::server::Stream;
use crate::support::within;

/// A server that is at rest and sends nothing for this time will send nothing more.
const QUIET: Duration = Duration::from_millis(60);

type Bytes = Arc<[u8]>;

/// The transcript of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub lines: Vec<String>,
    /// How many bytes had come when [`Step::Tail`] ended, and whether the server had closed.
    /// Another client of the same script waits for the same.
    pub tail: Option<(usize, bool)>,
}

struct Client<'a> {
    script: &'a Script,
    up: &'a Up,
    expected: Option<&'a Seen>,
    token: String,
    /// The bytes that are sent in parts, without and with the token.
    whole: Option<(Bytes, Bytes)>,
    stream: Option<Stream>,
    sent: Sent,
    buffer: Vec<u8>,
    at: usize,
    answered: usize,
    seen: Seen,
}

/// Plays all scripts at the same time: each step begins after all have taken the previous step.
pub async fn play(up: &Up, scripts: &[Script], expected: Option<&[Seen]>) -> Vec<Seen> {
    let mut clients: Vec<Client> = Vec::new();
    let indices: Vec<_> = (0..scripts.len()).collect();
    // A batch is no larger than the kernel's backlog.
    for some in indices.chunks(50) {
        let connecting = some.iter().map(|index| {
            Client::connect(up, &scripts[*index], expected.map(|expected| &expected[*index]))
        });
        clients.extend(join_all(connecting).await);
    }
    let longest = scripts.iter().map(|script| script.steps.len()).max().unwrap_or(0);
    for number in 0..longest {
        join_all(clients.iter_mut().map(|client| client.step(number))).await;
        let settles =
            |client: &&mut Client| matches!(client.script.steps.get(number), Some(Step::Settle));
        let sent: Vec<_> = clients.iter_mut().filter(settles).map(|client| client.sent()).collect();
        if !sent.is_empty() {
            up.settle(&sent).await;
        }
    }
    up.settle(&clients.iter().map(Client::sent).collect::<Vec<_>>()).await;
    let mut notes = up.app.seen();
    // The notes of earlier batches may come when their clients disconnect.
    let late =
        |note: &String| note.contains("/tz") && !clients.iter().any(|c| note.contains(&c.token));
    notes.retain(|note| !late(note));
    notes.sort();
    let alone = clients.len() == 1;
    let mut all = Vec::new();
    for client in clients {
        let own = |note: &String| alone || note.contains(&client.token);
        let (own, others) = notes.into_iter().partition(own);
        notes = others;
        all.push(client.finish(own));
    }
    if let Some(first) = all.first_mut() {
        first.lines.extend(notes.into_iter().map(|note| format!("whose? {note}")));
    }
    all
}

impl<'a> Client<'a> {
    async fn connect(up: &'a Up, script: &'a Script, expected: Option<&'a Seen>) -> Self {
        static NUMBERS: AtomicUsize = AtomicUsize::new(0);
        let stream = up.connect().await;
        Self {
            token: token(NUMBERS.fetch_add(1, Relaxed)),
            sent: Sent { from: local(&stream), bytes: 0 },
            stream: Some(stream),
            seen: Seen { lines: Vec::new(), tail: None },
            whole: None,
            buffer: Vec::new(),
            at: 0,
            answered: 0,
            script,
            up,
            expected,
        }
    }

    fn sent(&self) -> Sent {
        Sent { ..self.sent }
    }

    fn note(&mut self, line: impl Into<String>) {
        self.seen.lines.push(line.into());
    }

    async fn step(&mut self, number: usize) {
        let Some(step) = self.script.steps.get(number) else { return };
        match step {
            Step::Send(bytes) => self.send(&put(bytes, TOKEN, &self.token)).await,
            Step::Part(whole, part) => {
                if !self.whole.as_ref().is_some_and(|(known, _)| Arc::ptr_eq(known, whole)) {
                    let bytes = put(whole, TOKEN, &self.token);
                    self.whole = Some((whole.clone(), bytes.into()));
                }
                let bytes = self.whole.as_ref().map(|(_, bytes)| bytes.clone());
                self.send(&bytes.unwrap_or_default()[part.clone()]).await;
            }
            Step::Settle => {}
            Step::Replies(count) => {
                for _ in 0..*count {
                    if !self.reply(false).await {
                        break;
                    }
                }
            }
            Step::Interim => drop(self.reply(true).await),
            Step::Until(text) => self.until(text).await,
            Step::Bytes(count) => self.bytes(*count).await,
            Step::Fin => {
                if let Some(stream) = &mut self.stream {
                    let _ = within(self.up.target.patience, stream.shutdown()).await;
                }
            }
            Step::Reset => {
                let Some(stream) = self.stream.take() else { return };
                let linger = socket2::SockRef::from(tcp(&stream)).set_linger(Some(Duration::ZERO));
                linger.unwrap();
            }
            Step::Pass => self.up.app.gate(&self.token).pass(1),
            Step::Inside(count) => {
                let inside = self.up.app.inside().clone();
                let came = until(self.up.target.patience, || inside.now() == *count).await;
                self.note(format!("{count} inside: {came}"));
            }
            Step::Notes(count) => {
                let app = &self.up.app;
                let came = until(self.up.target.patience, || app.notes() >= *count).await;
                self.note(format!("{count} notes: {came}"));
            }
            Step::Tail => self.tail().await,
            Step::Probe => {
                self.send(b"GET /hello HTTP/1.1\r\nhost: probe\r\n\r\n").await;
                self.note("probe:");
                self.reply(false).await;
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        let Some(stream) = &mut self.stream else { return };
        let write = async {
            stream.write_all(bytes).await?;
            stream.flush().await
        };
        match within(self.up.target.patience, write).await {
            // Ignored: if the server has closed, reading the reply shows that.
            Some(_) => self.sent.bytes += bytes.len(),
            None => self.note("not taken"),
        }
    }

    /// Reads once. Returns whether bytes came; an error counts as the end of the stream.
    async fn more(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        self.buffer.reserve(64 << 10);
        match within(self.up.target.patience, stream.read_buf(&mut self.buffer)).await {
            Some(Ok(1..)) => true,
            Some(_) => {
                self.stream = None;
                false
            }
            None => {
                self.note("nothing comes");
                self.stream = None;
                false
            }
        }
    }

    /// Reads a reply with its interim replies, or only the first of those. Returns whether it came.
    async fn reply(&mut self, interim: bool) -> bool {
        loop {
            match self.parsed() {
                Parsed::Whole(mut reply, length) => {
                    reply.body = put(&reply.body, &self.token, TOKEN);
                    self.at += length;
                    self.note(reply.lines());
                    if interim || reply.status >= 200 || reply.status == 101 {
                        self.answered += 1;
                        return true;
                    }
                }
                Parsed::Broken(error) => {
                    self.note(format!("broken: {error}"));
                    self.stream = None;
                    return false;
                }
                Parsed::Partial if self.stream.is_some() => drop(self.more().await),
                Parsed::Partial => {
                    self.ended();
                    return false;
                }
            }
        }
    }

    fn parsed(&self) -> Parsed {
        let head = self.script.heads.contains(&self.answered);
        parse(&self.buffer[self.at..], Reading { head, ended: self.stream.is_none() })
    }

    fn ended(&mut self) {
        // The length of a truncated reply depends on timing.
        let rest = &self.buffer[self.at..];
        let cut = if rest.is_empty() { "" } else { " in the middle of a reply" };
        self.at = self.buffer.len();
        self.note(format!("closed{cut}"));
    }

    async fn until(&mut self, text: &[u8]) {
        loop {
            if let Some(at) = find(&self.buffer[self.at..], text) {
                self.note(format!("came: {:?}", String::from_utf8_lossy(text)));
                self.at += at + text.len();
                return;
            }
            if !self.more().await {
                return self.ended();
            }
        }
    }

    async fn bytes(&mut self, count: usize) {
        while self.buffer.len() < self.at + count {
            if !self.more().await {
                return self.ended();
            }
        }
        let bytes = self.buffer[self.at..self.at + count].escape_ascii().to_string();
        self.note(format!("bytes: {bytes}"));
        self.at += count;
    }

    async fn tail(&mut self) {
        // Time in which this thread waits for its turn does not count.
        let mut waited = Duration::ZERO;
        let mut rests: Option<Instant> = None;
        let expected = self.expected.and_then(|expected| expected.tail);
        while let Some(stream) = &mut self.stream {
            let asked = Instant::now();
            // What counts here is silence, so the socket has the last word, not the timer.
            match timeout(QUIET / 4, stream.read_buf(&mut self.buffer)).await {
                Ok(Ok(1..)) => rests = None,
                Ok(_) => self.stream = None,
                Err(_) => {
                    waited += asked.elapsed().min(QUIET / 4);
                    // On a busy machine this thread waits for its turn, and so may the server.
                    let starved = asked.elapsed() > QUIET / 2;
                    rests = match self.up.is_at_rest(&[self.sent()]) && !starved {
                        true => rests.or(Some(asked)),
                        false => None,
                    };
                    let quiet = rests.is_some_and(|since| since.elapsed() >= QUIET);
                    let over = match expected {
                        Some((_, true)) => false,
                        Some((length, false)) => quiet && self.buffer.len() >= length,
                        None => quiet,
                    };
                    let patience =
                        if expected.is_some() { self.up.target.patience } else { 20 * QUIET };
                    if over || waited > patience {
                        break;
                    }
                }
            }
        }
        let closed = self.stream.is_none();
        self.seen.tail = Some((self.buffer.len(), closed));
        while self.at < self.buffer.len() {
            match self.parsed() {
                Parsed::Whole(mut reply, length) => {
                    reply.body = put(&reply.body, &self.token, TOKEN);
                    self.at += length;
                    self.answered += usize::from(reply.status >= 200);
                    self.note(reply.lines());
                }
                Parsed::Partial => {
                    self.at = self.buffer.len();
                    self.note("part of a reply");
                }
                Parsed::Broken(_) => {
                    let rest = self.buffer[self.at..].escape_ascii().to_string();
                    self.at = self.buffer.len();
                    self.note(format!("bytes: {rest}"));
                }
            }
        }
        self.note(if closed { "closed" } else { "open" });
    }

    fn finish(mut self, notes: Vec<String>) -> Seen {
        if self.at < self.buffer.len() {
            let rest = self.buffer[self.at..].escape_ascii().to_string();
            self.note(format!("left: {rest}"));
        }
        for line in notes {
            self.note(format!("asked: {line}"));
        }
        for line in &mut self.seen.lines {
            *line = line.replace(&self.token, TOKEN);
        }
        self.seen
    }
}

/// The bytes with one token in place of another.
fn put(bytes: &[u8], old: &str, new: &str) -> Vec<u8> {
    let (mut bytes, mut from) = (bytes.to_vec(), 0);
    while let Some(at) = find(&bytes[from..], old.as_bytes()) {
        from += at + old.len();
        bytes[from - old.len()..from].copy_from_slice(new.as_bytes());
    }
    bytes
}

/// As long as [`TOKEN`], and unlike any hash or number.
fn token(mut number: usize) -> String {
    let mut token = "z".to_owned();
    for _ in 1..TOKEN.len() {
        token.push(char::from(b"0123456789abcdefghijklmnopqrstuvwxy"[number % 35]));
        number /= 35;
    }
    token
}

async fn until(patience: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !is_so() {
        if start.elapsed() > patience {
            return false;
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    true
}

fn tcp(stream: &Stream) -> &tokio::net::TcpStream {
    match stream {
        Stream::Plain(tcp) => tcp,
        #[cfg(feature = "rustls")]
        Stream::Tls(tls) => tls.get_ref().0,
    }
}

fn local(stream: &Stream) -> SocketAddr {
    io::Result::unwrap(tcp(stream).local_addr())
}
