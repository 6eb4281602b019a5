//! A client that checks each reply, on many connections that pause, split and pipeline at random:
//! none is lost, none comes from another connection. `MILLPOND_STRESS` is the number of replies,
//! `MILLPOND_SEED` repeats a run as far as clocks allow.

use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::http::LIMIT;
use crate::support::http::app::digest_of;
use crate::support::http::reply::{Parsed, Reading, Reply, parse};
use crate::support::http::target::{Target, Up, against_all};
use crate::support::server::Stream;
use crate::support::{Dice, multi_for, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

against_all!(by two_threads: every_reply_is_the_right_one);

const CONNECTIONS: u64 = 100;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

#[track_caller]
fn two_threads(body: impl Future<Output = ()> + Send + 'static) {
    multi_for(LIMIT, 2, body);
}

async fn every_reply_is_the_right_one(target: Target) {
    let replies = number("MILLPOND_STRESS").unwrap_or(if target.tls { 5_000 } else { 20_000 });
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    let seed = number("MILLPOND_SEED").unwrap_or(now.into());
    let up = Arc::new(target.start().await);
    let left = Arc::new(AtomicU64::new(replies));
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|id| tokio::spawn(client(up.clone(), id, seed, left.clone())))
        .collect();
    let mut checked = 0;
    for client in clients {
        match client.await.unwrap() {
            Ok(count) => checked += count,
            Err(error) => panic!("{} (MILLPOND_SEED={seed}): {error}", target.name),
        }
    }
    assert!(checked >= replies, "{checked} of {replies}");
    println!("{}: {checked} replies checked, seed {seed}", target.name);
}

/// A request and what must come back for it.
struct Asked {
    nonce: String,
    head: bool,
    digest: String,
    last: bool,
}

/// One connection after the other, each for some rounds.
async fn client(up: Arc<Up>, id: u64, seed: u64, left: Arc<AtomicU64>) -> Result<u64, String> {
    let mut dice = Dice::new(seed.wrapping_add(id.wrapping_mul(0x1234_5678_9abc)));
    let (mut checked, mut number) = (0, 0);
    while left.load(Relaxed) > 0 {
        let mut connection = Connection { stream: up.connect().await, unread: Vec::new() };
        let mut ended = false;
        while !ended && left.load(Relaxed) > 0 {
            let (mut bytes, mut asked) = (Vec::new(), Vec::new());
            for _ in 0..=[0, 0, 0, 1, 3, 15][dice.below(6) as usize] {
                number += 1;
                let one = request(&mut dice, &format!("{id}-{number}"), &mut bytes);
                ended = one.last;
                asked.push(one);
                if ended {
                    break;
                }
            }
            let at = |error| format!("client {id}, request {number}: {error}");
            connection.send(&mut dice, &bytes).await.map_err(at)?;
            for asked in &asked {
                connection.check(asked).await.map_err(at)?;
            }
            checked += asked.len() as u64;
            let _ = left.fetch_update(Relaxed, Relaxed, |left| {
                Some(left.saturating_sub(asked.len() as u64))
            });
            pause(&mut dice).await;
        }
        if ended {
            connection.ends().await.map_err(|error| format!("client {id}: {error}"))?;
        }
    }
    Ok(checked)
}

/// Mostly about as long as a server needs to let a connection rest.
async fn pause(dice: &mut Dice) {
    match dice.below(40) {
        0 => sleep(Duration::from_millis(dice.below(20))).await,
        1..8 => sleep(Duration::from_micros(dice.below(2000))).await,
        8..25 => {
            for _ in 0..dice.below(6) {
                tokio::task::yield_now().await;
            }
        }
        _ => {}
    }
}

fn request(dice: &mut Dice, nonce: &str, bytes: &mut Vec<u8>) -> Asked {
    let kind = dice.below(8);
    let last = dice.below(200) == 0;
    let method = ["GET", "GET", "GET", "HEAD", "POST", "POST", "POST", "PUT"][kind as usize];
    let mut body = Vec::new();
    let mut head = format!("{method} /nonce/{nonce} HTTP/1.1\r\nhost: stress\r\n");
    if last {
        head += "connection: close\r\n";
    }
    if kind < 4 {
        bytes.extend((head + "\r\n").into_bytes());
    } else {
        let length = [0, 1, dice.below(100), dice.below(5000)][dice.below(4) as usize];
        body = (0..length).map(|_| dice.below(256) as u8).collect();
        if kind % 2 == 0 {
            bytes.extend(format!("{head}content-length: {length}\r\n\r\n").into_bytes());
            bytes.extend(&body);
        } else {
            bytes.extend((head + "transfer-encoding: chunked\r\n\r\n").into_bytes());
            for chunk in body.chunks(1 + dice.below(1500) as usize) {
                bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                bytes.extend(chunk);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
        }
    }
    Asked { nonce: nonce.to_owned(), head: method == "HEAD", digest: digest_of(&body), last }
}

struct Connection {
    stream: Stream,
    unread: Vec<u8>,
}

impl Connection {
    /// In up to four pieces, with pauses between.
    async fn send(&mut self, dice: &mut Dice, bytes: &[u8]) -> Result<(), String> {
        let mut cuts = vec![0, bytes.len()];
        for _ in 0..dice.below(8).saturating_sub(4) {
            cuts.push(dice.below(bytes.len() as u64) as usize);
        }
        cuts.sort_unstable();
        for cut in cuts.windows(2) {
            let piece = &bytes[cut[0]..cut[1]];
            self.stream.write_all(piece).await.map_err(|error| format!("not sent: {error}"))?;
            self.stream.flush().await.map_err(|error| format!("not sent: {error}"))?;
            pause(dice).await;
        }
        Ok(())
    }

    async fn check(&mut self, asked: &Asked) -> Result<(), String> {
        let reply = self.reply(asked.head).await?;
        let expected = match asked.head {
            true => String::new(),
            false => format!("{} {}", asked.nonce, asked.digest),
        };
        let nonce = reply.header("x-nonce");
        let closes = reply.header("connection") == Some("close");
        let right = reply.status == 200
            && nonce == Some(&asked.nonce)
            && reply.body == expected.as_bytes()
            && closes == asked.last;
        right.then_some(()).ok_or_else(|| format!("for {}: {}", asked.nonce, reply.lines()))
    }

    async fn reply(&mut self, head: bool) -> Result<Reply, String> {
        loop {
            match parse(&self.unread, Reading { head, ended: false }) {
                Parsed::Whole(reply, length) => {
                    self.unread.drain(..length);
                    return Ok(reply);
                }
                Parsed::Broken(error) => return Err(error),
                Parsed::Partial => {}
            }
            match within(Duration::from_secs(20), self.stream.read_buf(&mut self.unread)).await {
                Some(Ok(1..)) => {}
                Some(end) => return Err(format!("{end:?} after {:?}", self.text())),
                None => return Err(format!("nothing comes after {:?}", self.text())),
            }
        }
    }

    async fn ends(&mut self) -> Result<(), String> {
        let ended = within(Duration::from_secs(20), self.stream.read_buf(&mut self.unread)).await;
        match ended {
            Some(Ok(0) | Err(_)) if self.unread.is_empty() => Ok(()),
            other => Err(format!("{other:?} and {:?} after the last reply", self.text())),
        }
    }

    fn text(&self) -> String {
        self.unread.escape_ascii().to_string()
    }
}
