//! A load for the app, for a limited time: it has more clients than the pool has slots.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

/// Calls the routes in turn, from twice as many clients as the pool has slots.
pub async fn run(address: SocketAddr, slots: usize, time: Duration) {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let end = Instant::now() + time;
    let clients: Vec<_> = (0..2 * slots)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                let routes = ["now/5", "soon/5", "now/20", "admin", "soon/50", "stream/3"];
                for route in routes.iter().cycle().skip(n) {
                    if Instant::now() > end {
                        break;
                    }
                    let uri = format!("http://{address}/{route}").parse().expect("a valid address");
                    match client.get(uri).await {
                        Ok(response) => drop(response.into_body().collect().await),
                        Err(error) => eprintln!("{error}"),
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("a client panicked");
    }
}
