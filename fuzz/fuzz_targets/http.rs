//! The HTTP server against hyper alone: both modes see the same requests and give the same answers, byte for
//! byte, to what is sent whole, in pieces, byte by byte, and behind another request. The peer ends its side
//! after that, so each answer ends too.
//!
//! The servers listen on Unix sockets: no close drops an answer that is on its way, and ports do not run out.
#![no_main]

#[path = "../../server/tests/support/http/pieces.rs"]
mod pieces;

use std::cell::OnceCell;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arbitrary::Arbitrary;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use libfuzzer_sys::fuzz_target;
use millpond_server::Mode;
use millpond_server::http::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::{Builder, Runtime};
use tokio::task::yield_now;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const ANOTHER: &[u8] = b"GET /another HTTP/1.1\r\nhost: a\r\n\r\n";
const MALFORMED_OLD: &str = r"HTTP/1.0 400 Bad Request\r\ncontent-length: 0\r\n";
const MALFORMED: &str =
    r"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n";
/// Beyond this the rest of an unread body may or may not be at hand when the answer is there.
const AT_HAND: usize = 4096;
/// The most turns of the runtime in which a server reads a piece.
const TURNS: usize = 20;
/// How much is sent byte by byte.
const SINGLE_BYTES: usize = 300;

#[derive(Debug, Arbitrary)]
enum How {
    Whole,
    Pieces(Vec<u8>),
    Bytes,
}

#[derive(Debug, Arbitrary)]
struct Case {
    how: How,
    is_behind: bool,
    /// The bytes are what is sent. Otherwise they choose fragments.
    is_raw: bool,
    bytes: Vec<u8>,
}

#[derive(Clone, Default)]
struct App {
    seen: Arc<Mutex<Vec<String>>>,
    /// Bodies may be dropped unread.
    drops: Arc<Mutex<bool>>,
}

impl App {
    async fn answer<B>(self, request: Request<B>) -> Result<Response<Full<Bytes>>, Infallible>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let (head, mut body) = request.into_parts();
        let mut text = format!("{} {} {:?}\n", head.method, head.uri, head.version);
        for (name, value) in &head.headers {
            writeln!(text, "{name}: {}", value.as_bytes().escape_ascii()).unwrap();
        }
        let (path, drops) = (head.uri.path(), *self.drops.lock().unwrap());
        if !(drops && path.starts_with("/early")) {
            while let Some(frame) = body.frame().await {
                match frame.map(|frame| frame.into_data()) {
                    Ok(Ok(data)) => text += std::str::from_utf8(&data).unwrap_or("bytes"),
                    Ok(Err(frame)) => writeln!(text, "{:?}", frame.into_trailers().ok()).unwrap(),
                    Err(_) => text += "broken",
                }
            }
        }
        self.seen.lock().unwrap().push(text.clone());
        let mut response = Response::new(Full::new(text.into()));
        if path.starts_with("/refuse") {
            *response.status_mut() = StatusCode::FORBIDDEN;
        }
        Ok(response)
    }
}

struct Side {
    name: &'static str,
    path: PathBuf,
    app: App,
    server: Option<Server>,
}

impl Side {
    /// How much the server has read so far. Hyper reads in its next turn.
    fn read(&self) -> Option<u64> {
        self.server.as_ref().map(|server| server.status().bytes_in)
    }
}

struct Sides {
    runtime: Runtime,
    sides: Vec<Side>,
}

impl Sides {
    fn start() -> Self {
        let mut runtime = Builder::new_current_thread();
        // Each turn of the runtime looks for events, so a yield lets a server read.
        let runtime = runtime.enable_all().event_interval(1).build().unwrap();
        let path = |name| {
            let path = std::env::temp_dir();
            path.join(format!("millpond-fuzz-{}-{name}", std::process::id()))
        };
        let sides = runtime.block_on(async {
            let mut sides = vec![hyper_alone(path("hyper"))];
            for (name, mode) in [("event-driven", Mode::EventDriven), ("dedicated", Mode::Dedicated)]
            {
                let (app, path) = (App::default(), path(name));
                let serving = app.clone();
                let service = tower::service_fn(move |request| serving.clone().answer(request));
                let builder = Server::builder().listen(format!("unix:{}", path.display()));
                let builder = builder.mode(mode).half_close(true).max_connections_per_ip(None);
                let server = Some(builder.serve(service).unwrap());
                sides.push(Side { name, path, app, server });
            }
            sides
        });
        Self { runtime, sides }
    }
}

fn hyper_alone(path: PathBuf) -> Side {
    let app = App::default();
    let listener = UnixListener::bind(&path).unwrap();
    let serving = app.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let app = serving.clone();
            let service = hyper::service::service_fn(move |request| app.clone().answer(request));
            let mut builder = hyper::server::conn::http1::Builder::new();
            let connection =
                builder.half_close(true).serve_connection(TokioIo::new(socket), service);
            tokio::spawn(connection.with_upgrades());
        }
    });
    Side { name: "hyper", path, app, server: None }
}

/// What the peer got, without dates, and what the service saw.
async fn exchange(side: &Side, bytes: &[u8], case: &Case) -> (String, Vec<String>) {
    let socket = UnixStream::connect(&side.path).await.unwrap();
    let drops = matches!(case.how, How::Whole) && bytes.len() <= AT_HAND;
    *side.app.drops.lock().unwrap() = drops;
    let (mut reader, mut writer) = socket.into_split();
    let writes = async {
        let mut rest = bytes;
        let sizes: Box<dyn Iterator<Item = usize>> = match &case.how {
            How::Whole => Box::new(std::iter::empty()),
            How::Pieces(sizes) => Box::new(sizes.iter().map(|&size| usize::from(size) + 1)),
            How::Bytes => Box::new(std::iter::repeat_n(1, SINGLE_BYTES)),
        };
        for size in sizes.take(SINGLE_BYTES) {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at(size.min(rest.len()));
            let before = side.read();
            let _ = writer.write_all(now).await;
            // What is read together is judged together. A server that has closed reads no more.
            for turn in 0..TURNS {
                if turn >= 3 && (side.server.is_none() || side.read() != before) {
                    break;
                }
                yield_now().await;
            }
            rest = later;
        }
        let _ = writer.write_all(rest).await;
        let _ = writer.shutdown().await;
    };
    let mut got = Vec::new();
    let both = async { tokio::join!(writes, reader.read_to_end(&mut got)) };
    let ended = tokio::time::timeout(Duration::from_secs(4), both).await;
    assert!(ended.is_ok(), "{}: the answers do not end", side.name);
    let mut got = got.escape_ascii().to_string();
    // Hyper remembers the version of the last request. A parked connection does not.
    got = got.replace(MALFORMED_OLD, MALFORMED);
    let date = "\\r\\ndate: ";
    let mut from = 0;
    while let Some(at) = got[from..].find(date) {
        from += at + date.len();
        let end = (from + "Sun, 06 Nov 1994 08:49:37 GMT".len()).min(got.len());
        got.replace_range(from..end, "");
    }
    (got, std::mem::take(&mut *side.app.seen.lock().unwrap()))
}

thread_local! {
    static SIDES: OnceCell<Sides> = const { OnceCell::new() };
}

fuzz_target!(|case: Case| {
    let mut bytes = if case.is_behind { ANOTHER.to_vec() } else { Vec::new() };
    match case.is_raw {
        true => bytes.extend_from_slice(&case.bytes),
        false => bytes.extend(pieces::requests(case.bytes.iter().copied().take(64))),
    }
    // Hyper alone does not look for HTTP/2.
    if bytes.starts_with(PREFACE) {
        return;
    }
    SIDES.with(|sides| {
        let Sides { runtime, sides } = sides.get_or_init(Sides::start);
        runtime.block_on(async {
            let expected = exchange(&sides[0], &bytes, &case).await;
            for side in &sides[1..] {
                let seen = exchange(side, &bytes, &case).await;
                assert_eq!(seen, expected, "{}: {}", side.name, bytes.escape_ascii());
            }
        });
    });
});
