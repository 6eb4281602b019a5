//! A pool as hyper's executor: the pool counts what hyper spawns, and the submission never waits.

use std::convert::Infallible;

use crate::support::*;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use millpond::Pool;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn it_takes_all_and_counts_it() {
    single(async {
        let pool = Pool::new(1);
        let gate = Gate::new();
        for _ in 0..3 {
            pool.execute(gate.wait());
        }
        let status = law(&pool);
        assert_eq!((status.running, status.waiting, status.submitted), (1, 2, 3));
        gate.open();
        whole(&pool).await;
        pool.close();
        pool.execute(async { unreachable!("dropped") });
        assert_eq!(quiet(&pool).completed, 4);
    });
}

/// Both ends of an HTTP/2 connection and their streams run on pools.
#[test]
fn http2_streams_run_on_it() {
    multi(2, async {
        let (connections, server_streams, client_pool) =
            (Pool::new(4), Pool::new(64), Pool::new(4));
        let (near, far) = tokio::io::duplex(64 * 1024);
        let builder = hyper::server::conn::http2::Builder::new(server_streams.clone());
        let echo = service_fn(|request: Request<hyper::body::Incoming>| async move {
            tokio::task::yield_now().await;
            let path = request.uri().path().to_owned();
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(path))))
        });
        let server = builder.serve_connection(TokioIo::new(far), echo);
        let server = connections.schedule(server).await.unwrap();
        let (send, connection) =
            hyper::client::conn::http2::handshake(client_pool.clone(), TokioIo::new(near))
                .await
                .unwrap();
        let client = connections.schedule(connection).await.unwrap();
        let requests: Vec<_> = (0..50)
            .map(|n| {
                let mut send = send.clone();
                tokio::spawn(async move {
                    let request =
                        Request::get(format!("http://pool/{n}")).body(Empty::<Bytes>::new());
                    let response = send.send_request(request.unwrap()).await.unwrap();
                    let body = response.into_body().collect().await.unwrap().to_bytes();
                    assert_eq!(body, format!("/{n}"));
                })
            })
            .collect();
        for request in requests {
            request.await.unwrap();
        }
        assert_eq!(law(&server_streams).submitted, 50);
        drop(send);
        soon(client).await.unwrap().unwrap();
        soon(server).await.unwrap().unwrap();
        soon(client_pool.wait_idle()).await;
        whole(&server_streams).await;
    });
}

/// The upgrade of a connection on a pool gets the bytes after the handshake.
#[test]
fn upgrades_run_on_it() {
    multi(2, async {
        let pool = Pool::new(4);
        let (near, far) = tokio::io::duplex(1024);
        let upgraders = pool.clone();
        let service = service_fn(move |mut request: Request<hyper::body::Incoming>| {
            let upgrade = hyper::upgrade::on(&mut request);
            upgraders.execute(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                let mut word = [0; 4];
                stream.read_exact(&mut word).await.unwrap();
                stream.write_all(&word).await.unwrap();
            });
            let response = Response::builder()
                .status(101)
                .header("connection", "upgrade")
                .header("upgrade", "echo")
                .body(Empty::<Bytes>::new());
            async { response }
        });
        let server = hyper::server::conn::http1::Builder::new();
        pool.execute(server.serve_connection(TokioIo::new(far), service).with_upgrades());

        let (mut send, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(near)).await.unwrap();
        pool.execute(connection.with_upgrades());
        let request = Request::get("/").header("connection", "upgrade").header("upgrade", "echo");
        let response =
            send.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 101);
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        stream.write_all(b"pond").await.unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"pond");
        drop((stream, send));
        soon(pool.wait_idle()).await;
        whole(&pool).await;
    });
}
