//! The app: any axum app. Nothing in this file depends on the mode of the server.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{any, get, post};
use axum::{Json, Router};
use futures_util::{StreamExt, stream};
use millpond::layer::{CallError, PoolLayer};
use millpond::{JobOptions, Pool, Priority};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::{sleep, timeout};

use crate::pond::Pond;

const PAGE: &str = include_str!("page.html");

/// The largest upload.
const UPLOAD: usize = 64 * 1024 * 1024;
/// The largest message of a WebSocket.
const MESSAGE: usize = 1024 * 1024;
/// The time that a peer has to answer a close.
const CLOSE: Duration = Duration::from_secs(1);

pub fn app(pool: &Pool, pond: Pond) -> Router {
    // The name of the layer tells the page what a job is, and how the calls of a route end.
    let now = |name: &str| PoolLayer::try_schedule(pool).name(name).on_error(respond);
    // The request keeps its slot until the body has streamed.
    let stream = now("stream").hold_until_body_end();
    let pooled = Router::new()
        .route("/hello/{name}", get(hello).layer(now("hello")))
        .route("/work/{ms}", get(work).layer(now("work")))
        .route("/upload", post(upload).layer(now("upload")))
        .route("/stream/{chunks}", get(chunks).layer(stream));
    // The parts of a request are jobs of a lower class, and of a group with a name.
    let own = pool.clone();
    let parts = get(move |Path(count)| parts(own, count)).layer(now("parts"));
    let pooled = pooled.route("/parts/{count}", parts);
    // These routes bypass the pool: they may last for hours, and answer while the pool is full.
    let others = Router::new()
        .route("/", get(|| async { Redirect::to("/pond") }))
        .route("/ws", any(talk))
        .route("/pond", get(|| async { Html(PAGE) }))
        .route("/pond/status", get(|State(pond): State<Pond>| async move { Json(pond.status()) }))
        .route("/pond/events", get(|State(pond): State<Pond>| async move { pond.events() }))
        .with_state(pond);
    pooled.merge(others)
}

async fn hello(Path(name): Path<String>) -> Json<Value> {
    Json(json!({ "hello": name }))
}

/// Waits, like a handler that queries a database.
async fn work(Path(ms): Path<u64>) -> Json<Value> {
    let ms = ms.min(10_000);
    sleep(Duration::from_millis(ms)).await;
    Json(json!({ "worked_ms": ms }))
}

/// Does its work in parts, each a job of the pool, as many at once as there are slots.
async fn parts(pool: Pool, count: u32) -> Result<Json<Value>, StatusCode> {
    let low = pool.with(JobOptions::new().priority(Priority::Low));
    let group = low.group_builder().name("part").build().expect("it has no quota");
    for _ in 0..count.min(10_000) {
        let part = async move { sleep(Duration::from_millis(20)).await };
        if group.schedule(part).await.is_err() {
            return Err(StatusCode::SERVICE_UNAVAILABLE);
        }
    }
    let parts = group.try_join().await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(Json(json!({ "parts": parts.len() })))
}

async fn chunks(Path(chunks): Path<u32>) -> Body {
    let chunks = stream::iter(0..chunks).then(|n| async move {
        sleep(Duration::from_millis(20)).await;
        Ok::<_, Infallible>(Bytes::from(format!("chunk {n}\n")))
    });
    Body::from_stream(chunks)
}

/// Reads the body piece by piece: no upload is ever in memory as a whole.
async fn upload(body: Body) -> Result<Json<Value>, StatusCode> {
    let (mut hash, mut length) = (Sha256::new(), 0);
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|_| StatusCode::BAD_REQUEST)?;
        length += piece.len();
        if length > UPLOAD {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        hash.update(&piece);
    }
    let sum: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Json(json!({ "bytes": length, "sha256": sum })))
}

async fn talk(upgrade: WebSocketUpgrade, State(pond): State<Pond>) -> Response {
    // The default buffers cost 138 KB for each open WebSocket, these some 7 KB.
    let upgrade = upgrade.read_buffer_size(4096).write_buffer_size(0);
    let upgrade = upgrade.max_message_size(MESSAGE);
    upgrade.on_upgrade(async move |socket| pond.sockets().track_future(attend(socket, &pond)).await)
}

/// Serves a WebSocket until the peer closes it or the app stops.
async fn attend(mut socket: WebSocket, pond: &Pond) {
    if pond.ending().run_until_cancelled(echo(&mut socket)).await.is_none() {
        let (code, reason) = (close_code::AWAY, "the server stops".into());
        let close = Message::Close(Some(CloseFrame { code, reason }));
        let answered = async {
            socket.send(close).await.ok()?;
            while socket.recv().await?.is_ok() {}
            Some(())
        };
        let _ = timeout(CLOSE, answered).await;
    }
}

async fn echo(socket: &mut WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let echoed = match message {
            Message::Text(_) | Message::Binary(_) => socket.send(message).await,
            // axum answers these by itself.
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => Ok(()),
        };
        if echoed.is_err() {
            return;
        }
    }
}

fn respond(error: CallError<Infallible>, _: Option<Request>) -> Response {
    match error.is_refusal() {
        true => (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], "all slots are taken\n")
            .into_response(),
        false => (StatusCode::INTERNAL_SERVER_ERROR, "something broke\n").into_response(),
    }
}
