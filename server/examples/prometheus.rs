//! A page for Prometheus, with the counts of a server, its pool and its requests.
//!
//! ```text
//! cargo run --release --features http,metrics --example prometheus
//! curl http://127.0.0.1:8080/        # the app
//! curl http://127.0.0.1:9090/metrics # the page
//! ```

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use millpond::Pool;
use millpond::layer::{CallError, PoolLayer};
use millpond_server::http::Server;

/// What the page shows.
struct Page {
    prometheus: PrometheusHandle,
    app: Server,
    pool: Pool,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let listen = |n, default: &str| std::env::args().nth(n).unwrap_or(default.into());
    let prometheus = PrometheusBuilder::new().install_recorder()?;

    // The app: eight requests at once, and no more than eight that wait.
    let pool = Pool::builder().size(8).queue(8).name("requests").build()?;
    let layer = PoolLayer::try_schedule(&pool).on_error(respond);
    let app = Router::new().route("/", get(|| async { "hello\n" })).layer(layer);
    let app = Server::builder().listen(listen(1, "127.0.0.1:8080")).serve(app)?;
    println!("listening on {}", app.local_addrs()[0]);

    // The page has a server of its own, which the app's load does not touch.
    let page = Arc::new(Page { prometheus, app, pool });
    let metrics = Router::new().route("/metrics", get(render)).with_state(page.clone());
    let metrics = Server::builder().listen(listen(2, "127.0.0.1:9090")).serve(metrics)?;
    println!("metrics on {}", metrics.local_addrs()[0]);

    tokio::signal::ctrl_c().await?;
    Ok(())
}

fn respond(error: CallError<Infallible>, _: Option<Request>) -> Response {
    match error.is_refusal() {
        true => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        false => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// Publishes what is read now, so nothing runs between two readings.
async fn render(State(page): State<Arc<Page>>) -> String {
    page.app.status().publish_metrics("app");
    page.pool.publish_metrics();
    page.prometheus.render()
}
