//! Connections that user code owns after an upgrade: no byte and no wake-up is lost, and a drop gives
//! everything back.

use std::future::Future;
use std::io;

use crate::support::http::app::{App, echoes};
use crate::support::http::server::{HELLO, at_rest, nothing_left};
use crate::support::server::{Case, Client, in_all_cases};
use crate::support::*;
use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use millpond_server::http::Server;
use tokio::io::{AsyncReadExt, AsyncWriteExt, split};
use tokio::sync::mpsc;

in_all_cases!(single: echo, half_open, dropped_by_its_owner);
in_all_cases!(double_for_long: halves_in_two_tasks);

const UPGRADE: &str = "GET /up HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: raw\r\n";
/// A header that has the service wait before it answers.
const LATE: &str = "late: yes\r\n";

/// Serves the app and its upgraded connections.
fn router<F>(serve: fn(TokioIo<Upgraded>) -> F) -> Router
where
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let up = move |mut request: Request| async move {
        if request.headers().contains_key("late") {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        let on = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let _ = serve(TokioIo::new(on.await.unwrap())).await;
        });
        let headers = [("connection", "upgrade"), ("upgrade", "raw")];
        let response: Response = (StatusCode::SWITCHING_PROTOCOLS, headers).into_response();
        response
    };
    let router = Router::new().route("/up", axum::routing::get(up));
    router.fallback_service(App::default().router())
}

/// Upgrades a connection that was parked between some requests. `more` follows the request at once.
async fn upgraded(case: Case, server: &Server, head: &str, more: &str) -> Client {
    let mut client = case.client(server).await;
    for _ in 0..3 {
        assert_eq!(client.exchange(HELLO).await, "200 hello");
        eventually(|| server.status().parked == 1).await;
    }
    client.send([UPGRADE, head, "\r\n", more].concat()).await;
    assert_eq!(client.reply().await.status, 101);
    client
}

async fn echo(case: Case) {
    let server = case.http().serve(router(echoes)).unwrap();
    let much = "much more ".repeat(10_000);
    for (head, more) in [("", ""), (LATE, ""), ("", "together "), (LATE, "together "), ("", &much)]
    {
        let mut client = upgraded(case, &server, head, more).await;
        assert!(client.read_exact(more.len()).await == more.as_bytes());
        for n in 0..100 {
            let text = format!("{n} ").repeat(n * 10 + 1);
            client.send(&text).await;
            assert!(client.read_exact(text.len()).await == text.as_bytes());
        }
        let status = server.status();
        assert_eq!((status.open, status.parked, status.http_states), (1, 0, 0), "{status:?}");
        drop(client);
        nothing_left(&server).await;
    }
}

async fn half_open(case: Case) {
    // The client's side ends first, and the server still answers.
    let server = case.http().serve(router(echoes)).unwrap();
    let mut client = upgraded(case, &server, "", "").await;
    client.send("last words").await;
    client.finish().await;
    assert_eq!(client.rest_text().await, "last words");
    nothing_left(&server).await;

    // The server's side ends first, and the server still reads.
    let server = case.http().serve(router(|mut io: TokioIo<Upgraded>| async move {
        io.write_all(b"bye").await?;
        io.shutdown().await?;
        let mut bytes = Vec::new();
        io.read_to_end(&mut bytes).await?;
        assert_eq!(bytes, b"still here");
        Ok(())
    }));
    let server = server.unwrap();
    let mut client = upgraded(case, &server, "", "").await;
    assert_eq!(client.rest_text().await, "bye");
    settle().await;
    assert_eq!(server.status().open, 1);
    client.send("still here").await;
    client.finish().await;
    nothing_left(&server).await;
}

async fn dropped_by_its_owner(case: Case) {
    let server = case.http().serve(router(|io: TokioIo<Upgraded>| async move {
        drop(io);
        Ok(())
    }));
    let server = server.unwrap();
    for _ in 0..3 {
        let mut client = upgraded(case, &server, "", "").await;
        assert_eq!(client.gone().await, b"");
        nothing_left(&server).await;
    }
    // User code never awaits the upgrade.
    let ignores = || async { (StatusCode::SWITCHING_PROTOCOLS, [("upgrade", "raw")]) };
    let app = Router::new().route("/up", axum::routing::get(ignores));
    let app = app.fallback_service(App::default().router());
    let server = case.http().serve(app).unwrap();
    let mut client = upgraded(case, &server, "", "").await;
    client.gone().await;
    nothing_left(&server).await;
    // A refused upgrade leaves the connection as it was.
    let refuses = Router::new().fallback(|| async { (StatusCode::FORBIDDEN, "no") });
    let server = case.http().serve(refuses).unwrap();
    let mut client = case.client(&server).await;
    for _ in 0..3 {
        assert_eq!(client.exchange(&[UPGRADE, "\r\n"].concat()).await, "403 no");
    }
    at_rest(&server, 1, 0).await;
}

/// One task reads, and another task writes the bytes.
async fn halves(io: TokioIo<Upgraded>) -> io::Result<()> {
    let (mut reader, mut writer) = split(io);
    let (tell, mut told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(byte) = told.recv().await {
            writer.write_all(&[byte]).await?;
            writer.flush().await?;
        }
        writer.shutdown().await
    });
    while let Ok(byte) = reader.read_u8().await {
        let _ = tell.send(byte);
    }
    Ok(())
}

async fn halves_in_two_tasks(case: Case) {
    let server = case.http().serve(router(halves)).unwrap();
    let mut client = upgraded(case, &server, "", "").await;
    for n in 0..3_000 {
        client.send([n as u8]).await;
        assert_eq!(soon(client.read_exact(1)).await, [n as u8], "round {n}");
    }
    // Many bytes at once. Each comes back in a write of its own, over TLS in a record of its own: all of them
    // may take longer than a part does that hangs.
    client.send(vec![7; 1 << 16]).await;
    for _ in 0..64 {
        assert!(soon(client.read_exact(1 << 10)).await == [7; 1 << 10]);
    }
    client.finish().await;
    assert_eq!(client.gone().await, b"");
    nothing_left(&server).await;
}
