//! tonic and axum on one port, behind one layer on one pool.
//!
//! A tonic service becomes an axum router; after that there is one router, one listener and one
//! bound for both.
//!
//! ```text
//! cargo run --release --example tonic_and_axum
//! ```

#[path = "../tonic_layer/greeter.rs"]
mod greeter;

use std::convert::Infallible;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use greeter::{Greeter, GreeterClient};
use millpond::Pool;
use millpond::layer::{CallError, PoolLayer};
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::transport::Channel;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let pool = Pool::new(8);
    let layer = PoolLayer::try_schedule(&pool).on_error(respond);
    let grpc = Routes::new(Greeter).prepare().into_axum_router();
    let app = grpc.route("/hello", get(|| async { "hello over HTTP" })).layer(layer);

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app).await });

    let text = reqwest::get(format!("http://{address}/hello")).await?.text().await?;
    println!("{text}");
    let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
    let greeting = GreeterClient::new(channel).greet("gRPC".into(), 0).await?;
    println!("{}", greeting.text);
    println!("{} calls on the pool", pool.status().completed);
    Ok(())
}

fn respond(error: CallError<Infallible>, _: Option<Request>) -> Response {
    match error.is_refusal() {
        true => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        false => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
