//! The servers for the loopback benches, each in its own process.

use std::convert::Infallible;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::error_handling::HandleErrorLayer;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use little_loadshedder::{LoadShedLayer, LoadShedResponse};
use millpond::Pool;
use millpond::layer::{CallError, PoolLayer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{BoxError, ServiceBuilder};

pub const ARMS: [&str; 9] = [
    "bare",
    "limit",
    "millpond",
    "millpond-schedule",
    "shed",
    "little",
    "acc",
    "adaptive",
    "millpond-within",
];
pub const NAMES: [&str; 9] = [
    "bare router",
    "ConcurrencyLimit",
    "millpond `try_schedule`",
    "millpond `schedule`",
    "LoadShed over ConcurrencyLimit",
    "little-loadshedder",
    "tower-acc",
    "tower-resilience-adaptive",
    "millpond `schedule_within`",
];

/// The handler needs one of this many connections, for `WORK`.
pub const CONNECTIONS: usize = 8;
pub const WORK: Duration = Duration::from_millis(20);
/// Places in the pool's queue. A queued call waits for another `WORK`.
pub const QUEUE: usize = CONNECTIONS;

/// A handler behind a layer whose errors are answered by 503.
macro_rules! guarded {
    ($work:ident, $layer:expr) => {
        $work.layer(
            ServiceBuilder::new()
                .layer(HandleErrorLayer::new(unavailable))
                .map_err(BoxError::from)
                .layer($layer),
        )
    };
}

async fn unavailable(_: BoxError) -> StatusCode {
    StatusCode::SERVICE_UNAVAILABLE
}

/// Serves until the process is killed.
pub fn serve(arm: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let database = Arc::new(Semaphore::new(CONNECTIONS));
        let builder = Pool::builder().size(CONNECTIONS);
        let builder = match arm {
            "millpond" => builder.queue(QUEUE),
            _ => builder,
        };
        let pool = builder.build().expect("valid");
        let limit = GlobalConcurrencyLimitLayer::new(CONNECTIONS);
        let work = get(work).with_state(database);
        let sleep = get(sleep);
        // Below saturation `try_schedule` has a slot for each client.
        let roomy = Pool::new(1_000);
        let router = match arm {
            "bare" => Router::new().route("/work", work).route("/sleep/{ms}", sleep),
            "limit" => {
                let wide = GlobalConcurrencyLimitLayer::new(1_000);
                Router::new()
                    .route("/work", work.layer(limit))
                    .route("/sleep/{ms}", sleep.layer(wide))
            }
            "shed" => {
                let layer = ServiceBuilder::new().load_shed().layer(limit);
                Router::new().route("/work", guarded!(work, layer))
            }
            "little" => {
                // The time of a call, and a wait as long.
                let layer = LoadShedLayer::new(0.01, 2 * WORK);
                let respond = |response| match response {
                    LoadShedResponse::Inner(response) => response,
                    LoadShedResponse::Overload => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                };
                let layer = ServiceBuilder::new().map_response(respond).layer(layer);
                Router::new().route("/work", guarded!(work, layer))
            }
            "acc" => {
                let layer = tower_acc::ConcurrencyLimitLayer::new(tower_acc::Vegas::default());
                let layer = ServiceBuilder::new().load_shed().layer(layer);
                Router::new().route("/work", guarded!(work, layer))
            }
            "adaptive" => {
                let vegas = tower_resilience_adaptive::Vegas::builder().build().expect("valid");
                let layer = tower_resilience_adaptive::AdaptiveLimiterLayer::new(vegas);
                let layer = ServiceBuilder::new().load_shed().layer(layer);
                Router::new().route("/work", guarded!(work, layer))
            }
            _ => {
                let layer = |pool: &Pool| {
                    let layer = match arm {
                        "millpond" => PoolLayer::try_schedule(pool),
                        "millpond-within" => PoolLayer::schedule_within(pool, 10 * WORK),
                        _ => PoolLayer::schedule(pool),
                    };
                    layer.on_error(respond)
                };
                Router::new()
                    .route("/work", work.layer(layer(&pool)))
                    .route("/sleep/{ms}", sleep.layer(layer(&roomy)))
            }
        };
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

/// A query to a database with few connections: the handler waits for a connection.
async fn work(State(database): State<Arc<Semaphore>>) -> Body {
    let _connection = database.acquire().await.expect("never closed");
    tokio::time::sleep(WORK).await;
    Body::from("worked")
}

async fn sleep(Path(ms): Path<u64>) -> &'static str {
    if ms > 0 {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    "slept"
}

/// A server in its own process. Dropping the value kills the process.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
}

impl Server {
    pub fn start(arm: &str) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut child = Command::new(program)
            .args(["--serve", arm])
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("it says where it listens");
        let address = line.trim().parse().expect("an address");
        Self { child, address }
    }

    /// Returns the peak memory of the process so far, in MB.
    pub fn peak_memory(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let kilobytes = status.ok().and_then(|status| {
            let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
            line.split_whitespace().nth(1)?.parse::<f64>().ok()
        });
        kilobytes.unwrap_or(f64::NAN) / 1_024.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
