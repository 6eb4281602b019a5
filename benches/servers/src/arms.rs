//! The servers in Rust. Each has one worker thread and answers `/ID` with `{"id":"ID"}`.

use std::convert::Infallible;
use std::fs;
use std::io::{Write, stdin, stdout};
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use axum::serve::ListenerExt;
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use millpond_server::http::Server;
use millpond_server::{Listen, Mode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

pub const EVENT_DRIVEN: &str = "millpond, event-driven";
pub const DEDICATED: &str = "millpond, dedicated";
pub const ALL: [&str; 5] = [EVENT_DRIVEN, DEDICATED, "axum", "hyper", "actix-web"];

/// Whether a server in Rust has connections of this kind.
pub fn offers(arm: &str, kind: &str) -> bool {
    kind != "ws" || arm != "hyper"
}

/// Serves until the input of this process is closed.
pub fn serve(arm: &str, kind: &str) -> Result<(), String> {
    if arm == "actix-web" {
        return actix(kind).map_err(|error| format!("actix-web: {error}"));
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let tls = if kind == "tls" { Some(config()?) } else { None };
    let address = runtime.block_on(async {
        match arm {
            "axum" => axum(tls),
            "hyper" => hyper(kind, tls),
            _ => millpond(arm, tls),
        }
    });
    listening(address.map_err(|error| format!("{arm}: {error}"))?);
    let _ = stdin().lines().count();
    std::process::exit(0);
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
    Router::new().route("/{id}", get(answer)).route("/ws", get(upgrade))
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
        .connect_info(false)
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
    if tls.is_some() {
        return accept(tls, |io| {
            let service = TowerToHyperService::new(router());
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

/// Hyper's server for one version of HTTP, with a service that is a function.
fn hyper(kind: &str, tls: Option<Arc<ServerConfig>>) -> std::io::Result<SocketAddr> {
    let service = |request: Request<Incoming>| async move {
        let id = request.uri().path().trim_start_matches('/');
        let response = Response::builder().header("content-type", "application/json");
        let body = format!("{{\"id\":\"{id}\"}}");
        Ok::<_, Infallible>(response.body(body).expect("valid headers"))
    };
    let service = hyper::service::service_fn(service);
    match kind {
        "h2" => accept(None, move |io| async move {
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            drop(builder.serve_connection(TokioIo::new(io), service).await);
        }),
        _ => accept(tls, move |io| async move {
            let builder = hyper::server::conn::http1::Builder::new();
            drop(builder.serve_connection(TokioIo::new(io), service).await);
        }),
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

fn accept<F>(
    tls: Option<Arc<ServerConfig>>,
    serve: impl Fn(Box<dyn Duplex>) -> F + Copy + Send + 'static,
) -> std::io::Result<SocketAddr>
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = listener()?;
    let address = listener.local_addr()?;
    let acceptor = tls.map(TlsAcceptor::from);
    tokio::spawn(async move {
        loop {
            let Ok((socket, _)) = listener.accept().await else { continue };
            let _ = socket.set_nodelay(true);
            match acceptor.clone() {
                None => drop(tokio::spawn(serve(Box::new(socket)))),
                Some(acceptor) => drop(tokio::spawn(async move {
                    if let Ok(session) = acceptor.accept(socket).await {
                        serve(Box::new(session)).await;
                    }
                })),
            }
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
