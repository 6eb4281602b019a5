//! What others wait for on a server with one thread, beside peers that pipeline without end, or beside
//! handlers that compute.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::connections::{Poller, connect};

const QUICK: &[u8] = b"GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n";
const BUSY: &[u8] = b"GET /busy/a HTTP/1.1\r\nhost: localhost\r\n\r\n";
const SLEEP: &[u8] = b"GET /sleep/a HTTP/1.1\r\nhost: localhost\r\n\r\n";
/// The end of every answer.
const END: &[u8] = b"\"}";
/// Requests that a pipelining peer hands to its socket at once.
const PIPELINED: usize = 450;
/// Before the others are measured.
const HEAD_START: Duration = Duration::from_millis(300);
/// Between two requests of one that is measured.
const PAUSE: Duration = Duration::from_millis(3);
/// The longest wait that is told.
const PATIENCE: Duration = Duration::from_secs(10);

/// Tells in ms how long a new connection, an established one and a `sleep(5 ms)` in a handler wait, beside
/// so many peers that pipeline and so many connections with handlers of 1 ms.
pub fn waits(
    address: SocketAddr,
    pipelining: usize,
    computing: usize,
    time: Duration,
) -> io::Result<String> {
    let stop = AtomicBool::new(false);
    let (stop, pause) = (&stop, HEAD_START);
    thread::scope(|scope| {
        let flood = scope.spawn(move || pipeline(address, pipelining, stop));
        let load = scope.spawn(move || compute(address, computing, stop));
        thread::sleep(pause);
        let kept = |request, found: fn(&[u8], Duration) -> Duration| {
            let mut stream = TcpStream::connect(address);
            probes(time, move || {
                let stream = stream.as_mut().map_err(|error| io::Error::from(error.kind()))?;
                let start = Instant::now();
                let answer = exchange(stream, request)?;
                Ok(found(&answer, start.elapsed()))
            })
        };
        let new = scope.spawn(move || {
            probes(time, || {
                let start = Instant::now();
                exchange(&mut TcpStream::connect(address)?, QUICK)?;
                Ok(start.elapsed())
            })
        });
        let old = scope.spawn(move || kept(QUICK, |_, waited| waited));
        let sleeping = scope.spawn(move || kept(SLEEP, slept));
        let told = [("new", new), ("established", old), ("sleep", sleeping)]
            .map(|(name, probe)| Ok(quantiles(name, probe.join().expect("no panic")?)));
        stop.store(true, Ordering::Relaxed);
        let requests = load.join().expect("no panic")?;
        let bytes = flood.join().expect("no panic")?;
        let told: io::Result<Vec<String>> = told.into_iter().collect();
        Ok(format!("{} answers={requests} megabytes={}", told?.join(" "), bytes / 1_000_000))
    })
}

/// Measures again and again until the time is over.
fn probes(
    time: Duration,
    mut one: impl FnMut() -> io::Result<Duration>,
) -> io::Result<Vec<Duration>> {
    let start = Instant::now();
    let mut waits = Vec::new();
    while start.elapsed() < time {
        waits.push(one()?);
        thread::sleep(PAUSE);
    }
    Ok(waits)
}

fn quantiles(name: &str, mut waits: Vec<Duration>) -> String {
    waits.sort();
    let at = |part: f64| waits[((waits.len() - 1) as f64 * part).round() as usize].as_secs_f64();
    format!("{name}50={} {name}95={}", at(0.5) * 1e3, at(0.95) * 1e3)
}

/// The handler tells in its answer how many µs its sleep took.
fn slept(answer: &[u8], _: Duration) -> Duration {
    let text = String::from_utf8_lossy(answer);
    let told = text.rsplit('"').nth(1).and_then(|told| told.parse().ok());
    told.map_or(PATIENCE, Duration::from_micros)
}

fn exchange(stream: &mut TcpStream, request: &[u8]) -> io::Result<Vec<u8>> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let (mut got, mut buffer) = (Vec::new(), [0; 1_024]);
    while !got.ends_with(END) {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => got.extend_from_slice(&buffer[..read]),
        }
    }
    match got.starts_with(b"HTTP/1.1 200 ") {
        true => Ok(got),
        false => Err(io::Error::other(got.escape_ascii().to_string())),
    }
}

/// Peers that send as much as their sockets take, and read what has come. Returns the bytes read.
fn pipeline(address: SocketAddr, peers: usize, stop: &AtomicBool) -> io::Result<u64> {
    let (mut poller, mut all) = (Poller::new()?, Vec::new());
    for at in 0..peers {
        let stream = connect(address, 0)?;
        poller.add(&stream, at, EventFlags::IN | EventFlags::OUT)?;
        all.push((stream, 0));
    }
    let requests = QUICK.repeat(PIPELINED);
    let (mut buffer, mut total) = (vec![0; 64 * 1_024], 0);
    while !stop.load(Ordering::Relaxed) {
        let mut moved = false;
        for (stream, sent) in &mut all {
            if let Some(read) = unless_it_blocks(stream.read(&mut buffer))? {
                total += read as u64;
                moved = true;
            }
            if let Some(written) = unless_it_blocks(stream.write(&requests[*sent..]))? {
                *sent = (*sent + written) % requests.len();
                moved = true;
            }
        }
        if !moved {
            poller.wait(Duration::from_millis(100)).for_each(drop);
        }
    }
    Ok(total)
}

/// Connections with one request of 1 ms each, the next one as soon as it is answered. Returns the answers.
fn compute(address: SocketAddr, count: usize, stop: &AtomicBool) -> io::Result<u64> {
    let (mut poller, mut all) = (Poller::new()?, Vec::new());
    for at in 0..count {
        let mut stream = connect(address, 0)?;
        poller.add(&stream, at, EventFlags::IN)?;
        stream.write_all(BUSY)?;
        all.push(stream);
    }
    let (mut buffer, mut answers) = ([0; 1_024], 0);
    while !stop.load(Ordering::Relaxed) {
        for at in poller.wait(Duration::from_millis(100)) {
            // An answer is one segment, and no more is on its way.
            let Some(read) = unless_it_blocks(all[at].read(&mut buffer))? else { continue };
            if buffer[..read].ends_with(END) {
                answers += 1;
                all[at].write_all(BUSY)?;
            }
        }
    }
    Ok(answers)
}

fn unless_it_blocks(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        other => other.map(Some),
    }
}
