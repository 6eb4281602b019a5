//! The end of the server's side comes with the last response, however the connection ends. The clock stands
//! still: a server that first waits for the peer's end would wait for ever.

use std::time::Duration;

use crate::support::http::app::App;
use crate::support::http::server::{HELLO, nothing_left, serve};
use crate::support::server::{Case, in_all_cases, in_both_modes, no_time};
use axum::Router;
use axum::http::StatusCode;
use millpond_server::CloseReason;

in_all_cases!(paused: the_last_response_ends_the_stream, an_upgrade_that_is_not_taken);
in_all_cases!(single: refused_upgrades_end_the_stream);
in_both_modes!(paused: a_peer_that_has_gone_is_not_waited_for);

async fn the_last_response_ends_the_stream(case: Case) {
    let bad = "GET / HTTP/1.1\r\nbad header\r\n\r\n";
    let rows = [
        ("bad", bad.to_owned(), 0),
        ("bad, and more", bad.repeat(3), 0),
        ("bad behind a request", [HELLO, bad].concat(), 1),
        ("a preface behind a request", [HELLO, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"].concat(), 1),
        ("not HTTP", "\x16\x03\x01\x02".to_owned(), 0),
        (
            "the last one",
            "GET /hello HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".to_owned(),
            0,
        ),
        ("the last one, and more", "GET /hello HTTP/1.0\r\n\r\nmore".to_owned(), 0),
    ];
    for (name, request, replies) in rows {
        println!("{name}");
        let server = serve(case.timeless(), &App::default());
        let mut client = case.client(&server).await;
        client.send(request).await;
        for _ in 0..replies {
            assert_eq!(client.reply().await.text(), "200 hello", "{name}");
        }
        let rest = String::from_utf8(no_time(client.gone()).await).unwrap();
        // Hyper says nothing about a preface.
        let says = usize::from(!name.starts_with("a preface"));
        assert_eq!(rest.matches("HTTP/1.").count(), says, "{name}: {rest}");
        drop(client);
        nothing_left(&server).await;
    }
}

async fn an_upgrade_that_is_not_taken(case: Case) {
    let head = "GET /up HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: raw\r\n\r\n";
    let ignores = || async { (StatusCode::SWITCHING_PROTOCOLS, [("upgrade", "raw")]) };
    let app = Router::new().route("/up", axum::routing::get(ignores));
    for more in ["", "more"] {
        let server = case.timeless().serve(app.clone()).unwrap();
        let mut client = case.client(&server).await;
        client.send([head, more].concat()).await;
        assert_eq!(client.reply().await.status, 101);
        assert_eq!(no_time(client.gone()).await, b"");
        drop(client);
        nothing_left(&server).await;
    }
}

/// The response is whole, and neither a reset nor the lack of a closing alert tells the client that the rest is
/// lost.
async fn refused_upgrades_end_the_stream(case: Case) {
    const LARGE: usize = 300_000;
    let refuses = |closes: bool| {
        Router::new().fallback(move || async move {
            let header = if closes { "close" } else { "keep-alive" };
            (StatusCode::FORBIDDEN, [("connection", header)], "x".repeat(LARGE))
        })
    };
    let up = |to: &str, more: &str| {
        format!("GET /up HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: {to}\r\n{more}\r\n")
    };
    let unread = format!("content-length: {}\r\n", 2 * LARGE);
    let unread = up("h2c", &unread).replace("GET", "POST") + &"y".repeat(LARGE);
    let last = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let rows = [
        ("a WebSocket", up("websocket", ""), true, 1),
        ("h2c", up("h2c", "http2-settings: AAMAAABk\r\n"), true, 1),
        ("h2c of an upload", unread.clone(), true, 1),
        ("h2c of an upload, kept alive", unread, false, 1),
        ("CONNECT", "CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), true, 1),
        ("before the last request", up("raw", "") + last, false, 2),
        ("before a bad head", up("raw", "") + "bad\r\n\r\n", false, 1),
    ];
    for (name, request, closes, replies) in rows {
        println!("{name}");
        let server = case.http().serve(refuses(closes)).unwrap();
        let mut client = case.client(&server).await;
        client.send(request).await;
        for _ in 0..replies {
            let reply = client.reply().await;
            assert_eq!((reply.status, reply.body.len()), (403, LARGE), "{name}");
        }
        // Reading to the end fails otherwise.
        let rest = client.rest_text().await;
        assert_eq!(rest.is_empty(), !name.ends_with("a bad head"), "{name}: {rest}");
        client.finish().await;
        drop(client);
        nothing_left(&server).await;
    }
}

/// Its end stands behind more bytes than a turn reads. All have come, so the kernel reports nothing more.
async fn a_peer_that_has_gone_is_not_waited_for(case: Case) {
    let builder = case.timeless().read_budget_bytes(1).linger_timeout(Duration::from_secs(3600));
    let server = serve(builder, &App::default());
    let mut client = case.client(&server).await;
    assert_eq!(client.exchange(HELLO).await, "200 hello");
    client.send("GET / HTTP/1.1\r\nbad header\r\n\r\n".to_owned() + &"x".repeat(50_000)).await;
    client.finish().await;
    let status = nothing_left(&server).await;
    assert_eq!(status.closed_for(CloseReason::Codec), 1, "{status:?}");
}

/// The alert that ends a session follows the last response, however little room that leaves in the
/// kernel's buffer. Without the alert, reading fails.
#[cfg(feature = "rustls")]
mod full {
    use axum::body::Bytes;
    use axum::extract::Path;

    use super::*;
    use crate::support::server::{DEDICATED_TLS, EVENT_DRIVEN_TLS};
    use crate::support::{settle, single};

    #[test]
    fn a_full_socket_gets_the_alert() {
        single(async {
            let many = |Path(size): Path<usize>| async move { Bytes::from(vec![b'x'; size]) };
            let app = Router::new().route("/{size}", axum::routing::get(many));
            for case in [DEDICATED_TLS, EVENT_DRIVEN_TLS] {
                let server = case.smallest_http().serve(app.clone()).unwrap();
                // The buffer is full after 2,000 bytes, and every 4,000 from there on.
                for (size, last) in
                    (1..20_000).step_by(200).flat_map(|size| [(size, true), (size, false)])
                {
                    let head = format!("GET /{size} HTTP/1.1\r\nhost: a\r\n");
                    let mut client = case.narrow(&server).await;
                    match last {
                        true => client.send(format!("{head}connection: close\r\n\r\n")).await,
                        false => {
                            client.send(format!("{head}\r\n")).await;
                            settle().await;
                            client.finish().await;
                        }
                    }
                    settle().await;
                    let rest = client.rest_text().await;
                    assert!(rest.ends_with('x') && rest.len() > size, "{case:?}: {size}, {last}");
                }
                nothing_left(&server).await;
            }
        });
    }
}
