//! The WebSocket example in both modes, with three clients: tungstenite's, one in Python, and a
//! browser.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::program::*;
use tungstenite::error::Error;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

const MODES: [&str; 2] = ["event-driven", "dedicated"];

fn start(mode: &str) -> Serving {
    Serving::start(example("websocket").args(["--listen", "127.0.0.1:0", "--mode", mode]))
}

fn connect(serving: &Serving) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(&serving.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let url = format!("ws://{}/ws", serving.address);
    tungstenite::client(url, stream).unwrap().0
}

#[test]
fn echoes_and_broadcasts_and_says_good_bye() {
    for mode in MODES {
        let serving = start(mode);
        let (mut one, mut two) = (connect(&serving), connect(&serving));
        for message in [Message::text("hello"), Message::binary(vec![7; 100_000])] {
            one.send(message.clone()).unwrap();
            assert_eq!(one.read().unwrap(), message);
        }
        // Each waits for the other's to come, so that both are in the hall.
        two.send(Message::Ping("p".into())).unwrap();
        assert_eq!(two.read().unwrap(), Message::Pong("p".into()));
        one.send(Message::text("/all news")).unwrap();
        assert_eq!(one.read().unwrap(), Message::text("news"));
        assert_eq!(two.read().unwrap(), Message::text("news"));

        serving.signal("TERM");
        for client in [&mut one, &mut two] {
            let Message::Close(Some(frame)) = client.read().unwrap() else { panic!("no close") };
            assert_eq!((frame.code, &*frame.reason), (CloseCode::Away, "the server shuts down"));
            assert!(matches!(client.read(), Err(Error::ConnectionClosed)));
        }
        let (printed, code) = serving.end();
        assert_eq!(code, Some(0));
        assert!(printed.contains("0 cut off, 0 left; 6 frames on 2 connections"), "{printed}");
    }
}

#[test]
fn a_client_that_does_not_answer_a_close_is_closed() {
    for mode in MODES {
        let serving = start(mode);
        let mut client = connect(&serving);
        // A part of a message.
        client.get_mut().write_all(&[0x01, 0x81, 0, 0, 0, 0, b'x']).unwrap();
        client.send(Message::Ping("p".into())).unwrap();
        assert_eq!(client.read().unwrap(), Message::Pong("p".into()));
        serving.signal("TERM");
        let mut bytes = Vec::new();
        client.get_mut().read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"\x88\x17\x03\xe9the server shuts down");
        let (printed, code) = serving.end();
        assert_eq!(code, Some(0));
        assert!(printed.contains("stopped: 1 closed, 0 ended by themselves"), "{printed}");
    }
}

#[test]
fn a_client_that_shares_no_code_is_content() {
    let Some(python) = program(&["python3"]) else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/websocket/client.py");
    for mode in MODES {
        let serving = start(mode);
        let ran = Ran::of(Command::new(&python).arg(&script).arg(&serving.address));
        assert!(ran.status.success(), "{mode}: {}{}", ran.stdout(), ran.stderr());
        serving.signal("TERM");
        let (printed, code) = serving.end();
        assert_eq!(code, Some(0), "{printed}");
        assert!(printed.contains("0 cut off, 0 left"), "{printed}");
    }
}

/// The page tries the server itself and sends the result to all connections; this test has one of them.
#[test]
fn a_browser_is_content() {
    for mode in MODES {
        let serving = start(mode);
        let mut client = connect(&serving);
        let profile = format!("chromium-{mode}");
        let url = format!("http://{}/?test", serving.address);
        let Some(_browser) = Browser::open(&profile, &url) else { return };
        let verdict = loop {
            let message = client.read();
            let text = message.map_or_else(|error| error.to_string(), |text| text.to_string());
            if text != "news" {
                break text;
            }
        };
        assert_eq!(verdict, "browser: passed", "{mode}");
    }
}
