//! The deadlines of HTTP: each is met within the documented lag and with the right last response.
//! Handlers have no deadline.

use std::time::Duration;

use crate::support::http::app::App;
use crate::support::http::server::{HELLO, at_rest, get, nothing_left, post, serve};
use crate::support::server::{Case, Client, in_all_cases, no_time, unchanged};
use crate::support::*;
use axum::Router;
use axum::extract::Request;
use http_body_util::BodyExt;
use millpond_server::http::{Server, ServerBuilder};
use millpond_server::{CloseReason, Deadline};
use tokio::time::{Instant, sleep};

in_all_cases!(paused: first_byte, heads, heads_behind_a_cut_body, bodies, keep_alive, writes, a_handler_may_wait);
in_all_cases!(paused: heads_behind_a_late_one, heads_with_a_small_budget, bodies_behind_work);
#[cfg(feature = "rustls")]
crate::support::server::in_both_modes!(paused: handshake);

const SECOND: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(8);
/// The most that a deadline may be late: an eighth of the shortest deadline, at most a second, and a tick.
const LAG: Duration = Duration::from_secs(2);

/// How the server's last response begins.
const NONE: &str = "";
const TIMED_OUT: &str = "HTTP/1.1 408 Request Timeout\r\n";

/// A request whose body is dropped. The body is of unknown length, so the connection stays in hyper.
const CUT: &str = "POST /taste HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
    4\r\nbody\r\n0\r\n\r\n";

/// Runs one connection on a server of its own.
macro_rules! with_each {
    ($case:ident, $deadlines:expr, $connection:expr) => {
        let deadlines: fn(ServerBuilder) -> ServerBuilder = $deadlines;
        let server = serve(deadlines($case.timeless()), &App::default());
        $connection(&server, $case.client(&server).await).await;
        nothing_left(&server).await;
    };
}

/// Asserts that the server closes the connection after the limit, with this last response. Meanwhile the
/// client sends some bytes, one each second.
async fn ends(
    server: &Server,
    client: &mut Client,
    (deadline, words): (Deadline, &str),
    trickle: &[u8],
) {
    let start = Instant::now();
    eventually(|| server.status().open == 1).await;
    let mut trickle = trickle.iter();
    let mut said = Vec::new();
    let waited = loop {
        if let Some(byte) = trickle.next() {
            sleep(SECOND).await;
            // The server may have closed the connection. The bytes read so far then tell.
            let _ = client.try_send([*byte]).await;
            if client.is_silent().await {
                continue;
            }
        }
        let gone = within(20 * LIMIT, client.gone()).await;
        said.extend(gone.expect("it is closed some time"));
        break start.elapsed();
    };
    let said = String::from_utf8_lossy(&said);
    let right = if words.is_empty() { said.is_empty() } else { said.starts_with(words) };
    assert!(right, "{deadline:?}: {said:?}");
    assert_eq!(said.matches("HTTP/1.1").count(), usize::from(!words.is_empty()), "{said:?}");
    assert!(waited >= LIMIT && waited <= LIMIT + LAG + SECOND, "{deadline:?}: {waited:?}");
    let status = server.status();
    assert_eq!(
        (status.closed_for(CloseReason::Deadline(deadline)), status.closed, status.open),
        (1, 1, 0),
        "{status:?}"
    );
}

async fn first_byte(case: Case) {
    let server = serve(case.timeless().first_byte_timeout(LIMIT), &App::default());
    let mut client = case.client(&server).await;
    ends(&server, &mut client, (Deadline::FirstByte, NONE), b"").await;
    nothing_left(&server).await;
}

async fn heads(case: Case) {
    let large = format!("GET /hello HTTP/1.1\r\nhost: a\r\nx: {}", "y".repeat(5000));
    let small = "GET /hello HTTP/1.1\r\nhost: a\r\nx: ";
    let rows: [(&str, &str, &str, &[u8]); 9] = [
        ("new", "", small, b""),
        ("new, trickles", "", small, &[b'y'; 40]),
        ("new and large, trickles", "", &large, &[b'y'; 40]),
        ("preface", "", "PRI * HTTP/2.0", b""),
        ("preface, trickles", "", "PRI *", b" HTTP/2.0\r\n\r\nSM"),
        ("second, trickles", HELLO, small, &[b'y'; 40]),
        ("second and large, trickles", HELLO, &large, &[b'y'; 40]),
        ("pipelined, trickles", "", &[HELLO, small].concat(), &[b'y'; 40]),
        ("pipelined and large, trickles", "", &[HELLO, &large].concat(), &[b'y'; 40]),
    ];
    for (name, first, part, trickle) in rows {
        println!("{name}");
        with_each!(case, |it| it.header_read_timeout(LIMIT), async |server, mut client: Client| {
            if !first.is_empty() {
                assert_eq!(client.exchange(first).await, "200 hello", "{name}");
                sleep(10 * LIMIT).await;
            }
            client.send(part).await;
            if name.starts_with("pipelined") {
                assert_eq!(client.reply().await.text(), "200 hello", "{name}");
            }
            ends(server, &mut client, (Deadline::Frame, TIMED_OUT), trickle).await;
        });
    }
}

/// A connection with a dropped body has the same deadlines as other connections.
async fn heads_behind_a_cut_body(case: Case) {
    let part = "GET /hello HTTP/1.1\r\nhost: a\r\nx: ";
    with_each!(case, |it| it.header_read_timeout(LIMIT), async |server, mut client: Client| {
        assert_eq!(client.exchange(CUT).await, "200 some of the body");
        at_rest(server, 1, 1).await;
        sleep(10 * LIMIT).await;
        client.send(part).await;
        sleep(LIMIT / 2).await;
        assert_eq!(client.exchange("y\r\n\r\n").await, "200 hello");
        sleep(10 * LIMIT).await;
        assert_eq!(client.exchange(CUT).await, "200 some of the body");
        client.send(part).await;
        ends(server, &mut client, (Deadline::Frame, TIMED_OUT), &[b'y'; 40]).await;
    });
}

/// A head that comes together with the rest of the head before it has a deadline of its own.
async fn heads_behind_a_late_one(case: Case) {
    let (part, rest) = HELLO.split_at(10);
    let large = format!("GET /hello HTTP/1.1\r\nhost: a\r\nx: {}", "y".repeat(5000));
    with_each!(
        case,
        |it| it.header_read_timeout(LIMIT),
        async |server: &Server, mut client: Client| {
            client.send(part).await;
            for _ in 0..3 {
                unchanged(|| server.status().turns).await;
                sleep(LIMIT - SECOND).await;
                client.send([rest, &large].concat()).await;
                assert_eq!(client.reply().await.text(), "200 hello");
                unchanged(|| server.status().turns).await;
                sleep(LIMIT - SECOND).await;
                // The end of the large head, and the begin of the next one.
                client.send(["\r\n\r\n", part].concat()).await;
                assert_eq!(client.reply().await.text(), "200 hello");
            }
            client.send([rest, &large].concat()).await;
            assert_eq!(client.reply().await.text(), "200 hello");
            ends(server, &mut client, (Deadline::Frame, TIMED_OUT), b"").await;
        }
    );
}

/// A head has its deadline, also if each of its bytes spends the budget of a turn.
async fn heads_with_a_small_budget(case: Case) {
    let large = format!("GET /hello HTTP/1.1\r\nhost: a\r\nx: {}", "y".repeat(5000));
    let small: fn(ServerBuilder) -> ServerBuilder =
        |it| it.header_read_timeout(LIMIT).read_budget_bytes(1);
    with_each!(case, small, async |server: &Server, mut client: Client| {
        client.send(&large).await;
        ends(server, &mut client, (Deadline::Frame, TIMED_OUT), &[b'y'; 40]).await;
    });
    // Behind a request that keeps the connection in hyper.
    with_each!(case, small, async |server: &Server, mut client: Client| {
        assert_eq!(client.exchange(CUT).await, "200 some of the body");
        client.send("GET /hello HTTP/1.1\r\nhost: a\r\nx: ").await;
        ends(server, &mut client, (Deadline::Frame, TIMED_OUT), &[b'y'; 40]).await;
    });
}

/// The deadline of a body counts from when its handler waits.
async fn bodies_behind_work(case: Case) {
    let gate = Gate::new();
    let works = gate.clone();
    let read = move |request: Request| {
        let (mut body, gate) = (request.into_body(), works.clone());
        async move {
            while let Some(Ok(_)) = body.frame().await {
                gate.wait().await;
            }
            "read"
        }
    };
    let builder = case.timeless().body_timeout(LIMIT);
    let server = builder.serve(Router::new().fallback(read)).unwrap();
    let mut client = case.client(&server).await;
    client.send(post("/", 3)).await;
    for work in [LIMIT - SECOND, 10 * LIMIT, SECOND] {
        unchanged(|| server.status().turns).await;
        sleep(LIMIT - SECOND).await;
        assert!(client.is_silent().await, "{case:?}: {work:?}");
        client.send("x").await;
        unchanged(|| server.status().turns).await;
        sleep(work).await;
        gate.pass(1);
    }
    assert_eq!(client.reply().await.text(), "200 read");
    drop(client);
    nothing_left(&server).await;
}

async fn bodies(case: Case) {
    // No response has begun; or a response has begun; or the response is complete and the body is still
    // being read.
    let rows = [
        ("/digest", None, TIMED_OUT),
        ("/echo", Some("HTTP/1.1 200 OK"), NONE),
        ("/keep", Some("HTTP/1.1 200 OK"), NONE),
    ];
    for (path, status, words) in rows {
        println!("{path}");
        with_each!(case, |it| it.body_timeout(LIMIT), async |server, mut client: Client| {
            client.send(post(path, 100) + "first").await;
            if let Some(status) = status {
                assert_eq!(no_time(client.line()).await, status);
                while !no_time(client.line()).await.is_empty() {}
                client.read_exact(if path == "/echo" { 5 } else { 17 }).await;
            }
            // Each byte restarts the deadline.
            for _ in 0..5 {
                sleep(LIMIT - SECOND).await;
                client.send("x").await;
                if path == "/echo" {
                    client.read_exact(1).await;
                }
                assert!(client.is_silent().await, "{path}");
            }
            ends(server, &mut client, (Deadline::Body, words), b"").await;
        });
    }
    with_each!(case, |it| it.body_timeout(LIMIT), async |_, mut client: Client| {
        client.send(post("/digest", 10)).await;
        for _ in 0..10 {
            sleep(LIMIT - SECOND).await;
            client.send("x").await;
        }
        let reply = client.reply().await.text();
        assert!(reply.starts_with("200 10 bytes"), "{reply}");
        // The deadline ends with the body.
        sleep(10 * LIMIT).await;
        assert_eq!(client.exchange(HELLO).await, "200 hello");
    });
}

async fn keep_alive(case: Case) {
    with_each!(case, |it| it.keep_alive_timeout(LIMIT), async |server, mut client: Client| {
        for _ in 0..5 {
            assert_eq!(client.exchange(HELLO).await, "200 hello");
            sleep(LIMIT - SECOND).await;
        }
        // A body that is dropped unread leaves the deadline as it is.
        let reply = client.exchange(post("/early", 4) + "body").await;
        assert_eq!(reply, "200 before the body");
        sleep(LIMIT - SECOND).await;
        assert_eq!(client.exchange(HELLO).await, "200 hello");
        ends(server, &mut client, (Deadline::Idle, NONE), b"").await;
    });
}

async fn writes(case: Case) {
    const LARGE: usize = 32 << 20;
    let app = Router::new().fallback(|| async { vec![b'x'; LARGE] });
    let server = case.narrow_timeless().write_timeout(LIMIT).serve(app.clone()).unwrap();
    let mut client = case.narrow(&server).await;
    client.send(get("/")).await;
    eventually(|| server.status().bytes_out > 0).await;
    // Each part that the peer takes restarts the deadline, if the kernel reports it.
    let mut taken = 0;
    for _ in 0..4 {
        unchanged(|| server.status().bytes_out).await;
        sleep(LIMIT - SECOND).await;
        let before = server.status().bytes_out;
        while server.status().bytes_out == before {
            taken += no_time(client.read_some(64 << 10)).await.unwrap();
            settle().await;
        }
        assert_eq!(server.status().open, 1);
    }
    unchanged(|| server.status().bytes_out).await;
    let begin = Instant::now();
    let (mut start, mut sent) = (begin, server.status().bytes_out);
    while server.status().open > 0 && begin.elapsed() < 20 * LIMIT {
        sleep(SECOND / 10).await;
        // Asked once more before the close, the kernel may have a little room left.
        if server.status().bytes_out > sent {
            (start, sent) = (Instant::now(), server.status().bytes_out);
        }
    }
    let waited = start.elapsed();
    // What the kernel takes of a TLS session's own bytes shows in no count. The deadline then begins
    // anew, with a lag of its own.
    let unseen = if case.tls { LIMIT + LAG } else { Duration::ZERO };
    assert!(waited >= LIMIT - SECOND && waited <= LIMIT + LAG + unseen, "{waited:?}");
    let status = nothing_left(&server).await;
    assert_eq!(status.closed_for(CloseReason::Deadline(Deadline::Write)), 1, "{status:?}");
    taken += no_time(client.gone()).await.len();
    assert!(taken < LARGE, "{taken}");
}

async fn a_handler_may_wait(case: Case) {
    let all: fn(ServerBuilder) -> ServerBuilder = |builder| {
        let builder = builder.first_byte_timeout(LIMIT).header_read_timeout(LIMIT);
        let builder = builder.handshake_timeout(LIMIT).keep_alive_timeout(LIMIT);
        builder.body_timeout(LIMIT).write_timeout(LIMIT)
    };
    let app = App::default();
    let server = serve(all(case.timeless()), &app);
    let (mut client, mut stream) = (case.client(&server).await, case.client(&server).await);
    for _ in 0..2 {
        assert_eq!(client.exchange(HELLO).await, "200 hello");
    }
    // With a body that the handler has not polled yet.
    client.send(post("/held/a", 4) + "bo").await;
    stream.send(get("/sse/b")).await;
    sleep(100 * LIMIT).await;
    app.gate("a").pass(1);
    assert_eq!(client.reply().await.text(), "200 let go");
    for _ in 0..3 {
        app.gate("b").pass(1);
        sleep(100 * LIMIT).await;
    }
    assert_eq!(stream.reply().await.body.len(), 27);
}

#[cfg(feature = "rustls")]
async fn handshake(case: Case) {
    let tls = Case { tls: true, ..case };
    let server = serve(tls.timeless().handshake_timeout(LIMIT), &App::default());
    let hello = crate::support::server::tls::hello();
    for half in [&hello[..10], &hello] {
        let mut client = case.client(&server).await;
        client.send(half).await;
        eventually(|| server.status().turns > 0).await;
        settle().await;
        if half.len() == hello.len() {
            assert!(no_time(client.read_some(10_000)).await.unwrap() > 0);
        }
        let start = Instant::now();
        within(20 * LIMIT, client.gone()).await.unwrap();
        let waited = start.elapsed();
        assert!(waited >= LIMIT - SECOND && waited <= LIMIT + LAG, "{waited:?}");
    }
    let status = nothing_left(&server).await;
    assert_eq!(status.closed_for(CloseReason::Deadline(Deadline::Handshake)), 2, "{status:?}");
}
