//! The services that are compared, each in a process of its own.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::error_handling::HandleErrorLayer;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use little_loadshedder::{LoadShedLayer, LoadShedResponse};
use millpond::layer::{CallError, PoolLayer};
use millpond::{JobOptions, Pool, Priority};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{BoxError, ServiceBuilder};

pub const ARMS: [&str; 9] = [
    "none",
    "limit",
    "shed",
    "little",
    "acc",
    "adaptive",
    "millpond",
    "millpond-target",
    "millpond-half",
];
pub const NAMES: [&str; 9] = [
    "none",
    "ConcurrencyLimit",
    "LoadShed over ConcurrencyLimit",
    "little-loadshedder",
    "tower-acc",
    "tower-resilience-adaptive",
    "millpond, by default",
    "millpond, a target of 20 ms",
    "millpond, a target of 10 ms",
];

/// The targets of the last two arms in ms: the time of a job, and half of that.
pub const TARGETS: [u64; 2] = [20, 10];

/// The handler needs one of this many connections, for `WORK`.
pub const CONNECTIONS: usize = 8;
pub const WORK: Duration = Duration::from_millis(20);

/// The headers of a request with its class and its tenant.
pub const CLASS: &str = "x-class";
pub const TENANT: &str = "x-tenant";

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

struct Database {
    connections: Semaphore,
    /// How long a query takes, in ms.
    work: AtomicU64,
}

/// Serves until the process is killed.
pub fn serve(arm: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = { runtime }.worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let work = AtomicU64::new(WORK.as_millis() as u64);
        let database = Arc::new(Database { connections: Semaphore::new(CONNECTIONS), work });
        let work = get(query).with_state(database.clone());
        let limit = GlobalConcurrencyLimitLayer::new(CONNECTIONS);
        let work = match arm {
            "none" => work,
            "limit" => work.layer(limit),
            "shed" => guarded!(work, ServiceBuilder::new().load_shed().layer(limit)),
            "little" => {
                // The time of a call, and a wait as long.
                let layer = LoadShedLayer::new(0.01, 2 * WORK);
                let respond = |response| match response {
                    LoadShedResponse::Inner(response) => response,
                    LoadShedResponse::Overload => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                };
                guarded!(work, ServiceBuilder::new().map_response(respond).layer(layer))
            }
            "acc" => {
                let layer = tower_acc::ConcurrencyLimitLayer::new(tower_acc::Vegas::default());
                guarded!(work, ServiceBuilder::new().load_shed().layer(layer))
            }
            "adaptive" => {
                let vegas = tower_resilience_adaptive::Vegas::builder().build().expect("valid");
                let layer = tower_resilience_adaptive::AdaptiveLimiterLayer::new(vegas);
                guarded!(work, ServiceBuilder::new().load_shed().layer(layer))
            }
            _ => {
                let builder = Pool::builder().size(CONNECTIONS);
                let builder = match arm {
                    "millpond-target" => builder.target_wait(Duration::from_millis(TARGETS[0])),
                    "millpond-half" => builder.target_wait(Duration::from_millis(TARGETS[1])),
                    _ => builder,
                };
                let pool = builder.build().expect("valid");
                let layer = PoolLayer::schedule_within(&pool, 10 * WORK);
                work.layer(layer.on_error(respond).options(options))
            }
        };
        let router = Router::new().route("/work", work);
        let router = router.route("/takes/{ms}", get(takes).with_state(database));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        println!("{}", listener.local_addr().expect("it is bound"));
        axum::serve(listener, router).await.expect("it serves until it is killed");
    });
}

fn options(request: &Request) -> JobOptions {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let options = match header(CLASS) {
        Some("high") => JobOptions::new().priority(Priority::High),
        Some("low") => JobOptions::new().priority(Priority::Low),
        _ => JobOptions::new(),
    };
    match header(TENANT).and_then(|tenant| tenant.parse().ok()) {
        Some(tenant) => options.key(tenant),
        None => options,
    }
}

fn respond(error: CallError<Infallible>, _: Option<Request>) -> Response {
    match error.is_refusal() {
        true => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        false => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// A query to a database with few connections: the handler waits for a connection.
async fn query(State(database): State<Arc<Database>>) -> Body {
    let _connection = database.connections.acquire().await.expect("never closed");
    tokio::time::sleep(Duration::from_millis(database.work.load(Relaxed))).await;
    Body::from("worked")
}

/// Changes how long a query takes.
async fn takes(State(database): State<Arc<Database>>, Path(ms): Path<u64>) -> &'static str {
    database.work.store(ms, Relaxed);
    "so be it"
}
