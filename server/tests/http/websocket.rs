//! WebSockets beside an app: the handshake, messages and their bounds, closes, and what an idle one costs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::any;
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::SendRequest;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioExecutor, TokioIo};
use millpond_server::http::{Server, ServerBuilder};
use millpond_server::ws::{CloseFrame, Message, UpgradeRejection, WebSocketUpgrade};
use millpond_server::{BoxError, CloseReason, Connection, Deadline, Handler};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::support::http::app::App;
use crate::support::http::server::{HELLO, at_rest, nothing_left};
use crate::support::server::{Case, Client, EVENT_DRIVEN, in_all_cases, no_time};
use crate::support::{eventually, settle, silent_panic, soon};

mod waits;

in_all_cases!(single: messages, fragments, byte_by_byte, handshakes, the_app_decides, violations);
in_all_cases!(single: closes, half_open, sends_from_anywhere, busy_before, errors_and_panics);
in_all_cases!(double: messages_while_the_handler_waits);
in_all_cases!(paused: silent_peers, a_part_of_a_message, shutdown);
in_all_cases!(single: autobahn, over_http2, a_stuck_handler_over_http2);

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The answer to that key: the example of RFC 6455.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// A request for a WebSocket, with more headers.
fn handshake(more: &str) -> String {
    format!(
        "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n{more}\r\n"
    )
}

/// A frame with a first byte of any kind.
fn raw(first: u8, is_masked: bool, payload: &[u8]) -> Vec<u8> {
    let mark = if is_masked { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match payload.len() {
        length @ ..126 => bytes.push(mark | length as u8),
        length @ 126..65536 => {
            bytes.push(mark | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(mark | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    let mask = if is_masked { [7, 77, 177, 200] } else { [0; 4] };
    bytes.extend(is_masked.then_some(mask).into_iter().flatten());
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn frame(opcode: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    raw(FIN | opcode, true, payload.as_ref())
}

fn close(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes(), reason.as_bytes()].concat()
}

impl Client {
    /// Reads the next frame of the server.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        no_time(Box::pin(async {
            let head = self.read_exact(2).await;
            assert_eq!(head[0] & 0xf0, FIN, "the server sends whole messages");
            let length = match head[1] {
                126 => u16::from_be_bytes(self.read_exact(2).await.try_into().unwrap()).into(),
                127 => u64::from_be_bytes(self.read_exact(8).await.try_into().unwrap()),
                length @ ..126 => length.into(),
                masked => panic!("a server does not mask: {masked}"),
            };
            (head[0] & 15, self.read_exact(length as usize).await)
        }))
        .await
    }

    /// Reads the close of the server. Returns the code.
    async fn close_code(&mut self) -> u16 {
        let (opcode, payload) = self.frame().await;
        assert_eq!(opcode, CLOSE, "{payload:?}");
        u16::from_be_bytes(payload[..2].try_into().unwrap())
    }

    async fn echoes(&mut self, text: &str) {
        no_time(Box::pin(self.send(frame(TEXT, text)))).await;
        assert_eq!(self.frame().await, (TEXT, text.into()));
    }
}

/// Echoes. Some texts are orders.
#[derive(Clone, Default)]
struct Probe {
    /// What the handler was told besides texts and bytes.
    told: Arc<Mutex<Vec<String>>>,
    open: Arc<Mutex<Vec<Connection<Message>>>>,
    gate: Arc<Notify>,
}

impl Probe {
    fn tell(&self, what: String) {
        self.told.lock().unwrap().push(what);
    }

    fn told(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

impl Handler for Probe {
    type In = Message;
    type Out = Message;
    type State = ();

    async fn on_open(&self, connection: &Connection<Message>) -> Result<(), BoxError> {
        self.open.lock().unwrap().push(connection.clone());
        Ok(())
    }

    async fn on_frame(&self, to: &Connection<Message>, message: Message) -> Result<(), BoxError> {
        match message {
            Message::Text(text) => match text.as_str() {
                "end" => to.close(),
                "error" => return Err("an error of the handler".into()),
                "panic" => silent_panic("a panic of the handler"),
                "close" => {
                    let frame = CloseFrame { code: 4000, reason: "enough".into() };
                    to.send(Message::Close(Some(frame))).await?;
                    let error = to.try_send(Message::text("too late")).unwrap_err();
                    self.tell(std::error::Error::source(&error).unwrap().to_string());
                }
                "gate" => {
                    self.gate.notified().await;
                    to.send(Message::Text(text)).await?;
                }
                "stuck" => {
                    self.tell("stuck".to_owned());
                    std::future::pending::<()>().await;
                }
                late if late.starts_with("late") => {
                    sleep(Duration::from_millis(3)).await;
                    to.send(Message::Text(text)).await?;
                }
                _ => to.send(Message::Text(text)).await?,
            },
            Message::Binary(_) => to.send(message).await?,
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => {
                self.tell(format!("{message:?}"));
            }
        }
        Ok(())
    }

    fn on_close(&self, connection: &Connection<Message>, reason: CloseReason) {
        assert!(connection.is_closed());
        self.open.lock().unwrap().retain(|open| open != connection);
        self.tell(format!("{reason:?}"));
    }
}

fn serve(builder: ServerBuilder, probe: &Probe) -> Server {
    let probe = probe.clone();
    let upgrade = async move |upgrade: WebSocketUpgrade| {
        upgrade.max_frame_bytes(200_000).max_message_bytes(300_000).on_upgrade(probe)
    };
    let app = Router::new().route("/ws", any(upgrade));
    builder.serve(app.fallback_service(App::default().router())).unwrap()
}

/// Opens a WebSocket; `more` follows the handshake in one segment.
async fn open(case: Case, server: &Server, more: &[u8]) -> Client {
    let mut client = case.client(server).await;
    no_time(Box::pin(client.send([handshake("").as_bytes(), more].concat()))).await;
    let reply = client.reply().await;
    assert_eq!(reply.status, 101);
    client
}

async fn messages(case: Case) {
    let probe = Probe::default();
    let server = serve(case.http(), &probe);
    for requests in [0, 3] {
        let mut client = case.client(&server).await;
        for _ in 0..requests {
            assert_eq!(client.exchange(HELLO).await, "200 hello");
        }
        // The first frames come with the handshake, and a part of the next one too.
        let (first, next) = (frame(TEXT, "first"), frame(BINARY, [9; 300]));
        client.send([handshake("").as_bytes(), &first, &next[..100]].concat()).await;
        assert_eq!(client.reply().await.status, 101);
        assert_eq!(client.frame().await, (TEXT, b"first".into()));
        client.send(&next[100..]).await;
        assert_eq!(client.frame().await, (BINARY, vec![9; 300]));
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 200_000] {
            let payload = vec![length as u8; length];
            client.send(frame(BINARY, &payload)).await;
            assert!(client.frame().await == (BINARY, payload), "{length}");
        }
        client.echoes("grüße").await;
        client.send([frame(PING, "p"), frame(PONG, "q"), frame(TEXT, "after")].concat()).await;
        assert_eq!(client.frame().await, (PONG, b"p".into()));
        assert_eq!(client.frame().await, (TEXT, b"after".into()));
        assert_eq!(probe.told(), ["Ping(b\"p\")", "Pong(b\"q\")"]);
        at_rest(&server, 1, 0).await;
        let before = server.status().frames;
        client.send((0..1000).flat_map(|n| frame(TEXT, n.to_string())).collect::<Vec<_>>()).await;
        for n in 0..1000 {
            assert_eq!(client.frame().await, (TEXT, n.to_string().into()));
        }
        at_rest(&server, 1, 0).await;
        assert_eq!(server.status().frames, before + 1000);
        drop(client);
        nothing_left(&server).await;
        assert_eq!(probe.told(), ["Peer"]);
    }
    assert_eq!(server.status().closed_for(CloseReason::Peer), 2);
}

async fn fragments(case: Case) {
    let server = serve(case.http(), &Probe::default());
    let mut client = open(case, &server, &[]).await;
    let text = "grüße 🦀".as_bytes();
    client.send(raw(TEXT, true, &text[..3])).await;
    at_rest(&server, 1, 0).await;
    // A ping between the parts is answered there.
    client.send([frame(PING, "between"), raw(0, true, &text[3..8])].concat()).await;
    assert_eq!(client.frame().await, (PONG, b"between".into()));
    at_rest(&server, 1, 0).await;
    client.send([raw(FIN, true, &text[8..]), frame(TEXT, "next")].concat()).await;
    assert_eq!(client.frame().await, (TEXT, text.into()));
    assert_eq!(client.frame().await, (TEXT, b"next".into()));
    // A message may be larger than a frame.
    let part = vec![5; 150_000];
    client.send([raw(BINARY, true, &part), raw(FIN, true, &part)].concat()).await;
    assert!(client.frame().await == (BINARY, vec![5; 300_000]));
}

async fn byte_by_byte(case: Case) {
    let server = serve(case.http(), &Probe::default());
    let mut client = case.client(&server).await;
    let bytes = [handshake("").as_bytes(), &frame(TEXT, [b'x'; 130]), &frame(PING, "p")].concat();
    for byte in bytes {
        client.send([byte]).await;
        settle().await;
    }
    assert_eq!(client.reply().await.status, 101);
    assert_eq!(client.frame().await, (TEXT, [b'x'; 130].into()));
    assert_eq!(client.frame().await, (PONG, b"p".into()));
}

async fn handshakes(case: Case) {
    let server = serve(case.http(), &Probe::default());
    let mut client = case.client(&server).await;
    let good = handshake("");
    for (request, status) in [
        (good.replace("13", "12"), 426),
        (good.replace("sec-websocket-version: 13\r\n", ""), 426),
        (good.replace("upgrade: WebSocket\r\n", ""), 426),
        (good.replace("upgrade: WebSocket", "upgrade: raw"), 426),
        (good.replace("keep-alive, Upgrade", "keep-alive"), 426),
        (good.replace(KEY, "short"), 400),
        (good.replace(&format!("sec-websocket-key: {KEY}\r\n"), ""), 400),
        (good.replace("GET", "PUT"), 405),
        (handshake("content-length: 4\r\n") + "body", 400),
        (handshake("transfer-encoding: chunked\r\n") + "0\r\n\r\n", 400),
        ("GET /ws HTTP/1.1\r\nhost: a\r\n\r\n".into(), 426),
    ] {
        client.send(&request).await;
        let reply = client.reply().await;
        assert_eq!(reply.status, status, "{request}");
        if status == 426 {
            assert!(reply.header("sec-websocket-version") == Some("13"), "{}", reply.text());
        }
        // A refused request leaves the connection as it was.
        assert_eq!(client.exchange(HELLO).await, "200 hello", "{request}");
    }
    client.send(good).await;
    let reply = client.reply().await;
    assert_eq!(reply.status, 101);
    assert!(reply.header("sec-websocket-accept") == Some(ACCEPT), "{}", reply.text());
    client.echoes("hello").await;
    assert_eq!(UpgradeRejection::Version.status(), StatusCode::UPGRADE_REQUIRED);
}

async fn the_app_decides(case: Case) {
    let route = |headers: HeaderMap, upgrade: WebSocketUpgrade| async move {
        let offered: Vec<_> = upgrade.requested_protocols().map(str::to_owned).collect();
        let upgrade = upgrade.protocols(["second", "first"]);
        match headers.get("origin").map(|origin| origin.as_bytes()) {
            Some(b"https://evil.example") => StatusCode::FORBIDDEN.into_response(),
            // Another response than that of the upgrade: the handler is dropped.
            Some(b"https://busy.example") => {
                drop(upgrade.on_upgrade(Probe::default()));
                (StatusCode::TOO_MANY_REQUESTS, offered.join("+")).into_response()
            }
            _ => upgrade.on_upgrade(Probe::default()),
        }
    };
    let server = case.http().serve(Router::new().route("/ws", any(route))).unwrap();
    let mut client = case.client(&server).await;
    let protocols = "sec-websocket-protocol: first, other\r\nsec-websocket-protocol: second\r\n";
    client.send(handshake("origin: https://evil.example\r\n")).await;
    assert_eq!(client.reply().await.status, 403);
    client.send(handshake(&format!("origin: https://busy.example\r\n{protocols}"))).await;
    assert_eq!(client.reply().await.text(), "429 first+other+second");
    at_rest(&server, 1, 0).await;
    client.send(handshake(protocols)).await;
    let reply = client.reply().await;
    assert!(
        reply.status == 101 && reply.header("sec-websocket-protocol") == Some("second"),
        "{}",
        reply.text()
    );
    client.echoes("hello").await;
    let mut other = case.client(&server).await;
    other.send(handshake("sec-websocket-protocol: unknown\r\n")).await;
    let reply = other.reply().await;
    assert!(
        reply.status == 101 && reply.header("sec-websocket-protocol").is_none(),
        "{}",
        reply.text()
    );
    // The turn of the last handshake may end behind its answer.
    eventually(|| server.status().frames == 5).await;
}

async fn violations(case: Case) {
    let probe = Probe::default();
    let server = serve(case.http(), &probe);
    let text = |payload: &[u8]| frame(TEXT, payload);
    let all = [
        (1002, raw(FIN | TEXT, false, b"no mask")),
        (1002, frame(3, "a reserved opcode")),
        (1002, frame(11, "a reserved control")),
        (1002, raw(FIN | 0x40 | TEXT, true, b"a reserved bit")),
        (1002, frame(0, "the rest of nothing")),
        (1002, [raw(TEXT, true, b"a"), text(b"b")].concat()),
        (1002, frame(PING, [0; 126])),
        (1002, raw(PING, true, b"in parts")),
        (1002, frame(CLOSE, "x")),
        (1007, text(b"\xff")),
        (1007, text(b"\xc3")),
        (1007, [raw(TEXT, true, b"ab\xc3"), frame(0, b"\xc3")].concat()),
        (1007, frame(CLOSE, [&close(1000, "")[..], b"\xff"].concat())),
        (1009, frame(BINARY, vec![0; 200_001])),
        // The length alone says that the frame is too large.
        (1009, [&[FIN | BINARY, 0xff, 0x7f][..], &[0; 11]].concat()),
        (1009, [raw(BINARY, true, &[0; 160_000]), raw(FIN, true, &[0; 160_000])].concat()),
    ];
    for (number, (code, bytes)) in all.iter().enumerate() {
        let mut client = open(case, &server, &[]).await;
        client.send([&bytes[..], &text(b"not served")].concat()).await;
        assert_eq!(client.close_code().await, *code, "{number}");
        // Nothing follows. The server waits for the peer's end a moment.
        client.finish().await;
        assert_eq!(soon(client.gone()).await, b"", "{number}");
        nothing_left(&server).await;
        assert_eq!(probe.told(), ["Codec"], "{number}");
    }
    // An invalid code is a violation that the close answers.
    let mut client = open(case, &server, &[]).await;
    client.send(frame(CLOSE, close(1005, ""))).await;
    assert_eq!(client.close_code().await, 1002);
}

/// The essence of Autobahn's cases 3 to 7: each reserved bit and opcode, each kind of close code, and texts
/// that are cut within their characters.
async fn autobahn(case: Case) {
    let server = serve(case.http(), &Probe::default());
    let violate = async |bytes: Vec<u8>, code: u16| {
        let mut client = open(case, &server, &[]).await;
        client.send(&bytes).await;
        assert_eq!(client.close_code().await, code, "{bytes:?}");
    };
    for bits in 1..8 {
        violate(raw(FIN | bits << 4 | TEXT, true, b"bits"), 1002).await;
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        violate(frame(opcode, "reserved"), 1002).await;
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        violate(frame(CLOSE, close(code, "")), 1002).await;
    }
    let valid = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
    for code in valid {
        let mut client = open(case, &server, &[]).await;
        client.send(frame(CLOSE, close(code, &"r".repeat(123)))).await;
        assert_eq!(client.close_code().await, code);
    }
    // A frame for each byte, and one without any.
    let in_bytes = |text: &[u8]| {
        let parts = text.iter().map(|byte| raw(0, true, &[*byte])).collect::<Vec<_>>().concat();
        [raw(TEXT, true, b""), parts].concat()
    };
    let mut client = open(case, &server, &[]).await;
    for text in ["", "κόσμε", "\u{7f}\u{80}\u{7ff}\u{800}\u{d7ff}\u{e000}\u{ffff}\u{10ffff}"] {
        client.send([in_bytes(text.as_bytes()), raw(FIN, true, b"")].concat()).await;
        assert_eq!(client.frame().await, (TEXT, text.into()));
    }
    // A lone continuation, overlong forms, a surrogate, too large, five bytes, a start without its rest.
    let wrong: [&[u8]; 8] = [
        b"\x80",
        b"ab\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xce\xba\xed\xa0\x80edited",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\xffab",
        b"\xe1\xbd\xce",
    ];
    for text in wrong {
        violate(frame(TEXT, text), 1007).await;
        // Without waiting for the end of the message.
        violate(in_bytes(text), 1007).await;
    }
}

async fn closes(case: Case) {
    let probe = Probe::default();
    let server = serve(case.http(), &probe);
    // The peer ends the conversation.
    for payload in [close(1000, "bye"), close(4999, "ß"), Vec::new()] {
        let mut client = open(case, &server, &[]).await;
        client.send([frame(CLOSE, &payload), frame(TEXT, "too late")].concat()).await;
        assert_eq!(client.frame().await, (CLOSE, payload));
        assert_eq!(soon(client.gone()).await, b"");
        drop(client);
        nothing_left(&server).await;
        let told = probe.told();
        assert!(told[0].starts_with("Close(") && told[1..] == ["Peer"], "{told:?}");
    }
    // The handler does, and the peer answers. What comes in between is not served.
    for (order, code) in [("end", 1000), ("close", 4000)] {
        let mut client = open(case, &server, &[]).await;
        client
            .send([frame(TEXT, "before"), frame(TEXT, order), frame(TEXT, "after")].concat())
            .await;
        assert_eq!(client.frame().await, (TEXT, b"before".into()));
        assert_eq!(client.close_code().await, code);
        at_rest(&server, 1, 0).await;
        client.send([frame(TEXT, "crossing"), frame(CLOSE, close(code, ""))].concat()).await;
        client.finish().await;
        assert_eq!(soon(client.gone()).await, b"");
        nothing_left(&server).await;
        let told = probe.told();
        assert_eq!(told.last().unwrap(), "ClosedByServer");
        if order == "close" {
            assert_eq!(told[0], "the WebSocket has a close already: no message may follow");
        }
    }
    // The peer does not answer: the linger timeout ends the wait.
    let server = serve(case.http().linger_timeout(Duration::from_millis(30)), &probe);
    for order in ["end", "close"] {
        let mut client = open(case, &server, &frame(TEXT, order)).await;
        client.close_code().await;
        eventually(|| server.status().open == 0).await;
    }
}

async fn errors_and_panics(case: Case) {
    let probe = Probe::default();
    let server = serve(case.http(), &probe);
    for (order, reason) in [("error", "Service"), ("panic", "Panicked")] {
        let mut client = open(case, &server, &[]).await;
        client.send([frame(TEXT, "before"), frame(TEXT, order)].concat()).await;
        assert_eq!(client.frame().await, (TEXT, b"before".into()));
        assert_eq!(client.close_code().await, 1011);
        drop(client);
        nothing_left(&server).await;
        assert_eq!(probe.told(), [reason]);
    }
}

async fn half_open(case: Case) {
    let probe = Probe::default();
    let server = serve(case.http(), &probe);
    // The client ends its side without a close, in the middle of a message or between two.
    for bytes in [vec![], frame(TEXT, "half")[..5].to_vec(), raw(TEXT, true, b"a part")] {
        let mut client = open(case, &server, &[]).await;
        client.send([frame(TEXT, "last words"), bytes].concat()).await;
        client.finish().await;
        assert_eq!(client.frame().await, (TEXT, b"last words".into()));
        assert_eq!(client.close_code().await, 1001);
        assert_eq!(soon(client.gone()).await, b"");
        nothing_left(&server).await;
        assert_eq!(probe.told(), ["Peer"]);
    }
    let client = open(case, &server, &[]).await;
    client.reset();
    nothing_left(&server).await;
}

async fn sends_from_anywhere(case: Case) {
    let probe = Probe::default();
    let server = serve(case.http(), &probe);
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(open(case, &server, &[]).await);
    }
    at_rest(&server, 10, 0).await;
    eventually(|| probe.open.lock().unwrap().len() == 10).await;
    for round in 0..5 {
        let news = Message::text(format!("news {round}"));
        for connection in &*probe.open.lock().unwrap() {
            connection.try_send(news.clone()).unwrap();
        }
        for client in &mut clients {
            assert_eq!(client.frame().await, (TEXT, format!("news {round}").into()));
        }
        at_rest(&server, 10, 0).await;
    }
    let connection = probe.open.lock().unwrap()[0].clone();
    assert!(connection.address().ip().unwrap().is_loopback());
    for (refused, why) in [
        (Message::Ping(vec![0; 126].into()), "a ping or a pong has at most 125 bytes"),
        (
            Message::Close(Some(CloseFrame { code: 1005, reason: "".into() })),
            "the code of a close is from 1000 to 1014 or from 3000 to 4999",
        ),
        (
            Message::Close(Some(CloseFrame { code: 1000, reason: "x".repeat(124).into() })),
            "the reason of a close has at most 123 bytes",
        ),
    ] {
        let error = connection.try_send(refused).unwrap_err();
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), why);
    }
    connection.close();
    connection.close();
    let is_its_peer = |client: &&mut Client| {
        let local = client.tcp().local_addr().unwrap();
        local.to_string() == connection.address().to_string()
    };
    let client = clients.iter_mut().find(is_its_peer).unwrap();
    assert_eq!(client.close_code().await, 1000);
    client.finish().await;
    at_rest(&server, 9, 0).await;
}

/// A busy connection of the event-driven mode has a task of its own. A WebSocket has none.
async fn busy_before(case: Case) {
    let probe = Probe::default();
    let server = serve(case.http(), &probe);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    settle().await;
    let before = tasks();
    for late in ["", "late: yes\r\n"] {
        let mut client = case.client(&server).await;
        for _ in 0..20 {
            assert_eq!(client.exchange(HELLO).await, "200 hello");
        }
        client.send(handshake(late)).await;
        assert_eq!(client.reply().await.status, 101);
        at_rest(&server, 1, 0).await;
        for n in 0..50 {
            client.echoes(&format!("busy {n}")).await;
        }
        if case == EVENT_DRIVEN {
            let mut fresh = Vec::new();
            for _ in 0..5 {
                fresh.push(open(case, &server, &frame(TEXT, "hello")).await);
            }
            at_rest(&server, 6, 0).await;
            eventually(|| tasks() == before).await;
        }
        let connection = probe.open.lock().unwrap()[0].clone();
        connection.try_send(Message::text("a push")).unwrap();
        assert_eq!(client.frame().await, (TEXT, b"a push".into()));
        drop(client);
        nothing_left(&server).await;
    }
}

async fn messages_while_the_handler_waits(case: Case) {
    let server = serve(case.http(), &Probe::default());
    let mut client = open(case, &server, &[]).await;
    for round in 0..30 {
        client.send(frame(TEXT, format!("late {round}"))).await;
        sleep(Duration::from_micros(round * 150)).await;
        client.send(frame(TEXT, format!("at once {round}"))).await;
        assert_eq!(soon(client.frame()).await, (TEXT, format!("late {round}").into()));
        assert_eq!(soon(client.frame()).await, (TEXT, format!("at once {round}").into()));
    }
}

/// A client answers three pings, and no fourth one. The server has `open` connections at rest meanwhile.
async fn pinged_until_silent(
    (server, open): (&Server, usize),
    client: &mut Client,
    probe: &Probe,
    interval: Duration,
) {
    for _ in 0..3 {
        at_rest(server, open, 0).await;
        sleep(interval * 3 / 2).await;
        assert_eq!(client.frame().await, (PING, vec![]));
        no_time(client.send(frame(PONG, ""))).await;
        eventually(|| probe.told() == ["Pong(b\"\")"]).await;
    }
    at_rest(server, open, 0).await;
    sleep(interval * 5 / 2).await;
    assert_eq!(client.frame().await, (PING, vec![]));
    assert_eq!(client.close_code().await, 1001);
}

async fn silent_peers(case: Case) {
    let interval = Duration::from_secs(20);
    let probe = Probe::default();
    let server = serve(case.http().websocket_ping_interval(interval), &probe);
    let mut client = open(case, &server, &[]).await;
    pinged_until_silent((&server, 1), &mut client, &probe, interval).await;
    nothing_left(&server).await;
    assert_eq!(probe.told(), ["Deadline(Idle)"]);

    let server = serve(case.timeless().websocket_ping_interval(None), &probe);
    let mut client = open(case, &server, &[]).await;
    at_rest(&server, 1, 0).await;
    sleep(Duration::from_secs(10_000)).await;
    client.echoes("still here").await;
}

async fn a_part_of_a_message(case: Case) {
    let second = Duration::from_secs(1);
    let server = serve(case.http().body_timeout(10 * second), &Probe::default());
    let mut client = open(case, &server, &[]).await;
    let message = frame(TEXT, [b'x'; 40]);
    for byte in &message {
        no_time(client.send([*byte])).await;
        settle().await;
        sleep(5 * second).await;
    }
    assert_eq!(client.frame().await, (TEXT, [b'x'; 40].into()));
    no_time(client.send(&message[..20])).await;
    settle().await;
    sleep(15 * second).await;
    assert_eq!(client.close_code().await, 1001);
    nothing_left(&server).await;
    assert_eq!(server.status().closed_for(CloseReason::Deadline(Deadline::Body)), 1);
}

async fn shutdown(case: Case) {
    let probe = Probe::default();
    let server = serve(case.http(), &probe);
    let (mut polite, mut rude) = (open(case, &server, &[]).await, open(case, &server, &[]).await);
    let mut late = open(case, &server, &[]).await;
    at_rest(&server, 3, 0).await;
    no_time(late.send(frame(TEXT, "gate"))).await;
    eventually(|| server.status().parked == 2).await;
    let clients = async {
        for client in [&mut polite, &mut rude] {
            assert_eq!(client.close_code().await, 1001);
        }
        no_time(polite.send(frame(CLOSE, close(1001, "")))).await;
        no_time(polite.finish()).await;
        assert_eq!(no_time(polite.gone()).await, b"");
        // What the handler has begun is answered.
        probe.gate.notify_one();
        assert_eq!(late.frame().await, (TEXT, b"gate".into()));
        assert_eq!(late.close_code().await, 1001);
        drop(late);
    };
    let stop = server.shutdown(Duration::from_secs(20));
    let (report, ()) = tokio::join!(stop, clients);
    assert_eq!((report.closed, report.aborted, report.still_open), (3, 0, 0), "{report:?}");
    assert_eq!(probe.told(), ["Shutdown"; 3]);
}

/// A client of HTTP/2, after a first request: an extended CONNECT needs the settings of the server.
async fn http2(case: Case, server: &Server) -> SendRequest<Full<Bytes>> {
    let tcp = TcpStream::connect(server.local_addrs()[0]).await.unwrap();
    let io = TokioIo::new(case.http2_stream(tcp).await);
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
    let (mut client, connection) = no_time(shaken).await.unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::get("http://a/hello").body(Full::default()).unwrap();
    assert_eq!(no_time(client.send_request(request)).await.unwrap().status(), 200);
    client
}

/// Opens a WebSocket over HTTP/2.
async fn open_stream(client: &mut SendRequest<Full<Bytes>>) -> TokioIo<Upgraded> {
    let request = hyper::Request::connect("http://a/ws").header("sec-websocket-version", "13");
    let request = request.extension(hyper::ext::Protocol::from_static("websocket"));
    let request = request.body(Full::default()).unwrap();
    let response = no_time(client.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 200);
    TokioIo::new(hyper::upgrade::on(response).await.unwrap())
}

async fn over_http2(case: Case) {
    let probe = Probe::default();
    let builder = case.http().websocket_ping_interval(Duration::from_secs(2));
    let server = serve(builder.connect_info(false), &probe);
    let mut client = http2(case, &server).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(open_stream(&mut client).await);
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        let text = format!("stream {number}");
        stream.write_all(&frame(TEXT, &text)).await.unwrap();
        assert_eq!(soon(read_frame(stream)).await, (TEXT, text.into()));
    }
    // A request beside them.
    let request = hyper::Request::get("http://a/hello").body(Full::default()).unwrap();
    assert_eq!(no_time(client.send_request(request)).await.unwrap().status(), 200);
    for connection in &*probe.open.lock().unwrap() {
        assert!(connection.address().ip().unwrap().is_loopback());
        connection.try_send(Message::text("a push")).unwrap();
    }
    for stream in &mut streams {
        assert_eq!(soon(read_frame(stream)).await, (TEXT, b"a push".into()));
        // A silent peer gets a ping.
        assert_eq!(soon(read_frame(stream)).await, (PING, vec![]));
        stream.write_all(&frame(PONG, "")).await.unwrap();
    }
    let mut ended = streams.pop().unwrap();
    ended.write_all(&frame(CLOSE, close(1000, "bye"))).await.unwrap();
    while soon(read_frame(&mut ended)).await.0 == PING {}
    assert_eq!(ended.read(&mut [0]).await.unwrap(), 0);
    eventually(|| probe.told().contains(&"Peer".to_owned())).await;

    let clients = async {
        for mut stream in streams {
            let payload = loop {
                match soon(read_frame(&mut stream)).await {
                    (CLOSE, payload) => break payload,
                    other => assert_eq!(other.0, PING),
                }
            };
            assert_eq!(payload[..2], 1001u16.to_be_bytes());
            stream.write_all(&frame(CLOSE, payload)).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    };
    let stop = server.shutdown(Duration::from_secs(20));
    let (report, ()) = tokio::join!(stop, clients);
    assert_eq!((report.closed, report.aborted, report.still_open), (1, 0, 0), "{report:?}");
    assert_eq!(probe.told(), ["Shutdown"; 2]);
}

/// A handler that waits for ever ends at the deadline of the shutdown, and the report comes after that.
async fn a_stuck_handler_over_http2(case: Case) {
    let probe = Probe::default();
    let server = serve(case.http(), &probe);
    let mut client = http2(case, &server).await;
    let mut stuck = open_stream(&mut client).await;
    let mut left = open_stream(&mut http2(case, &server).await).await;
    for stream in [&mut stuck, &mut left] {
        stream.write_all(&frame(TEXT, "stuck")).await.unwrap();
    }
    eventually(|| probe.told.lock().unwrap().len() == 2).await;
    // A peer that has left ends no handler. Its connection is open until then.
    drop(left);
    settle().await;
    assert_eq!((server.status().open, probe.told()), (2, vec!["stuck".to_owned(); 2]));
    let report = no_time(server.shutdown(Duration::from_millis(300))).await;
    assert_eq!((report.aborted, report.still_open), (2, 0), "{report:?}");
    assert_eq!(probe.told(), ["Aborted"; 2]);
    // The connection ends, and with it the stream.
    let mut rest = Vec::new();
    let _ = soon(stuck.read_to_end(&mut rest)).await;
    nothing_left(&server).await;
}

async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> (u8, Vec<u8>) {
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.unwrap();
    assert!(head[1] < 126);
    let mut payload = vec![0; head[1].into()];
    stream.read_exact(&mut payload).await.unwrap();
    (head[0] & 15, payload)
}
