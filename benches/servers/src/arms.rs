//! The servers in Rust. Each answers `/ID` with `{"id":"ID"}`, and `/sleep/ID` with the length of its sleep.

use std::convert::Infallible;
use std::fs;
use std::io::{Write, stdin, stdout};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::Path;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use axum::serve::ListenerExt;
use hyper::body::{Body, Incoming};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use millpond_server::http::Server;
use millpond_server::{Listen, Mode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

pub const EVENT_DRIVEN: &str = "millpond, event-driven";
pub const DEDICATED: &str = "millpond, dedicated";
pub const AXUM: &str = "axum";
pub const ALL: [&str; 5] = [EVENT_DRIVEN, DEDICATED, AXUM, "hyper", "actix-web"];
/// Hyper's server for one version, with the router that axum and millpond serve.
pub const SAME_ROUTER: &str = "hyper, same router";

/// What a handler of `/sleep/ID` waits, and what one of `/busy/ID` computes.
const SLEEP: Duration = Duration::from_millis(5);
const BUSY: Duration = Duration::from_millis(1);

/// Whether a server in Rust has connections of this kind.
pub fn offers(arm: &str, kind: &str) -> bool {
    kind != "ws" || arm != "hyper"
}

/// Serves until the input of this process is closed. `workers` is a number of worker threads, or
/// `current_thread`.
pub fn serve(arm: &str, kind: &str, workers: &str) -> Result<(), String> {
    if arm == "actix-web" {
        return actix(kind).map_err(|error| format!("actix-web: {error}"));
    }
    let mut builder = tokio::runtime::Builder::new_current_thread();
    if workers != "current_thread" {
        builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(workers.parse().map_err(|error| format!("{workers}: {error}"))?);
    }
    let runtime = builder.enable_all().build().map_err(|error| error.to_string())?;
    let tls = if kind == "tls" { Some(config()?) } else { None };
    std::thread::spawn(|| {
        let _ = stdin().lines().count();
        std::process::exit(0);
    });
    runtime.block_on(async {
        let address = match arm {
            AXUM => axum(tls),
            "hyper" => hyper(kind, tls, hyper::service::service_fn(answer)),
            SAME_ROUTER => hyper(kind, tls, TowerToHyperService::new(router())),
            _ => millpond(arm, tls),
        };
        listening(address.map_err(|error| format!("{arm}: {error}"))?);
        std::future::pending().await
    })
}

fn listening(address: SocketAddr) {
    let mut out = stdout().lock();
    let told = writeln!(out, "ok port={} pid={}", address.port(), std::process::id());
    let _ = told.and_then(|()| out.flush());
}

fn config() -> Result<Arc<ServerConfig>, String> {
    let read =
        |name| fs::read(crate::folder()?.join(name)).map_err(|error| format!("{name}: {error}"));
    let cert =
        CertificateDer::from_pem_slice(&read("cert.pem")?).map_err(|error| format!("{error:?}"))?;
    let key =
        PrivateKeyDer::from_pem_slice(&read("key.pem")?).map_err(|error| format!("{error:?}"))?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![cert], key);
    Ok(Arc::new(config.map_err(|error| error.to_string())?))
}

fn router() -> Router {
    let answer = |Path(id): Path<String>| async move {
        ([(CONTENT_TYPE, "application/json")], format!("{{\"id\":\"{id}\"}}"))
    };
    let sleep = |Path(_): Path<String>| async {
        let start = Instant::now();
        tokio::time::sleep(SLEEP).await;
        let slept = start.elapsed().as_micros();
        ([(CONTENT_TYPE, "application/json")], format!("{{\"id\":\"{slept}\"}}"))
    };
    let busy = |Path(id): Path<String>| async move {
        let start = Instant::now();
        while start.elapsed() < BUSY {
            std::hint::spin_loop();
        }
        ([(CONTENT_TYPE, "application/json")], format!("{{\"id\":\"{id}\"}}"))
    };
    let talk = |mut socket: WebSocket| async move {
        while let Some(Ok(message)) = socket.recv().await {
            if socket.send(message).await.is_err() {
                return;
            }
        }
    };
    let upgrade = move |upgrade: WebSocketUpgrade| async move {
        upgrade.read_buffer_size(4096).write_buffer_size(0).on_upgrade(talk)
    };
    Router::new()
        .route("/{id}", get(answer))
        .route("/sleep/{id}", get(sleep))
        .route("/busy/{id}", get(busy))
        .route("/ws", get(upgrade))
}

fn listener() -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    socket.listen(8192)
}

fn millpond(arm: &str, tls: Option<Arc<ServerConfig>>) -> std::io::Result<SocketAddr> {
    let mode = if arm == DEDICATED { Mode::Dedicated } else { Mode::EventDriven };
    let builder = Server::builder()
        .listen(Listen::from("127.0.0.1:0").backlog(8192))
        .mode(mode)
        .keep_alive_timeout(None)
        .max_connections(18_000)
        .max_connections_per_ip(None);
    let builder = match tls {
        Some(config) => builder.tls(config),
        None => builder,
    };
    let server = builder.serve(router()).map_err(std::io::Error::other)?;
    let address = server.local_addrs()[0];
    std::mem::forget(server);
    Ok(address)
}

/// Over TLS by hyper-util's server, since axum has none.
fn axum(tls: Option<Arc<ServerConfig>>) -> std::io::Result<SocketAddr> {
    if let Some(config) = tls {
        let service = TowerToHyperService::new(router());
        return sessions(config, move |io| {
            let service = service.clone();
            async move {
                let builder = auto::Builder::new(TokioExecutor::new());
                drop(builder.serve_connection_with_upgrades(TokioIo::new(io), service).await);
            }
        });
    }
    let listener = listener()?;
    let address = listener.local_addr()?;
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    tokio::spawn(async move { axum::serve(listener, router()).await });
    Ok(address)
}

async fn answer(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    let id = request.uri().path().trim_start_matches('/');
    let response = Response::builder().header("content-type", "application/json");
    let body = format!("{{\"id\":\"{id}\"}}");
    Ok(response.body(body).expect("valid headers"))
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Hyper's server for one version of HTTP.
fn hyper<S, B>(
    kind: &str,
    tls: Option<Arc<ServerConfig>>,
    service: S,
) -> std::io::Result<SocketAddr>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<AnyError>,
    B: Body<Data: Send, Error: Into<AnyError>> + Send + 'static,
{
    match (kind, tls) {
        ("h2", _) => accept(move |io| {
            let service = service.clone();
            async move {
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                drop(builder.serve_connection(TokioIo::new(io), service).await);
            }
        }),
        (_, None) => accept(move |io| http1(io, service.clone())),
        (_, Some(config)) => sessions(config, move |io| http1(io, service.clone())),
    }
}

async fn http1<T, S, B>(io: T, service: S)
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request<Incoming>, Response = Response<B>, Error: Into<AnyError>>,
    B: Body<Error: Into<AnyError>> + 'static,
{
    let builder = hyper::server::conn::http1::Builder::new();
    drop(builder.serve_connection(TokioIo::new(io), service).await);
}

fn sessions<F>(
    config: Arc<ServerConfig>,
    serve: impl Fn(TlsStream<TcpStream>) -> F + Clone + Send + 'static,
) -> std::io::Result<SocketAddr>
where
    F: Future<Output = ()> + Send + 'static,
{
    let acceptor = TlsAcceptor::from(config);
    accept(move |socket| {
        let (acceptor, serve) = (acceptor.clone(), serve.clone());
        async move {
            if let Ok(session) = acceptor.accept(socket).await {
                serve(session).await;
            }
        }
    })
}

fn accept<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> std::io::Result<SocketAddr>
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = listener()?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            let Ok((socket, _)) = listener.accept().await else { continue };
            let _ = socket.set_nodelay(true);
            tokio::spawn(serve(socket));
        }
    });
    Ok(address)
}

fn actix(kind: &str) -> std::io::Result<()> {
    use actix_web::web::{Path, Payload, get as on_get};
    use actix_web::{App, HttpRequest, HttpResponse, HttpServer};

    let answer = |id: Path<String>| async move {
        HttpResponse::Ok().content_type("application/json").body(format!("{{\"id\":\"{id}\"}}"))
    };
    let upgrade = |request: HttpRequest, body: Payload| async move {
        let (response, mut session, mut messages) = actix_ws::handle(&request, body)?;
        actix_web::rt::spawn(async move {
            while let Some(Ok(message)) = messages.recv().await {
                if let actix_ws::Message::Text(text) = message
                    && session.text(text).await.is_err()
                {
                    return;
                }
            }
        });
        Ok::<_, actix_web::Error>(response)
    };
    let server = HttpServer::new(move || {
        App::new().route("/ws", on_get().to(upgrade)).route("/{id}", on_get().to(answer))
    });
    let server = server
        .workers(1)
        .worker_max_blocking_threads(1)
        .max_connections(18_000)
        .backlog(8192)
        .keep_alive(std::time::Duration::from_secs(3600))
        .client_request_timeout(std::time::Duration::ZERO)
        .disable_signals();
    let server = match kind {
        "tls" => {
            let config = config().map_err(std::io::Error::other)?;
            server.bind_rustls_0_23("127.0.0.1:0", Arc::unwrap_or_clone(config))?
        }
        _ => server.bind_auto_h2c("127.0.0.1:0")?,
    };
    let address = server.addrs()[0];
    actix_web::rt::System::new().block_on(async {
        let running = actix_web::rt::spawn(server.run());
        listening(address);
        std::thread::spawn(|| {
            let _ = stdin().lines().count();
            std::process::exit(0);
        });
        running.await.map_err(std::io::Error::other)?
    })
}
