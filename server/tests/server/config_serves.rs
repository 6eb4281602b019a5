//! Servers from configurations hold their connections in the modes these say; the example does,
//! and says what is wrong with a file.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use crate::program::*;
use crate::support::*;
use millpond_server::{Server, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::codec::LinesCodec;

const FILE: &str = r#"
[pools.turns]
size = 4

[[servers]]
name = "few"
listen = "127.0.0.1:0"

[[servers]]
name = "many"
use_netpoll_mode = true
pool = "turns"
listen = ["127.0.0.1:0", { address = "127.0.0.1:0", mode = "dedicated" }]
"#;

const JSON: &str = r#"{
    "pools": {"turns": {"size": 4}},
    "servers": [
        {"name": "few", "listen": "127.0.0.1:0"},
        {
            "name": "many",
            "use_netpoll_mode": true,
            "pool": "turns",
            "listen": ["127.0.0.1:0", {"address": "127.0.0.1:0", "mode": "dedicated"}]
        }
    ]
}"#;

fn start(config: &ServerConfig) -> Vec<Server> {
    let echo = server::service_fn(|line: String| async move { Ok::<_, Infallible>(Some(line)) });
    let builders = config.builders().unwrap().into_iter();
    builders
        .map(|(_, builder)| builder.codec(LinesCodec::new()).serve(echo.clone()).unwrap())
        .collect()
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// Opens connections that are served a line and idle then. How many tasks that makes.
async fn tasks_of(server: &Server, address: SocketAddr) -> usize {
    const CONNECTIONS: usize = 20;
    let (before, parked) = (tasks(), server.status().parked);
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = tokio::net::TcpStream::connect(address).await.unwrap();
        client.write_all(b"echo\n").await.unwrap();
        let mut answer = [0; 5];
        soon(client.read_exact(&mut answer)).await.unwrap();
        assert_eq!(&answer, b"echo\n");
        clients.push(client);
    }
    eventually(|| server.status().parked == parked + CONNECTIONS).await;
    let more = tasks().saturating_sub(before);
    drop(clients);
    eventually(|| server.status().parked == parked).await;
    more
}

fn modes_are_held(config: ServerConfig) {
    single(async move {
        let servers = start(&config);
        let [few, many] = &servers[..] else { panic!() };
        let turns = config.servers()[1].pool().unwrap();
        assert_eq!(tasks_of(few, few.local_addrs()[0]).await, 20);
        assert_eq!(turns.status().submitted, 0);
        // A few are workers of the pool.
        assert!(tasks_of(many, many.local_addrs()[0]).await < 5);
        assert!(turns.status().submitted >= 20);
        assert!(tasks_of(many, many.local_addrs()[1]).await >= 20);
    });
}

#[test]
fn listeners_hold_connections_in_their_modes() {
    modes_are_held(toml::from_str(FILE).unwrap());
    modes_are_held(serde_json::from_str(JSON).unwrap());
}

fn written(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn echo(address: &str) -> BufReader<TcpStream> {
    let mut client = BufReader::new(TcpStream::connect(address).unwrap());
    client.get_ref().set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client.get_mut().write_all(b"is there an echo\n").unwrap();
    let mut answer = String::new();
    client.read_line(&mut answer).unwrap();
    assert_eq!(answer, "is there an echo\n");
    client
}

#[test]
fn the_example_serves_what_a_file_describes() {
    watched(|| {
        for (name, text, signal) in [("serve.toml", FILE, "TERM"), ("serve.json", JSON, "INT")] {
            let mut serving = Serving::start(example("serve").arg(written(name, text)));
            let said = [serving.line(), serving.line()].map(|line| {
                let (address, how) = line.split_once(", ").unwrap();
                (address.strip_prefix("listening on ").unwrap().to_owned(), how.to_owned())
            });
            let [(second, how_second), (third, how_third)] = said;
            assert_eq!(how_second, "event-driven (many)");
            assert_eq!(how_third, "dedicated (many)");

            let mut clients: Vec<_> =
                [&serving.address, &second, &third, &second].map(|at| echo(at)).into();
            let live = "few: 1 open, 1 parked, 0 refused, 1 lines  |  \
                        many: 3 open, 3 parked, 0 refused, 3 lines";
            while serving.line() != live {}

            serving.signal(signal);
            for client in &mut clients {
                assert_eq!(client.read(&mut [0]).unwrap(), 0, "idle connections are closed");
            }
            let (rest, code) = serving.end();
            let end = "stopping\n\
                       few: 1 connections, 1 lines; at the end 1 closed, 0 cut off, 0 left\n\
                       many: 3 connections, 3 lines; at the end 3 closed, 0 cut off, 0 left\n";
            assert!(rest.ends_with(end), "{rest}");
            assert_eq!(code, Some(0));
        }
    });
}

#[test]
fn the_example_stops_at_once_when_told_twice() {
    watched(|| {
        let mut serving = Serving::start(example("serve").arg(written("twice.toml", FILE)));
        let mut client = echo(&serving.address);
        // A graceful end waits for the rest of a line. That its start was read shows in the answer
        // to what came with it.
        client.get_mut().write_all(b"whole\nhalf").unwrap();
        client.read_line(&mut String::new()).unwrap();
        serving.signal("TERM");
        while serving.line() != "stopping" {}
        serving.signal("TERM");
        let (rest, code) = serving.end();
        assert_eq!((&*rest, code), ("", Some(1)));
    });
}

#[test]
fn the_example_says_what_is_wrong_with_a_file() {
    let bad = written("bad.toml", "[[servers]]\nlisten = '127.0.0.1:0'\nidle_timeout = 10\n");
    let empty = written("empty.json", "{}");
    let other = written("serve.yaml", "");
    let missing = PathBuf::from("/nonexistent/serve.toml");
    let nowhere = written("nowhere.toml", "[[servers]]\nlisten = '127.0.0.1:99999'\n");
    let cases = [
        (bad, 2, "TOML parse error at line 3, column 16\n"),
        (empty, 2, "there are no `servers` in it\n"),
        (other, 2, "its name must end in .toml or .json\n"),
        (missing, 2, "No such file or directory (os error 2)\n"),
        (nowhere, 1, "cannot listen at 127.0.0.1:99999: "),
    ];
    for (path, code, expected) in cases {
        let ran = Ran::of(example("serve").arg(&path));
        assert_eq!(ran.status.code(), Some(code));
        let start = format!("{}: {expected}", path.display());
        assert!(ran.stderr().starts_with(&start), "{}", ran.stderr());
        assert_eq!(ran.stdout(), "");
    }
    let ran = Ran::of(example("serve").args(["a.toml", "b.toml"]));
    assert_eq!(ran.status.code(), Some(2));
    assert_eq!(ran.stderr(), "usage: serve [FILE.toml | FILE.json]\n");
}
