//! The reference servers: `axum::serve`, and plain hyper. Their sockets are wrapped to count the
//! bytes that they read. So a client knows when the server has seen all that the client sent.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::app::App;
use super::target::{Running, Sent};

pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

#[derive(Default)]
struct Watch {
    read: AtomicUsize,
    at_rest: AtomicBool,
    gone: AtomicBool,
}

type Watches = Arc<Mutex<HashMap<SocketAddr, Arc<Watch>>>>;

struct Watched {
    io: Box<dyn Duplex>,
    watch: Arc<Watch>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watch.gone.store(true, SeqCst);
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        self.watch.at_rest.store(false, SeqCst);
        let polled = Pin::new(&mut self.io).poll_read(cx, buffer);
        self.watch.read.fetch_add(buffer.filled().len() - before, SeqCst);
        self.watch.at_rest.store(polled.is_pending(), SeqCst);
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Ends its tasks when dropped.
struct Oracle {
    address: SocketAddr,
    watches: Watches,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Oracle {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Running for Oracle {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn is_at_rest(&self, sent: &[Sent]) -> bool {
        let watches = self.watches.lock().unwrap();
        sent.iter().all(|sent| {
            watches.get(&sent.from).is_some_and(|watch| {
                let rests = watch.at_rest.load(SeqCst) && watch.read.load(SeqCst) == sent.bytes;
                rests || watch.gone.load(SeqCst)
            })
        })
    }
}

struct Incoming(SocketAddr, mpsc::UnboundedReceiver<(Watched, SocketAddr)>);

impl axum::serve::Listener for Incoming {
    type Io = Watched;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Watched, SocketAddr) {
        match self.1.recv().await {
            Some(accepted) => accepted,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0)
    }
}

pub async fn axum(app: App, tls: bool) -> Box<dyn Running> {
    let (send, receive) = mpsc::unbounded_channel();
    let mut oracle = listen(tls, move |watched, from| drop(send.send((watched, from)))).await;
    let incoming = Incoming(oracle.address, receive);
    oracle.tasks.push(tokio::spawn(async move {
        axum::serve(incoming, app.router()).await.unwrap();
    }));
    Box::new(oracle)
}

pub async fn hyper(app: App, tls: bool) -> Box<dyn Running> {
    let service = TowerToHyperService::new(app.router());
    let serve = move |watched, _| {
        let connection = http1::Builder::new()
            .serve_connection(TokioIo::new(watched), service.clone())
            .with_upgrades();
        tokio::spawn(async move { drop(connection.await) });
    };
    Box::new(listen(tls, serve).await)
}

async fn listen(tls: bool, serve: impl Fn(Watched, SocketAddr) + Clone + Send + 'static) -> Oracle {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let watches = Watches::default();
    let known = watches.clone();
    let accepting = tokio::spawn(async move {
        loop {
            let Ok((tcp, from)) = listener.accept().await else { continue };
            tcp.set_nodelay(true).unwrap();
            let (serve, known) = (serve.clone(), known.clone());
            let secured = async move {
                let Some(io) = secure(tcp, tls).await else { return };
                let watch = Arc::new(Watch::default());
                known.lock().unwrap().insert(from, watch.clone());
                serve(Watched { io, watch }, from);
            };
            match tls {
                true => drop(tokio::spawn(secured)),
                false => secured.await,
            }
        }
    });
    Oracle { address, watches, tasks: vec![accepting] }
}

#[cfg_attr(not(feature = "rustls"), allow(clippy::unused_async))]
async fn secure(tcp: TcpStream, tls: bool) -> Option<Box<dyn Duplex>> {
    if !tls {
        return Some(Box::new(tcp));
    }
    #[cfg(feature = "rustls")]
    {
        let config = crate::support::server::tls::server();
        let accepted = tokio_rustls::TlsAcceptor::from(config).accept(tcp).await;
        accepted.ok().map(|stream| Box::new(stream) as Box<dyn Duplex>)
    }
    #[cfg(not(feature = "rustls"))]
    unreachable!("no test asks for it")
}
