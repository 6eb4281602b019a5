//! Posts whose bodies other threads drop unread, at random times: what a body holds is never served as a
//! request. `MILLPOND_SOAK` is the number of posts, in each mode.

use std::convert::Infallible;
use std::env;
use std::future::ready;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};

use crate::support::http::LIMIT;
use crate::support::server::{Case, Client, DEDICATED, EVENT_DRIVEN};
use crate::support::{multi_for, soon};
use axum::body::Body;
use axum::http::{Request, Response};
use millpond_server::http::{RequestBody, Server};

const CONNECTIONS: usize = 8;
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";

fn posts() -> usize {
    let text = env::var("MILLPOND_SOAK");
    text.map_or(2_000, |text| text.parse().expect("MILLPOND_SOAK is a number"))
}

/// A generator of numbers that needs no crate.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

/// Starts threads that drop what they get, each a moment later.
fn droppers() -> impl Fn(RequestBody) + Clone + Send + Sync + 'static {
    let senders: Vec<_> = (1..=3)
        .map(|seed| {
            let (sender, bodies) = mpsc::channel::<RequestBody>();
            std::thread::spawn(move || {
                let mut numbers = Numbers(seed);
                for body in bodies {
                    (0..numbers.below(3_000)).for_each(|_| std::hint::spin_loop());
                    drop(body);
                }
            });
            sender
        })
        .collect();
    let next = Arc::new(AtomicUsize::new(0));
    move |body| {
        let _ = senders[next.fetch_add(1, SeqCst) % senders.len()].send(body);
    }
}

/// Sends one post in pieces. Its body has requests in it. Returns whether the connection goes on.
async fn post(client: &mut Client, numbers: &mut Numbers) -> bool {
    let body = SMUGGLED.repeat(1 + numbers.below(4) as usize);
    let request = match numbers.below(3) {
        0 => {
            let (first, rest) = body.split_at(numbers.below(body.len() as u64 - 1) as usize + 1);
            let lengths = (first.len(), rest.len());
            format!(
                "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n\
                 {:x}\r\n{rest}\r\n0\r\n\r\n",
                lengths.0,
                lengths.1.max(1)
            )
        }
        _ => format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len()),
    };
    let cut = match numbers.below(2) {
        0 => request.len(),
        _ => 1 + numbers.below(request.len() as u64 - 1) as usize,
    };
    let (first, rest) = request.split_at(cut);
    let sent = client.try_send(first).await.is_ok();
    (0..numbers.below(2_000)).for_each(|_| std::hint::spin_loop());
    let sent = sent && (rest.is_empty() || client.try_send(rest).await.is_ok());
    match client.try_line().await {
        Ok(line) if line.starts_with("HTTP/1.1 200") => {}
        Ok(line) if line.is_empty() => return false,
        Ok(line) => panic!("{line}"),
        Err(_) => return false,
    }
    loop {
        match client.try_line().await {
            Ok(line) if line == "\r\n" => return sent,
            Ok(line) if !line.is_empty() => {}
            _ => return false,
        }
    }
}

async fn run(case: Case) {
    let (posts, drops) = (posts() / CONNECTIONS, droppers());
    let served = Arc::new(AtomicUsize::new(0));
    let counts = served.clone();
    let service = tower::service_fn(move |request: Request<RequestBody>| {
        assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/"));
        counts.fetch_add(1, SeqCst);
        drops(request.into_body());
        ready(Ok::<_, Infallible>(Response::new(Body::empty())))
    });
    let server = case.http().max_connections_per_ip(None).serve(service).unwrap();
    let server: Arc<Server> = Arc::new(server);
    let clients: Vec<_> = (1..=CONNECTIONS as u64)
        .map(|seed| {
            let server = server.clone();
            tokio::spawn(async move {
                let mut numbers = Numbers(seed * 0x9e37_79b9);
                let mut client = case.client(&server).await;
                for _ in 0..posts {
                    if !soon(post(&mut client, &mut numbers)).await {
                        client = case.client(&server).await;
                    }
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let closed = server.status().closed_for(millpond_server::CloseReason::Panicked);
    assert_eq!(closed, 0, "{case:?}: a body was served");
    assert!(served.load(SeqCst) <= posts * CONNECTIONS);
}

#[test]
fn bodies_dropped_by_other_threads() {
    multi_for(LIMIT, 2, async {
        run(EVENT_DRIVEN).await;
        run(DEDICATED).await;
    });
}
