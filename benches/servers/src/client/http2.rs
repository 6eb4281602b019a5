//! A client of HTTP/2 by prior knowledge that keeps a number of streams busy on each connection. It speaks
//! just what that takes, so that the server is what is measured.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;

use super::connections::{Poller, connect};

/// The preface, empty settings, and the largest window for the connection.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\
    \0\0\x04\x08\0\0\0\0\0\x7f\xff\0\0";
const SETTINGS_ACK: &[u8] = b"\0\0\0\x04\x01\0\0\0\0";
/// `:status: 200`, `:method: GET` and `:scheme: http` in HPACK.
const STATUS_200: u8 = 0x88;
const GET: [u8; 2] = [0x82, 0x86];
/// `:authority: localhost`, first as a new entry of the table, later as that entry.
const AUTHORITY: [&[u8]; 2] = [b"\x41\x09localhost", &[0xbe]];
/// What each answer begins with.
const BODY: &[u8] = b"{\"id\":\"";
const FRAME_HEAD: usize = 9;
/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(5);

pub struct Http2 {
    all: Vec<Connection>,
    poller: Poller,
    path: String,
}

struct Connection {
    stream: TcpStream,
    next: u32,
    input: Vec<u8>,
    output: Vec<u8>,
}

#[derive(Default)]
struct Count {
    answered: u64,
    wrong: u64,
}

impl Http2 {
    pub fn open(address: SocketAddr, count: usize, path: &str) -> io::Result<Self> {
        let mut opened = Self { all: Vec::new(), poller: Poller::new()?, path: path.into() };
        for at in 0..count {
            let stream = connect(address, at as u64)?;
            opened.poller.add(&stream, at, EventFlags::IN)?;
            let output = PREFACE.to_vec();
            opened.all.push(Connection { stream, next: 1, input: Vec::new(), output });
        }
        Ok(opened)
    }

    /// Requests on so many streams of each connection, the next one as soon as one is answered.
    pub fn closed(&mut self, streams: usize, time: Duration) -> io::Result<String> {
        let start = Instant::now();
        let mut count = Count::default();
        for connection in &mut self.all {
            (0..streams).for_each(|_| connection.request(&self.path));
            connection.flush()?;
        }
        let mut sent = (streams * self.all.len()) as u64;
        let mut within = 0;
        while count.answered < sent && start.elapsed() < time + PATIENCE {
            let goes_on = start.elapsed() < time;
            for at in self.poller.wait(Duration::from_millis(10)) {
                let connection = &mut self.all[at];
                let before = count.answered;
                connection.receive(&mut count)?;
                if goes_on {
                    let done = count.answered - before;
                    (0..done).for_each(|_| connection.request(&self.path));
                    sent += done;
                }
                connection.flush()?;
            }
            if goes_on {
                within = count.answered;
            }
        }
        let rate = within as f64 / time.as_secs_f64();
        let wrong = count.wrong + (sent - count.answered);
        Ok(format!("rate={rate} answered={} wrong={wrong}", count.answered))
    }
}

impl Connection {
    fn request(&mut self, path: &str) {
        let authority = AUTHORITY[usize::from(self.next > 1)];
        let length = GET.len() + 2 + path.len() + authority.len();
        // Headers, with the end of the stream and of the headers.
        self.output.extend_from_slice(&[0, 0, length as u8, 1, 5]);
        self.output.extend_from_slice(&self.next.to_be_bytes());
        self.output.extend_from_slice(&GET);
        self.output.extend_from_slice(&[0x04, path.len() as u8]);
        self.output.extend_from_slice(path.as_bytes());
        self.output.extend_from_slice(authority);
        self.next += 2;
    }

    /// What is on its way is little, so the socket takes all.
    fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            self.stream.write_all(&self.output)?;
            self.output.clear();
        }
        Ok(())
    }

    fn receive(&mut self, count: &mut Count) -> io::Result<()> {
        let mut buffer = [0; 16 * 1_024];
        loop {
            let read = match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            self.input.extend_from_slice(&buffer[..read]);
            let input = std::mem::take(&mut self.input);
            let mut rest = &input[..];
            while let Some((head, behind)) = rest.split_first_chunk::<FRAME_HEAD>() {
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
                let Some((payload, behind)) = behind.split_at_checked(length) else { break };
                self.frame(head[3], head[4], payload, count)?;
                rest = behind;
            }
            self.input = rest.to_vec();
            // A short read took all there was.
            if read < buffer.len() {
                return Ok(());
            }
        }
    }

    fn frame(&mut self, kind: u8, flags: u8, data: &[u8], count: &mut Count) -> io::Result<()> {
        match kind {
            // The last data of a stream, or the end behind it.
            0 => {
                count.wrong += u64::from(!data.is_empty() && !data.starts_with(BODY));
                count.answered += u64::from(flags & 1);
            }
            // Behind changes of the table's size comes the status.
            1 => {
                let status = data.iter().find(|&&byte| byte & 0xe0 != 0x20);
                count.wrong += u64::from(status != Some(&STATUS_200)) + u64::from(flags & 1);
                count.answered += u64::from(flags & 1);
            }
            // A stream that was reset.
            3 => {
                count.wrong += 1;
                count.answered += 1;
            }
            4 if flags & 1 == 0 => self.output.extend_from_slice(SETTINGS_ACK),
            6 if flags & 1 == 0 => {
                self.output.extend_from_slice(b"\0\0\x08\x06\x01\0\0\0\0");
                self.output.extend_from_slice(data);
            }
            7 => return Err(io::Error::other(format!("going away: {}", data.escape_ascii()))),
            _ => {}
        }
        Ok(())
    }
}
