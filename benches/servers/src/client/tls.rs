//! A client over TLS: busy connections, or handshakes one after another. One thread.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme,
};

use super::connections::{Poller, connect};

const GET: &[u8] = b"GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n";
const ANSWER: &[u8] = b"{\"id\":\"a\"}";
/// Handshakes at once.
const AT_ONCE: usize = 16;
/// An answer that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(5);

pub struct Tls {
    all: Vec<Session>,
    poller: Poller,
}

struct Session {
    stream: TcpStream,
    tls: ClientConnection,
    got: Vec<u8>,
}

/// What came of an event.
#[derive(PartialEq, Eq)]
enum Progress {
    Waits,
    Done,
}

impl Tls {
    /// Opens them, with one request on each.
    pub fn open(address: SocketAddr, count: usize) -> io::Result<Self> {
        let config = config();
        let mut opened = Self { all: Vec::new(), poller: Poller::new()? };
        for at in 0..count {
            opened.all.push(Session::open(address, &config, &opened.poller, at)?);
            opened.all[at].send()?;
        }
        opened.drain(count, Duration::ZERO, |_| Ok(false))?;
        Ok(opened)
    }

    /// One request at a time on each of some connections, the next one as soon as it is answered.
    pub fn closed(&mut self, active: usize, time: Duration) -> io::Result<String> {
        for session in &mut self.all[..active] {
            session.send()?;
        }
        let again = |session: &mut Session| session.send().map(|()| true);
        let (within, answered) = self.drain(active, time, again)?;
        Ok(format!("rate={} answered={answered}", within as f64 / time.as_secs_f64()))
    }

    /// Waits for what is on its way, and lets `again` send more until the time is over. Returns the
    /// answers within the time, and all.
    fn drain(
        &mut self,
        mut open: usize,
        time: Duration,
        again: impl Fn(&mut Session) -> io::Result<bool>,
    ) -> io::Result<(u64, u64)> {
        let start = Instant::now();
        let (mut within, mut answered) = (0, 0);
        while open > 0 {
            if start.elapsed() > time + PATIENCE {
                return Err(io::Error::other(format!("{open} answers never came")));
            }
            let goes_on = start.elapsed() < time;
            for at in self.poller.wait(Duration::from_millis(10)) {
                let session = &mut self.all[at];
                if session.receive()? == Progress::Done {
                    answered += 1;
                    if !(goes_on && again(session)?) {
                        open -= 1;
                    }
                }
            }
            if goes_on {
                within = answered;
            }
        }
        Ok((within, answered))
    }
}

impl Session {
    fn open(
        address: SocketAddr,
        config: &Arc<ClientConfig>,
        poller: &Poller,
        at: usize,
    ) -> io::Result<Self> {
        let stream = connect(address, at as u64)?;
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        poller.add(&stream, at, EventFlags::IN)?;
        let mut session = Self { stream, tls, got: Vec::new() };
        session.flush()?;
        Ok(session)
    }

    /// Little is on its way, so the socket takes all.
    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.stream)?;
        }
        Ok(())
    }

    fn send(&mut self) -> io::Result<()> {
        self.tls.writer().write_all(GET)?;
        self.flush()
    }

    /// Reads until the answer is whole, or nothing is left to read.
    fn receive(&mut self) -> io::Result<Progress> {
        while self.read()? {
            let mut buffer = [0; 4_096];
            while let Some(read) = none_if_blocked(self.tls.reader().read(&mut buffer))? {
                if read == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                self.got.extend_from_slice(&buffer[..read]);
            }
            if self.got.ends_with(ANSWER) {
                if !self.got.starts_with(b"HTTP/1.1 200 ") {
                    return Err(io::Error::other(self.got.escape_ascii().to_string()));
                }
                self.got.clear();
                return Ok(Progress::Done);
            }
        }
        Ok(Progress::Waits)
    }

    /// Reads once, and goes on with the handshake. False if there was nothing.
    fn read(&mut self) -> io::Result<bool> {
        match none_if_blocked(self.tls.read_tls(&mut self.stream))? {
            None => return Ok(false),
            Some(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(_) => {}
        }
        self.tls.process_new_packets().map_err(io::Error::other)?;
        self.flush()?;
        Ok(true)
    }

    /// A handshake is over when the server's tickets are there: it has seen the client's end then.
    fn shake_hands(&mut self) -> io::Result<Progress> {
        loop {
            let was_over = !self.tls.is_handshaking();
            if !self.read()? {
                return Ok(Progress::Waits);
            }
            if was_over {
                return Ok(Progress::Done);
            }
        }
    }
}

/// Full handshakes, some at once, and no request.
pub fn handshakes(address: SocketAddr, time: Duration) -> io::Result<String> {
    let (config, mut poller) = (config(), Poller::new()?);
    let mut all = Vec::new();
    for at in 0..AT_ONCE {
        all.push(Some(Session::open(address, &config, &poller, at)?));
    }
    let start = Instant::now();
    let (mut within, mut done, mut open) = (0, 0, AT_ONCE);
    while open > 0 {
        if start.elapsed() > time + PATIENCE {
            return Err(io::Error::other(format!("{open} handshakes never ended")));
        }
        let goes_on = start.elapsed() < time;
        let ready: Vec<usize> = poller.wait(Duration::from_millis(10)).collect();
        for at in ready {
            let Some(session) = &mut all[at] else { continue };
            if session.shake_hands()? == Progress::Waits {
                continue;
            }
            session.tls.send_close_notify();
            session.flush()?;
            done += 1;
            all[at] = None;
            match goes_on {
                true => all[at] = Some(Session::open(address, &config, &poller, at)?),
                false => open -= 1,
            }
        }
        if goes_on {
            within = done;
        }
    }
    Ok(format!("rate={} answered={done}", within as f64 / time.as_secs_f64()))
}

fn none_if_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        other => other.map(Some),
    }
}

fn config() -> Arc<ClientConfig> {
    let builder = ClientConfig::builder().dangerous();
    let builder = builder.with_custom_certificate_verifier(Arc::new(Trusting));
    let mut config = builder.with_no_client_auth();
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// Checks nothing: a client that verifies signatures needs more CPU for a handshake than the server.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
