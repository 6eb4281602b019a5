//! SIGTERM: stop to accept, let running work end, and exit by the deadline.
//!
//! ```text
//! cargo run --release --features tower --example graceful
//! curl http://127.0.0.1:3001/5000 &      # works for five seconds
//! kill -TERM PID                          # PID is in the first line
//! ```
//!
//! Idle connections are closed while the pool drains. The drain includes jobs whose connections are
//! gone. The deadline cancels the jobs that are left, and the report counts them. The exit code is
//! 0 if all jobs ended in time, and 1 otherwise.

use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use millpond::Pool;
use millpond::layer::{CallError, PoolLayer};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let listen = args.next().unwrap_or_else(|| "127.0.0.1:3001".into());
    let deadline = Duration::from_millis(args.next().map_or(Ok(10_000), |ms| ms.parse())?);

    let pool = Pool::builder().size(64).name("requests").build()?;
    let layer = PoolLayer::try_schedule(&pool).detach_on_drop().on_error(respond);
    let app = Router::new()
        .route("/{ms}", get(work).layer(layer))
        .route("/later/{ms}", get(later))
        .with_state(pool.clone());
    let listener = TcpListener::bind(&listen).await?;
    println!("listening on {}, process {}", listener.local_addr()?, std::process::id());

    let mut terminate = signal(SignalKind::terminate())?;
    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async { drop(stopped.await) });
    let server = tokio::spawn(server.into_future());
    terminate.recv().await;

    println!("stopping, {} running", pool.status().running);
    drop(stop);
    // The connections end first, because their calls are jobs. Both have the same deadline.
    let report = tokio::time::timeout(deadline, async {
        let _ = server.await;
        pool.wait_idle().await;
    });
    let in_time = report.await.is_ok();
    let report = pool.shutdown(Duration::ZERO).await;
    let status = pool.status();
    println!(
        "{} completed, {} cancelled at the deadline, {} left",
        status.completed, report.cancelled, report.still_running
    );
    Ok(if in_time { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn work(Path(ms): Path<u64>) -> String {
    tokio::time::sleep(Duration::from_millis(ms)).await;
    format!("worked for {ms} ms\n")
}

/// Answers at once and works afterwards. The work is a job of the pool, so the drain waits for it.
async fn later(Path(ms): Path<u64>, State(pool): State<Pool>) -> StatusCode {
    match pool.try_schedule(work(Path(ms))) {
        Ok(_detached) => StatusCode::ACCEPTED,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn respond(error: CallError<Infallible>, _: Option<Request>) -> Response {
    match error.is_refusal() {
        true => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        false => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
