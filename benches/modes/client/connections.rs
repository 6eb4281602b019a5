//! The connections of the client and their events.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::net::{AddressFamily, SocketType, bind, socket};

use crate::protocol::{HANDSHAKE, PART, Protocol, Request};

/// New connections that were not answered yet: fewer than the server's backlog holds, as what
/// overflows there is tried again a second later.
const UNANSWERED: u64 = 1_024;

/// Connections from one address: where more than half of the ports are taken, the kernel looks for
/// a free one for longer than all the rest takes.
const PER_ADDRESS: u64 = 10_000;

/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(5);

pub struct Connections {
    pub clock: Clock,
    pub all: Vec<Connection>,
    pub address: SocketAddr,
    poller: Poller,
    buffer: Box<[u8]>,
}

/// Nanoseconds, as they go into a frame.
#[derive(Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    pub fn now(self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

pub struct Connection {
    stream: TcpStream,
    protocol: Protocol,
    id: u64,
    sent: u64,
    answered: u64,
    wrong: u64,
    open: bool,
    /// Of an answer that has come in parts: hardly ever anything.
    partial: Vec<u8>,
    begun: Option<Box<Request>>,
}

impl Connections {
    /// Opens them, one request on each. Also tells how long it took until all were answered.
    pub fn open(
        protocol: Protocol,
        address: SocketAddr,
        count: usize,
    ) -> Result<(Self, Duration), String> {
        let mut opened = Self {
            clock: Clock(Instant::now()),
            all: Vec::with_capacity(count),
            address,
            poller: Poller::new().map_err(|error| format!("epoll: {error}"))?,
            buffer: vec![0; 16 * 1_024].into(),
        };
        let start = Instant::now();
        let mut answered = 0;
        while answered < count as u64 {
            let sent = opened.all.len();
            if sent < count && sent as u64 - answered < UNANSWERED {
                let mut connection = Connection::open(protocol, address, sent as u64)
                    .and_then(|new| {
                        opened.poller.add(&new.stream, sent, epoll::EventFlags::IN).map(|()| new)
                    })
                    .map_err(|error| format!("connection {sent}: {error}"))?;
                connection.send(opened.clock.now());
                opened.all.push(connection);
                // Not after each one: it would take longer than to connect.
                if sent % 16 != 15 {
                    continue;
                }
            }
            let wait = sent == count || sent as u64 - answered >= UNANSWERED;
            opened.turn(Duration::from_millis(if wait { 100 } else { 0 }), |_, _| answered += 1);
            if start.elapsed() > PATIENCE + Duration::from_millis(count as u64) {
                return Err(format!("{answered} of {count} connections were answered"));
            }
        }
        Ok((opened, start.elapsed()))
    }

    /// Waits for answers and hands them on, with the stamps of their requests.
    pub fn turn(&mut self, wait: Duration, mut answered: impl FnMut(&mut Connection, u64)) {
        for at in self.poller.wait(wait) {
            self.all[at].receive(&mut self.buffer, &mut answered);
        }
    }

    /// Sends a part of a request on each.
    pub fn begin(&mut self) {
        let stamp = self.clock.now();
        self.all.iter_mut().for_each(|connection| connection.begin(stamp));
    }

    /// Answers so far.
    pub fn answered(&self) -> u64 {
        self.all.iter().map(|one| one.answered).sum()
    }

    /// So many of them, neither neighbours nor the same ones the server accepted first.
    pub fn scattered(&self, count: usize) -> Vec<usize> {
        let all = self.all.len();
        let mut stride = (all as f64 * 0.618) as usize | 1;
        while gcd(stride, all) != 1 {
            stride += 2;
        }
        (0..count.min(all)).map(|at| at * stride % all).collect()
    }

    /// Waits for what is still on its way. Tells how many answers never came, and how many were
    /// not the ones expected.
    pub fn settle(&mut self) -> (u64, u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.all.iter().any(|one| one.open && one.answered < one.sent)
            && Instant::now() < deadline
        {
            self.turn(Duration::from_millis(10), |_, _| ());
        }
        let (mut lost, mut wrong) = (0, 0);
        for connection in &mut self.all {
            lost += connection.sent - connection.answered;
            wrong += std::mem::take(&mut connection.wrong);
            connection.open &= connection.sent == connection.answered;
            connection.sent = connection.answered;
        }
        (lost, wrong)
    }
}

impl Connection {
    fn open(protocol: Protocol, address: SocketAddr, id: u64) -> io::Result<Self> {
        let mut stream = connect(address, id)?;
        if protocol == Protocol::Ws {
            shake_hands(&mut stream)?;
        }
        let (partial, begun) = (Vec::new(), None);
        Ok(Self {
            stream,
            protocol,
            id,
            sent: 0,
            answered: 0,
            wrong: 0,
            open: true,
            partial,
            begun,
        })
    }

    pub fn send(&mut self, stamp: u64) {
        let request = self.protocol.request(self.sent, stamp, self.id);
        // Counted also where it fails: it is lost then.
        self.sent += 1;
        self.write(request.bytes());
    }

    fn begin(&mut self, stamp: u64) {
        let request = self.protocol.request(self.sent, stamp, self.id);
        self.write(&request.bytes()[..PART]);
        self.begun = Some(request.into());
    }

    /// Sends what is missing of the request that was begun.
    pub fn end(&mut self) {
        if let Some(request) = self.begun.take() {
            self.sent += 1;
            self.write(&request.bytes()[PART..]);
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        // The few requests on their way leave room for one more; if not, something is wrong.
        self.open &= self.stream.write(bytes).is_ok_and(|written| written == bytes.len());
    }

    fn receive(&mut self, buffer: &mut [u8], answered: &mut impl FnMut(&mut Self, u64)) {
        loop {
            let kept = self.partial.len();
            buffer[..kept].copy_from_slice(&self.partial);
            self.partial.clear();
            let read = match self.stream.read(&mut buffer[kept..]) {
                Ok(read) if read > 0 => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.partial.extend_from_slice(&buffer[..kept]);
                    return;
                }
                _ => {
                    self.open = false;
                    return;
                }
            };
            let mut rest = &buffer[..kept + read];
            while let Some(answer) = self.protocol.answer(rest, self.answered, self.id) {
                rest = &rest[answer.length..];
                match answer.stamp {
                    Some(stamp) => {
                        self.answered += 1;
                        answered(self, stamp);
                    }
                    // Only this one is wrong, not also those behind it.
                    None => {
                        self.wrong += 1;
                        let number = answer.number.filter(|&number| number < self.sent);
                        self.answered = number.unwrap_or(self.answered) + 1;
                    }
                }
            }
            self.partial.extend_from_slice(rest);
            // A short read took all there was: what comes after it is a new event.
            if kept + read < buffer.len() {
                return;
            }
        }
    }
}

/// Opens a WebSocket. The server sends nothing behind its answer.
fn shake_hands(stream: &mut TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(HANDSHAKE)?;
    let (mut answer, mut buffer) = (Vec::new(), [0; 512]);
    while !answer.ends_with(b"\r\n\r\n") {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
    match answer.starts_with(b"HTTP/1.1 101 ") {
        true => stream.set_nonblocking(true),
        false => Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned())),
    }
}

pub fn connect(address: SocketAddr, id: u64) -> io::Result<TcpStream> {
    let stream = match id / PER_ADDRESS {
        0 => TcpStream::connect(address)?,
        nth => {
            let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
            let [high, low] = (nth as u16 + 1).to_be_bytes();
            bind(&socket, &SocketAddr::from(([127, 0, high, low], 0)))?;
            rustix::net::connect(&socket, &address)?;
            socket.into()
        }
    };
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Edge-triggered.
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poller {
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, events: Vec::with_capacity(1_024) })
    }

    pub fn add(&self, stream: &TcpStream, at: usize, what: epoll::EventFlags) -> io::Result<()> {
        let data = epoll::EventData::new_u64(at as u64);
        Ok(epoll::add(&self.epoll, stream, data, what | epoll::EventFlags::ET)?)
    }

    pub fn wait(&mut self, wait: Duration) -> impl Iterator<Item = usize> + '_ {
        self.events.clear();
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        // Interrupted is as good as nothing there.
        let _ = epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&wait));
        self.events.iter().map(|event| event.data.u64() as usize)
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}
