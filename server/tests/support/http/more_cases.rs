//! Scripts with `expect: 100-continue`, upgrades, and slow replies.

use super::cases::{EXPECT, GET, RAW, WEB_SOCKET, get};
use super::script::{Script, script};

pub fn more_cases() -> Vec<Script> {
    [expectations(), upgrades(), streams()].concat()
}

fn expectations() -> Vec<Script> {
    let (head, body) = EXPECT.split_at(EXPECT.len() - 5);
    let early = head.replace("/t@@@@@", "/early");
    vec![
        script("expected, and sent").send(head).interim().send(body).replies(1).settle().probe(),
        script("expected, not waited for").send(EXPECT).replies(1).settle().probe(),
        script("expected, at last")
            .send(GET)
            .replies(1)
            .settle()
            .send(head)
            .interim()
            .settle()
            .send(body)
            .replies(1)
            .settle()
            .probe(),
        script("expected, refused").send(&early).replies(1).tail(),
        script("expected, refused, sent").send(&early).replies(1).settle().send(body).tail(),
        script("expected, refused, not waited for")
            .send(format!("{early}{body}"))
            .replies(1)
            .tail(),
        script("expected, 1.0").send(EXPECT.replace("1.1", "1.0")).replies(1).tail(),
        script("expected, no body")
            .send(get("/t@@@@@", "expect: 100-continue\r\n"))
            .replies(1)
            .settle()
            .probe(),
        script("expected, chunked")
            .send(
                "POST /t@@@@@ HTTP/1.1\r\nhost: a\r\n\
            expect: 100-continue\r\ntransfer-encoding: chunked\r\n\r\n",
            )
            .interim()
            .pieces(["3\r\n", "abc\r\n", "0\r\n\r\n"])
            .replies(1)
            .probe(),
        script("expected, not sent").send(head).interim().settle().fin().tail(),
    ]
}

fn upgrades() -> Vec<Script> {
    // Masked frames: the text "hi", and a close.
    let hi = [0x81, 0x82, 1, 2, 3, 4, b'h' ^ 1, b'i' ^ 2];
    let close = [0x88, 0x80, 1, 2, 3, 4];
    let both = [WEB_SOCKET.as_bytes(), &hi].concat();
    vec![
        script("web socket")
            .send(WEB_SOCKET)
            .replies(1)
            .send(hi)
            .bytes(4)
            .send(close)
            .bytes(2)
            .tail(),
        script("web socket, at last")
            .send(GET)
            .replies(1)
            .settle()
            .send(WEB_SOCKET)
            .replies(1)
            .settle()
            .send(hi)
            .bytes(4)
            .settle()
            .send(hi)
            .bytes(4)
            .send(close)
            .bytes(2)
            .tail(),
        script("web socket, frame by byte")
            .send(GET)
            .replies(1)
            .settle()
            .send(WEB_SOCKET)
            .replies(1)
            .pieces(hi.map(|byte| [byte]))
            .bytes(4)
            .send(close)
            .bytes(2)
            .tail(),
        script("web socket, with a frame")
            .send(&both)
            .replies(1)
            .bytes(4)
            .send(close)
            .bytes(2)
            .tail(),
        script("web socket in a batch")
            .send([GET.as_bytes(), GET.as_bytes(), &both].concat())
            .replies(3)
            .bytes(4)
            .send(close)
            .bytes(2)
            .tail(),
        script("web socket, half-closed").send(WEB_SOCKET).replies(1).settle().fin().tail(),
        script("web socket, reset").send(WEB_SOCKET).replies(1).settle().reset(),
        script("raw")
            .send(RAW)
            .replies(1)
            .send("abc")
            .bytes(3)
            .settle()
            .send(GET)
            .until("host: a\r\n\r\n")
            .fin()
            .tail(),
        script("refused").send(RAW.replace("/raw", "/refuse")).replies(1).settle().probe(),
        script("refused, at last")
            .send(GET)
            .replies(1)
            .settle()
            .send(RAW.replace("/raw", "/refuse"))
            .replies(1)
            .settle()
            .send(WEB_SOCKET)
            .replies(1)
            .send(hi)
            .bytes(4)
            .send(close)
            .tail(),
        script("ignored").send(RAW.replace("/raw", "/t@@@@@")).replies(1).settle().probe(),
        script("h2c, not spoken")
            .send(get(
                "/t@@@@@",
                "connection: Upgrade, HTTP2-Settings\r\n\
            upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
            ))
            .replies(1)
            .settle()
            .probe(),
    ]
}

fn streams() -> Vec<Script> {
    vec![
        script("a stream").send(get("/stream", "")).replies(1).settle().probe(),
        script("streams in a batch").send(get("/stream", "").repeat(4)).replies(4).settle().probe(),
        script("events")
            .send(get("/sse/@@@@@", ""))
            .until("\r\n\r\n")
            .settle()
            .pass()
            .until("data: 0\n\n\r\n")
            .settle()
            .pass()
            .until("data: 1\n\n\r\n")
            .settle()
            .pass()
            .until("0\r\n\r\n")
            .settle()
            .probe(),
        script("events, a request behind")
            .send(format!("{}{GET}", get("/sse/@@@@@", "")))
            .until("\r\n\r\n")
            .pass()
            .until("data: 0\n\n\r\n")
            .settle()
            .pass()
            .pass()
            .until("0\r\n\r\n")
            .replies(1)
            .settle()
            .probe(),
        script("events, gone")
            .send(get("/sse/@@@@@", ""))
            .until("\r\n\r\n")
            .settle()
            .pass()
            .until("data: 0\n\n\r\n")
            .reset(),
        script("events, half-closed")
            .send(get("/sse/@@@@@", ""))
            .until("\r\n\r\n")
            .settle()
            .pass()
            .until("data: 0\n\n\r\n")
            .settle()
            .fin()
            .tail(),
    ]
}
