//! The app: one pool, and a layer on each route.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use millpond::Pool;
use millpond::layer::{CallError, PoolLayer};

use crate::live::Latencies;

pub fn app(pool: &Pool, latencies: Latencies) -> Router {
    // Full: responds with 503 at once.
    let now = PoolLayer::try_schedule(pool).on_error(respond);
    // Full: waits for a slot, for 200 ms at most.
    let soon = PoolLayer::schedule_within(pool, Duration::from_millis(200)).on_error(respond);
    // Full: runs beyond the size. An administrator needs this route under overload.
    let always = PoolLayer::schedule_always(pool).on_error(respond);
    // A client that hangs up does not cancel an order that has started.
    let order = PoolLayer::try_schedule(pool).on_error(respond).detach_on_drop().name("orders");
    // The call keeps its slot until the body has ended.
    let stream = PoolLayer::try_schedule(pool).on_error(respond).hold_until_body_end();

    Router::new()
        .route("/now/{ms}", get(work).layer(now.clone()))
        .route("/soon/{ms}", get(work).layer(soon))
        .route("/admin", get(|| async { "at your service\n" }).layer(always))
        .route("/order/{ms}", get(work).layer(order))
        .route("/stream/{chunks}", get(chunks).layer(stream))
        .route("/panic", get(panic).layer(now))
        // Not on the pool, so it answers while the pool is full.
        .route("/health", get(|| async { "fine\n" }))
        .route("/status", get(status))
        .with_state(pool.clone())
        .layer(middleware::from_fn_with_state(latencies, measure))
}

/// Takes as long as a slow database.
async fn work(Path(ms): Path<u64>) -> String {
    tokio::time::sleep(Duration::from_millis(ms.min(10_000))).await;
    format!("worked for {ms} ms\n")
}

async fn chunks(Path(chunks): Path<u32>) -> Response {
    let chunks = stream::unfold(0, move |n| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let frame = Frame::data(Bytes::from(format!("chunk {n}\n")));
        (n < chunks).then(|| (Ok::<_, Infallible>(frame), n + 1))
    });
    Response::new(Body::new(StreamBody::new(chunks)))
}

async fn status(State(pool): State<Pool>) -> String {
    let status = pool.status();
    format!("{} running, {} waiting, {} held\n", status.running, status.waiting, status.held_slots)
}

async fn panic() -> &'static str {
    panic!("this handler always panics");
}

/// `_request` is present if the call has not started.
fn respond(error: CallError<Infallible>, _request: Option<Request>) -> Response {
    if !error.is_refusal() {
        return (StatusCode::INTERNAL_SERVER_ERROR, "something broke\n").into_response();
    }
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, "all slots are taken\n").into_response();
    // An overloaded pool knows how long its line is. The header takes whole seconds.
    let seconds = error.retry_after().map_or(1, |wait| wait.as_secs() + 1);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    response
}

async fn measure(State(latencies): State<Latencies>, request: Request, next: Next) -> Response {
    let start = Instant::now();
    let response = next.run(request).await;
    if response.status() != StatusCode::SERVICE_UNAVAILABLE {
        latencies.record(start.elapsed());
    }
    response
}
