//! What only TLS has: handshakes that never end, and peers that speak something else.

use std::time::Duration;

use crate::support;
use crate::support::chat::Chat;
use crate::support::server::{Case, DEDICATED_TLS, EVENT_DRIVEN_TLS, echo, emptied, parked, tls};
use crate::support::*;
use millpond_server::{CloseReason, Deadline, Server, ServerBuilder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

const LIMIT: Duration = Duration::from_secs(8);
const LAG: Duration = Duration::from_secs(2);
const CASES: [Case; 2] = [DEDICATED_TLS, EVENT_DRIVEN_TLS];

async fn raw(server: &Server) -> TcpStream {
    TcpStream::connect(server.local_addrs()[0]).await.unwrap()
}

/// Says `bytes` and no more; tells how long the server bears it.
async fn stops_after(server: &Server, bytes: &[u8]) -> Duration {
    let mut client = raw(server).await;
    client.write_all(bytes).await.unwrap();
    let start = Instant::now();
    let mut flight = Vec::new();
    let _ = client.read_to_end(&mut flight).await;
    start.elapsed()
}

#[test]
fn a_client_that_says_nothing() {
    paused(async {
        for case in CASES {
            let server = echo(case.no_deadlines().first_byte_timeout(LIMIT));
            let waited = stops_after(&server, b"").await;
            assert!(waited >= LIMIT && waited <= LIMIT + LAG, "{case:?}: {waited:?}");
            let status = emptied(&server).await;
            assert_eq!(
                status.closed_for(CloseReason::Deadline(Deadline::FirstByte)),
                1,
                "{case:?}: {status:?}"
            );
        }
    });
}

#[test]
fn a_handshake_that_stops() {
    paused(async {
        let hello = tls::hello();
        for case in CASES {
            for cut in [1, 5, hello.len() / 2, hello.len() - 1, hello.len()] {
                let server = echo(case.no_deadlines().handshake_timeout(LIMIT));
                let waited = stops_after(&server, &hello[..cut]).await;
                let at = format!("{case:?}, {cut}: {waited:?}");
                assert!(waited >= LIMIT && waited <= LIMIT + LAG, "{at}");
                let status = emptied(&server).await;
                assert_eq!(
                    status.closed_for(CloseReason::Deadline(Deadline::Handshake)),
                    1,
                    "{at}: {status:?}"
                );
                // Nothing turned in circles meanwhile.
                assert!(status.turns < 10, "{at}: {status:?}");
            }
        }
    });
}

#[test]
fn a_handshake_that_trickles_counts_from_its_first_byte() {
    paused(async {
        let hello = tls::hello();
        for case in CASES {
            let server =
                echo(case.no_deadlines().handshake_timeout(LIMIT).first_byte_timeout(LIMIT));
            let mut client = raw(&server).await;
            let start = Instant::now();
            for byte in &hello {
                let written = client.write_all(&[*byte]).await;
                sleep(Duration::from_secs(1)).await;
                if written.is_err() || server.status().open == 0 {
                    break;
                }
            }
            let waited = start.elapsed();
            assert!(waited >= LIMIT, "{case:?}: {waited:?}");
            assert!(waited <= LIMIT + LAG + Duration::from_secs(1), "{case:?}: {waited:?}");
            let status = emptied(&server).await;
            assert_eq!(
                status.closed_for(CloseReason::Deadline(Deadline::Handshake)),
                1,
                "{case:?}: {status:?}"
            );
        }
    });
}

#[test]
fn no_deadline_for_the_handshake() {
    paused(async {
        let hello = tls::hello();
        for case in CASES {
            let limits = |builder: ServerBuilder| builder.frame_timeout(LIMIT).idle_timeout(LIMIT);
            let server = echo(limits(case.no_deadlines()).first_byte_timeout(LIMIT));
            let mut client = raw(&server).await;
            client.write_all(&hello[..hello.len() / 2]).await.unwrap();
            sleep(100 * LIMIT).await;
            assert_eq!(server.status().open, 1, "{case:?}: {:?}", server.status());
            client.write_all(&hello[hello.len() / 2..]).await.unwrap();
            // The server's answer: a record of the handshake.
            assert_eq!(client.read_u8().await.unwrap(), 22, "{case:?}");
        }
    });
}

/// The end of the handshake is not the first byte.
#[test]
fn first_byte_after_the_handshake() {
    paused(async {
        for case in CASES {
            let limits = case.no_deadlines().first_byte_timeout(LIMIT).handshake_timeout(LIMIT);
            let server = echo(limits);
            let tcp = raw(&server).await;
            sleep(LIMIT - Duration::from_secs(1)).await;
            let mut client = case.secure(tcp).await.unwrap();
            parked(&server, 1).await;
            let start = Instant::now();
            assert_eq!(client.gone().await, b"");
            let waited = start.elapsed();
            assert!(waited >= LIMIT && waited <= LIMIT + LAG, "{case:?}: {waited:?}");
            let status = emptied(&server).await;
            assert_eq!(
                status.closed_for(CloseReason::Deadline(Deadline::FirstByte)),
                1,
                "{case:?}: {status:?}"
            );
        }
    });
}

#[test]
fn what_is_not_tls_is_told_so() {
    single(async {
        for case in CASES {
            let server = case.echo();
            let mut good = case.connect(&server).await;
            for said in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 100], &[0x16, 3, 1, 0xff, 0xff]] {
                let mut client = raw(&server).await;
                client.write_all(said).await.unwrap();
                let mut alert = Vec::new();
                let _ = client.read_to_end(&mut alert).await;
                assert_eq!(alert.first(), Some(&21), "{case:?}: {alert:?}");
            }
            // Gone in the middle of the handshake.
            let mut client = raw(&server).await;
            client.write_all(&tls::hello()).await.unwrap();
            drop(client);
            support::server::closed_for(&server, CloseReason::Tls, 4).await;
            good.ask("still there").await;
            drop(good);
            let status = emptied(&server).await;
            assert_eq!((status.accepted, status.closed), (5, 5), "{case:?}");
        }
    });
}

/// A stream that is cut off, without the alert that says so, has told what it had to tell.
#[test]
fn a_session_that_is_cut_off() {
    single(async {
        for case in CASES {
            let server = case.echo();
            let mut client = case.connect(&server).await;
            client.send("whole\nhalf").await;
            assert_eq!(client.line().await, "whole");
            socket2::SockRef::from(client.tcp()).shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(client.line().await, "half", "{case:?}");
            assert_eq!(client.rest().await, b"", "{case:?}");
            emptied(&server).await;
        }
    });
}

/// A plain response would look like a broken handshake to a client, so there is none.
#[test]
fn no_overload_response() {
    single(async {
        for case in CASES {
            let server = echo(case.builder().max_connections(1).overload_response("busy"));
            let mut inside = case.connect(&server).await;
            inside.ask("let me in").await;
            let mut client = raw(&server).await;
            let mut received = Vec::new();
            let _ = client.read_to_end(&mut received).await;
            assert_eq!(received, b"", "{case:?}");
            inside.ask("still there").await;
            drop(inside);
            let status = emptied(&server).await;
            assert_eq!((status.refused_full, status.closed), (1, 1), "{case:?}: {status:?}");
        }
    });
}

/// The alert that ends a session follows the last frame, however little room that leaves in the kernel's
/// buffer. Without the alert, reading fails, since an attacker may have cut the stream.
#[test]
fn a_full_socket_gets_the_alert() {
    single(async {
        for case in CASES {
            let chat = Chat::new();
            let server = chat.serve(case.smallest_builder());
            // The buffer is full after 2,000 bytes, and every 4,000 from there on.
            for (opened, size) in (0..20_000).step_by(200).enumerate() {
                let mut client = case.connect_narrow(&server).await;
                let peer = chat.came(opened + 1).await.pop().unwrap();
                peer.try_send("x".repeat(size)).unwrap();
                peer.close();
                settle().await;
                assert_eq!(client.rest().await.len(), size + 1, "{case:?}: {size}");
            }
            emptied(&server).await;
        }
    });
}
