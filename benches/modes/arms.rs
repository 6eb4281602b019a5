//! What is compared, and what the servers written by hand have in common.

mod buffered;
mod framed;
mod http;
mod leanest;
mod two_tasks;
mod ws;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::frames::FRAME;
use crate::ours;
use crate::protocol::Protocol;

pub use self::http::{AXUM, HTTP1};

/// The keys of the arms without HTTP that others speak of.
pub const DEDICATED: &str = "dedicated";
pub const EVENT_DRIVEN: &str = "event-driven";
pub const LEANEST: &str = "leanest";

pub struct Arm {
    /// What `--arms` calls it.
    pub key: &'static str,
    pub label: &'static str,
    pub what: &'static str,
    pub protocol: Protocol,
}

/// Arms that `--write` measures only where `--arms` names them: without them five rounds with one and two
/// worker threads take ten minutes.
const UNPUBLISHED: [&str; 3] = ["two-tasks", "buffered", http::AUTO];

impl Arm {
    pub fn is_published(&self) -> bool {
        !UNPUBLISHED.contains(&self.key)
    }

    /// The label for a column of that width.
    pub fn short(&self, width: usize) -> String {
        let short = match self.label {
            "millpond, dedicated" => "dedicated",
            "millpond, event-driven" => "parked",
            label => label,
        };
        short.chars().take(width).collect()
    }
}

/// What the others are compared with.
pub fn reference(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Echo => LEANEST,
        Protocol::Http => HTTP1,
        Protocol::Ws => ws::AXUM,
    }
}

const ECHO: [Arm; 6] = [
    Arm {
        key: DEDICATED,
        label: "millpond, dedicated",
        what: "millpond's server, a task per connection",
        protocol: Protocol::Echo,
    },
    Arm {
        key: EVENT_DRIVEN,
        label: "millpond, event-driven",
        what: "millpond's server, idle connections parked",
        protocol: Protocol::Echo,
    },
    Arm {
        key: "two-tasks",
        label: "two tasks",
        what: "a reading and a writing task per connection, a bounded channel between them, \
               4 KiB of buffer each",
        protocol: Protocol::Echo,
    },
    Arm {
        key: "buffered",
        label: "task, 4 KiB buffer",
        what: "a task per connection that reads into a buffer of its own",
        protocol: Protocol::Echo,
    },
    Arm {
        key: "framed",
        label: "Framed",
        what: "a task per connection around tokio-util's `Framed`, flushed when nothing is left \
               to decode",
        protocol: Protocol::Echo,
    },
    Arm {
        key: LEANEST,
        label: "leanest",
        what: "a task per connection that waits without a buffer, borrows one from its thread to \
               read, and boxes what is needed only while it is active",
        protocol: Protocol::Echo,
    },
];

pub fn offered(protocol: Protocol) -> impl Iterator<Item = &'static Arm> {
    ECHO.iter().chain(&http::ARMS).chain(&ws::ARMS).filter(move |arm| arm.protocol == protocol)
}

pub fn find(key: &str) -> Result<&'static Arm, String> {
    let all = || ECHO.iter().chain(&http::ARMS).chain(&ws::ARMS);
    let known = || all().map(|arm| arm.key).collect::<Vec<_>>().join(", ");
    let found = all().find(|arm| arm.key == key);
    found.ok_or_else(|| format!("there is no arm {key:?}; there are {}", known()))
}

#[derive(Clone, Copy)]
pub struct Setup {
    pub handler: Handler,
    /// More than will ever be open at once.
    pub connections: usize,
}

/// What is done with a request before it goes back.
#[derive(Clone, Copy)]
pub struct Handler {
    pub delay: Duration,
}

impl Handler {
    pub async fn work(self) {
        if !self.delay.is_zero() {
            // Boxed: a timer would have its place in every task, also where there is no delay.
            Box::pin(tokio::time::sleep(self.delay)).await;
        }
    }

    /// Does the work of all whole frames, one after another; gives their length.
    pub async fn work_through(self, bytes: &[u8]) -> usize {
        let frames = bytes.len() / FRAME;
        if !self.delay.is_zero() {
            let each = async move {
                for _ in 0..frames {
                    self.work().await;
                }
            };
            Box::pin(each).await;
        }
        frames * FRAME
    }
}

/// Inside the runtime. The server runs until the process ends.
pub async fn start(arm: &Arm, setup: Setup) -> io::Result<SocketAddr> {
    let handler = setup.handler;
    match arm.protocol {
        Protocol::Echo => {}
        Protocol::Http => return http::start(arm.key, setup).await,
        Protocol::Ws => return ws::start(arm.key, setup).await,
    }
    match arm.key {
        "two-tasks" => accept(move |stream| two_tasks::serve(stream, handler)),
        "buffered" => accept(move |stream| buffered::serve(stream, handler)),
        "framed" => accept(move |stream| framed::serve(stream, handler)),
        LEANEST => accept(move |stream| leanest::serve(stream, handler)),
        mode => ours::start(mode, setup).await,
    }
}

fn listener() -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    socket.listen(4_096)
}

fn accept<S, F>(serve: S) -> io::Result<SocketAddr>
where
    S: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let listener = listener()?;
    let address = listener.local_addr()?;
    // A task, as the thread in `block_on` is not a worker.
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    if stream.set_nodelay(true).is_ok() {
                        tokio::spawn(serve(stream));
                    }
                }
                // Out of descriptors, most likely: no reason to spin.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    Ok(address)
}
