//! Scripts that take a server long, and heads beyond its limits.

use super::cases::GET;
use super::script::{Script, script};

pub fn hard_cases() -> Vec<Script> {
    let big = "GET /big HTTP/1.1\r\nhost: a\r\n\r\n";
    let upload = vec![b'u'; 8 << 20];
    let length = upload.len();
    let head = format!("POST /digest HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
    let chunk = |size: usize| format!("{size:x}\r\n{}\r\n", "c".repeat(size));
    let chunks: String = (1..200).map(|number| chunk(number * 17)).collect();
    let chunked = "POST /digest HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    vec![
        script("a slow reader").send(big).settle().replies(1).settle().probe(),
        script("a slow reader, after rests")
            .send(GET)
            .replies(1)
            .settle()
            .send(big)
            .settle()
            .replies(1)
            .settle()
            .probe(),
        script("a slow reader, with more behind")
            .send(format!("{big}{GET}{big}"))
            .settle()
            .replies(3)
            .settle()
            .probe(),
        script("a slow reader, gone").send(big).settle().reset(),
        script("a slow reader, half-closed").send(big).settle().fin().settle().tail().cut_short(),
        script("an upload").send(head).send(&upload).replies(1).settle().probe(),
        script("an upload in chunks")
            .send(chunked)
            .pieces(chunks.as_bytes().chunks(60_000))
            .send("0\r\n\r\n")
            .replies(1)
            .settle()
            .probe(),
        script("a head without end").send("GET / HTTP/1.1\r\nx: ").send("x".repeat(1 << 20)).tail(),
        script("a head without end, at last")
            .send(GET)
            .replies(1)
            .settle()
            .send("GET / HTTP/1.1\r\nx: ")
            .send("x".repeat(1 << 20))
            .tail(),
        script("a head without end, in pieces")
            .send("GET / HTTP/1.1\r\nx: ")
            .pieces(vec!["x".repeat(100_000); 6])
            .tail(),
        script("a line without end").send("GET /").send("x".repeat(1 << 20)).tail(),
        script("a target too long")
            .send(format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(70_000)))
            .tail(),
        script("100 headers").send(headers(100)).tail(),
        script("101 headers").send(headers(101)).tail(),
        script("101 headers, at last").send(GET).replies(1).settle().send(headers(101)).tail(),
    ]
}

fn headers(count: usize) -> String {
    let headers: String = (0..count).map(|number| format!("h{number}: x\r\n")).collect();
    format!("GET /t@@@@@ HTTP/1.1\r\n{headers}\r\n")
}
