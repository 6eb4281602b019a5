//! The app that every server serves. Its replies describe the request. Its notes describe it, too,
//! for requests whose reply does not arrive.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream::poll_fn;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::header::{HeaderMap, HeaderValue};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tungstenite::handshake::derive_accept_key;

use crate::support::{Gate, Gauge, silent_panic};

#[derive(Clone, Default)]
pub struct App(Arc<Inner>);

#[derive(Default)]
struct Inner {
    seen: Mutex<Vec<String>>,
    gates: Mutex<HashMap<String, Gate>>,
    inside: Gauge,
}

impl App {
    pub fn router(&self) -> Router {
        let app = self.clone();
        let answer = move |request: Request| {
            let app = app.clone();
            async move { app.answer(request).await }
        };
        Router::new().route("/hello", get(|| async { "hello" })).fallback(answer)
    }

    /// Takes the notes so far.
    pub fn seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.seen.lock().unwrap())
    }

    pub fn notes(&self) -> usize {
        self.0.seen.lock().unwrap().len()
    }

    /// The gates at which the handlers of `/held/NAME`, `/sse/NAME` and `/late/NAME/NAME` wait.
    pub fn gate(&self, name: &str) -> Gate {
        let mut gates = self.0.gates.lock().unwrap();
        gates.entry(name.to_owned()).or_insert_with(Gate::new).clone()
    }

    /// Counts the handlers of `/held`.
    pub fn inside(&self) -> &Gauge {
        &self.0.inside
    }

    fn note(&self, line: String) {
        self.0.seen.lock().unwrap().push(line);
    }

    async fn answer(self, request: Request) -> Response {
        let path = request.uri().path().to_owned();
        self.note(format!("{} {}", request.method(), request.uri()));
        let mut parts = path.split('/').skip(1);
        let (kind, name) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        match kind {
            "missing" => (axum::http::StatusCode::NOT_FOUND, "not here").into_response(),
            "nonce" => self.nonce(name, request).await,
            "digest" => digest(request.into_body()).await.into_response(),
            "echo" => Body::new(request.into_body()).into_response(),
            "early" => "before the body".into_response(),
            // Reads a part of the body, and drops the rest.
            "taste" => {
                let _ = request.into_body().frame().await;
                "some of the body".into_response()
            }
            "keep" => self.keep(request),
            "held" => {
                let _inside = self.0.inside.enter();
                self.gate(name).wait().await;
                "let go".into_response()
            }
            "stream" => streamed(5, None),
            "sse" => streamed(3, Some(self.gate(name))),
            "late" => {
                self.gate(name).wait().await;
                streamed(3, Some(self.gate(parts.next().unwrap_or(""))))
            }
            "big" => vec![b'x'; 4 << 20].into_response(),
            "status" => {
                let code: u16 = name.parse().unwrap();
                axum::http::StatusCode::from_u16(code).unwrap().into_response()
            }
            "panic" => silent_panic("as asked"),
            "trailers" => trailers(),
            "ws" => upgrade(request, frames),
            "raw" => upgrade(request, echoes),
            "refuse" => (axum::http::StatusCode::FORBIDDEN, "no").into_response(),
            _ => self.describe(request).await,
        }
    }

    /// The reply that a checking client expects.
    async fn nonce(&self, nonce: &str, request: Request) -> Response {
        let nonce = nonce.to_owned();
        let digest = digest(request.into_body()).await;
        ([("x-nonce", nonce.clone())], format!("{nonce} {digest}")).into_response()
    }

    /// The request as the server has parsed it.
    async fn describe(&self, request: Request) -> Response {
        let (head, body) = request.into_parts();
        let mut text = format!("{} {} {:?}\n", head.method, head.uri, head.version);
        let mut headers: Vec<_> = head.headers.iter().collect();
        headers.sort_by_key(|(name, _)| name.as_str());
        for (name, value) in headers {
            writeln!(text, "{name}: {value:?}").unwrap();
        }
        let digest = digest(body).await;
        self.note(format!("{} whole, {digest}", head.uri));
        (text + &digest).into_response()
    }

    /// Replies at once; another task reads the body.
    fn keep(&self, request: Request) -> Response {
        let app = self.clone();
        let uri = request.uri().clone();
        tokio::spawn(async move {
            let digest = digest(request.into_body()).await;
            app.note(format!("{uri} kept, {digest}"));
        });
        "a reader is there".into_response()
    }
}

/// The length of a body, the start of its hash, and its trailers.
async fn digest(mut body: Body) -> String {
    let (mut hash, mut length, mut trailers) = (Sha256::new(), 0, BTreeMap::new());
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => {
                length += data.len();
                hash.update(&data);
            }
            Ok(Err(frame)) => {
                let map = frame.into_trailers().unwrap_or_default();
                trailers.extend(map.iter().map(|(k, v)| (k.to_string(), v.clone())));
            }
            Err(_) => return "body broken".to_owned(),
        }
    }
    digest_line(length, hash.finalize().as_slice(), &format!("{trailers:?}"))
}

fn digest_line(length: usize, hash: &[u8], trailers: &str) -> String {
    let start = u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]);
    let trailers = if trailers == "{}" { "" } else { trailers };
    format!("{length} bytes {start:08x}{trailers}")
}

/// The result of [`digest`] for these bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    digest_line(bytes.len(), Sha256::digest(bytes).as_slice(), "{}")
}

/// Makes a body that another task sends. `http_body_util::Channel` may lose the last frame, if the sender is
/// dropped while another thread polls the body.
pub fn channel() -> (mpsc::Sender<Frame<Bytes>>, Body) {
    let (sender, mut frames) = mpsc::channel(1);
    let frames =
        poll_fn(move |cx| frames.poll_recv(cx).map(|frame| frame.map(Ok::<_, Infallible>)));
    (sender, Body::new(StreamBody::new(frames)))
}

/// The pieces of a body; the gate releases each.
fn streamed(pieces: usize, gate: Option<Gate>) -> Response {
    let (sender, body) = channel();
    tokio::spawn(async move {
        for piece in 0..pieces {
            match &gate {
                Some(gate) => gate.wait().await,
                None => tokio::task::yield_now().await,
            }
            let data = Frame::data(format!("data: {piece}\n\n").into());
            if sender.send(data).await.is_err() {
                return;
            }
        }
    });
    ([("content-type", "text/event-stream")], body).into_response()
}

fn trailers() -> Response {
    let (sender, body) = channel();
    tokio::spawn(async move {
        let _ = sender.send(Frame::data("with trailers".into())).await;
        let mut map = HeaderMap::new();
        map.insert("x-sum", HeaderValue::from_static("42"));
        let _ = sender.send(Frame::trailers(map)).await;
    });
    ([("trailer", "x-sum")], body).into_response()
}

type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

fn upgrade<F>(mut request: Request, serve: fn(Upgraded) -> F) -> Response
where
    F: Future<Output = std::io::Result<()>> + Send + 'static,
{
    let on = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(upgraded) = on.await {
            let _ = serve(TokioIo::new(upgraded)).await;
        }
    });
    let protocol = request.headers().get("upgrade").cloned();
    let key =
        request.headers().get("sec-websocket-key").map(|key| derive_accept_key(key.as_bytes()));
    let mut response = axum::http::StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert("connection", HeaderValue::from_static("upgrade"));
    headers.insert("upgrade", protocol.unwrap_or(HeaderValue::from_static("raw")));
    if let Some(key) = key {
        headers.insert("sec-websocket-accept", key.parse().unwrap());
    }
    response
}

/// Echoes small frames of a WebSocket until a close.
async fn frames(mut io: Upgraded) -> std::io::Result<()> {
    loop {
        let mut head = [0; 6];
        io.read_exact(&mut head).await?;
        let mut payload = vec![0; (head[1] & 0x7f) as usize];
        io.read_exact(&mut payload).await?;
        payload.iter_mut().zip(head[2..].iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        io.write_all(&[&[head[0], head[1] & 0x7f], &payload[..]].concat()).await?;
        io.flush().await?;
        if head[0] & 0xf == 8 {
            return io.shutdown().await;
        }
    }
}

/// Echoes all bytes.
pub async fn echoes(mut io: Upgraded) -> std::io::Result<()> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let count = io.read(&mut bytes).await?;
        if count == 0 {
            return io.shutdown().await;
        }
        io.write_all(&bytes[..count]).await?;
        io.flush().await?;
    }
}
