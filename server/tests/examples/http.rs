//! The example axum_parked as the program it is, with clients that share no code with it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::program::*;
use serde_json::Value;
use tungstenite::protocol::frame::coding::CloseCode;
use tungstenite::{Message, WebSocket};

/// The modes.
const CASES: [&str; 2] = ["event-driven", "dedicated"];

fn start(mode: &str) -> Serving {
    let mut command = example("axum_parked");
    Serving::start(command.args(["--listen", "127.0.0.1:0", "--mode", mode]))
}

/// Runs a test in both modes at once.
fn in_each_mode(test: impl Fn(&'static str) + Sync) {
    thread::scope(|scope| {
        for mode in CASES {
            let test = &test;
            scope.spawn(move || test(mode));
        }
    });
}

fn stop(serving: Serving) {
    serving.signal("TERM");
    let (printed, code) = serving.end();
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains(" 0 cut off, 0 left; "), "{printed}");
}

/// Head and body of an answer on a connection of its own.
fn get(serving: &Serving, path: &str) -> [String; 2] {
    let mut stream = connect(serving);
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    [head.to_owned(), body.to_owned()]
}

fn status(serving: &Serving) -> Value {
    serde_json::from_str(&get(serving, "/pond/status")[1]).unwrap()
}

fn connect(serving: &Serving) -> TcpStream {
    let stream = TcpStream::connect(&serving.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// The opening handshake on a connection that may have been used before.
fn upgrade(serving: &Serving, stream: TcpStream) -> WebSocket<TcpStream> {
    tungstenite::client(format!("ws://{}/ws", serving.address), stream).unwrap().0
}

fn fill(serving: &Serving, connections: &str, seconds: &str) -> Command {
    let mut command = example("axum_parked");
    command.args(["fill", connections, "--at", &serving.address, "--for", seconds]);
    command
}

#[test]
fn curl_is_content() {
    let Some(curl) = program(&["curl"]) else { return };
    for case in CASES {
        let serving = start(case);
        let url = |path: &str| format!("http://{}{path}", serving.address);
        let curl = |args: &[&str]| {
            let ran = Ran::of(Command::new(&curl).args(["-sS", "--max-time", "20"]).args(args));
            assert!(ran.status.success(), "{case:?} {args:?}: {}", ran.stderr());
            ran.stdout()
        };
        let hello = "{\"hello\":\"curl\"}";
        assert_eq!(curl(&[&url("/hello/curl")]), hello);
        // The second comes over the connection of the first.
        let told = ["-w", " %{num_connects} "];
        let twice = curl(&[&told[..], &[&url("/hello/curl"), &url("/hello/curl")]].concat());
        assert_eq!(twice, format!("{hello} 1 {hello} 0 "));
        assert_eq!(curl(&["--http1.0", &url("/hello/curl")]), hello);
        assert_eq!(curl(&["-H", "connection: close", &url("/hello/curl")]), hello);
        assert!(curl(&["-I", &url("/hello/curl")]).starts_with("HTTP/1.1 200 OK\r\n"));
        let code = ["-o", "/dev/null", "-w", "%{http_code}"];
        assert_eq!(curl(&[&code[..], &[&url("/nothing")]].concat()), "404");
        assert_eq!(curl(&["-N", &url("/stream/3")]), "chunk 0\nchunk 1\nchunk 2\n");

        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("upload-{case}"));
        std::fs::write(&file, vec![b'x'; 2_000_000]).unwrap();
        let file = file.to_str().unwrap();
        for how in [
            &["--data-binary", &format!("@{file}")][..],
            &["-T", file, "-X", "POST"],
            &["-T", file, "-X", "POST", "-H", "expect: 100-continue"],
            &["-T", file, "-X", "POST", "-H", "transfer-encoding: chunked"],
        ] {
            let answer = curl(&[how, &[&url("/upload")]].concat());
            assert!(answer.starts_with("{\"bytes\":2000000,"), "{how:?}: {answer}");
        }
        let version = Command::new("curl").arg("--version").output().unwrap().stdout;
        if String::from_utf8_lossy(&version).contains("HTTP2") {
            assert_eq!(curl(&["--http2-prior-knowledge", &url("/hello/curl")]), hello);
        }
        stop(serving);
    }
}

#[test]
fn clients_in_other_languages_are_content() {
    for (names, script) in [(&["python3"][..], "client.py"), (&["node", "nodejs"], "client.mjs")] {
        let Some(program) = program(names) else { continue };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/http").join(script);
        in_each_mode(|mode| {
            let serving = start(mode);
            let ran = Ran::of(Command::new(&program).arg(&script).arg(&serving.address));
            assert!(ran.status.success(), "{mode:?}: {}{}", ran.stdout(), ran.stderr());
            stop(serving);
        });
    }
}

#[test]
fn a_load_finds_no_fault() {
    let [wrk, h2load] = ["wrk", "h2load"].map(|name| program(&[name]));
    for case in CASES {
        let serving = start(case);
        let url = format!("http://{}/hello/load", serving.address);
        if let Some(wrk) = &wrk {
            let ran = Ran::of(Command::new(wrk).args(["-t", "1", "-c", "40", "-d", "1", &url]));
            let printed = ran.stdout();
            assert!(ran.status.success() && printed.contains(" requests in "), "{printed}");
            let fault = printed.contains("Non-2xx") || printed.contains("Socket errors");
            assert!(!fault, "{case:?}: {printed}");
        }
        for protocol in [&["--h1"][..], &[]] {
            let Some(h2load) = &h2load else { continue };
            let mut command = Command::new(h2load);
            let ran = Ran::of(command.args(protocol).args(["-n", "2000", "-c", "20", &url]));
            let printed = ran.stdout();
            assert!(printed.contains("2000 succeeded, 0 failed, 0 errored"), "{case:?}: {printed}");
        }
        stop(serving);
    }
}

#[test]
fn a_websocket_echoes_and_is_told_good_bye() {
    for case in CASES {
        let serving = start(case);
        let mut fresh = upgrade(&serving, connect(&serving));
        // One that has been idle for a while, and may be parked.
        let mut stream = connect(&serving);
        stream.write_all(b"GET /hello/first HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"{\"hello\":\"first\"}") {
            let mut buffer = [0; 1024];
            let read = stream.read(&mut buffer).unwrap();
            assert_ne!(read, 0);
            answer.extend_from_slice(&buffer[..read]);
        }
        thread::sleep(Duration::from_millis(300));
        let mut used = upgrade(&serving, stream);
        for socket in [&mut fresh, &mut used] {
            for message in [Message::text("hello"), Message::binary(vec![7; 100_000])] {
                socket.send(message.clone()).unwrap();
                assert_eq!(socket.read().unwrap(), message);
            }
        }
        serving.signal("TERM");
        for socket in [&mut fresh, &mut used] {
            let Message::Close(Some(frame)) = socket.read().unwrap() else { panic!("no close") };
            assert_eq!((frame.code, &*frame.reason), (CloseCode::Away, "the server stops"));
            assert!(socket.read().is_err());
        }
        let (printed, code) = serving.end();
        assert_eq!(code, Some(0), "{printed}");
    }
}

#[test]
fn a_full_pond_costs_little_and_all_in_it_are_answered_again() {
    in_each_mode(|case| {
        let serving = start(case);
        let filling =
            spawn(&mut fill(&serving, "300", if case == "event-driven" { "10" } else { "2" }));
        let deadline = Instant::now() + Duration::from_secs(20);
        let number = |pointer: &str| {
            thread::sleep(Duration::from_millis(20));
            status(&serving).pointer(pointer).unwrap().as_u64().unwrap()
        };
        while number("/connections/open") < 300 {
            assert!(Instant::now() < deadline, "{}", status(&serving));
        }
        if case == "event-driven" {
            while number("/connections/parked") < 300 {
                assert!(Instant::now() < deadline, "{}", status(&serving));
            }
            // The server frees the state of many concurrent requests when no request needs it.
            while number("/growth/heap") / 300 >= 600 {
                assert!(Instant::now() < deadline, "{}", status(&serving));
            }
        }
        let ran = Ran::to_the_end(filling);
        let printed = ran.stdout();
        assert!(printed.starts_with("300 connections, each answered once, in "), "{printed}");
        assert!(printed.contains("300 of 300 answered once more"), "{printed}{}", ran.stderr());
        assert!(ran.status.success());
        stop(serving);
    });
}

#[test]
fn a_pond_too_small_is_told() {
    let limited = |args: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n 100 && exec \"$0\" \"$@\""]);
        command.arg(example("axum_parked").get_program()).args(args);
        command
    };
    let serving = Serving::start(&mut limited(&["--listen", "127.0.0.1:0"]));
    let ran = Ran::of(&mut fill(&serving, "200", "1"));
    assert!(!ran.status.success());
    let problem = ran.stderr();
    assert!(problem.contains("the server has room for 3"), "{problem}");
    assert!(problem.contains(" more connections, not 200: see ulimit -n"), "{problem}");
    let ran = Ran::of(&mut limited(&["fill", "200", "--at", &serving.address]));
    assert!(!ran.status.success());
    let problem = ran.stderr();
    assert!(problem.contains("takes 264 descriptors, and a process may open 100"), "{problem}");
    stop(serving);
}

#[test]
fn more_than_the_pool_takes_is_refused_and_counted() {
    let mut command = example("axum_parked");
    let serving = Serving::start(command.args(["--listen", "127.0.0.1:0", "--size", "1"]));
    let heads: Vec<_> = thread::scope(|scope| {
        let calls: Vec<_> =
            (0..12).map(|_| scope.spawn(|| get(&serving, "/work/300")[0].clone())).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let refused: Vec<_> = heads.iter().filter(|head| head.starts_with("HTTP/1.1 503")).collect();
    assert_eq!(refused.len(), 12 - 1 - 4, "{heads:?}");
    assert!(refused.iter().all(|head| head.contains("retry-after: 1")));
    let status = status(&serving);
    assert!(status["pool"]["refused"].as_u64().unwrap() >= 7, "{status}");
    let seconds = |pointer: &str| status.pointer(pointer).unwrap().as_f64().unwrap();
    assert!(seconds("/run/p99") > 0.25, "{status}");
    // One slot: the last of the queue waited for four others.
    assert!(seconds("/wait/max") > 0.8, "{status}");
    let layers = status["layers"].as_array().unwrap();
    let work = layers.iter().find(|layer| layer["name"] == "work").unwrap();
    assert_eq!((&work["succeeded"], &work["refused"]), (&5.into(), &7.into()), "{status}");
    stop(serving);
}

#[test]
fn a_slow_request_is_a_job_with_a_name_and_a_place() {
    let serving = start("event-driven");
    thread::scope(|scope| {
        let answer = scope.spawn(|| get(&serving, "/work/1500"));
        let deadline = Instant::now() + Duration::from_secs(20);
        let job = loop {
            let job = status(&serving)["jobs"][0].clone();
            if job["age"].as_f64().is_some_and(|age| age > 0.2) {
                break job;
            }
            assert!(Instant::now() < deadline, "{job}");
        };
        assert_eq!((&job["group"], &job["state"]), (&"work".into(), &"suspended".into()), "{job}");
        assert_eq!((&job["waited"], &job["polls"]), (&0.0.into(), &1.into()), "{job}");
        assert!(job["place"].as_str().unwrap().contains("axum_parked/app.rs:"), "{job}");
        assert!(answer.join().unwrap()[0].starts_with("HTTP/1.1 200"));
    });
    // The parts of a request are jobs of a group, and counted by its name.
    let [_, answer] = get(&serving, "/parts/3");
    assert_eq!(answer, r#"{"parts":3}"#);
    let after = status(&serving);
    let group = &after["groups"][0];
    assert_eq!((&group["name"], &group["succeeded"]), (&"part".into(), &3.into()), "{group}");
    assert_eq!(after["jobs"].as_array().map(Vec::len), Some(0), "{after}");
    assert!(!after["connections"]["closed"].as_object().unwrap().is_empty(), "{after}");
    stop(serving);
}

#[test]
fn options_that_make_no_sense_are_told() {
    for (args, expected) in [
        (&["--mode", "fast"][..], "--mode fast: expected dedicated or event-driven"),
        (&["--park", "1"], "there is no option --park"),
        (&["--listen"], "--listen needs a value"),
        (&["fill"], "fill needs the number of connections"),
        (&["fill", "0"], "fill 0: expected a number from 1"),
        (&["fill", "1", "--loud", "1"], "fill has no option --loud"),
    ] {
        let ran = Ran::of(example("axum_parked").args(args));
        assert_eq!(ran.status.code(), Some(2));
        assert!(ran.stderr().starts_with(expected), "{}", ran.stderr());
    }
}

/// The page tries the app itself, and tells this test how that went.
#[test]
fn a_browser_is_content() {
    in_each_mode(|case| {
        let serving = start(case);
        let verdicts = TcpListener::bind("127.0.0.1:0").unwrap();
        verdicts.set_nonblocking(true).unwrap();
        let port = verdicts.local_addr().unwrap().port();
        let url = format!("http://{}/pond?test={port}", serving.address);
        let profile = format!("chromium-pond-{case}");
        let Some(_browser) = Browser::open(&profile, &url) else { return };
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut stream = loop {
            match verdicts.accept() {
                Ok((stream, _)) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{case:?}: {error}"),
            }
            thread::sleep(Duration::from_millis(20));
        };
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut told = String::new();
        // It waits for an answer, so there is no end to read up to.
        while !told.contains("passed") && !told.contains("failed: ") {
            let mut buffer = [0; 4096];
            let read = stream.read(&mut buffer).expect("a verdict");
            told += &String::from_utf8_lossy(&buffer[..read]);
        }
        let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
        assert!(told.ends_with("passed"), "{case:?}: {told}");
        drop(stream);
        stop(serving);
    });
}

/// A file describes the server, and SIGHUP renews its certificate.
#[test]
fn a_file_describes_servers() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let [certificate, key] = ["serve_http.pem", "serve_http.key"].map(|name| dir.join(name));
    let renew = || {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        made.cert.pem()
    };
    let old = renew();
    let file = dir.join("serve_http.toml");
    for mode in CASES {
        let text = format!(
            "[[servers]]\nname = 'web'\nlisten = '127.0.0.1:0'\nmode = '{mode}'\n\
             [servers.http]\nhalf_close = true\n[servers.tls]\n\
             certificate = {certificate:?}\nkey = {key:?}\n"
        );
        std::fs::write(&file, text).unwrap();
        let mut serving = Serving::start(example("serve_http").arg(&file));
        let Some(curl) = program(&["curl"]) else { return };
        let port = serving.address.rsplit(':').next().unwrap().to_owned();
        let curl = |trusted: &str, version: &str| {
            let ca = dir.join("serve_http_ca.pem");
            std::fs::write(&ca, trusted).unwrap();
            let url = format!("https://localhost:{port}/");
            let resolve = format!("localhost:{port}:127.0.0.1");
            let mut command = Command::new(&curl);
            command.args(["-sS", "--max-time", "20", version, "--resolve", &resolve, "--cacert"]);
            Ran::of(command.arg(ca).arg(url))
        };
        let trusted = std::fs::read_to_string(&certificate).unwrap();
        for version in ["--http1.1", "--http2"] {
            assert_eq!(curl(&trusted, version).stdout(), "hello from a file\n");
        }
        let new = renew();
        serving.signal("HUP");
        assert_eq!(serving.line(), "web: new certificates");
        assert_eq!(curl(&new, "--http1.1").stdout(), "hello from a file\n");
        assert_ne!(curl(&old, "--http1.1").status.code(), Some(0));
        serving.signal("TERM");
        let (printed, code) = serving.end();
        assert_eq!(code, Some(0), "{printed}");
        assert!(printed.contains(" 0 cut off"), "{printed}");
    }
}

/// The file that stands beside the example.
#[test]
fn the_file_of_the_example_is_read() {
    let text = include_str!("../../examples/serve_http/serve_http.toml");
    let config: millpond_server::ServerConfig = toml::from_str(text).unwrap();
    let _ = config.servers()[0].http().unwrap();
}
