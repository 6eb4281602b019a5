//! Requests that are malformed, ambiguous or odd, and requests smuggled inside of them.

/// Bytes that the server must not parse as a request unless plain hyper does.
const SMUGGLED: &str = "GET /t@@@@@/smuggled HTTP/1.1\r\n\r\n";

pub struct Malformed {
    pub name: String,
    pub bytes: Vec<u8>,
    /// A server that looks for the preface of HTTP/2 replies like `axum::serve`, not like plain
    /// hyper.
    pub preface: bool,
}

impl Malformed {
    fn new(name: impl Into<String>, bytes: impl AsRef<[u8]>) -> Self {
        Self { name: name.into(), bytes: bytes.as_ref().to_vec(), preface: false }
    }
}

pub fn malformed() -> Vec<Malformed> {
    let mut all = Vec::new();
    lengths(&mut all);
    chunks(&mut all);
    lines(&mut all);
    names_and_values(&mut all);
    versions_and_targets(&mut all);
    upgrades_and_expectations(&mut all);
    prefaces(&mut all);
    all
}

/// Requests that are too large for every split to be tried.
pub fn malformed_and_large() -> Vec<Malformed> {
    let extension = "e".repeat(1 << 20);
    let many = |count: usize| "h: x\r\n".repeat(count);
    let chunked = "POST /t@@@@@ HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
    let large = [
        ("an extension of 1 MiB", format!("{chunked}3;{extension}\r\nabc\r\n0\r\n\r\n{SMUGGLED}")),
        (
            "extensions of 20 KiB in all",
            format!("{chunked}{}0\r\n\r\n", format!("1;{}\r\na\r\n", "e".repeat(200)).repeat(100)),
        ),
        ("trailers of 1 MiB", format!("{chunked}0\r\nx: {extension}\r\n\r\n{SMUGGLED}")),
        ("many trailers", format!("{chunked}0\r\n{}\r\n{SMUGGLED}", many(2000))),
        ("100 headers", format!("GET /t@@@@@ HTTP/1.1\r\n{}\r\n{SMUGGLED}", many(100))),
        ("101 headers", format!("GET /t@@@@@ HTTP/1.1\r\n{}\r\n{SMUGGLED}", many(101))),
        ("a target of 64 KiB", format!("GET /t@@@@@/{} HTTP/1.1\r\n\r\n", "u".repeat(65_500))),
        ("a target beyond 64 KiB", format!("GET /t@@@@@/{} HTTP/1.1\r\n\r\n", "u".repeat(66_000))),
        ("a method of 64 KiB", format!("{} /t@@@@@ HTTP/1.1\r\n\r\n", "M".repeat(65_536))),
        ("a name of 64 KiB", format!("GET /t@@@@@ HTTP/1.1\r\n{}: x\r\n\r\n", "n".repeat(65_536))),
        ("a value of 1 MiB", format!("GET /t@@@@@ HTTP/1.1\r\nx: {extension}\r\n\r\n")),
        ("empty lines, 100,000 of them", "\r\n".repeat(100_000) + SMUGGLED),
        ("a length of 1,000 digits", length(&"1".repeat(1000), "")),
        ("1,000 zeros and 3", length(&format!("{}3", "0".repeat(1000)), "abc")),
        ("a chunk size of 1,000 zeros", format!("{chunked}{}\r\n\r\n{SMUGGLED}", "0".repeat(1000))),
        ("a mebibyte of nothing", "\0".repeat(1 << 20)),
    ];
    large.into_iter().map(|(name, bytes)| Malformed::new(name, bytes)).collect()
}

fn length(value: &str, body: &str) -> String {
    format!("POST /t@@@@@ HTTP/1.1\r\ncontent-length:{value}\r\n\r\n{body}{SMUGGLED}")
}

fn lengths(all: &mut Vec<Malformed>) {
    let values = [
        "+3",
        "-3",
        "0x3",
        " 3 ",
        "\t3",
        "3 3",
        "3,3",
        "3, 3",
        "3,4",
        "",
        " ",
        "three",
        "3.0",
        "3;",
        "03",
        "00",
        "1e1",
        "\u{663}",
        "18446744073709551615",
        "18446744073709551616",
        "18446744073709551614",
        "9223372036854775808",
        "99999999999999999999",
    ];
    for value in values {
        all.push(Malformed::new(format!("length {value:?}"), length(value, "abc")));
    }
    let heads = [
        ("two lengths, same", "content-length: 3\r\ncontent-length: 3\r\n"),
        ("two lengths, not same", "content-length: 3\r\ncontent-length: 4\r\n"),
        ("two lengths, 3 and 0", "content-length: 3\r\ncontent-length: 0\r\n"),
        ("two lengths, 3 and 03", "content-length: 3\r\ncontent-length: 03\r\n"),
        ("length, chunked", "content-length: 3\r\ntransfer-encoding: chunked\r\n"),
        ("chunked, length", "transfer-encoding: chunked\r\ncontent-length: 3\r\n"),
        ("bad length, chunked", "content-length: x\r\ntransfer-encoding: chunked\r\n"),
        ("chunked, bad length", "transfer-encoding: chunked\r\ncontent-length: x\r\n"),
        (
            "chunked, two lengths",
            "transfer-encoding: chunked\r\ncontent-length: 3\r\n\
            content-length: 4\r\n",
        ),
        ("space before the colon of a length", "content-length : 3\r\n"),
        ("space before the colon of an encoding", "transfer-encoding : chunked\r\n"),
        ("length in a folded line", "x: y\r\n content-length: 3\r\n"),
        ("length with an underscore", "content_length: 3\r\n"),
    ];
    for (name, head) in heads {
        for (body, bytes) in [("", "abc"), (", chunks", "3\r\nabc\r\n0\r\n\r\n")] {
            let request = format!("POST /t@@@@@ HTTP/1.1\r\n{head}\r\n{bytes}{SMUGGLED}");
            all.push(Malformed::new(format!("{name}{body}"), request));
        }
    }
}

fn chunks(all: &mut Vec<Malformed>) {
    let encodings = [
        "identity",
        "chunked, chunked",
        "chunked, identity",
        "identity, chunked",
        "gzip, chunked",
        "gzip",
        "Chunked",
        "CHUNKED",
        "xchunked",
        "chunkedx",
        "\"chunked\"",
        "chunked;q=1",
        ",chunked",
        "chunked,",
        " chunked ",
        "\tchunked",
        "\x0bchunked",
        "chun ked",
        "",
    ];
    for encoding in encodings {
        let head = format!("POST /t@@@@@ HTTP/1.1\r\ntransfer-encoding:{encoding}\r\n\r\n");
        let request = format!("{head}3\r\nabc\r\n0\r\n\r\n{SMUGGLED}");
        all.push(Malformed::new(format!("encoding {encoding:?}"), request));
    }
    let two = "POST /t@@@@@ HTTP/1.1\r\ntransfer-encoding: chunked\r\n\
        transfer-encoding: identity\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    all.push(Malformed::new("two encodings", format!("{two}{SMUGGLED}")));
    let bodies = [
        "0\r\n\r\n",
        "00\r\n\r\n",
        "3\r\nabc\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "3\r\nabc0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc\r0\r\n\r\n",
        "3\rabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\r\n\n",
        "3\r\nabc\r\n0\n\r\n",
        "3\r\nabc\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "3\t\r\nabc\r\n0\r\n\r\n",
        "3 x\r\nabc\r\n0\r\n\r\n",
        "3;\r\nabc\r\n0\r\n\r\n",
        "3;x=\"\r\nabc\r\n0\r\n\r\n",
        "3;x\nabc\r\n0\r\n\r\n",
        "3;\rabc\r\n0\r\n\r\n",
        "3,\r\nabc\r\n0\r\n\r\n",
        "g\r\nabc\r\n0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        ";x\r\nabc\r\n0\r\n\r\n",
        "003\r\nabc\r\n0\r\n\r\n",
        "A\r\n0123456789\r\n0\r\n\r\n",
        "a\r\n0123456789\r\n0\r\n\r\n",
        "10000000000000000\r\nabc\r\n0\r\n\r\n",
        "FFFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n",
        "10000000000000003\r\nabc\r\n0\r\n\r\n",
        "7FFFFFFFFFFFFFFF\r\nabc\r\n0\r\n\r\n",
        "0\r\nx: y\r\n\r\n",
        "0\r\nx\r\n\r\n",
        "0\r\n: y\r\n\r\n",
        "0\r\ncontent-length: 9\r\n\r\n",
        "0\r\nx: y\n\n",
        "0\r\n x: y\r\n\r\n",
        "0;x=y\r\n\r\n",
        "0\r\nx: \0\r\n\r\n",
    ];
    for body in bodies {
        let head = "POST /t@@@@@ HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        all.push(Malformed::new(format!("chunks {body:?}"), format!("{head}{body}{SMUGGLED}")));
    }
}

fn lines(all: &mut Vec<Malformed>) {
    let heads = [
        "GET /t@@@@@ HTTP/1.1\n\n",
        "GET /t@@@@@ HTTP/1.1\nx: y\n\n",
        "GET /t@@@@@ HTTP/1.1\r\nx: y\n\r\n",
        "GET /t@@@@@ HTTP/1.1\nx: y\r\n\n",
        "GET /t@@@@@ HTTP/1.1\r\r\n\r\n",
        "GET /t@@@@@ HTTP/1.1\r\n\r\r\n",
        "GET /t@@@@@ HTTP/1.1\r\nx: y\rz: w\r\n\r\n",
        "GET /t@@@@@ HTTP/1.1\rx: y\r\n\r\n",
        "GET /t@@@@@ HTTP/1.1\r\nx: y\r\n\n",
        "GET /t@@@@@ HTTP/1.1\r\n\n",
        "\r\n\r\n\r\nGET /t@@@@@ HTTP/1.1\r\n\r\n",
        "\n\nGET /t@@@@@ HTTP/1.1\r\n\r\n",
        "\r\rGET /t@@@@@ HTTP/1.1\r\n\r\n",
        " GET /t@@@@@ HTTP/1.1\r\n\r\n",
        "\r\n GET /t@@@@@ HTTP/1.1\r\n\r\n",
        "\r",
        "\r\n",
        "\n",
        " ",
        "GET  /t@@@@@ HTTP/1.1\r\n\r\n",
        "GET /t@@@@@  HTTP/1.1\r\n\r\n",
        "GET /t@@@@@ HTTP/1.1 \r\n\r\n",
        "GET\t/t@@@@@ HTTP/1.1\r\n\r\n",
        "GET /t@@@@@\tHTTP/1.1\r\n\r\n",
        "GET /t@@@@@\r\n",
        "GET /t@@@@@\r\n\r\n",
        "GET\r\n\r\n",
        "GET /t@@@@@ \r\n\r\n",
        "/t@@@@@ HTTP/1.1\r\n\r\n",
        "G\r\nET /t@@@@@ HTTP/1.1\r\n\r\n",
        "\0",
        "GET /t@@@@@ HTTP/1.1\r\n\0\r\n\r\n",
        "G\0T /t@@@@@ HTTP/1.1\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{0}\u{5}hello",
        "hello",
        "{\"method\": \"GET\"}\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
    ];
    for head in heads {
        all.push(Malformed::new(format!("lines {head:?}"), format!("{head}{SMUGGLED}")));
    }
}

fn names_and_values(all: &mut Vec<Malformed>) {
    let headers = [
        "x : y",
        " x: y",
        "\tx: y",
        "x: y\r\n z",
        "x: y\r\n\tz",
        "x:\r\n y",
        "x",
        ": y",
        ":",
        "x:",
        "x:y",
        "x:  y  ",
        "x: a:b",
        "x y: z",
        "x\0: y",
        "x: \0",
        "x: a\0b",
        "x: \u{7f}",
        "x: \u{1}",
        "x: \u{e9}",
        "\u{e9}: x",
        "x(y): z",
        "x@y: z",
        "x\"y: z",
        "x/y: z",
        "x: \t y\t",
        "host: a\r\nhost: b",
        "host: a b",
        "host:",
        "host: a@b",
        "connection: close, upgrade",
        "connection: x",
        "connection: close\r\nconnection: keep-alive",
        "connection: keep-alive\r\nconnection: close",
        "connection: Close",
        "connection: clos\u{e9}",
        "proxy-connection: close",
        "keep-alive: timeout=1",
        "te: trailers",
        "trailer: x",
        "content-length: 0",
        "transfer-encoding: chunked, \u{0b}chunked",
    ];
    for header in headers {
        let request = format!("GET /t@@@@@ HTTP/1.1\r\n{header}\r\n\r\n{SMUGGLED}");
        all.push(Malformed::new(format!("header {header:?}"), request));
    }
    all.push(Malformed::new(
        "a value not of UTF-8",
        b"GET /t@@@@@ HTTP/1.1\r\nx: \xff\xfe\r\n\r\n",
    ));
    all.push(Malformed::new("a target not of UTF-8", b"GET /t@@@@@\xff HTTP/1.1\r\n\r\n"));
}

fn versions_and_targets(all: &mut Vec<Malformed>) {
    let versions = [
        "HTTP/0.9",
        "HTTP/1.2",
        "HTTP/1.10",
        "HTTP/1",
        "HTTP/1.",
        "HTTP/11",
        "HTTP/2",
        "HTTP/2.0",
        "HTTP/3.0",
        "http/1.1",
        "HTTP 1.1",
        "HTTP/1,1",
        "HTTPS/1.1",
        "HTTP/01.1",
        "XTTP/1.1",
        "",
    ];
    for version in versions {
        let request = format!("GET /t@@@@@ {version}\r\n\r\n{SMUGGLED}");
        all.push(Malformed::new(format!("version {version:?}"), request));
    }
    let targets = [
        "http://a/t@@@@@",
        "https://a:443/t@@@@@",
        "HTTP://A/t@@@@@",
        "http://a",
        "http:///t@@@@@",
        "//a/t@@@@@",
        "t@@@@@",
        "*",
        "a:80",
        "/t@@@@@#f",
        "/t@@@@@?a b",
        "/t@@@@@/../x",
        "/t@@@@@/%zz",
        "/t@@@@@/<x>",
        "/t@@@@@/\u{e9}",
        "/t@@@@@/|",
        "/t@@@@@\\x",
        "?t@@@@@",
        "",
        "http://a b/",
        "http://u:p@a/t@@@@@",
        "/t@@@@@/\u{7f}",
        "ftp://a/t@@@@@",
    ];
    for target in targets {
        let request = format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n{SMUGGLED}");
        all.push(Malformed::new(format!("target {target:?}"), request));
    }
    for method in
        ["get", "GeT", "PRI", "CONNECT", "TRACE", "QUERY", "M-SEARCH", "G(T", "\u{e9}", "@"]
    {
        let request = format!("{method} /t@@@@@ HTTP/1.1\r\nhost: a\r\n\r\n{SMUGGLED}");
        all.push(Malformed::new(format!("method {method:?}"), request));
    }
    let older = [
        ("1.0 and chunked", "transfer-encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"),
        (
            "1.0, kept and chunked",
            "connection: keep-alive\r\ntransfer-encoding: chunked\r\n",
            "0\r\n\r\n",
        ),
        ("1.0, chunked and a length", "transfer-encoding: chunked\r\ncontent-length: 3\r\n", "abc"),
        (
            "1.0, kept, two lengths",
            "connection: keep-alive\r\ncontent-length: 3\r\n\
            content-length: 4\r\n",
            "abc",
        ),
        ("1.0, a body without length", "", "abc"),
        ("1.0, kept, a body without length", "connection: keep-alive\r\n", "abc"),
    ];
    for (name, head, body) in older {
        let request = format!("POST /t@@@@@ HTTP/1.0\r\n{head}\r\n{body}{SMUGGLED}");
        all.push(Malformed::new(name, request));
    }
}

fn upgrades_and_expectations(all: &mut Vec<Malformed>) {
    let get = |head: &str| format!("GET /t@@@@@ HTTP/1.1\r\n{head}\r\n{SMUGGLED}");
    let post = |head: &str| format!("POST /t@@@@@ HTTP/1.1\r\ncontent-length: 3\r\n{head}\r\nabc");
    let requests = [
        ("upgrade, not asked for by connection", get("upgrade: raw\r\n")),
        ("upgrade without a protocol", get("connection: upgrade\r\n")),
        ("upgrade with a body", post("connection: upgrade\r\nupgrade: raw\r\n") + SMUGGLED),
        ("upgrade that is refused", get("connection: upgrade\r\nupgrade: raw\r\n")),
        ("upgrade, 1.0", get("connection: upgrade\r\nupgrade: raw\r\n").replacen("1.1", "1.0", 1)),
        ("expect something else", post("expect: 200-ok\r\n") + SMUGGLED),
        ("expect twice", post("expect: 100-continue\r\nexpect: 100-continue\r\n") + SMUGGLED),
        ("expect in capitals", post("expect: 100-CONTINUE\r\n") + SMUGGLED),
        ("expect nothing", post("expect:\r\n") + SMUGGLED),
        ("expect and more", post("expect: 100-continue, x\r\n") + SMUGGLED),
        ("expect, get", get("expect: 100-continue\r\n")),
        ("expect, no length", get("expect: 100-continue\r\n").replacen("GET", "POST", 1)),
        ("get with a body", get("content-length: 3\r\n").replace("\r\n\r\nGET", "\r\n\r\nabcGET")),
        ("get with a body, no length", get("").replacen("\r\n\r\n", "\r\n\r\nabc", 1)),
        (
            "smuggled after a refused upgrade",
            format!(
                "GET /raw@@@@@ HTTP/1.1\r\n\
            connection: upgrade\r\nupgrade: x\r\ncontent-length: 3\r\n\r\nabc{SMUGGLED}"
            ),
        ),
    ];
    all.extend(requests.map(|(name, bytes)| Malformed::new(name, bytes)));
}

fn prefaces(all: &mut Vec<Malformed>) {
    let settings = b"\0\0\0\x04\0\0\0\0\0";
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let prefaces = [
        ("a preface", [preface, settings].concat()),
        ("a preface without settings", preface.to_vec()),
        ("a preface in part", preface[..14].to_vec()),
        ("a preface up to its empty line", preface[..18].to_vec()),
        ("a preface that goes wrong", b"PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n".to_vec()),
        ("a preface that becomes a request", b"PRI /t@@@@@ HTTP/1.1\r\n\r\n".to_vec()),
        ("a preface of 1.1", b"PRI * HTTP/1.1\r\n\r\n".to_vec()),
        ("a P", b"P".to_vec()),
        ("a P that becomes a request", b"PUT /t@@@@@ HTTP/1.1\r\n\r\n".to_vec()),
        ("a preface, then a request", [preface, SMUGGLED.as_bytes()].concat()),
    ];
    all.extend(
        prefaces.map(|(name, bytes)| Malformed { preface: true, ..Malformed::new(name, bytes) }),
    );
    // Not the first bytes, so not a preface. How hyper closes depends on the split of the bytes.
    all.push(Malformed::new("a preface after an empty line", [b"\r\n", preface].concat()));
}
