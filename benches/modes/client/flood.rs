//! A few connections that send as fast as they can, beside many that do not.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::connections::{Connections, Poller, connect};
use super::loads;
use crate::frames::{FRAME, request, stamp_of};

/// What each flow has on its way, at most.
const IN_FLIGHT: u64 = 256 * 1_024;

/// What is made and read at once.
const CHUNK: usize = 16 * 1_024;

/// For a flow to fill its pipe before the others are measured.
const HEAD_START: Duration = Duration::from_millis(200);

pub fn beside(
    connections: &mut Connections,
    flows: u64,
    rate: f64,
    active: usize,
    time: Duration,
) -> Result<String, String> {
    let address = connections.address;
    let flows: io::Result<Vec<_>> = (0..flows).map(|id| Flow::open(address, id)).collect();
    let mut flows = flows.map_err(|error| format!("a flow: {error}"))?;
    let stop = AtomicBool::new(false);
    // A thread of its own: the polite ones are not to wait for this process.
    let (polite, flooded) = thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(&mut flows, &stop));
        thread::sleep(HEAD_START);
        let polite = loads::paced(connections, rate, active, time);
        stop.store(true, Ordering::Relaxed);
        (polite, flooding.join().expect("a flow does not panic"))
    });
    let (megabytes, missing) = flooded.map_err(|error| format!("the flood: {error}"))?;
    Ok(format!("{polite} flood={megabytes} missing={missing}"))
}

/// Gives MB/s in one direction, and the frames that did not come back.
fn flood(flows: &mut [Flow], stop: &AtomicBool) -> io::Result<(f64, u64)> {
    let mut poller = Poller::new()?;
    for (at, flow) in flows.iter().enumerate() {
        poller.add(&flow.stream, at, EventFlags::IN | EventFlags::OUT)?;
    }
    let mut buffer = vec![0; CHUNK];
    let start = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let mut moved = false;
        for flow in flows.iter_mut() {
            moved |= flow.receive(&mut buffer)?;
            moved |= flow.send()?;
        }
        if !moved {
            let _ = poller.wait(Duration::from_millis(100));
        }
    }
    let received: u64 = flows.iter().map(|flow| flow.received).sum();
    let rate = received as f64 / start.elapsed().as_secs_f64() / 1e6;

    let deadline = Instant::now() + Duration::from_secs(5);
    while flows.iter().any(|flow| flow.received < flow.sent) && Instant::now() < deadline {
        let mut moved = false;
        for flow in flows.iter_mut() {
            moved |= flow.receive(&mut buffer)?;
            // What is left of a frame has to go, or it never comes back.
            moved |= flow.push()?;
        }
        if !moved {
            let _ = poller.wait(Duration::from_millis(100));
        }
    }
    let missing = flows.iter().map(|flow| (flow.sent - flow.received) / FRAME as u64 + flow.wrong);
    Ok((rate, missing.sum()))
}

struct Flow {
    stream: TcpStream,
    id: u64,
    /// Bytes, counted when they are made.
    sent: u64,
    received: u64,
    wrong: u64,
    out: Vec<u8>,
    partial: Vec<u8>,
}

impl Flow {
    fn open(address: SocketAddr, id: u64) -> io::Result<Self> {
        let stream = connect(address, 0)?;
        let (out, partial) = (Vec::with_capacity(CHUNK), Vec::with_capacity(FRAME));
        Ok(Self { stream, id, sent: 0, received: 0, wrong: 0, out, partial })
    }

    /// False if nothing can be sent for now.
    fn send(&mut self) -> io::Result<bool> {
        if self.out.is_empty() && self.sent - self.received + CHUNK as u64 <= IN_FLIGHT {
            for _ in 0..CHUNK / FRAME {
                let number = self.sent / FRAME as u64;
                self.out.extend_from_slice(&request(number, 0, self.id));
                self.sent += FRAME as u64;
            }
        }
        self.push()
    }

    fn push(&mut self) -> io::Result<bool> {
        if self.out.is_empty() {
            return Ok(false);
        }
        let Some(written) = unless_it_blocks(self.stream.write(&self.out))? else {
            return Ok(false);
        };
        self.out.drain(..written);
        Ok(true)
    }

    /// False if nothing has come.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let kept = self.partial.len();
        let Some(read) = unless_it_blocks(self.stream.read(&mut buffer[kept..]))? else {
            return Ok(false);
        };
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer[..kept].copy_from_slice(&self.partial);
        self.partial.clear();
        let first = (self.received - kept as u64) / FRAME as u64;
        let mut answers = buffer[..kept + read].chunks_exact(FRAME);
        for (number, answer) in (first..).zip(&mut answers) {
            self.wrong += u64::from(stamp_of(answer, number, self.id).is_none());
        }
        self.partial.extend_from_slice(answers.remainder());
        self.received += read as u64;
        Ok(true)
    }
}

fn unless_it_blocks(done: io::Result<usize>) -> io::Result<Option<usize>> {
    match done {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
