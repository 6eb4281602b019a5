//! Requests made of fragments, most of them odd. Bytes choose the fragments: random bytes in a test, those
//! of the fuzzer in `fuzz/fuzz_targets/http.rs`, which includes this file.

const LINES: &[&str] = &[
    "GET /t@@@@@ HTTP/1.1\r\n",
    "POST /t@@@@@ HTTP/1.1\r\n",
    "POST /t@@@@@ HTTP/1.1\r\n",
    "POST /t@@@@@ HTTP/1.1\r\n",
    "POST /t@@@@@ HTTP/1.0\r\n",
    "GET /t@@@@@ HTTP/1.0\r\n",
    "PUT http://a/t@@@@@ HTTP/1.1\r\n",
    "OPTIONS * HTTP/1.1\r\n",
    "GET /t@@@@@ HTTP/1.1\n",
    "GET /t@@@@@\r\n",
    "GET /t@@@@@ HTTP/2.0\r\n",
    "POST /early/@@@@@ HTTP/1.1\r\n",
    "POST /refuse/@@@@@ HTTP/1.1\r\n",
    "\r\nGET /t@@@@@ HTTP/1.1\r\n",
    "GET /t@@@@@ HTTP/1.1\r\r\n",
    "G\0T /t@@@@@ HTTP/1.1\r\n",
];

const HEADERS: &[&str] = &[
    "host: a\r\n",
    "content-length: 0\r\n",
    "content-length: 3\r\n",
    "content-length: 3\r\n",
    "content-length: 6\r\n",
    "content-length: 03\r\n",
    "content-length: +3\r\n",
    "content-length: 3, 3\r\n",
    "content-length : 3\r\n",
    "content-length: 18446744073709551616\r\n",
    "transfer-encoding: chunked\r\n",
    "transfer-encoding: chunked\r\n",
    "transfer-encoding: chunked\r\n",
    "transfer-encoding: gzip, chunked\r\n",
    "transfer-encoding: identity\r\n",
    "transfer-encoding: chunked, identity\r\n",
    "transfer-encoding:\x0bchunked\r\n",
    "expect: 100-continue\r\n",
    "connection: close\r\n",
    "connection: keep-alive\r\n",
    "connection: upgrade\r\nupgrade: raw\r\n",
    "x: y\r\n z\r\n",
    "x: y\n",
    "x: y\rz: w\r\n",
    "x: \0\r\n",
    "x\r\n",
    ": y\r\n",
    "x y: z\r\n",
    "x: \u{e9}\r\n",
    "trailer: x\r\n",
];

const ENDS: &[&str] = &["\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", ""];

const BODIES: &[&str] = &[
    "",
    "",
    "",
    "abc",
    "abc",
    "3\r\nabc\r\n",
    "3\r\nabc\r\n0\r\n\r\n",
    "3\r\nabc\r\n0\r\n\r\n",
    "0\r\n\r\n",
    "0\r\n\r\n",
    "0\r\nx: y\r\n\r\n",
    "0\r\nx\r\n\r\n",
    "0\r\ncontent-length: 9\r\n\r\n",
    "3;x=y\r\nabc\r\n",
    "3\nabc\n",
    "3\r\nabcd\r\n",
    "3 \r\nabc\r\n",
    "-3\r\nabc\r\n",
    "1a\r\nGET /smuggled HTTP/1.1\r\n\r\n\r\n",
    "GET /smuggled HTTP/1.1\r\n\r\n",
    "10000000000000003\r\nabc\r\n",
    "\0",
    "\r\n",
    "\n",
];

/// The sizes of what is too large, or nearly so.
const SIZES: [usize; 4] = [100, 9_000, 70_000, 450_000];

/// Makes requests until the bytes have run out.
pub fn requests(bytes: impl IntoIterator<Item = u8>) -> Vec<u8> {
    let mut bytes = bytes.into_iter();
    let mut all = Vec::new();
    while let Some(()) = request(&mut bytes, &mut all) {}
    all
}

fn request(bytes: &mut impl Iterator<Item = u8>, all: &mut Vec<u8>) -> Option<()> {
    let mut next = |all: &mut Vec<u8>, fragments: &[&str]| {
        let byte = usize::from(bytes.next()?);
        all.extend_from_slice(fragments[byte % fragments.len()].as_bytes());
        Some(byte)
    };
    let line = next(all, LINES)?;
    for _ in 0..line / LINES.len() % 4 {
        if next(all, HEADERS)? >= 254 {
            let size = SIZES[next(all, &["x: "])? % SIZES.len()];
            all.extend(std::iter::repeat_n(b'v', size));
            all.extend_from_slice(b"\r\n");
        }
    }
    let end = next(all, ENDS)?;
    for _ in 0..end / ENDS.len() % 3 {
        if next(all, BODIES)? >= 254 {
            let size = SIZES[next(all, &["3;"])? % SIZES.len()];
            all.extend(std::iter::repeat_n(b'e', size));
            all.extend_from_slice(b"\r\nabc\r\n0\r\n\r\n");
        }
    }
    Some(())
}
