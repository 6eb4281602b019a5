//! smoke
mod support;
use millpond::server::{Mode, Server};
use std::convert::Infallible;
use std::time::Duration;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::codec::LinesCodec;

async fn run(mode: Mode) {
    let server = Server::builder()
        .listen("127.0.0.1:0")
        .mode(mode)
        .codec(LinesCodec::new())
        .serve(tower::service_fn(|line: String| async move { Ok::<_, Infallible>(Some(line)) }))
        .unwrap();
    let mut client = tokio::net::TcpStream::connect(server.local_addrs()[0]).await.unwrap();
    for n in 0..1000 {
        let text = format!("hello {n}\n");
        client.write_all(text.as_bytes()).await.unwrap();
        let mut buf = vec![0; text.len()];
        client.read_exact(&mut buf).await.unwrap();
        assert_eq!(buf, text.as_bytes());
    }
    println!("{:?}", server.status());
    let report = server.shutdown(Duration::from_secs(5)).await;
    println!("{report:?} {:?}", server.status());
    assert_eq!(client.read(&mut [0; 10]).await.unwrap(), 0);
}

#[test]
fn event() {
    single(run(Mode::EventDriven))
}
#[test]
fn dedicated() {
    single(run(Mode::Dedicated))
}
#[test]
fn event2() {
    multi(2, run(Mode::EventDriven))
}
#[test]
fn dedicated2() {
    multi(2, run(Mode::Dedicated))
}
