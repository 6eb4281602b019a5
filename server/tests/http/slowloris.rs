//! Thousands of connections whose heads do not end, and a few honest clients among them.
//!
//! Each test has a process of its own, since others' memory and descriptors would count as well. Both ends
//! are in that process, so each connection takes two descriptors: 5,000 of them fit below a limit of 20,000,
//! and where the limit is lower there are fewer.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::program::in_a_process_of_its_own;
use crate::support::http::reply::{Parsed, Reading, parse};
#[cfg(feature = "rustls")]
use crate::support::http::target::secured;
use crate::support::http::target::{
    DEDICATED, EVENT_DRIVEN, Target, Up, against_all, oracle, plain,
};
use crate::support::http::{LIMIT, patient};
use crate::support::server::Stream;
use crate::support::{multi_for, within};
use futures_util::future::join_all;
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

against_all!(honest_clients_are_served);

const SLOW: usize = 5000;
const HONEST: usize = 10;
const REQUESTS: usize = 200;
/// For those that have one.
const LIMIT_OF_HEADS: Duration = Duration::from_secs(6);
/// A server may look at its deadlines as seldom as this.
const LAG: Duration = Duration::from_secs(2);

/// Says to the process which server it tries.
const TARGET: &str = "MILLPOND_TEST_SLOWLORIS";

fn name(target: Target) -> String {
    format!("{}{}", target.name, if target.tls { " with TLS" } else { "" })
}

async fn honest_clients_are_served(target: Target) {
    // One at a time, so that no time limit passes for lack of a processor.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    in_a_process_of_its_own("slowloris::alone", (TARGET, &name(target)));
}

#[test]
#[ignore = "a part of the others, in a process of its own"]
fn alone() {
    let Ok(wanted) = std::env::var(TARGET) else { return };
    let plain = [DEDICATED, EVENT_DRIVEN, oracle(false), plain(false)];
    let mut targets = plain.to_vec();
    #[cfg(feature = "rustls")]
    targets.extend(plain.map(secured));
    let target = targets.into_iter().find(|target| name(*target) == wanted).unwrap();
    multi_for(LIMIT, 2, served_among_slow_ones(target));
}

/// Handshakes take long without optimization.
fn slow_ones(target: Target) -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let room = usize::try_from(limit / 2).unwrap_or(usize::MAX).saturating_sub(200);
    room.min(if target.tls { SLOW / 10 } else { SLOW })
}

fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}

async fn served_among_slow_ones(target: Target) {
    crate::support::http::ours::HEAD.get_or_init(|| LIMIT_OF_HEADS);
    let up = Arc::new(target.start().await);
    honest(up.clone()).await;
    let (count, before) = (slow_ones(target), resident());
    let lag = Arc::new(AtomicU64::new(0));
    let metronome = tokio::spawn(metronome(lag.clone()));
    let (stop, stopped) = watch::channel(false);
    let mut slow = Vec::new();
    for group in (0..count).collect::<Vec<_>>().chunks(100) {
        let connecting = group.iter().map(|number| {
            let (up, number, stopped) = (up.clone(), *number, stopped.clone());
            async move {
                let stream = up.connect().await;
                (Instant::now(), tokio::spawn(slow_one(stream, number, stopped)))
            }
        });
        slow.extend(join_all(connecting).await);
    }
    let clients: Vec<_> = (0..HONEST).map(|_| tokio::spawn(honest(up.clone()))).collect();
    for client in clients {
        client.await.unwrap();
    }
    let cost = resident().saturating_sub(before) / count;
    println!("{}: {count} slow connections, {cost} bytes of memory each", target.name);
    // Two sessions, where there is TLS.
    let most = target.slow_cost + if target.tls { 16 << 10 } else { 0 };
    // AddressSanitizer keeps what was freed.
    let is_small = cost <= most || cfg!(millpond_asan);
    assert!(is_small, "{}: {cost} bytes for each of {count}", target.name);
    if target.has_deadlines {
        for (since, slow) in slow {
            let ended = slow.await.unwrap().expect("the test has not told it to stop");
            let lasted = ended.duration_since(since);
            let lag = LAG + Duration::from_millis(lag.load(SeqCst));
            let name = target.name;
            assert!(lasted <= LIMIT_OF_HEADS + lag, "{name}: bore it for {lasted:?}, lag {lag:?}");
        }
        metronome.abort();
        return;
    }
    let _ = stop.send(true);
    for (number, (_, slow)) in slow.into_iter().enumerate() {
        let kept = slow.await.unwrap().is_none();
        // A server that does not look for a preface takes it for a malformed request.
        let may_close = number % 3 == 2 && !target.sniffs;
        assert!(kept || may_close, "{}: {number} closed without a limit", target.name);
    }
}

/// Sums up by how many milliseconds the runtime is late, on a busy machine.
async fn metronome(lag: Arc<AtomicU64>) {
    const BEAT: Duration = Duration::from_millis(20);
    loop {
        let start = Instant::now();
        sleep(BEAT).await;
        let late = start.elapsed().saturating_sub(BEAT + Duration::from_millis(2));
        lag.fetch_add(late.as_millis() as u64, SeqCst);
    }
}

/// A third sends a byte of a header from time to time, a third is silent, and a third may be about
/// to speak HTTP/2. Tells when the server has closed, unless the test ends before.
async fn slow_one(
    mut stream: Stream,
    number: usize,
    mut stopped: watch::Receiver<bool>,
) -> Option<Instant> {
    let first: &[u8] = match number % 3 {
        0 => b"GET /hello HTTP/1.1\r\nx: ",
        1 => b"",
        _ => &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..1 + number % 14],
    };
    let _ = stream.write_all(first).await;
    let _ = stream.flush().await;
    let mut bytes = [0; 256];
    loop {
        // Not all in the same moment.
        let pause = sleep(Duration::from_millis(300 + number as u64 % 400));
        tokio::select! {
            read = stream.read(&mut bytes) => match read {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Some(Instant::now()),
            },
            () = pause, if number % 3 == 0 => {
                let _ = stream.write_all(b"y").await;
                let _ = stream.flush().await;
            }
            _ = stopped.changed() => return None,
        }
    }
}

/// Most of its requests are on one connection that rests in between, some on new ones.
async fn honest(up: Arc<Up>) {
    let mut kept = up.connect().await;
    for number in 0..REQUESTS {
        match number % 10 {
            0 => ask(&mut up.connect().await, number).await,
            _ => ask(&mut kept, number).await,
        }
        sleep(Duration::from_millis(number as u64 % 10)).await;
    }
}

async fn ask(stream: &mut Stream, number: usize) {
    let request = format!("GET /nonce/{number} HTTP/1.1\r\nhost: honest\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes, Reading::default()) {
            Parsed::Whole(reply, _) => {
                let right = format!("{number} ");
                let body = String::from_utf8(reply.body).unwrap();
                assert!(reply.status == 200 && body.starts_with(&right), "{number}: {body}");
                return;
            }
            Parsed::Broken(error) => panic!("{error}"),
            Parsed::Partial => {}
        }
        let read = within(Duration::from_secs(20), stream.read_buf(&mut bytes)).await;
        assert!(matches!(read, Some(Ok(1..))), "request {number}: {read:?}");
    }
}
