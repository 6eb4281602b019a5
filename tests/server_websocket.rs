//! The WebSocket example in both modes, with three clients: tungstenite's, one in Python, and a
//! browser.
#![cfg(feature = "server")]
#![allow(missing_docs)]

#[path = "support/program.rs"]
mod program;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use program::*;
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
    let url = format!("ws://{}/", serving.address);
    tungstenite::client(url, stream).unwrap().0
}

/// Where a program is, or none with a word about what is skipped.
fn program(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .flat_map(|directory| names.iter().map(move |name| directory.join(name)))
        .find(|path| path.is_file());
    if found.is_none() {
        // Past the capture of the tests' output.
        let _ = writeln!(std::io::stderr(), "skipped: none of {names:?} is installed");
    }
    found
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
            assert_eq!((frame.code, &*frame.reason), (CloseCode::Away, "the server stops"));
            assert!(matches!(client.read(), Err(Error::ConnectionClosed)));
        }
        let (printed, code) = serving.end();
        assert_eq!(code, Some(0));
        assert!(printed.contains("0 cut off, 0 left; 8 frames on 2 connections"), "{printed}");
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
        assert_eq!(bytes, b"\x88\x12\x03\xe9the server stops");
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

/// The page tries the server itself and tells everybody how that went; this test is one of them.
#[test]
fn a_browser_is_content() {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let Some(chromium) = program(&names) else { return };
    for mode in MODES {
        let serving = start(mode);
        let mut client = connect(&serving);
        let profile = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("chromium-{mode}"));
        let _ = fs::remove_dir_all(&profile);
        let mut browser = Command::new(&chromium)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
            .args(["--disable-component-update", "--disable-dev-shm-usage"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(format!("http://{}/?test", serving.address))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let verdict = loop {
            let message = client.read();
            let text = message.map_or_else(|error| error.to_string(), |text| text.to_string());
            if text != "news" {
                break text;
            }
        };
        let pid = browser.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().unwrap();
        browser.wait().unwrap();
        let _ = fs::remove_dir_all(&profile);
        assert_eq!(verdict, "browser: passed", "{mode}");
    }
}
