//! A tonic server on a pool: full is `RESOURCE_EXHAUSTED`, a panic is `INTERNAL`.
//!
//! ```text
//! cargo run --release --example tonic_layer
//! ```
//!
//! The program serves one method and calls it through tonic's client. It makes more calls at once than
//! the pool has slots, and prints the status codes.

mod greeter;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::time::Duration;

use greeter::{Greeter, GreeterClient, Hello};
use hyper::http;
use millpond::Pool;
use millpond::layer::{CallError, PoolLayer, grpc_options};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
use tonic::{Code, Status};

const SLOTS: usize = 3;
const CALLS: usize = 8;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::builder().size(SLOTS).name("rpc").build()?;
    // A call that waits or runs ends at the deadline of its client.
    let layer = PoolLayer::try_schedule(&pool).on_error(respond).options(grpc_options::<Body>);

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = Server::builder().layer(layer).add_service(Greeter);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));

    // One HTTP/2 connection carries all calls.
    let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
    let calls: Vec<_> = (0..CALLS)
        .map(|n| {
            let mut client = GreeterClient::new(channel.clone());
            tokio::spawn(async move { client.greet(format!("caller {n}"), 300).await })
        })
        .collect();
    let mut codes = BTreeMap::<&str, usize>::new();
    for call in calls {
        let code = match call.await? {
            Ok(_) => "OK",
            Err(status) if status.code() == Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Err(status) => return Err(status.into()),
        };
        *codes.entry(code).or_default() += 1;
    }
    println!("{CALLS} calls at once on {SLOTS} slots: {codes:?}");

    let mut client = GreeterClient::new(channel);
    let broken = client.greet("panic".into(), 0).await.map(|Hello { text }| text);
    println!("a handler that panics: {:?}", broken.map_err(|status| status.code()));
    let greeting = client.greet("again".into(), 0).await?;
    println!("the connection lives: {:?}", greeting.text);

    let report = pool.shutdown(Duration::from_secs(5)).await;
    assert!(report.is_clean(), "{report:?}");
    Ok(())
}

fn respond(error: CallError<Infallible>, _: Option<http::Request<Body>>) -> http::Response<Body> {
    match error {
        CallError::Expired => Status::deadline_exceeded("out of time").into_http(),
        error if error.is_refusal() => {
            Status::resource_exhausted("all slots are taken").into_http()
        }
        _ => Status::internal("something broke").into_http(),
    }
}
