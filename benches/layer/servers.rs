//! The servers behind axum.

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use millpond::Pool;
use millpond::layer::{CallError, PoolLayer};
use tokio::net::TcpListener;
use tower::limit::GlobalConcurrencyLimitLayer;

pub const ARMS: [&str; 4] = ["bare", "limit", "millpond", "millpond-schedule"];
pub const NAMES: [&str; 4] =
    ["bare router", "ConcurrencyLimit", "millpond `try_schedule`", "millpond `schedule`"];

/// Serves until the process is killed.
pub fn serve(arm: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let sleep = get(sleep);
        // Below saturation `try_schedule` has a slot for each client.
        let pool = Pool::new(1_000);
        let sleep = match arm {
            "bare" => sleep,
            "limit" => sleep.layer(GlobalConcurrencyLimitLayer::new(1_000)),
            "millpond" => sleep.layer(PoolLayer::try_schedule(&pool).on_error(respond)),
            _ => sleep.layer(PoolLayer::schedule(&pool).on_error(respond)),
        };
        let router = Router::new().route("/sleep/{ms}", sleep);
        let router = router.route("/health", get(|| async {}));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        println!("{}", listener.local_addr().expect("it is bound"));
        axum::serve(listener, router).await.expect("it serves until it is killed");
    });
}

fn respond(error: CallError<Infallible>, _: Option<Request>) -> Response {
    match error.is_refusal() {
        true => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        false => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn sleep(Path(ms): Path<u64>) -> &'static str {
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    "slept"
}
