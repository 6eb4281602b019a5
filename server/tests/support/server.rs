//! Servers and clients for the tests of framed servers: each test runs in both modes, with and
//! without TLS.
#![allow(dead_code, unreachable_pub)]

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::panic::Location;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use millpond_server::{CloseReason, Mode, Server, ServerBuilder, ServerStatus};
use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf,
};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio_util::codec::LinesCodec;
use tower::util::BoxCloneSyncService;

use super::patience::Patience;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The mode of a test's server, and whether its connections use TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    pub mode: Mode,
    pub tls: bool,
}

pub const DEDICATED: Case = Case { mode: Mode::Dedicated, tls: false };
pub const EVENT_DRIVEN: Case = Case { mode: Mode::EventDriven, tls: false };
#[cfg(feature = "rustls")]
pub const DEDICATED_TLS: Case = Case { mode: Mode::Dedicated, tls: true };
#[cfg(feature = "rustls")]
pub const EVENT_DRIVEN_TLS: Case = Case { mode: Mode::EventDriven, tls: true };

/// Makes a test for each [`Case`] of functions that take one.
#[allow(unused_macros)]
macro_rules! in_all_cases {
    ($run:ident: $($name:ident),+ $(,)?) => {$(
        mod $name {
            use crate::support::server::*;

            #[test]
            fn dedicated() {
                $run(super::$name(DEDICATED));
            }

            #[test]
            fn event_driven() {
                $run(super::$name(EVENT_DRIVEN));
            }

            #[cfg(feature = "rustls")]
            #[test]
            fn dedicated_tls() {
                $run(super::$name(DEDICATED_TLS));
            }

            #[cfg(feature = "rustls")]
            #[test]
            fn event_driven_tls() {
                $run(super::$name(EVENT_DRIVEN_TLS));
            }
        }
    )+};
}

/// The same without TLS, where TLS makes no difference or is not possible.
#[allow(unused_macros)]
macro_rules! in_both_modes {
    ($run:ident: $($name:ident),+ $(,)?) => {$(
        mod $name {
            use crate::support::server::*;

            #[test]
            fn dedicated() {
                $run(super::$name(DEDICATED));
            }

            #[test]
            fn event_driven() {
                $run(super::$name(EVENT_DRIVEN));
            }
        }
    )+};
}

#[allow(unused_imports)]
pub(crate) use {in_all_cases, in_both_modes};

#[allow(unused_imports)]
pub use super::{paused, single};

/// Runs a test on a runtime of two threads.
#[track_caller]
pub fn double(body: impl Future<Output = ()> + Send + 'static) {
    super::multi(2, body);
}

/// The same, for what takes long on a machine with other work.
#[track_caller]
pub fn double_for_long(body: impl Future<Output = ()> + Send + 'static) {
    super::multi_for(Duration::from_secs(180), 2, body);
}

impl Case {
    /// Makes the stream of an HTTP/2 client.
    pub async fn http2_stream(self, tcp: TcpStream) -> Stream {
        match self.tls {
            #[cfg(feature = "rustls")]
            true => Stream::Tls(Box::new(no_time(tls::connect_http2(tcp)).await.unwrap())),
            _ => Stream::Plain(tcp),
        }
    }

    /// Returns the builder of a server with a port of its own.
    pub fn builder(self) -> ServerBuilder {
        self.listening("127.0.0.1:0")
    }

    /// Returns the builder of a server whose connections have small send buffers in the kernel. With a
    /// client of [`connect_narrow`](Self::connect_narrow), some 300 KB fill such a connection.
    pub fn narrow_builder(self) -> ServerBuilder {
        self.listening(narrow_listener())
    }

    /// Returns the builder of a server whose connections have the smallest send buffers that there are.
    pub fn smallest_builder(self) -> ServerBuilder {
        self.listening(buffered_listener(1))
    }

    fn listening(self, listen: impl millpond_server::IntoListen) -> ServerBuilder {
        let builder = Server::builder().listen(listen).mode(self.mode);
        #[cfg(feature = "rustls")]
        if self.tls {
            return builder.tls(tls::server());
        }
        builder
    }

    /// Returns a builder without any deadline.
    pub fn no_deadlines(self) -> ServerBuilder {
        self.builder()
            .first_byte_timeout(None)
            .handshake_timeout(None)
            .frame_timeout(None)
            .idle_timeout(None)
            .write_timeout(None)
    }

    /// Starts a server that echoes each line.
    pub fn echo(self) -> Server {
        echo(self.builder())
    }

    pub async fn connect(self, server: &Server) -> Client {
        self.try_connect(server).await.unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }

    pub async fn try_connect(self, server: &Server) -> io::Result<Client> {
        self.secure(TcpStream::connect(server.local_addrs()[0]).await?).await
    }

    /// Connects with a given socket, which may have an address and options.
    pub async fn connect_by(self, server: &Server, socket: TcpSocket) -> io::Result<Client> {
        self.secure(socket.connect(server.local_addrs()[0]).await?).await
    }

    pub async fn connect_from(self, server: &Server, ip: &str) -> io::Result<Client> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(ip.parse().unwrap(), 0))?;
        self.connect_by(server, socket).await
    }

    /// Connects with a small receive buffer in the kernel. The kernel lets a buffer grow whose size is
    /// not set, to 6 MB and more. So a test that needs a full socket sets the sizes on both sides.
    pub async fn connect_narrow(self, server: &Server) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        self.connect_by(server, socket).await.unwrap()
    }

    pub async fn secure(self, tcp: TcpStream) -> io::Result<Client> {
        tcp.set_nodelay(true)?;
        #[cfg(feature = "rustls")]
        if self.tls {
            return Ok(Client::new(Stream::Tls(Box::new(tls::connect(tcp).await?))));
        }
        Ok(Client::new(Stream::Plain(tcp)))
    }
}

/// A port whose connections have a small send buffer in the kernel, which does not grow.
pub fn narrow_listener() -> std::net::TcpListener {
    buffered_listener(128 * 1024)
}

/// A port whose connections have a send buffer of about this size in the kernel.
pub fn buffered_listener(bytes: usize) -> std::net::TcpListener {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // An accepted socket has the sizes of its listener.
    socket2::SockRef::from(&listener).set_send_buffer_size(bytes).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

pub fn echo(builder: ServerBuilder) -> Server {
    let echo = |line: String| async move { Ok::<_, Infallible>(Some(line)) };
    builder.codec(LinesCodec::new()).serve(service_fn(echo)).unwrap()
}

/// Makes a service whose type does not depend on the function. Each type of service costs a test program
/// the code of a whole server.
pub fn service_fn<Q, R, E, F>(
    call: impl Fn(Q) -> F + Clone + Send + Sync + 'static,
) -> BoxCloneSyncService<Q, R, E>
where
    Q: 'static,
    R: 'static,
    E: 'static,
    F: Future<Output = Result<R, E>> + Send + 'static,
{
    BoxCloneSyncService::new(tower::service_fn(call))
}

/// A client's end of a connection.
pub struct Client(BufReader<Stream>);

pub enum Stream {
    Plain(TcpStream),
    #[cfg(feature = "rustls")]
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

impl Client {
    fn new(stream: Stream) -> Self {
        Self(BufReader::with_capacity(16 * 1024, stream))
    }

    pub fn tcp(&self) -> &TcpStream {
        self.0.get_ref().tcp()
    }

    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.0.write_all(bytes.as_ref()).await?;
        self.0.flush().await
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).await.unwrap();
    }

    /// Reads the next line. Returns it without its end.
    pub async fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        assert!(line.ends_with('\n'), "the stream ended after {line:?}");
        line.trim_end().to_owned()
    }

    /// Reads the next line, or what precedes the end of the stream. Returns that with its end.
    pub async fn try_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).await.map(|_| line)
    }

    /// Sends a line and waits for its echo.
    pub async fn ask(&mut self, line: &str) {
        self.send(format!("{line}\n")).await;
        assert_eq!(self.line().await, line);
    }

    pub async fn read_exact(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    /// Reads until `parse` finds a value in what has come, and leaves what follows that value.
    pub async fn read_until<T>(&mut self, parse: impl Fn(&[u8]) -> Option<(T, usize)>) -> T {
        let mut bytes = Vec::new();
        loop {
            let more = self.0.fill_buf().await.unwrap();
            assert!(!more.is_empty(), "the stream ended after {} bytes", bytes.len());
            let (before, count) = (bytes.len(), more.len());
            bytes.extend_from_slice(more);
            if let Some((value, length)) = parse(&bytes) {
                self.0.consume(length - before);
                return value;
            }
            self.0.consume(count);
        }
    }

    /// Reads once, at most `count` bytes.
    pub async fn read_some(&mut self, count: usize) -> io::Result<usize> {
        self.0.read(&mut vec![0; count]).await
    }

    pub async fn read_into(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes).await
    }

    /// Reads to the end of the stream, which must not be an error.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.0.read_to_end(&mut bytes).await.unwrap();
        bytes
    }

    pub async fn rest_text(&mut self) -> String {
        String::from_utf8(self.rest().await).unwrap()
    }

    /// Reads until the stream ends or fails. Returns what came before.
    pub async fn gone(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = self.0.read_to_end(&mut bytes).await;
        bytes
    }

    /// Ends the client's side.
    pub async fn finish(&mut self) {
        self.0.shutdown().await.unwrap();
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        let linger = socket2::SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO));
        linger.unwrap();
    }

    /// Returns whether the connection is open and has nothing to be read.
    pub async fn is_silent(&mut self) -> bool {
        super::settle().await;
        super::poll(&mut Box::pin(self.0.fill_buf())).is_pending()
    }
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            #[cfg(feature = "rustls")]
            Self::Tls(tls) => tls.get_ref().0,
        }
    }
}

macro_rules! to_stream {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Self::Plain(stream) => {
                let $stream = Pin::new(stream);
                $call
            }
            #[cfg(feature = "rustls")]
            Self::Tls(stream) => {
                let $stream = Pin::new(stream.as_mut());
                $call
            }
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        to_stream!(self, stream => stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        to_stream!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        to_stream!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        to_stream!(self, stream => stream.poll_shutdown(cx))
    }
}

/// Runs a future while a paused clock stands still. tokio's clock advances when the runtime is
/// idle; this keeps the runtime busy while the kernel works. The future itself is polled only when
/// it was woken. The clock of a runtime with several threads cannot be paused, so nothing is kept busy
/// there.
#[track_caller]
pub fn no_time<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let (at, mut patience) = (Location::caller(), Patience::new(Duration::from_secs(25)));
    let single = Handle::current().runtime_flavor() == RuntimeFlavor::CurrentThread;
    let mut future = super::woken(future);
    poll_fn(move |cx| {
        let polled = Pin::new(&mut future).poll(cx);
        if polled.is_pending() {
            assert!(patience.lasts(), "hangs: {at}");
            if single {
                cx.waker().wake_by_ref();
            }
        }
        polled
    })
}

/// Waits until a value stays the same for 100 ms of real time, while the kernel may have work left. Of a
/// time in which this thread did not run, a millisecond counts: the kernel may not have run either. A
/// paused clock stands still meanwhile.
pub async fn unchanged<T: PartialEq>(mut value: impl FnMut() -> T) {
    let (mut last, mut quiet) = (value(), Duration::ZERO);
    while quiet < Duration::from_millis(100) {
        let before = Instant::now();
        tokio::task::yield_now().await;
        let now = value();
        quiet = if now == last {
            quiet + before.elapsed().min(Duration::from_millis(1))
        } else {
            Duration::ZERO
        };
        last = now;
    }
}

/// Checks the accounting law of the server's status.
#[track_caller]
pub fn accounted(server: &Server) -> ServerStatus {
    let status = server.status();
    let known = status.refused_full + status.refused_per_ip + status.closed;
    assert_eq!(status.accepted, known + status.open as u64, "{status:?}");
    let reasons: u64 = status.reasons().map(|(_, count)| count).sum();
    assert_eq!(status.closed, reasons, "{status:?}");
    status
}

/// Waits until no connection is open, then checks that nothing else is left.
pub async fn emptied(server: &Server) -> ServerStatus {
    let mut patience = Patience::new(Duration::from_secs(10));
    loop {
        let status = server.status();
        if (status.open, status.parked) == (0, 0) {
            break;
        }
        // The message has the status: that tells more than the location.
        assert!(patience.lasts(), "not emptied: {status:?}");
        tokio::task::yield_now().await;
    }
    let status = accounted(server);
    assert_eq!(status.send_buffered, 0, "{status:?}");
    status
}

/// Waits until exactly `count` connections are open, and all of them are parked.
pub async fn parked(server: &Server, count: usize) {
    super::eventually(|| {
        let status = server.status();
        (status.open, status.parked) == (count, count)
    })
    .await;
}

/// Waits until `count` connections have ended for a reason.
pub async fn closed_for(server: &Server, reason: CloseReason, count: u64) {
    super::eventually(|| server.status().closed_for(reason) == count).await;
}

#[cfg(feature = "rustls")]
pub mod tls {
    use std::io;
    use std::sync::{Arc, OnceLock};

    use tokio::net::TcpStream;
    use tokio_rustls::client::TlsStream;
    use tokio_rustls::rustls::crypto::ring::default_provider;
    use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
    use tokio_rustls::{TlsConnector, rustls};

    struct Configs {
        server: Arc<ServerConfig>,
        client: Arc<ClientConfig>,
    }

    /// The server's and the client's configuration, for a certificate of this run.
    fn configs() -> &'static Configs {
        static CONFIGS: OnceLock<Configs> = OnceLock::new();
        CONFIGS.get_or_init(|| {
            let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
            let certificate = made.cert.der().clone();
            let key =
                PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
            let provider = Arc::new(default_provider());
            let server = ServerConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate.clone()], key)
                .unwrap();
            let mut roots = RootCertStore::empty();
            roots.add(certificate).unwrap();
            let client = ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            Configs { server: Arc::new(server), client: Arc::new(client) }
        })
    }

    pub fn server() -> Arc<ServerConfig> {
        configs().server.clone()
    }

    pub async fn connect(tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        TlsConnector::from(configs().client.clone()).connect(name(), tcp).await
    }

    /// The configuration of a server that speaks HTTP/1 and HTTP/2.
    pub fn web_server() -> Arc<ServerConfig> {
        let mut config = (*server()).clone();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// Connects, and agrees on HTTP/2.
    pub async fn connect_http2(tcp: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        connect_alpn(tcp, b"h2").await
    }

    /// Connects, offers one protocol, and gets it.
    pub async fn connect_alpn(tcp: TcpStream, protocol: &[u8]) -> io::Result<TlsStream<TcpStream>> {
        let mut config = (*configs().client).clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TlsConnector::from(Arc::new(config)).connect(name(), tcp).await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
        Ok(stream)
    }

    /// A client's side of a session, without a socket.
    pub fn client_session() -> rustls::ClientConnection {
        rustls::ClientConnection::new(configs().client.clone(), name()).unwrap()
    }

    /// The first bytes of a client: the ClientHello.
    pub fn hello() -> Vec<u8> {
        let mut session = client_session();
        let mut bytes = Vec::new();
        session.write_tls(&mut bytes).unwrap();
        bytes
    }

    fn name() -> rustls::pki_types::ServerName<'static> {
        "localhost".try_into().unwrap()
    }
}
