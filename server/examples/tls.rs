//! An axum app over TLS, and a client that verifies the certificate.
//!
//! ```text
//! cargo run --release --features http,rustls --example tls
//! cargo run --release --features http,rustls --example tls -- --stay   # until ctrl-c
//! ```
//!
//! The server takes a `rustls::ServerConfig` as it is: certificates, client certificates, ALPN and
//! the provider of cryptography are settings of rustls. An idle TLS connection is parked, too; its
//! entry then holds the TLS session. The program makes a new certificate at each start, so only the
//! program's own client trusts that.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use millpond_server::BoxError;
use millpond_server::http::Server;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig, crypto};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // rustls leaves the choice to the program; `aws_lc_rs` is the other provider.
    let _ = crypto::ring::default_provider().install_default();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let certificate = made.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())?;
    // The server speaks what ALPN chose.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

    let app = Router::new().route("/", get(|| async { "hello over TLS\n" }));
    let server = Server::builder().listen("127.0.0.1:0").tls(Arc::new(config)).serve(app)?;
    let port = server.local_addrs()[0].port();

    let mut trusted = RootCertStore::empty();
    trusted.add(certificate)?;
    println!("a client that trusts the certificate: {}", ask(port, trusted).await?.trim_end());
    let stranger = ask(port, RootCertStore::empty()).await;
    println!("a client that does not: {}", stranger.expect_err("the certificate is self-signed"));

    if std::env::args().nth(1).as_deref() == Some("--stay") {
        println!("curl --insecure https://localhost:{port}/");
        tokio::signal::ctrl_c().await?;
    }
    let report = server.shutdown(Duration::from_secs(5)).await;
    println!("{} connections cut off, {} still open", report.aborted, report.still_open);
    Ok(())
}

/// Sends a request over TLS as a client with these trusted certificates; returns the body.
async fn ask(port: u16, trusted: RootCertStore) -> Result<String, BoxError> {
    let config = ClientConfig::builder().with_root_certificates(trusted).with_no_client_auth();
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from("localhost")?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get("/").header("host", "localhost").body(Body::empty())?;
    let body = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec())?)
}
