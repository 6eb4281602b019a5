//! Posts whose bodies other threads drop, at random times and above all in the windows that
//! `race_tests.rs` names: the server serves nothing that was not sent as a request.
//!
//! A service gives bodies to threads that drop them. The hook of the server's threads holds windows open
//! until a body is dropped. Each body is made of requests. `MILLPOND_SOAK` is the number of posts of each
//! test; the long form is
//!
//! ```text
//! MILLPOND_SOAK=100000 cargo test -p millpond-server --all-features --lib soak -- --nocapture
//! ```

use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::future::Future;
use std::panic::resume_unwind;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::mpsc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{env, io, thread};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::timeout;

use crate::http::race_tests::{SyncPoint, set_hook};
use crate::http::{RequestBody, Server};
use crate::sync::Mutex;
use crate::{CloseReason, Mode};

const CONNECTIONS: u64 = 8;
const DROPPERS: u64 = 3;
/// What no reply takes.
const PATIENCE: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(1200);
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";

/// What a post looks like.
const SHAPES: [&str; 7] =
    ["length", "chunks", "trailers", "expect", "expect, chunks", "HTTP/1.0", "upgrade"];
const TRAILERS: u64 = 2;
const EXPECT: u64 = 3;
const EXPECT_CHUNKS: u64 = 4;
const OLD: u64 = 5;
const UPGRADE: u64 = 6;

/// What the service does with a body. The path of a post says which.
const HANDLINGS: [&str; 8] = [
    "given away",
    "given away after a frame",
    "given away, a late reply",
    "dropped",
    "read",
    "101, and not taken",
    "panic after a frame",
    "panic of the reply",
];
const AFTER_A_FRAME: u64 = 1;
const LATE: u64 = 2;
const DROPPED: u64 = 3;
const READ: u64 = 4;
const SWITCHES: u64 = 5;
const PANIC: u64 = 6;
const PANIC_OF_REPLY: u64 = 7;

struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % most
    }
}

#[derive(Default)]
struct Soak {
    next: AtomicU64,
    /// The requests that were sent and not served yet.
    sent: Mutex<HashSet<u64>>,
    /// Bodies that wait for a thread that drops them.
    given: Mutex<Vec<RequestBody>>,
    drops: AtomicU64,
    /// How many threads hold a window open.
    open: AtomicUsize,
    /// In how many windows a body was dropped, by [`SyncPoint`].
    held: [AtomicU64; 4],
    is_over: AtomicBool,
    shapes: [AtomicU64; SHAPES.len()],
    handled: [AtomicU64; HANDLINGS.len()],
    /// What was served or answered and should not have been.
    astray: Mutex<Vec<String>>,
}

type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// A body of a response that panics behind its first frame.
struct Panics(Option<Bytes>);

impl Body for Panics {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
            None => resume_unwind(Box::new("as asked")),
        }
    }
}

impl Soak {
    fn strays(&self, what: String) {
        self.astray.lock().push(what);
    }

    /// The hook of the server's threads: holds one window in four open until a body is dropped.
    fn hold(&self, point: SyncPoint, dice: &mut Dice) {
        if dice.below(4) != 0 {
            return;
        }
        let before = self.drops.load(SeqCst);
        self.open.fetch_add(1, SeqCst);
        for _ in 0..dice.below(64) {
            thread::yield_now();
            if self.drops.load(SeqCst) != before {
                self.held[point as usize].fetch_add(1, SeqCst);
                break;
            }
        }
        self.open.fetch_sub(1, SeqCst);
    }

    /// Drops bodies, most of them while a window is open.
    fn drop_bodies(self: &Arc<Self>, seed: u64) {
        let mut dice = Dice::new(seed);
        while !self.is_over.load(SeqCst) {
            let Some(body) = self.given.lock().pop() else {
                thread::yield_now();
                continue;
            };
            for _ in 0..dice.below(64) {
                if self.open.load(SeqCst) > 0 {
                    break;
                }
                thread::yield_now();
            }
            drop(body);
            self.drops.fetch_add(1, SeqCst);
        }
    }

    async fn serve(self: Arc<Self>, request: Request<RequestBody>) -> Result<Reply, Infallible> {
        let (head, mut body) = request.into_parts();
        let numbers = head.uri.path().strip_prefix('/').and_then(|path| path.split_once('/'));
        let numbers = numbers.and_then(|(id, how)| Some((id.parse().ok()?, how.parse().ok()?)));
        let Some((id, how)): Option<(u64, u64)> =
            numbers.filter(|(id, _)| self.sent.lock().remove(id))
        else {
            self.strays(format!("served: {} {}", head.method, head.uri));
            return Ok(Response::new(Full::new(Bytes::new()).boxed_unsync()));
        };
        self.handled[how as usize].fetch_add(1, SeqCst);
        if matches!(how, AFTER_A_FRAME | PANIC) {
            let _ = body.frame().await;
        }
        match how {
            DROPPED => drop(body),
            READ => while let Some(Ok(_)) = body.frame().await {},
            PANIC => resume_unwind(Box::new("as asked")),
            _ => self.given.lock().push(body),
        }
        if how == LATE {
            for _ in 0..id % 4 {
                yield_now().await;
            }
        }
        let text = Bytes::from(id.to_string());
        Ok(match how {
            PANIC_OF_REPLY => Response::new(Panics(Some(text)).boxed_unsync()),
            SWITCHES => {
                let reply = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
                let body = Full::new(Bytes::new()).boxed_unsync();
                reply.header("connection", "upgrade").header("upgrade", "raw").body(body).unwrap()
            }
            _ => Response::new(Full::new(text).boxed_unsync()),
        })
    }
}

/// The head and the body of a post.
fn post(id: u64, shape: u64, how: u64, dice: &mut Dice) -> (String, String) {
    let body = SMUGGLED.repeat(1 + dice.below(4) as usize);
    let version = if shape == OLD { "1.0" } else { "1.1" };
    let mut head = format!("POST /{id}/{how} HTTP/{version}\r\nhost: a\r\n");
    head += match shape {
        EXPECT | EXPECT_CHUNKS => "expect: 100-continue\r\n",
        OLD if dice.below(4) != 0 => "connection: keep-alive\r\n",
        UPGRADE => "connection: upgrade\r\nupgrade: raw\r\n",
        _ => "",
    };
    if !matches!(shape, 1 | TRAILERS | EXPECT_CHUNKS) {
        write!(head, "content-length: {}\r\n\r\n", body.len()).unwrap();
        return (head, body);
    }
    head += "transfer-encoding: chunked\r\n\r\n";
    let (first, rest) = body.split_at(1 + dice.below(body.len() as u64 - 1) as usize);
    let end =
        if shape == TRAILERS { "0\r\nx: GET /smuggled HTTP/1.1\r\n\r\n" } else { "0\r\n\r\n" };
    let (length, more) = (first.len(), rest.len());
    (head, format!("{length:x}\r\n{first}\r\n{more:x};GET /smuggled\r\n{rest}\r\n{end}"))
}

type Client = BufReader<TcpStream>;

async fn send(client: &mut Client, text: &str, dice: &mut Dice) -> io::Result<()> {
    let cut = match dice.below(2) {
        0 => text.len(),
        _ => dice.below(text.len() as u64 + 1) as usize,
    };
    client.write_all(&text.as_bytes()[..cut]).await?;
    for _ in 0..dice.below(6) {
        yield_now().await;
    }
    client.write_all(&text.as_bytes()[cut..]).await
}

struct Answer {
    status: u16,
    text: String,
    closes: bool,
}

/// Reads a reply. An end of the stream within the reply is an error.
async fn answer(client: &mut Client) -> io::Result<Answer> {
    let mut line = String::new();
    let (mut status, mut length, mut closes) = (None, 0, false);
    loop {
        line.clear();
        client.read_line(&mut line).await?;
        if !line.ends_with("\r\n") {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match (status, line.trim_end().split_once(' ')) {
            (None, Some((_, rest))) => status = rest[..3].parse().ok(),
            (Some(status), None) => {
                let mut text = vec![0; length];
                client.read_exact(&mut text).await?;
                let text = String::from_utf8_lossy(&text).into_owned();
                return Ok(Answer { status, text, closes });
            }
            (_, Some(("content-length:", value))) => length = value.parse().unwrap(),
            (_, Some(("connection:", value))) => closes |= value == "close",
            // A reply that panics has no length.
            (_, Some(("transfer-encoding:", _))) => closes = true,
            _ => {}
        }
    }
}

impl Soak {
    /// Sends a post, sometimes with a request behind it. Returns whether the connection goes on.
    async fn exchange(&self, client: &mut Client, dice: &mut Dice) -> io::Result<bool> {
        let id = self.next.fetch_add(2, SeqCst);
        let shape = dice.below(SHAPES.len() as u64);
        let how = match dice.below(24) {
            rare @ (PANIC | PANIC_OF_REPLY) => rare,
            _ if shape == UPGRADE && dice.below(4) == 0 => SWITCHES,
            common => common % SWITCHES,
        };
        self.shapes[shape as usize].fetch_add(1, SeqCst);
        let (head, mut body) = post(id, shape, how, dice);
        self.sent.lock().insert(id);
        let has_next = how < SWITCHES && dice.below(4) == 0;
        if has_next {
            self.sent.lock().insert(id + 1);
            write!(body, "GET /{}/{READ} HTTP/1.1\r\nhost: a\r\n\r\n", id + 1).unwrap();
        }
        let waits = matches!(shape, EXPECT | EXPECT_CHUNKS) && dice.below(4) != 0;
        let sent = match waits {
            true => send(client, &head, dice).await,
            false => send(client, &(head + &body), dice).await,
        };
        let mut came = answer(client).await;
        if let Ok(Answer { status: 100, .. }) = came {
            if waits {
                send(client, &body, dice).await?;
            }
            came = answer(client).await;
        } else if waits && came.is_ok() {
            // The peer sends the body of a request that is answered already, or goes away.
            if dice.below(2) == 0 {
                return Ok(false);
            }
            send(client, &body, dice).await?;
        }
        let reply = came?;
        sent?;
        if reply.status == 101 {
            client.write_all(SMUGGLED.as_bytes()).await?;
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await?;
            if !rest.is_empty() {
                self.strays(format!("behind 101: {}", rest.escape_ascii()));
            }
            return Ok(false);
        }
        let right = reply.text == id.to_string() && reply.status == 200 && how < SWITCHES;
        if how != PANIC_OF_REPLY && !right {
            self.strays(format!("reply to {id}, {how}: {} {:?}", reply.status, reply.text));
        }
        if reply.closes || !has_next {
            return Ok(!reply.closes);
        }
        let reply = answer(client).await?;
        if (reply.status, reply.text) != (200, (id + 1).to_string()) {
            self.strays(format!("reply behind {id}: {}", reply.status));
        }
        Ok(!reply.closes)
    }

    async fn posts(&self, server: &Server, seed: u64, count: u64) {
        let connect =
            || async { BufReader::new(TcpStream::connect(server.local_addrs()[0]).await.unwrap()) };
        let mut dice = Dice::new(seed);
        let mut client = connect().await;
        for number in 0..count {
            let goes_on = timeout(PATIENCE, self.exchange(&mut client, &mut dice)).await;
            let goes_on = goes_on.unwrap_or_else(|_| panic!("post {number} of {seed} hangs"));
            if !goes_on.unwrap_or(false) {
                client = connect().await;
            }
        }
    }

    fn hooked(self: &Arc<Self>, seed: u64) {
        let (soak, mut dice) = (self.clone(), Dice::new(seed));
        set_hook(move |point| soak.hold(point, &mut dice));
    }

    /// Runs on a runtime with so many worker threads, or with 0 on this thread.
    fn block_on(self: &Arc<Self>, threads: usize, body: impl Future<Output = ()>) {
        let (soak, seeds) = (self.clone(), AtomicU64::new(10));
        let mut builder = match threads {
            0 => tokio::runtime::Builder::new_current_thread(),
            _ => tokio::runtime::Builder::new_multi_thread(),
        };
        self.hooked(9);
        builder.worker_threads(threads.max(1)).enable_all();
        builder.on_thread_start(move || soak.hooked(seeds.fetch_add(1, SeqCst)));
        builder.build().unwrap().block_on(body);
    }

    fn told(&self, name: &str) {
        let all = |names: &[&str], counts: &[AtomicU64]| {
            let counts = counts.iter().map(|count| count.load(SeqCst));
            let rows = names.iter().zip(counts).map(|(name, count)| format!("{name} {count}"));
            rows.collect::<Vec<_>>().join("; ")
        };
        println!("{name}: posts: {}", all(&SHAPES, &self.shapes));
        println!("{name}: served: {}", all(&HANDLINGS, &self.handled));
        let windows = ["before a poll", "after a poll", "after the bits", "before the leave"];
        let drops = self.drops.load(SeqCst);
        println!("{name}: {drops} drops; in windows: {}", all(&windows, &self.held));
    }
}

async fn nothing_left(server: &Server) {
    for _ in 0..1_000 {
        if server.status().open == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let status = server.status();
    assert_eq!((status.open, status.http_states), (0, 0), "{status:?}");
}

/// Ends the threads that drop bodies, also if the run fails.
struct Over(Arc<Soak>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.is_over.store(true, SeqCst);
    }
}

fn run(name: &'static str, mode: Mode, warm: usize, threads: usize) {
    let text = env::var("MILLPOND_SOAK");
    let posts: u64 = text.map_or(2_000, |text| text.parse().expect("MILLPOND_SOAK is a number"));
    let soak = Arc::new(Soak::default());
    let over = Over(soak.clone());
    let droppers: Vec<_> = (1..=DROPPERS)
        .map(|seed| {
            let soak = soak.clone();
            thread::spawn(move || soak.drop_bodies(seed))
        })
        .collect();
    soak.block_on(threads, async {
        let serving = soak.clone();
        let service = tower::service_fn(move |request| serving.clone().serve(request));
        let builder = Server::builder().listen("127.0.0.1:0").mode(mode).warm_connections(warm);
        let server = Arc::new(builder.max_connections_per_ip(None).serve(service).unwrap());
        let clients: Vec<_> = (1..=CONNECTIONS)
            .map(|seed| {
                let (soak, server) = (soak.clone(), server.clone());
                let count = posts.div_ceil(CONNECTIONS);
                tokio::spawn(async move { soak.posts(&server, seed, count).await })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
        nothing_left(&server).await;
        let panics = [PANIC, PANIC_OF_REPLY].map(|how| soak.handled[how as usize].load(SeqCst));
        let closed = server.status().closed_for(CloseReason::Panicked);
        assert!(closed <= panics.iter().sum(), "{closed} closed for panics of {panics:?}");
    });
    drop(over);
    for dropper in droppers {
        dropper.join().unwrap();
    }
    soak.told(name);
    let astray = soak.astray.lock();
    assert!(astray.is_empty(), "{} astray: {:?}", astray.len(), &astray[..astray.len().min(10)]);
    // A body that is dropped at the last point belongs to another connection.
    let windows = &soak.held[..SyncPoint::Leaves as usize];
    assert!(windows.iter().all(|held| held.load(SeqCst) > 0), "a window was never held open");
}

/// Ends a run that hangs.
fn watched(name: &'static str, mode: Mode, warm: usize, threads: usize) {
    let (done, end) = mpsc::channel();
    let running = thread::spawn(move || {
        run(name, mode, warm, threads);
        let _ = done.send(());
    });
    match end.recv_timeout(LIMIT) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{name} hangs"),
        _ => running.join().unwrap_or_else(|payload| resume_unwind(payload)),
    }
}

#[test]
fn dedicated() {
    watched("dedicated, two threads", Mode::Dedicated, 0, 2);
}

#[test]
fn dedicated_on_one_thread() {
    watched("dedicated, one thread", Mode::Dedicated, 0, 0);
}

#[test]
fn event_driven() {
    watched("event-driven, two threads", Mode::EventDriven, 1024, 2);
}

#[test]
fn event_driven_on_one_thread() {
    watched("event-driven, one thread", Mode::EventDriven, 1024, 0);
}

/// Each connection is parked between its turns.
#[test]
fn parked() {
    watched("parked, two threads", Mode::EventDriven, 0, 2);
}

#[test]
fn parked_on_one_thread() {
    watched("parked, one thread", Mode::EventDriven, 0, 0);
}
