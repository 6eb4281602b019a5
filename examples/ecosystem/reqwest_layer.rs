//! A reqwest client behind the layer: at most two requests of this program are under way at once.
//!
//! `reqwest::Client` is a tower service, so `PoolLayer` wraps it as it is. The bound is the pool's:
//! several clients and other jobs may share it.
//!
//! ```text
//! cargo run --release --example reqwest_layer
//! ```

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use millpond::Pool;
use millpond::layer::PoolLayer;
use reqwest::{Client, Method, Request};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower::{Layer, ServiceExt};

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let most = Arc::new(AtomicUsize::new(0));
    let address = slow_server(most.clone()).await?;

    let pool = Pool::new(2);
    let client = PoolLayer::schedule(&pool).layer(Client::new());
    let mut calls = JoinSet::new();
    for _ in 0..10 {
        let (client, url) = (client.clone(), format!("http://{address}/").parse()?);
        calls.spawn(async move {
            let response = client.oneshot(Request::new(Method::GET, url)).await?;
            Ok::<_, Error>(response.status())
        });
    }
    let mut answered = 0;
    while let Some(call) = calls.join_next().await {
        answered += usize::from(call??.is_success());
    }
    println!("{answered} requests answered, at most {} at once", most.load(SeqCst));
    Ok(())
}

/// Answers after 20 ms, and notes how many requests it had at once.
async fn slow_server(most: Arc<AtomicUsize>) -> std::io::Result<std::net::SocketAddr> {
    let now = Arc::new(AtomicUsize::new(0));
    let handler = move || {
        let (now, most) = (now.clone(), most.clone());
        async move {
            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            tokio::time::sleep(Duration::from_millis(20)).await;
            now.fetch_sub(1, SeqCst);
            "done"
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let app = Router::new().route("/", get(handler));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}
