//! Connections that break at any moment leave nothing behind.

use std::convert::Infallible;

use crate::support::server::{Case, emptied, in_all_cases};
use crate::support::*;
use millpond_server::CloseReason;
use tokio_util::codec::LinesCodec;

in_all_cases!(single: at_every_byte_of_a_request, in_the_middle_of_a_response, while_being_served);

const REQUEST: &str = "the first\nthe second\nthe third";

async fn at_every_byte_of_a_request(case: Case) {
    let server = case.echo();
    for cut in 0..=REQUEST.len() {
        for seen in [false, true] {
            let mut client = case.connect(&server).await;
            client.send(&REQUEST[..cut]).await;
            if seen {
                let before = server.status().bytes_in;
                settle().await;
                assert!(cut == 0 || server.status().bytes_in >= before, "{case:?}");
            }
            client.reset();
        }
        // Others are served as ever.
        let mut other = case.connect(&server).await;
        other.ask("still there").await;
        drop(other);
    }
    let status = emptied(&server).await;
    let count = 3 * (REQUEST.len() as u64 + 1);
    assert_eq!((status.accepted, status.closed), (count, count), "{case:?}");
    let ended = status.closed_for(CloseReason::Io) + status.closed_for(CloseReason::Peer);
    assert_eq!(ended + status.closed_for(CloseReason::Tls), count, "{case:?}: {status:?}");
    assert!(status.closed_for(CloseReason::Io) > 0, "{case:?}: {status:?}");
}

async fn in_the_middle_of_a_response(case: Case) {
    const LARGE: usize = 8 * 1024 * 1024;
    let large = |_: String| async { Ok::<_, Infallible>(Some("x".repeat(LARGE))) };
    let server = case
        .narrow_builder()
        .send_buffer_total(1 << 30)
        .codec(LinesCodec::new())
        .serve(server::service_fn(large))
        .unwrap();
    for taken in [0, 1, 4096, 1024 * 1024, LARGE / 2] {
        let mut client = case.connect_narrow(&server).await;
        client.send("more\n").await;
        client.read_exact(taken).await;
        eventually(|| server.status().send_buffered > 0).await;
        client.reset();
        emptied(&server).await;
    }
    let status = server.status();
    assert_eq!(status.closed_for(CloseReason::Io), 5, "{case:?}: {status:?}");
}

async fn while_being_served(case: Case) {
    let (gate, gauge) = (Gate::new(), Gauge::default());
    let service = {
        let (gate, gauge) = (gate.clone(), gauge.clone());
        server::service_fn(move |line: String| {
            let (gate, inside) = (gate.clone(), gauge.enter());
            async move {
                gate.wait().await;
                drop(inside);
                Ok::<_, Infallible>(Some(line))
            }
        })
    };
    let server = case.builder().codec(LinesCodec::new()).serve(service).unwrap();
    for n in 0..10 {
        let mut client = case.connect(&server).await;
        client.send(format!("{n}\n")).await;
        eventually(|| gauge.now() == n + 1).await;
        client.reset();
    }
    // The calls that have begun finish, although their peers are gone.
    gate.open();
    let status = emptied(&server).await;
    assert_eq!((gauge.now(), gauge.total(), status.closed), (0, 10, 10), "{case:?}");
}
