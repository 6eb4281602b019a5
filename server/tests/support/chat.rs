//! A handler that executes each line as a command, and records its calls.
#![allow(dead_code, unreachable_pub)]

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use millpond_server::{CloseReason, Connection, Handler, Server, ServerBuilder, TrySendError};
use tokio_util::codec::LinesCodec;

use super::server::BoxError;
use super::{Gate, Gauge, eventually, settle, silent_panic};

/// A connection's number, and how many of its frames were served.
#[derive(Default)]
pub struct Served {
    pub number: AtomicUsize,
    pub frames: AtomicUsize,
}

pub type Caller = Connection<String, Served>;

#[derive(Clone)]
pub struct Chat {
    log: Arc<Log>,
    _owner: Option<Arc<Owner>>,
}

/// Forgets the connections when the test ends. They keep their server's handler, and that keeps the log.
struct Owner(Arc<Log>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.peers.lock().unwrap().clear();
    }
}

#[derive(Default)]
struct Log {
    greeting: Option<&'static str>,
    peers: Mutex<Vec<Caller>>,
    ends: Mutex<Vec<(usize, CloseReason)>>,
    gate: Option<Gate>,
    /// Calls of `on_frame` that are under way.
    at_work: Gauge,
}

impl Default for Chat {
    fn default() -> Self {
        Self::of(Log::default())
    }
}

impl Chat {
    pub fn new() -> Self {
        Self::of(Log { gate: Some(Gate::new()), ..Log::default() })
    }

    fn of(log: Log) -> Self {
        let log = Arc::new(log);
        Self { _owner: Some(Arc::new(Owner(log.clone()))), log }
    }

    /// Makes a handler that executes `line` in `on_open`.
    pub fn greeting(line: &'static str) -> Self {
        let gate = Some(Gate::new());
        Self::of(Log { gate, greeting: Some(line), ..Log::default() })
    }

    pub fn serve(&self, builder: ServerBuilder) -> Server {
        let handler = Self { log: self.log.clone(), _owner: None };
        builder.codec(LinesCodec::new()).handle(handler).unwrap()
    }

    /// The connections, in the order of `on_open`.
    pub fn peers(&self) -> Vec<Caller> {
        self.log.peers.lock().unwrap().clone()
    }

    /// Waits until `count` connections were opened.
    pub async fn came(&self, count: usize) -> Vec<Caller> {
        eventually(|| self.peers().len() == count).await;
        self.peers()
    }

    /// The calls of `on_close`: connection and reason.
    pub fn ends(&self) -> Vec<(usize, CloseReason)> {
        self.log.ends.lock().unwrap().clone()
    }

    pub fn gate(&self) -> &Gate {
        self.log.gate.as_ref().unwrap()
    }

    pub fn at_work(&self) -> &Gauge {
        &self.log.at_work
    }

    async fn act(&self, peer: &Caller, line: &str) -> Result<(), BoxError> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("panic", _) => silent_panic("as it was told"),
            ("fail", _) => return Err("as it was told".into()),
            ("wait", _) => self.gate().wait().await,
            // Another thread sends `text` within this very poll. Then the handler waits.
            ("thread", text) => {
                let (peer, text) = (peer.clone(), text.to_owned());
                std::thread::spawn(move || peer.try_send(text).unwrap()).join().unwrap();
                self.gate().wait().await;
            }
            ("close", _) => {
                peer.send("bye".to_owned()).await?;
                peer.close();
            }
            // Sends `count` lines of a thousand bytes.
            ("many", count) => {
                for n in 0..count.parse()? {
                    peer.send(thousand(n)).await?;
                }
            }
            _ => peer.send(line.to_owned()).await?,
        }
        Ok(())
    }
}

/// A line of a thousand bytes with its end.
pub fn thousand(n: usize) -> String {
    format!("{n:0>999}")
}

/// Sends until the send buffer and the kernel's buffers are full. Returns the number of frames.
pub async fn fill_up(peer: &Caller) -> usize {
    let mut sent = 0;
    loop {
        match peer.try_send(thousand(sent)) {
            Ok(()) => sent += 1,
            Err(TrySendError::Full(line)) => {
                assert_eq!(line, thousand(sent));
                let before = sent;
                // The kernel's buffers may take more.
                for _ in 0..10 {
                    settle().await;
                    while peer.try_send(thousand(sent)).is_ok() {
                        sent += 1;
                    }
                }
                if sent == before {
                    return sent;
                }
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

impl Handler for Chat {
    type In = String;
    type Out = String;
    type State = Served;

    fn on_open(&self, peer: &Caller) -> impl Future<Output = Result<(), BoxError>> + Send {
        let number = {
            let mut peers = self.log.peers.lock().unwrap();
            peers.push(peer.clone());
            peers.len() - 1
        };
        peer.state().number.store(number, SeqCst);
        async move {
            match self.log.greeting {
                Some(line) => self.act(peer, line).await,
                None => Ok(()),
            }
        }
    }

    async fn on_frame(&self, peer: &Caller, line: String) -> Result<(), BoxError> {
        let _inside = self.log.at_work.enter();
        peer.state().frames.fetch_add(1, SeqCst);
        self.act(peer, &line).await
    }

    fn on_close(&self, peer: &Caller, reason: CloseReason) {
        assert!(peer.is_closed());
        let number = peer.state().number.load(SeqCst);
        self.log.ends.lock().unwrap().push((number, reason));
    }
}
