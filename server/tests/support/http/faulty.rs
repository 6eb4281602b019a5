//! Servers that corrupt their replies, each in one way. A comparison that does not notice is of no
//! value.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::app::App;
use super::oracle;
use super::reply::find;
use super::target::{Running, Sent};

macro_rules! faults {
    ($($fault:ident),+ $(,)?) => {
        #[derive(Clone, Copy, Debug)]
        pub enum Fault {
            $($fault),+
        }

        impl Fault {
            pub const ALL: &[Self] = &[$(Self::$fault),+];
        }
    };
}

faults! {
    None,
    DropsByte,
    DoublesByte,
    ChangesByte,
    AddsHeader,
    LosesReply,
    ClosesEarly,
    StaysOpen,
}

struct Proxy {
    address: SocketAddr,
    accepting: JoinHandle<()>,
    _behind: Box<dyn Running>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Running for Proxy {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn is_at_rest(&self, _: &[Sent]) -> bool {
        false
    }
}

pub async fn start(app: App, fault: Fault) -> Box<dyn Running> {
    let behind = oracle::axum(app, false).await;
    let to = behind.address();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(to).await.unwrap();
            tokio::spawn(pass(client, server, fault));
        }
    });
    Box::new(Proxy { address, accepting, _behind: behind })
}

async fn pass(client: TcpStream, server: TcpStream, fault: Fault) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let requests = tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
        let _ = to_server.shutdown().await;
        if matches!(fault, Fault::StaysOpen) {
            std::future::pending::<()>().await;
        }
    });
    let mut first = true;
    loop {
        let mut bytes = Vec::with_capacity(64 << 10);
        match from_server.read_buf(&mut bytes).await {
            Ok(1..) => {}
            _ => break,
        }
        if std::mem::take(&mut first) {
            spoil(&mut bytes, fault);
        }
        if to_client.write_all(&bytes).await.is_err() || matches!(fault, Fault::ClosesEarly) {
            requests.abort();
            break;
        }
    }
    if matches!(fault, Fault::StaysOpen) {
        std::future::pending::<()>().await;
    }
}

fn spoil(bytes: &mut Vec<u8>, fault: Fault) {
    let last = bytes.len() - 1;
    match fault {
        Fault::None | Fault::ClosesEarly | Fault::StaysOpen => {}
        Fault::DropsByte => drop(bytes.remove(last)),
        Fault::DoublesByte => bytes.push(bytes[last]),
        Fault::ChangesByte => bytes[last] ^= 1,
        Fault::AddsHeader => {
            let at = find(bytes, b"\r\n").expect("a reply has lines") + 2;
            bytes.splice(at..at, *b"connection: close\r\n");
        }
        Fault::LosesReply => bytes.clear(),
    }
}
