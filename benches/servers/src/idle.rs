//! Connections that have made one request each and are left alone: plain, over TLS, HTTP/2, WebSockets.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};

/// The kinds of idle connections, and how many of each.
pub const KINDS: [(&str, usize); 4] =
    [("plain", 8_000), ("tls", 1_000), ("ws", 1_000), ("h2", 2_000)];

const GET: &[u8] = b"GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n";
const ANSWER: &[u8] = b"{\"id\":\"a\"}";
const UPGRADE: &[u8] =
    b"GET /ws HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// The preface, empty settings, and `GET /a` with its headers in HPACK.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
    \0\0\x11\x01\x05\0\0\0\x01\x82\x86\x04\x02/a\x41\x09localhost";
const ACKNOWLEDGED: &[u8] = b"\0\0\0\x04\x01\0\0\0\0";

pub fn open(kind: &str, address: SocketAddr, count: usize) -> Result<Vec<TcpStream>, String> {
    let tls = if kind == "tls" { Some(config()?) } else { None };
    let one = |number| {
        one(kind, address, tls.as_ref()).map_err(|error| format!("{kind} {number}: {error}"))
    };
    (0..count).map(one).collect()
}

fn one(kind: &str, address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> io::Result<TcpStream> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    match (kind, tls) {
        (_, Some(config)) => {
            let name = ServerName::try_from("localhost").expect("a name");
            let session = ClientConnection::new(config.clone(), name);
            let mut session = session.map_err(io::Error::other)?;
            exchange(&mut Stream::new(&mut session, &mut socket), GET, ANSWER)?;
        }
        ("ws", _) => exchange(&mut socket, UPGRADE, b"\r\n\r\n")?,
        ("h2", _) => {
            exchange(&mut socket, HTTP2, ANSWER)?;
            socket.write_all(ACKNOWLEDGED)?;
        }
        _ => exchange(&mut socket, GET, ANSWER)?,
    }
    Ok(socket)
}

/// Sends a request and reads until the answer ends as expected.
fn exchange(io: &mut (impl Read + Write), request: &[u8], end: &[u8]) -> io::Result<()> {
    io.write_all(request)?;
    io.flush()?;
    let (mut got, mut buffer) = (Vec::new(), [0; 4096]);
    while !got.windows(end.len()).any(|part| part == end) {
        match io.read(&mut buffer)? {
            0 => {
                return Err(io::Error::other(format!(
                    "the end after {:?}",
                    got.escape_ascii().to_string()
                )));
            }
            count => got.extend_from_slice(&buffer[..count]),
        }
    }
    let refused = got.starts_with(b"HTTP/1.1 ") && !matches!(&got[9..12], b"200" | b"101");
    match refused {
        true => Err(io::Error::other(String::from_utf8_lossy(&got).into_owned())),
        false => Ok(()),
    }
}

fn config() -> Result<Arc<ClientConfig>, String> {
    let pem = fs::read(crate::folder()?.join("cert.pem")).map_err(|error| error.to_string())?;
    let cert = CertificateDer::from_pem_slice(&pem).map_err(|error| format!("{error:?}"))?;
    let mut roots = RootCertStore::empty();
    roots.add(cert).map_err(|error| error.to_string())?;
    Ok(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
}
