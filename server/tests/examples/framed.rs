//! The server's examples, run as programs in both modes and driven through real sockets.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use crate::program::*;

const MODES: [&str; 2] = ["event-driven", "dedicated"];

fn start(name: &str, mode: &str) -> Serving {
    Serving::start(example(name).args(["--listen", "127.0.0.1:0", "--mode", mode]))
}

/// Tells it to stop, and returns what it says then.
fn stop(serving: Serving) -> String {
    serving.signal("TERM");
    let (printed, code) = serving.end();
    assert_eq!(code, Some(0), "{printed}");
    printed
}

struct Lines(BufReader<TcpStream>);

impl Lines {
    fn to(serving: &Serving) -> Self {
        let stream = TcpStream::connect(&serving.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self(BufReader::new(stream))
    }

    /// A member of the chat room; without a name, a listener.
    fn enter(serving: &Serving, name: &str) -> Self {
        let mut lines = Self::to(serving);
        lines.expect(&["* your name? (none: you listen)"]);
        lines.send(&format!("{name}\n"));
        lines
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn next(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    fn expect(&mut self, lines: &[&str]) {
        for line in lines {
            assert_eq!(self.next(), format!("{line}\n"));
        }
    }

    fn expect_end(&mut self) {
        assert_eq!(self.next(), "", "the connection ends");
    }
}

#[test]
fn echo_echoes() {
    for mode in MODES {
        let serving = start("echo", mode);
        let mut clients: Vec<_> = (0..100).map(|_| Lines::to(&serving)).collect();
        for round in 0..3 {
            for (n, client) in clients.iter_mut().enumerate() {
                client.send(&format!("{round} of {n}\nand in"));
                client.send(" two\n");
            }
            for (n, client) in clients.iter_mut().enumerate() {
                client.expect(&[&format!("{round} of {n}"), "and in two"]);
            }
        }
        let printed = stop(serving);
        assert!(printed.contains("stopped: 100 closed, 0 ended by themselves"), "{printed}");
        assert!(printed.contains("0 cut off, 0 left; 600 frames on 100 connections"), "{printed}");
        clients.iter_mut().for_each(Lines::expect_end);
    }
}

#[test]
fn a_live_line_tells_what_a_server_does() {
    let mut command = example("echo");
    let serving = Serving::start(command.args(["--listen", "127.0.0.1:0", "--live"]));
    let mut client = Lines::to(&serving);
    client.send("hello\n");
    client.expect(&["hello"]);
    std::thread::sleep(Duration::from_millis(1500));
    let printed = stop(serving);
    let line = printed.lines().rfind(|line| line.starts_with("open")).expect("a live line");
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[..5], ["open", "1", "parked", "1", "tasks"], "{line}");
    assert!(line.contains("frames         1 "), "{line}");
}

#[test]
fn options_that_make_no_sense_are_told() {
    for (args, expected) in [
        (&["--mode", "fast"][..], "--mode fast: expected dedicated or event-driven"),
        (&["--listen"], "--listen needs a value"),
        (&["--load", "0"], "--load 0: expected a number from 1"),
        (&["--loud", "1"], "there is no option --loud"),
    ] {
        let ran = Ran::of(example("chat").args(args));
        assert_eq!(ran.status.code(), Some(2));
        assert!(ran.stderr().starts_with(expected), "{}", ran.stderr());
    }
}

#[test]
fn a_chat_is_heard_by_all() {
    for mode in MODES {
        let serving = start("chat", mode);
        let mut listener = Lines::enter(&serving, "");
        listener.expect(&["* you listen"]);
        let mut ann = Lines::enter(&serving, "ann");
        ann.expect(&["* ann has come"]);
        let mut bob = Lines::enter(&serving, "ann");
        bob.expect(&["* taken; your name?"]);
        // What comes after he has left, even in the same packet, is not said.
        bob.send("bob\nhello, all\n/who\n/quit\nstill here?\n");
        bob.expect(&["* bob has come", "bob: hello, all", "* ann, bob, and 1 who listen"]);
        bob.expect_end();
        ann.expect(&["* bob has come", "bob: hello, all", "* bob has left"]);
        ann.send("\x1b[2Jwho was that?\n");
        ann.expect(&["ann: [2Jwho was that?"]);
        let mut bob = Lines::enter(&serving, "bob");
        bob.expect(&["* bob has come"]);
        ann.send(&"far too long".repeat(200));
        bob.expect(&["* ann has left"]);
        let printed = stop(serving);
        assert!(printed.contains("stopped: 2 closed, "), "{printed}");
        for line in ["* ann has come", "* bob has come", "bob: hello, all", "* bob has left"] {
            listener.expect(&[line]);
        }
    }
}

#[test]
fn who_does_not_read_the_chat_is_closed_and_holds_nobody_up() {
    for mode in MODES {
        let serving = start("chat", mode);
        let asleep = Lines::enter(&serving, "asleep");
        let mut ann = Lines::enter(&serving, "ann");
        let words = "x".repeat(1000);
        while ann.next() != "* asleep has left\n" {
            ann.send(&format!("{words}\n"));
        }
        // What the kernel took for it, and then the end, orderly or not.
        if let Err(error) = asleep.0.into_inner().read_to_end(&mut Vec::new()) {
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        stop(serving);
    }
}

#[test]
fn a_crowd_hears_all_in_order() {
    for mode in MODES {
        let mut command = example("chat");
        let ran =
            Ran::of(command.args(["--listen", "127.0.0.1:0", "--mode", mode, "--load", "200"]));
        let printed = ran.stdout();
        assert!(ran.status.success(), "{printed}{}", ran.stderr());
        assert!(printed.contains("each heard 5000 lines, all in order"), "{printed}");
        assert!(printed.contains("0 cut off, 0 left; 5201 frames on 201 connections"), "{printed}");
    }
}

#[test]
fn a_crowd_too_large_for_the_process_is_told() {
    let chat = example("chat");
    let mut limited = Command::new("sh");
    let script = "ulimit -n 100 && exec \"$0\" --listen 127.0.0.1:0 --load 200";
    let ran = Ran::of(limited.args(["-c", script]).arg(chat.get_program()));
    assert!(!ran.status.success());
    assert!(ran.stderr().contains("a process may open 100"), "{}", ran.stderr());
}
