//! `sha256sum` for a whole tree: one group per directory, all of them on one pool.
//!
//! ```text
//! cargo run --release --example checksum -- [DIR] > SHA256SUMS
//! sha256sum -c SHA256SUMS
//! ```
//!
//! Three stages run side by side, with bounded channels between them:
//!
//! ```text
//! walk --listings--> submit --items--> print
//!                      '-- pool: hash --'
//! ```
//!
//! The channel of items carries the order of the output, the groups carry the results. So the
//! output is sorted though files are finished in any order, and what is held in memory depends on
//! the bounds below and on the names of a few directories, not on the size of the tree.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::available_parallelism;

use indicatif::{ProgressBar, ProgressStyle};
use millpond::{Group, JobError, Outcome, Pool, blocking};
use sha2::digest::Output;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Each file is read through a buffer of this size.
const BUFFER: usize = 64 * 1024;
/// Directories that are listed ahead of the one being hashed.
const LISTINGS: usize = 4;
/// Files that are submitted or hashed but not printed: how far the others may get ahead of a
/// large one.
const ITEMS: usize = 1_024;
/// Files that wait in the pool, so that its slots need not wait for the next submit.
const QUEUE: usize = 64;
const STAYS_OPEN: &str = "the pool stays open";

type Hash = io::Result<Output<Sha256>>;

/// What a directory holds, sorted. Links and special files are left out.
#[derive(Default)]
struct Listing {
    files: Vec<OsString>,
    directories: Vec<PathBuf>,
    failed: Vec<(PathBuf, io::Error)>,
}

/// What there is to print, in this order.
enum Item {
    /// The path of a file, the group that hashes it and its place in there.
    File(PathBuf, Group<Hash>, usize),
    Failed(PathBuf, io::Error),
}

fn main() -> io::Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let root = arguments.next().map_or_else(|| PathBuf::from("."), PathBuf::from);
    if arguments.next().is_some() {
        eprintln!("usage: checksum [DIR]");
        return Ok(ExitCode::from(2));
    }
    // The work is done on the threads for blocking closures; to conduct it, one thread will do.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let result = runtime.block_on(run(root));
    // If printing stopped early, the program does not wait for huge files that are being hashed.
    runtime.shutdown_background();
    match result {
        Ok(0) => Ok(ExitCode::SUCCESS),
        Ok(_) => Ok(ExitCode::FAILURE),
        // The reader of the lines has closed the pipe: `head` does that.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
    }
}

/// Prints the checksums of the tree. Returns how many errors it has told of.
async fn run(root: PathBuf) -> io::Result<usize> {
    let cores = available_parallelism().map_or(1, |cores| cores.get());
    let pool = Pool::builder().size(cores).queue(QUEUE).build().map_err(io::Error::other)?;
    let progress = progress_bar();

    let (listings, listed) = channel(LISTINGS);
    let (items, itemized) = channel(ITEMS);
    // An error of the printer drops the other two, and with the groups goes what they submitted.
    let (.., errors) = tokio::try_join!(
        walk(root, &pool, listings),
        submit(&pool, listed, items, &progress),
        print(itemized, &progress),
    )?;
    progress.finish_and_clear();
    Ok(errors)
}

/// Lists the directories, each before those in it.
async fn walk(root: PathBuf, pool: &Pool, listings: Sender<(PathBuf, Listing)>) -> io::Result<()> {
    // Holds the siblings along one path, not the tree.
    let mut ahead = vec![root];
    while let Some(directory) = ahead.pop() {
        let path = directory.clone();
        let job = pool.schedule(blocking(move || list(&path))).await.expect(STAYS_OPEN);
        let mut listing = value(job.await).unwrap_or_else(|error| Listing {
            failed: vec![(directory.clone(), error)],
            ..Listing::default()
        });
        ahead.extend(std::mem::take(&mut listing.directories).into_iter().rev());
        if listings.send((directory, listing)).await.is_err() {
            break;
        }
    }
    Ok(())
}

fn list(directory: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for entry in directory.read_dir()? {
        match entry.and_then(|entry| Ok((entry.file_type()?, entry))) {
            Ok((kind, entry)) if kind.is_file() => listing.files.push(entry.file_name()),
            Ok((kind, entry)) if kind.is_dir() => listing.directories.push(entry.path()),
            Ok(_) => {}
            Err(error) => listing.failed.push((directory.to_owned(), error)),
        }
    }
    listing.files.sort_unstable();
    listing.directories.sort_unstable();
    Ok(listing)
}

/// Submits the files of each directory to a group of its own.
async fn submit(
    pool: &Pool,
    mut listings: Receiver<(PathBuf, Listing)>,
    items: Sender<Item>,
    progress: &ProgressBar,
) -> io::Result<()> {
    while let Some((directory, listing)) = listings.recv().await {
        progress.inc_length(listing.files.len() as u64);
        for (path, error) in listing.failed {
            if items.send(Item::Failed(path, error)).await.is_err() {
                return Ok(());
            }
        }
        let group = pool.group();
        for (index, name) in listing.files.into_iter().enumerate() {
            let path = directory.join(name);
            let file = path.clone();
            // Waits while the pool is full. One submitter alone, so `index` is the group's, too.
            group.schedule(blocking(move || hash(&file))).await.expect(STAYS_OPEN);
            // Waits while the printer is behind: this is what bounds the results in memory.
            if items.send(Item::File(path, group.clone(), index)).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn hash(file: &Path) -> Hash {
    let mut hasher = Sha256::new();
    io::copy(&mut BufReader::with_capacity(BUFFER, File::open(file)?), &mut hasher)?;
    Ok(hasher.finalize())
}

/// Prints the lines, and the errors. Returns how many of the latter.
async fn print(mut items: Receiver<Item>, progress: &ProgressBar) -> io::Result<usize> {
    let mut errors = 0;
    // Files of the current group that were finished before their turn.
    let mut early = HashMap::new();
    // Writing blocks this thread. That is right here: there is nothing else for it to do.
    let output = io::stdout().lock();
    // A reader at a terminal gets each line at once.
    let capacity = if output.is_terminal() { 0 } else { BUFFER };
    let mut output = BufWriter::with_capacity(capacity, output);
    while let Some(item) = items.recv().await {
        let (path, hash) = match item {
            Item::File(path, group, index) => (path, outcome(&group, index, &mut early).await),
            Item::Failed(path, error) => (path, Err(error)),
        };
        match hash {
            Ok(hash) => {
                write_line(&mut output, &hash, &path)?;
                progress.inc(1);
            }
            Err(error) => {
                errors += 1;
                // Quoted, so that it stays one line whatever is in the name.
                progress.suspend(|| eprintln!("checksum: {path:?}: {error}"));
            }
        }
    }
    output.flush()?;
    Ok(errors)
}

/// Waits for one job of a group, and keeps what others it hears of.
async fn outcome(
    group: &Group<Hash>,
    index: usize,
    early: &mut HashMap<usize, Outcome<Hash>>,
) -> Hash {
    let outcome = loop {
        if let Some(outcome) = early.remove(&index) {
            break outcome;
        }
        // Items are sent after their submit: the group still owes us at least this one.
        let next = group.next().await.expect("a submitted job has an outcome");
        early.insert(next.index, next);
    };
    value(outcome.result)
}

/// What a job returned; that it panicked is an error like the others here.
fn value<T>(ended: Result<io::Result<T>, JobError>) -> io::Result<T> {
    ended.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Writes a line as `sha256sum` does: with a backslash in front if there are any in the path.
fn write_line(output: &mut impl Write, hash: &Output<Sha256>, path: &Path) -> io::Result<()> {
    // On Unix these are the bytes of the path as they are, UTF-8 or not.
    let path = path.as_os_str().as_encoded_bytes();
    if path.iter().any(|byte| matches!(byte, b'\\' | b'\n' | b'\r')) {
        output.write_all(b"\\")?;
    }
    write!(output, "{hash:x}  ")?;
    for byte in path {
        match byte {
            b'\\' => output.write_all(b"\\\\")?,
            b'\n' => output.write_all(b"\\n")?,
            b'\r' => output.write_all(b"\\r")?,
            byte => output.write_all(&[*byte])?,
        }
    }
    output.write_all(b"\n")
}

/// Shown on a terminal, unless the lines go there: then they are progress enough.
fn progress_bar() -> ProgressBar {
    if !io::stderr().is_terminal() || io::stdout().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} files, {elapsed}");
    // The walk goes on while files are hashed, so the length is what is known so far.
    ProgressBar::new(0).with_style(style.expect("a valid template"))
}
