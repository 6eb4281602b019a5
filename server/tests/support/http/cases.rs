//! Scripts of clients, in well-formed HTTP/1.

use super::more_cases::more_cases;
use super::script::{Script, script};

pub const GET: &str = "GET /t@@@@@ HTTP/1.1\r\nhost: a\r\n\r\n";
const HELLO: &str = "GET /hello HTTP/1.1\r\nhost: a\r\n\r\n";
pub const POST: &str = "POST /t@@@@@ HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\nhello world";
pub const CHUNKED: &str = "POST /t@@@@@ HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
    5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nx-sum: 7\r\n\r\n";
pub const EXPECT: &str = "POST /t@@@@@ HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n\
    content-length: 5\r\n\r\nhello";
pub const WEB_SOCKET: &str = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: Upgrade\r\n\
    upgrade: websocket\r\nsec-websocket-version: 13\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
pub const RAW: &str = "GET /raw HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\n\
    upgrade: raw\r\n\r\n";
const HELD: &str = "GET /held/@@@@@ HTTP/1.1\r\nhost: a\r\n\r\n";

pub fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n{headers}\r\n")
}

fn post(path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
}

pub fn cases() -> Vec<Script> {
    [plain(), bodies(), pipelines(), ends(), versions(), more_cases()].concat()
}

fn plain() -> Vec<Script> {
    let headers = ["connection: keep-alive\r\n", "connection: keep-alive, Upgrade\r\n", "a:\r\n"];
    let mut all = vec![
        script("get").send(HELLO).replies(1).probe(),
        script("get, at rest first").settle().send(GET).replies(1).settle().probe(),
        script("head")
            .send("HEAD /hello HTTP/1.1\r\nhost: a\r\n\r\n")
            .heads(&[0])
            .replies(1)
            .probe(),
        script("head of a stream")
            .send("HEAD /stream HTTP/1.1\r\nhost: a\r\n\r\n")
            .heads(&[0])
            .replies(1)
            .settle()
            .probe(),
        script("head of something big")
            .send("HEAD /big HTTP/1.1\r\nhost: a\r\n\r\n")
            .heads(&[0])
            .replies(1)
            .settle()
            .probe(),
        script("not found").send(get("/missing", "")).replies(1).probe(),
        script("method not allowed").send(post("/hello", "", "")).replies(1).probe(),
        script("options").send("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n").replies(1).probe(),
        script("query").send(get("/t@@@@@?a=b&c=%20d", "")).replies(1).probe(),
        script("no content").send(get("/status/204", "")).replies(1).settle().probe(),
        script("not modified").send(get("/status/304", "")).replies(1).settle().probe(),
        script("two hosts")
            .send(GET)
            .replies(1)
            .settle()
            .send("GET /t@@@@@ HTTP/1.1\r\nhost: b\r\n\r\n")
            .replies(1)
            .probe(),
        script("byte by byte").pieces(HELLO.bytes().map(|byte| [byte])).replies(1).probe(),
        script("empty lines first").send(format!("\r\n\r\n{GET}")).replies(1).probe(),
        script("empty line, at rest, request").pieces(["\r\n", GET]).replies(1).probe(),
        script("empty line between")
            .send(GET)
            .replies(1)
            .settle()
            .send("\r\n")
            .settle()
            .send(GET)
            .replies(1)
            .probe(),
        script("half an empty line").pieces(["\r", "\n", GET]).replies(1).probe(),
        script("many headers")
            .send(get("/t/large", &(0..90).map(|i| format!("h{i}: {i}\r\n")).collect::<String>()))
            .replies(1)
            .probe(),
        script("a large head")
            .send(get("/t/large", &format!("x: {}\r\n", "y".repeat(16_000))))
            .replies(1)
            .settle()
            .probe(),
        script("a large head, in pieces")
            .pieces(
                get("/t/large", &format!("x: {}\r\n", "y".repeat(40_000))).as_bytes().chunks(7_001),
            )
            .replies(1)
            .probe(),
    ];
    all.extend(headers.map(|header| {
        script(header.trim())
            .send(get("/t@@@@@", header))
            .replies(1)
            .settle()
            .send(get("/t@@@@@", header))
            .replies(1)
            .probe()
    }));
    let small = (0..50).fold(script("small ones after pauses"), |script, number| {
        script.send(get(&format!("/t@@@@@/{number}"), "")).replies(1).settle()
    });
    all.push(small.probe());
    all
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn bodies() -> Vec<Script> {
    let slow = |name, text: &str| {
        let end = text.find("\r\n\r\n").unwrap() + 4;
        let (head, body) = text.split_at(end);
        script(name)
            .pieces([head])
            .pieces(body.bytes().map(|byte| [byte]))
            .replies(1)
            .settle()
            .probe()
    };
    vec![
        script("post").send(POST).replies(1).settle().probe(),
        script("post of nothing").send(post("/t@@@@@", "", "")).replies(1).probe(),
        script("put without a length")
            .send("PUT /t@@@@@ HTTP/1.1\r\nhost: a\r\n\r\n")
            .replies(1)
            .probe(),
        script("get with a body")
            .send(
                "GET /t@@@@@ HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\n\
            abc",
            )
            .replies(1)
            .probe(),
        script("chunked").send(CHUNKED).replies(1).settle().send(CHUNKED).replies(1).probe(),
        slow("a slow body", POST),
        slow("a slow chunked body", CHUNKED),
        script("echo").send(post("/echo", "", "back")).replies(1).settle().probe(),
        script("echo, bit by bit")
            .send("POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
            .pieces(["3\r\nabc\r\n"])
            .until("abc\r\n")
            .pieces(["2\r\nde\r\n"])
            .until("de\r\n")
            .send("0\r\n\r\n")
            .until("0\r\n\r\n")
            .settle()
            .probe(),
        script("early reply, body there")
            .send(post("/early", "", "not read"))
            .replies(1)
            .settle()
            .probe(),
        script("early reply, body later")
            .send(
                "POST /early HTTP/1.1\r\nhost: a\r\n\
            content-length: 5\r\n\r\n",
            )
            .replies(1)
            .settle()
            .send("later")
            .settle()
            .probe(),
        script("early reply, body withheld")
            .send(
                "POST /early HTTP/1.1\r\nhost: a\r\n\
            content-length: 5\r\n\r\n",
            )
            .replies(1)
            .settle()
            .fin()
            .tail(),
        script("early reply, chunks later")
            .send(
                "POST /early HTTP/1.1\r\nhost: a\r\n\
            transfer-encoding: chunked\r\n\r\n",
            )
            .replies(1)
            .settle()
            .send("5\r\nlater\r\n0\r\n\r\n")
            .settle()
            .probe(),
        script("early reply, huge body announced")
            .send(
                "POST /early HTTP/1.1\r\nhost: a\r\n\
            content-length: 99999999\r\n\r\nabc",
            )
            .replies(1)
            .tail(),
        script("body kept")
            .send(post("/keep/@@@@@", "", "kept"))
            .replies(1)
            .notes(2)
            .settle()
            .probe(),
        script("body kept, rest later")
            .send(
                "POST /keep/@@@@@ HTTP/1.1\r\nhost: a\r\n\
            content-length: 9\r\n\r\nkept",
            )
            .replies(1)
            .settle()
            .send(" and ")
            .settle()
            .probe()
            .notes(2),
        script("body kept, end withheld")
            .send(
                "POST /keep/@@@@@ HTTP/1.1\r\nhost: a\r\n\
            content-length: 9\r\n\r\nkept",
            )
            .replies(1)
            .settle()
            .fin()
            .notes(2)
            .tail(),
        script("body withheld")
            .send(
                "POST /t@@@@@ HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n\
            kept",
            )
            .settle()
            .fin()
            .tail(),
        script("chunk withheld")
            .send(
                "POST /t@@@@@ HTTP/1.1\r\nhost: a\r\n\
            transfer-encoding: chunked\r\n\r\n5\r\nabc",
            )
            .settle()
            .fin()
            .tail(),
        script("trailers").send(get("/trailers", "te: trailers\r\n")).replies(1).settle().probe(),
        script("trailers not asked for").send(get("/trailers", "")).replies(1).settle().probe(),
        script("held, body not read")
            .send(post("/held/@@@@@", "", "not read"))
            .inside(1)
            .settle()
            .pass()
            .replies(1)
            .settle()
            .probe(),
    ]
}

fn pipelines() -> Vec<Script> {
    let numbered = |count: usize| -> String {
        (0..count).map(|number| get(&format!("/t@@@@@/{number}"), "")).collect()
    };
    let mixed = format!("{GET}{POST}{CHUNKED}{HELLO}");
    let (half, rest) = GET.split_at(20);
    vec![
        script("three at once").send(numbered(3)).replies(3).settle().probe(),
        script("sixty at once").send(numbered(60)).replies(60).settle().probe(),
        script("sixty, twice")
            .send(numbered(60))
            .replies(60)
            .settle()
            .send(numbered(60))
            .replies(60)
            .settle()
            .probe(),
        script("a mixed batch").send(&mixed).replies(4).settle().send(&mixed).replies(4).probe(),
        script("one and a half")
            .send(format!("{HELLO}{half}"))
            .replies(1)
            .settle()
            .send(rest)
            .replies(1)
            .settle()
            .probe(),
        script("one and a byte")
            .send(format!("{HELLO}G"))
            .replies(1)
            .settle()
            .send(&GET[1..])
            .replies(1)
            .probe(),
        script("one and half a body")
            .send(format!("{HELLO}{}", &POST[..POST.len() - 4]))
            .replies(1)
            .settle()
            .send(&POST[POST.len() - 4..])
            .replies(1)
            .settle()
            .probe(),
        script("half, a batch, half")
            .send(half)
            .settle()
            .send(format!("{rest}{}{half}", numbered(5)))
            .replies(6)
            .settle()
            .send(rest)
            .replies(1)
            .probe(),
        script("a batch behind a held one")
            .send(format!("{HELD}{}", numbered(4)))
            .inside(1)
            .settle()
            .pass()
            .replies(5)
            .settle()
            .probe(),
        script("more while one is held")
            .send(HELD)
            .inside(1)
            .settle()
            .send(numbered(4))
            .settle()
            .pass()
            .replies(5)
            .settle()
            .probe(),
        script("early replies in a batch")
            .send([post("/early", "", "1"), post("/early", "", "22")].concat())
            .replies(2)
            .settle()
            .probe(),
        script("an empty line between two").send(format!("{GET}\r\n{GET}")).replies(2).probe(),
    ]
}

fn ends() -> Vec<Script> {
    let last = get("/t@@@@@", "connection: close\r\n");
    vec![
        script("never used").settle().fin().tail(),
        script("never used, reset").settle().reset(),
        script("half-close after a request").send(HELLO).fin().tail().cut_short(),
        script("half-close with three").send(GET.repeat(3)).fin().tail().cut_short(),
        script("half-close at rest").send(GET).replies(1).settle().fin().tail(),
        script("half-close after a body").send(POST).fin().tail().cut_short(),
        script("half-close in a head").send(&GET[..20]).settle().fin().tail(),
        script("half-close while held").send(HELD).inside(1).settle().fin().inside(0).tail(),
        script("gone while held").send(HELD).inside(1).settle().reset().inside(0),
        script("gone while held, after rests")
            .send(GET)
            .replies(1)
            .settle()
            .send(HELD)
            .inside(1)
            .settle()
            .reset()
            .inside(0),
        script("gone while held, with a body")
            .send(post("/held/@@@@@", "", "abc"))
            .inside(1)
            .settle()
            .reset()
            .inside(0),
        script("reset at rest").send(HELLO).replies(1).settle().reset(),
        script("reset in a head").send(&HELLO[..9]).settle().reset(),
        script("close").send(&last).replies(1).tail(),
        script("close, at last").send(GET).replies(1).settle().send(&last).replies(1).tail(),
        script("close in a batch").send(format!("{GET}{last}{GET}")).replies(2).tail(),
        script("bytes after close").send(format!("{last}and more")).replies(1).tail(),
        script("close, with others")
            .send(get("/t@@@@@", "connection: close, keep-alive\r\n"))
            .replies(1)
            .tail(),
        script("a handler that panics").send(get("/panic", "")).tail(),
        script("a handler that panics, at last")
            .send(GET)
            .replies(1)
            .settle()
            .send(get("/panic", ""))
            .tail(),
        script("a handler that panics, in a batch")
            .send(format!("{GET}{}{GET}", get("/panic", "")))
            .tail(),
    ]
}

fn versions() -> Vec<Script> {
    let old = |headers: &str| format!("GET /t@@@@@ HTTP/1.0\r\n{headers}\r\n");
    let kept = old("connection: keep-alive\r\n");
    vec![
        script("1.0").send(old("")).replies(1).tail(),
        script("1.0 with a host").send(old("host: a\r\n")).replies(1).tail(),
        script("1.0, kept").send(&kept).replies(1).settle().send(&kept).replies(1).probe(),
        script("1.0, kept, then not")
            .send(&kept)
            .replies(1)
            .settle()
            .send(old(""))
            .replies(1)
            .tail(),
        script("1.0, kept, in a batch").send(kept.repeat(3)).replies(3).settle().probe(),
        script("1.0 with a body")
            .send("POST /t@@@@@ HTTP/1.0\r\ncontent-length: 3\r\n\r\nabc")
            .replies(1)
            .tail(),
        script("1.0, a stream").send("GET /stream HTTP/1.0\r\n\r\n").replies(1).tail(),
        script("1.0, kept, a stream")
            .send("GET /stream HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
            .replies(1)
            .tail(),
        script("1.0, head").send("HEAD /hello HTTP/1.0\r\n\r\n").heads(&[0]).replies(1).tail(),
        script("1.0 after 1.1").send(GET).replies(1).settle().send(old("")).replies(1).tail(),
        script("1.1 after 1.0, kept")
            .send(&kept)
            .replies(1)
            .settle()
            .send(GET)
            .replies(1)
            .settle()
            .probe(),
        script("1.1 without a host").send("GET /t@@@@@ HTTP/1.1\r\n\r\n").replies(1).probe(),
    ]
}
