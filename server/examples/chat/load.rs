//! The load: many listeners and one talker, in a process of their own.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::{Barrier, Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::common::Error;

/// The most lines that the listeners may be behind the talker; then the talker waits.
const AHEAD: usize = 16;
/// The approximate number of deliveries.
const DELIVERIES: usize = 1_000_000;
/// The descriptors that a process has open besides the connections.
const OTHERS: usize = 64;
/// The longest wait of a listener for a line; then a line was lost.
const PATIENCE: Duration = Duration::from_secs(20);

/// Raises the limit of descriptors to its maximum; fails if that is not enough.
pub fn check_descriptors(clients: usize) -> Result<(), Error> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let needed = clients + OTHERS;
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < needed as u64 => Err(format!(
            "--load {clients} takes {needed} descriptors in each of two processes, and a process \
             may open {limit}: see ulimit -n"
        )
        .into()),
        _ => Ok(()),
    }
}

/// Runs the listeners and the talker in another process, which has descriptors of its own.
pub async fn run(address: &str, clients: usize) -> Result<ExitCode, Error> {
    let mut crowd = Command::new(std::env::current_exe()?);
    crowd.args(["--listen", address, "--crowd", &clients.to_string()]).kill_on_drop(true);
    let output = crowd.output().await?;
    print!("\n{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    Ok(if output.status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The state that the listeners and the talker share.
struct Crowd {
    lines: usize,
    heard: AtomicUsize,
    progress: Notify,
    /// Releases the talker when all listeners are in the room.
    in_room: Barrier,
    connecting: Semaphore,
}

/// The main function of the other process.
pub async fn crowd(address: &str, clients: usize) -> Result<ExitCode, Error> {
    check_descriptors(clients)?;
    let crowd = Arc::new(Crowd {
        lines: (DELIVERIES / clients).clamp(20, 10_000),
        heard: AtomicUsize::new(0),
        progress: Notify::new(),
        in_room: Barrier::new(clients + 1),
        connecting: Semaphore::new(128),
    });
    let start = Instant::now();
    let mut listeners = JoinSet::new();
    for number in 0..clients {
        let (crowd, address) = (crowd.clone(), address.to_owned());
        listeners.spawn(async move {
            let heard = crowd.listen(&address, clients).await;
            heard.map_err(|error| format!("listener {number}: {error}"))
        });
    }
    let talk = async {
        let mut talker = enter(address, "talker\n", "* talker has come").await?;
        crowd.in_room.wait().await;
        let (connected, start) = (start.elapsed(), Instant::now());
        for line in 0..crowd.lines {
            while crowd.heard.load(Relaxed) < line.saturating_sub(AHEAD) * clients {
                crowd.progress.notified().await;
            }
            talker.write_all(format!("line {line}\n").as_bytes()).await?;
        }
        while crowd.heard.load(Relaxed) < crowd.lines * clients {
            crowd.progress.notified().await;
        }
        Ok::<_, Error>((connected, start.elapsed()))
    };
    let fails = async {
        while let Some(listener) = listeners.join_next().await {
            listener??;
        }
        // All listeners have ended well; the talker ends the load.
        std::future::pending::<Result<(), Error>>().await
    };
    let (connected, took) = tokio::select! {
        talked = talk => talked?,
        failed = fails => return failed.map(|()| ExitCode::FAILURE),
    };
    let deliveries = crowd.lines * clients;
    println!(
        "{clients} listeners came in {:.1} s; each heard {} lines, all in order: {:.0} deliveries \
         per second",
        connected.as_secs_f64(),
        crowd.lines,
        deliveries as f64 / took.as_secs_f64()
    );
    Ok(ExitCode::SUCCESS)
}

impl Crowd {
    async fn listen(&self, address: &str, clients: usize) -> Result<(), Error> {
        let connecting = self.connecting.acquire().await?;
        let mut stream = enter(address, "\n", "* you listen").await?;
        drop(connecting);
        self.in_room.wait().await;
        let mut text = String::new();
        for line in 0..self.lines {
            read(&mut stream, &mut text).await?;
            // The talker may enter after some listeners.
            if line == 0 && text == "* talker has come\n" {
                read(&mut stream, &mut text).await?;
            }
            if text != format!("talker: line {line}\n") {
                return Err(format!("heard {text:?} instead of line {line}").into());
            }
            if (self.heard.fetch_add(1, Relaxed) + 1) % clients == 0 {
                self.progress.notify_one();
            }
        }
        Ok(())
    }
}

/// Enters the room, and waits for the line that confirms it.
async fn enter(address: &str, name: &str, word: &str) -> Result<BufReader<TcpStream>, Error> {
    let mut stream = BufReader::with_capacity(1024, TcpStream::connect(address).await?);
    stream.write_all(name.as_bytes()).await?;
    let mut text = String::new();
    while text.trim_end() != word {
        read(&mut stream, &mut text).await?;
    }
    Ok(stream)
}

async fn read(stream: &mut BufReader<TcpStream>, text: &mut String) -> Result<(), Error> {
    text.clear();
    match timeout(PATIENCE, stream.read_line(text)).await {
        Err(_) => Err("nothing came".into()),
        Ok(Ok(0)) => Err("closed by the server".into()),
        Ok(read) => Ok(read.map(drop)?),
    }
}
