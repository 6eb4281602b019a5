//! A client with a bound on its calls, retries, time limits and several servers.
//!
//! ```text
//! cargo run --release --features tower --example client_stack
//! ```
//!
//! The layers from the outside in: retries, a time limit for each try, a balancer over the servers,
//! and around each server a layer of one pool. The pool bounds the calls to all servers together.
//! `schedule_within` takes its slot for a call. Under `schedule` the balancer would keep each server
//! ready, and so a slot for each, also while it has nothing to send.

use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use millpond::Pool;
use millpond::layer::PoolLayer;
use tokio::net::TcpListener;
use tower::balance::p2c::Balance;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PendingRequests};
use tower::retry::Policy;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};

const AT_ONCE: usize = 4;
const CALLS: u64 = 200;
const TRIES: u32 = 5;

type Body = hyper::body::Incoming;
type Stack = BoxCloneSyncService<String, Response<Body>, BoxError>;
type HttpClient = Client<HttpConnector, Empty<Bytes>>;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = Arc::new(Backend::default());
    let servers = [server.clone().start().await?, server.clone().start().await?];

    let pool = Pool::builder().size(AT_ONCE).name("outgoing").build()?;
    let bounded = PoolLayer::schedule_within(&pool, Duration::MAX);
    let client: HttpClient = Client::builder(TokioExecutor::new()).build_http();
    let endpoints = servers.map(|address| {
        let client = client.clone();
        let to_server = service_fn(move |path: String| {
            let client = client.clone();
            async move {
                let uri: Uri = format!("http://{address}{path}").parse()?;
                let request = Request::get(uri).body(Empty::new())?;
                Ok::<_, BoxError>(client.request(request).await?)
            }
        });
        let service = ServiceBuilder::new().layer(bounded.clone()).service(to_server);
        PendingRequests::new(service, CompleteOnResponse::default())
    });
    let service = ServiceBuilder::new()
        .retry(Attempts(TRIES))
        .buffer(64)
        .timeout(Duration::from_secs(2))
        .service(Balance::new(ServiceList::new::<String>(endpoints)));
    let service: Stack = BoxCloneSyncService::new(service);

    let progress = indicatif::ProgressBar::new(CALLS);
    let calls: Vec<_> = (0..CALLS)
        .map(|n| {
            let (service, progress) = (service.clone(), progress.clone());
            tokio::spawn(async move {
                let response = call(service, format!("/{n}")).await;
                progress.inc(1);
                response
            })
        })
        .collect();
    let mut answered = 0;
    for call in calls {
        answered += u64::from(call.await?? == StatusCode::OK);
    }
    progress.finish_and_clear();

    println!("{answered} of {CALLS} calls answered");
    println!(
        "{} requests sent, {} of them failed and were tried again",
        server.seen(),
        server.failed()
    );
    println!("at most {} at once, {AT_ONCE} allowed", server.most.load(Ordering::Relaxed));
    Ok(())
}

async fn call(service: Stack, path: String) -> Result<StatusCode, BoxError> {
    let response = service.oneshot(path).await?;
    let status = response.status();
    response.into_body().collect().await?;
    Ok(status)
}

/// Retries calls that the server failed, and calls that did not reach a server.
#[derive(Clone)]
struct Attempts(u32);

impl Policy<String, Response<Body>, BoxError> for Attempts {
    type Future = Ready<()>;

    fn retry(
        &mut self,
        _: &mut String,
        result: &mut Result<Response<Body>, BoxError>,
    ) -> Option<Ready<()>> {
        let failed = result.as_ref().map_or(true, |response| response.status().is_server_error());
        (failed && self.0 > 1).then(|| {
            self.0 -= 1;
            ready(())
        })
    }

    fn clone_request(&mut self, path: &String) -> Option<String> {
        Some(path.clone())
    }
}

/// A server that fails each tenth request, and records how many requests it served at once.
#[derive(Default)]
struct Backend {
    requests: AtomicU64,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Backend {
    async fn start(self: Arc<Self>) -> Result<SocketAddr, BoxError> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let app = axum::Router::new().fallback(move || self.clone().serve());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(address)
    }

    async fn serve(self: Arc<Self>) -> StatusCode {
        let n = self.requests.fetch_add(1, Ordering::Relaxed);
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.now.fetch_sub(1, Ordering::Relaxed);
        if n % 10 == 9 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }
    }

    fn seen(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn failed(&self) -> u64 {
        self.seen() / 10
    }
}
