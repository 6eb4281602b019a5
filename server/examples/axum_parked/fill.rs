//! Fills a server with keep-alive connections. Each makes one request, and then stays idle.

use std::io::{self, IsTerminal, stderr};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use millpond_server::BoxError;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{timeout, timeout_at};

use crate::args::Fill;

/// The descriptors that a process has open besides the connections.
const OTHERS: usize = 64;
/// Requests under way at once: fewer than the app has slots.
const AT_ONCE: usize = 48;
/// The longest that one request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections that come and go before the cost of connections is measured.
const WARM_UP: usize = 16;
/// The longest that one request on each connection may take, in all.
const LIMIT: Duration = Duration::from_secs(120);

/// Raises the limit of descriptors to its maximum. Returns the number of connections that fit.
pub fn room() -> usize {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(1_000_000, |limit| limit.min(1_000_000) as usize).saturating_sub(OTHERS).max(1)
}

pub async fn run(fill: Fill) -> Result<(), BoxError> {
    let count = fill.connections;
    if room() < count {
        return Err(format!(
            "fill {count} takes {} descriptors, and a process may open {}: see ulimit -n",
            count + OTHERS,
            room() + OTHERS
        )
        .into());
    }
    let address = lookup_host(&fill.at).await?.next().ok_or("there is no such address")?;
    let status = status(address).await.map_err(|error| format!("{address}: {error}"))?;
    let number = |pointer| status.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    let free = number("/settings/max_connections").saturating_sub(number("/connections/open"));
    if free < count as u64 {
        return Err(format!(
            "the server has room for {free} more connections, not {count}: see ulimit -n where \
             it was started"
        )
        .into());
    }

    let start = Instant::now();
    let bar = progress(count, "connections");
    let opening = stream::iter(0..count).map(|_| open(address)).buffer_unordered(AT_ONCE);
    let streams: Vec<_> = each(opening, &bar).await?;
    bar.finish_and_clear();
    let (time, held) = (start.elapsed().as_secs_f64(), fill.time.as_secs());
    println!("{count} connections, each answered once, in {time:.1} s");
    println!("holding them for {held} s, or until ctrl-c: see http://{address}/pond");
    let _ = timeout(fill.time, tokio::signal::ctrl_c()).await;

    let bar = progress(count, "asked once more");
    let asking = stream::iter(streams).map(again).buffer_unordered(AT_ONCE);
    let alive = each(asking, &bar).await?.into_iter().filter(|alive| *alive).count();
    bar.finish_and_clear();
    println!("{alive} of {count} answered once more");
    if alive < count { Err("some were closed meanwhile".into()) } else { Ok(()) }
}

/// Makes some requests, on connections that are closed afterwards.
pub async fn warm_up(address: SocketAddr) -> Result<(), BoxError> {
    // Sequentially, because the app may have few slots.
    let opening = stream::iter(0..WARM_UP).then(|_| open(address));
    drop(each(opening, &ProgressBar::hidden()).await?);
    status(address).await?;
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(())
}

/// Collects all results, or returns the first error.
async fn each<T>(
    done: impl stream::Stream<Item = io::Result<T>>,
    bar: &ProgressBar,
) -> Result<Vec<T>, BoxError> {
    let limit = tokio::time::Instant::now() + LIMIT;
    let mut all = Vec::new();
    let mut done = std::pin::pin!(done);
    while let Some(one) = timeout_at(limit, done.next()).await.map_err(|_| "it takes too long")? {
        all.push(one.map_err(|error| format!("connection {}: {error}", all.len() + 1))?);
        bar.inc(1);
    }
    Ok(all)
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        ask(&mut stream, "/hello/pond").await?;
        Ok(stream)
    };
    timeout(PATIENCE, asked).await?
}

async fn again(mut stream: TcpStream) -> io::Result<bool> {
    let asked = timeout(PATIENCE, ask(&mut stream, "/hello/pond")).await;
    Ok(asked.is_ok_and(|asked| asked.is_ok()))
}

async fn status(address: SocketAddr) -> io::Result<Value> {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        ask(&mut stream, "/pond/status").await
    };
    Ok(serde_json::from_str(&timeout(PATIENCE, asked).await??)?)
}

/// Sends a request on a connection that stays open. Returns the body of the response.
async fn ask(stream: &mut TcpStream, path: &str) -> io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        if let Some(body) = body(&String::from_utf8_lossy(&answer))? {
            return Ok(body);
        }
        match stream.read(&mut buffer).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => answer.extend_from_slice(&buffer[..read]),
        }
    }
}

/// Returns the body of a response; `None` while the response is incomplete.
fn body(answer: &str) -> io::Result<Option<String>> {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return Ok(None) };
    let line = head.lines().next().unwrap_or_default();
    if !line.starts_with("HTTP/1.1 200 ") {
        return Err(io::Error::other(line));
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then_some(value)?.trim().parse().ok()
    });
    let length: usize = length.ok_or_else(|| io::Error::other("an answer without a length"))?;
    Ok(body.get(..length).map(str::to_owned))
}

fn progress(count: usize, what: &'static str) -> ProgressBar {
    if !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{pos}/{len} [{bar:30}] {elapsed} {msg}");
    let style = style.expect("the template is valid").progress_chars("=> ");
    ProgressBar::new(count as u64).with_style(style).with_message(what)
}
