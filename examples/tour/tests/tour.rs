//! The tour, run as the program it is, with short steps.
#![allow(missing_docs)]
#![cfg(unix)]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

#[path = "../../../tests/support/program.rs"]
mod program;

use program::*;

/// The numbers of a line.
fn numbers(line: &str) -> Vec<u64> {
    line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

#[test]
fn the_tour_shows_its_steps_and_stays_on_request() {
    let child = spawn(example("tour").args(["--step", "300", "--stay"]));
    let (mut tour, first) = Serving::with_first_line(child);
    assert!(first.starts_with("a service at 127.0.0.1:"), "{first}");
    assert!(tour.line().starts_with("its capacity is some "));

    for step in [" 0.5 x", "   1 x", "   2 x", "   5 x", "  10 x"] {
        let line = tour.line();
        assert!(line.starts_with(step), "{line}");
        for word in ["running", "waiting", "answered", "refused", "p99"] {
            assert!(line.contains(word), "{line}");
        }
    }
    assert!(tour.line().starts_with("  10 x without a pool:"));

    assert_eq!(tour.line(), "");
    let lines: Vec<_> = (0..5).map(|_| tour.line()).collect();
    for (n, line) in lines.iter().enumerate() {
        assert!(line.starts_with(&format!("{}. ", n + 1)), "{line}");
    }
    // On a busy machine the capacity may have been measured too low. Then all are answered.
    let [_, refused, _status, gave_up, ..] = numbers(&lines[2])[..] else { panic!("{}", lines[2]) };
    assert!(refused > 0 || gave_up == 0, "ten times the capacity is too much: {}", lines[2]);
    let account = lines[3].split_once("once; ").expect("the account has two parts").1;
    let account = numbers(account);
    assert_eq!(account[0], account[1], "all jobs are accounted for: {}", lines[3]);

    assert_eq!(tour.line(), "");
    let curl = tour.line();
    let (address, path) = curl.strip_prefix("curl http://").unwrap().split_once('/').unwrap();
    assert_eq!(path, "checksums");
    check(&body(address, path));
    tour.signal("INT");
    assert_eq!(tour.end().1, Some(0));
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for (args, expected) in [
        (&["--stay", "--loud"][..], "there is no option --loud\n"),
        (&["--step"], "--step: expected milliseconds, 100 to 10000\n"),
        (&["--step", "60000"], "--step: expected milliseconds, 100 to 10000\n"),
    ] {
        let ran = Ran::of(example("tour").args(args));
        assert_eq!(ran.status.code(), Some(2));
        assert!(ran.stderr().starts_with(expected), "{}", ran.stderr());
    }
}

fn body(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let request = format!("GET /{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    body.to_owned()
}

/// The answer is what `sha256sum` accepts.
fn check(sums: &str) {
    assert!(sums.lines().count() > 10, "{sums}");
    let Some(sha256sum) = program(&["sha256sum"]) else { return };
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("tour-sums");
    fs::write(&file, sums).unwrap();
    let ran = Ran::of(Command::new(sha256sum).args(["--check", "--strict", "--quiet"]).arg(&file));
    assert!(ran.status.success(), "{}{}", ran.stdout(), ran.stderr());
}
