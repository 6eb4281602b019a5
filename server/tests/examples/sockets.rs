//! The examples about the socket below HTTP: TLS, and a socket that is passed in.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::program::*;

#[cfg(feature = "rustls")]
#[test]
fn tls_convinces_a_client_that_trusts_the_certificate_and_no_other() {
    let ran = Ran::of(&mut example("tls"));
    let expected = "\
a client that trusts the certificate: hello over TLS
a client that does not: invalid peer certificate: UnknownIssuer
0 connections cut off, 0 still open
";
    assert_eq!(ran.stdout(), expected, "{}", ran.stderr());
    assert!(ran.status.success());
}

/// Starts the example as systemd does: the listener is descriptor 3, and the variables say so.
fn activate(listener: &TcpListener) -> (Serving, u32) {
    let script = "exec 3<&0 </dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\"";
    let child = Command::new("sh")
        .args(["-c", script])
        .arg(example("socket_activation").get_program())
        .stdin(OwnedFd::from(listener.try_clone().unwrap()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The shell becomes the example.
    let id = child.id();
    (Serving::of(child), id)
}

fn ask(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    stream
}

fn answer(mut stream: TcpStream) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_passed_socket_outlives_the_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    for _ in 0..2 {
        // No process serves at this moment: the request waits in the kernel.
        let early = ask(address);
        let (serving, id) = activate(&listener);
        assert_eq!(serving.address, address.to_string());
        for stream in [early, ask(address)] {
            let answer = answer(stream);
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.ends_with(&format!("hello from {id}\n")), "{answer}");
        }
        serving.signal("TERM");
        let (printed, code) = serving.end();
        assert_eq!(code, Some(0), "{printed}");
        assert!(printed.ends_with(" 0 cut off\n"), "{printed}");
    }
}
